//! The caching itself: what a server calls, and all that it calls.
//!
//! - `tags`, `manifests`, `blobs`, `listing`, `referrers`: the ways of a request through the cache.
//! - `freshness`, `negative`, `standby`: what may be answered without the upstream; pure.
//! - `flight`, `outage`: one answer for all who ask the same at the same time, and what to make of
//!   an upstream that gives none.
//! - `fill`, `spool`, `conduct`, `segment`: one download of a missing blob, whose parts may come out
//!   of order; `source`, `patience`: where its bytes come from, whatever breaks off; `extents`: who
//!   has which of them; pure; `chunks`, `digesting`: the bytes on their way, and their hash.
//! - `seek`, `follow`, `pass`: the bodies that are read from a fill, and those that are passed
//!   through.
//! - `answers`: what upstreams last said, for people; `upkeep`: what keeps all of it in order and
//!   within its bounds.
//! - `transfer`: images carried from one cache to another, in archives.
//! - `health`, `tasks`: the store's failures, and the tasks that outlive requests.
//! - `via`: which upstream a request is answered through while the configuration changes.

mod answers;
mod blobs;
mod chunks;
mod conduct;
mod digesting;
mod error;
mod extents;
mod fill;
mod flight;
mod follow;
mod freshness;
mod health;
mod listing;
mod manifests;
mod negative;
mod outage;
mod pass;
mod patience;
mod referrers;
mod seek;
mod segment;
mod source;
mod spool;
mod standby;
mod status;
mod tags;
mod tasks;
mod trace;
mod transfer;
mod upkeep;
mod via;

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::Poll;
use std::time::Duration;

use futures::poll;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::{
    Caller, Clock, Digest, FetchedTags, Limits, Link, LinkTarget, Manifest, Origin, Provenance,
    RangeRequest, StoreError, StoreOperation, Stores, SystemClock, Tag, Timestamp, UpstreamBlob,
    UpstreamError, Upstreams, Validator,
};
use answers::Answers;
use fill::Fills;
use flight::Flights;
use health::StoreHealth;
use listing::TagsKey;
use manifests::Resolved;
use negative::{Absent, NegativeCache, Place, What};
use outage::Outages;
use referrers::{Found, ReferrersKey};
use tasks::Tasks;
use upkeep::Verifications;
use via::Via;

pub use answers::{TagAnswer, TagSaid};
pub use error::CacheError;
pub use status::{BypassReason, CacheStatus, Served, StaleReason};
pub use transfer::{
    AttachedContent, ExportContent, ExportError, ExportPlan, ExportRequest, ExportedImage, Import,
    ImportError, Imported, ImportedImage, Incoming, LeftOut, PlatformChoice,
};
pub use upkeep::{
    BlobDetail, CacheUsage, CollectRequest, Collected, Deleted, Evicted, EvictionCounts,
    Explanation, Filling, Finding, Flaw, ImageDetail, ImageSummary, ManifestDetail, NextPull,
    RepositorySummary, StillNeeded, UntaggedPage, Verdict, VerificationState, VerifyReport,
    VerifyRequest, VerifyScope, WarmOptions, Warmed,
};

/// A cache of everything that its upstreams have: all that a server calls.
///
/// Cloning shares the cache. Every call carries the [`Origin`] asked for and the [`Caller`] who
/// asks; nothing is served in an origin that is not linked there (I5).
///
/// # Cancellation
///
/// Dropping the future of any method, or the body it gave, abandons only this caller's part: what
/// is being fetched or revalidated goes on, for those who wait for it too and for the store.
#[derive(Clone)]
pub struct RegistryCache {
    inner: Arc<Inner>,
}

struct Inner {
    stores: Stores,
    upstreams: RwLock<Arc<Upstreams>>,
    limits: Limits,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    health: StoreHealth,
    negative: Mutex<NegativeCache>,
    outages: Arc<Outages>,
    /// What was last said of tags.
    answers: Answers,
    /// Tags that are being revalidated.
    resolving: Flights<(Via, Origin, Tag, Caller), Option<Resolved>>,
    /// Pages of tags that are being asked for.
    listing: Flights<TagsKey, Option<FetchedTags>>,
    /// Lists of referrers that are being asked for.
    referring: Flights<ReferrersKey, Option<Found>>,
    /// Manifests that are being fetched by digest.
    fetching: Flights<(Via, Origin, Digest, Caller), Option<Fetched>>,
    /// Content whose presence at an origin is being confirmed (I5).
    confirming: Flights<(Via, Origin, LinkTarget, Caller), Option<Link>>,
    fills: Fills,
    fill_permits: Semaphore,
    bypass_permits: Arc<Semaphore>,
    verifications: Verifications,
    upkeep: upkeep::State,
    transfer_permits: Arc<Semaphore>,
}

/// A manifest from an upstream, and why it was not kept, where it was not.
#[derive(Clone)]
struct Fetched {
    manifest: Manifest,
    bypass: Option<BypassReason>,
}

impl RegistryCache {
    /// A cache with default limits, on the system's clock.
    pub fn new(stores: Stores, upstreams: Upstreams) -> Self {
        Self::with(stores, upstreams, Limits::default(), Arc::new(SystemClock))
    }

    /// A cache with these limits, on this clock.
    pub fn with(
        stores: Stores,
        upstreams: Upstreams,
        limits: Limits,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let inner = Inner {
            stores,
            upstreams: RwLock::new(Arc::new(upstreams)),
            clock,
            tasks: Tasks::default(),
            health: StoreHealth::default(),
            negative: Mutex::new(NegativeCache::new(
                limits.negative_entries_max,
                limits.negative_ttl,
                limits.negative_attached_ttl,
            )),
            outages: Arc::default(),
            answers: Answers::new(limits.answers_max),
            resolving: Flights::new("tag", limits.flights_max),
            listing: Flights::new("tags", limits.flights_max),
            referring: Flights::new("referrers", limits.flights_max),
            fetching: Flights::new("manifest", limits.flights_max),
            confirming: Flights::new("presence", limits.flights_max),
            fills: Fills::default(),
            fill_permits: Semaphore::new(limits.fills_max.min(Semaphore::MAX_PERMITS)),
            bypass_permits: Arc::new(Semaphore::new(
                limits.bypasses_max.min(Semaphore::MAX_PERMITS),
            )),
            verifications: Verifications::default(),
            upkeep: upkeep::State::default(),
            transfer_permits: Arc::new(Semaphore::new(
                limits.transfers_max.min(Semaphore::MAX_PERMITS),
            )),
            limits,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The limits that this cache keeps.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Has the tasks of this cache run on another runtime than those who call it: downloads,
    /// revalidations, upkeep, and what blocks a thread of theirs. A server gives them one whose
    /// threads give way to those that answer. Where it was said before, or tasks run already, it
    /// changes nothing for them.
    ///
    /// The runtime has to outlive [`Self::close`].
    pub fn work_on(&self, runtime: Handle) {
        self.inner.tasks.run_on(runtime);
    }

    /// How many fills are under way.
    pub fn fills_active(&self) -> usize {
        self.inner.fills.active()
    }

    /// How often the store has failed.
    pub fn store_failures(&self) -> u64 {
        self.inner.health.failures()
    }

    /// Whether the store has failed, and has taken nothing durably since.
    pub fn store_is_failing(&self) -> bool {
        self.inner.health.is_failing()
    }

    /// Ends the cache: begins no more fills, lets those under way finish for `limit` at the most,
    /// then ends them. What is committed by then stays; the rest costs a miss. What is stored is
    /// served on; nothing more is asked in the background.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the cache closed to new fills, with those under way going on.
    pub async fn close(&self, limit: Duration) {
        self.inner.tasks.close(limit).await;
    }
}

impl fmt::Debug for RegistryCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryCache")
            .field("upstreams", &self.inner.upstreams())
            .field("limits", &self.inner.limits)
            .finish_non_exhaustive()
    }
}

/// What the ways through the cache share.
impl Inner {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Whether an upstream's "not found" is believed still.
    fn is_absent(&self, absent: &Absent) -> bool {
        self.negative().holds(absent, self.now())
    }

    /// Whether it is what the upstream last said of attached content, however long ago.
    fn recalls_absent(&self, absent: &Absent) -> bool {
        self.negative().recalls(absent)
    }

    /// Remembers what an upstream said, unless there is another in its place by now.
    fn remember_absent(&self, via: &Via, absent: Absent) {
        let mut negative = self.negative();
        // Under the lock: whoever changes the upstreams takes it afterwards, to forget.
        if self.is_current(via, &absent.place.origin) {
            negative.remember(absent, self.clock.now());
        }
    }

    /// It was found to be there.
    fn forget(&self, absent: &Absent) {
        self.negative().forget(&absent.place);
    }

    /// All that is linked in an origin may be there.
    fn forget_absent(&self, origin: &Origin, links: &[Link]) {
        let mut negative = self.negative();
        if negative.is_empty() {
            return;
        }
        for link in links {
            negative.forget(&Place {
                origin: origin.clone(),
                what: What::Content(link.target),
            });
        }
    }

    fn negative(&self) -> MutexGuard<'_, NegativeCache> {
        self.negative.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link that grants access, or `None`; a store that cannot tell grants none.
    async fn linked(&self, origin: &Origin, target: LinkTarget) -> Option<Link> {
        let links = &self.stores.links;
        if let Some(link) = links.link_at_hand(origin, target) {
            return Some(link);
        }
        let linked = links.linked(origin, target);
        self.store(StoreOperation::Index, linked)
            .await
            .ok()
            .flatten()
    }

    /// Links content in an origin; whether it is linked. Failing costs a HEAD next time, so no
    /// client has to know.
    async fn grant(&self, origin: &Origin, links: Vec<Link>) -> bool {
        let link = self.stores.links.link(origin, links);
        self.store(StoreOperation::Index, link).await.is_ok()
    }

    /// Notes where content that was just stored came from. Without the note it is charged to
    /// nobody, and nobody can tell: no client has to know.
    async fn note(&self, target: LinkTarget, origin: &Origin, endpoint: Option<Arc<str>>) {
        let Some(upkeep) = &self.stores.upkeep else {
            return;
        };
        let provenance = Provenance {
            origin: origin.clone(),
            endpoint,
            at: self.now(),
        };
        let note = upkeep.inventory.note(target, provenance);
        let _ = self.store(StoreOperation::Index, note).await;
    }

    /// What the store answers, if it does so in time. A failure is noted.
    async fn store<T>(
        &self,
        operation: StoreOperation,
        answer: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let answer = self.ask_store(operation, answer).await;
        self.health.note(answer)
    }

    /// The same, for whoever knows what to do about a failure.
    async fn ask_store<T>(
        &self,
        operation: StoreOperation,
        answer: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let limit = match operation {
            StoreOperation::Commit => self.limits.commit_wait_max,
            _ => self.limits.store_wait_max,
        };
        let mut answer = pin!(answer);
        // What is in memory is told at once: only what is waited for takes a timer.
        if let Poll::Ready(answer) = poll!(answer.as_mut()) {
            return answer;
        }
        let answer = timeout(limit, answer).await;
        answer.unwrap_or(Err(StoreError::Timeout { operation }))
    }

    /// Begins a download, within the time that is allowed for headers.
    async fn upstream_blob(
        &self,
        via: &Via,
        origin: &Origin,
        digest: Digest,
        range: Option<RangeRequest>,
        prior: Option<&Validator>,
        caller: &Caller,
    ) -> Result<UpstreamBlob, CacheError> {
        let blob = via
            .upstream
            .blob(origin.repository(), digest, range, prior, caller);
        self.in_time(blob).await?.ok_or(CacheError::NotFound)
    }

    /// What an upstream answers, if it does so in time.
    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, UpstreamError>> + Send,
    ) -> Result<T, CacheError> {
        match timeout(self.limits.upstream_wait_max, answer).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(UpstreamError::Timeout { what: "answer" }.into()),
        }
    }

    /// Asks the upstream whether it has `target` in this origin, and links it if so (I5). Asked
    /// once for all who wait.
    async fn confirm(
        self: &Arc<Self>,
        via: &Via,
        origin: &Origin,
        target: LinkTarget,
        caller: &Caller,
    ) -> Result<Link, CacheError> {
        let absent = Absent::content(origin, target, caller);
        if self.is_absent(&absent) {
            return Err(CacheError::NotFound);
        }
        let key = (via.clone(), origin.clone(), target, caller.clone());
        let ask = || {
            let (cache, via) = (Arc::clone(self), via.clone());
            async move { cache.ask_for(&via, absent, target).await }
        };
        let link = self.confirming.fly(&self.tasks, key, ask).await?;
        link.ok_or(CacheError::NotFound)
    }

    async fn ask_for(
        &self,
        via: &Via,
        absent: Absent,
        target: LinkTarget,
    ) -> Result<Option<Link>, CacheError> {
        let (origin, caller) = (&absent.place.origin, &absent.caller);
        let upstream = &via.upstream;
        let repository = origin.repository();
        let link = match target {
            LinkTarget::Blob(digest) => {
                let size = self
                    .in_time(upstream.stat_blob(repository, digest, caller))
                    .await?;
                size.map(|size| Link { target, size })
            }
            LinkTarget::Manifest(digest) => {
                let there = self
                    .in_time(upstream.has_manifest(repository, digest, caller))
                    .await?;
                there.then_some(Link { target, size: None })
            }
        };
        match link {
            // Without the size, which only a manifest tells for certain: one that a HEAD got wrong
            // would make every download fail. Where granting fails, it is asked for again.
            Some(_) => drop(self.grant(origin, vec![Link { target, size: None }]).await),
            None => self.remember_absent(via, absent),
        }
        Ok(link)
    }
}
