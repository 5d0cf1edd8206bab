//! A mirror whose store tells what it keeps, and images of several platforms to fill it with.

use std::sync::Arc;

use bytes::Bytes;
use registry_core::testing::content::{digest_of, sample, stage_anew, verified};
use registry_core::testing::{FaultingStore, ManualClock, ScriptedUpstream};
use registry_core::{
    Algorithm, BlobStore as _, Digest, InventoryStore as _, JournalStore as _, Limits, LinkTarget,
    Manifest, MediaType, MemoryStore, Reference, RegistryCache, Removal, Stores, UpstreamEntry,
    UpstreamId, UpstreamPolicy, Upstreams, Usage,
};

use super::support::{Mirror, one, read, repository, tag};

/// The mirror, whose store keeps an inventory and a journal.
pub(crate) fn kept() -> Mirror {
    kept_with(UpstreamPolicy::default(), Limits::default())
}

pub(crate) fn kept_with(policy: UpstreamPolicy, limits: Limits) -> Mirror {
    let clock = Arc::new(ManualClock::default());
    let memory = MemoryStore::with(Arc::clone(&clock) as _, None);
    let store = Arc::new(FaultingStore::new(memory));
    let stores = Stores::of(Arc::clone(&store)).kept_by(Arc::clone(&store));
    let (one, two) = (ScriptedUpstream::new(), ScriptedUpstream::new());
    let mut upstreams = Upstreams::new();
    for (name, upstream) in [("one.example", &one), ("two.example", &two)] {
        let entry = UpstreamEntry {
            policy: policy.clone(),
            ..UpstreamEntry::new(Arc::clone(upstream) as _)
        };
        upstreams.insert(UpstreamId::parse(name).unwrap(), entry);
    }
    let cache = RegistryCache::with(stores, upstreams, limits, Arc::clone(&clock) as _);
    Mirror {
        cache,
        store,
        one,
        two,
        clock,
    }
}

impl Mirror {
    /// Pulls an image as a client does: the manifest or index, of an index the first manifest, and
    /// all its blobs.
    pub(crate) async fn pull(&self, reference: &str) {
        let manifest = self.get(reference).await.unwrap().value;
        let contents = manifest.contents();
        if let Some(child) = contents.manifests.first() {
            let child = self.get(&child.digest.to_string()).await.unwrap().value;
            self.pull_blobs(&child).await;
        }
        self.pull_blobs(&manifest).await;
    }

    pub(crate) async fn pull_blobs(&self, manifest: &Manifest) {
        for blob in manifest.contents().blobs() {
            let served = self.blob(&one(), blob.digest, None).await.unwrap();
            read(served.value).await.unwrap();
        }
        self.idle().await;
    }

    pub(crate) async fn usage(&self) -> Usage {
        self.store.inner().usage().await.unwrap()
    }

    pub(crate) async fn removals(&self) -> Vec<Removal> {
        self.store.inner().removals(100).await.unwrap()
    }

    pub(crate) async fn holds_blob(&self, digest: Digest) -> bool {
        self.store.inner().stat(digest).await.unwrap().is_some()
    }

    pub(crate) async fn holds_manifest(&self, digest: Digest) -> bool {
        let target = LinkTarget::Manifest(digest);
        self.store.inner().record(target).await.unwrap().is_some()
    }

    /// Puts other bytes of the same length in the place of a blob that is held.
    pub(crate) async fn damage(&self, digest: Digest, right: &Bytes) {
        let store = self.store.inner();
        assert_eq!(digest_of(right), digest);
        store.remove(digest).await.unwrap();
        let sink = stage_anew(store, digest, None).await.unwrap();
        let wrong = Bytes::from(vec![0; right.len()]);
        sink.write_at(0, wrong).await.unwrap();
        sink.commit(verified(Algorithm::Sha256, right))
            .await
            .unwrap();
    }
}

/// An image of one platform, as it is at the upstream.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) manifest: Manifest,
    pub(crate) config: Digest,
    pub(crate) layers: Vec<(Digest, Bytes)>,
    /// Bytes of the manifest, the configuration and the layers.
    pub(crate) bytes: u64,
}

impl Image {
    pub(crate) fn digest(&self) -> Digest {
        self.manifest.digest()
    }
}

/// Adds an image of a platform with these layers to an upstream's `library/app`.
pub(crate) fn add_image(
    upstream: &ScriptedUpstream,
    name: &str,
    platform: &str,
    layers: &[Bytes],
) -> Image {
    let mut parts = platform.split('/');
    let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
    let variant = parts.next().unwrap_or_default();
    let config = format!(
        r#"{{"os":"{os}","architecture":"{architecture}","variant":"{variant}","name":"{name}"}}"#
    );
    let config_size = config.len();
    let config = upstream.add_blob(&repository(), config);
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| {
            (
                upstream.add_blob(&repository(), layer.clone()),
                layer.clone(),
            )
        })
        .collect();
    let listed: Vec<_> = layers
        .iter()
        .map(|(digest, bytes)| format!(r#"{{"digest":"{digest}","size":{}}}"#, bytes.len()))
        .collect();
    let json = format!(
        r#"{{"mediaType":"{}","config":{{"digest":"{config}","size":{config_size}}},"layers":[{}],"annotations":{{"name":"{name}"}}}}"#,
        MediaType::OCI_MANIFEST,
        listed.join(","),
    );
    let manifest = Manifest::of_bytes(None, Bytes::from(json)).unwrap();
    upstream.add_manifest(&repository(), manifest.clone());
    let blobs: usize = layers.iter().map(|(_, bytes)| bytes.len()).sum();
    Image {
        bytes: manifest.descriptor().size + (config_size + blobs) as u64,
        manifest,
        config,
        layers,
    }
}

/// Adds an index of images, each with its platform, to an upstream's `library/app`.
pub(crate) fn add_index(upstream: &ScriptedUpstream, images: &[(&str, &Image)]) -> Manifest {
    let listed: Vec<_> = images
        .iter()
        .map(|(platform, image)| {
            let mut parts = platform.split('/');
            let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
            let variant = parts.next().unwrap_or_default();
            let descriptor = image.manifest.descriptor();
            format!(
                r#"{{"mediaType":"{}","digest":"{}","size":{},"platform":{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}}}"#,
                descriptor.media_type, descriptor.digest, descriptor.size
            )
        })
        .collect();
    let json = format!(
        r#"{{"mediaType":"{}","manifests":[{}]}}"#,
        MediaType::OCI_INDEX,
        listed.join(",")
    );
    let index = Manifest::of_bytes(None, Bytes::from(json)).unwrap();
    upstream.add_manifest(&repository(), index.clone());
    index
}

/// Lets a tag of `library/app` name a manifest.
pub(crate) fn name_it(upstream: &ScriptedUpstream, under: &str, manifest: &Manifest) {
    upstream.set_tag(&repository(), &tag(under), manifest.digest());
}

/// An image of `linux/amd64` under a tag, with one layer of `len` bytes.
pub(crate) fn push_image(upstream: &ScriptedUpstream, under: &str, len: usize, seed: u64) -> Image {
    let image = add_image(upstream, under, "linux/amd64", &[sample(len, seed)]);
    name_it(upstream, under, &image.manifest);
    image
}

pub(crate) fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}
