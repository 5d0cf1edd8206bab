//! Room for what is to be kept: promised before it is written, so that the limit is never passed.
//!
//! What is kept is the store's to tell, and what is promised is told here. A promise lasts until
//! what it was given for is kept, and for that moment both count: never neither.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::budget::Budget;
use crate::cache::{CacheError, Inner};
use crate::{StoreError, StoreOperation, Usage};

/// What was promised, and what is waited for.
#[derive(Default)]
pub(super) struct Room {
    ledger: Mutex<Ledger>,
    passes: watch::Sender<Passes>,
}

#[derive(Default)]
struct Ledger {
    /// Bytes that are promised: wider than what any of them was asked for, since an upstream may
    /// claim any size.
    promised: u128,
    /// Bytes that ever were, and are no longer.
    released: u64,
    /// What is waited for: how often so many bytes are.
    wanted: BTreeMap<u64, usize>,
    /// Bytes that the store said it has no space for.
    pressed: u64,
    /// Bytes that are kept and could not go, and until when that is believed.
    stays: Option<(u64, Instant)>,
    /// Eviction failed, or left somebody waiting, and has evicted nothing since: until when nobody
    /// waits for it.
    hangs: Option<Instant>,
}

/// How eviction gets on, for those who wait for room.
#[derive(Clone, Copy, Default)]
struct Passes {
    begun: u64,
    ended: u64,
    /// Units that were evicted.
    evicted: u64,
    /// The last of them found nothing more that might go.
    exhausted: bool,
    /// There will be no more.
    over: bool,
}

/// Room that is kept free for its holder, until this is dropped.
pub(in crate::cache) struct Promise {
    room: Arc<Room>,
    bytes: u64,
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut ledger = self.room.ledger();
        ledger.promised -= u128::from(self.bytes);
        ledger.released = ledger.released.wrapping_add(self.bytes);
    }
}

/// That somebody waits for room.
struct Wish<'a> {
    room: &'a Room,
    bytes: u64,
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        let mut ledger = self.room.ledger();
        if let Some(wishes) = ledger.wanted.get_mut(&self.bytes) {
            *wishes -= 1;
            if *wishes == 0 {
                ledger.wanted.remove(&self.bytes);
            }
        }
    }
}

/// A look at what is promised, from before the store is asked what is kept.
///
/// What is kept by the time that it answers was promised to somebody at some time since: so nothing
/// is missed that became kept in between.
pub(super) struct Look {
    released: u64,
}

impl Room {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Nothing panics while it holds this; if something did, these are numbers.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn promised(&self) -> u64 {
        self.ledger().promised()
    }

    pub(super) fn look(&self) -> Look {
        Look {
            released: self.ledger().released,
        }
    }

    /// Bytes that were promised at any time since the look.
    pub(super) fn promised_since(&self, look: &Look) -> u64 {
        self.ledger().promised_since(look)
    }

    /// Promises room without looking for it.
    fn give(self: &Arc<Self>, bytes: u64) -> Promise {
        self.ledger().promised += u128::from(bytes);
        Promise {
            room: Arc::clone(self),
            bytes,
        }
    }

    /// Promises room where `is_enough` says so of what was promised since the look.
    fn promise(
        self: &Arc<Self>,
        bytes: u64,
        look: &Look,
        is_enough: impl FnOnce(&Ledger, u64) -> bool,
    ) -> Option<Promise> {
        let mut ledger = self.ledger();
        let promised = ledger.promised_since(look);
        if !is_enough(&ledger, promised) {
            return None;
        }
        ledger.promised += u128::from(bytes);
        drop(ledger);
        Some(Promise {
            room: Arc::clone(self),
            bytes,
        })
    }

    /// Bytes that are waited for, by whoever can have them: whose wishes are `available` bytes at
    /// most. In all, or up to `enough`, but never less than one waits for: what many ask for at once
    /// must not cost all that is kept.
    pub(super) fn wanted(&self, enough: u64, available: u64) -> u64 {
        let ledger = self.ledger();
        let mut largest = 0;
        let mut all = 0_u64;
        for (bytes, wishes) in ledger.wanted.range(..=available) {
            largest = *bytes;
            all = all.saturating_add(bytes.saturating_mul(*wishes as u64));
        }
        all.min(enough).max(largest)
    }

    /// The most that one waits for.
    pub(super) fn largest_wish(&self) -> u64 {
        let ledger = self.ledger();
        let largest = ledger.wanted.last_key_value();
        largest.map_or(0, |(bytes, _)| *bytes)
    }

    /// So many bytes that are kept cannot go. Believed for a while.
    pub(super) fn note_stays(&self, bytes: u64, remembered: Duration) {
        self.ledger().stays = Some((bytes, Instant::now() + remembered));
    }

    /// What could not go may be able to by now.
    pub(super) fn forget_stays(&self) {
        self.ledger().stays = None;
    }

    /// Nobody is to wait for eviction until it evicts something, or for a while.
    pub(super) fn note_hanging(&self, remembered: Duration) {
        self.ledger().hangs = Some(Instant::now() + remembered);
    }

    fn is_hanging(&self) -> bool {
        self.ledger()
            .hangs
            .is_some_and(|until| Instant::now() < until)
    }

    fn wish(&self, bytes: u64) -> Wish<'_> {
        *self.ledger().wanted.entry(bytes).or_default() += 1;
        Wish { room: self, bytes }
    }

    /// The store has no space for so many bytes.
    fn press(&self, bytes: u64) {
        let mut ledger = self.ledger();
        ledger.pressed = ledger.pressed.max(bytes);
    }

    /// How many bytes the store had no space for, since this was last asked.
    pub(super) fn take_pressed(&self) -> u64 {
        std::mem::take(&mut self.ledger().pressed)
    }

    pub(super) fn pass_begins(&self) {
        self.passes.send_modify(|passes| passes.begun += 1);
    }

    pub(super) fn evicted(&self) {
        self.ledger().hangs = None;
        self.passes.send_modify(|passes| passes.evicted += 1);
    }

    pub(super) fn pass_ended(&self, exhausted: bool) {
        self.passes.send_modify(|passes| {
            passes.ended = passes.begun;
            passes.exhausted = exhausted;
        });
    }

    /// Nothing is evicted any more: nobody has to wait for it.
    pub(super) fn close(&self) {
        self.passes.send_modify(|passes| passes.over = true);
    }

    /// Waits for the end of a pass that knows what is wanted by now; how much was evicted since.
    async fn pass(&self) -> u64 {
        let mut passes = self.passes.subscribe();
        let before = *passes.borrow();
        let knows = |passes: &Passes| passes.over || passes.ended > before.begun;
        // The sender is `self`.
        let after = passes.wait_for(knows).await;
        after.map_or(0, |after| after.evicted - before.evicted)
    }
}

impl Ledger {
    /// Whether so many bytes find no room within the limit, whatever were evicted.
    fn is_in_vain(&self, bytes: u64, usage: &Usage, limit: u64) -> bool {
        let stays = self.stays.filter(|(_, until)| Instant::now() < *until);
        // Less is kept than could not go: something else removed some of it.
        let stays = stays.filter(|(stays, _)| *stays <= usage.bytes);
        let needed = stays.map_or(bytes, |(stays, _)| stays.saturating_add(bytes));
        needed > limit
    }

    fn promised(&self) -> u64 {
        u64::try_from(self.promised).unwrap_or(u64::MAX)
    }

    fn promised_since(&self, look: &Look) -> u64 {
        let released = self.released.wrapping_sub(look.released);
        self.promised().saturating_add(released)
    }
}

/// What there is of room.
enum Found {
    Promised(Promise),
    /// There may be, when something has gone.
    Short,
    /// There will be none, whatever goes: it is larger than the limit, or than what the limit
    /// leaves beside what may not go.
    Never,
}

impl Inner {
    /// Room for so many bytes more, made by eviction where there is none; `None` where nothing is
    /// told of what is kept, so that there is no limit to keep.
    ///
    /// # Errors
    ///
    /// [`CacheError::NoRoom`] where none can be made in time; [`CacheError::Store`] where there is a
    /// limit, and nobody can tell what is kept.
    pub(in crate::cache) async fn room(
        self: &Arc<Self>,
        bytes: u64,
    ) -> Result<Option<Promise>, CacheError> {
        if self.stores.upkeep.is_none() {
            return Ok(None);
        }
        let bytes = bytes.saturating_add(self.limits.content_overhead_bytes);
        match self.find_room(bytes).await? {
            Found::Promised(promise) => return Ok(Some(promise)),
            Found::Short => {}
            Found::Never => return Err(self.no_room()),
        }
        let room = &self.upkeep.room;
        if room.is_hanging() {
            return Err(self.no_room());
        }
        let _wish = room.wish(bytes);
        let mut passes = room.passes.subscribe();
        let mut begun = passes.borrow_and_update().begun;
        self.wake_collector();
        let wait = async {
            loop {
                let seen = *passes.borrow_and_update();
                if let Found::Promised(promise) = self.find_room(bytes).await? {
                    return Ok(Some(promise));
                }
                // A pass that had begun before may not have known of this wish.
                let has_ended = seen.ended > begun;
                if seen.over || (has_ended && seen.exhausted) {
                    return Err(self.no_room());
                }
                if has_ended {
                    // Another was faster.
                    begun = seen.begun;
                    self.wake_collector();
                }
                // The sender is in `self`.
                let _ = passes.changed().await;
            }
        };
        match timeout(self.limits.room_wait_max, wait).await {
            Ok(found) => found,
            Err(_) => {
                room.note_hanging(self.limits.room_refused_for);
                Err(self.no_room())
            }
        }
    }

    /// Room for what a store may add to what is kept where it is linked once more, if there is some
    /// now: nobody waits for so little.
    ///
    /// # Errors
    ///
    /// As [`Self::room`].
    pub(in crate::cache) async fn room_to_link(
        self: &Arc<Self>,
    ) -> Result<Option<Promise>, CacheError> {
        if self.stores.upkeep.is_none() {
            return Ok(None);
        }
        let bytes = self.limits.content_overhead_bytes;
        if let Found::Promised(promise) = self.find_room(bytes).await? {
            return Ok(Some(promise));
        }
        self.wake_collector();
        Err(CacheError::NoRoom)
    }

    fn no_room(&self) -> CacheError {
        self.upkeep.counts.refuse_for_room();
        CacheError::NoRoom
    }

    async fn find_room(&self, bytes: u64) -> Result<Found, CacheError> {
        let room = &self.upkeep.room;
        let look = room.look();
        let retention = self.upkeep.retention();
        let usage = match self.kept_bytes().await {
            Ok(usage) => usage,
            // Only the store's own limit: it will say so itself.
            Err(_) if retention.bytes_max.is_none() => {
                return Ok(Found::Promised(room.give(bytes)));
            }
            Err(error) => return Err(error.into()),
        };
        let mut is_in_vain = false;
        let promise = room.promise(bytes, &look, |ledger, promised| {
            match Budget::of(&retention, &usage, promised) {
                None => true,
                Some(budget) => {
                    is_in_vain = ledger.is_in_vain(bytes, &usage, budget.limit);
                    budget.has_room_for(bytes)
                }
            }
        });
        Ok(match promise {
            Some(promise) => Found::Promised(promise),
            None if is_in_vain => Found::Never,
            None => Found::Short,
        })
    }

    /// What is kept, as the store tells; nothing where it has no upkeep.
    pub(super) async fn kept_bytes(&self) -> Result<Usage, StoreError> {
        match &self.stores.upkeep {
            None => Ok(Usage::default()),
            Some(upkeep) => {
                let usage = upkeep.inventory.usage();
                self.store(StoreOperation::Index, usage).await
            }
        }
    }

    /// What the store answers; where it has no space for `bytes`, what it answers when something
    /// has gone.
    pub(in crate::cache) async fn store_making_room<T, F>(
        self: &Arc<Self>,
        operation: StoreOperation,
        bytes: u64,
        ask: impl Fn() -> F + Send,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let answer = self.ask_store(operation, ask()).await;
        let answer = match answer {
            Err(StoreError::NoSpace { .. }) if self.make_space(bytes).await => {
                self.ask_store(operation, ask()).await
            }
            answer => answer,
        };
        self.health.note(answer)
    }

    /// Evicts what takes about so many bytes, because the store has no space for them; whether
    /// anything went.
    pub(in crate::cache) async fn make_space(self: &Arc<Self>, bytes: u64) -> bool {
        if self.stores.upkeep.is_none() || self.tasks.is_closed() {
            return false;
        }
        let room = &self.upkeep.room;
        room.press(bytes.max(1));
        let pass = room.pass();
        self.wake_collector();
        let evicted = timeout(self.limits.room_wait_max, pass).await;
        evicted.is_ok_and(|evicted| evicted > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_nothing_can_have_add_up_all_the_same() {
        let room = Arc::new(Room::default());
        let (one, two) = (room.give(u64::MAX), room.give(u64::MAX));
        assert_eq!(room.promised(), u64::MAX);
        drop(one);
        assert_eq!(room.promised(), u64::MAX);
        drop(two);
        assert_eq!(room.promised(), 0);
    }
}
