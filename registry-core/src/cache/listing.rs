//! Listings: tags are the upstream's, and ours where it cannot answer; repositories are ours.

use std::sync::Arc;
use std::time::Duration;

use super::flight::Patience;
use super::status::{BypassReason, CacheStatus, Served, StaleReason};
use super::{CacheError, Inner, RegistryCache};
use crate::{Caller, FetchedTags, Origin, StoreOperation, Tag, TagPage, UpstreamError, UpstreamId};

impl RegistryCache {
    /// A page of a repository's tags: the upstream's, or those recorded here where it cannot tell
    /// within its budget. A page has no more than [`Limits::page_entries_max`](crate::Limits).
    ///
    /// # Errors
    ///
    /// [`CacheError::NotFound`] where the upstream has no such repository, and no tag of it is
    /// recorded; [`CacheError::Upstream`] where it cannot tell, and none is;
    /// [`CacheError::UnknownUpstream`]; [`CacheError::Overloaded`]; [`CacheError::Lost`];
    /// [`CacheError::Closed`].
    pub async fn tags(
        &self,
        origin: &Origin,
        page: TagPage<'_>,
        caller: &Caller,
    ) -> Result<Served<FetchedTags>, CacheError> {
        let cache = &self.inner;
        let policy = &cache.entry(origin)?.policy;
        let page = TagPage {
            limit: page.limit.min(cache.limits.page_entries_max),
            ..page
        };
        let recorded = cache.recorded_tags(origin, page).await;
        let budget = policy.tag_budget;
        let said = cache.fetch_tags(origin, page, caller, budget, recorded.is_some());
        let error = match said.await {
            Some(Ok(Some(tags))) => {
                let status = CacheStatus::Bypass(BypassReason::Listing);
                return Ok(Served::new(tags, status));
            }
            Some(Ok(None)) => CacheError::NotFound,
            Some(Err(error)) => error,
            None => UpstreamError::Timeout {
                what: "list its tags",
            }
            .into(),
        };
        let reason = match &error {
            CacheError::NotFound if policy.forward_not_found => None,
            CacheError::NotFound => Some(StaleReason::Gone),
            error => error.stale_reason(),
        };
        match (recorded, reason) {
            (Some(tags), Some(reason)) => Ok(Served::new(tags, CacheStatus::Stale(reason))),
            _ => Err(error),
        }
    }

    /// Up to `limit` repositories that something is cached of, in the order of (upstream,
    /// repository), beginning past `after`; only those of `upstream` where one is given.
    ///
    /// # Errors
    ///
    /// [`CacheError::Store`] where the store cannot tell.
    pub async fn repositories(
        &self,
        upstream: Option<&UpstreamId>,
        after: Option<&Origin>,
        limit: usize,
    ) -> Result<Vec<Origin>, CacheError> {
        let limit = limit.min(self.inner.limits.page_entries_max);
        let origins = self.inner.stores.links.origins(upstream, after, limit);
        Ok(self.inner.store(StoreOperation::Index, origins).await?)
    }
}

/// Whose tags, past which, how many, and who asks.
pub(super) type TagsKey = (Origin, Option<String>, usize, Caller);

impl Inner {
    /// Asks the upstream for a page of tags: one flight for all who ask for the same. `None` where
    /// it does not answer in time for who has something recorded.
    ///
    /// A long list takes its time, so that one is late says nothing of the upstream.
    async fn fetch_tags(
        self: &Arc<Self>,
        origin: &Origin,
        page: TagPage<'_>,
        caller: &Caller,
        budget: Duration,
        is_recorded: bool,
    ) -> Option<Result<Option<FetchedTags>, CacheError>> {
        if is_recorded && self.outages.is_silent(origin.upstream()) {
            return None;
        }
        let after = page.after.map(ToOwned::to_owned);
        let key = (origin.clone(), after, page.limit, caller.clone());
        let work = || {
            let (cache, key) = (Arc::clone(self), key.clone());
            async move {
                let (origin, after, limit, caller) = key;
                let page = TagPage {
                    after: after.as_deref(),
                    limit,
                };
                let upstream = &cache.entry(&origin)?.upstream;
                let tags = upstream.tags(origin.repository(), page, &caller);
                cache.in_time(tags).await
            }
        };
        let patience = Patience::Budget(budget);
        match self.listing.board(&self.tasks, key.clone(), patience, work) {
            Ok(flight) if is_recorded => flight.in_time().await,
            Ok(flight) => Some(flight.landed().await),
            Err(error) => Some(Err(error)),
        }
    }

    /// The tags recorded of a repository; `None` where there is none at all.
    async fn recorded_tags(&self, origin: &Origin, page: TagPage<'_>) -> Option<FetchedTags> {
        // One more than asked for tells whether there are more.
        let limit = page.limit.saturating_add(1);
        let tags = self.stores.tags.tags(origin, page.after, limit);
        let mut tags: Vec<Tag> = self.store(StoreOperation::Index, tags).await.ok()?;
        if tags.is_empty() {
            // Past the last of those that are recorded, or is there none? An empty page in place of
            // an error would end a listing as if it were complete.
            let any = self.stores.tags.tags(origin, None, 1);
            if self
                .store(StoreOperation::Index, any)
                .await
                .ok()?
                .is_empty()
            {
                return None;
            }
        }
        let more = tags.len() > page.limit;
        tags.truncate(page.limit);
        Some(FetchedTags { tags, more })
    }
}
