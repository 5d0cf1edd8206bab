//! Whether an endpoint is asked or rested: a circuit breaker, without clock, timer or network.
//!
//! It learns from the answers to real questions ([`Sign`]) and from probes. While it is open,
//! nothing but probes is sent, and only a probe closes it: no client pays for finding out. How long
//! the next probe waits grows with every failure that no real answer came after, so that an
//! endpoint that answers probes and nothing else is rested for longer each time.

use std::time::Duration;

use tokio::time::Instant;

use super::config::{ILL_MAX, ProbeSchedule};

/// What an answer, or its absence, says of the endpoint that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It answered, and whatever it said is its business.
    Well,
    /// It says that it cannot serve (5xx), or broke off: one thing that does not work, or all.
    Ill,
    /// No connection, or no answer in time.
    Dead,
}

/// What is known of an endpoint's health.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    state: State,
    /// Probes since the last real answer, which is what the wait for the next one grows by.
    probes: u32,
    /// When the last probe closed it: what was asked earlier says nothing new.
    closed_at: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Closed {
        /// Signs of illness in a row.
        ill: u32,
    },
    Open(Rest),
}

impl Default for State {
    fn default() -> Self {
        Self::Closed { ill: 0 }
    }
}

/// Why and since when an endpoint is not asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) since: Instant,
    pub(super) why: String,
}

impl Breaker {
    /// The reason not to ask, if there is one.
    pub(super) fn rest(&self) -> Option<&Rest> {
        match &self.state {
            State::Closed { .. } => None,
            State::Open(rest) => Some(rest),
        }
    }

    /// When the last probe closed it, if any did.
    pub(super) fn closed_at(&self) -> Option<Instant> {
        self.closed_at
    }

    /// Takes note of a question that was asked at `begun`; whether that opens the breaker, so that
    /// a probe is due.
    pub(super) fn note(&mut self, sign: Sign, why: &str, begun: Instant, now: Instant) -> bool {
        let State::Closed { ill } = &mut self.state else {
            // From before it opened: the probe under way knows better.
            return false;
        };
        if sign == Sign::Well {
            *ill = 0;
            self.probes = 0;
            return false;
        }
        if self.closed_at.is_some_and(|closed_at| begun < closed_at) {
            return false;
        }
        *ill += 1;
        let opens = sign == Sign::Dead || *ill >= ILL_MAX;
        if opens {
            self.state = State::Open(Rest {
                since: now,
                why: why.to_owned(),
            });
        }
        opens
    }

    /// How long the next probe waits. `jitter` is from -1 to 1.
    pub(super) fn next_probe(&mut self, schedule: &ProbeSchedule, jitter: f64) -> Duration {
        let earlier = self.probes;
        self.probes = self.probes.saturating_add(1);
        match earlier.checked_sub(1) {
            // One slow answer need not mean anything.
            None => Duration::ZERO,
            Some(doublings) => backed_off(schedule.first, schedule.max, doublings, jitter),
        }
    }

    /// Takes note that a probe found the endpoint well. Tells since when it was rested.
    pub(super) fn close(&mut self, now: Instant) -> Option<Instant> {
        let State::Open(rest) = std::mem::take(&mut self.state) else {
            return None;
        };
        self.closed_at = Some(now);
        Some(rest.since)
    }
}

/// The share by which a wait is made longer or shorter, so that those who wait for the same thing
/// do not come back together.
const JITTER: f64 = 0.2;

/// A share of [`JITTER`], from -1 to 1.
pub(super) fn jitter() -> f64 {
    fastrand::f64().mul_add(2.0, -1.0)
}

/// `first`, doubled so many times, but no more than `max`; give or take some of it.
pub(super) fn backed_off(first: Duration, max: Duration, doublings: u32, jitter: f64) -> Duration {
    let factor = 2_u32.saturating_pow(doublings);
    let wait = first.saturating_mul(factor).min(max);
    let spread = wait.as_secs_f64() * (1.0 + JITTER * jitter);
    Duration::try_from_secs_f64(spread).unwrap_or(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn delays(breaker: &mut Breaker, count: u32, jitter: f64) -> Vec<Duration> {
        let schedule = ProbeSchedule::default();
        (0..count)
            .map(|_| breaker.next_probe(&schedule, jitter))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn one_silence_opens_and_one_failure_does_not() {
        for (signs, opens) in [
            (&[Sign::Dead][..], true),
            (&[Sign::Well, Sign::Dead], true),
            (&[Sign::Ill; ILL_MAX as usize - 1], false),
            (&[Sign::Ill; ILL_MAX as usize], true),
            (
                &[
                    Sign::Ill,
                    Sign::Ill,
                    Sign::Ill,
                    Sign::Ill,
                    Sign::Well,
                    Sign::Ill,
                ],
                false,
            ),
        ] {
            let mut breaker = Breaker::default();
            let mut opened = false;
            for sign in signs {
                let now = Instant::now();
                opened = breaker.note(*sign, "why", now, now);
            }
            assert_eq!(opened, opens, "{signs:?}");
            assert_eq!(breaker.rest().is_some(), opens, "{signs:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_reason_is_kept_and_only_a_probe_closes() {
        let mut breaker = Breaker::default();
        let began = Instant::now();
        assert!(breaker.note(Sign::Dead, "no answer", began, began));
        tokio::time::advance(SECOND).await;
        let now = Instant::now();
        for sign in [Sign::Well, Sign::Ill, Sign::Dead] {
            assert!(!breaker.note(sign, "late", began, now), "{sign:?}");
            let rest = breaker.rest().unwrap();
            assert_eq!((rest.since, rest.why.as_str()), (began, "no answer"));
        }
        assert_eq!(breaker.close(now), Some(began));
        assert!(breaker.rest().is_none());
        assert_eq!(breaker.close(now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_before_the_probe_says_nothing_new() {
        let mut breaker = Breaker::default();
        let began = Instant::now();
        assert!(breaker.note(Sign::Dead, "why", began, began));
        tokio::time::advance(SECOND).await;
        breaker.close(Instant::now());
        assert!(!breaker.note(Sign::Dead, "why", began, Instant::now()));
        assert!(breaker.rest().is_none());
        let now = Instant::now();
        assert!(breaker.note(Sign::Dead, "why", now, now));
    }

    #[tokio::test(start_paused = true)]
    async fn probes_wait_for_longer_until_a_real_answer_comes() {
        let mut breaker = Breaker::default();
        let seconds = [0, 1, 2, 4, 8, 16, 30, 30].map(Duration::from_secs);
        assert_eq!(delays(&mut breaker, 8, 0.0), seconds);
        // A probe that finds it well is no real answer …
        let now = Instant::now();
        breaker.note(Sign::Dead, "why", now, now);
        breaker.close(now);
        breaker.note(Sign::Dead, "why", now, now);
        assert_eq!(delays(&mut breaker, 1, 0.0), [Duration::from_secs(30)]);
        // … and this is one.
        breaker.close(now);
        breaker.note(Sign::Well, "", now, now);
        assert_eq!(delays(&mut breaker, 2, 0.0), seconds[..2]);
    }

    #[test]
    fn waits_are_spread_and_bounded() {
        let mut breaker = Breaker::default();
        let shorter = delays(&mut breaker, 3, -1.0);
        let [zero, first, second] = shorter[..] else {
            panic!("three");
        };
        assert_eq!(zero, Duration::ZERO);
        assert_eq!(first, Duration::from_millis(800));
        assert_eq!(second, Duration::from_millis(1600));
        let max = Duration::from_secs(60);
        assert_eq!(backed_off(SECOND, max, u32::MAX, 1.0), max.mul_f64(1.2));
    }
}
