//! How long until a mirror with a large index answers, how much memory does that take, and what
//! does an eviction cost then? Fills the index of a data folder with rows of blobs and of links,
//! opens it in a process of its own, and evicts; then the same with a hundredth of the rows.
//!
//! Unless `cargo bench` runs it, the rows are few: it then shows only that the benchmark works.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

#[expect(dead_code, reason = "each benchmark uses a part of it")]
mod setup;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use registry_core::testing::content::{digest_of, put_blob, sample};
use registry_core::{
    Digest, InventoryStore as _, Link, LinkStore as _, LinkTarget, Origin, RemovedUnused,
    Repository, Timestamp, UpstreamId,
};
use registry_storage::DiskStore;

use setup::{REPOSITORY, UPSTREAM, runtime};

const ROWS: u64 = 1_000_000;
/// What opening such an index may take.
const OPEN_TIME_MAX: Duration = Duration::from_secs(2);
const OPEN_RESIDENT_KIB_MAX: u64 = 200 << 10;
/// Rows that are written at a time, as a large manifest would.
const BATCH: u64 = 1_000;
/// Opens of which the best counts: the others met something else on the machine.
const OPENS: u32 = 3;
/// Blobs with files that are evicted.
const EVICTIONS: u64 = 100;
/// How many times the cost of an eviction with few rows that with many may be, noise included.
const EVICTION_FACTOR_MAX: u32 = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, open, folder, rows] = &arguments[..]
        && open == "open"
    {
        let rows = rows.parse().expect("a number");
        return runtime().block_on(open_and_tell(Path::new(folder), rows));
    }
    // What cargo bench passes, and cargo test does not.
    let is_full = arguments.iter().any(|argument| argument == "--bench");
    let rows = if is_full { ROWS } else { ROWS / 100 };
    let many = measure(rows);
    if is_full {
        assert!(many.open.time <= OPEN_TIME_MAX, "{:?}", many.open.time);
        let resident = many.open.resident_kib;
        assert!(resident <= OPEN_RESIDENT_KIB_MAX, "{resident} KiB");
        let few = measure(rows / 100);
        assert!(many.eviction <= few.eviction * EVICTION_FACTOR_MAX);
    }
}

struct Measured {
    open: Opened,
    eviction: Duration,
}

fn measure(rows: u64) -> Measured {
    let folder = tempfile::tempdir().expect("a temporary folder");
    runtime().block_on(fill(folder.path(), rows));
    let opens = (0..OPENS).map(|_| open_apart(folder.path(), rows));
    let open = opens.min_by_key(|open| open.time).expect("some");
    println!(
        "{rows} rows: opened and asked within {:?}, {} KiB resident",
        open.time, open.resident_kib
    );
    let eviction = runtime().block_on(evict(folder.path(), rows));
    Measured { open, eviction }
}

fn origin() -> Origin {
    Origin::new(
        UpstreamId::parse(UPSTREAM).expect("a name"),
        Repository::parse(REPOSITORY).expect("a name"),
    )
}

fn digest(row: u64) -> Digest {
    digest_of(&row.to_le_bytes())
}

async fn open(folder: &Path) -> DiskStore {
    DiskStore::open(folder).await.expect("the store opens")
}

/// Half of the rows are blobs, and half are links; to each come those that are derived from it.
/// Beside them, some blobs with files, which are the coldest.
async fn fill(folder: &Path, rows: u64) {
    let store = open(folder).await;
    let begun = Instant::now();
    for n in 0..EVICTIONS {
        let put = put_blob(&store, &sample(10_000, n)).await;
        put.expect("a blob");
    }
    // Later than the clock that told when those came.
    let later = |row| Timestamp::from_millis((1 << 50) + row);
    for batch in (0..rows).step_by(usize::try_from(2 * BATCH).expect("small")) {
        let middle = batch + BATCH;
        let blobs = (batch..middle).map(|row| (digest(row), row, later(row)));
        store.plant_blobs(blobs.collect()).await.expect("blobs");
        let links = (middle..middle + BATCH).map(|row| Link {
            target: LinkTarget::Blob(digest(row)),
            size: Some(row),
        });
        let linked = store.link(&origin(), links.collect()).await;
        linked.expect("links");
    }
    store.close().await.expect("it closes");
    println!("{rows} rows: written within {:?}", begun.elapsed());
}

struct Opened {
    time: Duration,
    resident_kib: u64,
}

/// Opens the folder in a process of its own, so that its memory is that of opening.
fn open_apart(folder: &Path, rows: u64) -> Opened {
    let output = Command::new(std::env::current_exe().expect("this benchmark"))
        .args(["open", folder.to_str().expect("a plain path")])
        .arg(rows.to_string())
        .stderr(Stdio::inherit())
        .output()
        .expect("a process");
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stdout).expect("text");
    let mut numbers = told.split_whitespace().map(|text| text.parse::<u64>());
    let mut next = || numbers.next().expect("two").expect("a number");
    Opened {
        time: Duration::from_micros(next()),
        resident_kib: next(),
    }
}

/// Opens the folder, asks what a mirror asks at once, and tells how long that took and how much
/// memory.
async fn open_and_tell(folder: &Path, rows: u64) {
    let begun = Instant::now();
    let store = open(folder).await;
    let usage = store.usage().await.expect("the sums");
    let coldest = store.coldest(None, None, 64).await.expect("the order");
    let target = LinkTarget::Blob(digest(rows - 1));
    let link = store.linked(&origin(), target).await.expect("the index");
    let time = begun.elapsed();
    assert!(usage.blobs >= rows / 2 && !coldest.is_empty() && link.is_some());
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let resident = resident.and_then(|text| text.split_whitespace().next());
    println!(
        "{} {}",
        time.as_micros(),
        resident.expect("the most resident")
    );
    store.close().await.expect("it closes");
}

/// Evicts the coldest, one at a time as a collector does; gives what one costs.
async fn evict(folder: &Path, rows: u64) -> Duration {
    let store = open(folder).await;
    let (mut looking, mut removing) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..EVICTIONS {
        let begun = Instant::now();
        let coldest = store.coldest(None, None, 1).await.expect("the order");
        looking += begun.elapsed();
        let target = coldest[0].position.target;
        let begun = Instant::now();
        store.forget(target).await.expect("forget");
        let removed = store.remove_unused(target.digest()).await;
        removing += begun.elapsed();
        let removed = removed.expect("remove");
        assert!(matches!(removed, RemovedUnused::Removed(10_000)));
    }
    store.close().await.expect("it closes");
    let count = u32::try_from(EVICTIONS).expect("few");
    let (looking, removing) = (looking / count, removing / count);
    println!(
        "{rows} rows: the coldest is told within {looking:?}, and removed within {removing:?}"
    );
    looking + removing
}
