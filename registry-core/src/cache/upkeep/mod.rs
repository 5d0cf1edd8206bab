//! What keeps the cache in order and within its bounds, and what people may ask it.
//!
//! - `budget`, `decision`: how much may be kept, and whether something goes; pure.
//! - `room`: room for what is to be kept, promised before it is written.
//! - `collect`, `quota`: what is evicted, in which order, and when; `unit`, `pins`: what is known of
//!   it; `in_use`: what is being read; `removal`: how something goes.
//! - `survey`, `anatomy`: what is kept, image by image; `bonds`: what else needs it.
//! - `explain`, `words`: why an image is here or not, and what the next pull would do.
//! - `delete`, `verify` and `hashing`, `warm`: what people have done to it.

mod anatomy;
mod bonds;
mod budget;
mod collect;
mod counts;
mod decision;
mod delete;
mod explain;
mod hashing;
mod in_use;
mod pins;
mod quota;
mod removal;
mod room;
mod survey;
mod unit;
mod verify;
mod warm;
mod words;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore};

use super::{CacheError, Inner, RegistryCache};
use crate::{Position, Removal, Retention, StoreOperation, Upkeep, UpstreamId, Usage};
use budget::Budget;
use counts::Counts;
use in_use::InUse;
use room::Room;

pub use collect::{CollectRequest, Collected};
pub use counts::{Evicted, EvictionCounts};
pub use delete::{Deleted, StillNeeded};
pub use explain::{Explanation, Filling, NextPull, Verdict};
pub(super) use room::Promise;
pub use survey::{
    BlobDetail, ImageDetail, ImageSummary, ManifestDetail, RepositorySummary, UntaggedPage,
};
pub(super) use verify::Verifications;
pub use verify::{Finding, Flaw, VerificationState, VerifyReport, VerifyRequest, VerifyScope};
pub use warm::{WarmOptions, Warmed};

/// What upkeep remembers.
pub(super) struct State {
    retention: Mutex<Arc<Retention>>,
    room: Arc<Room>,
    counts: Counts,
    in_use: InUse,
    collector: Collector,
}

/// The task that evicts, and what it remembers from one time to the next.
struct Collector {
    wake: Arc<Notify>,
    /// Whoever has this evicts: one at a time.
    turn: Semaphore,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    /// The task was begun.
    begun: bool,
    /// What has grown old is to be looked for, without waiting for its time.
    is_due: bool,
    /// There was more to evict than could go.
    is_short: bool,
    /// Upstreams that something was kept of which has a limit of its own.
    charged: BTreeSet<UpstreamId>,
    /// Up to here, everything was looked at for its age; what stayed has rules of its own.
    aged: Option<Position>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            retention: Mutex::default(),
            room: Arc::default(),
            counts: Counts::default(),
            in_use: InUse::default(),
            collector: Collector {
                wake: Arc::default(),
                turn: Semaphore::new(1),
                notes: Mutex::default(),
            },
        }
    }
}

impl State {
    fn retention(&self) -> Arc<Retention> {
        let retention = self.retention.lock();
        // It is replaced as a whole.
        Arc::clone(&retention.unwrap_or_else(PoisonError::into_inner))
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        let notes = self.collector.notes.lock();
        // Nothing panics while it holds this.
        notes.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // The task sees that there is no cache any more.
        self.collector.wake.notify_one();
    }
}

/// How much is kept, and how much may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUsage {
    /// What the store keeps.
    pub kept: Usage,
    /// The limit in effect, in bytes, if there is any: the one that is set, or what the store has
    /// space for where that is less.
    pub bytes_max: Option<u64>,
    /// Bytes that are promised to what is being fetched.
    pub promised_bytes: u64,
}

impl RegistryCache {
    /// Changes how content is kept, from now on. Until it is called, the store's own limit is the
    /// only one; it also begins what is done in the background, where there is anything to do.
    ///
    /// Has to be called within a Tokio runtime.
    pub fn set_retention(&self, retention: Retention) {
        let upkeep = &self.inner.upkeep;
        let slot = upkeep.retention.lock();
        *slot.unwrap_or_else(PoisonError::into_inner) = Arc::new(retention);
        self.inner.reconsider();
    }

    /// How content is kept.
    pub fn retention(&self) -> Retention {
        Retention::clone(&self.inner.upkeep.retention())
    }

    /// How much is kept, and how much may be. `None` where the store cannot tell what it keeps
    /// ([`Stores::upkeep`](crate::Stores::upkeep)).
    ///
    /// # Errors
    ///
    /// [`CacheError::Store`].
    pub async fn usage(&self) -> Result<Option<CacheUsage>, CacheError> {
        let cache = &self.inner;
        if cache.stores.upkeep.is_none() {
            return Ok(None);
        }
        let kept = cache.kept_bytes().await?;
        let promised_bytes = cache.upkeep.room.promised();
        let budget = Budget::of(&cache.upkeep.retention(), &kept, promised_bytes);
        Ok(Some(CacheUsage {
            kept,
            bytes_max: budget.map(|budget| budget.limit),
            promised_bytes,
        }))
    }

    /// How much was removed since the start of the process, and why.
    pub fn evictions(&self) -> EvictionCounts {
        self.inner.upkeep.counts.evictions()
    }

    /// How often something was passed through because there was no room to keep it.
    pub fn refused_for_room(&self) -> u64 {
        self.inner.upkeep.counts.refused_for_room()
    }

    /// Up to `limit` of the latest removals, the latest first.
    ///
    /// # Errors
    ///
    /// [`CacheError::NoUpkeep`]; [`CacheError::Store`].
    pub async fn removals(&self, limit: usize) -> Result<Vec<Removal>, CacheError> {
        let upkeep = self.inner.upkeep()?;
        let limit = limit.min(self.inner.limits.page_entries_max);
        let removals = upkeep.journal.removals(limit);
        Ok(self.inner.store(StoreOperation::Index, removals).await?)
    }
}

impl Inner {
    /// The limits have changed: what is kept is looked at anew.
    pub(super) fn reconsider(self: &Arc<Self>) {
        let upstreams = self.upstreams();
        let mut notes = self.upkeep.notes();
        notes.aged = None;
        notes.is_due = true;
        notes.charged = upstreams.ids().cloned().collect();
        drop(notes);
        self.upkeep.room.forget_stays();
        self.wake_collector();
    }

    /// What tells of the content that is kept.
    fn upkeep(&self) -> Result<&Upkeep, CacheError> {
        self.stores.upkeep.as_ref().ok_or(CacheError::NoUpkeep)
    }
}
