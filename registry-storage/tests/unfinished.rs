//! Blobs that nobody finished: what is left of them, for how long, and who is given it.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::join_all;
use registry_core::testing::content::{
    digest_of, put_blob, read_body, sample, stage_anew, verified,
};
use registry_core::{
    Algorithm, BlobSink, BlobStore as _, Clock, Digest, Manifest, ManifestStore as _, StoreError,
    Timestamp,
};
use registry_storage::testing::{DiskSpace, Step};
use registry_storage::{DiskOptions, DiskStore, Reserve};
use tempfile::TempDir;

const MIB: usize = 1 << 20;

/// What the crate calls so: they are its own business, but for these tests.
const UNFINISHED_MAX: usize = 64;
const UNFINISHED_TOTAL_BYTES_MAX: u64 = 16 << 30;

fn options() -> DiskOptions {
    DiskOptions::default()
}

/// The names in the folder of partial files.
fn partial_names(data: &Path) -> Vec<String> {
    let entries = fs::read_dir(data.join("partial")).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

async fn stage(store: &DiskStore, bytes: &Bytes) -> Arc<dyn BlobSink> {
    store.stage(digest_of(bytes), None).await.unwrap()
}

/// Writes up to `end`, in pieces as they come from a network, each of them checkpointed.
async fn fill(sink: &dyn BlobSink, bytes: &Bytes, end: usize) {
    let mut at = usize::try_from(sink.kept()).unwrap();
    while at < end {
        let next = end.min(at + 100_000);
        let write = sink.write_at(at as u64, bytes.slice(at..next));
        write.await.unwrap();
        sink.checkpoint(next as u64);
        at = next;
    }
}

/// Leaves the first `len` bytes of a blob.
async fn leave(store: &DiskStore, bytes: &Bytes, len: usize) {
    let sink = stage_anew(store, digest_of(bytes), None).await.unwrap();
    fill(&*sink, bytes, len).await;
}

/// How much of a blob is kept; asserts that it is its beginning.
async fn kept(store: &DiskStore, bytes: &Bytes) -> usize {
    let sink = stage(store, bytes).await;
    let kept = usize::try_from(sink.kept()).unwrap();
    let read = sink.reader().read_at(0, usize::MAX).await.unwrap();
    assert!(read == bytes.slice(..kept), "other bytes than were written");
    kept
}

async fn finish(store: &DiskStore, bytes: &Bytes) {
    let sink = stage(store, bytes).await;
    fill(&*sink, bytes, bytes.len()).await;
    let proof = verified(Algorithm::Sha256, bytes);
    sink.commit(proof).await.unwrap();
    let body = store.open(digest_of(bytes), None).await.unwrap().unwrap();
    assert!(read_body(body).await == *bytes);
}

#[tokio::test]
async fn what_was_left_outlives_the_store() {
    let bytes = sample(3 * MIB, 1);
    for closes in [true, false] {
        let dir = TempDir::new().unwrap();
        let store = DiskStore::open(dir.path()).await.unwrap();
        leave(&store, &bytes, 2 * MIB + 7).await;
        if closes {
            store.close().await.unwrap();
            drop(store);
        } else {
            drop(store);
            reopened(dir.path()).await.close().await.unwrap();
        }
        let names = partial_names(dir.path());
        let prefix = digest_of(&bytes).to_string().replace(':', "-");
        assert!(
            names.len() == 2 && names.iter().all(|name| name.starts_with(&prefix)),
            "{names:?}"
        );

        let store = DiskStore::open(dir.path()).await.unwrap();
        let recovery = store.recovery();
        assert_eq!((recovery.partial_kept, recovery.partial_swept), (1, 0));
        // It may be given, and left, as often as it takes.
        for _ in 0..2 {
            assert_eq!(kept(&store, &bytes).await, 2 * MIB + 7);
        }
        finish(&store, &bytes).await;
        store.close().await.unwrap();
        assert_eq!(partial_names(dir.path()), [""; 0]);
        let store = DiskStore::open(dir.path()).await.unwrap();
        assert_eq!(*store.recovery(), Default::default());
    }
}

/// Opens a folder whose store was dropped: what that has left to do may take a moment.
async fn reopened(data: &Path) -> DiskStore {
    loop {
        match DiskStore::open(data).await {
            Err(registry_storage::OpenError::InUse { .. }) => tokio::task::yield_now().await,
            opened => return opened.unwrap(),
        }
    }
}

/// A sink that is held while its store is closed leaves what a crash would: what was recorded.
#[tokio::test]
async fn a_sink_that_outlives_its_store_touches_nothing() {
    let dir = TempDir::new().unwrap();
    let bytes = sample(4 * MIB, 1);
    let store = DiskStore::open(dir.path()).await.unwrap();
    let sink = stage(&store, &bytes).await;
    fill(&*sink, &bytes, 2 * MIB + MIB / 2).await;
    store.close().await.unwrap();

    let store = DiskStore::open(dir.path()).await.unwrap();
    assert_eq!(store.recovery().partial_kept, 1);
    let next = stage(&store, &bytes).await;
    let given = next.kept();
    assert!((2 * MIB as u64..=2 * MIB as u64 + 200_000).contains(&given));
    let write = sink.write_at(3 * MIB as u64, bytes.slice(..1)).await;
    assert!(matches!(write, Err(StoreError::Closed { .. })));
    sink.checkpoint(4 * MIB as u64);
    sink.discard();
    drop(next);
    assert_eq!(kept(&store, &bytes).await as u64, given);
    finish(&store, &bytes).await;
}

#[tokio::test]
async fn little_is_not_worth_keeping() {
    let dir = TempDir::new().unwrap();
    let store = DiskStore::open(dir.path()).await.unwrap();
    let bytes = sample(2 * MIB, 1);
    let sink = stage(&store, &bytes).await;
    fill(&*sink, &bytes, MIB - 1).await;
    assert_eq!(
        partial_names(dir.path()).len(),
        1,
        "nothing is recorded of it"
    );
    drop(sink);
    assert_eq!(kept(&store, &bytes).await, 0);
    leave(&store, &bytes, MIB).await;
    assert_eq!(kept(&store, &bytes).await, MIB);
    // Nor is what was written and never checkpointed.
    let other = sample(2 * MIB, 2);
    let sink = stage(&store, &other).await;
    sink.write_at(0, other.clone()).await.unwrap();
    drop(sink);
    assert_eq!(kept(&store, &other).await, 0);
    store.close().await.unwrap();
    assert_eq!(partial_names(dir.path()).len(), 2);
}

#[tokio::test]
async fn what_was_discarded_is_gone() {
    let dir = TempDir::new().unwrap();
    let store = DiskStore::open(dir.path()).await.unwrap();
    let bytes = sample(3 * MIB, 1);
    for _ in 0..2 {
        // First what was written, then what was kept.
        leave(&store, &bytes, 2 * MIB).await;
        let sink = stage(&store, &bytes).await;
        assert_eq!(sink.kept(), 2 * MIB as u64);
        sink.discard();
        assert_eq!(kept(&store, &bytes).await, 0);
    }
    store.close().await.unwrap();
    assert_eq!(partial_names(dir.path()), [""; 0]);
}

/// What is stored needs no unfinished copy, whichever came first.
#[tokio::test]
async fn what_is_stored_is_not_kept_unfinished() {
    let bytes = sample(3 * MIB, 1);
    for left_first in [true, false] {
        let dir = TempDir::new().unwrap();
        let store = DiskStore::open(dir.path()).await.unwrap();
        let slow = stage(&store, &bytes).await;
        fill(&*slow, &bytes, 2 * MIB).await;
        let quick = stage(&store, &bytes).await;
        assert_eq!(quick.kept(), 0);
        fill(&*quick, &bytes, 3 * MIB).await;
        let commit = async {
            let proof = verified(Algorithm::Sha256, &bytes);
            quick.commit(proof).await.unwrap();
        };
        if left_first {
            drop(slow);
            commit.await;
        } else {
            commit.await;
            drop(slow);
        }
        store.close().await.unwrap();
        assert_eq!(partial_names(dir.path()), [""; 0], "first: {left_first}");
    }
}

/// A commit that found no place for the file leaves it to the next; one that could not be sure of
/// the file does not.
#[tokio::test]
async fn a_failed_commit_leaves_what_is_sound() {
    let dir = TempDir::new().unwrap();
    let store = DiskStore::open(dir.path()).await.unwrap();
    let bytes = sample(2 * MIB, 1);
    let commit = async || {
        let sink = stage(&store, &bytes).await;
        fill(&*sink, &bytes, 2 * MIB).await;
        sink.commit(verified(Algorithm::Sha256, &bytes)).await
    };
    // A file where the folder of the blob should be.
    let shelf = dir.path().join("blobs/sha256");
    fs::create_dir_all(&shelf).unwrap();
    let place = shelf.join(&digest_of(&bytes).encoded()[..2]);
    fs::write(&place, b"in the way").unwrap();
    let failed = commit().await;
    assert!(matches!(failed, Err(StoreError::Io { .. })), "{failed:?}");
    assert_eq!(kept(&store, &bytes).await, 2 * MIB);
    fs::remove_file(&place).unwrap();

    let partial = |suffix: &str| {
        let names = partial_names(dir.path()).into_iter();
        let mut names = names.filter(|name| name.ends_with(suffix));
        dir.path().join("partial").join(names.next().unwrap())
    };
    let content = partial(".checkpoint").with_extension("");
    let sink = stage(&store, &bytes).await;
    assert_eq!(sink.kept(), 2 * MIB as u64);
    // Somebody else has touched it.
    File::options()
        .write(true)
        .open(&content)
        .unwrap()
        .set_len(3 * MIB as u64)
        .unwrap();
    let failed = sink.commit(verified(Algorithm::Sha256, &bytes)).await;
    assert!(
        matches!(failed, Err(StoreError::Corrupt { .. })),
        "{failed:?}"
    );
    assert_eq!(partial_names(dir.path()), [""; 0], "at once");
    assert_eq!(kept(&store, &bytes).await, 0);
    commit().await.unwrap();
    assert_eq!(partial_names(dir.path()), [""; 0]);
}

/// Whoever still reads what was left reads its bytes or none, never those of who goes on with it.
#[tokio::test]
async fn a_reader_is_never_given_another_sinks_bytes() {
    let dir = TempDir::new().unwrap();
    let store = DiskStore::open(dir.path()).await.unwrap();
    let (bytes, other) = (sample(4 * MIB, 1), sample(4 * MIB, 2));
    let first = stage(&store, &bytes).await;
    let reader = first.reader();
    fill(&*first, &bytes, 2 * MIB).await;
    // Not checkpointed.
    let rest = first.write_at(2 * MIB as u64, bytes.slice(2 * MIB..));
    rest.await.unwrap();
    drop(first);
    let second = stage(&store, &bytes).await;
    assert_eq!(second.kept(), 2 * MIB as u64);
    fill(&*second, &other, 4 * MIB).await;

    let read = reader.read_at(0, usize::MAX).await.unwrap();
    assert!(read == bytes.slice(..2 * MIB));
    let read = reader.read_at(2 * MIB as u64 - 10, 100).await.unwrap();
    assert_eq!(read, bytes.slice(2 * MIB - 10..2 * MIB));
    for offset in [2 * MIB, 3 * MIB] {
        let read = reader.read_at(offset as u64, 100).await;
        assert!(matches!(read, Err(StoreError::Corrupt { .. })), "{read:?}");
    }
    let end = reader.read_at(4 * MIB as u64, 100).await.unwrap();
    assert_eq!(end, Bytes::new());
}

/// A write whose future was dropped runs on. Until it is done, nobody goes on with what it writes
/// to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_given_while_a_write_to_it_may_happen() {
    let dir = TempDir::new().unwrap();
    // A look at the free space waits as long as this is held, but those of a stage do not.
    let gate = Arc::new(Mutex::new(()));
    let (waits, is_armed) = (Arc::clone(&gate), Arc::new(AtomicBool::new(false)));
    let (left, settled) = mpsc::channel();
    let armed = Arc::clone(&is_armed);
    let (met, writing) = mpsc::channel();
    let options = options()
        .with_space(move || {
            if armed.swap(false, Ordering::SeqCst) {
                met.send(()).unwrap();
                drop(waits.lock().unwrap());
            }
            DiskSpace {
                total: u64::MAX,
                available: u64::MAX,
            }
        })
        .with_steps(false, move |step| {
            if step == Step::LeftUnfinished {
                left.send(()).unwrap();
            }
        });
    let store = DiskStore::open_with(dir.path(), options).await.unwrap();
    let bytes = sample(20 * MIB, 1);
    let sink = stage(&store, &bytes).await;
    fill(&*sink, &bytes, 2 * MIB).await;
    let closed = gate.lock().unwrap();
    is_armed.store(true, Ordering::SeqCst);
    // Large enough for a look at the free space. Wrong bytes: they would be seen.
    let wrong = sample(18 * MIB, 2);
    let write = sink.write_at(2 * MIB as u64, wrong);
    assert!(write.now_or_never().is_none(), "it waits, and is dropped");
    writing.recv().unwrap();
    drop(sink);

    let meanwhile = stage_blocking(&store, &bytes);
    assert_eq!(meanwhile.kept(), 0, "it is still being written to");
    meanwhile.discard();
    assert!(settled.try_recv().is_err());
    drop(closed);
    settled.recv().unwrap();
    assert_eq!(kept(&store, &bytes).await, 2 * MIB);
    finish(&store, &bytes).await;
}

/// Where a lock is held that must not be held across an await.
fn stage_blocking(store: &DiskStore, bytes: &Bytes) -> Arc<dyn BlobSink> {
    let (store, digest) = (store.clone(), digest_of(bytes));
    let runtime = tokio::runtime::Handle::current();
    let staged = std::thread::spawn(move || runtime.block_on(store.stage(digest, None)));
    staged.join().unwrap().unwrap()
}

/// Many that come and go at the same time: each goes on with right bytes, and nothing is left over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sinks_of_one_digest_may_come_and_go() {
    let dir = TempDir::new().unwrap();
    let store = DiskStore::open(dir.path()).await.unwrap();
    let bytes = sample(3 * MIB, 1);
    let attempts = (0..16_usize).map(|n| {
        let (store, bytes) = (store.clone(), bytes.clone());
        async move {
            for round in 0..4 {
                let sink = stage(&store, &bytes).await;
                let kept = usize::try_from(sink.kept()).unwrap();
                let read = sink.reader().read_at(0, usize::MAX).await.unwrap();
                assert!(read == bytes.slice(..kept));
                let end = (kept + MIB / 4 * (n % 5)).min(bytes.len());
                fill(&*sink, &bytes, end).await;
                match (n + round) % 4 {
                    0 => sink.discard(),
                    1 => drop(sink.write_at(end as u64, bytes.slice(end..))),
                    _ => drop(sink),
                }
            }
        }
    });
    join_all(attempts).await;
    finish(&store, &bytes).await;
    store.close().await.unwrap();
    assert_eq!(partial_names(dir.path()), [""; 0]);
}

/// A data folder with partial files as a test makes them.
struct Found {
    dir: TempDir,
}

impl Found {
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let store = DiskStore::open(dir.path()).await.unwrap();
        store.close().await.unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("partial").join(name)
    }

    /// A partial file of `len` bytes that are all holes, with this checkpoint, this long ago.
    fn add(&self, digest: Digest, unique: &str, len: u64, checkpoint: &str, age: Duration) {
        let name = format!("{digest}.{unique}").replace(':', "-");
        let file = File::create(self.path(&name)).unwrap();
        file.set_len(len).unwrap();
        file.set_modified(now() - age).unwrap();
        fs::write(self.path(&format!("{name}.checkpoint")), checkpoint).unwrap();
    }

    async fn open(&self) -> DiskStore {
        let mut options = options();
        options.clock = Arc::new(Noon);
        DiskStore::open_with(self.dir.path(), options)
            .await
            .unwrap()
    }
}

/// A clock that stands.
struct Noon;

const NOON: Duration = Duration::from_secs(1_800_000_000);

impl Clock for Noon {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(u64::try_from(NOON.as_millis()).unwrap())
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + NOON
}

fn line(checkpoint: u64) -> String {
    format!("{checkpoint:020}\n")
}

async fn kept_bytes(store: &DiskStore, digest: Digest) -> u64 {
    store.stage(digest, None).await.unwrap().kept()
}

#[tokio::test]
async fn a_start_keeps_what_is_of_use() {
    const M: u64 = MIB as u64;
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let young = Duration::ZERO;
    let digest = digest_of(b"wanted");
    for (what, len, checkpoint, age, expected) in [
        ("whole", 2 * M, line(2 * M), young, 2 * M),
        (
            "longer than its checkpoint",
            3 * M,
            line(2 * M),
            young,
            2 * M,
        ),
        (
            "shorter than its checkpoint",
            2 * M,
            line(3 * M),
            young,
            2 * M,
        ),
        ("too short for its checkpoint", M - 1, line(3 * M), young, 0),
        ("empty", 0, line(3 * M), young, 0),
        ("just large enough", M, line(M), young, M),
        ("too small", 2 * M, line(M - 1), young, 0),
        ("not begun", 2 * M, line(0), young, 0),
        ("an empty checkpoint", 2 * M, String::new(), young, 0),
        (
            "a torn checkpoint",
            2 * M,
            line(2 * M)[..20].to_owned(),
            young,
            0,
        ),
        ("a long checkpoint", 2 * M, line(2 * M) + "1", young, 0),
        ("zeros", 2 * M, "\0".repeat(21), young, 0),
        ("nonsense", 2 * M, "x".repeat(20) + "\n", young, 0),
        ("more than a number", 2 * M, "9".repeat(20) + "\n", young, 0),
        ("as old as it may be", 2 * M, line(2 * M), DAY, 2 * M),
        (
            "too old",
            2 * M,
            line(2 * M),
            DAY + Duration::from_millis(1),
            0,
        ),
    ] {
        let found = Found::new().await;
        found.add(digest, "aB3xYz", len, &checkpoint, age);
        let store = found.open().await;
        let recovery = store.recovery();
        let is_kept = u64::from(expected > 0);
        assert_eq!(
            (recovery.partial_kept, recovery.partial_swept),
            (is_kept, 1 - is_kept),
            "{what}"
        );
        let names = partial_names(found.dir.path());
        assert_eq!(names.len() as u64, 2 * is_kept, "{what}: {names:?}");
        assert_eq!(kept_bytes(&store, digest).await, expected, "{what}");
    }
}

#[tokio::test]
async fn a_start_removes_only_what_is_ours() {
    let found = Found::new().await;
    let digest = digest_of(b"wanted").to_string().replace(':', "-");
    let useless = [
        "fill-aB3xYz".to_owned(),
        // Without a checkpoint.
        format!("{digest}.aB3xYz"),
        // Without content.
        format!("{digest}.c0ffee.checkpoint"),
        digest.clone(),
        format!("{digest}.a.b"),
        format!("{}.aB3xYz", &digest[..20]),
        "sha512-".to_owned(),
    ];
    let foreign = ["mine", "sha256", "sha1-abc.def", "SHA256-ab.cd"];
    for name in useless.iter().map(String::as_str).chain(foreign) {
        fs::write(found.path(name), vec![1; 2 * MIB]).unwrap();
    }
    let folder = format!("{digest}.folder");
    fs::create_dir(found.path(&folder)).unwrap();
    let store = found.open().await;
    let recovery = store.recovery();
    assert_eq!(
        (recovery.partial_kept, recovery.partial_swept),
        (0, 6),
        "a checkpoint alone does not count"
    );
    let mut expected: Vec<String> = foreign.map(str::to_owned).into();
    expected.push(folder);
    expected.sort();
    assert_eq!(partial_names(found.dir.path()), expected);
}

#[tokio::test]
async fn of_one_blob_the_longest_is_kept() {
    let found = Found::new().await;
    let digest = digest_of(b"wanted");
    let hours = |n: u64| Duration::from_secs(n * 3_600);
    for (unique, mib, age) in [("a", 2, 1), ("b", 4, 9), ("c", 3, 0), ("d", 9, 25)] {
        found.add(digest, unique, mib << 20, &line(mib << 20), hours(age));
    }
    let store = found.open().await;
    let recovery = store.recovery();
    assert_eq!((recovery.partial_kept, recovery.partial_swept), (1, 3));
    assert_eq!(kept_bytes(&store, digest).await, 4 << 20);
}

#[tokio::test]
async fn the_oldest_go_where_there_are_too_many() {
    let found = Found::new().await;
    let digest = |n: usize| digest_of(&[u8::try_from(n).unwrap()]);
    for n in 0..UNFINISHED_MAX + 3 {
        let age = Duration::from_secs(n as u64);
        found.add(digest(n), "a", MIB as u64, &line(MIB as u64), age);
    }
    let store = found.open().await;
    let recovery = store.recovery();
    assert_eq!(
        (recovery.partial_kept, recovery.partial_swept),
        (UNFINISHED_MAX as u64, 3)
    );
    for (n, expected) in [(0, MIB), (UNFINISHED_MAX - 1, MIB), (UNFINISHED_MAX, 0)] {
        let kept = kept_bytes(&store, digest(n)).await;
        assert_eq!(kept, expected as u64, "{n}");
    }
    // Also while it is in use.
    let bytes = sample(2 * MIB, 1);
    leave(&store, &bytes, MIB).await;
    store.close().await.unwrap();
    assert_eq!(partial_names(found.dir.path()).len(), 2 * UNFINISHED_MAX);
}

#[tokio::test]
async fn the_oldest_go_where_they_are_too_large_together() {
    let digest = |n: u8| digest_of(&[n]);
    let part = UNFINISHED_TOTAL_BYTES_MAX / 4;
    for (lens, expected) in [
        (vec![part; 5], 4),
        (vec![part, part, part, part + 1], 3),
        // The last is kept, whatever it takes.
        (vec![5 * part, part], 1),
        (vec![part, 5 * part], 1),
    ] {
        let found = Found::new().await;
        for (n, len) in lens.iter().enumerate() {
            let age = Duration::from_secs(n as u64);
            let digest = digest(u8::try_from(n).unwrap());
            found.add(digest, "a", *len, &line(*len), age);
        }
        let store = found.open().await;
        assert_eq!(store.recovery().partial_kept, expected, "{lens:?}");
        assert_eq!(kept_bytes(&store, digest(0)).await, lens[0]);
    }
}

/// A clock that never tells the same time twice.
#[derive(Default)]
struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.fetch_add(1, Ordering::SeqCst))
    }
}

/// A disk whose free space is what its partial files leave of it.
async fn full_disk(dir: &TempDir, bytes: u64) -> (DiskStore, Arc<AtomicU64>) {
    let size = Arc::new(AtomicU64::new(bytes));
    let (told, partial) = (Arc::clone(&size), dir.path().join("partial"));
    let mut options = options().with_space(move || {
        let files = fs::read_dir(&partial).unwrap();
        // One may be removed meanwhile.
        let used: u64 = files
            .filter_map(|file| Some(file.unwrap().metadata().ok()?.len()))
            .sum();
        let size = told.load(Ordering::SeqCst);
        DiskSpace {
            total: size,
            available: size.saturating_sub(used),
        }
    });
    options.reserve = Reserve::Bytes(1);
    options.clock = Arc::new(Ticking::default());
    let store = DiskStore::open_with(dir.path(), options).await.unwrap();
    (store, size)
}

#[tokio::test]
async fn what_nobody_writes_gives_way_to_what_is_wanted() {
    const M: u64 = MIB as u64;
    let dir = TempDir::new().unwrap();
    // And some for the checkpoints.
    let (store, _) = full_disk(&dir, 10 * M + 1_000).await;
    let [a, b, c] = [1, 2, 3].map(|n| sample(6 * MIB, n));
    leave(&store, &a, 2 * MIB).await;
    leave(&store, &b, 3 * MIB).await;

    // Enough for it, without the oldest.
    let sink = store.stage(digest_of(&c), Some(6 * M)).await.unwrap();
    assert_eq!(
        partial_names(dir.path()).len(),
        3,
        "what was left of b stays"
    );
    // What is kept needs no more room; what was promised to c is not there for b.
    let staged = store.stage(digest_of(&b), Some(4 * M + 1)).await;
    assert_eq!(staged.unwrap().kept(), 3 * M);
    let refused = store.stage(digest_of(&b), Some(5 * M)).await;
    assert!(matches!(refused.err(), Some(StoreError::NoSpace { .. })));
    drop(sink);
    assert_eq!(kept(&store, &b).await, 3 * MIB, "it was put back");

    // More than all of it: everything gives way, in vain.
    let refused = store.stage(digest_of(&a), Some(11 * M)).await;
    assert!(matches!(refused.err(), Some(StoreError::NoSpace { .. })));
    assert_eq!(kept(&store, &b).await, 0);
}

#[tokio::test]
async fn what_nobody_writes_gives_way_to_a_write() {
    const M: u64 = MIB as u64;
    let dir = TempDir::new().unwrap();
    let (store, size) = full_disk(&dir, 100 * M).await;
    let bytes = sample(3 * MIB, 1);
    leave(&store, &bytes, 2 * MIB).await;
    let other = sample(40 * MIB, 2);
    let sink = stage(&store, &other).await;
    sink.write_at(0, other.slice(..15 * MIB)).await.unwrap();
    size.store(16 * M, Ordering::SeqCst);
    let more = sink.write_at(15 * M, other.slice(15 * MIB..16 * MIB));
    more.await.unwrap();
    assert_eq!(partial_names(dir.path()).len(), 1, "it gave way");
    size.store(15 * M, Ordering::SeqCst);
    let refused = sink.write_at(16 * M, other.slice(16 * MIB..32 * MIB));
    let refused = refused.await;
    assert!(matches!(refused, Err(StoreError::NoSpace { .. })));
    // What was written up to then is as good as before.
    sink.checkpoint(16 * M);
    drop(sink);
    size.store(100 * M, Ordering::SeqCst);
    assert_eq!(kept(&store, &other).await, 16 * MIB);

    // A manifest is worth more too.
    size.store(16 * M, Ordering::SeqCst);
    let manifest = Manifest::of_bytes(None, Bytes::from_static(b"{\"layers\":[]}")).unwrap();
    store.put_manifest(manifest).await.unwrap();
    assert_eq!(partial_names(dir.path()), [""; 0]);
}

/// Holes take no room, and what is kept is not promised again.
#[tokio::test]
async fn room_is_promised_for_what_is_missing() {
    const M: u64 = MIB as u64;
    let dir = TempDir::new().unwrap();
    let (store, _) = full_disk(&dir, 10 * M + 100).await;
    let bytes = sample(8 * MIB, 1);
    leave(&store, &bytes, 4 * MIB).await;
    let sink = store.stage(digest_of(&bytes), Some(8 * M)).await.unwrap();
    assert_eq!(sink.kept(), 4 * M);
    let other = digest_of(b"other");
    let fits = async |bytes| match store.stage(other, Some(bytes)).await {
        Ok(_) => true,
        Err(StoreError::NoSpace { .. }) => false,
        Err(other) => panic!("{other:?}"),
    };
    assert!(fits(2 * M).await);
    assert!(!fits(2 * M + 100).await);
    fill(&*sink, &bytes, 6 * MIB).await;
    assert!(fits(2 * M).await);
    assert!(!fits(2 * M + 100).await);
    drop(sink);
    assert!(fits(4 * M).await);
}

#[tokio::test]
async fn an_unfinished_blob_is_no_blob() {
    let dir = TempDir::new().unwrap();
    let store = DiskStore::open(dir.path()).await.unwrap();
    let bytes = sample(2 * MIB, 1);
    leave(&store, &bytes, 2 * MIB).await;
    store.close().await.unwrap();
    // Not even where the index is made anew from the files.
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let store = DiskStore::open(dir.path()).await.unwrap();
    assert_eq!(store.recovery().rebuilt.as_ref().unwrap().blobs, 0);
    assert_eq!(store.stat(digest_of(&bytes)).await.unwrap(), None);
    put_blob(&store, &sample(10, 1)).await.unwrap();
    assert_eq!(kept(&store, &bytes).await, 2 * MIB);
}
