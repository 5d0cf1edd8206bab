//! The caching itself: freshness, coalesced fills, link checks.

mod error;
mod status;

use std::time::Duration;

use crate::{
    BlobBody, Caller, Digest, FetchedTags, Manifest, Origin, RangeRequest, Reference, Stores,
    TagPage, UpstreamId, Upstreams,
};

pub use error::CacheError;
pub use status::{BypassReason, CacheStatus, Served, StaleReason};

/// The façade.
#[derive(Clone)]
pub struct RegistryCache {}

#[expect(
    unused_variables,
    clippy::unused_async,
    clippy::todo,
    reason = "skeleton"
)]
impl RegistryCache {
    /// x
    pub fn new(stores: Stores, upstreams: Upstreams) -> Self {
        todo!()
    }
    /// A manifest by tag or digest; HEAD and GET alike.
    pub async fn manifest(
        &self,
        origin: &Origin,
        reference: &Reference,
        caller: &Caller,
    ) -> Result<Served<Manifest>, CacheError> {
        todo!()
    }
    /// A blob or a range of it. `RangeNotSatisfiable` → 416.
    pub async fn blob(
        &self,
        origin: &Origin,
        digest: Digest,
        range: Option<RangeRequest>,
        caller: &Caller,
    ) -> Result<Served<BlobBody<CacheError>>, CacheError> {
        todo!()
    }
    /// A blob's size (HEAD).
    pub async fn stat_blob(
        &self,
        origin: &Origin,
        digest: Digest,
        caller: &Caller,
    ) -> Result<Served<u64>, CacheError> {
        todo!()
    }
    /// A page of tags.
    pub async fn tags(
        &self,
        origin: &Origin,
        page: TagPage<'_>,
        caller: &Caller,
    ) -> Result<Served<FetchedTags>, CacheError> {
        todo!()
    }
    /// The repositories that something is cached of (catalog).
    pub async fn repositories(
        &self,
        upstream: Option<&UpstreamId>,
        after: Option<&Origin>,
        limit: usize,
    ) -> Result<Vec<Origin>, CacheError> {
        todo!()
    }
    /// The configured upstreams.
    pub fn upstreams(&self) -> &Upstreams {
        todo!()
    }
    /// Lets fills finish for at most `limit`, then ends them.
    pub async fn close(&self, limit: Duration) {
        todo!()
    }
}
