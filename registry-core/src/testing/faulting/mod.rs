//! A store that fails, or stands still, exactly when a test says so.

mod script;
mod upkeep;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};

use crate::{
    BlobBody, BlobSink, BlobStat, BlobStore, Digest, Link, LinkStore, LinkTarget, Manifest,
    ManifestStore, Origin, RangeRequest, ReferrersRecord, ReferrersStore, SpoolReader, StoreError,
    Tag, TagRecord, TagStore, UpstreamId, Verified,
};

pub use script::{Fault, Faults, StoreCall};

/// A store around another, which fails or stands still as its [`Faults`] say, and counts calls.
/// Without faults it is the other store: it passes the conformance suite. It has nothing at hand, so
/// that every question passes its faults.
#[derive(Clone, Debug)]
pub struct FaultingStore<S> {
    inner: S,
    faults: Faults,
}

impl<S> FaultingStore<S> {
    /// The store `inner`, without any fault yet.
    pub fn new(inner: S) -> Self {
        let faults = Faults::default();
        Self { inner, faults }
    }

    /// The script.
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// The store within, past every fault.
    pub fn inner(&self) -> &S {
        &self.inner
    }
}

impl<S: BlobStore> BlobStore for FaultingStore<S> {
    fn stat(&self, digest: Digest) -> BoxFuture<'_, Result<Option<BlobStat>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Stat).await?;
            self.inner.stat(digest).await
        })
    }

    fn open(
        &self,
        digest: Digest,
        range: Option<RangeRequest>,
    ) -> BoxFuture<'_, Result<Option<BlobBody>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Open).await?;
            self.inner.open(digest, range).await
        })
    }

    fn stage(
        &self,
        digest: Digest,
        size_hint: Option<u64>,
    ) -> BoxFuture<'_, Result<Arc<dyn BlobSink>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Stage).await?;
            let inner = self.inner.stage(digest, size_hint).await?;
            let faults = self.faults.clone();
            Ok(Arc::new(FaultingSink { inner, faults }) as Arc<dyn BlobSink>)
        })
    }

    fn remove(&self, digest: Digest) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Remove).await?;
            self.inner.remove(digest).await
        })
    }

    fn list(&self) -> BoxStream<'_, Result<BlobStat, StoreError>> {
        let begin = async {
            match self.faults.pass(StoreCall::List).await {
                Ok(()) => self.inner.list(),
                Err(error) => futures::stream::iter([Err(error)]).boxed(),
            }
        };
        futures::stream::once(begin).flatten().boxed()
    }
}

struct FaultingSink {
    inner: Arc<dyn BlobSink>,
    faults: Faults,
}

impl BlobSink for FaultingSink {
    fn kept(&self) -> u64 {
        self.inner.kept()
    }

    fn write_at(&self, offset: u64, chunk: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Append).await?;
            self.inner.write_at(offset, chunk).await
        })
    }

    fn write_chunks_at(
        &self,
        offset: u64,
        chunks: Vec<Bytes>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Append).await?;
            self.inner.write_chunks_at(offset, chunks).await
        })
    }

    fn checkpoint(&self, offset: u64) {
        self.faults.count(StoreCall::Checkpoint);
        self.inner.checkpoint(offset);
    }

    fn reader(&self) -> Arc<dyn SpoolReader> {
        let inner = self.inner.reader();
        let faults = self.faults.clone();
        Arc::new(FaultingReader { inner, faults })
    }

    fn commit(self: Arc<Self>, verified: Verified) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Commit).await?;
            Arc::clone(&self.inner).commit(verified).await
        })
    }

    fn discard(self: Arc<Self>) {
        self.faults.count(StoreCall::Discard);
        Arc::clone(&self.inner).discard();
    }
}

struct FaultingReader {
    inner: Arc<dyn SpoolReader>,
    faults: Faults,
}

impl SpoolReader for FaultingReader {
    fn read_at(&self, offset: u64, len: usize) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::ReadAt).await?;
            self.inner.read_at(offset, len).await
        })
    }
}

impl<S: ManifestStore> ManifestStore for FaultingStore<S> {
    fn manifest(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Manifest>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Manifest).await?;
            self.inner.manifest(digest).await
        })
    }

    fn put_manifest(&self, manifest: Manifest) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::PutManifest).await?;
            self.inner.put_manifest(manifest).await
        })
    }

    fn remove_manifest(&self, digest: Digest) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::RemoveManifest).await?;
            self.inner.remove_manifest(digest).await
        })
    }
}

impl<S: TagStore> TagStore for FaultingStore<S> {
    fn tag<'a>(
        &'a self,
        origin: &'a Origin,
        tag: &'a Tag,
    ) -> BoxFuture<'a, Result<Option<TagRecord>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Tag).await?;
            self.inner.tag(origin, tag).await
        })
    }

    fn put_tag<'a>(
        &'a self,
        origin: &'a Origin,
        tag: &'a Tag,
        record: TagRecord,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::PutTag).await?;
            self.inner.put_tag(origin, tag, record).await
        })
    }

    fn remove_tag<'a>(
        &'a self,
        origin: &'a Origin,
        tag: &'a Tag,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::RemoveTag).await?;
            self.inner.remove_tag(origin, tag).await
        })
    }

    fn tags<'a>(
        &'a self,
        origin: &'a Origin,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Tag>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Tags).await?;
            self.inner.tags(origin, after, limit).await
        })
    }
}

impl<S: LinkStore> LinkStore for FaultingStore<S> {
    fn linked<'a>(
        &'a self,
        origin: &'a Origin,
        target: LinkTarget,
    ) -> BoxFuture<'a, Result<Option<Link>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Linked).await?;
            self.inner.linked(origin, target).await
        })
    }

    fn link<'a>(
        &'a self,
        origin: &'a Origin,
        links: Vec<Link>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Link).await?;
            self.inner.link(origin, links).await
        })
    }

    fn unlink<'a>(
        &'a self,
        origin: &'a Origin,
        target: LinkTarget,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Unlink).await?;
            self.inner.unlink(origin, target).await
        })
    }

    fn origins<'a>(
        &'a self,
        upstream: Option<&'a UpstreamId>,
        after: Option<&'a Origin>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Origin>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Origins).await?;
            self.inner.origins(upstream, after, limit).await
        })
    }
}

impl<S: ReferrersStore> ReferrersStore for FaultingStore<S> {
    fn referrers<'a>(
        &'a self,
        origin: &'a Origin,
        subject: Digest,
    ) -> BoxFuture<'a, Result<Option<ReferrersRecord>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Referrers).await?;
            self.inner.referrers(origin, subject).await
        })
    }

    fn put_referrers<'a>(
        &'a self,
        origin: &'a Origin,
        subject: Digest,
        record: ReferrersRecord,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::PutReferrers).await?;
            self.inner.put_referrers(origin, subject, record).await
        })
    }

    fn remove_referrers<'a>(
        &'a self,
        origin: &'a Origin,
        subject: Digest,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::RemoveReferrers).await?;
            self.inner.remove_referrers(origin, subject).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::content::{digest_of, put_blob, sample};
    use crate::{MemoryStore, StoreOperation};

    #[tokio::test]
    async fn the_nth_call_fails_and_no_other() {
        let store = FaultingStore::new(MemoryStore::new());
        let faults = store.faults();
        let blob = sample(10, 1);
        faults.fail_nth(StoreCall::Commit, 2, Fault::NoSpace);
        put_blob(&store, &blob).await.unwrap();
        assert!(matches!(
            put_blob(&store, &sample(10, 2)).await,
            Err(StoreError::NoSpace {
                operation: StoreOperation::Commit
            })
        ));
        put_blob(&store, &sample(10, 3)).await.unwrap();
        assert_eq!(faults.calls(StoreCall::Commit), 3);
        let refused = store.stat(digest_of(&sample(10, 2))).await.unwrap();
        assert_eq!(refused, None, "what failed has changed nothing");
    }

    #[tokio::test]
    async fn all_calls_fail_until_healed() {
        let store = FaultingStore::new(MemoryStore::new());
        let faults = store.faults();
        faults.fail_always(StoreCall::List, Fault::Io);
        for _ in 0..2 {
            let listed: Vec<_> = store.list().collect().await;
            assert!(matches!(listed[..], [Err(StoreError::Io { .. })]));
        }
        faults.heal();
        assert!(store.list().next().await.is_none());
    }

    #[tokio::test]
    async fn a_stalled_call_goes_on_when_released() {
        let store = FaultingStore::new(MemoryStore::new());
        let faults = store.faults();
        faults.stall(StoreCall::Stat);
        let digest = digest_of(b"");
        let mut first = store.stat(digest);
        let second = async {
            faults.stalled(StoreCall::Stat, 1).await;
            faults.release(StoreCall::Stat);
        };
        let (stat, ()) = futures::join!(&mut first, second);
        assert_eq!(stat.unwrap(), None);

        // One that is dropped is no longer waited for.
        faults.stall(StoreCall::Stat);
        let mut dropped = store.stat(digest);
        assert!(futures::poll!(&mut dropped).is_pending());
        faults.stalled(StoreCall::Stat, 1).await;
        drop(dropped);
        let mut nobody = Box::pin(faults.stalled(StoreCall::Stat, 1));
        assert!(futures::poll!(&mut nobody).is_pending());
    }
}
