//! The contracts of upkeep, through the script.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::{FaultingReader, FaultingStore, StoreCall};
use crate::{
    Charge, ContentRecord, Digest, InventoryStore, JournalStore, LinkTarget, Manifest, Origin,
    PeekedBlob, Pin, Position, Provenance, Removal, RemovedUnused, StoreError, Tag, Timestamp,
    Unit, UpstreamId, Usage,
};

impl<S: InventoryStore> InventoryStore for FaultingStore<S> {
    fn forgotten(&self) -> u64 {
        self.inner.forgotten()
    }

    fn usage(&self) -> BoxFuture<'_, Result<Usage, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Usage).await?;
            self.inner.usage().await
        })
    }

    fn charges<'a>(
        &'a self,
        upstream: Option<&'a UpstreamId>,
        after: Option<&'a Origin>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Charge>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Charges).await?;
            self.inner.charges(upstream, after, limit).await
        })
    }

    fn coldest<'a>(
        &'a self,
        origin: Option<&'a Origin>,
        after: Option<Position>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Unit>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Coldest).await?;
            self.inner.coldest(origin, after, limit).await
        })
    }

    fn postpone(
        &self,
        target: LinkTarget,
        until: Timestamp,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Postpone).await?;
            self.inner.postpone(target, until).await
        })
    }

    fn record(
        &self,
        target: LinkTarget,
    ) -> BoxFuture<'_, Result<Option<ContentRecord>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Record).await?;
            self.inner.record(target).await
        })
    }

    fn note(
        &self,
        target: LinkTarget,
        provenance: Provenance,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Note).await?;
            self.inner.note(target, provenance).await
        })
    }

    fn named_by(
        &self,
        target: LinkTarget,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Digest>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::NamedBy).await?;
            self.inner.named_by(target, limit).await
        })
    }

    fn linked_in<'a>(
        &'a self,
        target: LinkTarget,
        after: Option<&'a Origin>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Origin>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::LinkedIn).await?;
            self.inner.linked_in(target, after, limit).await
        })
    }

    fn tagged_as(
        &self,
        manifest: Digest,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(Origin, Tag)>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::TaggedAs).await?;
            self.inner.tagged_as(manifest, limit).await
        })
    }

    fn manifests(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Digest>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Manifests).await?;
            self.inner.manifests(after, limit).await
        })
    }

    fn blobs(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Digest>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Blobs).await?;
            self.inner.blobs(after, limit).await
        })
    }

    fn linked_manifests<'a>(
        &'a self,
        origin: &'a Origin,
        after: Option<Digest>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Digest>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::LinkedManifests).await?;
            self.inner.linked_manifests(origin, after, limit).await
        })
    }

    fn peek_manifest(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Manifest>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::PeekManifest).await?;
            self.inner.peek_manifest(digest).await
        })
    }

    fn peek_blob(&self, digest: Digest) -> BoxFuture<'_, Result<Option<PeekedBlob>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::PeekBlob).await?;
            let peeked = self.inner.peek_blob(digest).await?;
            Ok(peeked.map(|peeked| {
                let (inner, faults) = (peeked.reader, self.faults.clone());
                let reader = Arc::new(FaultingReader { inner, faults });
                PeekedBlob { reader, ..peeked }
            }))
        })
    }

    fn forget(&self, target: LinkTarget) -> BoxFuture<'_, Result<usize, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Forget).await?;
            self.inner.forget(target).await
        })
    }

    fn remove_unused(&self, blob: Digest) -> BoxFuture<'_, Result<RemovedUnused, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::RemoveUnused).await?;
            self.inner.remove_unused(blob).await
        })
    }
}

impl<S: JournalStore> JournalStore for FaultingStore<S> {
    fn put_pin(&self, pin: Pin, since: Timestamp) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::PutPin).await?;
            self.inner.put_pin(pin, since).await
        })
    }

    fn remove_pin<'a>(&'a self, pin: &'a Pin) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::RemovePin).await?;
            self.inner.remove_pin(pin).await
        })
    }

    fn pins(&self) -> BoxFuture<'_, Result<Vec<(Pin, Timestamp)>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Pins).await?;
            self.inner.pins().await
        })
    }

    fn put_removal(&self, removal: Removal) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::PutRemoval).await?;
            self.inner.put_removal(removal).await
        })
    }

    fn removals(&self, limit: usize) -> BoxFuture<'_, Result<Vec<Removal>, StoreError>> {
        Box::pin(async move {
            self.faults.pass(StoreCall::Removals).await?;
            self.inner.removals(limit).await
        })
    }
}
