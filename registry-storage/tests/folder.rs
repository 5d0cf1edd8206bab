//! The data folder: who may open it, what opening and closing do to it, and its limits.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use registry_core::testing::conformance;
use registry_core::testing::content::{digest_of, put_blob, sample, verified};
use registry_core::{
    Algorithm, BlobSink, BlobStore as _, Clock, InventoryStore as _, LinkTarget, Manifest,
    ManifestStore as _, StoreError, Timestamp,
};
use registry_storage::testing::{DiskSpace, Step};
use registry_storage::{DiskOptions, DiskStore, OpenError, Reserve};
use tempfile::TempDir;

fn options() -> DiskOptions {
    DiskOptions::default()
}

fn manifest(n: u64) -> Manifest {
    let bytes = Bytes::from(format!(r#"{{"layers":[],"n":{n}}}"#));
    Manifest::of_bytes(None, bytes).unwrap()
}

/// Every path under a folder, with what tells whether it was touched.
fn state(folder: &Path) -> BTreeMap<PathBuf, (u64, i64, i64, u32)> {
    let mut state = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            state.extend(self::state(&path));
        }
        state.insert(
            path,
            (meta.len(), meta.mtime(), meta.mtime_nsec(), meta.mode()),
        );
    }
    state
}

#[tokio::test]
async fn a_second_store_of_one_process_is_refused() {
    let dir = TempDir::new().unwrap();
    let first = DiskStore::open(dir.path()).await.unwrap();
    let pid = std::process::id();
    let refused = DiskStore::open(dir.path()).await.unwrap_err();
    assert!(
        matches!(refused, OpenError::InUse { owner: Some(owner), .. } if owner == pid),
        "{refused:?}"
    );
    // The first is none the worse for it, and gives the folder free also where it is not dropped.
    let digest = put_blob(&first, &sample(10, 1)).await.unwrap();
    first.close().await.unwrap();
    let second = DiskStore::open(dir.path()).await.unwrap();
    assert!(second.stat(digest).await.unwrap().is_some());
    // Nor need it be closed.
    drop(second);
    let third = DiskStore::open(dir.path()).await.unwrap();
    assert!(third.stat(digest).await.unwrap().is_some());
}

#[tokio::test]
async fn another_format_is_refused_and_nothing_is_touched() {
    for (format, found) in [
        ("format 3\nepoch 7\n", "3"),
        ("format 10\n", "10"),
        ("format 1x\nepoch 1\n", "1x"),
        ("format 1\n", "1"),
        ("format 2\n", "2"),
        ("", ""),
        ("\0\u{fffd}", ""),
    ] {
        let dir = TempDir::new().unwrap();
        let store = DiskStore::open(dir.path()).await.unwrap();
        put_blob(&store, &sample(10, 1)).await.unwrap();
        store.close().await.unwrap();
        fs::write(dir.path().join("partial/fill-left"), b"left").unwrap();
        fs::write(dir.path().join("format"), format).unwrap();

        let before = state(dir.path());
        let refused = DiskStore::open(dir.path()).await.unwrap_err();
        assert!(matches!(&refused, OpenError::UnknownFormat { found: told, .. } if told == found));
        let message = refused.to_string();
        assert!(
            message.contains(&*dir.path().to_string_lossy()),
            "{message}"
        );
        assert_eq!(state(dir.path()), before, "{format:?}");
    }
}

/// The index has the version too, for whoever loses the file that has it.
#[tokio::test]
async fn an_index_of_another_format_is_refused() {
    let dir = TempDir::new().unwrap();
    DiskStore::open(dir.path())
        .await
        .unwrap()
        .close()
        .await
        .unwrap();
    let db = sled::open(dir.path().join("index")).unwrap();
    db.insert("format", &3_u32.to_be_bytes()).unwrap();
    db.flush().unwrap();
    drop(db);
    let refused = DiskStore::open(dir.path()).await.unwrap_err();
    assert!(matches!(&refused, OpenError::UnknownFormat { found, .. } if found == "3"));
    let names = fs::read_dir(dir.path()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(
        !names.into_iter().any(|name| name.contains("damaged")),
        "it is not damaged"
    );
}

#[tokio::test]
async fn what_cannot_be_a_data_folder_is_refused() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"mine").unwrap();
    let refused = DiskStore::open(&file).await.unwrap_err();
    assert!(
        matches!(&refused, OpenError::NotAFolder { path } if *path == file),
        "{refused:?}"
    );
    let refused = DiskStore::open(file.join("data")).await.unwrap_err();
    assert!(
        matches!(&refused, OpenError::Unusable { .. }),
        "{refused:?}"
    );
    assert!(refused.to_string().contains("file/data"), "{refused}");
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

#[tokio::test]
async fn only_its_user_may_look_into_a_data_folder() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("some/where");
    let store = DiskStore::open(&data).await.unwrap();
    put_blob(&store, &sample(10, 1)).await.unwrap();
    store.put_manifest(manifest(1)).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    for name in ["blobs", "blobs/sha256", "manifests/sha256", "partial"] {
        assert_eq!(mode(&data.join(name)), 0o700, "{name}");
    }
    let digest = digest_of(&sample(10, 1)).encoded();
    let blob = data.join("blobs/sha256").join(&digest[..2]).join(&digest);
    assert_eq!(mode(&blob), 0o600);
    assert_eq!(mode(&data.join("lock")), 0o600);
}

#[tokio::test]
async fn what_a_crash_left_is_swept_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    DiskStore::open(dir.path())
        .await
        .unwrap()
        .close()
        .await
        .unwrap();
    for name in ["fill-1", "fill-2", "mine"] {
        fs::write(dir.path().join("partial").join(name), b"x").unwrap();
    }
    fs::create_dir(dir.path().join("partial/fill-folder")).unwrap();
    let store = DiskStore::open(dir.path()).await.unwrap();
    assert_eq!(store.recovery().partial_swept, 2);
    let left = fs::read_dir(dir.path().join("partial")).unwrap();
    let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["fill-folder", "mine"]);
}

#[tokio::test]
async fn a_dropped_sink_removes_its_file() {
    let dir = TempDir::new().unwrap();
    let store = DiskStore::open(dir.path()).await.unwrap();
    let bytes = sample(100, 1);
    let sink = store.stage(digest_of(&bytes), None).await.unwrap();
    sink.write_at(0, bytes).await.unwrap();
    let partial = || fs::read_dir(dir.path().join("partial")).unwrap().count();
    assert_eq!(partial(), 1);
    drop(sink);
    // Which waits for that too.
    store.close().await.unwrap();
    assert_eq!(partial(), 0);
}

#[tokio::test]
async fn a_write_that_was_given_up_cannot_be_committed() {
    let dir = TempDir::new().unwrap();
    // A look at the free space, which a large enough write takes, waits as long as this is held.
    let gate = Arc::new(Mutex::new(()));
    let waits = Arc::clone(&gate);
    let options = options().with_space(move || {
        drop(waits.lock().unwrap());
        DiskSpace {
            total: u64::MAX,
            available: u64::MAX,
        }
    });
    let store = DiskStore::open_with(dir.path(), options).await.unwrap();
    let bytes = sample(16 << 20, 1);
    let sink = store.stage(digest_of(&bytes), None).await.unwrap();
    {
        let _held = gate.lock().unwrap();
        let write = sink.write_at(0, bytes.clone());
        assert!(write.now_or_never().is_none(), "it waits, and is dropped");
    }
    let again = sink.write_at(bytes.len() as u64, sample(1, 1)).await;
    assert!(
        matches!(again, Err(StoreError::Corrupt { .. })),
        "{again:?}"
    );
    let commit = sink.commit(verified(Algorithm::Sha256, &bytes)).await;
    assert!(
        matches!(commit, Err(StoreError::Corrupt { .. })),
        "{commit:?}"
    );
    assert_eq!(store.stat(digest_of(&bytes)).await.unwrap(), None);
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let dir = TempDir::new().unwrap();
    let store = DiskStore::open(dir.path()).await.unwrap();
    let digest = put_blob(&store, &sample(10, 1)).await.unwrap();
    let hot = manifest(1);
    store.put_manifest(hot.clone()).await.unwrap();
    let bytes = sample(10, 2);
    let sink = store.stage(digest_of(&bytes), None).await.unwrap();
    sink.write_at(0, bytes).await.unwrap();
    let reader = sink.reader();

    store.close().await.unwrap();
    store.close().await.unwrap();
    let closed = |error| matches!(error, Some(StoreError::Closed { .. }));
    assert!(closed(store.stat(digest).await.err()));
    assert!(closed(store.open(digest, None).await.err()));
    assert!(closed(store.manifest(hot.digest()).await.err()));
    assert!(closed(reader.read_at(0, 1).await.err()));
    assert!(closed(sink.write_at(10, sample(1, 1)).await.err()));
    assert!(closed(store.stage(digest, None).await.err()));

    let store = DiskStore::open(dir.path()).await.unwrap();
    let recovery = store.recovery();
    assert_eq!((recovery.intents_settled, &recovery.rebuilt), (0, &None));
    assert_eq!(
        recovery.partial_swept, 1,
        "the sink is still held, and is of no use any more"
    );
    assert_eq!(store.stat(digest).await.unwrap().unwrap().size, 10);
}

#[tokio::test]
async fn closing_waits_for_what_is_under_way() {
    let dir = TempDir::new().unwrap();
    // A commit waits as long as this is held.
    let gate = Arc::new(Mutex::new(()));
    let waits = Arc::clone(&gate);
    let options = options().with_steps(false, move |step| {
        if step == Step::FileSynced {
            drop(waits.lock().unwrap());
        }
    });
    let store = DiskStore::open_with(dir.path(), options).await.unwrap();
    let bytes = sample(10, 1);
    let sink = store.stage(digest_of(&bytes), None).await.unwrap();
    sink.write_at(0, bytes.clone()).await.unwrap();
    let mut commit = sink.commit(verified(Algorithm::Sha256, &bytes));
    let mut close = store.close().boxed();
    {
        let _held = gate.lock().unwrap();
        assert!((&mut commit).now_or_never().is_none());
        assert!((&mut close).now_or_never().is_none());
    }
    commit.await.unwrap();
    close.await.unwrap();
    let store = DiskStore::open(dir.path()).await.unwrap();
    assert_eq!(*store.recovery(), Default::default());
    assert!(store.stat(digest_of(&bytes)).await.unwrap().is_some());
}

/// One call at a time is enough: none waits for another while it has its turn.
#[tokio::test]
async fn one_turn_is_enough() {
    let dirs = Mutex::new(Vec::new());
    let make = async || {
        let dir = TempDir::new().unwrap();
        let mut options = options();
        options.blocking_calls_max = 1;
        let store = DiskStore::open_with(dir.path(), options).await.unwrap();
        dirs.lock().unwrap().push(dir);
        Arc::new(store) as _
    };
    conformance::blobs::all(make).await;
}

/// A disk of 1000 MiB, and as much of it free as a test says.
struct Disk {
    store: DiskStore,
    available: Arc<AtomicU64>,
    _dir: TempDir,
}

const MIB: u64 = 1 << 20;

impl Disk {
    async fn with(reserve: Reserve) -> Self {
        let available = Arc::new(AtomicU64::new(1_000 * MIB));
        let dir = TempDir::new().unwrap();
        let told = Arc::clone(&available);
        let mut options = options().with_space(move || DiskSpace {
            total: 1_000 * MIB,
            available: told.load(Ordering::SeqCst),
        });
        options.reserve = reserve;
        let store = DiskStore::open_with(dir.path(), options).await.unwrap();
        let _dir = dir;
        Self {
            store,
            available,
            _dir,
        }
    }

    async fn stage(&self, size_hint: Option<u64>) -> Option<Arc<dyn BlobSink>> {
        match self.store.stage(digest_of(b"staged"), size_hint).await {
            Ok(sink) => Some(sink),
            Err(StoreError::NoSpace { .. }) => None,
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_reserve_is_never_touched() {
    for (reserve, bytes) in [
        (Reserve::Percent(5), 50 * MIB),
        (Reserve::Percent(0), 0),
        (Reserve::Bytes(123), 123),
    ] {
        let disk = Disk::with(reserve).await;
        for (available, size_hint, fits) in [
            (bytes + MIB, Some(MIB), true),
            (bytes + MIB, Some(MIB + 1), false),
            (bytes + MIB, Some(u64::MAX), false),
            (bytes, Some(0), true),
            (bytes, None, true),
            (bytes.saturating_sub(1), None, bytes == 0),
        ] {
            disk.available.store(available, Ordering::SeqCst);
            let staged = disk.stage(size_hint).await.is_some();
            assert_eq!(staged, fits, "{reserve:?} {available} {size_hint:?}");
        }
        disk.available.store(bytes + 5, Ordering::SeqCst);
        let refused = disk.store.put_manifest(manifest(1)).await;
        assert!(matches!(refused, Err(StoreError::NoSpace { .. })));
    }
}

#[tokio::test]
async fn what_was_promised_to_one_blob_is_not_given_to_another() {
    let disk = Disk::with(Reserve::Bytes(0)).await;
    disk.available.store(10 * MIB, Ordering::SeqCst);
    let first = disk.stage(Some(6 * MIB)).await.unwrap();
    assert!(disk.stage(Some(5 * MIB)).await.is_none());
    // What is written is seen by the system, and no longer promised.
    first
        .write_at(0, sample(3 * MIB as usize, 1))
        .await
        .unwrap();
    disk.available.store(7 * MIB, Ordering::SeqCst);
    assert!(disk.stage(Some(5 * MIB)).await.is_none());
    assert!(disk.stage(Some(4 * MIB)).await.is_some());
    // More than was promised is not owed.
    first
        .write_at(3 * MIB, sample(4 * MIB as usize, 1))
        .await
        .unwrap();
    assert!(disk.stage(Some(7 * MIB)).await.is_some());
    drop(first);
    assert!(disk.stage(Some(7 * MIB)).await.is_some());
    assert!(disk.stage(Some(7 * MIB + 1)).await.is_none());
}

/// A blob that turns out larger than it was said to be, on a disk that is filled by others too.
#[tokio::test]
async fn a_growing_blob_stops_at_the_reserve() {
    let disk = Disk::with(Reserve::Percent(5)).await;
    let sink = disk.stage(None).await.unwrap();
    let chunk = sample(4 * MIB as usize, 1);
    for n in 0..4 {
        sink.write_at(n * 4 * MIB, chunk.clone()).await.unwrap();
    }
    disk.available.store(49 * MIB, Ordering::SeqCst);
    let mut written = 16 * MIB;
    while sink.write_at(written, chunk.clone()).await.is_ok() {
        written += chunk.len() as u64;
        assert!(
            written <= 32 * MIB,
            "it looks at the disk again soon enough"
        );
    }
}

/// A clock that stands where a test puts it.
#[derive(Clone, Default)]
struct Hands(Arc<AtomicU64>);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

async fn accessed_at(store: &DiskStore, target: LinkTarget) -> Option<Timestamp> {
    let record = store.record(target).await.unwrap();
    record.and_then(|record| record.accessed_at)
}

#[tokio::test]
async fn access_times_outlive_a_close() {
    let dir = TempDir::new().unwrap();
    let hands = Hands::default();
    let open = async || {
        let mut options = options();
        options.clock = Arc::new(hands.clone());
        options.access_write_every = Duration::from_secs(60);
        DiskStore::open_with(dir.path(), options).await.unwrap()
    };
    let store = open().await;
    let set = |at: u64| hands.0.store(at, Ordering::SeqCst);
    let at = |millis: u64| Some(Timestamp::from_millis(millis));
    set(1_000);
    let digest = put_blob(&store, &sample(10, 1)).await.unwrap();
    let blob = LinkTarget::Blob(digest);
    let kept = manifest(1);
    let manifest = LinkTarget::Manifest(kept.digest());
    store.put_manifest(kept.clone()).await.unwrap();
    assert_eq!(accessed_at(&store, blob).await, at(1_000));
    set(2_000);
    store.stat(digest).await.unwrap();
    assert_eq!(
        accessed_at(&store, blob).await,
        at(1_000),
        "a stat is no access"
    );
    set(3_000);
    store.open(digest, None).await.unwrap();
    store.manifest(kept.digest()).await.unwrap();
    store.open(digest_of(b"absent"), None).await.unwrap();
    store.close().await.unwrap();

    let store = open().await;
    assert_eq!(accessed_at(&store, blob).await, at(3_000));
    assert_eq!(
        accessed_at(&store, manifest).await,
        at(3_000),
        "also where it was hot"
    );
    let absent = LinkTarget::Blob(digest_of(b"absent"));
    assert_eq!(accessed_at(&store, absent).await, None);
    store.remove(digest).await.unwrap();
    store.remove_manifest(kept.digest()).await.unwrap();
    assert_eq!(accessed_at(&store, blob).await, None);
    assert_eq!(accessed_at(&store, manifest).await, None);
}

/// A batch is written while the store is in use, and only then: here nobody closes it.
#[tokio::test]
async fn access_times_are_written_in_batches() {
    let dir = TempDir::new().unwrap();
    let hands = Hands::default();
    let open = async || {
        let mut options = options();
        options.clock = Arc::new(hands.clone());
        options.access_batch_entries = 3;
        // So that each call waits for the write that the one before it began.
        options.blocking_calls_max = 1;
        DiskStore::open_with(dir.path(), options).await.unwrap()
    };
    let store = open().await;
    let at = |millis: u64| hands.0.store(millis, Ordering::SeqCst);
    at(5);
    let manifests: Vec<Manifest> = (0..3).map(manifest).collect();
    for manifest in &manifests {
        store.put_manifest(manifest.clone()).await.unwrap();
    }
    drop(store);
    let store = open().await;
    let accessed = async |store: &DiskStore, target| {
        let accessed = accessed_at(store, target).await;
        accessed.map(Timestamp::as_millis)
    };
    for manifest in &manifests {
        let target = LinkTarget::Manifest(manifest.digest());
        assert_eq!(
            accessed(&store, target).await,
            Some(5),
            "written with the third"
        );
    }

    // Once they are in memory there is no call that could write: it is done in the background.
    for millis in [6, 7] {
        at(millis);
        for manifest in &manifests {
            store.manifest(manifest.digest()).await.unwrap().unwrap();
        }
    }
    at(8);
    let digest = put_blob(&store, &sample(1, 1)).await.unwrap();
    at(9);
    store.manifest(manifests[0].digest()).await.unwrap();
    drop(store);
    let store = open().await;
    for manifest in &manifests {
        let target = LinkTarget::Manifest(manifest.digest());
        let at = accessed(&store, target).await;
        assert_eq!(at, Some(7), "the next batch was not due");
    }
    let target = LinkTarget::Blob(digest);
    assert_eq!(
        accessed(&store, target).await,
        Some(8),
        "written with what is kept"
    );
}

/// Where sled has noted its pages: the names tell how far in the log that was.
fn noted(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder.join("index")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("snap.")).collect()
}

#[tokio::test]
async fn the_log_of_many_changes_is_read_when_the_store_is_closed() {
    let dir = TempDir::new().unwrap();
    let mut blobs = 0_u64;
    for (changes, is_read) in [(10, false), (600, true)] {
        let store = DiskStore::open(dir.path()).await.unwrap();
        let before = noted(dir.path());
        for _ in 0..changes {
            blobs += 1;
            let row = (
                digest_of(&blobs.to_le_bytes()),
                1,
                Timestamp::from_millis(1),
            );
            store.plant_blobs(vec![row]).await.unwrap();
        }
        store.close().await.unwrap();
        assert_eq!(noted(dir.path()) != before, is_read, "{changes} changes");
    }
    let store = DiskStore::open(dir.path()).await.unwrap();
    assert_eq!(store.usage().await.unwrap().blobs, blobs);
}
