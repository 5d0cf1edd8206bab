//! The limits of single upstreams, and of some of their repositories.
//!
//! They are kept after the fact: what is over goes soon, coldest first, among what is charged to
//! the same limit. Only the limit of all is hard.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::budget::percent;
use super::collect::{Order, Sweep};
use super::decision::Purpose;
use crate::{
    Charge, Origin, RemovalReason, StoreError, StoreOperation, Unit, UpstreamEntry, UpstreamId,
    Upstreams,
};

/// What a limit is for: all of an upstream, or what a rule of it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Upstream,
    Rule(usize),
}

impl Scope {
    fn contains(self, entry: &UpstreamEntry, origin: &Origin) -> bool {
        match self {
            Self::Upstream => true,
            Self::Rule(of) => {
                let mut rules = entry.repositories.iter();
                let first = rules.position(|rule| rule.pattern.matches(origin.repository()));
                first == Some(of)
            }
        }
    }
}

/// Whether what is kept of this origin counts towards a limit of its own.
pub(super) fn has_quota(upstreams: &Upstreams, origin: &Origin) -> bool {
    let Some(entry) = upstreams.get(origin.upstream()) else {
        return false;
    };
    let rule = entry.rule(origin.repository());
    entry.retention.bytes_max.is_some()
        || rule.is_some_and(|rule| rule.retention.bytes_max.is_some())
}

impl Sweep<'_> {
    /// Keeps every upstream within its limits.
    pub(super) async fn all_quotas(&mut self) -> Result<(), StoreError> {
        let upstreams: Vec<UpstreamId> = self.upstreams.ids().cloned().collect();
        for upstream in upstreams {
            self.quotas(&upstream).await?;
        }
        Ok(())
    }

    /// Keeps an upstream within its limits, and its repositories within theirs.
    pub(super) async fn quotas(&mut self, upstream: &UpstreamId) -> Result<(), StoreError> {
        let upstreams = Arc::clone(&self.upstreams);
        let Some(entry) = upstreams.get(upstream) else {
            return Ok(());
        };
        let rules = entry.repositories.iter().enumerate();
        let rules = rules.map(|(n, rule)| (Scope::Rule(n), rule.retention.bytes_max));
        for (scope, limit) in rules.chain([(Scope::Upstream, entry.retention.bytes_max)]) {
            let Some(limit) = limit else { continue };
            let mut charges = self.charges(upstream).await?;
            charges.retain(|(origin, _)| scope.contains(entry, origin));
            let bytes = charges.iter().map(|(_, bytes)| bytes).sum();
            if bytes > percent(limit, self.retention.high_watermark) {
                let origins: Vec<Origin> = charges.into_iter().map(|(origin, _)| origin).collect();
                let low = percent(limit, self.retention.low_watermark);
                self.bring_down(&origins, bytes, low).await?;
            }
        }
        Ok(())
    }

    /// Evicts the coldest that is charged to any of these origins, until they have `low` bytes at
    /// the most.
    async fn bring_down(
        &mut self,
        origins: &[Origin],
        mut bytes: u64,
        low: u64,
    ) -> Result<(), StoreError> {
        // What stayed before stayed for another limit.
        self.stayed = 0;
        let mut orders: Vec<Order> = origins.iter().map(Order::of).collect();
        let mut coldest: BTreeMap<_, (Unit, usize)> = BTreeMap::new();
        for (n, order) in orders.iter_mut().enumerate() {
            if let Some(unit) = order.next(self).await? {
                coldest.insert(unit.position, (unit, n));
            }
        }
        while bytes > low && !self.is_stuck() {
            let Some((_, (unit, n))) = coldest.pop_first() else {
                break;
            };
            let purpose = Purpose::Room(RemovalReason::Quota);
            if let Some(freed) = self.take(&unit, purpose).await? {
                let charged = freed.charges.iter().filter(|(at, _)| origins.contains(at));
                bytes = bytes.saturating_sub(charged.map(|(_, bytes)| bytes).sum());
            }
            if let Some(unit) = orders[n].next(self).await? {
                coldest.insert(unit.position, (unit, n));
            }
        }
        Ok(())
    }

    /// What is charged to the origins of an upstream: to so many of them as are looked at.
    pub(super) async fn charges(
        &self,
        upstream: &UpstreamId,
    ) -> Result<Vec<(Origin, u64)>, StoreError> {
        let limits = &self.cache.limits;
        let mut charges: Vec<(Origin, u64)> = Vec::new();
        while charges.len() < limits.quota_origins_max {
            let after = charges.last().map(|(origin, _)| origin);
            let inventory = &self.upkeep.inventory;
            let page = inventory.charges(Some(upstream), after, limits.page_entries_max);
            let page = self.cache.store(StoreOperation::Index, page).await?;
            if page.is_empty() {
                break;
            }
            charges.extend(
                page.into_iter()
                    .map(|Charge { origin, bytes }| (origin, bytes)),
            );
        }
        Ok(charges)
    }
}
