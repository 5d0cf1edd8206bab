//! Why the cache has no answer.

use crate::{DigestMismatch, StoreError, UpstreamError};

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
}
