//! How often and how soon a body that broke off is asked for again. Pure, but for the clock.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use super::CacheError;
use crate::{Limits, UpstreamError};

/// What is left of the patience with a body that breaks off again and again.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Bytes that came since it last broke off.
    progress: u64,
    /// Resumptions in a row that brought too little.
    barren: u32,
    /// When the first of them began.
    since: Option<Instant>,
}

impl Patience {
    /// Bytes came that were of use.
    pub(super) fn progressed(&mut self, bytes: u64) {
        self.progress += bytes;
    }

    /// How long to wait before it is asked for again; `None` where it is given up.
    pub(super) fn after(&mut self, error: &CacheError, limits: &Limits) -> Option<Duration> {
        if self.progress >= limits.resume_progress_bytes {
            self.barren = 0;
            self.since = None;
        }
        self.progress = 0;
        let since = *self.since.get_or_insert_with(Instant::now);
        let asked = asked_delay(error)?;
        if self.barren >= limits.resumes_max
            || since.elapsed() >= limits.resume_time_max
            || asked > limits.resume_delay_max
        {
            return None;
        }
        // Without a word from the upstream, the first goes at once: most cuts are one connection's.
        let steps = match error {
            CacheError::Upstream(UpstreamError::RateLimited { .. }) => self.barren + 1,
            _ => self.barren,
        };
        self.barren += 1;
        let random = RandomState::new().build_hasher().finish();
        Some(asked.max(back_off(steps, random, limits)))
    }
}

/// How long the upstream itself asks to be left alone; `None` where asking again is no use.
fn asked_delay(error: &CacheError) -> Option<Duration> {
    match error {
        CacheError::Upstream(UpstreamError::RateLimited { retry_after }) => {
            Some(retry_after.unwrap_or_default())
        }
        CacheError::Upstream(error) if error.is_retryable() => Some(Duration::ZERO),
        _ => None,
    }
}

/// None at first, then twice as long each time, up to a limit; between half of that and all, by
/// `random`, so that what broke off together does not come back together.
fn back_off(steps: u32, random: u64, limits: &Limits) -> Duration {
    let Some(doublings) = steps.checked_sub(1) else {
        return Duration::ZERO;
    };
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    let whole = limits.resume_delay_min.saturating_mul(factor);
    let whole = whole.min(limits.resume_delay_max);
    let half = whole / 2;
    half + half.mul_f64((random >> 11) as f64 / (1_u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            resumes_max: 5,
            resume_progress_bytes: 100,
            resume_delay_min: Duration::from_millis(250),
            resume_delay_max: Duration::from_secs(1),
            resume_time_max: Duration::from_secs(60),
            ..Limits::default()
        }
    }

    fn cut() -> CacheError {
        let what = "cut".to_owned();
        UpstreamError::Unavailable { what, source: None }.into()
    }

    #[test]
    fn delays_double_up_to_a_limit_and_are_spread() {
        let limits = limits();
        for (steps, whole) in [(0, 0), (1, 250), (2, 500), (3, 1000), (4, 1000), (99, 1000)] {
            let whole = Duration::from_millis(whole);
            assert_eq!(back_off(steps, 0, &limits), whole / 2, "{steps}");
            let most = back_off(steps, u64::MAX, &limits);
            assert!(
                most <= whole && most >= whole.mul_f64(0.99),
                "{steps}: {most:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_given_up_after_resumptions_that_bring_nothing() {
        let limits = limits();
        let mut patience = Patience::default();
        for round in 0..3 {
            // What came before the first cut counts for nothing, and what is too little neither.
            for attempt in 0..limits.resumes_max {
                let delay = patience.after(&cut(), &limits);
                assert_eq!(
                    delay == Some(Duration::ZERO),
                    attempt == 0,
                    "{round} {attempt}"
                );
                patience.progressed(limits.resume_progress_bytes - 1);
            }
            assert_eq!(patience.after(&cut(), &limits), None, "{round}");
            patience.progressed(limits.resume_progress_bytes);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_given_up_after_a_time_without_progress() {
        let limits = limits();
        let mut patience = Patience::default();
        assert!(patience.after(&cut(), &limits).is_some());
        tokio::time::advance(limits.resume_time_max).await;
        assert_eq!(patience.after(&cut(), &limits), None);
        patience.progressed(limits.resume_progress_bytes);
        assert_eq!(patience.after(&cut(), &limits), Some(Duration::ZERO));
    }

    #[test]
    fn an_upstream_that_asks_for_time_gets_it_where_it_is_short() {
        let limits = limits();
        let limited = |seconds: Option<u64>| {
            let retry_after = seconds.map(Duration::from_secs);
            CacheError::from(UpstreamError::RateLimited { retry_after })
        };
        let delay = |error| Patience::default().after(&error, &limits);
        assert_eq!(delay(limited(Some(1))), Some(Duration::from_secs(1)));
        assert_eq!(delay(limited(Some(2))), None);
        assert!(delay(limited(None)).is_some_and(|delay| delay >= limits.resume_delay_min / 2));
        assert_eq!(delay(CacheError::NotFound), None);
        let refused = UpstreamError::Unauthorized { status: 401 };
        assert_eq!(delay(refused.into()), None);
    }
}
