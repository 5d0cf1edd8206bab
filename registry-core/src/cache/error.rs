//! Why the cache has no answer.

use super::status::StaleReason;
use crate::{DigestMismatch, Pin, StoreError, UpstreamError};

/// Why the cache has no answer, or why a body broke off. Cloning shares the sources: everyone who
/// waited for the same fill gets the same error.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// No upstream of that name is configured (I12).
    #[error("no such upstream is configured")]
    UnknownUpstream,
    /// The upstream has no such content, or not in this repository (I5).
    #[error("not found at the upstream")]
    NotFound,
    /// The upstream had no such content when it was last asked, and cannot be asked now: of what is
    /// attached to images (signatures, attestations, referrers), that is an answer.
    #[error("not found when the upstream was last asked, which it cannot be now")]
    NotFoundStale {
        /// Why it cannot be asked.
        reason: StaleReason,
    },
    /// The range asked for lies outside the content (416).
    #[error("the range lies outside the content, which has {size} bytes")]
    RangeNotSatisfiable {
        /// Size of the content in bytes.
        size: u64,
    },
    /// The upstream gave no answer, and nothing that is cached can stand in for one.
    #[error("no answer from the upstream, and nothing cached can stand in for it")]
    Upstream(#[from] UpstreamError),
    /// The bytes are not the ones that the digest names. No client was given all of them (I2).
    #[error("the upstream sent wrong content")]
    Mismatch(#[from] DigestMismatch),
    /// The upstream sent fewer or more bytes than it said, or than the manifest says.
    #[error("the upstream sent {received} bytes of {expected}")]
    Length {
        /// How many bytes there should be.
        expected: u64,
        /// How many came before it ended, or one more than expected.
        received: u64,
    },
    /// The store failed under a body that was being read from it.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The store has nothing to tell of what it keeps ([`Stores::upkeep`](crate::Stores::upkeep)).
    #[error("the store cannot tell what it keeps")]
    NoUpkeep,
    /// It is pinned, and so is not removed.
    #[error("pinned by {pin}: unpin that first")]
    Pinned {
        /// What pins it.
        pin: Box<Pin>,
    },
    /// An index lists no image for any of the platforms that were asked for.
    #[error("the image is not there for any of these platforms")]
    NoSuchPlatform,
    /// There is no room to keep it, and nothing that could be evicted for it: it passes through.
    #[error("there is no room to keep it")]
    NoRoom,
    /// There are as many pins as there may be.
    #[error("there are {limit} pins already, and no more may be: remove one first")]
    TooManyPins {
        /// How many there may be.
        limit: usize,
    },
    /// Too many fills or bypasses are under way.
    #[error("too many downloads are under way")]
    Overloaded,
    /// The task that did the work died without a result: a panic, or the end of a shutdown.
    #[error("the work on it was lost before it was done")]
    Lost,
    /// The cache is shutting down.
    #[error("the cache is shutting down")]
    Closed,
}

impl CacheError {
    /// Whether the bytes that came are known to be wrong, not only too few.
    pub(crate) fn is_mismatch(&self) -> bool {
        matches!(self, Self::Mismatch(_) | Self::Length { .. })
    }

    /// Why something that is held may be served in place of this error; none where it may not.
    pub(crate) fn stale_reason(&self) -> Option<StaleReason> {
        match self {
            Self::Upstream(error) if error.allows_stale() => Some(StaleReason::of(error)),
            Self::Closed | Self::Lost | Self::Overloaded => Some(StaleReason::Unavailable),
            _ => None,
        }
    }

    /// What this error means where the upstream last said that there is no such content: nothing
    /// else, if it cannot be asked.
    pub(crate) fn or_absent(self) -> Self {
        match &self {
            Self::Upstream(error) if error.is_retryable() => Self::NotFoundStale {
                reason: StaleReason::of(error),
            },
            _ => self,
        }
    }
}
