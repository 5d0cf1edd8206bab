//! What holds content here: tags, indexes and pins; so what goes with an image, and what stays.

use std::collections::BTreeSet;

use super::super::{CacheError, Inner};
use crate::{
    Digest, InventoryStore, LinkTarget, Origin, Pin, StoreOperation, Tag, Timestamp, Upkeep,
};

/// Indexes within indexes that are looked through.
pub(super) const INDEX_DEPTH_MAX: usize = 3;

/// Who else names something is looked at for so many of each kind: whoever is past that has it
/// held by the others.
pub(super) const BONDS_MAX: usize = 1_000;

/// Looks at what holds content.
pub(super) struct Bonds<'a> {
    cache: &'a Inner,
    upkeep: &'a Upkeep,
    pins: Vec<(Pin, Timestamp)>,
}

impl<'a> Bonds<'a> {
    pub(super) async fn new(cache: &'a Inner, upkeep: &'a Upkeep) -> Result<Self, CacheError> {
        let pins = upkeep.journal.pins();
        let pins = cache.store(StoreOperation::Index, pins).await?;
        Ok(Self {
            cache,
            upkeep,
            pins,
        })
    }

    fn inventory(&self) -> &dyn InventoryStore {
        &*self.upkeep.inventory
    }

    /// The pin that holds what a tag names.
    pub(super) fn pin_of_tag(&self, origin: &Origin, tag: &Tag) -> Option<&Pin> {
        let mut pins = self.pins.iter().map(|(pin, _)| pin);
        pins.find(|pin| pin.holds_tag(origin, tag))
    }

    /// The pin that holds a manifest: by its digest, by a tag, by an index that lists it, or by what
    /// it is attached to.
    pub(super) async fn pin_of(&self, manifest: Digest) -> Result<Option<Pin>, CacheError> {
        if self.pins.is_empty() {
            return Ok(None);
        }
        let mut seen = BTreeSet::from([manifest]);
        let mut level = vec![manifest];
        for _ in 0..=INDEX_DEPTH_MAX {
            let mut above = Vec::new();
            for digest in level {
                if let Some(pin) = self.own_pin(digest).await? {
                    return Ok(Some(pin));
                }
                let holders = self.holders(digest).await?;
                above.extend(holders.into_iter().filter(|by| seen.insert(*by)));
            }
            level = above;
        }
        Ok(None)
    }

    /// What a pin of holds a manifest, too.
    async fn holders(&self, manifest: Digest) -> Result<Vec<Digest>, CacheError> {
        let target = LinkTarget::Manifest(manifest);
        let mut holders = self.named_by(target, BONDS_MAX).await?;
        let tags = self.tagged_as(manifest, BONDS_MAX).await?;
        holders.extend(tags.iter().filter_map(|(_, tag)| tag.attached_to()));
        let peeked = self.inventory().peek_manifest(manifest);
        let peeked = self.cache.store(StoreOperation::Read, peeked).await?;
        holders.extend(peeked.and_then(|manifest| manifest.contents().subject));
        Ok(holders)
    }

    async fn own_pin(&self, digest: Digest) -> Result<Option<Pin>, CacheError> {
        for (origin, tag) in self.tagged_as(digest, BONDS_MAX).await? {
            if let Some(pin) = self.pin_of_tag(&origin, &tag) {
                return Ok(Some(pin.clone()));
            }
        }
        for origin in self.linked_in(digest, BONDS_MAX).await? {
            let mut pins = self.pins.iter().map(|(pin, _)| pin);
            if let Some(pin) = pins.find(|pin| pin.holds_digest(&origin, digest)) {
                return Ok(Some(pin.clone()));
            }
        }
        Ok(None)
    }

    /// Of an image, the manifests that would go with its `root`: those that nothing else needs.
    /// `children` are the others that are held, each after one that lists it. Where a pin holds the
    /// root, it has to go first: then they are told as they would go without pins.
    pub(super) async fn going_with(
        &self,
        root: Digest,
        children: &[Digest],
    ) -> Result<BTreeSet<Digest>, CacheError> {
        let mut going = BTreeSet::from([root]);
        let is_pinned = self.pin_of(root).await?.is_some();
        for child in children {
            let is_needed = self
                .is_needed_beside(LinkTarget::Manifest(*child), &going)
                .await?
                || !self.tagged_as(*child, 1).await?.is_empty();
            if !is_needed && (is_pinned || self.pin_of(*child).await?.is_none()) {
                going.insert(*child);
            }
        }
        Ok(going)
    }

    /// Whether a manifest that is kept names `target`, other than `going`.
    pub(super) async fn is_needed_beside(
        &self,
        target: LinkTarget,
        going: &BTreeSet<Digest>,
    ) -> Result<bool, CacheError> {
        let named_by = self.named_by(target, going.len() + 1).await?;
        Ok(named_by.iter().any(|by| !going.contains(by)))
    }

    pub(super) async fn named_by(
        &self,
        target: LinkTarget,
        limit: usize,
    ) -> Result<Vec<Digest>, CacheError> {
        let named_by = self.inventory().named_by(target, limit);
        Ok(self.cache.store(StoreOperation::Index, named_by).await?)
    }

    pub(super) async fn tagged_as(
        &self,
        manifest: Digest,
        limit: usize,
    ) -> Result<Vec<(Origin, Tag)>, CacheError> {
        let tagged_as = self.inventory().tagged_as(manifest, limit);
        Ok(self.cache.store(StoreOperation::Index, tagged_as).await?)
    }

    pub(super) async fn linked_in(
        &self,
        manifest: Digest,
        limit: usize,
    ) -> Result<Vec<Origin>, CacheError> {
        let target = LinkTarget::Manifest(manifest);
        let linked_in = self.inventory().linked_in(target, None, limit);
        Ok(self.cache.store(StoreOperation::Index, linked_in).await?)
    }
}
