//! A download that a kill or a stop has cut is gone on with by the next process, from what is on
//! the disk: hashed again, and not fetched again.

use http::Method;
use registry_server::testing::{Fault, FixtureRegistry, Gate, Match, Object, Times};
use rustix::process::Signal;

use crate::process::Process;
use crate::support::{End, Reading, blob_path, get};

const BLOB_BYTES: u64 = 32 << 20;
/// The origin sends so much and no more, before the mirror is ended.
const HELD_AFTER: u64 = 20 << 20;
/// What may be lost of that: what is between two checkpoints, and what is on its way.
const LOST_MAX: u64 = 4 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_goes_on_after_a_kill() {
    is_gone_on_with(drop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_goes_on_after_an_impatient_stop() {
    is_gone_on_with(|process| {
        process.signal(Signal::TERM);
        process.await_refusal();
        // A second one means: now.
        process.signal(Signal::TERM);
        process.wait_and_say();
    })
    .await;
}

async fn is_gone_on_with(end: impl FnOnce(Process)) {
    let origin = FixtureRegistry::start().await;
    let blob = origin.add_blob("library/app", 7, BLOB_BYTES);
    let whole = origin.bytes(&blob.digest).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let upstream = format!("origin.example={}", origin.url());
    let start = || Process::serve(folder.path(), &["--upstream", &upstream]);
    let path = blob_path(blob.digest);

    let gate = Gate::new();
    let fault = Fault::HoldAfter {
        bytes: HELD_AFTER,
        gate: gate.clone(),
    };
    origin.fault(Match::blob(blob.digest), Times::Once, fault);
    let process = start();
    let mut reading = Reading::begin(process.address(), &format!("GET {path}"), "")
        .await
        .unwrap();
    let held = usize::try_from(HELD_AFTER).unwrap();
    reading.at_least(held - (64 << 10)).await.unwrap();
    end(process);
    gate.open();
    origin.wait_for(|stats| stats.in_flight == 0).await;
    origin.reset_counters();

    let process = start();
    let answer = get(process.address(), &path).await;
    assert_eq!((answer.status(), answer.end), (200, End::Whole));
    assert!(answer.body == whole);
    let asked = origin.requests();
    let count = origin.count(Method::GET, Object::Blob);
    assert_eq!(count, 1, "{asked:#?}");
    let asked = asked.iter().find(|asked| asked.object == Object::Blob);
    let range = asked.unwrap().range().unwrap().to_owned();
    let from: u64 = range
        .strip_prefix("bytes=")
        .and_then(|range| range.split('-').next()?.parse().ok())
        .unwrap();
    assert!(from >= HELD_AFTER - LOST_MAX, "{range}");
    assert_eq!(origin.blob_bytes_sent(&blob.digest), BLOB_BYTES - from);
    assert!(process.stop().success());
}
