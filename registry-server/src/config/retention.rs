//! The keys that say how much is kept, for how long, and how often it is checked.

use std::time::Duration;

use registry_core::{Retention, Verification};
use registry_storage::{DiskOptions, Reserve};

use super::layer::parse;
use super::place::{Problems, Written};
use super::values;

/// They, as one layer has them written.
#[derive(Debug, Default)]
pub(super) struct RetentionTexts {
    pub(super) max_size: Option<Written<String>>,
    pub(super) reserve: Option<Written<String>>,
    pub(super) high_watermark: Option<Written<String>>,
    pub(super) low_watermark: Option<Written<String>>,
    pub(super) max_idle: Option<Written<String>>,
    pub(super) verify_every: Option<Written<String>>,
    pub(super) verify_rate: Option<Written<String>>,
}

/// What one layer says by them. `Some(None)` is a "never".
#[derive(Debug, Default)]
pub(super) struct RetentionLayer {
    bytes_max: Option<u64>,
    reserve: Option<Reserve>,
    high_watermark: Option<Written<u8>>,
    low_watermark: Option<Written<u8>>,
    idle_max: Option<Option<Duration>>,
    verify_every: Option<Option<Duration>>,
    verify_rate: Option<u64>,
}

impl RetentionTexts {
    pub(super) fn read(self, problems: &mut Problems) -> RetentionLayer {
        let mut percent = |text: Option<Written<String>>| text?.parse(problems, values::percent);
        let (high_watermark, low_watermark) =
            (percent(self.high_watermark), percent(self.low_watermark));
        RetentionLayer {
            bytes_max: parse(self.max_size, problems, values::size),
            reserve: parse(self.reserve, problems, values::reserve),
            high_watermark,
            low_watermark,
            idle_max: parse(self.max_idle, problems, values::idle_or_never),
            verify_every: parse(self.verify_every, problems, values::every),
            verify_rate: parse(self.verify_rate, problems, values::size),
        }
    }
}

impl RetentionLayer {
    pub(super) fn or(self, below: Self) -> Self {
        Self {
            bytes_max: self.bytes_max.or(below.bytes_max),
            reserve: self.reserve.or(below.reserve),
            high_watermark: self.high_watermark.or(below.high_watermark),
            low_watermark: self.low_watermark.or(below.low_watermark),
            idle_max: self.idle_max.or(below.idle_max),
            verify_every: self.verify_every.or(below.verify_every),
            verify_rate: self.verify_rate.or(below.verify_rate),
        }
    }

    /// What is in effect. A watermark that is not set makes room for one that is.
    pub(super) fn resolve(self, problems: &mut Problems) -> (Retention, Reserve, Verification) {
        let default = Retention::default();
        let value = |set: &Option<Written<u8>>| set.as_ref().map(|set| set.value);
        let (high, low) = (value(&self.high_watermark), value(&self.low_watermark));
        let high_watermark = high.unwrap_or(default.high_watermark.max(low.unwrap_or_default()));
        let low_watermark = low.unwrap_or(default.low_watermark.min(high_watermark));
        if let Some(low) = self.low_watermark
            && low_watermark > high_watermark
        {
            let problem = format!(
                "{low_watermark}% is more than high_watermark, which is {high_watermark}%: making \
                 room begins at that one and ends at this one"
            );
            problems.add(low.place, problem);
        }
        let retention = Retention {
            bytes_max: self.bytes_max,
            high_watermark,
            low_watermark,
            idle_max: self.idle_max.flatten(),
        };
        let default = Verification::default();
        let verification = Verification {
            every: self.verify_every.unwrap_or(default.every),
            bytes_per_second: self.verify_rate.unwrap_or(default.bytes_per_second),
        };
        let reserve = self.reserve.unwrap_or(default_reserve());
        (retention, reserve, verification)
    }
}

pub(super) fn default_reserve() -> Reserve {
    DiskOptions::default().reserve
}
