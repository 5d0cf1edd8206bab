//! How much is kept, and for how long: what is set, apart from what is decided by it.

use std::time::Duration;

/// How all content is kept. What is set for an upstream or for some of its repositories stands in
/// their [`RetentionRule`](crate::RetentionRule)s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Bytes that all content may take together: committed content never takes more, and a fill
    /// that finds no room is passed through without being kept. Without it, only the store's own
    /// reserve is a limit.
    pub bytes_max: Option<u64>,
    /// Of the limit in percent: where eviction begins in the background.
    pub high_watermark: u8,
    /// Of the limit in percent: where it ends. At most the other.
    pub low_watermark: u8,
    /// How long content is kept that nobody uses. Without it, for as long as there is room: what a
    /// digest names never goes stale (I3).
    pub idle_max: Option<Duration>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            bytes_max: None,
            high_watermark: 98,
            low_watermark: 95,
            idle_max: None,
        }
    }
}

/// How often and how fast everything that is kept is hashed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// How long after one pass the next begins; none to verify on demand only.
    pub every: Option<Duration>,
    /// Bytes a second that are read for it.
    pub bytes_per_second: u64,
}

impl Default for Verification {
    fn default() -> Self {
        Self {
            every: Some(Duration::from_secs(30 * 24 * 60 * 60)),
            bytes_per_second: 16 << 20,
        }
    }
}
