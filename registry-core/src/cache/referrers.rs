//! The way of a list of referrers through the cache: like a tag, and whole. It is fetched and kept
//! with all its pages and types, so one question serves every filter.

use std::sync::Arc;

use super::flight::Patience;
use super::freshness::{Freshness, assess};
use super::negative::Absent;
use super::standby::{Choice, Said, Standby};
use super::status::{BypassReason, CacheStatus, Served};
use super::via::Via;
use super::{CacheError, Inner, RegistryCache};
use crate::{
    Caller, Digest, LinkTarget, ListedReferrers, Origin, Referrers, ReferrersPage, ReferrersRecord,
    StoreError, StoreOperation, Timestamp,
};

/// Whose referrers of what, and who asks.
pub(super) type ReferrersKey = (Via, Origin, Digest, Caller);

/// What an upstream was found to list, and how that came about.
pub(super) type Found = (Referrers, CacheStatus);

/// A list that can be served without the upstream.
struct Held {
    referrers: Referrers,
    validated_at: Timestamp,
}

impl RegistryCache {
    /// A page of the manifests that refer to `subject`, of one type or of all; a page has no more
    /// than [`Limits::page_entries_max`](crate::Limits) and
    /// [`Limits::referrers_page_bytes_max`](crate::Limits).
    ///
    /// A list is revalidated like a tag, and served stale like one. That there are none of a type
    /// is believed for no longer than
    /// [`Limits::negative_attached_ttl`](crate::Limits): signatures are pushed moments after their
    /// image.
    ///
    /// # Errors
    ///
    /// [`CacheError::NotFound`] where the upstream lists no referrers at all, so that the fallback
    /// tag is to be asked for; [`CacheError::NotFoundStale`] where it did not when it was last asked;
    /// [`CacheError::Upstream`] where it cannot tell and nothing is held;
    /// [`CacheError::UnknownUpstream`]; [`CacheError::Overloaded`]; [`CacheError::Lost`];
    /// [`CacheError::Closed`].
    pub async fn referrers(
        &self,
        origin: &Origin,
        subject: Digest,
        page: ReferrersPage<'_>,
        caller: &Caller,
    ) -> Result<Served<ListedReferrers>, CacheError> {
        let cache = &self.inner;
        let via = &cache.via(origin)?;
        let policy = via.policy(origin.repository());
        let limits = &cache.limits;
        let page = ReferrersPage {
            limit: page.limit.min(limits.page_entries_max),
            ..page
        };
        let list =
            |referrers: &Referrers| referrers.page(page, cache.limits.referrers_page_bytes_max);
        let absent = Absent::referrers(origin, subject, caller);
        let standby = cache.recorded_referrers(origin, subject, &absent).await;
        if let Standby::Held(held) = &standby {
            let listed = list(&held.referrers);
            let ttl = if listed.referrers.is_empty() {
                policy.tag_ttl.min(limits.negative_attached_ttl)
            } else {
                policy.tag_ttl
            };
            let now = cache.now();
            if policy.frozen || assess(held.validated_at, ttl, now) == Freshness::Fresh {
                return Ok(held.serve(listed, CacheStatus::Hit, now));
            }
        }
        let said = cache
            .ask_referrers(via, origin, subject, &absent, &standby)
            .await;
        Ok(match standby.or(said, policy.forward_not_found)? {
            Choice::Said((referrers, status)) => Served::new(list(&referrers), status),
            Choice::Held(held, reason) => {
                let listed = list(&held.referrers);
                held.serve(listed, CacheStatus::Stale(reason), cache.now())
            }
        })
    }
}

impl Held {
    fn serve(
        &self,
        listed: ListedReferrers,
        status: CacheStatus,
        now: Timestamp,
    ) -> Served<ListedReferrers> {
        Served {
            value: listed,
            status,
            age: (self.validated_at != Timestamp::NEVER).then(|| now.since(self.validated_at)),
        }
    }
}

impl Inner {
    /// What the upstream last said of a subject's referrers, as far as that is known.
    async fn recorded_referrers(
        &self,
        origin: &Origin,
        subject: Digest,
        absent: &Absent,
    ) -> Standby<Held> {
        let record = self.stores.referrers.referrers(origin, subject);
        let record = self.store(StoreOperation::Index, record).await;
        match record.ok().flatten() {
            Some(ReferrersRecord {
                referrers: Some(referrers),
                validated_at,
            }) => Standby::Held(Held {
                referrers,
                validated_at,
            }),
            Some(_) => Standby::Absence,
            None if self.recalls_absent(absent) => Standby::Absence,
            None => Standby::Nothing,
        }
    }

    /// Asks the upstream for a subject's referrers, and records them: one flight for all who ask.
    /// `None` where it does not answer in time for who has something to answer with.
    ///
    /// A long list takes its time, so that one is late says nothing of the upstream.
    async fn ask_referrers(
        self: &Arc<Self>,
        via: &Via,
        origin: &Origin,
        subject: Digest,
        absent: &Absent,
        standby: &Standby<Held>,
    ) -> Option<Said<Found>> {
        if self.is_absent(absent) {
            return Some(Ok(None));
        }
        if !standby.is_nothing() && self.outages.is_silent(origin.upstream()) {
            return None;
        }
        let prior = match standby {
            Standby::Held(held) => Some(held.referrers.clone()),
            Standby::Absence | Standby::Nothing => None,
        };
        let caller = absent.caller.clone();
        let key = (via.clone(), origin.clone(), subject, caller);
        let work = || {
            let (cache, via, absent) = (Arc::clone(self), via.clone(), absent.clone());
            async move { cache.fetch_referrers(&via, absent, subject, prior).await }
        };
        let patience = Patience::Budget(via.policy(origin.repository()).tag_budget);
        let flight = self.referring.board(&self.tasks, key, patience, work);
        standby.wait_for(flight).await
    }

    async fn fetch_referrers(
        &self,
        via: &Via,
        absent: Absent,
        subject: Digest,
        prior: Option<Referrers>,
    ) -> Said<Found> {
        let (origin, caller) = (&absent.place.origin, &absent.caller);
        let fetched = via.upstream.referrers(origin.repository(), subject, caller);
        let Some(referrers) = self.in_time(fetched).await? else {
            // What was listed once is held on to: it is what a tag would be that is gone.
            if prior.is_none() {
                let none = self.record_referrers(origin, subject, None, true);
                // Not recorded, it is recalled for as long as the process runs.
                let _ = none.await;
            }
            self.remember_absent(via, absent);
            return Ok(None);
        };
        self.forget(&absent);
        let list = Some(referrers.clone());
        let recorded = self.record_referrers(origin, subject, list, prior.is_none());
        let status = match recorded.await {
            Ok(true) if prior.as_ref() == Some(&referrers) => CacheStatus::Revalidated,
            Ok(true) => CacheStatus::Miss,
            Ok(false) => CacheStatus::Bypass(BypassReason::Listing),
            Err(_) => CacheStatus::Bypass(BypassReason::StoreFailing),
        };
        Ok(Some((referrers, status)))
    }

    /// Records what the upstream said; whether it is worth that.
    ///
    /// That there are none is recorded first only of manifests that were pulled here, which is
    /// whose signatures are asked for offline: clients can make up any number of others (I8).
    async fn record_referrers(
        &self,
        origin: &Origin,
        subject: Digest,
        referrers: Option<Referrers>,
        is_first: bool,
    ) -> Result<bool, StoreError> {
        if is_first && referrers.as_ref().is_none_or(Referrers::is_empty) {
            let subject = LinkTarget::Manifest(subject);
            if self.linked(origin, subject).await.is_none() {
                return Ok(false);
            }
        }
        let record = ReferrersRecord {
            referrers,
            validated_at: self.now(),
        };
        let put = self.stores.referrers.put_referrers(origin, subject, record);
        self.store(StoreOperation::Index, put).await?;
        Ok(true)
    }
}
