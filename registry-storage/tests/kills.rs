//! A process that commits and evicts is killed at any moment, again and again on one folder.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod audit;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use bytes::Bytes;
use registry_core::testing::content::{digest_of, put_blob, sample};
use registry_core::{
    BlobStore as _, Digest, InventoryStore as _, JournalStore as _, Link, LinkStore as _,
    LinkTarget, Manifest, ManifestStore as _, Origin, Pin, Provenance, Removal, RemovalReason,
    RemovedUnused, Repository, Tag, TagRecord, TagStore as _, Timestamp, UpstreamId,
};
use registry_storage::DiskStore;
use tempfile::TempDir;

/// Tells a run of this program that it is the one to be killed: its data folder, and its seed.
const DATA_DIR: &str = "REGISTRY_STORAGE_TEST_DATA_DIR";
const SEED: &str = "REGISTRY_STORAGE_TEST_SEED";

/// How often it is killed.
const KILLS: u64 = 100;
/// Blobs and images that it commits and evicts: few, so that it is about the same ones.
const FEW: u64 = 12;

/// Numbers that look random, and are the same for a seed.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        // The constants of MMIX.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn small(n: u64) -> Bytes {
    sample(usize::try_from(n).unwrap() * 700, n)
}

/// An image of three blobs, which others name too.
fn image(n: u64) -> Manifest {
    let layers = [n % FEW, (n + 1) % FEW, n * 5 % FEW].map(|n| {
        let (digest, size) = (digest_of(&small(n)), small(n).len());
        format!(r#"{{"digest":"{digest}","size":{size}}}"#)
    });
    let bytes = format!(r#"{{"n":{n},"layers":[{}]}}"#, layers.join(","));
    Manifest::of_bytes(None, bytes.into()).unwrap()
}

fn origin(n: u64) -> Origin {
    let repository = ["a", "a/b", "b"][usize::try_from(n).unwrap()];
    Origin::new(
        UpstreamId::parse("ghcr.io").unwrap(),
        Repository::parse(repository).unwrap(),
    )
}

/// Keeps an image as a pull does, and notes where all of it came from.
async fn pull(store: &DiskStore, n: u64, at: &Origin) {
    let image = image(n);
    let target = LinkTarget::Manifest(image.digest());
    let tag = Tag::parse("latest").unwrap();
    let mut links = image.links().to_vec();
    links.push(Link { target, size: None });
    store.put_manifest(image.clone()).await.unwrap();
    store.link(at, links.clone()).await.unwrap();
    let record = TagRecord {
        digest: image.digest(),
        fetched_at: Timestamp::from_millis(1),
        validated_at: Timestamp::from_millis(1),
    };
    store.put_tag(at, &tag, record).await.unwrap();
    for link in links {
        let provenance = Provenance {
            origin: at.clone(),
            endpoint: None,
            at: Timestamp::from_millis(1),
        };
        store.note(link.target, provenance).await.unwrap();
    }
}

/// Removes what nobody has used for longest, and what only that has needed.
async fn evict(store: &DiskStore) {
    let coldest = store.coldest(None, None, 1).await.unwrap();
    let Some(unit) = coldest.first() else {
        return;
    };
    let target = unit.position.target;
    let mut unused = vec![target.digest()];
    if let LinkTarget::Manifest(digest) = target {
        let manifest = store.peek_manifest(digest).await.unwrap();
        let links = manifest.as_ref().map(Manifest::links).unwrap_or_default();
        unused = links.iter().map(|link| link.target.digest()).collect();
    }
    store.forget(target).await.unwrap();
    if let LinkTarget::Manifest(digest) = target {
        store.remove_manifest(digest).await.unwrap();
    }
    for digest in unused {
        tell("removing", digest);
        if store.remove_unused(digest).await.unwrap() == RemovedUnused::Needed {
            tell("needed", digest);
        }
    }
    let removal = Removal {
        at: Timestamp::from_millis(1),
        target,
        origins: Vec::new(),
        tags: Vec::new(),
        bytes: unit.bytes,
        accessed_at: None,
        reason: RemovalReason::Size,
    };
    store.put_removal(removal).await.unwrap();
}

fn tell(what: &str, digest: Digest) {
    let mut out = std::io::stdout();
    writeln!(out, "\n{what} {digest}").unwrap();
}

/// What the process to be killed does: it commits, pulls, evicts and reads at random, and tells
/// which blobs may go, before they do, and which are there, after they have come.
async fn churn_for_ever(data: std::ffi::OsString, seed: u64) {
    let store = DiskStore::open(data).await.unwrap();
    let mut dice = Dice(seed);
    loop {
        let n = dice.throw(FEW);
        match dice.throw(8) {
            0..3 => tell("committed", put_blob(&store, &small(n)).await.unwrap()),
            3 | 4 => pull(&store, n, &origin(dice.throw(3))).await,
            5 => evict(&store).await,
            6 => {
                let pin = Pin::parse("ghcr.io/a:latest").unwrap();
                store
                    .put_pin(pin, Timestamp::from_millis(seed))
                    .await
                    .unwrap();
                let digest = digest_of(&small(n));
                tell("removing", digest);
                store.remove(digest).await.unwrap();
            }
            _ => {
                store.open(digest_of(&small(n)), None).await.unwrap();
                store.manifest(image(n).digest()).await.unwrap();
            }
        }
        let mut out = std::io::stdout();
        writeln!(out, "\ndone").unwrap();
    }
}

/// Lets the process run until it has done so much, and notes what it tells meanwhile; how many
/// blobs were evicted.
fn run_and_kill(data: &TempDir, round: u64, kill_after: u64, kept: &mut BTreeSet<Digest>) -> u64 {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "evictions_outlive_kills", "--nocapture"])
        .env(DATA_DIR, data.path())
        .env(SEED, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut done, mut evicted) = (0, 0);
    let mut leaving = None;
    for line in BufReader::new(process.stdout.take().unwrap()).lines() {
        let line = line.unwrap_or_default();
        if let Some(digest) = line.strip_prefix("committed ") {
            kept.insert(digest.parse().unwrap());
        } else if let Some(digest) = line.strip_prefix("removing ") {
            let digest = digest.parse().unwrap();
            leaving = kept.remove(&digest).then_some(digest);
            evicted += u64::from(leaving.is_some());
        } else if line.starts_with("needed ") {
            kept.extend(leaving.take());
        }
        done += u64::from(line == "done");
        if done == kill_after {
            // What it told meanwhile is read on, until its end is.
            let _ = process.kill();
        }
    }
    process.wait().unwrap();
    assert!(done >= kill_after, "round {round}: it ended of itself");
    evicted
}

/// It always starts, what was told to be there is there and whole, and what is told of all that is
/// kept is what there is, to the byte.
#[tokio::test]
async fn evictions_outlive_kills() {
    if let Some(data) = std::env::var_os(DATA_DIR) {
        let seed = std::env::var(SEED).unwrap().parse().unwrap();
        return churn_for_ever(data, seed).await;
    }
    // Memory rather than a disk, where there is one: a kill loses nothing that the system has.
    let data = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new());
    let data = data.unwrap();
    let mut dice = Dice(1);
    let mut kept = BTreeSet::new();
    let mut evicted = 0;
    for round in 0..KILLS {
        evicted += run_and_kill(&data, round, 1 + dice.throw(25), &mut kept);
        let at = format!("round {round}");
        let store = DiskStore::open(data.path()).await.unwrap();
        assert_eq!(store.recovery().rebuilt, None, "{at}");
        audit::audit(data.path(), &store, &at).await;
        for digest in &kept {
            let stat = store.stat(*digest).await.unwrap();
            assert!(stat.is_some(), "{at}: {digest} is gone");
        }
        assert_eq!(store.forgotten(), 0, "{at}");
        store.close().await.unwrap();
        for folder in ["partial", "unsettled"] {
            let left = fs::read_dir(data.path().join(folder)).unwrap();
            assert_eq!(left.count(), 0, "{at}: {folder}");
        }
    }
    assert!(evicted > KILLS / 4, "{evicted} are too few");
}
