//! One fetch for many (I7).

use std::sync::Arc;

use futures::future::join_all;
use http::Method;
use registry_server::testing::{Fault, Gate, Match, Object, Times};
use tokio::sync::Barrier;

use crate::support::{End, Reading, Setup, blob_path, get, sha256};

const CLIENTS: usize = 64;
const BLOB_BYTES: u64 = 64 << 20;
const FIRST_BYTES: u64 = 64 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_clients_of_a_cold_blob_cost_one_request_and_its_bytes_once() {
    let setup = Setup::new().await;
    let blob = setup.origin.add_blob("library/app", 1, BLOB_BYTES);
    let gate = Gate::new();
    let hold = Fault::HoldAfter {
        bytes: FIRST_BYTES,
        gate: gate.clone(),
    };
    setup
        .origin
        .fault(Match::blob(blob.digest), Times::Once, hold);
    let mirror = setup.mirror.addr();
    // Released when every client has received some: bytes flow while the blob fills.
    let flowing = Arc::new(Barrier::new(CLIENTS + 1));
    let clients = (0..CLIENTS).map(|_| {
        let flowing = Arc::clone(&flowing);
        let path = blob_path(blob.digest);
        async move {
            let mut reading = Reading::begin(mirror, &format!("GET {path}"), "")
                .await
                .unwrap();
            assert_eq!(reading.head.status, 200);
            reading.at_least(1).await.unwrap();
            flowing.wait().await;
            let answer = reading.finish().await;
            assert_eq!(answer.end, End::Whole);
            sha256(&answer.body)
        }
    });
    let release = async {
        flowing.wait().await;
        assert_eq!(setup.origin.blob_bytes_sent(&blob.digest), FIRST_BYTES);
        gate.open();
    };
    let (digests, ()) = tokio::join!(join_all(clients), release);
    assert!(
        digests.iter().all(|digest| *digest == blob.digest),
        "a client got other bytes"
    );
    assert_eq!(setup.origin.count(Method::GET, Object::Blob), 1);
    assert_eq!(setup.origin.blob_bytes_sent(&blob.digest), BLOB_BYTES);
    assert_eq!(setup.origin.total(), 1, "nothing else was asked");
}

#[tokio::test]
async fn the_client_that_led_a_fill_is_killed_and_nobody_notices() {
    let setup = Setup::new().await;
    let blob = setup.origin.add_blob("library/app", 2, 8 << 20);
    let gate = Gate::new();
    let hold = Fault::HoldAfter {
        bytes: 4 << 20,
        gate: gate.clone(),
    };
    setup
        .origin
        .fault(Match::blob(blob.digest), Times::Once, hold);
    let request = format!("GET {}", blob_path(blob.digest));
    let mirror = setup.mirror.addr();
    let mut leader = Reading::begin(mirror, &request, "").await.unwrap();
    leader.at_least(1 << 20).await.unwrap();
    let mut followers = Vec::new();
    for _ in 0..8 {
        let mut follower = Reading::begin(mirror, &request, "").await.unwrap();
        follower.at_least(1 << 20).await.unwrap();
        followers.push(follower);
    }
    drop(leader);
    gate.open();
    for follower in join_all(followers.into_iter().map(Reading::finish)).await {
        assert_eq!(
            (follower.end, sha256(&follower.body)),
            (End::Whole, blob.digest)
        );
    }
    assert_eq!(setup.origin.total(), 1);
}

#[tokio::test]
async fn all_clients_leave_and_the_blob_is_stored_all_the_same() {
    let setup = Setup::new().await;
    let blob = setup.origin.add_blob("library/app", 3, 8 << 20);
    let gate = Gate::new();
    let hold = Fault::HoldAfter {
        bytes: 1 << 20,
        gate: gate.clone(),
    };
    setup
        .origin
        .fault(Match::blob(blob.digest), Times::Once, hold);
    let request = format!("GET {}", blob_path(blob.digest));
    for _ in 0..4 {
        let mut leaver = Reading::begin(setup.mirror.addr(), &request, "")
            .await
            .unwrap();
        leaver.at_least(1).await.unwrap();
    }
    gate.open();
    setup.idle().await;
    setup.origin.stop().await;
    let answer = get(setup.mirror.addr(), &blob_path(blob.digest)).await;
    assert_eq!((answer.status(), answer.end), (200, End::Whole));
    assert_eq!(answer.header("cache-status"), Some("registry-server; hit"));
    assert_eq!(sha256(&answer.body), blob.digest);
    assert_eq!(setup.origin.total(), 1);
}
