//! The contracts of upkeep, in front of a [`Folder`].

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use registry_core::{
    Charge, ContentRecord, Digest, InventoryStore, JournalStore, LinkTarget, Manifest, Origin,
    PeekedBlob, Pin, Position, Provenance, Removal, RemovedUnused, SpoolReader, StoreError,
    StoreOperation, Tag, Timestamp, Unit, UpstreamId, Usage,
};

use crate::disk::{DiskStore, Shared};
use crate::folder::Folder;

impl InventoryStore for DiskStore {
    fn forgotten(&self) -> u64 {
        Self::forgotten(self)
    }

    fn usage(&self) -> BoxFuture<'_, Result<Usage, StoreError>> {
        Box::pin(self.shared.blocking(StoreOperation::Index, Folder::usage))
    }

    fn charges<'a>(
        &'a self,
        upstream: Option<&'a UpstreamId>,
        after: Option<&'a Origin>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Charge>, StoreError>> {
        let (upstream, after) = (upstream.cloned(), after.cloned());
        let page = move |folder: &Folder| {
            folder
                .index
                .charges(upstream.as_ref(), after.as_ref(), limit)
        };
        Box::pin(self.shared.blocking(StoreOperation::List, page))
    }

    fn coldest<'a>(
        &'a self,
        origin: Option<&'a Origin>,
        after: Option<Position>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Unit>, StoreError>> {
        let origin = origin.cloned();
        let page = move |folder: &Folder| folder.coldest(origin.as_ref(), after, limit);
        Box::pin(self.shared.blocking(StoreOperation::List, page))
    }

    fn postpone(
        &self,
        target: LinkTarget,
        until: Timestamp,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        let postpone = move |folder: &Folder| folder.postpone(target, until);
        Box::pin(self.shared.blocking(StoreOperation::Index, postpone))
    }

    fn record(
        &self,
        target: LinkTarget,
    ) -> BoxFuture<'_, Result<Option<ContentRecord>, StoreError>> {
        let record = move |folder: &Folder| folder.record(target);
        Box::pin(self.shared.blocking(StoreOperation::Index, record))
    }

    fn note(
        &self,
        target: LinkTarget,
        provenance: Provenance,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        let note = move |folder: &Folder| folder.index.note(target, provenance);
        Box::pin(self.shared.blocking(StoreOperation::Index, note))
    }

    fn named_by(
        &self,
        target: LinkTarget,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Digest>, StoreError>> {
        let page = move |folder: &Folder| folder.index.named_by(target, limit);
        Box::pin(self.shared.blocking(StoreOperation::List, page))
    }

    fn linked_in<'a>(
        &'a self,
        target: LinkTarget,
        after: Option<&'a Origin>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Origin>, StoreError>> {
        let after = after.cloned();
        let page = move |folder: &Folder| folder.index.linked_in(target, after.as_ref(), limit);
        Box::pin(self.shared.blocking(StoreOperation::List, page))
    }

    fn tagged_as(
        &self,
        manifest: Digest,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(Origin, Tag)>, StoreError>> {
        let page = move |folder: &Folder| folder.index.tagged_as(manifest, limit);
        Box::pin(self.shared.blocking(StoreOperation::List, page))
    }

    fn manifests(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Digest>, StoreError>> {
        let page = move |folder: &Folder| folder.index.manifests(after, limit);
        Box::pin(self.shared.blocking(StoreOperation::List, page))
    }

    fn blobs(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Digest>, StoreError>> {
        let page = move |folder: &Folder| {
            let blobs = folder.index.blobs(after, limit)?;
            Ok(blobs.into_iter().map(|blob| blob.digest).collect())
        };
        Box::pin(self.shared.blocking(StoreOperation::List, page))
    }

    fn linked_manifests<'a>(
        &'a self,
        origin: &'a Origin,
        after: Option<Digest>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Digest>, StoreError>> {
        let origin = origin.clone();
        let page = move |folder: &Folder| folder.index.linked_manifests(&origin, after, limit);
        Box::pin(self.shared.blocking(StoreOperation::List, page))
    }

    fn peek_manifest(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Manifest>, StoreError>> {
        let peek = move |folder: &Folder| folder.peek_manifest(digest);
        Box::pin(self.shared.blocking(StoreOperation::Read, peek))
    }

    fn peek_blob(&self, digest: Digest) -> BoxFuture<'_, Result<Option<PeekedBlob>, StoreError>> {
        let store = Arc::clone(&self.shared);
        let peek = move |folder: &Folder| {
            let blob = folder.peek_blob(digest)?;
            Ok(blob.map(|(file, size)| PeekedBlob {
                size,
                reader: Arc::new(Peek {
                    store,
                    file: Arc::new(file),
                    size,
                }),
            }))
        };
        Box::pin(self.shared.blocking(StoreOperation::Read, peek))
    }

    fn forget(&self, target: LinkTarget) -> BoxFuture<'_, Result<usize, StoreError>> {
        let forget = move |folder: &Folder| folder.forget(target);
        Box::pin(
            self.shared
                .changing_manifests(StoreOperation::Remove, forget),
        )
    }

    fn remove_unused(&self, blob: Digest) -> BoxFuture<'_, Result<RemovedUnused, StoreError>> {
        let remove = move |folder: &Folder| folder.remove_unused(blob);
        Box::pin(self.shared.blocking(StoreOperation::Remove, remove))
    }
}

impl JournalStore for DiskStore {
    fn put_pin(&self, pin: Pin, since: Timestamp) -> BoxFuture<'_, Result<bool, StoreError>> {
        let put = move |folder: &Folder| folder.put_pin(&pin, since);
        Box::pin(self.shared.blocking(StoreOperation::Index, put))
    }

    fn remove_pin<'a>(&'a self, pin: &'a Pin) -> BoxFuture<'a, Result<bool, StoreError>> {
        let pin = pin.clone();
        let remove = move |folder: &Folder| folder.remove_pin(&pin);
        Box::pin(self.shared.blocking(StoreOperation::Index, remove))
    }

    fn pins(&self) -> BoxFuture<'_, Result<Vec<(Pin, Timestamp)>, StoreError>> {
        Box::pin(self.shared.blocking(StoreOperation::List, Folder::pins))
    }

    fn put_removal(&self, removal: Removal) -> BoxFuture<'_, Result<(), StoreError>> {
        let put = move |folder: &Folder| folder.index.put_removal(&removal);
        Box::pin(self.shared.blocking(StoreOperation::Index, put))
    }

    fn removals(&self, limit: usize) -> BoxFuture<'_, Result<Vec<Removal>, StoreError>> {
        let page = move |folder: &Folder| folder.index.removals(limit);
        Box::pin(self.shared.blocking(StoreOperation::List, page))
    }
}

/// A blob that is looked at. Its file stays readable when its name is gone.
struct Peek {
    store: Arc<Shared>,
    file: Arc<File>,
    size: u64,
}

impl SpoolReader for Peek {
    fn read_at(&self, offset: u64, len: usize) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let operation = StoreOperation::Read;
            let left = self.size.saturating_sub(offset);
            let len = usize::try_from(left).map_or(len, |left| len.min(left));
            let file = Arc::clone(&self.file);
            let read = move |_: &Folder| {
                let mut bytes = vec![0; len];
                let read = file.read_exact_at(&mut bytes, offset);
                read.map_err(|source| StoreError::io(operation, source))?;
                Ok(Bytes::from(bytes))
            };
            self.store.blocking(operation, read).await
        })
    }
}
