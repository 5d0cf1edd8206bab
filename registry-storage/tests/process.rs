//! What takes a process of its own: one that is killed while it commits and removes, or while it
//! writes a large blob, one that owns the folder, one that may open few files.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::TryStreamExt as _;
use registry_core::testing::content::{digest_of, put_blob, read_body, sample, verified};
use registry_core::{Algorithm, BlobStat, BlobStore as _, Digest, StoreError};
use registry_storage::testing::Step;
use registry_storage::{DiskOptions, DiskStore, OpenError};
use tempfile::TempDir;

/// Tells a run of this program that it is such a process, and its data folder.
const DATA_DIR: &str = "REGISTRY_STORAGE_TEST_DATA_DIR";

/// This program again, running only `test` with `DATA_DIR`, and with at most 64 open files.
fn child(test: &str, data: &TempDir) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64; exec \"$0\" --exact \"$1\" --nocapture"]);
    command.arg(std::env::current_exe().unwrap()).arg(test);
    command.env(DATA_DIR, data.path());
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// What the process to be killed does: it commits, tells so, and removes every third without
/// telling.
async fn commit_for_ever(data: std::ffi::OsString) {
    let store = DiskStore::open(data).await.unwrap();
    let mut out = std::io::stdout();
    for n in 0.. {
        let digest = put_blob(&store, &sample(20_000, n)).await.unwrap();
        writeln!(out, "\ncommitted {digest}").unwrap();
        if n % 3 == 2 {
            writeln!(out, "\nremoving {digest}").unwrap();
            store.remove(digest).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_was_committed_outlives_a_kill() {
    if let Some(data) = std::env::var_os(DATA_DIR) {
        return commit_for_ever(data).await;
    }
    for kill_after in [1, 2, 3, 7, 12, 30] {
        let data = TempDir::new().unwrap();
        let mut process = child("what_was_committed_outlives_a_kill", &data)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut committed: Vec<Digest> = Vec::new();
        let mut told = 0;
        for line in lines {
            let line = line.unwrap_or_default();
            if let Some(digest) = line.strip_prefix("committed ") {
                committed.push(digest.parse().unwrap());
                told += 1;
            } else if let Some(digest) = line.strip_prefix("removing ") {
                committed.retain(|committed| committed.to_string() != digest);
            }
            if told == kill_after {
                // What it told meanwhile is read on, until its end is.
                let _ = process.kill();
            }
        }
        process.wait().unwrap();
        assert!(told >= kill_after, "it ended of itself");

        let store = DiskStore::open(data.path()).await.unwrap();
        assert_eq!(store.recovery().rebuilt, None);
        for digest in committed {
            assert!(store.stat(digest).await.unwrap().is_some(), "{digest}");
        }
        let listed: Vec<BlobStat> = store.list().try_collect().await.unwrap();
        for stat in listed {
            let body = store.open(stat.digest, None).await.unwrap().unwrap();
            assert_eq!(digest_of(&read_body(body).await), stat.digest);
        }
        assert_eq!(store.forgotten(), 0);
        let partial = fs::read_dir(data.path().join("partial")).unwrap();
        assert_eq!(partial.count(), 0);
    }
}

const MIB: u64 = 1 << 20;

/// What the next process to be killed writes, over and over: too large to be ever done.
fn large() -> Bytes {
    sample(24 << 20, 7)
}

/// Goes on with the blob where the last one was killed, and tells how far it has come.
async fn write_on(data: std::ffi::OsString) {
    let store = DiskStore::open(data).await.unwrap();
    let bytes = large();
    let sink = store.stage(digest_of(&bytes), None).await.unwrap();
    let mut out = std::io::stdout();
    writeln!(out, "\nkept {}", sink.kept()).unwrap();
    let mut at = sink.kept();
    while at < bytes.len() as u64 {
        let end = bytes.len().min(at as usize + 30_000);
        let piece = bytes.slice(at as usize..end);
        sink.write_at(at, piece).await.unwrap();
        at = end as u64;
        sink.checkpoint(at);
        writeln!(out, "\nwritten {at}").unwrap();
    }
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn an_unfinished_blob_outlives_kills() {
    if let Some(data) = std::env::var_os(DATA_DIR) {
        return write_on(data).await;
    }
    let data = TempDir::new().unwrap();
    let bytes = large();
    // What a kill costs at most: what is between two records, and what is being written.
    let lost_max = MIB + 60_000;
    let mut reached = 0;
    for kill_at in [MIB / 2, 3 * MIB, 6 * MIB, 15 * MIB] {
        let mut process = child("an_unfinished_blob_outlives_kills", &data)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        for line in lines {
            let line = line.unwrap_or_default();
            if let Some(kept) = line.strip_prefix("kept ") {
                let kept: u64 = kept.parse().unwrap();
                assert!(
                    kept <= reached + 30_000 && kept + lost_max >= reached,
                    "{kept} of {reached}"
                );
            } else if let Some(written) = line.strip_prefix("written ") {
                reached = written.parse().unwrap();
                if reached >= kill_at {
                    // What it wrote meanwhile is told of until the end.
                    let _ = process.kill();
                }
            }
        }
        process.wait().unwrap();
        assert!(reached >= kill_at, "it ended of itself");
    }

    let store = DiskStore::open(data.path()).await.unwrap();
    let digest = digest_of(&bytes);
    assert_eq!(store.recovery().partial_kept, 1);
    assert_eq!(store.stat(digest).await.unwrap(), None);
    let sink = store.stage(digest, Some(bytes.len() as u64)).await.unwrap();
    let kept = sink.kept();
    assert!(kept + lost_max >= reached, "{kept} of {reached}");
    let read = sink.reader().read_at(0, usize::MAX).await.unwrap();
    assert!(read == bytes.slice(..kept as usize));
    let rest = sink.write_at(kept, bytes.slice(kept as usize..));
    rest.await.unwrap();
    sink.commit(verified(Algorithm::Sha256, &bytes))
        .await
        .unwrap();
    let body = store.open(digest, None).await.unwrap().unwrap();
    assert!(read_body(body).await == bytes);
    store.close().await.unwrap();
    let partial = fs::read_dir(data.path().join("partial")).unwrap();
    assert_eq!(partial.count(), 0);
}

/// What the process that owns the folder does: it opens it, says so, and waits for its end.
async fn own(data: std::ffi::OsString) {
    let _store = DiskStore::open(data).await.unwrap();
    let mut out = std::io::stdout();
    writeln!(out, "\nopened").unwrap();
    std::io::stdin().lines().for_each(drop);
}

#[tokio::test]
async fn a_second_process_is_refused_with_the_pid_of_the_first() {
    if let Some(data) = std::env::var_os(DATA_DIR) {
        return own(data).await;
    }
    let data = TempDir::new().unwrap();
    let test = "a_second_process_is_refused_with_the_pid_of_the_first";
    let mut owner = child(test, &data).stdin(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "opened"));

    let refused = DiskStore::open(data.path()).await.unwrap_err();
    let pid = owner.id();
    assert!(
        matches!(refused, OpenError::InUse { owner: Some(owner), .. } if owner == pid),
        "{refused:?}"
    );
    assert!(
        refused.to_string().contains(&format!("process {pid}")),
        "{refused}"
    );

    // The kernel ends the ownership with the process, however that ends.
    owner.kill().unwrap();
    owner.wait().unwrap();
    DiskStore::open(data.path()).await.unwrap();
}

/// What the process that may open few files does: its commit fails once the file has its place.
async fn run_out_of_files(data: std::ffi::OsString) {
    let hoard: Arc<Mutex<Vec<File>>> = Arc::default();
    let hoarder = Arc::clone(&hoard);
    let options = DiskOptions::default().with_steps(false, move |step| {
        if step == Step::Renamed {
            let files = std::iter::from_fn(|| File::open("/dev/null").ok());
            hoarder.lock().unwrap().extend(files);
        }
    });
    let store = DiskStore::open_with(&data, options).await.unwrap();
    let failed = put_blob(&store, &sample(100, 1)).await;
    hoard.lock().unwrap().clear();
    assert!(matches!(failed, Err(StoreError::Io { .. })), "{failed:?}");
    // Gone at once, not only when somebody asks for it.
    let digest = digest_of(&sample(100, 1));
    let folder = format!("blobs/sha256/{}", &digest.encoded()[..2]);
    assert_eq!(
        fs::read_dir(Path::new(&data).join(folder)).unwrap().count(),
        0
    );
    assert!(store.stat(digest).await.unwrap().is_none());
    let mut err = std::io::stderr();
    writeln!(err, "failed as it should").unwrap();
}

#[tokio::test]
async fn a_commit_that_fails_half_way_leaves_nothing() {
    if let Some(data) = std::env::var_os(DATA_DIR) {
        return run_out_of_files(data).await;
    }
    let data = TempDir::new().unwrap();
    let mut process = child("a_commit_that_fails_half_way_leaves_nothing", &data);
    let output = process.stderr(Stdio::piped()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && told.contains("failed as it should"),
        "{told}"
    );
}
