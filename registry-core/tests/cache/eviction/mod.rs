//! What is evicted, when and in which order; what never is; and that no pull fails by it.

mod budget;
mod order;
mod pins;
mod rules;
mod space;
mod trace;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use registry_core::cache::{CacheUsage, CollectRequest, Collected};
use registry_core::testing::content::sample;
use registry_core::testing::{FaultingStore, ManualClock, ScriptedUpstream};
use registry_core::{
    BlobBody, BlobStore as _, CacheError, CacheStatus, Caller, Digest, InventoryStore as _, Limits,
    LinkTarget, Manifest, ManifestStore as _, MemoryStore, Origin, Pin, Progress, Reference,
    RegistryCache, Retention, Served, Stores, UpstreamEntry, UpstreamId, Upstreams,
};

use crate::support::{image, origin, read, tag};

/// What passes between two pulls.
const STEP: Duration = Duration::from_secs(60);

/// A mirror whose store tells what it keeps.
struct Keeper {
    cache: RegistryCache,
    store: Arc<FaultingStore<MemoryStore>>,
    upstream: Arc<ScriptedUpstream>,
    clock: Arc<ManualClock>,
}

/// How a keeper is set up.
#[derive(Default)]
struct Setup {
    retention: Retention,
    limits: Limits,
    capacity: Option<u64>,
    /// What is promised beside the bytes of each.
    overhead: u64,
    /// What is different of `one.example`.
    entry: Option<fn(&mut UpstreamEntry)>,
}

impl Setup {
    /// A limit in bytes, and watermarks that are the limit.
    fn bytes(bytes_max: u64) -> Self {
        Self {
            retention: Retention {
                bytes_max: Some(bytes_max),
                high_watermark: 100,
                low_watermark: 100,
                idle_max: None,
            },
            ..Self::default()
        }
    }

    fn idle(idle_max: Duration) -> Self {
        Self {
            retention: Retention {
                idle_max: Some(idle_max),
                ..Retention::default()
            },
            ..Self::default()
        }
    }

    fn build(self) -> Keeper {
        let clock = Arc::new(ManualClock::default());
        let store = MemoryStore::with(Arc::clone(&clock) as _, self.capacity);
        let store = Arc::new(FaultingStore::new(store));
        let stores = Stores::of(Arc::clone(&store)).kept_by(Arc::clone(&store));
        let upstream = ScriptedUpstream::new();
        let mut upstreams = Upstreams::new();
        for name in ["one.example", "two.example"] {
            let mut entry = UpstreamEntry::new(Arc::clone(&upstream) as _);
            if let (Some(change), "one.example") = (self.entry, name) {
                change(&mut entry);
            }
            upstreams.insert(UpstreamId::parse(name).unwrap(), entry);
        }
        let limits = Limits {
            content_overhead_bytes: self.overhead,
            ..self.limits
        };
        let cache = RegistryCache::with(stores, upstreams, limits, Arc::clone(&clock) as _);
        cache.set_retention(self.retention);
        Keeper {
            cache,
            store,
            upstream,
            clock,
        }
    }
}

/// An image at the upstream.
#[derive(Clone)]
struct Image {
    origin: Origin,
    name: String,
    manifest: Manifest,
    layers: Vec<Bytes>,
}

impl Image {
    fn digest(&self) -> Digest {
        self.manifest.digest()
    }

    fn size(&self) -> u64 {
        self.manifest.descriptor().size
    }

    fn layer(&self, n: usize) -> Digest {
        registry_core::testing::content::digest_of(&self.layers[n])
    }
}

impl Keeper {
    /// Pushes an image of these layers under a tag of its name.
    fn push(&self, origin: &Origin, name: &str, layers: &[Bytes]) -> Image {
        let repository = origin.repository();
        let named: Vec<_> = layers
            .iter()
            .map(|layer| {
                let digest = self.upstream.add_blob(repository, layer.clone());
                (digest, layer.len())
            })
            .collect();
        let manifest = image(name, &named);
        self.upstream.add_manifest(repository, manifest.clone());
        self.upstream
            .set_tag(repository, &tag(name), manifest.digest());
        Image {
            origin: origin.clone(),
            name: name.to_owned(),
            manifest,
            layers: layers.to_vec(),
        }
    }

    /// The same, with one layer that no other has.
    fn push_own(&self, name: &str, layer_bytes: usize) -> Image {
        let seed = name
            .bytes()
            .fold(7, |seed, byte| seed * 31 + u64::from(byte));
        self.push(&app(), name, &[sample(layer_bytes, seed)])
    }

    /// Pulls an image by its tag, all of it, a step later; how each part was answered.
    async fn pull(&self, image: &Image) -> Vec<CacheStatus> {
        self.clock.advance(STEP);
        let manifest = self.get(image).await;
        assert_eq!(manifest.value, image.manifest);
        let mut statuses = vec![manifest.status];
        for (n, layer) in image.layers.iter().enumerate() {
            statuses.push(self.pull_layer(image, n, layer).await);
        }
        statuses
    }

    /// A blob of [`app`], opened.
    async fn open(&self, digest: Digest) -> Served<BlobBody<CacheError>> {
        let origin = app();
        let blob = self.cache.blob(&origin, digest, None, &Caller::Anonymous);
        blob.await.unwrap()
    }

    /// The manifest alone, by its tag.
    async fn get(&self, image: &Image) -> Served<Manifest> {
        let reference = Reference::Tag(tag(&image.name));
        let origin = &image.origin;
        let manifest = self.cache.manifest(origin, &reference, &Caller::Anonymous);
        manifest.await.unwrap()
    }

    async fn pull_layer(&self, image: &Image, n: usize, layer: &Bytes) -> CacheStatus {
        let digest = image.layer(n);
        let served = self
            .cache
            .blob(&image.origin, digest, None, &Caller::Anonymous)
            .await
            .unwrap();
        assert!(read(served.value).await.unwrap() == *layer);
        self.idle().await;
        served.status
    }

    /// Waits until no fill is under way.
    async fn idle(&self) {
        self.until("the fills end", async || self.cache.fills_active() == 0)
            .await;
    }

    /// Waits for something to become so.
    async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        for _ in 0..60_000 {
            if is_so().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("waited in vain: {what}");
    }

    async fn usage(&self) -> CacheUsage {
        self.cache.usage().await.unwrap().unwrap()
    }

    async fn kept_bytes(&self) -> u64 {
        self.store.inner().usage().await.unwrap().bytes
    }

    async fn has(&self, image: &Image) -> bool {
        let store = self.store.inner();
        store.peek_manifest(image.digest()).await.unwrap().is_some()
    }

    async fn has_blob(&self, digest: Digest) -> bool {
        self.store.inner().stat(digest).await.unwrap().is_some()
    }

    /// The names of those images that are kept. Each must be whole.
    async fn kept<'a>(&self, images: &'a [Image]) -> Vec<&'a str> {
        let mut names = Vec::new();
        for image in images {
            if self.has(image).await {
                names.push(image.name.as_str());
                for n in 0..image.layers.len() {
                    let is_whole = self.has_blob(image.layer(n)).await;
                    assert!(is_whole, "{} promises what is gone", image.name);
                }
            }
        }
        names
    }

    async fn collect(&self, bytes: u64) -> Collected {
        let request = CollectRequest {
            bytes: Some(bytes),
            dry_run: false,
        };
        let progress = Progress::new();
        self.cache.collect(request, &progress).await.unwrap()
    }

    /// Evicts what is over the limits.
    async fn collect_what_is_over(&self) -> Collected {
        let progress = Progress::new();
        let request = CollectRequest::default();
        self.cache.collect(request, &progress).await.unwrap()
    }

    async fn pin(&self, pin: &str) {
        let pin = Pin::parse(pin).unwrap();
        assert!(self.cache.pin(pin).await.unwrap());
    }
}

/// `one.example/library/app`.
fn app() -> Origin {
    origin("one.example", "library/app")
}

fn targets(collected: &Collected) -> Vec<LinkTarget> {
    let removed = collected.removed.iter();
    removed.map(|removal| removal.target).collect()
}

fn manifests(images: &[&Image]) -> Vec<LinkTarget> {
    let digests = images.iter().map(|image| image.digest());
    digests.map(LinkTarget::Manifest).collect()
}

/// An index of images, pushed under a tag.
fn push_index(keeper: &Keeper, name: &str, images: &[&Image]) -> Image {
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let children: Vec<_> = images
        .iter()
        .map(|image| {
            let (digest, size) = (image.digest(), image.size());
            format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size}}}"#)
        })
        .collect();
    let json = format!(r#"{{"manifests":[{}]}}"#, children.join(","));
    push_manifest(keeper, name, json)
}

fn push_manifest(keeper: &Keeper, name: &str, json: String) -> Image {
    let manifest = Manifest::of_bytes(None, json.into()).unwrap();
    let origin = app();
    let repository = origin.repository();
    keeper.upstream.add_manifest(repository, manifest.clone());
    keeper
        .upstream
        .set_tag(repository, &tag(name), manifest.digest());
    Image {
        origin,
        name: name.to_owned(),
        manifest,
        layers: Vec::new(),
    }
}

/// Pulls an image by its digest, as clients do that have found it in an index.
async fn pull_child(keeper: &Keeper, image: &Image) {
    keeper.clock.advance(STEP);
    let reference = Reference::Digest(image.digest());
    let manifest = keeper
        .cache
        .manifest(&image.origin, &reference, &Caller::Anonymous)
        .await
        .unwrap();
    assert_eq!(manifest.value, image.manifest);
    for (n, layer) in image.layers.iter().enumerate() {
        keeper.pull_layer(image, n, layer).await;
    }
}

/// Keeps the manifest without its blobs, past the cache.
async fn put_past_the_cache(keeper: &Keeper, manifest: &Manifest) {
    let put = keeper.store.inner().put_manifest(manifest.clone()).await;
    put.unwrap();
}
