//! A cache on a scripted upstream, and words for the tests to use.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use registry_core::testing::content::sample;
use registry_core::testing::{
    Act, BodyScript, Call, FaultingStore, Gate, ManualClock, Piece, ScriptedUpstream,
};
use registry_core::{
    BlobBody, BlobPayload, CacheError, Caller, Digest, Limits, Manifest, MemoryStore, Origin,
    RangeRequest, Reference, RegistryCache, Repository, Served, Stores, Tag, UpstreamEntry,
    UpstreamError, UpstreamId, UpstreamPolicy, Upstreams,
};

/// A mirror of two upstreams, `one.example` and `two.example`.
pub(crate) struct Mirror {
    pub(crate) cache: RegistryCache,
    pub(crate) store: Arc<FaultingStore<MemoryStore>>,
    pub(crate) one: Arc<ScriptedUpstream>,
    pub(crate) two: Arc<ScriptedUpstream>,
    pub(crate) clock: Arc<ManualClock>,
}

impl Mirror {
    pub(crate) fn new() -> Self {
        Self::with(UpstreamPolicy::default(), Limits::default())
    }

    pub(crate) fn with_policy(policy: UpstreamPolicy) -> Self {
        Self::with(policy, Limits::default())
    }

    pub(crate) fn with(policy: UpstreamPolicy, limits: Limits) -> Self {
        let store = Arc::new(FaultingStore::new(MemoryStore::new()));
        let stores = Stores::of(Arc::clone(&store));
        let (one, two) = (ScriptedUpstream::new(), ScriptedUpstream::new());
        let clock = Arc::new(ManualClock::default());
        let mut upstreams = Upstreams::new();
        for (name, upstream) in [("one.example", &one), ("two.example", &two)] {
            let upstream = Arc::clone(upstream) as _;
            let entry = UpstreamEntry {
                policy: policy.clone(),
                ..UpstreamEntry::new(upstream)
            };
            upstreams.insert(UpstreamId::parse(name).unwrap(), entry);
        }
        let cache = RegistryCache::with(stores, upstreams, limits, Arc::clone(&clock) as _);
        Self {
            cache,
            store,
            one,
            two,
            clock,
        }
    }

    pub(crate) async fn get(&self, reference: &str) -> Result<Served<Manifest>, CacheError> {
        self.get_from(&one(), reference).await
    }

    pub(crate) async fn get_from(
        &self,
        origin: &Origin,
        reference: &str,
    ) -> Result<Served<Manifest>, CacheError> {
        let reference = Reference::parse(reference).unwrap();
        self.cache
            .manifest(origin, &reference, &Caller::Anonymous)
            .await
    }

    pub(crate) async fn blob(
        &self,
        origin: &Origin,
        digest: Digest,
        range: Option<RangeRequest>,
    ) -> Result<Served<BlobBody<CacheError>>, CacheError> {
        self.cache
            .blob(origin, digest, range, &Caller::Anonymous)
            .await
    }

    /// Waits until no fill is under way.
    pub(crate) async fn idle(&self) {
        while self.cache.fills_active() > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// The same on a paused clock, which goes on meanwhile.
    pub(crate) async fn over(&self) {
        while self.cache.fills_active() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// `one.example/library/app`.
pub(crate) fn one() -> Origin {
    origin("one.example", "library/app")
}

/// `two.example/library/app`.
pub(crate) fn two() -> Origin {
    origin("two.example", "library/app")
}

pub(crate) fn origin(upstream: &str, repository: &str) -> Origin {
    Origin::new(
        UpstreamId::parse(upstream).unwrap(),
        Repository::parse(repository).unwrap(),
    )
}

pub(crate) fn repository() -> Repository {
    Repository::parse("library/app").unwrap()
}

pub(crate) fn tag(text: &str) -> Tag {
    Tag::parse(text).unwrap()
}

/// An image manifest that differs by `name`, and names `blobs`.
pub(crate) fn image(name: &str, blobs: &[(Digest, usize)]) -> Manifest {
    let layers: Vec<_> = blobs
        .iter()
        .map(|(digest, size)| format!(r#"{{"digest":"{digest}","size":{size}}}"#))
        .collect();
    let json = format!(
        r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[{}],"annotations":{{"name":"{name}"}}}}"#,
        layers.join(",")
    );
    Manifest::of_bytes(None, Bytes::from(json)).unwrap()
}

/// Adds an image to an upstream's `library/app` under a tag.
pub(crate) fn push(upstream: &ScriptedUpstream, name: &str, under: &str) -> Manifest {
    let manifest = image(name, &[]);
    upstream.add_manifest(&repository(), manifest.clone());
    upstream.set_tag(&repository(), &tag(under), manifest.digest());
    manifest
}

/// Bytes that do not repeat, so that a misplaced piece shows.
pub(crate) fn bytes(len: usize) -> Bytes {
    sample(len, 1)
}

/// Scripts the next fill to stop after the first `len` bytes of `content`, until the gate is open.
pub(crate) fn hold(upstream: &ScriptedUpstream, content: &Bytes, len: usize) -> Gate {
    let gate = Gate::new();
    let (first, rest) = (content.slice(..len), content.slice(len..));
    let pieces = vec![
        Piece::Bytes(first),
        Piece::Wait(gate.clone()),
        Piece::Bytes(rest),
    ];
    let script = BodyScript::new(Some(content.len() as u64), pieces);
    upstream.once(Call::Blob, Act::Body(script));
    gate
}

/// Reads a body to its end.
pub(crate) async fn read(body: BlobBody<CacheError>) -> Result<Vec<u8>, CacheError> {
    let BlobPayload::Stream(stream) = body.payload else {
        panic!("a store in memory has no files")
    };
    let pieces: Vec<Bytes> = stream.try_collect().await?;
    Ok(pieces.concat())
}

/// Reads a body until it ends or breaks off: what a client has in the end, and why there is no more.
pub(crate) async fn read_what_comes(body: BlobBody<CacheError>) -> (Vec<u8>, Option<CacheError>) {
    use futures::StreamExt as _;
    let BlobPayload::Stream(mut stream) = body.payload else {
        panic!("a store in memory has no files")
    };
    let mut received = Vec::new();
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) => received.extend_from_slice(&piece),
            Err(error) => return (received, Some(error)),
        }
    }
    (received, None)
}

pub(crate) fn unavailable() -> UpstreamError {
    UpstreamError::Unavailable {
        what: "connection refused".to_owned(),
        source: None,
    }
}

pub(crate) fn ttl(seconds: u64) -> UpstreamPolicy {
    UpstreamPolicy {
        tag_ttl: Duration::from_secs(seconds),
        ..UpstreamPolicy::default()
    }
}
