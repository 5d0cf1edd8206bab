//! Listings: tags are the upstream's, and ours where it cannot answer; repositories are ours.

use std::sync::Arc;

use super::flight::Patience;
use super::standby::{Choice, Said, Standby};
use super::status::{BypassReason, CacheStatus, Served};
use super::via::Via;
use super::{CacheError, Inner, RegistryCache};
use crate::{Caller, FetchedTags, Origin, StoreOperation, Tag, TagPage, UpstreamId};

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
        let via = &cache.via(origin)?;
        let policy = via.policy(origin.repository());
        let page = TagPage {
            limit: page.limit.min(cache.limits.page_entries_max),
            ..page
        };
        let standby = match cache.recorded_tags(origin, page).await {
            Some(tags) => Standby::Held(tags),
            None => Standby::Nothing,
        };
        let said = cache.fetch_tags(via, origin, page, caller, &standby).await;
        let (tags, status) = match standby.or(said, policy.forward_not_found)? {
            Choice::Said(tags) => (tags, CacheStatus::Bypass(BypassReason::Listing)),
            Choice::Held(tags, reason) => (tags, CacheStatus::Stale(reason)),
        };
        Ok(Served::new(tags, status))
    }

    /// Up to `limit` repositories that something is cached of, in the order of (upstream,
    /// repository), beginning past `after`; only those of `upstream` where one is given.
    ///
    /// # Errors
    ///
    /// [`CacheError::Store`] where the store cannot tell.
    pub async fn catalog(
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

/// Through which upstream, whose tags, past which, how many, and who asks.
pub(super) type TagsKey = (Via, Origin, Option<String>, usize, Caller);

impl Inner {
    /// Asks the upstream for a page of tags: one flight for all who ask for the same. `None` where
    /// it does not answer in time for who has something recorded.
    ///
    /// A long list takes its time, so that one is late says nothing of the upstream.
    async fn fetch_tags(
        self: &Arc<Self>,
        via: &Via,
        origin: &Origin,
        page: TagPage<'_>,
        caller: &Caller,
        standby: &Standby<FetchedTags>,
    ) -> Option<Said<FetchedTags>> {
        if !standby.is_nothing() && self.outages.is_silent(origin.upstream()) {
            return None;
        }
        let after = page.after.map(ToOwned::to_owned);
        let key = (
            via.clone(),
            origin.clone(),
            after,
            page.limit,
            caller.clone(),
        );
        let work = || {
            let (cache, key) = (Arc::clone(self), key.clone());
            async move {
                let (via, origin, after, limit, caller) = key;
                let page = TagPage {
                    after: after.as_deref(),
                    limit,
                };
                let tags = via.upstream.tags(origin.repository(), page, &caller);
                cache.in_time(tags).await
            }
        };
        let patience = Patience::Budget(via.policy(origin.repository()).tag_budget);
        let flight = self.listing.board(&self.tasks, key.clone(), patience, work);
        standby.wait_for(flight).await
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
