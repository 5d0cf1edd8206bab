//! What is known of a unit that may be evicted: the facts that are decided on.
//!
//! What it costs to find out depends on the unit, and never on how much is kept.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;

use super::decision::Facts;
use super::pins::Pins;
use crate::cache::Inner;
use crate::{
    ContentRecord, Digest, LinkTarget, Manifest, Origin, Retention, RetentionRule, StoreError,
    StoreOperation, Timestamp, Unit, Upkeep, Upstreams,
};

/// Looks at units, while something is evicted.
pub(super) struct Examiner<'a> {
    cache: &'a Inner,
    upkeep: &'a Upkeep,
    /// Looked up when something is about to go.
    pins: OnceCell<Pins>,
    upstreams: Arc<Upstreams>,
    idle_max: Option<Duration>,
    /// Some origins have rules of their own.
    has_rules: bool,
    /// One of them exempts something.
    has_exemptions: bool,
}

/// A unit, and what goes with it.
#[derive(Debug)]
pub(super) struct Examined {
    pub(super) facts: Facts,
    /// Of a manifest, the blobs that no other needs, and that are here.
    pub(super) own_bytes: u64,
}

impl<'a> Examiner<'a> {
    pub(super) fn new(
        cache: &'a Inner,
        upkeep: &'a Upkeep,
        retention: &Retention,
        upstreams: &Arc<Upstreams>,
    ) -> Self {
        let any_rule = |is_met: fn(&RetentionRule) -> bool| {
            upstreams.ids().any(|id| {
                upstreams.get(id).is_some_and(|entry| {
                    let rules = entry.repositories.iter().map(|rule| &rule.retention);
                    rules.chain([&entry.retention]).any(is_met)
                })
            })
        };
        let has_exemptions = any_rule(|rule| rule.exempt);
        Self {
            cache,
            upkeep,
            pins: OnceCell::new(),
            upstreams: Arc::clone(upstreams),
            idle_max: retention.idle_max,
            has_rules: has_exemptions || any_rule(|rule| rule.idle_max.is_some()),
            has_exemptions,
        }
    }

    /// Whether a pin or a rule may hold anything, whatever it is needed for.
    pub(super) async fn may_be_held(&self) -> Result<bool, StoreError> {
        Ok(self.has_exemptions || !self.pins().await?.is_empty())
    }

    async fn pins(&self) -> Result<&Pins, StoreError> {
        let load = || Pins::load(self.cache, self.upkeep);
        self.pins.get_or_try_init(load).await
    }

    /// What is known of a unit; `None` where it is gone, or has become none. `gone` are manifests
    /// that are taken for gone.
    pub(super) async fn examine(
        &self,
        unit: &Unit,
        gone: &BTreeSet<Digest>,
    ) -> Result<Option<Examined>, StoreError> {
        let target = unit.position.target;
        let Some(record) = self.record(target).await? else {
            return Ok(None);
        };
        let (exempt, idle_max) = self.rules(unit).await?;
        let mut facts = Facts {
            place: unit.position.at,
            used_at: record.accessed_at,
            exempt,
            idle_max,
            ..Facts::default()
        };
        let mut own_bytes = record.bytes;
        match target {
            LinkTarget::Blob(blob) => {
                self.look_at_blob(blob, &mut facts);
            }
            LinkTarget::Manifest(digest) => {
                let Some(manifest) = self.manifest(digest).await? else {
                    return Ok(None);
                };
                own_bytes += self.look_at_image(&manifest, gone, &mut facts).await?;
                let pins = self.pins().await?;
                facts.pinned = pins.hold(self.cache, self.upkeep, digest).await?;
                facts.index_used_at = self.index_used_at(digest, facts.place).await?;
            }
        }
        Ok(Some(Examined { facts, own_bytes }))
    }

    fn look_at_blob(&self, blob: Digest, facts: &mut Facts) {
        facts.in_use |= self.cache.upkeep.in_use.contains(blob);
        facts.filling |= self.cache.fills.get(blob).is_some();
    }

    /// Looks at the blobs that only this manifest needs; how many bytes they have.
    async fn look_at_image(
        &self,
        manifest: &Manifest,
        gone: &BTreeSet<Digest>,
        facts: &mut Facts,
    ) -> Result<u64, StoreError> {
        let own = manifest.digest();
        let mut bytes = 0;
        let links = manifest.links();
        let targets: BTreeSet<LinkTarget> = links.iter().map(|link| link.target).collect();
        for target in targets {
            let LinkTarget::Blob(blob) = target else {
                continue;
            };
            let looked_at = gone
                .len()
                .saturating_add(2)
                .min(self.cache.limits.bonds_max);
            let named_by = self.named_by(target, looked_at).await?;
            if named_by.iter().any(|by| *by != own && !gone.contains(by)) {
                continue;
            }
            self.look_at_blob(blob, facts);
            if let Some(record) = self.record(target).await? {
                bytes += record.bytes;
                // Who reads layers bit by bit does not ask for their manifest again.
                facts.used_at = facts.used_at.max(record.accessed_at);
            }
        }
        Ok(bytes)
    }

    /// When an index was last used that lists this manifest, and of whose manifests this is the one
    /// that is used: clients that have it look at the index, to see whether it still stands.
    async fn index_used_at(
        &self,
        manifest: Digest,
        place: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        let target = LinkTarget::Manifest(manifest);
        let mut latest = None;
        for index in self.named_by(target, self.cache.limits.bonds_max).await? {
            let record = self.record(LinkTarget::Manifest(index)).await?;
            let used_at = record.and_then(|record| record.accessed_at);
            if used_at.is_some_and(|used_at| used_at > place)
                && used_at > latest
                && self.is_used_of(index, manifest).await?
            {
                latest = used_at;
            }
        }
        Ok(latest)
    }

    /// Whether none of the manifests that an index lists was used since this one was.
    async fn is_used_of(&self, index: Digest, manifest: Digest) -> Result<bool, StoreError> {
        let Some(index) = self.manifest(index).await? else {
            return Ok(false);
        };
        let own = self.record(LinkTarget::Manifest(manifest)).await?;
        let own = own.and_then(|record| record.accessed_at);
        let links = index.links();
        let others = links
            .iter()
            .map(|link| link.target)
            .filter(|target| matches!(target, LinkTarget::Manifest(other) if *other != manifest));
        for other in others.take(self.cache.limits.bonds_max) {
            let record = self.record(other).await?;
            if record.and_then(|record| record.accessed_at) > own {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a rule exempts a unit, and how long it is kept unused: what the most lenient of the
    /// origins says that it is charged to or linked in.
    async fn rules(&self, unit: &Unit) -> Result<(bool, Option<Duration>), StoreError> {
        if !self.has_rules {
            return Ok((false, self.idle_max));
        }
        let bonds_max = self.cache.limits.bonds_max;
        let target = unit.position.target;
        let linked_in = self.upkeep.inventory.linked_in(target, None, bonds_max);
        let mut origins = self.cache.store(StoreOperation::Index, linked_in).await?;
        origins.extend(unit.origin.clone());
        let rules: Vec<_> = origins.iter().map(|origin| self.rule(origin)).collect();
        let exempt = rules.iter().any(|(exempt, _)| *exempt);
        let idle_max = match rules.is_empty() {
            true => self.idle_max,
            // Where one of them has no limit, there is none.
            false => {
                let limits: Option<Vec<Duration>> = rules.iter().map(|(_, idle)| *idle).collect();
                limits.and_then(|limits| limits.into_iter().max())
            }
        };
        Ok((exempt, idle_max))
    }

    fn rule(&self, origin: &Origin) -> (bool, Option<Duration>) {
        let (exempt, idle_max) = retention_of(&self.upstreams, origin);
        (exempt, idle_max.or(self.idle_max))
    }

    async fn record(&self, target: LinkTarget) -> Result<Option<ContentRecord>, StoreError> {
        let record = self.upkeep.inventory.record(target);
        self.cache.store(StoreOperation::Index, record).await
    }

    async fn manifest(&self, digest: Digest) -> Result<Option<Manifest>, StoreError> {
        let manifest = self.upkeep.inventory.peek_manifest(digest);
        self.cache.store(StoreOperation::Index, manifest).await
    }

    async fn named_by(&self, target: LinkTarget, limit: usize) -> Result<Vec<Digest>, StoreError> {
        let named_by = self.upkeep.inventory.named_by(target, limit);
        self.cache.store(StoreOperation::Index, named_by).await
    }
}

/// Whether a rule exempts what is of this origin, and how long a rule lets it be unused.
pub(super) fn retention_of(upstreams: &Upstreams, origin: &Origin) -> (bool, Option<Duration>) {
    let Some(entry) = upstreams.get(origin.upstream()) else {
        return (false, None);
    };
    match entry.rule(origin.repository()) {
        Some(rule) => {
            let idle_max = rule.retention.idle_max.or(entry.retention.idle_max);
            (rule.retention.exempt, idle_max)
        }
        None => (entry.retention.exempt, entry.retention.idle_max),
    }
}
