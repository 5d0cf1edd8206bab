//! Cold ranges: parts of a blob that nobody has pulled yet, over real sockets.

use futures::future::{join_all, select};
use futures::poll;
use futures::stream::{self, StreamExt as _};
use http::Method;
use registry_core::Digest;
use registry_server::testing::{Behaviour, Fault, Match, Object, Times};

use crate::support::{End, Reading, Setup, blob_path, get_with};

const BLOB_BYTES: u64 = 64 << 20;

/// One chunk of a blob as containerd fetches it: by an open-ended range, on a connection that it
/// drops when it has enough.
async fn chunk(setup: &Setup, digest: Digest, start: u64, len: usize) -> Vec<u8> {
    let range = format!("Range: bytes={start}-\r\n");
    let get = format!("GET {}", blob_path(digest));
    let mut reading = Reading::begin(setup.mirror.addr(), &get, &range)
        .await
        .unwrap();
    assert_eq!(reading.head.status, 206, "from {start}");
    let expected = format!("bytes {start}-{}/{BLOB_BYTES}", BLOB_BYTES - 1);
    assert_eq!(reading.head.header("content-range"), Some(&*expected));
    reading.at_least(len).await.unwrap();
    assert!(reading.body.len() >= len, "cut short from {start}");
    reading.body.truncate(len);
    reading.body
}

/// containerd's parallel fetch of a layer: every answer is a 206, and the upstream sends hardly
/// more than the layer's bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_in_parallel_chunks_costs_the_blob_once() {
    for (chunk_bytes, at_a_time, bytes_per_second) in [
        (8_u64 << 20, 8, None),
        (8 << 20, 3, None),
        (4 << 20, 4, Some(64 << 20)),
        (16 << 20, 4, Some(16 << 20)),
        (3_000_001, 5, None),
    ] {
        let setup = Setup::new().await;
        let blob = setup.origin.add_blob("library/app", 1, BLOB_BYTES);
        setup
            .origin
            .behave(|behaviour: &mut Behaviour| behaviour.bytes_per_second = bytes_per_second);
        let chunks = stream::iter((0..BLOB_BYTES).step_by(chunk_bytes as usize))
            .map(|start| {
                let len = chunk_bytes.min(BLOB_BYTES - start) as usize;
                chunk(&setup, blob.digest, start, len)
            })
            .buffered(at_a_time);
        let received: Vec<Vec<u8>> = chunks.collect().await;
        let expected = setup.origin.bytes(&blob.digest).unwrap();
        assert!(received.concat() == expected, "other bytes");
        setup.idle().await;
        let sent = setup.origin.blob_bytes_sent(&blob.digest);
        let name = format!("{chunk_bytes} bytes, {at_a_time} at a time: {sent} bytes");
        assert!(sent * 10 <= BLOB_BYTES * 11, "{name}");
        // It is stored: what is asked for now costs nothing.
        setup.origin.reset_counters();
        let answer = setup.blob(blob.digest).await;
        assert_eq!(answer.end, End::Whole);
        assert!(answer.body == expected, "{name}");
        assert_eq!(setup.origin.total(), 0, "{name}");
    }
}

/// Lazy pullers read a little here and there of a layer of gigabytes, its end first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_little_here_and_there_of_a_huge_blob_costs_little() {
    const HUGE_BYTES: u64 = 2 << 30;
    const LITTLE_BYTES: u64 = 64 << 10;
    let setup = Setup::new().await;
    let blob = setup.origin.add_blob("library/app", 1, HUGE_BYTES);
    // The fill itself gets nowhere: what is answered is answered without it.
    let stall = Fault::Stall { after: 0 };
    let whole = Match::blob(blob.digest).with_method(Method::GET);
    setup.origin.fault(whole, Times::Once, stall);
    let path = blob_path(blob.digest);
    let get = format!("GET {path}");
    let mut puller = Box::pin(Reading::begin(setup.mirror.addr(), &get, ""));
    assert!(poll!(&mut puller).is_pending());
    let asked = setup
        .origin
        .wait_for(|stats| stats.count(Method::GET, Object::Blob) == 1);
    select(puller.as_mut(), Box::pin(asked)).await;
    let mut starts = vec![HUGE_BYTES - LITTLE_BYTES];
    starts.extend((1..16).map(|part| part * (HUGE_BYTES / 16) + 12_345));
    let answers = join_all(starts.iter().map(|&start| {
        let range = format!("Range: bytes={start}-{}\r\n", start + LITTLE_BYTES - 1);
        let path = &path;
        let mirror = setup.mirror.addr();
        async move { (start, get_with(mirror, path, &range).await) }
    }))
    .await;
    for (start, answer) in answers {
        assert_eq!(answer.status(), 206);
        assert_eq!(answer.end, End::Whole, "from {start}");
        let end = start + LITTLE_BYTES - 1;
        let range = format!("bytes {start}-{end}/{HUGE_BYTES}");
        assert_eq!(answer.header("content-range"), Some(&*range));
    }
    let sent = setup.origin.blob_bytes_sent(&blob.digest);
    assert_eq!(sent, 16 * LITTLE_BYTES, "nothing was fetched twice");
    // One for the fill, and one for each part.
    assert_eq!(setup.origin.count(Method::GET, Object::Blob), 1 + 16);
}

/// The fill goes on where it was cut, with a part of the same body, and nobody notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_is_cut_again_and_again_costs_the_blob_once() {
    let setup = Setup::new().await;
    let blob = setup.origin.add_blob("library/app", 7, BLOB_BYTES);
    for after in [1_u64 << 20, 100_000, 20 << 20, 3 << 20, 7_654_321] {
        let fault = Fault::Short { after };
        setup
            .origin
            .fault(Match::blob(blob.digest), Times::Once, fault);
    }
    let answer = setup.blob(blob.digest).await;
    assert_eq!((answer.status(), answer.end), (200, End::Whole));
    assert!(answer.body == setup.origin.bytes(&blob.digest).unwrap());
    assert_eq!(setup.origin.faults_left(), 0);
    assert_eq!(setup.origin.count(Method::GET, Object::Blob), 6);
    let sent = setup.origin.blob_bytes_sent(&blob.digest);
    assert!(sent * 100 <= BLOB_BYTES * 102, "{sent} bytes");
    let tag = format!("\"{}\"", blob.digest);
    let requests = setup.origin.requests();
    let asked = requests
        .iter()
        .filter(|request| request.object == Object::Blob);
    for resumed in asked.skip(1) {
        assert_eq!(resumed.header("if-range"), Some(&*tag));
        assert!(resumed.range().is_some());
    }
}
