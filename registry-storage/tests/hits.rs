//! What a hit costs the store: how often it is asked for something that may take a disk.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use registry_core::testing::content::{digest_of, sample};
use registry_core::testing::{ManualClock, ScriptedUpstream};
use registry_core::{
    CacheStatus, Caller, Digest, InventoryStore as _, Limits, Link, LinkStore as _, LinkTarget,
    Manifest, ManifestStore as _, Origin, Reference, RegistryCache, Repository, Stores, Tag,
    TagRecord, TagStore as _, Timestamp, UpstreamEntry, UpstreamId, UpstreamPolicy, Upstreams,
};
use registry_storage::{DiskOptions, DiskStore};
use tempfile::TempDir;
use tokio_util::task::TaskTracker;

/// Of which some pass before access times are written, which is a hop of nobody's.
const TTL: Duration = Duration::from_secs(2);

fn origin() -> Origin {
    Origin::new(
        UpstreamId::parse("one.example").unwrap(),
        Repository::parse("library/app").unwrap(),
    )
}

/// A cache on a disk, and an image that was pulled through it.
struct Mirror {
    store: Arc<DiskStore>,
    cache: RegistryCache,
    upstream: Arc<ScriptedUpstream>,
    clock: Arc<ManualClock>,
    manifest: Manifest,
    layer: Digest,
    _dir: TempDir,
}

impl Mirror {
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let clock = Arc::new(ManualClock::default());
        let mut options = DiskOptions::default();
        options.clock = Arc::clone(&clock) as _;
        let store = DiskStore::open_with(dir.path(), options).await.unwrap();
        let store = Arc::new(store);
        let stores = Stores::of(Arc::clone(&store)).kept_by(Arc::clone(&store));

        let upstream = ScriptedUpstream::new();
        let at = origin();
        let layers = [sample(4_000, 1), sample(4_000, 2)];
        let named = layers.each_ref().map(|layer| {
            upstream.add_blob(at.repository(), layer.clone());
            format!(r#"{{"digest":"{}","size":4000}}"#, digest_of(layer))
        });
        let manifest = format!(r#"{{"layers":[{}]}}"#, named.join(","));
        let manifest = Manifest::of_bytes(None, manifest.into()).unwrap();
        upstream.add_manifest(at.repository(), manifest.clone());
        let latest = Tag::parse("latest").unwrap();
        upstream.set_tag(at.repository(), &latest, manifest.digest());
        let policy = UpstreamPolicy {
            tag_ttl: TTL,
            ..UpstreamPolicy::default()
        };
        let mut upstreams = Upstreams::new();
        let entry = UpstreamEntry {
            policy,
            ..UpstreamEntry::new(Arc::clone(&upstream) as _)
        };
        upstreams.insert(at.upstream().clone(), entry);
        let limits = Limits::default();
        let cache = RegistryCache::with(stores, upstreams, limits, Arc::clone(&clock) as _);
        let mirror = Self {
            store,
            cache,
            upstream,
            clock,
            manifest,
            layer: digest_of(&layers[0]),
            _dir: dir,
        };
        for (reference, status) in [
            (mirror.by_tag(), CacheStatus::Miss),
            // What is asked for the second time is in memory from then on.
            (mirror.by_tag(), CacheStatus::Hit),
            (mirror.by_digest(), CacheStatus::Hit),
        ] {
            assert_eq!(mirror.pull(&reference).await, status);
        }
        assert_eq!(mirror.pull_layer().await, CacheStatus::Miss);
        while mirror.cache.fills_active() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(mirror.pull_layer().await, CacheStatus::Hit);
        mirror
    }

    fn by_tag(&self) -> Reference {
        Reference::parse("latest").unwrap()
    }

    fn by_digest(&self) -> Reference {
        Reference::Digest(self.manifest.digest())
    }

    async fn pull(&self, reference: &Reference) -> CacheStatus {
        let served = self
            .cache
            .manifest(&origin(), reference, &Caller::Anonymous)
            .await
            .unwrap();
        assert_eq!(served.value, self.manifest);
        served.status
    }

    async fn pull_layer(&self) -> CacheStatus {
        let served = self
            .cache
            .blob(&origin(), self.layer, None, &Caller::Anonymous)
            .await;
        served.unwrap().status
    }
}

/// For a GET and for a HEAD, which the cache does not tell apart.
#[tokio::test]
async fn a_manifest_that_was_asked_for_lately_takes_no_hop() {
    let mirror = Mirror::new().await;
    let before = mirror.store.hops();
    for _ in 0..50 {
        for reference in [mirror.by_digest(), mirror.by_tag()] {
            assert_eq!(mirror.pull(&reference).await, CacheStatus::Hit);
            // So that each of them is an access of its own.
            mirror.clock.advance(Duration::from_millis(1));
        }
    }
    assert_eq!(mirror.store.hops(), before);
    assert_eq!(mirror.upstream.calls().resolve, 1);
    let target = LinkTarget::Manifest(mirror.manifest.digest());
    let record = mirror.store.record(target).await.unwrap().unwrap();
    let last = registry_core::Clock::now(&*mirror.clock).before(Duration::from_millis(1));
    assert_eq!(record.accessed_at, Some(last));
}

#[tokio::test]
async fn a_blob_takes_one_hop() {
    let mirror = Mirror::new().await;
    let before = mirror.store.hops();
    for _ in 0..10 {
        assert_eq!(mirror.pull_layer().await, CacheStatus::Hit);
        let size = mirror
            .cache
            .stat_blob(&origin(), mirror.layer, &Caller::Anonymous)
            .await;
        assert_eq!(size.unwrap().value, 4_000);
    }
    assert_eq!(mirror.store.hops() - before, 20);
}

/// Only what it is asked for is written: when the tag was last confirmed.
#[tokio::test]
async fn a_tag_that_still_names_the_same_takes_one_hop() {
    let mirror = Mirror::new().await;
    for n in 1..10 {
        mirror.clock.advance(TTL);
        let before = mirror.store.hops();
        let status = mirror.pull(&mirror.by_tag()).await;
        assert_eq!(status, CacheStatus::Revalidated);
        assert_eq!(mirror.store.hops() - before, 1, "the {n}th");
        assert_eq!(mirror.pull(&mirror.by_tag()).await, CacheStatus::Hit);
        assert_eq!(mirror.store.hops() - before, 1, "the {n}th, and a hit");
    }
    assert_eq!(mirror.upstream.calls().resolve, 10);
}

/// A link that was removed is asked of the upstream, though it was in memory (I5).
#[tokio::test]
async fn a_link_that_is_gone_grants_nothing() {
    let mirror = Mirror::new().await;
    let at = origin();
    for target in [
        LinkTarget::Manifest(mirror.manifest.digest()),
        LinkTarget::Blob(mirror.layer),
    ] {
        assert!(mirror.store.linked(&at, target).await.unwrap().is_some());
        mirror.store.forget(target).await.unwrap();
        assert_eq!(mirror.store.linked(&at, target).await.unwrap(), None);
    }
    let asked = mirror.upstream.calls().has_manifest;
    let status = mirror.pull(&mirror.by_digest()).await;
    assert_eq!(status, CacheStatus::Revalidated);
    assert_eq!(mirror.upstream.calls().has_manifest, asked + 1);
}

/// Nothing that is in memory is told once the store is closed.
#[tokio::test]
async fn a_closed_store_tells_nothing_from_memory() {
    let mirror = Mirror::new().await;
    mirror.store.close().await.unwrap();
    let (at, digest) = (origin(), mirror.manifest.digest());
    let target = LinkTarget::Manifest(digest);
    let latest = Tag::parse("latest").unwrap();
    assert!(mirror.store.manifest_at_hand(digest).is_none());
    assert!(mirror.store.link_at_hand(&at, target).is_none());
    assert!(mirror.store.tag_at_hand(&at, &latest).is_none());
    assert!(mirror.store.manifest(digest).await.is_err());
    assert!(mirror.store.linked(&at, target).await.is_err());
    assert!(mirror.store.tag(&at, &latest).await.is_err());
    let link = Link { target, size: None };
    assert!(mirror.store.link(&at, vec![link]).await.is_err());
}

/// Readers that read a row while it is being removed never put it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_removed_while_it_is_read_stays_removed() {
    let dir = TempDir::new().unwrap();
    let store = DiskStore::open(dir.path()).await.unwrap();
    let (at, latest) = (origin(), Tag::parse("latest").unwrap());
    let target = LinkTarget::Blob(digest_of(b"layer"));
    let is_over = Arc::new(AtomicBool::new(false));
    let tasks = TaskTracker::new();
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (store, at, latest) = (store.clone(), at.clone(), latest.clone());
            let is_over = Arc::clone(&is_over);
            tasks.spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    store.linked(&at, target).await.unwrap();
                    store.tag(&at, &latest).await.unwrap();
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for n in 0..300 {
        let record = TagRecord {
            digest: digest_of(b"manifest"),
            fetched_at: Timestamp::from_millis(n),
            validated_at: Timestamp::from_millis(n),
        };
        let put = store.put_tag(&at, &latest, record.clone()).await;
        put.unwrap();
        assert_eq!(store.tag(&at, &latest).await.unwrap(), Some(record));
        assert!(store.remove_tag(&at, &latest).await.unwrap());
        assert_eq!(store.tag(&at, &latest).await.unwrap(), None, "the {n}th");
        // Which syncs, and takes longer.
        if n % 10 == 0 {
            let size = Some(n);
            let link = Link { target, size };
            store.link(&at, vec![link]).await.unwrap();
            assert_eq!(store.linked(&at, target).await.unwrap(), Some(link));
            assert!(store.unlink(&at, target).await.unwrap());
            for _ in 0..3 {
                assert_eq!(store.linked(&at, target).await.unwrap(), None, "the {n}th");
            }
        }
    }
    is_over.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    store.close().await.unwrap();
}
