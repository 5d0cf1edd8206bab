//! Blobs that arrive while they are sent: slices of a file that grows.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use registry_core::Digest;
use registry_core::testing::Gate;
use registry_core::testing::content::sample;

use crate::loopback::{Client, Mirror, repository, request};
use crate::shelf::{Shelf, Step};
use crate::{LARGE, SIZE, WINDOW, mirror_of};

/// A file that has the first bytes of a blob.
fn begun(bytes: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Arc::new(file)
}

/// A mirror that gives a blob in these steps, and what to ask it for.
async fn giving(bytes: &Bytes, steps: Vec<Step>, sendfile: bool) -> (Mirror, String) {
    let shelf = Shelf::new();
    let mirror = mirror_of(&shelf, sendfile).await;
    let digest: Digest = mirror
        .docker
        .add_blob(&repository("org/app"), bytes.clone());
    shelf.script(digest, bytes.len(), steps);
    (mirror, format!("/v2/org/app/blobs/{digest}"))
}

#[tokio::test]
async fn slices_are_sent_as_they_come_and_the_connection_goes_on() {
    let bytes = sample(SIZE, 1);
    for sendfile in [true, false] {
        let (first, second) = (begun(&bytes[..100_000]), begun(&bytes));
        let gate = Gate::new();
        // Small ones, more than hyper takes at a time; then, as after a fill that was begun anew,
        // the rest of another file.
        let small = (0..100).map(|i| Step::Slice(Arc::clone(&first), i * 1000..(i + 1) * 1000));
        let mut steps: Vec<_> = small.collect();
        steps.push(Step::Wait(gate.clone()));
        steps.push(Step::Slice(second, 100_000..SIZE));
        let (mirror, target) = giving(&bytes, steps, sendfile).await;
        let mut client = mirror.connect().await;
        client.send(request("GET", &target, &[]).as_bytes()).await;
        assert_eq!(client.head().await.length(), SIZE);
        assert!(client.bytes(100_000).await == bytes[..100_000]);
        gate.open();
        assert!(client.bytes(SIZE - 100_000).await == bytes[100_000..]);
        let again = client.get(&target, &[]).await;
        assert_eq!(again.header("cache-status"), Some("registry-server; hit"));
        assert!(again.body == bytes);
    }
}

#[tokio::test]
async fn slices_that_break_off_reach_the_client_up_to_there() {
    let bytes = sample(SIZE, 2);
    for sendfile in [true, false] {
        for given in [0, 1, 64 << 10, WINDOW + 1, SIZE - 1] {
            let file = begun(&bytes);
            let mut steps = vec![Step::Fail];
            if given > 0 {
                steps.insert(0, Step::Slice(file, 0..given));
            }
            let (mirror, target) = giving(&bytes, steps, sendfile).await;
            let mut client = mirror.connect().await;
            client.send(request("GET", &target, &[]).as_bytes()).await;
            assert_eq!(client.head().await.length(), SIZE);
            let received = client.rest().await;
            assert_eq!(received.len(), given);
            assert!(bytes.starts_with(&received));
        }
    }
}

#[tokio::test]
async fn slices_of_another_length_than_was_told_end_the_body() {
    let bytes = sample(100_000, 3);
    for sendfile in [true, false] {
        for given in [99_999, 100_001] {
            let file = begun(&sample(200_000, 3));
            let steps = vec![
                Step::Slice(Arc::clone(&file), 0..50_000),
                Step::Slice(file, 50_000..given),
            ];
            let (mirror, target) = giving(&bytes, steps, sendfile).await;
            let mut client = mirror.connect().await;
            client.send(request("GET", &target, &[]).as_bytes()).await;
            assert_eq!(client.head().await.length(), 100_000);
            assert!(client.rest().await.len() < 100_000);
        }
    }
}

#[tokio::test]
async fn a_slice_of_what_is_not_there_ends_the_body() {
    let bytes = sample(LARGE, 4);
    for sendfile in [true, false] {
        let file = begun(&bytes[..LARGE / 2]);
        let steps = vec![
            Step::Slice(Arc::clone(&file), 0..1000),
            Step::Slice(file, 1000..LARGE),
        ];
        let (mirror, target) = giving(&bytes, steps, sendfile).await;
        let mut client = Client::connect_small(mirror.address).await;
        client.send(request("GET", &target, &[]).as_bytes()).await;
        client.head().await;
        let received = client.rest().await;
        assert_eq!(received.len(), LARGE / 2);
        assert!(bytes.starts_with(&received));
    }
}
