//! Pins: what people want kept, and what is kept for it.
//!
//! A pin holds the image that it names, and with it the manifests that an index lists, their blobs,
//! and what is attached to any of them. Which tag names what is looked up when something is about to
//! go: so a pin by tag follows the tag.

use std::collections::BTreeSet;

use super::super::{CacheError, Inner, RegistryCache};
use crate::{
    Digest, LinkTarget, Origin, Pin, Reference, StoreError, StoreOperation, Tag, Timestamp, Upkeep,
};

impl RegistryCache {
    /// Pins an image, or every image that a pattern stands for: it is not evicted, nor are its
    /// blobs, the manifests that it lists, and its signatures; whether the pin is new. It need not
    /// be here yet.
    ///
    /// # Durability
    ///
    /// It outlives a crash once this returns.
    ///
    /// # Errors
    ///
    /// [`CacheError::TooManyPins`] beyond [`Limits::pins_max`](crate::Limits::pins_max);
    /// [`CacheError::NoUpkeep`]; [`CacheError::Store`].
    pub async fn pin(&self, pin: Pin) -> Result<bool, CacheError> {
        let cache = &self.inner;
        let upkeep = cache.upkeep()?;
        let pins = cache.pins(upkeep).await?;
        let limit = cache.limits.pins_max;
        if pins.len() >= limit && !pins.iter().any(|(other, _)| *other == pin) {
            return Err(CacheError::TooManyPins { limit });
        }
        if let Some((_, since)) = pins.iter().find(|(other, _)| *other == pin) {
            tracing::debug!(%pin, since = since.as_millis(), "it is pinned already");
            return Ok(false);
        }
        let put = upkeep.journal.put_pin(pin, cache.now());
        Ok(cache.store(StoreOperation::Index, put).await?)
    }

    /// Removes a pin; whether it was there.
    ///
    /// # Errors
    ///
    /// [`CacheError::NoUpkeep`]; [`CacheError::Store`], where it may still be there.
    pub async fn unpin(&self, pin: &Pin) -> Result<bool, CacheError> {
        let upkeep = self.inner.upkeep()?;
        let remove = upkeep.journal.remove_pin(pin);
        let removed = self.inner.store(StoreOperation::Remove, remove).await?;
        if removed {
            // What it held may be older than what was looked at for its age, and may make room.
            self.inner.upkeep.notes().aged = None;
            self.inner.upkeep.room.forget_stays();
        }
        Ok(removed)
    }

    /// All pins, in their order, and since when each is there.
    ///
    /// # Errors
    ///
    /// [`CacheError::NoUpkeep`]; [`CacheError::Store`].
    pub async fn pins(&self) -> Result<Vec<(Pin, Timestamp)>, CacheError> {
        let upkeep = self.inner.upkeep()?;
        Ok(self.inner.pins(upkeep).await?)
    }
}

impl Inner {
    async fn pins(&self, upkeep: &Upkeep) -> Result<Vec<(Pin, Timestamp)>, StoreError> {
        let pins = upkeep.journal.pins();
        self.store(StoreOperation::Index, pins).await
    }
}

/// The pins, as they are while something is evicted.
pub(super) struct Pins {
    pins: Vec<Pin>,
    /// What those name that name one manifest: whatever else names it.
    manifests: BTreeSet<Digest>,
}

impl Pins {
    pub(super) async fn load(cache: &Inner, upkeep: &Upkeep) -> Result<Self, StoreError> {
        let pins = cache.pins(upkeep).await?;
        let pins: Vec<Pin> = pins.into_iter().map(|(pin, _)| pin).collect();
        let mut manifests = BTreeSet::new();
        for pin in &pins {
            match pin {
                Pin::Image(_, Reference::Digest(digest)) => {
                    manifests.insert(*digest);
                }
                Pin::Image(origin, Reference::Tag(tag)) => {
                    let record = cache.stores.tags.tag(origin, tag);
                    let record = cache.store(StoreOperation::Index, record).await?;
                    manifests.extend(record.map(|record| record.digest));
                }
                Pin::Pattern { .. } => {}
            }
        }
        Ok(Self { pins, manifests })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }

    /// Whether a pin holds a manifest: itself, an index that lists it, or what it is attached to.
    pub(super) async fn hold(
        &self,
        cache: &Inner,
        upkeep: &Upkeep,
        manifest: Digest,
    ) -> Result<bool, StoreError> {
        if self.pins.is_empty() {
            return Ok(false);
        }
        let limits = &cache.limits;
        let mut seen = BTreeSet::from([manifest]);
        let mut next = vec![manifest];
        while let Some(digest) = next.pop() {
            let tagged_as = upkeep.inventory.tagged_as(digest, limits.bonds_max);
            let tags = cache.store(StoreOperation::Index, tagged_as).await?;
            if self.hold_itself(cache, upkeep, digest, &tags).await? {
                return Ok(true);
            }
            let target = LinkTarget::Manifest(digest);
            let named_by = upkeep.inventory.named_by(target, limits.bonds_max);
            let mut above = cache.store(StoreOperation::Index, named_by).await?;
            above.extend(tags.iter().filter_map(|(_, tag)| tag.attached_to()));
            let peeked = upkeep.inventory.peek_manifest(digest);
            let peeked = cache.store(StoreOperation::Index, peeked).await?;
            above.extend(peeked.and_then(|manifest| manifest.contents().subject));
            for digest in above {
                if seen.insert(digest) {
                    if seen.len() > limits.bonds_max {
                        // It cannot be told: then it is not for us to take.
                        return Ok(true);
                    }
                    next.push(digest);
                }
            }
        }
        Ok(false)
    }

    /// Whether a pin holds a manifest, which has these tags, for itself.
    async fn hold_itself(
        &self,
        cache: &Inner,
        upkeep: &Upkeep,
        digest: Digest,
        tags: &[(Origin, Tag)],
    ) -> Result<bool, StoreError> {
        let by_tag = |(origin, tag): &(Origin, Tag)| {
            let mut pins = self.pins.iter();
            pins.any(|pin| pin.holds_tag(origin, tag))
        };
        if self.manifests.contains(&digest) || tags.iter().any(by_tag) {
            return Ok(true);
        }
        let is_pattern = |pin: &&Pin| matches!(pin, Pin::Pattern { .. });
        let mut patterns = self.pins.iter().filter(is_pattern).peekable();
        if patterns.peek().is_none() {
            return Ok(false);
        }
        let target = LinkTarget::Manifest(digest);
        let linked_in = upkeep
            .inventory
            .linked_in(target, None, cache.limits.bonds_max);
        let origins = cache.store(StoreOperation::Index, linked_in).await?;
        let is_matched = patterns.any(|pin| origins.iter().any(|at| pin.holds_digest(at, digest)));
        // Where there are more than are looked at, one of them may match.
        let bonds_max = cache.limits.bonds_max;
        Ok(is_matched || tags.len() >= bonds_max || origins.len() >= bonds_max)
    }
}
