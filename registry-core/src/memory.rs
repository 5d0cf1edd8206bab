//! A store in memory: the executable specification of the store contracts.
//!
//! It is written to be obviously right, not fast: one lock, ordered maps, copies where a reader
//! and a writer would otherwise have to agree on something. What it answers is what every other
//! store has to answer. It has no limit unless it is given one, so it is for tests, examples and
//! small tools.

mod kept;
mod sink;
mod upkeep;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};

use crate::{
    BlobBody, BlobPayload, BlobSink, BlobStat, BlobStore, ByteRange, Clock, Digest, Link,
    LinkStore, LinkTarget, Manifest, ManifestStore, Origin, Pin, RangeRequest, ReferrersRecord,
    ReferrersStore, Removal, StoreError, StoreOperation, SystemClock, Tag, TagRecord, TagStore,
    Timestamp, UpstreamId,
};
use kept::Kept;
use sink::{MemorySink, Unfinished};

/// Bytes in one item of a blob's stream.
const CHUNK_BYTES: usize = 64 << 10;

/// All five stores in memory, and their upkeep. Cloning shares the content; it is gone with the last
/// clone.
#[derive(Clone)]
pub struct MemoryStore {
    content: Shared,
}

type Shared = Arc<Mutex<Content>>;

struct Content {
    /// Bytes that all blobs and manifests may take together, unfinished ones included.
    capacity: Option<u64>,
    kept: Kept,
    blobs: BTreeMap<Digest, Bytes>,
    unfinished: Unfinished,
    /// Bytes that are in sinks which neither ended nor were dropped.
    writing: u64,
    manifests: BTreeMap<Digest, Manifest>,
    /// No origin has an empty map: one without tags is not there.
    tags: BTreeMap<Origin, BTreeMap<Tag, TagRecord>>,
    /// No origin has an empty map: one without links is not listed.
    links: BTreeMap<Origin, BTreeMap<LinkTarget, Option<u64>>>,
    referrers: BTreeMap<Origin, BTreeMap<Digest, ReferrersRecord>>,
    pins: BTreeMap<Pin, Timestamp>,
    /// The latest comes last.
    removals: VecDeque<Removal>,
}

impl Content {
    /// Removes a blob; whether it was there.
    fn remove_blob(&mut self, digest: Digest) -> bool {
        self.kept.remove_blob(digest);
        self.blobs.remove(&digest).is_some()
    }

    /// Fails where there is no room for so many bytes more.
    fn check_room(&self, bytes: u64, operation: StoreOperation) -> Result<(), StoreError> {
        match self.free_bytes() {
            Some(free) if bytes > free => Err(StoreError::NoSpace { operation }),
            _ => Ok(()),
        }
    }
}

impl MemoryStore {
    /// An empty store, on the system's clock.
    pub fn new() -> Self {
        Self::with(Arc::new(SystemClock), None)
    }

    /// An empty store which tells by this clock when something is used; with room for `capacity`
    /// bytes of content, unfinished blobs included, where that is told.
    pub fn with(clock: Arc<dyn Clock>, capacity: Option<u64>) -> Self {
        let content = Content {
            capacity,
            kept: Kept::new(clock),
            blobs: BTreeMap::new(),
            unfinished: Unfinished::default(),
            writing: 0,
            manifests: BTreeMap::new(),
            tags: BTreeMap::new(),
            links: BTreeMap::new(),
            referrers: BTreeMap::new(),
            pins: BTreeMap::new(),
            removals: VecDeque::new(),
        };
        Self {
            content: Arc::new(Mutex::new(content)),
        }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        lock(&self.content)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let content = self.content();
        f.debug_struct("MemoryStore")
            .field("blobs", &content.blobs.len())
            .field("manifests", &content.manifests.len())
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this")
}

impl BlobStore for MemoryStore {
    fn stat(&self, digest: Digest) -> BoxFuture<'_, Result<Option<BlobStat>, StoreError>> {
        Box::pin(async move {
            let content = self.content();
            let blob = content.blobs.get(&digest);
            Ok(blob.map(|bytes| stat(digest, bytes)))
        })
    }

    fn open(
        &self,
        digest: Digest,
        range: Option<RangeRequest>,
    ) -> BoxFuture<'_, Result<Option<BlobBody>, StoreError>> {
        Box::pin(async move {
            let mut content = self.content();
            content.kept.access(LinkTarget::Blob(digest));
            let blob = content.blobs.get(&digest).cloned();
            Ok(blob.map(|bytes| body(&bytes, range)))
        })
    }

    fn stage(
        &self,
        digest: Digest,
        size_hint: Option<u64>,
    ) -> BoxFuture<'_, Result<Arc<dyn BlobSink>, StoreError>> {
        Box::pin(async move {
            let content = self.content();
            let more = size_hint.unwrap_or_default();
            let more = more.saturating_sub(content.unfinished.bytes_of(digest));
            content.check_room(more, StoreOperation::Write)?;
            drop(content);
            let sink = MemorySink::stage(&self.content, digest);
            Ok(Arc::new(sink) as Arc<dyn BlobSink>)
        })
    }

    fn remove(&self, digest: Digest) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move { Ok(self.content().remove_blob(digest)) })
    }

    fn list(&self) -> BoxStream<'_, Result<BlobStat, StoreError>> {
        // One at a time from past the last: holds neither the lock nor a copy of the names.
        let next = move |after: Bound<Digest>| async move {
            let content = self.content();
            let (digest, bytes) = content.blobs.range((after, Bound::Unbounded)).next()?;
            Some((Ok(stat(*digest, bytes)), Bound::Excluded(*digest)))
        };
        stream::unfold(Bound::Unbounded, next).boxed()
    }
}

fn stat(digest: Digest, bytes: &Bytes) -> BlobStat {
    let size = bytes.len() as u64;
    BlobStat { digest, size }
}

fn body(bytes: &Bytes, range: Option<RangeRequest>) -> BlobBody {
    let size = bytes.len() as u64;
    let nothing = ByteRange::new(size, size).expect("its end is its start");
    let range = match range {
        None => ByteRange::whole(size),
        Some(range) => range.resolve(size).unwrap_or(nothing),
    };
    let index = |offset| usize::try_from(offset).expect("it is within a slice");
    let mut rest = bytes.slice(index(range.start())..index(range.end()));
    let chunks = std::iter::from_fn(move || {
        let chunk = rest.split_to(rest.len().min(CHUNK_BYTES));
        (!chunk.is_empty()).then_some(Ok(chunk))
    });
    BlobBody {
        size,
        range,
        payload: BlobPayload::Stream(stream::iter(chunks).boxed()),
    }
}

impl ManifestStore for MemoryStore {
    fn manifest(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Manifest>, StoreError>> {
        Box::pin(async move {
            let mut content = self.content();
            content.kept.access(LinkTarget::Manifest(digest));
            Ok(content.manifests.get(&digest).cloned())
        })
    }

    fn put_manifest(&self, manifest: Manifest) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let mut content = self.content();
            let digest = manifest.digest();
            if content.manifests.contains_key(&digest) {
                content.kept.access(LinkTarget::Manifest(digest));
                return Ok(());
            }
            content.check_room(manifest.descriptor().size, StoreOperation::Write)?;
            content.kept.add_manifest(&manifest);
            content.manifests.insert(digest, manifest);
            Ok(())
        })
    }

    fn remove_manifest(&self, digest: Digest) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move {
            let mut content = self.content();
            let removed = content.manifests.remove(&digest);
            if let Some(manifest) = &removed {
                content.kept.remove_manifest(manifest);
            }
            Ok(removed.is_some())
        })
    }
}

impl TagStore for MemoryStore {
    fn tag<'a>(
        &'a self,
        origin: &'a Origin,
        tag: &'a Tag,
    ) -> BoxFuture<'a, Result<Option<TagRecord>, StoreError>> {
        Box::pin(async move {
            let content = self.content();
            let tags = content.tags.get(origin);
            Ok(tags.and_then(|tags| tags.get(tag)).cloned())
        })
    }

    fn put_tag<'a>(
        &'a self,
        origin: &'a Origin,
        tag: &'a Tag,
        record: TagRecord,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let mut content = self.content();
            let tags = content.tags.entry(origin.clone()).or_default();
            tags.insert(tag.clone(), record);
            Ok(())
        })
    }

    fn remove_tag<'a>(
        &'a self,
        origin: &'a Origin,
        tag: &'a Tag,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { Ok(remove_from(&mut self.content().tags, origin, tag)) })
    }

    fn tags<'a>(
        &'a self,
        origin: &'a Origin,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Tag>, StoreError>> {
        Box::pin(async move {
            let content = self.content();
            let tags = content
                .tags
                .get(origin)
                .into_iter()
                .flat_map(BTreeMap::keys);
            let past = tags.filter(|tag| after.is_none_or(|after| tag.as_str() > after));
            Ok(past.take(limit).cloned().collect())
        })
    }
}

impl LinkStore for MemoryStore {
    fn linked<'a>(
        &'a self,
        origin: &'a Origin,
        target: LinkTarget,
    ) -> BoxFuture<'a, Result<Option<Link>, StoreError>> {
        Box::pin(async move {
            let content = self.content();
            let size = content.links.get(origin).and_then(|of| of.get(&target));
            Ok(size.map(|&size| Link { target, size }))
        })
    }

    fn link<'a>(
        &'a self,
        origin: &'a Origin,
        links: Vec<Link>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            if links.is_empty() {
                return Ok(());
            }
            let mut content = self.content();
            let of_origin = content.links.entry(origin.clone()).or_default();
            for Link { target, size } in links {
                let kept = of_origin.entry(target).or_default();
                *kept = size.or(*kept);
            }
            Ok(())
        })
    }

    fn unlink<'a>(
        &'a self,
        origin: &'a Origin,
        target: LinkTarget,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { Ok(remove_from(&mut self.content().links, origin, &target)) })
    }

    fn origins<'a>(
        &'a self,
        upstream: Option<&'a UpstreamId>,
        after: Option<&'a Origin>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Origin>, StoreError>> {
        Box::pin(async move {
            let content = self.content();
            let past = after.map_or(Bound::Unbounded, Bound::Excluded);
            let origins = content.links.range((past, Bound::Unbounded));
            let origins = origins.map(|(origin, _)| origin);
            let of_upstream =
                origins.filter(|of| upstream.is_none_or(|only| of.upstream() == only));
            Ok(of_upstream.take(limit).cloned().collect())
        })
    }
}

impl ReferrersStore for MemoryStore {
    fn referrers<'a>(
        &'a self,
        origin: &'a Origin,
        subject: Digest,
    ) -> BoxFuture<'a, Result<Option<ReferrersRecord>, StoreError>> {
        Box::pin(async move {
            let content = self.content();
            let of_origin = content.referrers.get(origin);
            Ok(of_origin.and_then(|of| of.get(&subject)).cloned())
        })
    }

    fn put_referrers<'a>(
        &'a self,
        origin: &'a Origin,
        subject: Digest,
        record: ReferrersRecord,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let mut content = self.content();
            let of_origin = content.referrers.entry(origin.clone()).or_default();
            of_origin.insert(subject, record);
            Ok(())
        })
    }

    fn remove_referrers<'a>(
        &'a self,
        origin: &'a Origin,
        subject: Digest,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { Ok(remove_from(&mut self.content().referrers, origin, &subject)) })
    }
}

/// Removes `key` of `origin`, and the origin with its last key; whether it was there.
fn remove_from<K: Ord, V>(
    map: &mut BTreeMap<Origin, BTreeMap<K, V>>,
    origin: &Origin,
    key: &K,
) -> bool {
    let Some(of_origin) = map.get_mut(origin) else {
        return false;
    };
    let removed = of_origin.remove(key).is_some();
    if of_origin.is_empty() {
        map.remove(origin);
    }
    removed
}
