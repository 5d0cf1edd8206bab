//! An explanation in sentences, the most important first.

use std::fmt::Write as _;
use std::time::Duration;

use super::super::CacheError;
use super::super::answers::{TagAnswer, TagSaid};
use super::super::status::StaleReason;
use super::explain::{Explanation, NextPull, Verdict};
use super::survey::ImageDetail;
use crate::{Condition, LinkTarget, Reference, Removal, RemovalReason};

impl Explanation {
    /// The same for a person to read: one sentence each, what matters most first.
    pub fn sentences(&self) -> Vec<String> {
        let mut sentences = vec![self.verdict_in_words()];
        sentences.push(self.next_pull_in_words());
        if let Some(image) = &self.image {
            sentences.push(self.origin_in_words(image));
        }
        sentences.extend(self.freshness_in_words());
        if let Some(answer) = &self.last_answer {
            sentences.push(self.answer_in_words(answer));
        }
        sentences.extend(self.condition_in_words());
        if let Some(removal) = &self.removal {
            sentences.push(self.removal_in_words(removal));
        }
        if self
            .image
            .as_ref()
            .is_some_and(|image| image.summary.pinned)
        {
            sentences.push("It is pinned, and so is never evicted.".to_owned());
        }
        sentences
    }

    fn verdict_in_words(&self) -> String {
        let platforms = self.image.iter().flat_map(|image| &image.summary.platforms);
        let platforms: Vec<_> = platforms.map(ToString::to_string).collect();
        match self.verdict {
            Verdict::Cached if platforms.is_empty() => "All of it is cached.".to_owned(),
            Verdict::Cached => format!("It is cached for {}.", platforms.join(", ")),
            Verdict::Partial => {
                let count = self.missing.len();
                format!(
                    "It is cached in part: {} missing.",
                    counted(count, "part is", "parts are")
                )
            }
            Verdict::Filling => {
                let came: u64 = self.filling.iter().map(|filling| filling.bytes).sum();
                let count = self.filling.len();
                let parts = counted(count, "part of it is", "parts of it are");
                format!("{parts} being fetched, and {came} bytes have come.")
            }
            Verdict::Removed => "It was cached, and was removed.".to_owned(),
            Verdict::Absent => "It is not cached, and was not as far back as is known.".to_owned(),
            Verdict::UnknownUpstream => format!(
                "No upstream {} is configured, so nothing is fetched from there.",
                self.origin.upstream()
            ),
        }
    }

    fn next_pull_in_words(&self) -> String {
        let upstream = self.origin.upstream();
        match &self.next_pull {
            NextPull::Hit => format!("The next pull is served without asking {upstream}."),
            NextPull::Revalidate => format!(
                "The next pull asks {upstream} once whether it is right still, and serves what is here."
            ),
            NextPull::Stale(reason) => {
                format!(
                    "The next pull is served what is here, marked stale: {}.",
                    why(*reason)
                )
            }
            NextPull::Fetch if self.image.is_some() => {
                format!("The next pull fetches what is missing from {upstream}.")
            }
            NextPull::Fetch => format!("The next pull fetches it from {upstream}."),
            NextPull::Fail(CacheError::Upstream(error)) => format!("The next pull fails: {error}."),
            NextPull::Fail(error) => format!("The next pull fails: {error}."),
        }
    }

    fn origin_in_words(&self, image: &ImageDetail) -> String {
        let mut words = "It came".to_owned();
        let endpoint = image.manifests.iter().find_map(|of| of.endpoint.as_ref());
        // Writing to a string does not fail.
        if let Some(endpoint) = endpoint {
            let _ = write!(words, " from {endpoint}");
        }
        if let Some(at) = image.summary.fetched_at {
            let _ = write!(words, " {}", ago(self.at.since(at)));
        }
        match image.summary.accessed_at {
            Some(at) => {
                let _ = write!(words, ", and was last pulled {}.", ago(self.at.since(at)));
            }
            None => words.push('.'),
        }
        words
    }

    fn freshness_in_words(&self) -> Option<String> {
        let policy = self.policy.as_ref()?;
        let Reference::Tag(_) = self.reference else {
            return Some(
                "What a digest names never changes, so it is never asked for again.".to_owned(),
            )
            .filter(|_| self.image.is_some());
        };
        if policy.frozen {
            return Some(
                "The repository is frozen: a tag that is held is never asked for again.".to_owned(),
            );
        }
        let until = self.fresh_until?;
        Some(format!(
            "The tag is fresh for {} more.",
            in_words(until.since(self.at))
        ))
    }

    fn answer_in_words(&self, answer: &TagAnswer) -> String {
        let said = match answer.said {
            TagSaid::New => "told what the tag names",
            TagSaid::Unchanged => "said that the tag is unchanged",
            TagSaid::Moved => "said that the tag has moved",
            TagSaid::Absent => "said that there is no such tag",
            TagSaid::Timeout => "did not answer in time",
            TagSaid::RateLimited => "limited the rate of requests",
            TagSaid::Unavailable => "was unavailable",
            TagSaid::Unauthorized => "granted no access",
            TagSaid::Protocol => "answered what no registry may answer",
            TagSaid::GivenUp => "was not asked to the end",
        };
        let who = answer
            .endpoint
            .as_deref()
            .unwrap_or(self.origin.upstream().as_str());
        let when = ago(self.at.since(answer.at));
        match &answer.error {
            Some(error) => format!("When it was last asked, {when}, {who} {said}: {error}."),
            None => format!("When it was last asked, {when}, {who} {said}."),
        }
    }

    fn condition_in_words(&self) -> Option<String> {
        let upstream = self.origin.upstream();
        if self.silent {
            return Some(format!("{upstream} leaves another question unanswered."));
        }
        let first = [&self.condition, &self.blob_condition];
        match first.into_iter().find(|of| **of != Condition::Ready)? {
            Condition::Ready => None,
            Condition::Resting { elapsed, what } => Some(format!(
                "{upstream} has not been asked for {}: {what}.",
                in_words(*elapsed)
            )),
            Condition::Limited { wait } => Some(format!(
                "{upstream} limits requests, and is asked again in {}.",
                in_words(*wait)
            )),
        }
    }

    fn removal_in_words(&self, removal: &Removal) -> String {
        let what = match removal.target {
            LinkTarget::Blob(_) => "A part of it",
            LinkTarget::Manifest(_) => "It",
        };
        let why = match removal.reason {
            RemovalReason::Size => "evicted, since the budget was used up",
            RemovalReason::Disk => "evicted, since the disk was full but for its reserve",
            RemovalReason::Quota => {
                "evicted, since the budget of its upstream or repository was used up"
            }
            RemovalReason::Idle => "evicted, since nobody had used it for too long",
            RemovalReason::Deleted => "deleted by a person",
            RemovalReason::Damaged => "removed, since it was damaged",
        };
        let when = ago(self.at.since(removal.at));
        match removal.accessed_at {
            Some(at) => format!(
                "{what} was {why}, {when}; it had last been used {} before.",
                in_words(removal.at.since(at))
            ),
            None => format!("{what} was {why}, {when}."),
        }
    }
}

fn why(reason: StaleReason) -> &'static str {
    match reason {
        StaleReason::Timeout => "the upstream does not answer in time",
        StaleReason::RateLimited => "the upstream limits requests",
        StaleReason::Unavailable => "the upstream cannot be asked now",
        StaleReason::Protocol => "the upstream answers what no registry may answer",
        StaleReason::Gone => "the upstream has it no longer",
    }
}

fn counted(count: usize, one: &str, many: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    }
}

fn ago(elapsed: Duration) -> String {
    match elapsed.as_secs() {
        0 => "just now".to_owned(),
        _ => format!("{} ago", in_words(elapsed)),
    }
}

/// A time in its largest unit.
fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    match count {
        1 => format!("1 {unit}"),
        count => format!("{count} {unit}s"),
    }
}
