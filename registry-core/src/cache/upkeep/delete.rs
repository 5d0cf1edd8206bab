//! Removing an image because a person says so. The next pull fetches it anew.
//!
//! What is being read stays readable to its end, and a fill under way goes on: it keeps what it
//! fetches, as a blob that nothing needs.

use super::super::{CacheError, Inner, RegistryCache};
use super::anatomy::Anatomy;
use super::bonds::{BONDS_MAX, Bonds};
use crate::{
    Digest, LinkTarget, Origin, Pin, Reference, RemovalReason, StoreOperation, Tag, Upkeep,
};

/// What was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The manifest or index that was named.
    pub digest: Digest,
    /// Tags that are gone.
    pub tags: u64,
    /// Manifests that are gone.
    pub manifests: u64,
    /// Blobs that are gone.
    pub blobs: u64,
    /// Bytes that this gave free.
    pub bytes: u64,
    /// Why only the tag is gone, where something else needs what it named.
    pub kept: Option<StillNeeded>,
}

/// Why a manifest stays whose tag was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StillNeeded {
    /// Another tag names it.
    Tagged(Origin, Tag),
    /// An index lists it.
    Listed(Digest),
    /// A pin holds it.
    Pinned(Pin),
}

impl RegistryCache {
    /// Deletes an image: a tag, and what it names where no other tag, index or pin holds that; or a
    /// manifest, with every tag that names it anywhere. With a manifest goes everything that
    /// nothing else needs: blobs, and of an index the manifests that it lists. `None` where there
    /// is no such image.
    ///
    /// # Errors
    ///
    /// [`CacheError::Pinned`], where a pin holds it; [`CacheError::NoUpkeep`];
    /// [`CacheError::Store`], where some of it may still be there, though nothing names it any more:
    /// it is evicted before everything else, and the next pull makes it whole.
    ///
    /// # Cancellation
    ///
    /// As an error of the store.
    pub async fn delete(
        &self,
        origin: &Origin,
        reference: &Reference,
    ) -> Result<Option<Deleted>, CacheError> {
        let cache = &self.inner;
        let upkeep = cache.upkeep()?;
        let bonds = Bonds::new(cache, upkeep).await?;
        match reference {
            Reference::Tag(tag) => cache.delete_tag(upkeep, &bonds, origin, tag).await,
            Reference::Digest(digest) => {
                let target = LinkTarget::Manifest(*digest);
                if cache.linked(origin, target).await.is_none()
                    || cache.content_record(upkeep, target).await?.is_none()
                {
                    return Ok(None);
                }
                if let Some(pin) = bonds.pin_of(*digest).await? {
                    let pin = Box::new(pin);
                    return Err(CacheError::Pinned { pin });
                }
                cache.delete_image(upkeep, &bonds, *digest).await.map(Some)
            }
        }
    }
}

impl Inner {
    async fn delete_tag(
        &self,
        upkeep: &Upkeep,
        bonds: &Bonds<'_>,
        origin: &Origin,
        tag: &Tag,
    ) -> Result<Option<Deleted>, CacheError> {
        let Some(record) = self.tag_record(origin, tag).await? else {
            return Ok(None);
        };
        let digest = record.digest;
        if let Some(pin) = bonds.pin_of_tag(origin, tag) {
            let pin = Box::new(pin.clone());
            return Err(CacheError::Pinned { pin });
        }
        if let Some(kept) = self.still_needed(bonds, origin, tag, digest).await? {
            let removed = self.stores.tags.remove_tag(origin, tag);
            let removed = self.store(StoreOperation::Remove, removed).await?;
            return Ok(Some(Deleted {
                kept: Some(kept),
                tags: u64::from(removed),
                ..Deleted::nothing(digest)
            }));
        }
        let mut deleted = self.delete_image(upkeep, bonds, digest).await?;
        // One whose manifest was not kept is not forgotten with it.
        let removed = self.stores.tags.remove_tag(origin, tag);
        deleted.tags += u64::from(self.store(StoreOperation::Remove, removed).await?);
        Ok(Some(deleted))
    }

    /// What holds a manifest beside this tag.
    async fn still_needed(
        &self,
        bonds: &Bonds<'_>,
        origin: &Origin,
        tag: &Tag,
        digest: Digest,
    ) -> Result<Option<StillNeeded>, CacheError> {
        let mut tagged_as = bonds.tagged_as(digest, BONDS_MAX).await?.into_iter();
        if let Some((of, name)) = tagged_as.find(|(of, name)| (of, name) != (origin, tag)) {
            return Ok(Some(StillNeeded::Tagged(of, name)));
        }
        let listed = bonds.named_by(LinkTarget::Manifest(digest), 1).await?;
        if let Some(index) = listed.first() {
            return Ok(Some(StillNeeded::Listed(*index)));
        }
        Ok(bonds.pin_of(digest).await?.map(StillNeeded::Pinned))
    }

    /// Removes a manifest, and what only it needs: from the index down, so that whatever is cut off
    /// leaves nothing that promises what is gone.
    async fn delete_image(
        &self,
        upkeep: &Upkeep,
        bonds: &Bonds<'_>,
        root: Digest,
    ) -> Result<Deleted, CacheError> {
        let anatomy = Anatomy::examine(self, upkeep, bonds, root).await?;
        let held = anatomy.manifests.iter().filter(|of| of.held);
        let held: Vec<_> = held.map(|of| of.digest).collect();
        let children: Vec<_> = held.iter().copied().filter(|of| *of != root).collect();
        let going = bonds.going_with(root, &children).await?;
        let mut deleted = Deleted::nothing(root);
        for manifest in held.iter().filter(|of| going.contains(of)) {
            let target = LinkTarget::Manifest(*manifest);
            let freed = self.remove_unit(upkeep, target, RemovalReason::Deleted);
            if let Some(freed) = freed.await? {
                deleted.tags += freed.tags as u64;
                deleted.manifests += 1;
                deleted.blobs += freed.blobs;
                deleted.bytes += freed.removal.bytes;
            }
        }
        tracing::info!(
            digest = %root,
            manifests = deleted.manifests,
            blobs = deleted.blobs,
            bytes = deleted.bytes,
            "an image was deleted"
        );
        Ok(deleted)
    }
}

impl Deleted {
    fn nothing(digest: Digest) -> Self {
        Self {
            digest,
            tags: 0,
            manifests: 0,
            blobs: 0,
            bytes: 0,
            kept: None,
        }
    }
}
