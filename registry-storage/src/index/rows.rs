//! What is done with the rows, one method a question.

use std::collections::BTreeMap;

use registry_core::{
    BlobStat, Digest, Link, LinkTarget, Origin, ReferrersRecord, StoreError, Tag, TagRecord,
    Timestamp, UpstreamId,
};

use super::keys::{self, BlobRow, Intent};
use super::{Index, lock};
use crate::options::REFERRERS_RECORD_BYTES_MAX;

impl Index {
    pub(crate) fn blob(&self, digest: Digest) -> Result<Option<BlobRow>, StoreError> {
        let row = self.read(|trees| trees.blobs.get(keys::digest_key(digest)))?;
        Ok(row.and_then(|value| BlobRow::decode(&value)))
    }

    pub(crate) fn put_blob(&self, digest: Digest, row: BlobRow) -> Result<(), StoreError> {
        self.write(|trees| trees.blobs.insert(keys::digest_key(digest), &row.encode()))?;
        Ok(())
    }

    pub(crate) fn put_blobs(&self, rows: &[(Digest, BlobRow)]) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (digest, row) in rows {
            batch.insert(keys::digest_key(*digest), &row.encode());
        }
        self.write(|trees| trees.blobs.apply_batch(batch))
    }

    /// Removes a row; whether there was one.
    pub(crate) fn remove_blob(&self, digest: Digest) -> Result<bool, StoreError> {
        let removed = self.write(|trees| trees.blobs.remove(keys::digest_key(digest)))?;
        Ok(removed.is_some())
    }

    /// Up to `limit` blobs in the order of their keys, past `after`.
    pub(crate) fn blobs(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<BlobStat>, StoreError> {
        // No key is a prefix of another's, so the first past it is the one with a byte more.
        let start = after.map_or(Vec::new(), |after| {
            let mut key = keys::digest_key(after);
            key.push(0);
            key
        });
        self.read(|trees| {
            let mut stats = Vec::new();
            for row in trees.blobs.range(start..) {
                let (key, value) = row?;
                if stats.len() == limit {
                    break;
                }
                if let (Some(digest), Some(row)) = (keys::digest_of(&key), BlobRow::decode(&value))
                {
                    let size = row.size;
                    stats.push(BlobStat { digest, size });
                }
            }
            Ok(stats)
        })
    }

    pub(crate) fn put_intent(&self, digest: Digest, intent: Intent) -> Result<(), StoreError> {
        self.write(|trees| {
            trees
                .intents
                .insert(keys::digest_key(digest), &intent.encode())
        })?;
        Ok(())
    }

    pub(crate) fn remove_intent(&self, digest: Digest) -> Result<(), StoreError> {
        self.write(|trees| trees.intents.remove(keys::digest_key(digest)))?;
        Ok(())
    }

    /// What a crash interrupted: as many as there were calls at a time, and those of the last
    /// moments before it.
    pub(crate) fn intents(&self) -> Result<Vec<(Digest, Intent)>, StoreError> {
        self.read(|trees| {
            let mut intents = Vec::new();
            for row in trees.intents.iter() {
                let (key, value) = row?;
                if let (Some(digest), Some(intent)) =
                    (keys::digest_of(&key), Intent::decode(&value))
                {
                    intents.push((digest, intent));
                }
            }
            Ok(intents)
        })
    }

    pub(crate) fn accessed(&self, target: LinkTarget) -> Result<Option<Timestamp>, StoreError> {
        let value = self.read(|trees| trees.accessed.get(keys::target_key(target)))?;
        let millis = value.and_then(|value| keys::u64_of(&value));
        Ok(millis.map(Timestamp::from_millis))
    }

    pub(crate) fn put_accessed(
        &self,
        accesses: impl IntoIterator<Item = (LinkTarget, Timestamp)>,
    ) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (target, at) in accesses {
            batch.insert(keys::target_key(target), &at.as_millis().to_be_bytes());
        }
        self.write(|trees| trees.accessed.apply_batch(batch))
    }

    pub(crate) fn remove_accessed(&self, target: LinkTarget) -> Result<(), StoreError> {
        self.write(|trees| trees.accessed.remove(keys::target_key(target)))?;
        Ok(())
    }

    pub(crate) fn tag(&self, origin: &Origin, tag: &Tag) -> Result<Option<TagRecord>, StoreError> {
        let value = self.read(|trees| trees.tags.get(keys::tag_key(origin, tag.as_str())))?;
        Ok(value.and_then(|value| keys::decode_tag(&value)))
    }

    pub(crate) fn put_tag(
        &self,
        origin: &Origin,
        tag: &Tag,
        record: &TagRecord,
    ) -> Result<(), StoreError> {
        let key = keys::tag_key(origin, tag.as_str());
        self.write(|trees| trees.tags.insert(key, keys::encode_tag(record)))?;
        Ok(())
    }

    pub(crate) fn remove_tag(&self, origin: &Origin, tag: &Tag) -> Result<bool, StoreError> {
        let key = keys::tag_key(origin, tag.as_str());
        let removed = self.write(|trees| trees.tags.remove(key))?;
        Ok(removed.is_some())
    }

    pub(crate) fn tags(
        &self,
        origin: &Origin,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Tag>, StoreError> {
        let prefix = keys::origin_prefix(origin);
        let start = match after {
            None => prefix.clone(),
            // The first text past `after` is the one with a NUL more.
            Some(after) => [keys::tag_key(origin, after), vec![0]].concat(),
        };
        self.read(|trees| {
            let mut tags = Vec::new();
            for row in trees.tags.range(start..keys::past(prefix.clone())) {
                let (key, _) = row?;
                if tags.len() == limit {
                    break;
                }
                let text = std::str::from_utf8(&key[prefix.len()..]).ok();
                tags.extend(text.and_then(|text| Tag::parse(text).ok()));
            }
            Ok(tags)
        })
    }

    pub(crate) fn referrers(
        &self,
        origin: &Origin,
        subject: Digest,
    ) -> Result<Option<ReferrersRecord>, StoreError> {
        let value = self.read(|trees| trees.referrers.get(keys::referrers_key(origin, subject)))?;
        Ok(value.and_then(|value| keys::decode_referrers(&value)))
    }

    /// Records referrers; of more than [`REFERRERS_RECORD_BYTES_MAX`] bytes, that nothing is known.
    pub(crate) fn put_referrers(
        &self,
        origin: &Origin,
        subject: Digest,
        record: &ReferrersRecord,
    ) -> Result<(), StoreError> {
        let value = keys::encode_referrers(record);
        if value.len() > REFERRERS_RECORD_BYTES_MAX {
            self.remove_referrers(origin, subject)?;
            return Ok(());
        }
        let key = keys::referrers_key(origin, subject);
        self.write(|trees| trees.referrers.insert(key, value))?;
        Ok(())
    }

    pub(crate) fn remove_referrers(
        &self,
        origin: &Origin,
        subject: Digest,
    ) -> Result<bool, StoreError> {
        let key = keys::referrers_key(origin, subject);
        let removed = self.write(|trees| trees.referrers.remove(key))?;
        Ok(removed.is_some())
    }

    pub(crate) fn linked(
        &self,
        origin: &Origin,
        target: LinkTarget,
    ) -> Result<Option<Link>, StoreError> {
        let value = self.read(|trees| trees.links.get(keys::link_key(origin, target)))?;
        Ok(value.map(|value| {
            let size = keys::u64_of(&value);
            Link { target, size }
        }))
    }

    /// Links all of `links`, or none; how many of them were not there. What is there as it should
    /// be is not written again.
    pub(crate) fn link(&self, origin: &Origin, links: &[Link]) -> Result<u64, StoreError> {
        // Of two about one target the last stands, but none undoes a size.
        let mut wanted: BTreeMap<LinkTarget, Option<u64>> = BTreeMap::new();
        for Link { target, size } in links {
            let known = wanted.entry(*target).or_default();
            *known = size.or(*known);
        }
        let _linking = lock(&self.linking);
        let mut batch = sled::Batch::default();
        let (mut added, mut written) = (0, 0);
        for (target, size) in wanted {
            let former = self.linked(origin, target)?;
            added += u64::from(former.is_none());
            if former.is_none_or(|former| size.is_some() && size != former.size) {
                let value = size.map(u64::to_be_bytes);
                let value = value.as_ref().map_or(&[][..], |size| &size[..]);
                batch.insert(keys::link_key(origin, target), value);
                written += 1;
            }
        }
        if written > 0 {
            self.write(|trees| trees.links.apply_batch(batch))?;
        }
        Ok(added)
    }

    pub(crate) fn unlink(&self, origin: &Origin, target: LinkTarget) -> Result<bool, StoreError> {
        let _linking = lock(&self.linking);
        let removed = self.write(|trees| trees.links.remove(keys::link_key(origin, target)))?;
        Ok(removed.is_some())
    }

    /// Leaps from the first link of an origin to the first of the next: one lookup an origin.
    pub(crate) fn origins(
        &self,
        upstream: Option<&UpstreamId>,
        after: Option<&Origin>,
        limit: usize,
    ) -> Result<Vec<Origin>, StoreError> {
        let first = upstream.map(keys::upstream_prefix).unwrap_or_default();
        let past_after = after.map(|after| keys::past(keys::origin_prefix(after)));
        let mut start = first.clone().max(past_after.unwrap_or_default());
        self.read(|trees| {
            let mut origins = Vec::new();
            while origins.len() < limit {
                let Some((key, _)) = trees.links.range(start..).next().transpose()? else {
                    break;
                };
                let Some((len, origin)) = keys::origin_of(&key) else {
                    // Not a key of ours: the next one.
                    start = [&key[..], &[0]].concat();
                    continue;
                };
                if !key.starts_with(&first) {
                    break;
                }
                start = keys::past(key[..len].to_vec());
                origins.push(origin);
            }
            Ok(origins)
        })
    }
}
