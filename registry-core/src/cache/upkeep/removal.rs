//! How something goes: what leads to it first, then it, then what nobody needs without it.
//!
//! Whatever is cut off in between is a miss, never a promise that is not kept: a manifest goes
//! before its blobs, and blobs that are left over are the first to go the next time.

use std::collections::BTreeSet;

use crate::cache::Inner;
use crate::{
    ContentRecord, Digest, LinkTarget, Manifest, Origin, Removal, RemovalReason, RemovedUnused,
    StoreError, StoreOperation, Upkeep,
};

/// What a removal gave free.
pub(super) struct Freed {
    /// As it was written down.
    pub(super) removal: Removal,
    /// Whom the bytes were charged to.
    pub(super) charges: Vec<(Origin, u64)>,
    /// Tags that were forgotten.
    pub(super) tags: usize,
    /// Blobs that went with a manifest.
    pub(super) blobs: u64,
}

impl Freed {
    /// `content`, with the record of it, is gone.
    fn add(&mut self, bytes: u64, record: Option<ContentRecord>) {
        self.removal.bytes += bytes;
        if let Some(provenance) = record.and_then(|record| record.provenance) {
            self.charges.push((provenance.origin, bytes));
        }
    }
}

impl Inner {
    /// Removes a unit, with all that nothing else needs; `None` where it was none.
    ///
    /// # Cancellation
    ///
    /// Dropping the future may leave blobs that nothing needs: they are the first to go.
    pub(super) async fn remove_unit(
        &self,
        upkeep: &Upkeep,
        target: LinkTarget,
        reason: RemovalReason,
    ) -> Result<Option<Freed>, StoreError> {
        let record = upkeep.inventory.record(target);
        let record = self.store(StoreOperation::Index, record).await?;
        let mut freed = Freed {
            removal: self.obituary(upkeep, target, reason).await?,
            charges: Vec::new(),
            tags: 0,
            blobs: 0,
        };
        freed.removal.accessed_at = record.as_ref().and_then(|record| record.accessed_at);
        let rest = match target {
            LinkTarget::Blob(blob) => match self.remove_blob(upkeep, blob).await? {
                Some(bytes) => {
                    freed.add(bytes, record);
                    Ok(())
                }
                None => return Ok(None),
            },
            LinkTarget::Manifest(digest) => {
                let manifest = upkeep.inventory.peek_manifest(digest);
                let manifest = self.store(StoreOperation::Index, manifest).await?;
                let forget = upkeep.inventory.forget(target);
                freed.tags = self.store(StoreOperation::Remove, forget).await?;
                let remove = self.stores.manifests.remove_manifest(digest);
                if !self.store(StoreOperation::Remove, remove).await? {
                    return Ok(None);
                }
                freed.add(record.as_ref().map_or(0, |record| record.bytes), record);
                match manifest {
                    Some(manifest) => self.remove_named(upkeep, &manifest, &mut freed).await,
                    None => Ok(()),
                }
            }
        };
        self.note_removal(upkeep, &freed.removal).await;
        rest.map(|()| Some(freed))
    }

    /// What is written down of it, but for its bytes.
    pub(super) async fn obituary(
        &self,
        upkeep: &Upkeep,
        target: LinkTarget,
        reason: RemovalReason,
    ) -> Result<Removal, StoreError> {
        let names_max = self.limits.removal_names_max;
        let origins = upkeep.inventory.linked_in(target, None, names_max);
        let origins = self.store(StoreOperation::Index, origins).await?;
        let tags = match target {
            LinkTarget::Blob(_) => Vec::new(),
            LinkTarget::Manifest(digest) => {
                let tags = upkeep.inventory.tagged_as(digest, names_max);
                self.store(StoreOperation::Index, tags).await?
            }
        };
        Ok(Removal {
            at: self.now(),
            target,
            origins,
            tags,
            bytes: 0,
            accessed_at: None,
            reason,
        })
    }

    /// Removes what only a manifest named that is gone.
    async fn remove_named(
        &self,
        upkeep: &Upkeep,
        manifest: &Manifest,
        freed: &mut Freed,
    ) -> Result<(), StoreError> {
        let links = manifest.links();
        let targets: BTreeSet<LinkTarget> = links.iter().map(|link| link.target).collect();
        for target in targets {
            let record = upkeep.inventory.record(target);
            let record = self.store(StoreOperation::Index, record).await?;
            match target {
                LinkTarget::Blob(blob) => {
                    if let Some(bytes) = self.remove_blob(upkeep, blob).await? {
                        freed.add(bytes, record);
                        freed.blobs += 1;
                    }
                }
                // A manifest that is kept is a unit of its own; of one that is not, only the links
                // are left.
                LinkTarget::Manifest(_) if record.is_none() => {
                    self.forget_unnamed(upkeep, target).await?;
                }
                LinkTarget::Manifest(_) => {}
            }
        }
        Ok(())
    }

    /// Removes a blob that no kept manifest names; how many bytes that gave free.
    async fn remove_blob(&self, upkeep: &Upkeep, blob: Digest) -> Result<Option<u64>, StoreError> {
        if !self.forget_unnamed(upkeep, LinkTarget::Blob(blob)).await? {
            return Ok(None);
        }
        let remove = upkeep.inventory.remove_unused(blob);
        match self.store(StoreOperation::Remove, remove).await? {
            RemovedUnused::Removed(bytes) => Ok(Some(bytes)),
            RemovedUnused::Needed | RemovedUnused::Absent => Ok(None),
        }
    }

    /// Forgets the links of what no kept manifest names; whether there is none that does.
    ///
    /// Where one is kept just then, its links may be lost: that costs a HEAD.
    async fn forget_unnamed(
        &self,
        upkeep: &Upkeep,
        target: LinkTarget,
    ) -> Result<bool, StoreError> {
        let named_by = upkeep.inventory.named_by(target, 1);
        if !self
            .store(StoreOperation::Index, named_by)
            .await?
            .is_empty()
        {
            return Ok(false);
        }
        let forget = upkeep.inventory.forget(target);
        self.store(StoreOperation::Remove, forget).await?;
        Ok(true)
    }

    /// Counts a removal, and writes it down. It is gone, whether or not that can be written.
    pub(super) async fn note_removal(&self, upkeep: &Upkeep, removal: &Removal) {
        self.upkeep.counts.removed(removal.reason, removal.bytes);
        tracing::debug!(
            target = ?removal.target,
            origins = ?removal.origins,
            bytes = removal.bytes,
            reason = removal.reason.as_str(),
            "removed"
        );
        let put = upkeep.journal.put_removal(removal.clone());
        let _ = self.store(StoreOperation::Index, put).await;
    }
}
