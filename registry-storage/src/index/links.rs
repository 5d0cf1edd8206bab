//! Links, and in which origins some content is linked: written in one change.

use std::collections::BTreeMap;

use registry_core::{Link, LinkTarget, Origin, StoreError, UpstreamId};

use super::Index;
use super::keys;
use super::tables::{Change, Table};
use crate::options::BOOK_ENTRIES;

impl Index {
    pub(crate) fn linked(
        &self,
        origin: &Origin,
        target: LinkTarget,
    ) -> Result<Option<Link>, StoreError> {
        let size = self.link_size(&keys::link_key(origin, target))?;
        Ok(size.map(|size| Link { target, size }))
    }

    /// The same; keeps it in memory.
    pub(crate) fn load_link(
        &self,
        origin: &Origin,
        target: LinkTarget,
    ) -> Result<Option<Link>, StoreError> {
        let size = self
            .hot
            .load_link(keys::link_key(origin, target), |key| self.link_size(key))?;
        Ok(size.map(|size| Link { target, size }))
    }

    fn link_size(&self, key: &[u8]) -> Result<Option<Option<u64>>, StoreError> {
        let value = self.read(|trees| trees.of(Table::Links).get(key))?;
        Ok(value.map(|value| keys::u64_of(&value)))
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
        let _books = self.hold_books();
        let mut change = Change::default();
        let mut added = 0;
        let mut rows = Vec::with_capacity(wanted.len());
        for (target, size) in wanted {
            let former = self.linked(origin, target)?;
            let known = size.or(former.and_then(|former| former.size));
            rows.push((keys::link_key(origin, target), known));
            if former.is_none() {
                added += 1;
                let key = keys::linked_in_key(target, origin);
                change.put(Table::LinkedIn, key, vec![]);
            }
            if former.is_none_or(|former| size.is_some() && size != former.size) {
                let value = size.map_or(Vec::new(), |size| size.to_be_bytes().to_vec());
                change.put(Table::Links, keys::link_key(origin, target), value);
            }
        }
        self.apply(change)?;
        for (key, size) in rows {
            self.hot.keep_link(key, size);
        }
        Ok(added)
    }

    pub(crate) fn unlink(&self, origin: &Origin, target: LinkTarget) -> Result<bool, StoreError> {
        let _books = self.hold_books();
        if self.linked(origin, target)?.is_none() {
            return Ok(false);
        }
        let mut change = Change::default();
        change.remove(Table::Links, keys::link_key(origin, target));
        change.remove(Table::LinkedIn, keys::linked_in_key(target, origin));
        self.apply(change)?;
        Ok(true)
    }

    /// Removes every link to `target`, and of a manifest the tags that name it and the lists of its
    /// referrers; how many tags that were. [`BOOK_ENTRIES`] of each at a time.
    pub(crate) fn forget(&self, target: LinkTarget) -> Result<usize, StoreError> {
        let mut tags = 0;
        loop {
            let _books = self.hold_books();
            let mut change = Change::default();
            for origin in self.linked_in(target, None, BOOK_ENTRIES)? {
                change.remove(Table::Links, keys::link_key(&origin, target));
                change.remove(Table::LinkedIn, keys::linked_in_key(target, &origin));
            }
            if let LinkTarget::Manifest(digest) = target {
                for (origin, tag) in self.tagged_as(digest, BOOK_ENTRIES)? {
                    let tag = tag.as_str();
                    change.remove(Table::Tags, keys::tag_key(&origin, tag));
                    change.remove(Table::TaggedAs, keys::tagged_as_key(digest, &origin, tag));
                    tags += 1;
                }
                for origin in self.referred_in(digest, BOOK_ENTRIES)? {
                    change.remove(Table::Referrers, keys::referrers_key(&origin, digest));
                    change.remove(Table::ReferredIn, keys::referred_in_key(digest, &origin));
                }
            }
            if change.is_empty() {
                return Ok(tags);
            }
            self.apply(change)?;
        }
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
                let Some((key, _)) = trees.of(Table::Links).range(start..).next().transpose()?
                else {
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
