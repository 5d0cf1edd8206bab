//! Wall time as the cache sees it. The only place that reads the system's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in wall time, in whole milliseconds since 1970: what a store keeps of it is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// A time before any other: that of something which has not happened.
    pub const NEVER: Self = Self(0);

    /// The time `millis` milliseconds after the start of 1970.
    pub fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the start of 1970.
    pub fn as_millis(self) -> u64 {
        self.0
    }

    /// How much later `self` is than `earlier`; zero where the clock was set back in between.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This time, `duration` later.
    pub fn after(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// This time, `duration` earlier.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(millis))
    }
}

/// Tells the time. Injected wherever freshness is decided, so that tests stand at its exact edge.
pub trait Clock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that the ban points to"
    )]
    fn now(&self) -> Timestamp {
        // A clock before 1970 is a machine without a clock: everything is then as old as can be.
        let elapsed = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::default().after(elapsed)
    }
}
