//! What is only needed to bring the index of an earlier version up to date.

use registry_core::{Digest, LinkTarget, StoreError, Timestamp};

use super::Index;
use super::keys::{self, BlobRow};
use super::tables::{Change, Table};
use crate::options::REBUILD_BATCH_ENTRIES;

/// Times of access in format 1, by target.
const ACCESSED: &str = "accessed";

impl Index {
    /// Removes what an upgrade makes, and may have made in part.
    pub(crate) fn clear_derived(&self) -> Result<(), StoreError> {
        self.write(|trees| {
            let derived = Table::DERIVED.into_iter().chain([Table::Content]);
            derived
                .map(|table| trees.of(table))
                .try_for_each(|tree| tree.clear())
        })
    }

    /// When some content was last accessed, by a row of format 1.
    pub(crate) fn accessed_before(
        &self,
        target: LinkTarget,
    ) -> Result<Option<Timestamp>, StoreError> {
        let value = self.read(|trees| {
            let accessed = trees.db.open_tree(ACCESSED)?;
            accessed.get(keys::target_key(target))
        })?;
        let millis = value.and_then(|value| keys::u64_of(&value));
        Ok(millis.map(Timestamp::from_millis))
    }

    /// Removes what an upgrade has left of the earlier version: not before it is done for good.
    pub(crate) fn drop_former(&self) -> Result<(), StoreError> {
        let has_former = self.read(|trees| {
            let names = trees.db.tree_names();
            Ok(names.iter().any(|name| **name == *ACCESSED.as_bytes()))
        })?;
        if has_former {
            self.write(|trees| trees.db.drop_tree(ACCESSED))?;
        }
        Ok(())
    }

    /// Up to `limit` rows of blobs in the order of their keys, past `after`.
    pub(crate) fn blob_rows(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, BlobRow)>, StoreError> {
        let start = after.map_or_else(Vec::new, |after| {
            [keys::digest_key(after), vec![0]].concat()
        });
        self.page(Table::Blobs, &[], start, limit, |key, value| {
            Some((keys::digest_of(key)?, BlobRow::decode(value)?))
        })
    }

    /// Derives where content is linked, tagged and referred to; from how many rows.
    pub(crate) fn derive_names(&self) -> Result<u64, StoreError> {
        let links = self.derive(Table::Links, Table::LinkedIn, |key, _| {
            let (len, origin) = keys::origin_of(key)?;
            let (target, _) = keys::split_target(&key[len..])?;
            Some(keys::linked_in_key(target, &origin))
        })?;
        let tags = self.derive(Table::Tags, Table::TaggedAs, |key, value| {
            let (origin, tag) = keys::tag_of(key)?;
            let record = keys::decode_tag(value)?;
            Some(keys::tagged_as_key(record.digest, &origin, tag.as_str()))
        })?;
        let referrers = self.derive(Table::Referrers, Table::ReferredIn, |key, _| {
            let (len, origin) = keys::origin_of(key)?;
            let subject = keys::digest_of(&key[len..])?;
            Some(keys::referred_in_key(subject, &origin))
        })?;
        Ok(links + tags + referrers)
    }

    /// Writes to `to` a key for each row of `from`.
    fn derive(
        &self,
        from: Table,
        to: Table,
        derived: impl Fn(&[u8], &[u8]) -> Option<Vec<u8>>,
    ) -> Result<u64, StoreError> {
        let (mut rows, mut start) = (0, Vec::new());
        loop {
            let page = self.page(from, &[], start, REBUILD_BATCH_ENTRIES, |key, value| {
                Some((key.to_vec(), derived(key, value)))
            })?;
            let Some((last, _)) = page.last() else {
                return Ok(rows);
            };
            start = [&last[..], &[0]].concat();
            let mut change = Change::default();
            for key in page.into_iter().filter_map(|(_, key)| key) {
                rows += 1;
                change.put(to, key, vec![]);
            }
            self.apply(change)?;
        }
    }
}
