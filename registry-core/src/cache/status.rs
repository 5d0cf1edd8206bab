//! How a request was answered, for `Cache-Status` (RFC 9211), logs and metrics.

use std::time::Duration;

use crate::UpstreamError;

/// An answer, and how it came about.
#[derive(Clone, Debug)]
pub struct Served<T> {
    /// The answer.
    pub value: T,
    /// How it came about.
    pub status: CacheStatus,
    /// How long ago the upstream last confirmed it, where it can go stale (tags and lists).
    pub age: Option<Duration>,
}

impl<T> Served<T> {
    pub(crate) fn new(value: T, status: CacheStatus) -> Self {
        Self {
            value,
            status,
            age: None,
        }
    }
}

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheStatus {
    /// From the store, without asking the upstream anything (I11).
    Hit,
    /// From the upstream; stored on the way.
    Miss,
    /// From the store, after the upstream confirmed it: a tag that still names the same, or
    /// content that it has in this repository too (I5).
    Revalidated,
    /// From the store, although the upstream could not confirm it.
    Stale(StaleReason),
    /// From a fill that another request began (I7).
    Follow,
    /// From the upstream, on a request of its own.
    Bypass(BypassReason),
}

/// Why something stale was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StaleReason {
    /// The upstream did not answer within its budget.
    Timeout,
    /// The upstream limits our requests.
    RateLimited,
    /// The upstream cannot be reached, or cannot serve.
    Unavailable,
    /// The upstream answered nonsense.
    Protocol,
    /// The upstream has it no longer.
    Gone,
}

impl StaleReason {
    pub(crate) fn of(error: &UpstreamError) -> Self {
        match error {
            UpstreamError::Timeout { .. } => Self::Timeout,
            UpstreamError::RateLimited { .. } => Self::RateLimited,
            UpstreamError::Protocol { .. } | UpstreamError::Content(_) => Self::Protocol,
            _ => Self::Unavailable,
        }
    }

    /// A token for it, for headers, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::RateLimited => "rate-limited",
            Self::Unavailable => "unavailable",
            Self::Protocol => "protocol-error",
            Self::Gone => "gone-upstream",
        }
    }
}

/// Why an answer took a request of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BypassReason {
    /// It is the upstream's answer to a HEAD: there is nothing to store.
    Head,
    /// A range far ahead of what the fill has reached. Its bytes are kept with those of the fill,
    /// where there is a place for them.
    RangeAhead,
    /// The store cannot take it, or cannot read it.
    StoreFailing,
    /// There is no room to keep it, and nothing that could be evicted for it.
    NoRoom,
    /// Fills of it that others began have failed again and again.
    FillsFailing,
    /// A listing: it is asked for anew each time.
    Listing,
}

impl BypassReason {
    /// A token for it, for headers, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::RangeAhead => "range-ahead",
            Self::StoreFailing => "store-failing",
            Self::NoRoom => "no-room",
            Self::FillsFailing => "fills-failing",
            Self::Listing => "listing",
        }
    }
}
