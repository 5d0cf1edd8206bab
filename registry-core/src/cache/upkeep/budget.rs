//! How much may be kept: the limit in effect, and what it makes of a usage. Pure.

use crate::{RemovalReason, Retention, Usage};

/// What may be kept in all, and what is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// The limit in effect, in bytes.
    pub(super) limit: u64,
    /// Why something goes that is beyond it.
    pub(super) reason: RemovalReason,
    /// Bytes that are kept or promised.
    pub(super) taken: u64,
    high: u64,
    low: u64,
}

impl Budget {
    /// What is in effect where so much is kept and promised; `None` where there is no limit.
    pub(super) fn of(retention: &Retention, usage: &Usage, promised: u64) -> Option<Self> {
        // What fills have written is no longer free, and promised still. What earlier ones left is
        // taken for theirs: where that makes the disk look larger than it is, the store says so.
        let on_disk = usage.free_bytes.map(|free| {
            let written = usage.unfinished_bytes.min(promised);
            usage.bytes.saturating_add(free).saturating_add(written)
        });
        let (limit, reason) = match (retention.bytes_max, on_disk) {
            (Some(set), Some(on_disk)) if on_disk < set => (on_disk, RemovalReason::Disk),
            (Some(set), _) => (set, RemovalReason::Size),
            (None, Some(on_disk)) => (on_disk, RemovalReason::Disk),
            (None, None) => return None,
        };
        Some(Self {
            limit,
            reason,
            taken: usage.bytes.saturating_add(promised),
            high: percent(limit, retention.high_watermark),
            low: percent(limit, retention.low_watermark),
        })
    }

    /// Whether so many bytes more may be promised.
    pub(super) fn has_room_for(&self, bytes: u64) -> bool {
        self.taken.saturating_add(bytes) <= self.limit
    }

    /// Whether it is time to evict, so that nobody has to wait for it.
    pub(super) fn is_high(&self) -> bool {
        self.taken > self.high
    }

    /// Whether enough was evicted, so many bytes being waited for.
    pub(super) fn is_low(&self, wanted: u64) -> bool {
        self.taken.saturating_add(wanted) <= self.low.max(wanted.min(self.limit))
    }
}

/// So many percent of `bytes`.
pub(super) fn percent(bytes: u64, percent: u8) -> u64 {
    let percent = u64::from(percent.min(100));
    bytes / 100 * percent + bytes % 100 * percent / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(bytes: u64, unfinished_bytes: u64, free_bytes: Option<u64>) -> Usage {
        Usage {
            bytes,
            unfinished_bytes,
            free_bytes,
            ..Usage::default()
        }
    }

    fn retention(bytes_max: Option<u64>) -> Retention {
        Retention {
            bytes_max,
            high_watermark: 90,
            low_watermark: 80,
            idle_max: None,
        }
    }

    #[test]
    fn the_narrower_limit_is_in_effect() {
        let (size, disk) = (RemovalReason::Size, RemovalReason::Disk);
        for (set, free, unfinished, promised, expected) in [
            (None, None, 0, 0, None),
            (Some(1_000), None, 0, 0, Some((1_000, size))),
            (Some(1_000), Some(600), 0, 0, Some((1_000, size))),
            (Some(1_000), Some(599), 0, 0, Some((999, disk))),
            (None, Some(599), 0, 0, Some((999, disk))),
            (None, Some(0), 0, 0, Some((400, disk))),
            // What a fill has written counts once; what another has left, not at all.
            (None, Some(100), 50, 80, Some((550, disk))),
            (None, Some(100), 80, 50, Some((550, disk))),
        ] {
            let usage = usage(400, unfinished, free);
            let budget = Budget::of(&retention(set), &usage, promised);
            let told = budget.map(|budget| (budget.limit, budget.reason));
            assert_eq!(told, expected, "{set:?} {free:?}");
        }
    }

    #[test]
    fn the_limit_is_hard() {
        let budget = Budget::of(&retention(Some(1_000)), &usage(600, 0, None), 300).unwrap();
        assert_eq!(budget.taken, 900);
        assert!(budget.has_room_for(100));
        assert!(!budget.has_room_for(101));
        assert!(!budget.has_room_for(u64::MAX));
    }

    #[test]
    fn the_watermarks_are_shares_of_the_limit() {
        for (bytes, is_high, is_low) in [
            (800, false, true),
            (801, false, false),
            (900, false, false),
            (901, true, false),
        ] {
            let usage = usage(bytes, 0, None);
            let budget = Budget::of(&retention(Some(1_000)), &usage, 0).unwrap();
            assert_eq!(budget.is_high(), is_high, "{bytes}");
            assert_eq!(budget.is_low(0), is_low, "{bytes}");
        }
        let budget = Budget::of(&retention(Some(1_000)), &usage(500, 0, None), 0).unwrap();
        assert!(budget.is_low(300));
        assert!(!budget.is_low(301));
        // Something larger than the low watermark is waited for: then nothing else may stay.
        let empty = Budget::of(&retention(Some(1_000)), &usage(0, 0, None), 0).unwrap();
        assert!(empty.is_low(950));
        let other = Budget::of(&retention(Some(1_000)), &usage(51, 0, None), 0).unwrap();
        assert!(!other.is_low(950));
    }

    #[test]
    fn shares_of_large_numbers_do_not_overflow() {
        for (bytes, share, expected) in [
            (u64::MAX, 100, u64::MAX),
            (0, 98, 0),
            (99, 50, 49),
            (199, 98, 195),
            (
                1 << 40,
                95,
                (1 << 40) / 100 * 95 + (1 << 40) % 100 * 95 / 100,
            ),
            (7, 255, 7),
        ] {
            assert_eq!(percent(bytes, share), expected);
        }
    }
}
