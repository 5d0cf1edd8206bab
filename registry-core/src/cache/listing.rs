//! Listings: tags are the upstream's, and ours where it cannot answer; repositories are ours.

use tokio::time::timeout;

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
    /// [`CacheError::UnknownUpstream`].
    pub async fn tags(
        &self,
        origin: &Origin,
        page: TagPage<'_>,
        caller: &Caller,
    ) -> Result<Served<FetchedTags>, CacheError> {
        let cache = &self.inner;
        let entry = cache.entry(origin)?;
        let page = TagPage {
            limit: page.limit.min(cache.limits.page_entries_max),
            ..page
        };
        let recorded = cache.recorded_tags(origin, page).await;
        let budget = if recorded.is_some() {
            entry.policy.tag_budget
        } else {
            cache.limits.upstream_wait_max
        };
        let fetched = timeout(
            budget,
            entry.upstream.tags(origin.repository(), page, caller),
        );
        let (reason, error) = match fetched.await {
            Ok(Ok(Some(tags))) => {
                return Ok(Served::new(
                    tags,
                    CacheStatus::Bypass(BypassReason::Listing),
                ));
            }
            Ok(Ok(None)) if entry.policy.forward_not_found => return Err(CacheError::NotFound),
            Ok(Ok(None)) => (StaleReason::Gone, CacheError::NotFound),
            Ok(Err(error)) if !error.allows_stale() => return Err(error.into()),
            Ok(Err(error)) => (StaleReason::of(&error), error.into()),
            Err(_) => {
                let error = UpstreamError::Timeout {
                    what: "list its tags",
                };
                (StaleReason::Timeout, error.into())
            }
        };
        match recorded {
            Some(tags) => Ok(Served::new(tags, CacheStatus::Stale(reason))),
            None => Err(error),
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

impl Inner {
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
