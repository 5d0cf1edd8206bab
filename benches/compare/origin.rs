//! The registry that everything comes from: in this process, with counters.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use http::Method;
use registry_core::Digest;
use registry_server::testing::{FixtureRegistry, ImageSpec, Object};
use tokio::runtime::Runtime;

use crate::Outcome;

/// Its name at the mirror.
pub(crate) const UPSTREAM: &str = "origin.example";
/// The repository that everything is in.
pub(crate) const REPOSITORY: &str = "library/app";
/// The tag of its image.
pub(crate) const TAG: &str = "1";

/// A blob that it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl Blob {
    pub(crate) fn path(&self) -> String {
        format!("/v2/{REPOSITORY}/blobs/{}", self.digest)
    }
}

/// A manifest that it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manifest {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl Manifest {
    pub(crate) fn path(&self) -> String {
        format!("/v2/{REPOSITORY}/manifests/{}", self.digest)
    }

    pub(crate) fn tag_path() -> String {
        format!("/v2/{REPOSITORY}/manifests/{TAG}")
    }
}

/// The registry, and the threads that it answers on.
pub(crate) struct Origin {
    pub(crate) registry: FixtureRegistry,
    runtime: Runtime,
    seeds: AtomicU64,
}

impl Origin {
    pub(crate) fn start() -> Outcome<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.enable_all().build()?;
        let registry = runtime.block_on(FixtureRegistry::start());
        Ok(Self {
            registry,
            runtime,
            seeds: AtomicU64::new(1),
        })
    }

    pub(crate) fn url(&self) -> String {
        self.registry.url()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.registry.address()
    }

    /// A blob that nobody has seen.
    pub(crate) fn new_blob(&self, size: u64) -> Blob {
        let seed = self.seeds.fetch_add(1, Ordering::Relaxed);
        let digest = self.registry.add_blob(REPOSITORY, seed, size).digest;
        Blob { digest, size }
    }

    /// An image, by a tag: its manifest.
    pub(crate) fn new_image(&self) -> Manifest {
        let seed = self.seeds.fetch_add(1, Ordering::Relaxed);
        let spec = ImageSpec::new(seed).layers(&LAYERS);
        let image = self.registry.add_image(REPOSITORY, TAG, &spec);
        let root = image.root();
        Manifest {
            digest: root.digest,
            size: root.size,
        }
    }

    /// Bytes of this blob that it sent.
    pub(crate) fn blob_bytes_sent(&self, digest: &Digest) -> u64 {
        self.registry.blob_bytes_sent(digest)
    }

    /// Requests for manifests and blobs that came.
    pub(crate) fn requests(&self) -> u64 {
        let objects = [
            Object::ManifestByTag,
            Object::ManifestByDigest,
            Object::Blob,
        ];
        let count = |object| {
            let count = |method| self.registry.count(method, object);
            count(Method::GET) + count(Method::HEAD)
        };
        objects.into_iter().map(count).sum()
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }
}

/// Sizes of the image's layers: as many as images have, and small, as nobody pulls them.
const LAYERS: [u64; 8] = [1_000; 8];
