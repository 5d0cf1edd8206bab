//! Whether something goes, and why it goes or stays. Pure: facts in, verdict out.

use std::time::Duration;

use crate::{RemovalReason, Timestamp};

/// What is known of a unit that may be evicted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Where it was found in the order; the beginning of all time for what nothing needs.
    pub(super) place: Timestamp,
    /// When it, or a blob that only it needs, was last used, as far as that is known.
    pub(super) used_at: Option<Timestamp>,
    /// It, or a blob that only it needs, is being read.
    pub(super) in_use: bool,
    /// The same, and it is being filled.
    pub(super) filling: bool,
    /// A pin holds it.
    pub(super) pinned: bool,
    /// A rule exempts it.
    pub(super) exempt: bool,
    /// How long it is kept unused, if there is such a limit.
    pub(super) idle_max: Option<Duration>,
    /// When the index was last used of whose manifests it is the one that is used.
    pub(super) index_used_at: Option<Timestamp>,
}

/// What something would be evicted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To make room for others, which are fresher.
    Room(RemovalReason),
    /// Because nobody uses it.
    Age,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes.
    Evict(RemovalReason),
    /// It stays.
    Stay(Protection),
}

/// Why something stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protection {
    /// It was used since it was found where it was.
    Used(Timestamp),
    /// It is being read.
    InUse,
    /// It is being filled.
    Filling,
    /// A person wants it kept.
    Pinned,
    /// A rule does.
    Exempt,
    /// The index that it is used through is fresher than itself.
    PartOfIndex(Timestamp),
    /// It has not been unused for long enough; nobody knows since when it is.
    NotIdle,
}

impl Protection {
    /// Until when it need not be looked at again.
    pub(super) fn until(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Used(at) | Self::PartOfIndex(at) => Some(at),
            Self::InUse | Self::Filling | Self::Pinned | Self::Exempt => Some(now),
            // Its place says when its time comes, and for others it may come sooner.
            Self::NotIdle => None,
        }
    }
}

/// Whether a unit goes.
pub(super) fn decide(facts: &Facts, purpose: Purpose, now: Timestamp) -> Verdict {
    // What has just been freed is nobody's, whenever it was used.
    let is_free = facts.place == Timestamp::default();
    let protection = match facts {
        Facts { in_use: true, .. } => Some(Protection::InUse),
        Facts { filling: true, .. } => Some(Protection::Filling),
        Facts { pinned: true, .. } => Some(Protection::Pinned),
        Facts { exempt: true, .. } => Some(Protection::Exempt),
        Facts {
            used_at: Some(used_at),
            place,
            ..
        } if used_at > place && !is_free => Some(Protection::Used(*used_at)),
        // Not where it is as old: or else the two would wait for each other.
        Facts {
            index_used_at: Some(index),
            place,
            ..
        } if index > place => Some(Protection::PartOfIndex(*index)),
        _ => None,
    };
    if let Some(protection) = protection {
        return Verdict::Stay(protection);
    }
    match purpose {
        Purpose::Room(reason) => Verdict::Evict(reason),
        Purpose::Age => {
            let unused = facts.used_at.map(|used_at| now.since(used_at));
            let is_idle = match (facts.idle_max, unused) {
                (Some(idle_max), Some(unused)) => unused >= idle_max,
                (Some(_), None) => is_free,
                (None, _) => false,
            };
            if is_idle {
                Verdict::Evict(RemovalReason::Idle)
            } else {
                Verdict::Stay(Protection::NotIdle)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    /// Used at 100, where it was found.
    fn facts() -> Facts {
        Facts {
            place: at(100),
            used_at: Some(at(100)),
            ..Facts::default()
        }
    }

    const ROOM: Purpose = Purpose::Room(RemovalReason::Size);

    #[test]
    fn what_is_coldest_makes_room() {
        for reason in [
            RemovalReason::Size,
            RemovalReason::Disk,
            RemovalReason::Quota,
        ] {
            let verdict = decide(&facts(), Purpose::Room(reason), at(100));
            assert_eq!(verdict, Verdict::Evict(reason));
        }
        let unknown = Facts {
            used_at: None,
            ..facts()
        };
        let evicted = Verdict::Evict(RemovalReason::Size);
        assert_eq!(decide(&unknown, ROOM, at(100)), evicted);
    }

    #[test]
    fn what_is_protected_stays_whatever_the_purpose() {
        let cases = [
            (
                Facts {
                    in_use: true,
                    ..facts()
                },
                Protection::InUse,
            ),
            (
                Facts {
                    filling: true,
                    ..facts()
                },
                Protection::Filling,
            ),
            (
                Facts {
                    pinned: true,
                    ..facts()
                },
                Protection::Pinned,
            ),
            (
                Facts {
                    exempt: true,
                    ..facts()
                },
                Protection::Exempt,
            ),
        ];
        for (facts, protection) in cases {
            let freed = Facts {
                place: Timestamp::default(),
                ..facts.clone()
            };
            for facts in [facts, freed] {
                let aged = Facts {
                    idle_max: Some(Duration::ZERO),
                    ..facts.clone()
                };
                let stays = Verdict::Stay(protection);
                assert_eq!(decide(&facts, ROOM, at(1_000)), stays);
                assert_eq!(decide(&aged, Purpose::Age, at(1_000)), stays);
            }
            assert_eq!(protection.until(at(1_000)), Some(at(1_000)));
        }
    }

    #[test]
    fn what_was_used_since_stays_until_then() {
        for (used_at, stays) in [(99, false), (100, false), (101, true)] {
            let facts = Facts {
                used_at: Some(at(used_at)),
                ..facts()
            };
            let expected = if stays {
                Verdict::Stay(Protection::Used(at(used_at)))
            } else {
                Verdict::Evict(RemovalReason::Size)
            };
            assert_eq!(decide(&facts, ROOM, at(200)), expected, "{used_at}");
        }
        assert_eq!(Protection::Used(at(7)).until(at(200)), Some(at(7)));
        // What was freed was used after the beginning of all time.
        let freed = Facts {
            place: Timestamp::default(),
            ..facts()
        };
        let evicted = Verdict::Evict(RemovalReason::Size);
        assert_eq!(decide(&freed, ROOM, at(200)), evicted);
    }

    #[test]
    fn what_a_fresher_index_is_used_through_stays_as_long_as_that() {
        for (index, stays) in [(99, false), (100, false), (101, true)] {
            let facts = Facts {
                index_used_at: Some(at(index)),
                idle_max: Some(Duration::from_secs(1)),
                ..facts()
            };
            for (purpose, reason) in [
                (ROOM, RemovalReason::Size),
                (Purpose::Age, RemovalReason::Idle),
            ] {
                let expected = if stays {
                    Verdict::Stay(Protection::PartOfIndex(at(index)))
                } else {
                    Verdict::Evict(reason)
                };
                assert_eq!(decide(&facts, purpose, at(200)), expected, "{index}");
            }
        }
        assert_eq!(Protection::PartOfIndex(at(7)).until(at(200)), Some(at(7)));
    }

    #[test]
    fn what_is_unused_for_exactly_the_limit_goes() {
        let limit = Some(Duration::from_secs(60));
        for (idle_max, now, goes) in [
            (limit, 159, false),
            (limit, 160, true),
            (limit, 161, true),
            (None, 1_000_000, false),
            (Some(Duration::ZERO), 100, true),
            // The clock was set back.
            (limit, 0, false),
        ] {
            let facts = Facts {
                idle_max,
                ..facts()
            };
            let expected = if goes {
                Verdict::Evict(RemovalReason::Idle)
            } else {
                Verdict::Stay(Protection::NotIdle)
            };
            assert_eq!(decide(&facts, Purpose::Age, at(now)), expected, "{now}");
        }
        // What was postponed is as old as its last use.
        let postponed = Facts {
            place: at(500),
            idle_max: limit,
            ..facts()
        };
        let gone = Verdict::Evict(RemovalReason::Idle);
        assert_eq!(decide(&postponed, Purpose::Age, at(500)), gone);
        // Of what nobody knows how old it is, only what nothing needs goes.
        for (place, goes) in [(100, false), (0, true)] {
            let facts = Facts {
                place: at(place),
                used_at: None,
                idle_max: limit,
                ..Facts::default()
            };
            let verdict = decide(&facts, Purpose::Age, at(1_000_000));
            assert_eq!(verdict == gone, goes, "{place}");
        }
        assert_eq!(Protection::NotIdle.until(at(1)), None);
    }
}
