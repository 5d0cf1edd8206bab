//! What is evicted, in which order, and when.
//!
//! One task evicts, when it is woken: by whoever needs room, by what is kept beyond the high
//! watermark, and once in a while for what nobody uses. It goes through the order from its cold end;
//! what stays is moved on in the order, so that it is not looked at again until everything else was.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::budget::Budget;
use super::decision::{Protection, Purpose, Verdict, decide};
use super::quota::has_quota;
use super::removal::Freed;
use super::unit::{Examiner, retention_of};
use crate::cache::{CacheError, Inner, RegistryCache};
use crate::{
    Digest, Origin, Position, Progress, Removal, RemovalReason, Retention, StoreError,
    StoreOperation, Timestamp, Unit, Upkeep, Upstreams,
};

/// What is to be evicted on demand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectRequest {
    /// Evicts until no more than so many bytes are kept; without it, what is over the limits.
    pub bytes: Option<u64>,
    /// Tells what would go, and evicts nothing.
    pub dry_run: bool,
}

/// What was evicted, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// The first of what went, as many as
    /// [`Limits::collected_listed_max`](crate::Limits::collected_listed_max).
    pub removed: Vec<Removal>,
    /// How many images, indexes, and blobs that were part of none.
    pub count: u64,
    /// The bytes that they gave free.
    pub bytes: u64,
    /// Whether there was more to evict than could go: the rest is pinned, exempt, or in use.
    pub is_short: bool,
}

impl RegistryCache {
    /// Evicts what is over the limits, or further; or tells what would go.
    ///
    /// # Errors
    ///
    /// [`CacheError::NoUpkeep`]; [`CacheError::Store`], with some of it gone by then;
    /// [`CacheError::Closed`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future, or cancelling `progress`, leaves gone what has gone.
    pub async fn collect(
        &self,
        request: CollectRequest,
        progress: &Progress,
    ) -> Result<Collected, CacheError> {
        let cache = &self.inner;
        let upkeep = cache.upkeep()?;
        // Looking takes nobody's turn.
        let _turn = match request.dry_run {
            true => None,
            false => {
                let turn = cache.upkeep.collector.turn.acquire().await;
                Some(turn.map_err(|_| CacheError::Closed)?)
            }
        };
        let mut sweep = Sweep::new(cache, upkeep);
        sweep.progress = Some(progress);
        if request.dry_run {
            sweep.mode = Mode::Tell;
        }
        sweep.age().await?;
        sweep.all_quotas().await?;
        let is_short = match request.bytes {
            Some(bytes) => sweep.go_through(Goal::Kept(bytes), 0).await? != Made::Enough,
            None => sweep.make_room().await?,
        };
        let mut collected = sweep.finish();
        collected.is_short |= is_short;
        Ok(collected)
    }
}

impl Inner {
    /// Has the collector look whether there is anything to do.
    pub(super) fn wake_collector(self: &Arc<Self>) {
        if self.stores.upkeep.is_none() || self.tasks.is_closed() {
            return;
        }
        let wake = &self.upkeep.collector.wake;
        wake.notify_one();
        if !std::mem::replace(&mut self.upkeep.notes().begun, true) {
            // The cache may be dropped without having been closed.
            let (cache, wake) = (Arc::downgrade(self), Arc::clone(wake));
            let every = self.limits.upkeep_every;
            self.tasks.spawn_in_background(move |leaving| {
                keep_within_bounds(cache, wake, every, leaving)
            });
        }
    }

    /// Something is kept that was not before.
    pub(in crate::cache) async fn kept_more(self: &Arc<Self>, origin: &Origin) {
        if self.stores.upkeep.is_none() {
            return;
        }
        let is_limited = has_quota(&self.upstreams(), origin);
        if is_limited {
            let charged = origin.upstream().clone();
            self.upkeep.notes().charged.insert(charged);
        }
        // Where it cannot be told, whoever needs room finds out.
        let usage = self.kept_bytes().await.unwrap_or_default();
        let promised = self.upkeep.room.promised();
        let budget = Budget::of(&self.upkeep.retention(), &usage, promised);
        if is_limited || budget.is_some_and(|budget| budget.is_high()) {
            self.wake_collector();
        }
    }

    /// One look at everything that there may be to do.
    async fn keep_within_bounds(&self, is_time: bool) {
        let Some(upkeep) = &self.stores.upkeep else {
            return;
        };
        let Ok(_turn) = self.upkeep.collector.turn.acquire().await else {
            return;
        };
        let room = &self.upkeep.room;
        room.pass_begins();
        let is_short = match self.evict(upkeep, is_time).await {
            Ok(is_short) => is_short,
            Err(error) => {
                room.note_hanging(self.limits.room_failed_for);
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "what is kept cannot be kept within its bounds");
                true
            }
        };
        room.pass_ended(is_short);
    }

    /// Evicts what has to go; whether there was more than could.
    async fn evict(&self, upkeep: &Upkeep, is_time: bool) -> Result<bool, StoreError> {
        let mut sweep = Sweep::new(self, upkeep);
        // First, since somebody may wait for it.
        let is_short = sweep.make_room().await?;
        if is_time || std::mem::take(&mut self.upkeep.notes().is_due) {
            sweep.age().await?;
        }
        let charged = match is_time {
            true => sweep.upstreams.ids().cloned().collect(),
            false => std::mem::take(&mut self.upkeep.notes().charged),
        };
        for upstream in charged {
            sweep.quotas(&upstream).await?;
        }
        let was_short = std::mem::replace(&mut self.upkeep.notes().is_short, is_short);
        if is_short && !was_short {
            tracing::warn!(
                "there is no room, and nothing that may go: what is fetched passes through without \
                 being kept"
            );
        }
        sweep.finish();
        Ok(is_short)
    }
}

/// That the task runs; however it ends, another may be begun.
struct Begun(Weak<Inner>);

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(cache) = self.0.upgrade() {
            cache.upkeep.notes().begun = false;
        }
    }
}

/// The task that evicts.
async fn keep_within_bounds(
    cache: Weak<Inner>,
    wake: Arc<Notify>,
    every: Duration,
    leaving: CancellationToken,
) {
    let _begun = Begun(Weak::clone(&cache));
    loop {
        let is_time = tokio::select! {
            () = leaving.cancelled() => break,
            () = wake.notified() => false,
            () = sleep(every) => true,
        };
        let Some(cache) = cache.upgrade() else { return };
        tokio::select! {
            () = leaving.cancelled() => break,
            () = cache.keep_within_bounds(is_time) => {}
        }
    }
    if let Some(cache) = cache.upgrade() {
        cache.upkeep.room.close();
    }
}

/// Until when room is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// Until all is within the budget, and what is waited for has room, where it is no larger than
    /// this.
    Budget { available: u64 },
    /// Until there is room for so many bytes.
    Room(u64),
    /// Until no more than so many bytes are kept.
    Kept(u64),
}

/// What is done with what would go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// It goes.
    Evict,
    /// It is told. Nothing changes.
    Tell,
    /// It is counted, to see whether there is enough. What stays is moved on, as when it goes.
    Probe,
}

/// How making room ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    /// There is as much as was wanted, or nobody wants it any more.
    Enough,
    /// So much stayed in a row that it was given up for this time.
    Stuck,
    /// Nothing is left that may go.
    All,
}

/// One time that something is evicted.
pub(super) struct Sweep<'a> {
    pub(super) cache: &'a Inner,
    pub(super) upkeep: &'a Upkeep,
    pub(super) retention: Arc<Retention>,
    /// As they were when it began.
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) now: Timestamp,
    examiner: Examiner<'a>,
    progress: Option<&'a Progress>,
    mode: Mode,
    /// What would have gone by now.
    gone: BTreeSet<Digest>,
    /// How many stayed since the last that went.
    pub(super) stayed: usize,
    collected: Collected,
}

impl<'a> Sweep<'a> {
    fn new(cache: &'a Inner, upkeep: &'a Upkeep) -> Self {
        let retention = cache.upkeep.retention();
        let upstreams = cache.upstreams();
        Self {
            cache,
            upkeep,
            examiner: Examiner::new(cache, upkeep, &retention, &upstreams),
            retention,
            upstreams,
            now: cache.now(),
            progress: None,
            mode: Mode::Evict,
            gone: BTreeSet::new(),
            stayed: 0,
            collected: Collected::default(),
        }
    }

    fn finish(self) -> Collected {
        let collected = self.collected;
        if collected.count > 0 && self.mode == Mode::Evict {
            tracing::info!(
                count = collected.count,
                bytes = collected.bytes,
                "evicted what had to go"
            );
        }
        collected
    }

    fn is_cancelled(&self) -> bool {
        self.progress.is_some_and(Progress::is_cancelled)
    }

    /// Whether so much stayed in a row that more of the same is to be expected. It was moved on in
    /// the order, so that the next time begins with something else.
    pub(super) fn is_stuck(&self) -> bool {
        self.stayed >= self.cache.limits.postponed_max.max(1)
    }

    /// Evicts the coldest until all is within the budget, and what is waited for has room; whether
    /// that is not so, and nothing more may go.
    async fn make_room(&mut self) -> Result<bool, StoreError> {
        let room = &self.cache.upkeep.room;
        let (pressed, available) = match self.mode {
            Mode::Evict => (room.take_pressed(), self.available().await?),
            Mode::Tell | Mode::Probe => (0, u64::MAX),
        };
        let made = self.go_through(Goal::Budget { available }, pressed).await?;
        Ok(made != Made::Enough || room.largest_wish() > available)
    }

    /// The largest wish that can be met, as far as that need be known: for one that cannot, nothing
    /// must go.
    async fn available(&self) -> Result<u64, StoreError> {
        let room = &self.cache.upkeep.room;
        let largest = room.largest_wish();
        if largest == 0 {
            return Ok(u64::MAX);
        }
        let look = room.look();
        let usage = self.cache.kept_bytes().await?;
        let promised = room.promised_since(&look);
        let Some(budget) = Budget::of(&self.retention, &usage, promised) else {
            return Ok(u64::MAX);
        };
        // What is promised does not go.
        let unpromised = budget.limit.saturating_sub(promised);
        if budget.has_room_for(largest) || !self.examiner.may_be_held().await? {
            return Ok(unpromised);
        }
        let mut probe = Sweep::new(self.cache, self.upkeep);
        probe.mode = Mode::Probe;
        let made = probe.go_through(Goal::Room(largest.min(unpromised)), 0);
        let made = Box::pin(made).await?;
        if made == Made::Enough {
            return Ok(unpromised);
        }
        let stays = usage.bytes.saturating_sub(probe.collected.bytes);
        if made == Made::All {
            room.note_stays(stays, self.cache.limits.room_refused_for);
        }
        Ok(unpromised.saturating_sub(stays))
    }

    /// Goes through the order from its cold end until the goal is met.
    async fn go_through(&mut self, goal: Goal, pressed: u64) -> Result<Made, StoreError> {
        let mut order = Order::default();
        self.stayed = 0;
        let mut is_begun = false;
        while let Some(reason) = self.lacks_room(goal, pressed, is_begun).await? {
            is_begun = true;
            if self.is_cancelled() {
                return Ok(Made::Enough);
            }
            match order.next(self).await? {
                _ if self.is_stuck() => return Ok(Made::Stuck),
                None => return Ok(Made::All),
                Some(unit) => drop(self.take(&unit, Purpose::Room(reason)).await?),
            }
        }
        Ok(Made::Enough)
    }

    /// Why something has to go, if it has to.
    async fn lacks_room(
        &self,
        goal: Goal,
        pressed: u64,
        is_begun: bool,
    ) -> Result<Option<RemovalReason>, StoreError> {
        let room = &self.cache.upkeep.room;
        let look = room.look();
        let mut usage = self.cache.kept_bytes().await?;
        if self.mode != Mode::Evict {
            usage.bytes = usage.bytes.saturating_sub(self.collected.bytes);
            let free = usage.free_bytes;
            usage.free_bytes = free.map(|free| free.saturating_add(self.collected.bytes));
        }
        if let Goal::Kept(bytes) = goal {
            return Ok((usage.bytes > bytes).then_some(RemovalReason::Size));
        }
        if self.collected.bytes < pressed {
            return Ok(Some(RemovalReason::Disk));
        }
        let promised = room.promised_since(&look);
        let Some(budget) = Budget::of(&self.retention, &usage, promised) else {
            return Ok(None);
        };
        let available = match goal {
            Goal::Budget { available } => available,
            Goal::Room(bytes) => {
                return Ok((!budget.has_room_for(bytes)).then_some(budget.reason));
            }
            Goal::Kept(_) => u64::MAX,
        };
        let wanted = room.wanted(budget.limit / 2, available);
        let is_low = budget.is_low(wanted);
        let is_enough = match is_begun {
            true => is_low,
            false => is_low || (!budget.is_high() && budget.has_room_for(wanted)),
        };
        Ok((!is_enough).then_some(budget.reason))
    }

    /// Evicts a unit, unless it has to stay; what that gave free.
    pub(super) async fn take(
        &mut self,
        unit: &Unit,
        purpose: Purpose,
    ) -> Result<Option<Freed>, StoreError> {
        let target = unit.position.target;
        if self.gone.contains(&target.digest()) {
            return Ok(None);
        }
        let Some(examined) = self.examiner.examine(unit, &self.gone).await? else {
            // It is not kept any more, and will not be met again.
            return Ok(None);
        };
        let reason = match decide(&examined.facts, purpose, self.now) {
            Verdict::Evict(reason) => reason,
            Verdict::Stay(protection) => {
                self.stays(unit, protection).await?;
                return Ok(None);
            }
        };
        let freed = match self.mode {
            Mode::Evict => self.cache.remove_unit(self.upkeep, target, reason).await?,
            Mode::Tell | Mode::Probe => Some(self.pretend(unit, &examined, reason)),
        };
        match &freed {
            Some(freed) => self.went(freed),
            None => self.stayed += 1,
        }
        Ok(freed)
    }

    async fn stays(&mut self, unit: &Unit, protection: Protection) -> Result<(), StoreError> {
        self.stayed += 1;
        let Some(until) = protection
            .until(self.now)
            .filter(|_| self.mode != Mode::Tell)
        else {
            return Ok(());
        };
        let target = unit.position.target;
        let postpone = self.upkeep.inventory.postpone(target, until);
        self.cache.store(StoreOperation::Index, postpone).await
    }

    /// What would be freed, and is only told.
    fn pretend(
        &mut self,
        unit: &Unit,
        examined: &super::unit::Examined,
        reason: RemovalReason,
    ) -> Freed {
        self.gone.insert(unit.position.target.digest());
        let bytes = examined.own_bytes;
        Freed {
            removal: Removal {
                at: self.now,
                target: unit.position.target,
                origins: unit.origin.iter().cloned().collect(),
                tags: Vec::new(),
                bytes,
                accessed_at: examined.facts.used_at,
                reason,
            },
            charges: unit.origin.iter().map(|of| (of.clone(), bytes)).collect(),
            tags: 0,
            blobs: 0,
        }
    }

    fn went(&mut self, freed: &Freed) {
        self.stayed = 0;
        let bytes = freed.removal.bytes;
        let collected = &mut self.collected;
        collected.count += 1;
        collected.bytes += bytes;
        if collected.removed.len() < self.cache.limits.collected_listed_max {
            collected.removed.push(freed.removal.clone());
        }
        if self.mode == Mode::Evict {
            self.cache.upkeep.room.evicted();
        }
        if let Some(progress) = self.progress {
            progress.update(|made| {
                made.items += 1;
                made.bytes += bytes;
                made.current = Some(freed.removal.target.digest().to_string());
            });
        }
    }

    /// Evicts what nobody has used for too long.
    async fn age(&mut self) -> Result<(), StoreError> {
        if let Some(idle_max) = self.retention.idle_max {
            let after = self.cache.upkeep.notes().aged;
            // What nothing needs is before all that was looked at.
            self.age_until(Order::default(), |unit| {
                unit.position.at > Timestamp::default()
            })
            .await?;
            let now = self.now;
            let is_young = |unit: &Unit| now.since(unit.position.at) < idle_max;
            let aged = self.age_until(Order::past(after), is_young).await?;
            if self.mode == Mode::Evict {
                self.cache.upkeep.notes().aged = aged.or(after);
            }
        }
        for origin in self.origins_with_an_age().await? {
            let (_, idle_max) = retention_of(&self.upstreams, &origin);
            let (now, idle_max) = (self.now, idle_max.unwrap_or(Duration::MAX));
            let is_young = |unit: &Unit| now.since(unit.position.at) < idle_max;
            self.age_until(Order::of(&origin), is_young).await?;
        }
        Ok(())
    }

    /// Evicts what is too old, until something is met that `is_young`; the last that was not.
    async fn age_until(
        &mut self,
        mut order: Order,
        is_young: impl Fn(&Unit) -> bool,
    ) -> Result<Option<Position>, StoreError> {
        self.stayed = 0;
        let mut last = None;
        while let Some(unit) = order.next(self).await? {
            if is_young(&unit) || self.is_stuck() || self.is_cancelled() {
                break;
            }
            self.take(&unit, Purpose::Age).await?;
            last = Some(unit.position);
        }
        Ok(last)
    }

    /// The origins that something is charged to, and that have an age limit of their own.
    async fn origins_with_an_age(&self) -> Result<Vec<Origin>, StoreError> {
        let mut aging = Vec::new();
        for upstream in self.upstreams.ids() {
            let Some(entry) = self.upstreams.get(upstream) else {
                continue;
            };
            let mut rules = entry.repositories.iter().map(|rule| &rule.retention);
            let has_age =
                entry.retention.idle_max.is_some() || rules.any(|rule| rule.idle_max.is_some());
            if !has_age {
                continue;
            }
            for (origin, _) in self.charges(upstream).await? {
                let (exempt, idle_max) = retention_of(&self.upstreams, &origin);
                if !exempt && idle_max.is_some() && idle_max != self.retention.idle_max {
                    aging.push(origin);
                }
            }
        }
        Ok(aging)
    }
}

/// The order of units, in batches.
#[derive(Default)]
pub(super) struct Order {
    origin: Option<Origin>,
    after: Option<Position>,
    batch: VecDeque<Unit>,
}

impl Order {
    fn past(after: Option<Position>) -> Self {
        Self {
            after,
            ..Self::default()
        }
    }

    pub(super) fn of(origin: &Origin) -> Self {
        Self {
            origin: Some(origin.clone()),
            ..Self::default()
        }
    }

    /// The next unit, colder than all that come after. What is moved on meanwhile may come again,
    /// but never before.
    pub(super) async fn next(&mut self, sweep: &Sweep<'_>) -> Result<Option<Unit>, StoreError> {
        if self.batch.is_empty() {
            let limit = sweep.cache.limits.eviction_batch.max(1);
            let inventory = &sweep.upkeep.inventory;
            let coldest = inventory.coldest(self.origin.as_ref(), self.after, limit);
            let batch = sweep.cache.store(StoreOperation::Index, coldest).await?;
            self.after = batch.last().map(|unit| unit.position).or(self.after);
            self.batch = batch.into();
        }
        Ok(self.batch.pop_front())
    }
}
