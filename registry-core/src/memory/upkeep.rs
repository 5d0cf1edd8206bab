//! The contracts of upkeep, in memory.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{Content, MemoryStore};
use crate::{
    Charge, ContentRecord, Digest, InventoryStore, JournalStore, LinkTarget, Manifest, Origin,
    PeekedBlob, Pin, Position, Provenance, Removal, RemovedUnused, SpoolReader, StoreError, Tag,
    Timestamp, Unit, UpstreamId, Usage,
};

/// Removals that are kept; the oldest go first.
const REMOVALS_MAX: usize = 4_096;

impl Content {
    /// Bytes that unfinished blobs have, and those that are being written.
    fn unfinished_bytes(&self) -> u64 {
        self.unfinished.bytes() + self.writing
    }

    /// Bytes that may still be written, where there is a limit.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        let capacity = self.capacity?;
        let used = self.kept.usage().bytes + self.unfinished_bytes();
        Some(capacity.saturating_sub(used))
    }
}

impl InventoryStore for MemoryStore {
    fn forgotten(&self) -> u64 {
        // What is in memory is what was put there.
        0
    }

    fn usage(&self) -> BoxFuture<'_, Result<Usage, StoreError>> {
        Box::pin(async move {
            let content = self.content();
            Ok(Usage {
                unfinished_bytes: content.unfinished_bytes(),
                free_bytes: content.free_bytes(),
                ..content.kept.usage()
            })
        })
    }

    fn charges<'a>(
        &'a self,
        upstream: Option<&'a UpstreamId>,
        after: Option<&'a Origin>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Charge>, StoreError>> {
        Box::pin(async move { Ok(self.content().kept.charges(upstream, after, limit)) })
    }

    fn coldest<'a>(
        &'a self,
        origin: Option<&'a Origin>,
        after: Option<Position>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Unit>, StoreError>> {
        Box::pin(async move { Ok(self.content().kept.coldest(origin, after, limit)) })
    }

    fn postpone(
        &self,
        target: LinkTarget,
        until: Timestamp,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.content().kept.postpone(target, until);
            Ok(())
        })
    }

    fn record(
        &self,
        target: LinkTarget,
    ) -> BoxFuture<'_, Result<Option<ContentRecord>, StoreError>> {
        Box::pin(async move { Ok(self.content().kept.record(target)) })
    }

    fn note(
        &self,
        target: LinkTarget,
        provenance: Provenance,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.content().kept.note(target, provenance);
            Ok(())
        })
    }

    fn named_by(
        &self,
        target: LinkTarget,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Digest>, StoreError>> {
        Box::pin(async move { Ok(self.content().kept.namers(target).take(limit).collect()) })
    }

    fn linked_in<'a>(
        &'a self,
        target: LinkTarget,
        after: Option<&'a Origin>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Origin>, StoreError>> {
        Box::pin(async move {
            let content = self.content();
            let past = after.map_or(Bound::Unbounded, Bound::Excluded);
            let origins = content.links.range((past, Bound::Unbounded));
            let linked = origins.filter(|(_, links)| links.contains_key(&target));
            Ok(linked.map(|(at, _)| at.clone()).take(limit).collect())
        })
    }

    fn tagged_as(
        &self,
        manifest: Digest,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(Origin, Tag)>, StoreError>> {
        Box::pin(async move {
            let content = self.content();
            let tags = content.tags.iter().flat_map(|(origin, tags)| {
                let naming = tags.iter().filter(|(_, record)| record.digest == manifest);
                naming.map(|(tag, _)| (origin.clone(), tag.clone()))
            });
            Ok(tags.take(limit).collect())
        })
    }

    fn manifests(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Digest>, StoreError>> {
        Box::pin(async move {
            let content = self.content();
            let past = after.map_or(Bound::Unbounded, Bound::Excluded);
            let manifests = content.manifests.range((past, Bound::Unbounded));
            Ok(manifests.map(|(digest, _)| *digest).take(limit).collect())
        })
    }

    fn blobs(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Digest>, StoreError>> {
        Box::pin(async move {
            let content = self.content();
            let past = after.map_or(Bound::Unbounded, Bound::Excluded);
            let blobs = content.blobs.range((past, Bound::Unbounded));
            Ok(blobs.map(|(digest, _)| *digest).take(limit).collect())
        })
    }

    fn linked_manifests<'a>(
        &'a self,
        origin: &'a Origin,
        after: Option<Digest>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Digest>, StoreError>> {
        Box::pin(async move {
            let content = self.content();
            let linked = content.links.get(origin).into_iter();
            let manifests = linked
                .flat_map(BTreeMap::keys)
                .filter_map(|target| match target {
                    LinkTarget::Manifest(digest) => Some(*digest),
                    LinkTarget::Blob(_) => None,
                });
            let past = manifests.filter(|digest| after.is_none_or(|after| *digest > after));
            Ok(past.take(limit).collect())
        })
    }

    fn peek_manifest(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Manifest>, StoreError>> {
        Box::pin(async move { Ok(self.content().manifests.get(&digest).cloned()) })
    }

    fn peek_blob(&self, digest: Digest) -> BoxFuture<'_, Result<Option<PeekedBlob>, StoreError>> {
        Box::pin(async move {
            let bytes = self.content().blobs.get(&digest).cloned();
            Ok(bytes.map(|bytes| PeekedBlob {
                size: bytes.len() as u64,
                reader: Arc::new(Whole(bytes)),
            }))
        })
    }

    fn forget(&self, target: LinkTarget) -> BoxFuture<'_, Result<usize, StoreError>> {
        Box::pin(async move {
            let mut content = self.content();
            prune(&mut content.links, |linked, _| *linked == target);
            let LinkTarget::Manifest(digest) = target else {
                return Ok(0);
            };
            prune(&mut content.referrers, |subject, _| *subject == digest);
            Ok(prune(&mut content.tags, |_, record| {
                record.digest == digest
            }))
        })
    }

    fn remove_unused(&self, blob: Digest) -> BoxFuture<'_, Result<RemovedUnused, StoreError>> {
        Box::pin(async move {
            let mut content = self.content();
            let target = LinkTarget::Blob(blob);
            if content.kept.namers(target).next().is_some() {
                return Ok(RemovedUnused::Needed);
            }
            let bytes = content.kept.record(target).map(|record| record.bytes);
            content.remove_blob(blob);
            Ok(bytes.map_or(RemovedUnused::Absent, RemovedUnused::Removed))
        })
    }
}

/// Removes what `is_gone` says of every origin, and the origins with their last; how many they
/// were.
fn prune<K: Ord, V>(
    map: &mut BTreeMap<Origin, BTreeMap<K, V>>,
    mut is_gone: impl FnMut(&K, &V) -> bool,
) -> usize {
    let mut gone = 0;
    map.retain(|_, of_origin| {
        let before = of_origin.len();
        of_origin.retain(|key, value| !is_gone(key, value));
        gone += before - of_origin.len();
        !of_origin.is_empty()
    });
    gone
}

/// A committed blob, looked at.
struct Whole(Bytes);

impl SpoolReader for Whole {
    fn read_at(&self, offset: u64, len: usize) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let size = self.0.len();
            let start = usize::try_from(offset).unwrap_or(size).min(size);
            let end = start.saturating_add(len).min(size);
            Ok(self.0.slice(start..end))
        })
    }
}

impl JournalStore for MemoryStore {
    fn put_pin(&self, pin: Pin, since: Timestamp) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move { Ok(self.content().pins.insert(pin, since).is_none()) })
    }

    fn remove_pin<'a>(&'a self, pin: &'a Pin) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { Ok(self.content().pins.remove(pin).is_some()) })
    }

    fn pins(&self) -> BoxFuture<'_, Result<Vec<(Pin, Timestamp)>, StoreError>> {
        Box::pin(async move {
            let content = self.content();
            let pins = content.pins.iter();
            Ok(pins.map(|(pin, since)| (pin.clone(), *since)).collect())
        })
    }

    fn put_removal(&self, removal: Removal) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let mut content = self.content();
            content.removals.push_back(removal);
            if content.removals.len() > REMOVALS_MAX {
                content.removals.pop_front();
            }
            Ok(())
        })
    }

    fn removals(&self, limit: usize) -> BoxFuture<'_, Result<Vec<Removal>, StoreError>> {
        Box::pin(async move {
            let content = self.content();
            Ok(content.removals.iter().rev().take(limit).cloned().collect())
        })
    }
}
