//! What an upstream said it does not have, remembered for moments.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::freshness::{Freshness, assess};
use crate::{Caller, Digest, LinkTarget, Origin, Tag, Timestamp};

/// What was asked for, by whom: nobody's "not found" is another's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Absent {
    pub(super) origin: Origin,
    pub(super) what: What,
    pub(super) caller: Caller,
}

/// The content that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum What {
    Tag(Tag),
    Content(LinkTarget),
}

impl Absent {
    pub(super) fn tag(origin: &Origin, tag: &Tag, caller: &Caller) -> Self {
        Self {
            origin: origin.clone(),
            what: What::Tag(tag.clone()),
            caller: caller.clone(),
        }
    }

    pub(super) fn blob(origin: &Origin, digest: Digest, caller: &Caller) -> Self {
        Self::content(origin, LinkTarget::Blob(digest), caller)
    }

    pub(super) fn content(origin: &Origin, target: LinkTarget, caller: &Caller) -> Self {
        Self {
            origin: origin.clone(),
            what: What::Content(target),
            caller: caller.clone(),
        }
    }

    /// Whether it is the kind of content that is pushed moments after its image.
    pub(super) fn is_attached(&self) -> bool {
        matches!(&self.what, What::Tag(tag) if tag.is_attached())
    }
}

/// A bounded table of absences; the oldest makes room.
pub(super) struct NegativeCache {
    known: HashMap<Absent, Known>,
    oldest_first: VecDeque<Absent>,
    entries_max: usize,
}

/// When something was found to be absent, and for how long that is believed.
struct Known {
    at: Timestamp,
    ttl: Duration,
}

impl NegativeCache {
    pub(super) fn new(entries_max: usize) -> Self {
        Self {
            known: HashMap::new(),
            oldest_first: VecDeque::new(),
            entries_max,
        }
    }

    /// Remembers for `ttl` that `absent` is not there.
    pub(super) fn remember(&mut self, absent: Absent, ttl: Duration, now: Timestamp) {
        if ttl.is_zero() || self.entries_max == 0 {
            return;
        }
        let known = Known { at: now, ttl };
        if self.known.insert(absent.clone(), known).is_none() {
            self.oldest_first.push_back(absent);
        }
        while self.oldest_first.len() > self.entries_max {
            if let Some(oldest) = self.oldest_first.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    /// Whether `absent` is remembered still.
    pub(super) fn holds(&self, absent: &Absent, now: Timestamp) -> bool {
        self.known
            .get(absent)
            .is_some_and(|known| assess(known.at, known.ttl, now) == Freshness::Fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Repository, UpstreamId};

    fn absent(tag: &str) -> Absent {
        let origin = Origin::new(
            UpstreamId::parse("ghcr.io").unwrap(),
            Repository::parse("library/app").unwrap(),
        );
        Absent::tag(&origin, &Tag::parse(tag).unwrap(), &Caller::Anonymous)
    }

    #[test]
    fn an_absence_ends_at_the_exact_instant() {
        let mut negative = NegativeCache::new(8);
        let at = Timestamp::from_millis;
        negative.remember(absent("a"), Duration::from_millis(100), at(1_000));
        assert!(negative.holds(&absent("a"), at(1_099)));
        assert!(!negative.holds(&absent("a"), at(1_100)));
        assert!(!negative.holds(&absent("b"), at(1_000)));
        // The clock was set back: nothing is known of its age.
        assert!(!negative.holds(&absent("a"), at(999)));
        negative.remember(absent("b"), Duration::ZERO, at(1_000));
        assert!(!negative.holds(&absent("b"), at(1_000)));
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut negative = NegativeCache::new(2);
        let now = Timestamp::from_millis(0);
        for tag in ["a", "b", "a", "c"] {
            negative.remember(absent(tag), Duration::from_secs(1), now);
        }
        let held: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .filter(|tag| negative.holds(&absent(tag), now))
            .collect();
        assert_eq!(held, ["b", "c"]);
        assert_eq!(negative.known.len(), negative.oldest_first.len());
    }
}
