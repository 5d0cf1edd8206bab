//! What upstreams last said of tags: for people, who want to know why something was served.
//!
//! Bounded, and gone with the process: what a store has recorded of a tag then stands in.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::CacheError;
use crate::{Origin, Tag, Timestamp, UpstreamError};

/// What an upstream said when it was last asked what a tag names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagAnswer {
    /// When.
    pub at: Timestamp,
    /// Which endpoint said it ([`Answered::endpoint`](crate::Answered::endpoint)), where one did.
    pub endpoint: Option<Arc<str>>,
    /// What.
    pub said: TagSaid,
    /// The error in words, without secrets, where there was one.
    pub error: Option<String>,
}

/// What an upstream said of a tag, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TagSaid {
    /// What it names, which nobody had known.
    New,
    /// It names what it named before.
    Unchanged,
    /// It names something else.
    Moved,
    /// There is no such tag.
    Absent,
    /// Nothing, in time.
    Timeout,
    /// To be left alone.
    RateLimited,
    /// Nothing: it cannot be reached, or cannot serve.
    Unavailable,
    /// That we have no access.
    Unauthorized,
    /// What no registry may say.
    Protocol,
    /// Nothing that counts: the mirror itself gave up.
    GivenUp,
}

impl TagSaid {
    /// A token for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Unchanged => "unchanged",
            Self::Moved => "moved",
            Self::Absent => "absent",
            Self::Timeout => "timeout",
            Self::RateLimited => "rate-limited",
            Self::Unavailable => "unavailable",
            Self::Unauthorized => "unauthorized",
            Self::Protocol => "protocol-error",
            Self::GivenUp => "given-up",
        }
    }

    pub(super) fn of(error: &CacheError) -> Self {
        match error {
            CacheError::NotFound | CacheError::NotFoundStale { .. } => Self::Absent,
            CacheError::Upstream(error) => match error {
                UpstreamError::Timeout { .. } => Self::Timeout,
                UpstreamError::RateLimited { .. } => Self::RateLimited,
                UpstreamError::Unavailable { .. } => Self::Unavailable,
                UpstreamError::Unauthorized { .. } => Self::Unauthorized,
                UpstreamError::Protocol { .. } | UpstreamError::Content(_) => Self::Protocol,
            },
            _ => Self::GivenUp,
        }
    }
}

/// The last answer of each tag, of those that were asked for last.
pub(super) struct Answers {
    table: Mutex<Table>,
    entries_max: usize,
}

#[derive(Default)]
struct Table {
    answers: HashMap<(Origin, Tag), (u64, TagAnswer)>,
    /// All of them, by when they came.
    oldest_first: BTreeMap<u64, (Origin, Tag)>,
    next_number: u64,
}

impl Answers {
    /// None yet, and never more than `entries_max`.
    pub(super) fn new(entries_max: usize) -> Self {
        Self {
            table: Mutex::default(),
            entries_max,
        }
    }

    /// Takes note of an answer, in place of the one before it; the oldest of all makes room.
    pub(super) fn note(&self, origin: &Origin, tag: &Tag, answer: TagAnswer) {
        let mut table = self.lock();
        let key = (origin.clone(), tag.clone());
        let number = table.next_number;
        table.next_number += 1;
        if let Some((before, _)) = table.answers.insert(key.clone(), (number, answer)) {
            table.oldest_first.remove(&before);
        }
        table.oldest_first.insert(number, key);
        while table.oldest_first.len() > self.entries_max {
            let oldest = table.oldest_first.pop_first();
            oldest.map(|(_, key)| table.answers.remove(&key));
        }
    }

    /// The last answer about a tag.
    pub(super) fn last(&self, origin: &Origin, tag: &Tag) -> Option<TagAnswer> {
        let key = (origin.clone(), tag.clone());
        let table = self.lock();
        table.answers.get(&key).map(|(_, answer)| answer.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it holds the lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Repository, UpstreamId};

    #[test]
    fn the_oldest_answer_makes_room() {
        let origin = Origin::new(
            UpstreamId::parse("ghcr.io").unwrap(),
            Repository::parse("library/app").unwrap(),
        );
        let answers = Answers::new(2);
        let tag = |text| Tag::parse(text).unwrap();
        for (number, text) in ["a", "b", "a", "c", "c"].into_iter().enumerate() {
            let answer = TagAnswer {
                at: Timestamp::from_millis(number as u64),
                endpoint: None,
                said: TagSaid::Unchanged,
                error: None,
            };
            answers.note(&origin, &tag(text), answer);
        }
        let last = |text| {
            answers
                .last(&origin, &tag(text))
                .map(|answer| answer.at.as_millis())
        };
        assert_eq!([last("a"), last("b"), last("c")], [Some(2), None, Some(4)]);
        let table = answers.lock();
        assert_eq!((table.answers.len(), table.oldest_first.len()), (2, 2));
    }
}
