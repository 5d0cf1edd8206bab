//! Fills: the one download of a missing blob, which everyone who wants it reads while it grows.
//!
//! A fill belongs to the cache (I7). It runs on a task of its own, writes to a spool of the blob
//! store, and tells its progress; clients, the one that caused it included, are readers of the
//! spool. This module owns the table of fills and the life of each, from its turn to its commit;
//! how the bytes come together is `conduct`'s.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{SemaphorePermit, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::conduct::Conductor;
use super::negative::Absent;
use super::spool::{End, Spool, State};
use super::trace::{self, Mark};
use super::upkeep::Promise;
use super::via::Via;
use super::{CacheError, Inner};
use crate::{
    BlobSink, Caller, Digest, Link, LinkTarget, Origin, StoreError, StoreOperation, Verified,
};

/// What is fetched, from where and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Errand {
    pub(super) via: Via,
    pub(super) origin: Origin,
    pub(super) digest: Digest,
    /// Only who asks for the same origin, through the same upstream, as the same caller shares a
    /// fill without proof of access (I5).
    pub(super) caller: Caller,
}

/// A download under way, as its readers see it.
#[derive(Clone)]
pub(super) struct Fill {
    pub(super) errand: Errand,
    pub(super) spool: Arc<Spool>,
    state: watch::Receiver<State>,
    mark: Mark,
}

impl Fill {
    /// How it is going by now. To be let go of before anything is waited for.
    pub(super) fn state(&mut self) -> watch::Ref<'_, State> {
        self.state.borrow_and_update()
    }

    /// Waits until something is different from when it was last looked at.
    pub(super) async fn changed(&mut self) {
        let changed = self.state.changed().await;
        changed.expect("the sender is in the spool, which is held here");
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&mut self) -> End {
        loop {
            if let Some(end) = self.state().end.clone() {
                return end;
            }
            self.changed().await;
        }
    }

    /// Waits until the store has what was filled, or it is known that it will not. Meanwhile tells
    /// how many bytes have come.
    pub(super) async fn settled(&mut self, mut came: impl FnMut(u64) + Send) -> Settled {
        loop {
            {
                let state = self.state();
                came(state.coverage.held_end());
                match (&state.end, &state.settled) {
                    (Some(End::Whole), Some(Ok(()))) | (Some(End::Stored), _) => {
                        return Settled::Kept;
                    }
                    (Some(End::Whole), Some(Err(error))) => {
                        return Settled::Failed(error.clone().into());
                    }
                    (Some(End::Failed(error)), _) => return Settled::Failed(error.clone()),
                    (Some(End::Lost), _) => return Settled::Failed(CacheError::Lost),
                    (Some(End::Whole), None) | (None, _) => {}
                }
            }
            self.changed().await;
        }
    }

    /// The size of the blob, where the fill has got so far that it can be relied on.
    pub(super) fn size(&mut self) -> Option<u64> {
        let state = self.state();
        state.size.filter(|_| state.begun)
    }
}

/// What became of a fill for those who want it kept.
pub(super) enum Settled {
    /// It is in the store.
    Kept,
    /// It is not.
    Failed(CacheError),
}

/// The fills under way: at most one per digest (I7).
#[derive(Clone, Default)]
pub(super) struct Fills {
    table: Arc<Mutex<HashMap<Digest, Fill>>>,
    /// Digests whose last fill was put together from parts, and wrong.
    suspects: Arc<Mutex<VecDeque<Digest>>>,
}

/// One's part in a fill.
pub(super) enum Part {
    /// Began it.
    Leads(Fill),
    /// Found it under way.
    Follows(Fill),
}

impl Fills {
    /// The fill of `digest` under way, if there is one.
    pub(super) fn get(&self, digest: Digest) -> Option<Fill> {
        lock(&self.table).get(&digest).cloned()
    }

    /// How many are under way.
    pub(super) fn active(&self) -> usize {
        lock(&self.table).len()
    }

    fn is_suspect(&self, digest: Digest) -> bool {
        lock(&self.suspects).contains(&digest)
    }

    /// Takes note that parts of this blob did not make up the whole.
    fn suspect(&self, digest: Digest, suspects_max: usize) {
        let mut suspects = lock(&self.suspects);
        suspects.retain(|suspect| *suspect != digest);
        suspects.push_back(digest);
        while suspects.len() > suspects_max {
            suspects.pop_front();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds a lock; if something did, what it guards is still whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a fill out of the table when its task ends, however it ends.
struct Registration {
    fills: Fills,
    digest: Digest,
}

impl Drop for Registration {
    fn drop(&mut self) {
        lock(&self.fills.table).remove(&self.digest);
    }
}

/// Tells that a fill has died, where it has not told how it ended.
struct Obituary(Arc<Spool>);

impl Drop for Obituary {
    fn drop(&mut self) {
        self.0.end(End::Lost);
        self.0.abandon();
    }
}

impl Inner {
    /// Joins the fill of a blob, or begins it. `link` is what is known of it in this origin.
    pub(super) fn fill(
        self: &Arc<Self>,
        errand: Errand,
        link: Option<Link>,
    ) -> Result<Part, CacheError> {
        let limits = &self.limits;
        let digest = errand.digest;
        let active_max = limits.fills_max.saturating_add(limits.fills_waiting_max);
        let whole_only = self.fills.is_suspect(digest);
        let mut table = lock(&self.fills.table);
        let active = table.len();
        let vacant = match table.entry(digest) {
            Entry::Occupied(fill) => {
                let fill = fill.get().clone();
                // Whoever traces may take its time.
                drop(table);
                fill.mark.follow();
                return Ok(Part::Follows(fill));
            }
            Entry::Vacant(_) if self.tasks.is_closed() => return Err(CacheError::Closed),
            Entry::Vacant(_) if active >= active_max => return Err(CacheError::Overloaded),
            Entry::Vacant(vacant) => vacant,
        };
        let size = link.and_then(|link| link.size);
        let spool = Arc::new(Spool::new(size, whole_only));
        let fill = Fill {
            errand: errand.clone(),
            state: spool.subscribe(),
            spool: Arc::clone(&spool),
            mark: Mark::default(),
        };
        vacant.insert(fill.clone());
        drop(table);

        let work = Work {
            cache: Arc::clone(self),
            errand,
            is_linked: link.is_some(),
            whole_only,
            registration: Registration {
                fills: self.fills.clone(),
                digest,
            },
            obituary: Obituary(spool),
        };
        let span = trace::fill(&fill.errand);
        fill.mark.set(&span);
        fill.mark.follow();
        self.tasks.spawn(span, |closing| work.run(closing));
        Ok(Part::Leads(fill))
    }
}

/// The task of a fill.
struct Work {
    cache: Arc<Inner>,
    errand: Errand,
    is_linked: bool,
    /// The blob is fetched at once, from its beginning to its end.
    whole_only: bool,
    // Before the obituary, since fields are dropped in order: whoever learns that a fill has died
    // begins another, and must not find the dead one in the table.
    registration: Registration,
    obituary: Obituary,
}

impl Work {
    async fn run(self, closing: CancellationToken) {
        // Whoever began this may have looked into the store just before an earlier fill committed.
        let stat = self.cache.stores.blobs.stat(self.errand.digest);
        if let Ok(Some(_)) = self.cache.store(StoreOperation::Stat, stat).await {
            return self.leave(End::Stored);
        }
        match self.receive(&closing).await {
            Ok((sink, verified, promise)) => {
                trace::filled(verified.size());
                // Readers get the bytes that were held back now: they are right, whatever the
                // store makes of them (I2). A reader that comes before the commit is done finds
                // this fill still in the table.
                self.obituary.0.end(End::Whole);
                tokio::select! {
                    () = self.commit(sink, verified, promise) => {}
                    () = closing.cancelled() => {}
                }
            }
            Err(end) => {
                if let End::Failed(error) = &end {
                    self.note_failure(error);
                }
                let end = self.make_space_after(end).await;
                self.leave(end);
            }
        }
    }

    /// Makes space where the store had none for what was being written. Then whoever waits may as
    /// well begin again.
    async fn make_space_after(&self, end: End) -> End {
        let was_written = self.obituary.0.look(|state| state.reader().is_some());
        if !was_written {
            // Space was made for it already, and was not enough.
            return end;
        }
        if !matches!(
            end,
            End::Failed(CacheError::Store(StoreError::NoSpace { .. }))
        ) {
            return end;
        }
        let size = self.obituary.0.outlook().0.unwrap_or_default();
        match self.cache.make_space(size).await {
            true => End::Lost,
            false => end,
        }
    }

    fn note_failure(&self, error: &CacheError) {
        trace::failed(error);
        let Errand {
            via,
            origin,
            digest,
            caller,
        } = &self.errand;
        // Of what it has sent a part of, an upstream that says so now is not to be believed for long.
        let has_begun = self.obituary.0.look(|state| state.begun);
        if matches!(error, CacheError::NoRoom) {
            tracing::debug!(%digest, "there is no room for a blob");
        } else if matches!(error, CacheError::NotFound) && !has_begun {
            self.cache
                .remember_absent(via, Absent::blob(origin, *digest, caller));
        } else {
            tracing::warn!(
                upstream = %origin.upstream(),
                repository = %origin.repository(),
                %digest,
                error = error as &dyn std::error::Error,
                "a fill failed"
            );
        }
    }

    /// Waits for its turn, and gets the bytes together. What is not to be kept is gone once this
    /// returns, and what is can be gone on with.
    async fn receive(
        &self,
        closing: &CancellationToken,
    ) -> Result<(Arc<dyn BlobSink>, Verified, Option<Promise>), End> {
        let begin = async {
            let permit = self.turn().await?;
            // Before the upstream is asked: a store that cannot take the blob must not cost a
            // request.
            let promise = self.room().await?;
            Ok((permit, self.stage().await?, promise))
        };
        let (_permit, sink, mut promise) = tokio::select! {
            begun = begin => begun.map_err(End::Failed)?,
            () = closing.cancelled() => return Err(End::Lost),
        };
        let spool = &self.obituary.0;
        spool.attach(&sink);
        let mut conductor =
            Conductor::new(&self.cache, &self.errand, spool, &sink, self.whole_only);
        let conduct = async {
            conductor.begin(self.is_linked).await?;
            if promise.is_none() {
                promise = self.room().await?;
            }
            conductor.conduct().await
        };
        let outcome = tokio::select! {
            outcome = conduct => outcome.map_err(End::Failed),
            error = spool.broken() => Err(End::Failed(error)),
            () = closing.cancelled() => Err(End::Lost),
        };
        drop(conductor);
        // Whatever the outcome, nobody writes to the spool any more, and nobody else has it.
        spool.quiesce().await;
        match outcome {
            Ok(verified) => Ok((sink, verified, promise)),
            Err(end) => {
                match &end {
                    End::Failed(error) if error.is_mismatch() => self.disown(sink),
                    // What is kept and cannot be read would fail the next fill as well.
                    End::Failed(CacheError::Store(error)) if error.is_unreadable() => {
                        sink.discard();
                    }
                    _ => {}
                }
                Err(end)
            }
        }
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>, CacheError> {
        let permits = &self.cache.fill_permits;
        if let Ok(permit) = permits.try_acquire() {
            return Ok(permit);
        }
        let spool = &self.obituary.0;
        spool.set_queued(true);
        let permit = timeout(self.cache.limits.upstream_wait_max, permits.acquire())
            .await
            .map_err(|_| CacheError::Overloaded)?
            .map_err(|_| CacheError::Closed)?;
        spool.set_queued(false);
        Ok(permit)
    }

    /// Room for the blob, where its size is known; it then lasts until the blob is kept.
    async fn room(&self) -> Result<Option<Promise>, CacheError> {
        match self.obituary.0.outlook().0 {
            Some(size) => self.cache.room(size).await,
            None => Ok(None),
        }
    }

    /// A spool, and what an earlier fill of the same blob left in it.
    async fn stage(&self) -> Result<Arc<dyn BlobSink>, CacheError> {
        let size = self.obituary.0.outlook().0;
        let mut sink;
        loop {
            let stage = || self.cache.stores.blobs.stage(self.errand.digest, size);
            let (operation, bytes) = (StoreOperation::Write, size.unwrap_or_default());
            let staged = self.cache.store_making_room(operation, bytes, stage);
            sink = staged.await?;
            let is_too_long = size.is_some_and(|size| sink.kept() > size);
            if sink.kept() == 0 || !(is_too_long || self.whole_only) {
                return Ok(sink);
            }
            sink.discard();
        }
    }

    /// Throws away bytes that are wrong. Where they came in parts, the parts may be what is wrong
    /// with them: then the next fill takes the blob as a whole.
    fn disown(&self, sink: Arc<dyn BlobSink>) {
        sink.discard();
        if self.obituary.0.is_pieced() {
            let suspects_max = self.cache.limits.suspects_max;
            self.cache.fills.suspect(self.errand.digest, suspects_max);
        }
    }

    /// Ends without bytes to read: out of the table first, so that whoever learns of it, or comes
    /// from now on, begins anew.
    fn leave(self, end: End) {
        drop(self.registration);
        self.obituary.0.end(end);
    }

    /// Keeps what was verified. The link comes last: without the blob it would only cost a fill,
    /// but a blob without it costs no more than a HEAD.
    async fn commit(&self, sink: Arc<dyn BlobSink>, verified: Verified, promise: Option<Promise>) {
        let size = verified.size();
        let _promise = match promise {
            Some(promise) => Some(promise),
            // Nobody knew its size until now.
            None => match self.cache.room(size).await {
                Ok(promise) => promise,
                // It would be kept as unfinished, for fills that have no more room than this one.
                Err(_) => return sink.discard(),
            },
        };
        let link = Link {
            target: LinkTarget::Blob(self.errand.digest),
            size: Some(size),
        };
        let commit = sink.commit(verified);
        let committed = self.cache.store(StoreOperation::Commit, commit).await;
        match committed {
            Ok(()) => {
                let endpoint = self.obituary.0.look(|state| state.endpoint.clone());
                let origin = &self.errand.origin;
                self.cache.note(link.target, origin, endpoint).await;
                if self.cache.grant(origin, vec![link]).await {
                    self.cache.health.took();
                }
                self.cache.kept_more(origin).await;
            }
            // The next fill finds most of it, and space for the rest.
            Err(StoreError::NoSpace { .. }) => drop(self.cache.make_space(size).await),
            Err(_) => {}
        }
        self.obituary.0.settle(committed);
    }
}
