//! Leaving alone who asks to be left alone (429, RFC 6585, section 4), and who cannot be reached.
//!
//! Limits are counted by whoever sets them for each client and kind of request, so that is what a
//! back-off is kept by. When its time is up, one question goes out as a trial, and all others wait
//! for what becomes of it.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::{backed_off, jitter};
use super::config::{BACKOFF_FIRST, BACKOFF_MAX, BACKOFFS_MAX, RETRY_AFTER_MAX, TRIAL_WAIT};

/// With whose credentials a question is asked: for tables and messages, without anything secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct CredentialId(Option<Arc<str>>);

impl CredentialId {
    /// With nobody's.
    pub(super) const ANONYMOUS: Self = Self(None);

    /// With those that the configuration has by this name.
    pub(super) fn named(name: Arc<str>) -> Self {
        Self(Some(name))
    }
}

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("anonymous"))
    }
}

/// What registries limit separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Class {
    /// What a tag names, and whether a manifest is there: by HEAD, which Docker Hub does not count.
    ManifestHead,
    /// Manifests themselves.
    Manifest,
    /// Blobs, by whatever method.
    Blob,
    /// Lists.
    Other,
}

/// What is limited by itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct BackoffKey {
    pub(super) class: Class,
    pub(super) credential: CredentialId,
}

/// Back-offs, each by what it is kept by.
#[derive(Debug)]
pub(super) struct Backoffs<K>(Mutex<Table<K>>);

/// Leave for one question. Dropped without an answer, it says nothing.
pub(super) struct Pass<'a, K: Clone + Eq + Hash> {
    backoffs: &'a Backoffs<K>,
    pub(super) key: K,
    /// When it was given, and the question asked.
    pub(super) begun: Instant,
    is_trial: bool,
}

impl<K> Default for Backoffs<K> {
    fn default() -> Self {
        Self(Mutex::new(Table(HashMap::new())))
    }
}

impl<K: Clone + Eq + Hash> Backoffs<K> {
    /// Whether a question may go out.
    ///
    /// # Errors
    ///
    /// How long it had better wait.
    pub(super) fn leave(&self, key: K) -> Result<Pass<'_, K>, Duration> {
        let begun = Instant::now();
        let leave = self.table().leave(&key, begun)?;
        Ok(Pass {
            backoffs: self,
            key,
            begun,
            is_trial: leave == Leave::Trial,
        })
    }

    /// How long a question had better wait that is asked now; nothing where it may go out, be it as
    /// a trial.
    pub(super) fn wait(&self, key: &K) -> Option<Duration> {
        self.table().wait(key, Instant::now())
    }

    fn table(&self) -> MutexGuard<'_, Table<K>> {
        // Nothing is half done in it when a thread panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> Pass<'_, K> {
    /// The question was refused, or could not be asked; how long not to ask the next.
    pub(super) fn refused(mut self, retry_after: Option<Duration>) -> Duration {
        self.is_trial = false;
        let times = (self.begun, Instant::now());
        let mut table = self.backoffs.table();
        table.refused(&self.key, retry_after, times, jitter())
    }

    /// The question was answered.
    pub(super) fn answered(self) {
        self.backoffs.table().answered(&self.key, self.begun);
        // Dropped here, so that a trial is over in any case: where another was refused since this
        // one left, the limit stays, and with it the need for a next trial.
    }
}

impl<K: Clone + Eq + Hash> Drop for Pass<'_, K> {
    fn drop(&mut self) {
        if self.is_trial {
            self.backoffs.table().give_up_trial(&self.key);
        }
    }
}

/// The bookkeeping, without clock and lock.
#[derive(Debug)]
struct Table<K>(HashMap<K, Backoff>);

#[derive(Debug)]
struct Backoff {
    /// Refusals in a row.
    refusals: u32,
    /// When the last of them came: what was asked earlier says nothing new.
    refused_at: Instant,
    until: Instant,
    /// A trial is out.
    on_trial: bool,
}

/// How a question may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    Free,
    /// As the one that finds out. Ends with [`Table::refused`], [`Table::answered`] or
    /// [`Table::give_up_trial`].
    Trial,
}

impl<K: Clone + Eq + Hash> Table<K> {
    /// Whether a question may go out; otherwise, how long it had better wait.
    fn leave(&mut self, key: &K, now: Instant) -> Result<Leave, Duration> {
        if let Some(wait) = self.wait(key, now) {
            return Err(wait);
        }
        let Some(backoff) = self.0.get_mut(key) else {
            return Ok(Leave::Free);
        };
        backoff.on_trial = true;
        Ok(Leave::Trial)
    }

    fn wait(&self, key: &K, now: Instant) -> Option<Duration> {
        let backoff = self.0.get(key)?;
        let remaining = backoff.until.saturating_duration_since(now);
        if remaining.is_zero() {
            return backoff.on_trial.then_some(TRIAL_WAIT);
        }
        Some(remaining)
    }

    /// Takes note of a refusal of what was asked at `begun`; how long to leave it alone. `jitter`
    /// is from -1 to 1.
    fn refused(
        &mut self,
        key: &K,
        retry_after: Option<Duration>,
        (begun, now): (Instant, Instant),
        jitter: f64,
    ) -> Duration {
        self.make_room(key, now);
        let backoff = self.0.entry(key.clone()).or_insert(Backoff {
            refusals: 0,
            refused_at: now,
            until: now,
            on_trial: false,
        });
        // Those that left together are refused together, which is one refusal.
        if backoff.refusals == 0 || begun >= backoff.refused_at {
            backoff.refusals = backoff.refusals.saturating_add(1);
            backoff.refused_at = now;
            backoff.on_trial = false;
        }
        // Who says "now" has just said "not now".
        let asked_for = retry_after.filter(|wait| !wait.is_zero());
        let wait = match asked_for {
            Some(wait) => wait.min(RETRY_AFTER_MAX),
            None => backed_off(BACKOFF_FIRST, BACKOFF_MAX, backoff.refusals - 1, jitter),
        };
        backoff.until = backoff.until.max(now + wait);
        backoff.until - now
    }

    /// Takes note of an answer to what was asked at `begun`.
    fn answered(&mut self, key: &K, begun: Instant) {
        if self
            .0
            .get(key)
            .is_some_and(|backoff| begun >= backoff.until)
        {
            self.0.remove(key);
        }
    }

    /// Takes note that a trial ended without an answer: the next question is one.
    fn give_up_trial(&mut self, key: &K) {
        if let Some(backoff) = self.0.get_mut(key) {
            backoff.on_trial = false;
        }
    }

    /// Those whose time is up are the cheapest to forget.
    fn make_room(&mut self, key: &K, now: Instant) {
        if self.0.len() < BACKOFFS_MAX || self.0.contains_key(key) {
            return;
        }
        self.0.retain(|_, backoff| backoff.until > now);
        if self.0.len() >= BACKOFFS_MAX {
            let first = self.0.iter().min_by_key(|(_, backoff)| backoff.until);
            if let Some(key) = first.map(|(key, _)| key.clone()) {
                self.0.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(class: Class) -> BackoffKey {
        BackoffKey {
            class,
            credential: CredentialId::ANONYMOUS,
        }
    }

    fn refuse(backoffs: &mut Table<BackoffKey>, retry_after: Option<u64>) -> Duration {
        let now = Instant::now();
        let retry_after = retry_after.map(Duration::from_secs);
        backoffs.refused(&key(Class::Blob), retry_after, (now, now), 0.0)
    }

    fn leave(backoffs: &mut Table<BackoffKey>) -> Result<Leave, Duration> {
        backoffs.leave(&key(Class::Blob), Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn waits_are_what_was_asked_for_or_our_own() {
        let hour = 3600;
        let mut asked = Table(HashMap::new());
        for (retry_after, wait) in [
            (Some(7), 7),
            (Some(1), 7),
            (Some(u64::MAX), hour),
            (None, hour),
        ] {
            let waited = refuse(&mut asked, retry_after);
            assert_eq!(waited, Duration::from_secs(wait), "{retry_after:?}");
        }
        let mut own = Table(HashMap::new());
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            let retry_after = (wait == 4).then_some(0);
            let waited = refuse(&mut own, retry_after);
            assert_eq!(waited, Duration::from_secs(wait));
            tokio::time::advance(waited).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_goes_out_when_the_time_is_up_and_the_others_wait_for_it() {
        let mut backoffs = Table(HashMap::new());
        assert_eq!(leave(&mut backoffs), Ok(Leave::Free));
        refuse(&mut backoffs, Some(5));
        tokio::time::advance(2 * SECOND).await;
        assert_eq!(leave(&mut backoffs), Err(3 * SECOND));
        // Each kind is limited by itself.
        let other = backoffs.leave(&key(Class::Manifest), Instant::now());
        assert_eq!(other, Ok(Leave::Free));
        tokio::time::advance(3 * SECOND).await;
        assert_eq!(leave(&mut backoffs), Ok(Leave::Trial));
        assert_eq!(leave(&mut backoffs), Err(TRIAL_WAIT));
        // One that was dropped is followed by another …
        backoffs.give_up_trial(&key(Class::Blob));
        assert_eq!(leave(&mut backoffs), Ok(Leave::Trial));
        // … one that is refused makes the wait longer …
        assert_eq!(refuse(&mut backoffs, None), 2 * SECOND);
        assert_eq!(leave(&mut backoffs), Err(2 * SECOND));
        tokio::time::advance(2 * SECOND).await;
        assert_eq!(leave(&mut backoffs), Ok(Leave::Trial));
        // … and one that is answered ends it.
        backoffs.answered(&key(Class::Blob), Instant::now());
        assert_eq!(leave(&mut backoffs), Ok(Leave::Free));
        assert_eq!(refuse(&mut backoffs, None), SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn what_left_together_counts_once() {
        let mut backoffs = Table(HashMap::new());
        let (key, begun) = (key(Class::Blob), Instant::now());
        tokio::time::advance(SECOND).await;
        for _ in 0..8 {
            let times = (begun, Instant::now());
            assert_eq!(backoffs.refused(&key, None, times, 0.0), SECOND);
        }
        // One of them that was answered says nothing of the next.
        backoffs.answered(&key, begun);
        assert_eq!(leave(&mut backoffs), Err(SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_is_answered_ends_also_where_another_was_refused_meanwhile() {
        let backoffs = Backoffs::default();
        let leave = || backoffs.leave(key(Class::Blob));
        let (Ok(first), Ok(slow)) = (leave(), leave()) else {
            panic!("nothing is limited yet");
        };
        tokio::time::advance(SECOND).await;
        tokio::time::advance(first.refused(Some(SECOND))).await;
        let Ok(trial) = leave() else {
            panic!("its time is up");
        };
        // From before the trial, but it makes the wait longer.
        assert_eq!(slow.refused(Some(SECOND)), SECOND);
        trial.answered();
        assert_eq!(leave().err(), Some(SECOND));
        tokio::time::advance(SECOND).await;
        let Ok(trial) = leave() else {
            panic!("no trial is out, and its time is up");
        };
        trial.answered();
        assert!(leave().is_ok_and(|pass| !pass.is_trial));
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded() {
        let mut backoffs = Table(HashMap::new());
        for number in 0..=BACKOFFS_MAX {
            let key = BackoffKey {
                class: Class::Blob,
                credential: CredentialId(Some(number.to_string().into())),
            };
            let now = Instant::now();
            backoffs.refused(&key, None, (now, now), 0.0);
            assert!(backoffs.0.len() <= BACKOFFS_MAX);
        }
    }
}
