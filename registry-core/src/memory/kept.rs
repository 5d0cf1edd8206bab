//! What is known of what is kept: when it was last used, what needs it, where it came from.
//!
//! Written like the rest: nothing is derived that can be computed when it is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::{
    Charge, Clock, ContentRecord, Digest, LinkTarget, Manifest, Origin, Position, Provenance,
    Timestamp, Unit, UpstreamId, Usage,
};

/// The records of all that is kept.
pub(super) struct Kept {
    clock: Arc<dyn Clock>,
    records: BTreeMap<LinkTarget, Record>,
    /// Which kept manifests name what, whether that is kept or not. No set is empty.
    namers: BTreeMap<LinkTarget, BTreeSet<Digest>>,
}

struct Record {
    bytes: u64,
    accessed_at: Timestamp,
    /// Its place in the order of units, where it is one.
    place: Timestamp,
    provenance: Option<Provenance>,
}

impl Kept {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            records: BTreeMap::new(),
            namers: BTreeMap::new(),
        }
    }

    /// A blob is kept from now on.
    pub(super) fn add_blob(&mut self, blob: Digest, bytes: u64) {
        self.add(LinkTarget::Blob(blob), bytes);
    }

    /// A manifest is kept from now on.
    pub(super) fn add_manifest(&mut self, manifest: &Manifest) {
        let digest = manifest.digest();
        for named in manifest.links() {
            self.namers.entry(named.target).or_default().insert(digest);
        }
        self.add(LinkTarget::Manifest(digest), manifest.descriptor().size);
    }

    fn add(&mut self, target: LinkTarget, bytes: u64) {
        let now = self.clock.now();
        let record = Record {
            bytes,
            accessed_at: now,
            place: now,
            provenance: None,
        };
        self.records.insert(target, record);
    }

    /// A blob is kept no longer.
    pub(super) fn remove_blob(&mut self, blob: Digest) {
        self.records.remove(&LinkTarget::Blob(blob));
    }

    /// A manifest is kept no longer: what only it named is the first to go.
    pub(super) fn remove_manifest(&mut self, manifest: &Manifest) {
        let digest = manifest.digest();
        self.records.remove(&LinkTarget::Manifest(digest));
        for named in manifest.links() {
            let Some(namers) = self.namers.get_mut(&named.target) else {
                // It names the same twice.
                continue;
            };
            namers.remove(&digest);
            if !namers.is_empty() {
                continue;
            }
            self.namers.remove(&named.target);
            if let LinkTarget::Blob(_) = named.target
                && let Some(record) = self.records.get_mut(&named.target)
            {
                record.place = Timestamp::default();
            }
        }
    }

    /// Takes note of an access to what is kept.
    pub(super) fn access(&mut self, target: LinkTarget) {
        let now = self.clock.now();
        if let Some(record) = self.records.get_mut(&target) {
            record.accessed_at = record.accessed_at.max(now);
            record.place = record.place.max(now);
        }
    }

    pub(super) fn postpone(&mut self, target: LinkTarget, until: Timestamp) {
        if !self.is_unit(target) {
            return;
        }
        if let Some(record) = self.records.get_mut(&target) {
            record.place = record.place.max(until);
        }
    }

    pub(super) fn note(&mut self, target: LinkTarget, provenance: Provenance) {
        if let Some(record) = self.records.get_mut(&target) {
            record.provenance.get_or_insert(provenance);
        }
    }

    pub(super) fn record(&self, target: LinkTarget) -> Option<ContentRecord> {
        let record = self.records.get(&target)?;
        Some(ContentRecord {
            bytes: record.bytes,
            accessed_at: Some(record.accessed_at),
            provenance: record.provenance.clone(),
        })
    }

    /// Which kept manifests name it.
    pub(super) fn namers(&self, target: LinkTarget) -> impl Iterator<Item = Digest> {
        self.namers.get(&target).into_iter().flatten().copied()
    }

    /// Whether it can be evicted by itself.
    fn is_unit(&self, target: LinkTarget) -> bool {
        match target {
            LinkTarget::Manifest(_) => true,
            LinkTarget::Blob(_) => !self.namers.contains_key(&target),
        }
    }

    pub(super) fn coldest(
        &self,
        origin: Option<&Origin>,
        after: Option<Position>,
        limit: usize,
    ) -> Vec<Unit> {
        let units = self.records.iter().filter(|(target, record)| {
            let charged_to = record.provenance.as_ref().map(|from| &from.origin);
            self.is_unit(**target) && (origin.is_none() || origin == charged_to)
        });
        let units = units.map(|(&target, record)| Unit {
            position: Position {
                at: record.place,
                target,
            },
            bytes: record.bytes,
            origin: record.provenance.as_ref().map(|from| from.origin.clone()),
        });
        let past = units.filter(|unit| after.is_none_or(|after| unit.position > after));
        let mut units: Vec<Unit> = past.collect();
        units.sort_unstable_by_key(|unit| unit.position);
        units.truncate(limit);
        units
    }

    pub(super) fn charges(
        &self,
        upstream: Option<&UpstreamId>,
        after: Option<&Origin>,
        limit: usize,
    ) -> Vec<Charge> {
        let mut bytes: BTreeMap<&Origin, u64> = BTreeMap::new();
        for record in self.records.values() {
            if let Some(from) = &record.provenance {
                *bytes.entry(&from.origin).or_default() += record.bytes;
            }
        }
        let of_upstream = bytes
            .into_iter()
            .filter(|(origin, _)| upstream.is_none_or(|only| origin.upstream() == only));
        let past = of_upstream.filter(|(origin, _)| after.is_none_or(|after| *origin > after));
        let charge = |(origin, bytes): (&Origin, u64)| Charge {
            origin: origin.clone(),
            bytes,
        };
        past.take(limit).map(charge).collect()
    }

    /// What is kept, but for what is unfinished.
    pub(super) fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for (target, record) in &self.records {
            usage.bytes += record.bytes;
            match target {
                LinkTarget::Blob(_) => usage.blobs += 1,
                LinkTarget::Manifest(_) => usage.manifests += 1,
            }
        }
        usage
    }
}
