//! Access times: in memory, written in batches. Losing the last of them costs a worse choice of
//! what to evict, nothing else.

use std::array;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use registry_core::{LinkTarget, Timestamp};

use crate::options::{ACCESSED_NOW, DiskOptions};

pub(crate) struct Accesses {
    /// What was accessed just now, and when, as numbers that stand for the two: so that accesses to
    /// the same within a millisecond, which would record nothing new, do not wait for each other.
    now: [AtomicU64; ACCESSED_NOW],
    recent: Mutex<Recent>,
    batch_entries: usize,
    write_every: Duration,
}

#[derive(Default)]
struct Recent {
    times: HashMap<LinkTarget, Timestamp>,
    /// When the oldest of them came in.
    since: Timestamp,
}

impl Accesses {
    pub(crate) fn new(options: &DiskOptions) -> Self {
        Self {
            now: array::from_fn(|_| AtomicU64::default()),
            recent: Mutex::default(),
            batch_entries: options.access_batch_entries,
            write_every: options.access_write_every,
        }
    }

    /// Records an access; whether a batch is due.
    pub(crate) fn touch(&self, target: LinkTarget, now: Timestamp) -> bool {
        if self.is_known(target, now) {
            return false;
        }
        let mut recent = self.recent();
        if recent.times.is_empty() {
            recent.since = now;
        }
        // Where the batch that is due cannot be written, what is new is not recorded.
        if recent.times.len() < self.batch_entries * 2 || recent.times.contains_key(&target) {
            let last = recent.times.entry(target).or_insert(now);
            *last = now.max(*last);
        }
        recent.times.len() >= self.batch_entries || now.since(recent.since) >= self.write_every
    }

    /// Whether the same access was recorded in this millisecond, or is just being recorded.
    fn is_known(&self, target: LinkTarget, now: Timestamp) -> bool {
        let hash = target.digest();
        let hash = hash.hash();
        let word = |at| {
            hash[at..]
                .first_chunk()
                .copied()
                .map_or(0, u64::from_be_bytes)
        };
        let place = &self.now[word(0) as usize % ACCESSED_NOW];
        let kind = u64::from(matches!(target, LinkTarget::Manifest(_)));
        // Two that are taken for each other by a chance of one in 2^63 have one access less.
        let access = (word(8) ^ now.as_millis().rotate_left(32)) & !1 | kind;
        if place.load(Ordering::Relaxed) == access {
            return true;
        }
        place.store(access, Ordering::Relaxed);
        false
    }

    pub(crate) fn forget(&self, target: LinkTarget) {
        self.recent().times.remove(&target);
    }

    pub(crate) fn get(&self, target: LinkTarget) -> Option<Timestamp> {
        self.recent().times.get(&target).copied()
    }

    /// The batch.
    pub(crate) fn take(&self) -> HashMap<LinkTarget, Timestamp> {
        std::mem::take(&mut self.recent().times)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use registry_core::testing::content::digest_of;

    use super::*;

    fn target(n: usize) -> LinkTarget {
        LinkTarget::Blob(digest_of(&n.to_le_bytes()))
    }

    fn accesses() -> Accesses {
        let options = DiskOptions {
            access_batch_entries: 3,
            access_write_every: Duration::from_millis(10),
            ..DiskOptions::default()
        };
        Accesses::new(&options)
    }

    #[test]
    fn a_batch_is_due_when_it_is_large() {
        let accesses = accesses();
        let now = Timestamp::from_millis(1_000);
        let due: Vec<bool> = (0..4).map(|n| accesses.touch(target(n), now)).collect();
        assert_eq!(due, [false, false, true, true]);
        assert_eq!(accesses.take().len(), 4);
        assert!(!accesses.touch(target(0), now));
    }

    #[test]
    fn a_batch_is_due_when_it_is_old() {
        let accesses = accesses();
        for (at, due) in [(1_000, false), (1_009, false), (1_010, true)] {
            assert_eq!(
                accesses.touch(target(1), Timestamp::from_millis(at)),
                due,
                "{at}"
            );
        }
        assert_eq!(accesses.get(target(1)), Some(Timestamp::from_millis(1_010)));
        accesses.take();
        assert!(
            !accesses.touch(target(1), Timestamp::from_millis(5_000)),
            "a new batch"
        );
    }

    #[test]
    fn memory_is_bounded_where_no_batch_is_written() {
        let accesses = accesses();
        for n in 0..100 {
            accesses.touch(target(n), Timestamp::from_millis(1));
        }
        accesses.touch(target(0), Timestamp::from_millis(2));
        let batch = accesses.take();
        assert_eq!(batch.len(), 6);
        assert_eq!(
            batch[&target(0)],
            Timestamp::from_millis(2),
            "known ones are updated"
        );
    }
}
