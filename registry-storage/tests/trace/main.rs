//! 40 GB of pulls through a budget of 1 GB, on real files: the budget holds at every moment, no
//! pull fails, what is hit is nearly what an ideal cache would hit, and in the end the files are
//! what the index says, to the byte.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]
#![expect(clippy::print_stderr, reason = "what was measured is the report")]

mod catalog;
mod ideal;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use registry_core::testing::ManualClock;
use registry_core::{
    BlobPayload, CacheStatus, Caller, FileSlice, Hasher, InventoryStore as _, Limits, Origin,
    Reference, RegistryCache, Repository, Retention, Stores, UpstreamEntry, UpstreamId, Upstreams,
};
use registry_storage::{DiskOptions, DiskStore, Reserve};

use catalog::{Catalog, Dice, Image, Part};
use ideal::IdealLru;

const PULLED_BYTES: u64 = 40_000_000_000;
const BUDGET_BYTES: u64 = 1_000_000_000;
const IMAGES: u64 = 300;
const ZIPF_EXPONENT: f64 = 1.0;
/// Between two pulls, as the clock of the test has it.
const PULL_EVERY: Duration = Duration::from_secs(20);
/// Pulls between two looks at the files.
const LOOK_EVERY: u64 = 50;
/// How long a pass that is under way may take to end.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);
/// Of the bytes of a blob that was served from a file, how many are read and compared: all of its
/// beginning, which tells it from every other, and of every so manieth blob all.
const HASH_EVERY: u64 = 16;

struct Run {
    cache: RegistryCache,
    store: Arc<DiskStore>,
    catalog: Arc<Catalog>,
    clock: Arc<ManualClock>,
    origin: Origin,
    served: u64,
}

/// Objects and bytes that were asked for, and those of them that were there.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    objects: u64,
    bytes: u64,
    hit_objects: u64,
    hit_bytes: u64,
}

impl Tally {
    fn add(&mut self, part: Part, hit: bool) {
        self.objects += 1;
        self.bytes += part.size;
        if hit {
            self.hit_objects += 1;
            self.hit_bytes += part.size;
        }
    }

    fn ratios(&self) -> [f64; 2] {
        [
            self.hit_objects as f64 / self.objects as f64,
            self.hit_bytes as f64 / self.bytes as f64,
        ]
    }
}

impl Run {
    async fn new(folder: &Path) -> Self {
        let catalog = Arc::new(Catalog::new(IMAGES, &mut Dice::new(7)));
        let clock = Arc::new(ManualClock::default());
        let mut options = DiskOptions::default();
        options.clock = Arc::clone(&clock) as _;
        // The budget is what is tested here, not the disk of whoever runs this.
        options.reserve = Reserve::Bytes(0);
        let store = Arc::new(DiskStore::open_with(folder, options).await.unwrap());
        let mut upstreams = Upstreams::new();
        let id = UpstreamId::parse("registry.example").unwrap();
        upstreams.insert(id.clone(), UpstreamEntry::new(Arc::clone(&catalog) as _));
        let stores = Stores::of(Arc::clone(&store)).kept_by(Arc::clone(&store));
        let cache = RegistryCache::with(
            stores,
            upstreams,
            Limits::default(),
            Arc::clone(&clock) as _,
        );
        cache.set_retention(Retention {
            bytes_max: Some(BUDGET_BYTES),
            ..Retention::default()
        });
        Self {
            cache,
            store,
            catalog,
            clock,
            origin: Origin::new(id, Repository::parse("library/app").unwrap()),
            served: 0,
        }
    }

    /// Pulls an image as a client does that has nothing of it.
    async fn pull(&mut self, image: &Image, tally: &mut Tally) {
        let reference = Reference::Tag(image.tag.clone());
        let caller = Caller::Anonymous;
        let served = self
            .cache
            .manifest(&self.origin, &reference, &caller)
            .await
            .unwrap();
        assert_eq!(served.value.digest(), image.manifest.digest);
        tally.add(image.manifest, served.status == CacheStatus::Revalidated);
        for part in &image.blobs {
            let hit = self.fetch(*part).await;
            tally.add(*part, hit);
            self.assert_within_budget().await;
        }
    }

    /// Reads a blob to its end; whether it was there.
    async fn fetch(&mut self, part: Part) -> bool {
        let served = self
            .cache
            .blob(&self.origin, part.digest, None, &Caller::Anonymous)
            .await
            .unwrap();
        assert_eq!(served.value.size, part.size);
        self.served += 1;
        match served.value.payload {
            BlobPayload::File(file) => {
                assert_eq!(file.metadata().unwrap().len(), part.size);
                let read = if self.served.is_multiple_of(HASH_EVERY) {
                    part.size
                } else {
                    part.size.min(64)
                };
                let mut bytes = vec![0; usize::try_from(read).unwrap()];
                file.read_exact_at(&mut bytes, 0).unwrap();
                self.catalog.assert_begins_with(part.digest, &bytes);
            }
            BlobPayload::Slices(mut slices) => {
                let mut hasher = Hasher::new(part.digest.algorithm());
                while let Some(FileSlice { file, range }) = slices.try_next().await.unwrap() {
                    let mut bytes = vec![0; usize::try_from(range.len()).unwrap()];
                    file.read_exact_at(&mut bytes, range.start()).unwrap();
                    hasher.update(&bytes);
                }
                hasher.verify(part.digest).unwrap();
            }
            other => panic!("{other:?}"),
        }
        served.status == CacheStatus::Hit
    }

    async fn assert_within_budget(&self) {
        let usage = self.store.usage().await.unwrap();
        assert!(usage.bytes <= BUDGET_BYTES, "{usage:?}");
    }

    async fn idle(&self) {
        while self.cache.fills_active() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Bytes of all files below a folder.
fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
                Ok(meta) => meta.len(),
                // Evicted this moment.
                Err(_) => 0,
            }
        })
        .sum()
}

fn content_bytes(folder: &Path) -> u64 {
    bytes_below(&folder.join("blobs")) + bytes_below(&folder.join("manifests"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_gigabytes_of_pulls_go_through_a_budget_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::new(folder.path()).await;
    let mut dice = Dice::new(99);
    let popularity = run.catalog.zipf(ZIPF_EXPONENT);
    let mut ideal = IdealLru::new(BUDGET_BYTES);
    let (mut ours, mut best) = (Tally::default(), Tally::default());
    let mut pulls = 0;
    while ours.bytes < PULLED_BYTES {
        let image = run.catalog.images[popularity.next(&mut dice)].clone();
        run.pull(&image, &mut ours).await;
        // What the last of it is read from may not be kept yet.
        run.idle().await;
        for part in std::iter::once(&image.manifest).chain(&image.blobs) {
            best.add(*part, ideal.ask(*part));
        }
        run.clock.advance(PULL_EVERY);
        pulls += 1;
        if pulls % LOOK_EVERY == 0 {
            let bytes = content_bytes(folder.path());
            assert!(bytes <= BUDGET_BYTES, "{bytes} bytes in files");
        }
    }

    run.idle().await;
    // A pass that makes room for what comes next may be under way: its files and its rows go one after
    // the other.
    let deadline = Instant::now() + SETTLED_WITHIN;
    let mut usage = run.store.usage().await.unwrap();
    while usage.bytes != content_bytes(folder.path()) {
        assert!(Instant::now() < deadline, "{usage:?}");
        usage = run.store.usage().await.unwrap();
    }
    assert!(
        usage.bytes > BUDGET_BYTES / 2,
        "it holds what it may: {usage:?}"
    );
    for (what, [ours, best]) in [
        ("objects", [ours.ratios()[0], best.ratios()[0]]),
        ("bytes", [ours.ratios()[1], best.ratios()[1]]),
    ] {
        eprintln!("{pulls} pulls, {what}: {ours:.4} hit, an ideal cache {best:.4}");
        assert!((ours - best).abs() < 0.02, "{what}: {ours} against {best}");
    }
    // Each miss cost the upstream its bytes once.
    let missed = ours.bytes - ours.hit_bytes;
    assert!(
        run.catalog.bytes_sent() <= missed,
        "{} sent",
        run.catalog.bytes_sent()
    );
}
