//! What an upstream said it does not have: believed for moments, and of what is attached to images
//! recalled for as long as it cannot be asked.
//!
//! That an image has no signature is an answer that clients act on, so one that was given online
//! is given offline too. That a tag or a blob is not there is no use to anybody without the
//! upstream.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::freshness::{Freshness, assess};
use crate::{Caller, Digest, LinkTarget, Origin, Tag, Timestamp, UpstreamId};

/// What was asked for, by whom: nobody's "not found" is another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Absent {
    pub(super) place: Place,
    pub(super) caller: Caller,
}

/// Some content, and where it was looked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) origin: Origin,
    pub(super) what: What,
}

/// The content that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum What {
    Tag(Tag),
    Content(LinkTarget),
    /// The referrers of a manifest, or the API that would list them.
    Referrers(Digest),
}

impl What {
    /// Whether it is the kind of content that is pushed moments after its image.
    fn is_attached(&self) -> bool {
        match self {
            Self::Tag(tag) => tag.is_attached(),
            Self::Content(_) => false,
            Self::Referrers(_) => true,
        }
    }
}

impl Absent {
    pub(super) fn tag(origin: &Origin, tag: &Tag, caller: &Caller) -> Self {
        Self::new(origin, What::Tag(tag.clone()), caller)
    }

    pub(super) fn blob(origin: &Origin, digest: Digest, caller: &Caller) -> Self {
        Self::content(origin, LinkTarget::Blob(digest), caller)
    }

    pub(super) fn content(origin: &Origin, target: LinkTarget, caller: &Caller) -> Self {
        Self::new(origin, What::Content(target), caller)
    }

    pub(super) fn referrers(origin: &Origin, subject: Digest, caller: &Caller) -> Self {
        Self::new(origin, What::Referrers(subject), caller)
    }

    fn new(origin: &Origin, what: What, caller: &Caller) -> Self {
        Self {
            place: Place {
                origin: origin.clone(),
                what,
            },
            caller: caller.clone(),
        }
    }
}

/// What is known to be absent: what is attached to images apart from all else, so that neither
/// pushes out the other.
pub(super) struct NegativeCache {
    passing: Table,
    attached: Table,
    ttl: Duration,
    attached_ttl: Duration,
}

impl NegativeCache {
    /// Nothing yet, and never more than `entries_max` of either kind. It is believed for `ttl`, or
    /// for `attached_ttl`.
    pub(super) fn new(entries_max: usize, ttl: Duration, attached_ttl: Duration) -> Self {
        Self {
            passing: Table::new(entries_max),
            attached: Table::new(entries_max),
            ttl,
            attached_ttl,
        }
    }

    /// Whether nothing is known to be absent.
    pub(super) fn is_empty(&self) -> bool {
        self.passing.known.is_empty() && self.attached.known.is_empty()
    }

    /// Remembers that `absent` is not there.
    pub(super) fn remember(&mut self, absent: Absent, now: Timestamp) {
        if absent.place.what.is_attached() {
            self.attached.put(absent, now);
        } else if !self.ttl.is_zero() {
            self.passing.put(absent, now);
        }
    }

    /// Whether `absent` was found not to be there, so lately that it is believed without asking.
    pub(super) fn holds(&self, absent: &Absent, now: Timestamp) -> bool {
        let (table, ttl) = if absent.place.what.is_attached() {
            (&self.attached, self.attached_ttl)
        } else {
            (&self.passing, self.ttl)
        };
        table
            .since(absent)
            .is_some_and(|since| assess(since, ttl, now) == Freshness::Fresh)
    }

    /// Whether `absent` is attached content, and was not there when the upstream was last asked.
    pub(super) fn recalls(&self, absent: &Absent) -> bool {
        absent.place.what.is_attached() && self.attached.since(absent).is_some()
    }

    /// Forgets that something is absent, for every caller: it is there.
    pub(super) fn forget(&mut self, place: &Place) {
        let table = if place.what.is_attached() {
            &mut self.attached
        } else {
            &mut self.passing
        };
        table.known.remove(place);
    }

    /// Forgets all that these upstreams have said.
    pub(super) fn forget_upstreams(&mut self, is_meant: impl Fn(&UpstreamId) -> bool) {
        for table in [&mut self.passing, &mut self.attached] {
            let is_another = |place: &Place| !is_meant(place.origin.upstream());
            table.known.retain(|place, _| is_another(place));
        }
    }
}

/// A bounded table of absences; the oldest makes room.
struct Table {
    known: HashMap<Place, Vec<Known>>,
    /// All that was put, each once, also what was forgotten since: so this bounds the table.
    oldest_first: VecDeque<(u64, Place)>,
    entries_max: usize,
    next_number: u64,
}

/// When something was found to be absent, for whom.
struct Known {
    caller: Caller,
    since: Timestamp,
    /// Tells it from another of the same place that was put after it was forgotten.
    number: u64,
}

impl Table {
    fn new(entries_max: usize) -> Self {
        Self {
            known: HashMap::new(),
            oldest_first: VecDeque::new(),
            entries_max,
            next_number: 0,
        }
    }

    fn put(&mut self, absent: Absent, now: Timestamp) {
        if self.entries_max == 0 {
            return;
        }
        let Absent { place, caller } = absent;
        let at_place = self.known.entry(place.clone()).or_default();
        if let Some(known) = at_place.iter_mut().find(|known| known.caller == caller) {
            known.since = now;
            return;
        }
        let number = self.next_number;
        self.next_number += 1;
        at_place.push(Known {
            caller,
            since: now,
            number,
        });
        self.oldest_first.push_back((number, place));
        while self.oldest_first.len() > self.entries_max {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some((number, place)) = self.oldest_first.pop_front() else {
            return;
        };
        if let Some(at_place) = self.known.get_mut(&place) {
            at_place.retain(|known| known.number != number);
            if at_place.is_empty() {
                self.known.remove(&place);
            }
        }
    }

    fn since(&self, absent: &Absent) -> Option<Timestamp> {
        let at_place = self.known.get(&absent.place)?;
        let known = at_place
            .iter()
            .find(|known| known.caller == absent.caller)?;
        Some(known.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CallerId, Repository};

    const AT: fn(u64) -> Timestamp = Timestamp::from_millis;

    fn absent(tag: &str) -> Absent {
        absent_for(tag, &Caller::Anonymous)
    }

    fn absent_for(tag: &str, caller: &Caller) -> Absent {
        let origin = Origin::new(
            UpstreamId::parse("ghcr.io").unwrap(),
            Repository::parse("library/app").unwrap(),
        );
        Absent::tag(&origin, &Tag::parse(tag).unwrap(), caller)
    }

    fn negative(entries_max: usize) -> NegativeCache {
        let (ttl, attached_ttl) = (Duration::from_millis(100), Duration::from_millis(10));
        NegativeCache::new(entries_max, ttl, attached_ttl)
    }

    fn signature(fill: char) -> Absent {
        absent(&format!("sha256-{}.sig", fill.to_string().repeat(64)))
    }

    #[test]
    fn an_absence_ends_at_the_exact_instant() {
        let mut negative = negative(8);
        negative.remember(absent("a"), AT(1_000));
        assert!(negative.holds(&absent("a"), AT(1_099)));
        assert!(!negative.holds(&absent("a"), AT(1_100)));
        assert!(!negative.holds(&absent("b"), AT(1_000)));
        // The clock was set back: nothing is known of its age.
        assert!(!negative.holds(&absent("a"), AT(999)));
        let mut forgetful = NegativeCache::new(8, Duration::ZERO, Duration::ZERO);
        forgetful.remember(absent("b"), AT(1_000));
        assert!(!forgetful.holds(&absent("b"), AT(1_000)));
    }

    #[test]
    fn what_is_attached_is_believed_for_less_and_recalled_for_longer() {
        let mut negative = negative(8);
        negative.remember(absent("a"), AT(1_000));
        negative.remember(signature('1'), AT(1_000));
        assert!(negative.holds(&signature('1'), AT(1_009)));
        assert!(!negative.holds(&signature('1'), AT(1_010)));
        assert!(negative.recalls(&signature('1')));
        assert!(!negative.recalls(&signature('2')));
        assert!(!negative.recalls(&absent("a")));
        negative.forget(&signature('1').place);
        assert!(!negative.recalls(&signature('1')));
    }

    #[test]
    fn what_is_forgotten_is_forgotten_for_every_caller() {
        let mut negative = negative(8);
        let somebody = Caller::Identified(CallerId::new([1; 32]));
        for caller in [&Caller::Anonymous, &somebody] {
            assert!(!negative.holds(&absent_for("a", caller), AT(0)));
            negative.remember(absent_for("a", caller), AT(0));
        }
        negative.remember(absent("b"), AT(0));
        negative.forget(&absent("a").place);
        for caller in [&Caller::Anonymous, &somebody] {
            assert!(!negative.holds(&absent_for("a", caller), AT(0)));
        }
        assert!(negative.holds(&absent("b"), AT(0)));
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut negative = negative(2);
        for tag in ["a", "b", "a", "c"] {
            negative.remember(absent(tag), AT(0));
        }
        let held: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .filter(|tag| negative.holds(&absent(tag), AT(0)))
            .collect();
        assert_eq!(held, ["b", "c"]);
        // Neither what is attached nor what was forgotten makes it grow.
        for n in 0..10 {
            negative.remember(signature(char::from(b'0' + n)), AT(0));
            negative.remember(absent("d"), AT(0));
            negative.forget(&absent("d").place);
        }
        for table in [&negative.passing, &negative.attached] {
            assert!(table.oldest_first.len() <= 2 && table.known.len() <= 2);
        }
        assert!(negative.recalls(&signature('9')));
        negative.remember(absent("d"), AT(0));
        assert!(negative.holds(&absent("d"), AT(0)));
    }
}
