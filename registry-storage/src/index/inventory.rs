//! Questions about what is kept. Each costs what it gives, not what there is.

use std::collections::BTreeSet;

use registry_core::{
    Charge, ContentRecord, Digest, LinkTarget, Origin, Position, StoreError, Tag, Unit, UpstreamId,
};

use super::Index;
use super::content::{ContentRow, Sum};
use super::keys;
use super::tables::Table;

impl Index {
    pub(crate) fn content(&self, target: LinkTarget) -> Result<Option<ContentRow>, StoreError> {
        let key = keys::target_key(target);
        let value = self.read(|trees| trees.of(Table::Content).get(key))?;
        Ok(value.and_then(|value| ContentRow::decode(&value)))
    }

    pub(crate) fn record(&self, target: LinkTarget) -> Result<Option<ContentRecord>, StoreError> {
        let row = self.content(target)?;
        Ok(row.map(|row| ContentRecord {
            bytes: row.bytes,
            accessed_at: row.accessed_at,
            provenance: row.provenance,
        }))
    }

    /// The sum under this key: over everything, or over what is charged to an origin.
    pub(super) fn sum(&self, key: &[u8]) -> Result<Sum, StoreError> {
        let value = self.read(|trees| trees.of(Table::Sums).get(key))?;
        Ok(value
            .and_then(|value| Sum::decode(&value))
            .unwrap_or_default())
    }

    /// The sum over all that is kept.
    pub(crate) fn total(&self) -> Result<Sum, StoreError> {
        self.sum(&[])
    }

    pub(crate) fn charges(
        &self,
        upstream: Option<&UpstreamId>,
        after: Option<&Origin>,
        limit: usize,
    ) -> Result<Vec<Charge>, StoreError> {
        let prefix = upstream.map(keys::upstream_prefix).unwrap_or_default();
        let past_after = after.map(|after| keys::past(keys::origin_prefix(after)));
        let start = prefix.clone().max(past_after.unwrap_or_default());
        self.page(Table::Sums, &prefix, start, limit, |key, value| {
            let (_, origin) = keys::origin_of(key)?;
            let bytes = Sum::decode(value)?.bytes;
            Some(Charge { origin, bytes })
        })
    }

    /// Units from the coldest on.
    pub(crate) fn coldest(
        &self,
        origin: Option<&Origin>,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<Unit>, StoreError> {
        let prefix = origin.map(keys::origin_prefix).unwrap_or_default();
        let table = origin.map_or(Table::Order, |_| Table::OrderOf);
        let start = match after {
            None => prefix.clone(),
            Some(after) => [&prefix[..], &keys::position_key(after), &[0]].concat(),
        };
        let mut units = Vec::new();
        let mut next = start;
        while units.len() < limit {
            let wanted = limit - units.len();
            let page = self.page(table, &prefix, next, wanted, |key, _| {
                keys::position_of(&key[prefix.len()..])
            })?;
            let Some(last) = page.last() else {
                break;
            };
            next = [&prefix[..], &keys::position_key(*last), &[0]].concat();
            for position in page {
                let row = self.content(position.target)?;
                // Another place by now, or none: somebody changed it since the page was read.
                let row = row.filter(|row| row.place == Some(position.at));
                units.extend(row.map(|row| Unit {
                    position,
                    bytes: row.bytes,
                    origin: row.provenance.map(|it| it.origin),
                }));
            }
        }
        Ok(units)
    }

    /// The targets that a manifest names, by the row of it.
    pub(super) fn names(&self, manifest: Digest) -> Result<BTreeSet<LinkTarget>, StoreError> {
        let key = keys::digest_key(manifest);
        let value = self.read(|trees| trees.of(Table::Names).get(key))?;
        Ok(value.map_or_else(BTreeSet::new, |value| keys::targets_of(&value)))
    }

    pub(crate) fn named_by(
        &self,
        target: LinkTarget,
        limit: usize,
    ) -> Result<Vec<Digest>, StoreError> {
        let prefix = keys::target_key(target);
        self.page(Table::NamedBy, &prefix, prefix.clone(), limit, |key, _| {
            keys::digest_of(&key[prefix.len()..])
        })
    }

    pub(crate) fn linked_in(
        &self,
        target: LinkTarget,
        after: Option<&Origin>,
        limit: usize,
    ) -> Result<Vec<Origin>, StoreError> {
        let prefix = keys::target_key(target);
        let start = match after {
            None => prefix.clone(),
            Some(after) => keys::past(keys::linked_in_key(target, after)),
        };
        self.page(Table::LinkedIn, &prefix, start, limit, |key, _| {
            let (_, origin) = keys::origin_of(&key[prefix.len()..])?;
            Some(origin)
        })
    }

    pub(crate) fn tagged_as(
        &self,
        manifest: Digest,
        limit: usize,
    ) -> Result<Vec<(Origin, Tag)>, StoreError> {
        let prefix = keys::digest_key(manifest);
        self.page(Table::TaggedAs, &prefix, prefix.clone(), limit, |key, _| {
            keys::tag_of(&key[prefix.len()..])
        })
    }

    /// The origins that a list of the referrers of `subject` is recorded for.
    pub(super) fn referred_in(
        &self,
        subject: Digest,
        limit: usize,
    ) -> Result<Vec<Origin>, StoreError> {
        let prefix = keys::digest_key(subject);
        let start = prefix.clone();
        self.page(Table::ReferredIn, &prefix, start, limit, |key, _| {
            let (_, origin) = keys::origin_of(&key[prefix.len()..])?;
            Some(origin)
        })
    }

    pub(crate) fn manifests(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<Digest>, StoreError> {
        let start = after.map_or_else(Vec::new, |after| {
            [keys::digest_key(after), vec![0]].concat()
        });
        self.page(Table::Names, &[], start, limit, |key, _| {
            keys::digest_of(key)
        })
    }

    pub(crate) fn linked_manifests(
        &self,
        origin: &Origin,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<Digest>, StoreError> {
        let prefix = keys::linked_manifests_prefix(origin);
        let start = after.map_or_else(
            || prefix.clone(),
            |after| [keys::link_key(origin, LinkTarget::Manifest(after)), vec![0]].concat(),
        );
        self.page(Table::Links, &prefix, start, limit, |key, _| {
            keys::digest_of(key.get(prefix.len()..)?)
        })
    }

    /// Up to `limit` rows of a table whose keys begin with `prefix`, from `start` on; what is no row
    /// of ours is skipped.
    pub(super) fn page<T>(
        &self,
        table: Table,
        prefix: &[u8],
        start: Vec<u8>,
        limit: usize,
        row: impl Fn(&[u8], &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, StoreError> {
        self.read(|trees| {
            let mut page = Vec::new();
            if limit == 0 {
                return Ok(page);
            }
            for found in trees.of(table).range(start..) {
                let (key, value) = found?;
                if !key.starts_with(prefix) {
                    break;
                }
                page.extend(row(&key, &value));
                if page.len() == limit {
                    break;
                }
            }
            Ok(page)
        })
    }
}
