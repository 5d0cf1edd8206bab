//! What was removed since the start of the process.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::RemovalReason;

const REASONS: usize = RemovalReason::ALL.len();

/// Counters of removals, by reason.
pub(super) struct Counts {
    of: [(AtomicU64, AtomicU64); REASONS],
    refused_for_room: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            of: array::from_fn(|_| Default::default()),
            refused_for_room: AtomicU64::default(),
        }
    }
}

/// How much was removed, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EvictionCounts([Evicted; REASONS]);

/// How much was removed for one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Images, indexes, and blobs that were part of none.
    pub count: u64,
    /// The bytes that they gave free.
    pub bytes: u64,
}

impl Counts {
    pub(super) fn removed(&self, reason: RemovalReason, bytes: u64) {
        if let Some(of) = place(reason) {
            let (count, sum) = &self.of[of];
            count.fetch_add(1, Ordering::Relaxed);
            sum.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    pub(super) fn refuse_for_room(&self) {
        self.refused_for_room.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused_for_room(&self) -> u64 {
        self.refused_for_room.load(Ordering::Relaxed)
    }

    pub(super) fn evictions(&self) -> EvictionCounts {
        EvictionCounts(array::from_fn(|of| {
            let (count, bytes) = &self.of[of];
            Evicted {
                count: count.load(Ordering::Relaxed),
                bytes: bytes.load(Ordering::Relaxed),
            }
        }))
    }
}

impl EvictionCounts {
    /// How much was removed for this reason.
    pub fn of(&self, reason: RemovalReason) -> Evicted {
        place(reason).map_or_else(Evicted::default, |of| self.0[of])
    }

    /// How much was removed for each reason, in the order of [`RemovalReason::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (RemovalReason, Evicted)> {
        RemovalReason::ALL.iter().copied().zip(self.0)
    }
}

fn place(reason: RemovalReason) -> Option<usize> {
    RemovalReason::ALL.iter().position(|of| *of == reason)
}
