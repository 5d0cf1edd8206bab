//! When a tag must be asked for again: facts in, decision out.

use std::time::Duration;

use crate::Timestamp;

/// Whether what is recorded may be served without asking (RFC 9111, section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// It may.
    Fresh,
    /// It must be revalidated first.
    Stale,
}

/// Assesses what was last confirmed at `validated_at`. It is fresh for less than `ttl`: with a
/// `ttl` of zero never, and no longer at the very instant at which the time is up. A confirmation
/// from the future means that the clock was set back, so nothing is known of its age: stale.
pub(super) fn assess(validated_at: Timestamp, ttl: Duration, now: Timestamp) -> Freshness {
    if now >= validated_at && now.since(validated_at) < ttl {
        Freshness::Fresh
    } else {
        Freshness::Stale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freshness_ends_at_the_exact_instant() {
        let at = Timestamp::from_millis;
        for (validated, ttl, now, freshness) in [
            (1_000, 0, 1_000, Freshness::Stale),
            (1_000, 1, 1_000, Freshness::Fresh),
            (1_000, 500, 1_499, Freshness::Fresh),
            (1_000, 500, 1_500, Freshness::Stale),
            (1_000, 500, 9_999, Freshness::Stale),
            (1_000, 500, 999, Freshness::Stale),
        ] {
            let assessed = assess(at(validated), Duration::from_millis(ttl), at(now));
            assert_eq!(
                assessed, freshness,
                "validated {validated}, ttl {ttl}, now {now}"
            );
        }
    }
}
