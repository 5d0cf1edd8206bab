//! What takes a process of its own: one that is killed while it commits and removes, one that owns
//! the folder, one that may open few files.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use futures::TryStreamExt as _;
use registry_core::testing::content::{digest_of, put_blob, read_body, sample};
use registry_core::{BlobStat, BlobStore as _, Digest, StoreError};
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
