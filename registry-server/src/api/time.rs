//! Points in time, as the API writes them.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use registry_core::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A point in time, in whole seconds: `2026-01-31T23:59:59Z` (RFC 3339).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u64);

impl Time {
    /// The same as a time of the cache.
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_millis(self.0.saturating_mul(1_000))
    }
}

impl From<Timestamp> for Time {
    fn from(at: Timestamp) -> Self {
        Self(at.as_millis() / 1_000)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What no calendar has is written as the last that one has.
        const LAST_SECOND: u64 = 253_402_300_799;
        let at = UNIX_EPOCH + Duration::from_secs(self.0.min(LAST_SECOND));
        fmt::Display::fmt(&humantime::format_rfc3339_seconds(at), f)
    }
}

impl FromStr for Time {
    type Err = humantime::TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let at = humantime::parse_rfc3339_weak(text)?;
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self(since.as_secs()))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_769_903_999_999, "2026-01-31T23:59:59Z"),
        ] {
            let time = Time::from(Timestamp::from_millis(millis));
            assert_eq!(time.to_string(), text);
            assert_eq!(text.parse(), Ok(time));
        }
        let last = Time::from(Timestamp::from_millis(u64::MAX));
        assert_eq!(last.to_string(), "9999-12-31T23:59:59Z");
        assert!("yesterday".parse::<Time>().is_err());
    }
}
