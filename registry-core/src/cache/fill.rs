//! Fills: the one download of a missing blob, which everyone who wants it reads while it grows.
//!
//! A fill belongs to the cache (I7). It runs on a task of its own, writes to a spool of the blob
//! store, and tells its progress on a watch channel; clients, the one that caused it included, are
//! readers of the spool. What it tells only ever grows: a head, more bytes, an end. An end that is
//! a failure is never mistaken for the end of the bytes, since both are told apart by type.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::timeout;

use super::follow::next_chunk;
use super::negative::Absent;
use super::{CacheError, Inner};
use crate::{
    BlobSink, Caller, Digest, Hasher, Link, LinkTarget, Origin, SpoolReader, StoreOperation,
    UpstreamBlob, UpstreamError, Verified,
};

/// A download under way, as its readers see it.
#[derive(Clone)]
pub(super) struct Fill {
    /// Where it is fetched from, and for whom: only they share it without proof of access (I5).
    pub(super) origin: Origin,
    pub(super) caller: Caller,
    progress: watch::Receiver<Progress>,
}

/// How far a fill has come.
#[derive(Clone, Default)]
pub(super) struct Progress {
    /// What is known once bytes arrive and can be read.
    pub(super) head: Option<Head>,
    /// Bytes that can be read from the spool.
    pub(super) written: u64,
    /// How it ended.
    pub(super) end: Option<End>,
}

/// How a fill ended.
#[derive(Clone)]
pub(super) enum End {
    /// Every byte is in the spool, and the digest matches.
    Whole,
    /// It never began: an earlier fill had committed the blob just before.
    Stored,
    /// There are not, or not all, of the right bytes.
    Failed(CacheError),
}

/// A blob that is arriving.
#[derive(Clone)]
pub(super) struct Head {
    pub(super) size: u64,
    pub(super) reader: Arc<dyn SpoolReader>,
}

impl Fill {
    /// How far it has come by now.
    pub(super) fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Waits until `ready` holds of the progress, or the fill has ended. `None` where it was lost:
    /// its task died without an end (a panic, or shutdown).
    pub(super) async fn wait(
        &mut self,
        mut ready: impl FnMut(&Progress) -> bool,
    ) -> Option<Progress> {
        let progress = self
            .progress
            .wait_for(|now| now.end.is_some() || ready(now))
            .await;
        progress.ok().map(|now| now.clone())
    }
}

/// The fills under way: at most one per digest (I7).
#[derive(Clone, Default)]
pub(super) struct Fills {
    table: Arc<Mutex<HashMap<Digest, Fill>>>,
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
        self.lock().get(&digest).cloned()
    }

    /// How many are under way.
    pub(super) fn active(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Fill>> {
        // Nothing panics while it holds the lock; if something did, the table is still whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a fill out of the table when its task ends, however it ends.
struct Registration {
    fills: Fills,
    digest: Digest,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.fills.lock().remove(&self.digest);
    }
}

impl Inner {
    /// Joins the fill of `digest`, or begins it. `size` is what a manifest says of it.
    pub(super) fn fill(
        self: &Arc<Self>,
        origin: &Origin,
        digest: Digest,
        size: Option<u64>,
        caller: &Caller,
    ) -> Result<Part, CacheError> {
        let limits = &self.limits;
        let active_max = limits.fills_max.saturating_add(limits.fills_waiting_max);
        let mut table = self.fills.lock();
        let active = table.len();
        let vacant = match table.entry(digest) {
            Entry::Occupied(fill) => return Ok(Part::Follows(fill.get().clone())),
            Entry::Vacant(_) if self.tasks.is_closed() => return Err(CacheError::Closed),
            Entry::Vacant(_) if active >= active_max => return Err(CacheError::Overloaded),
            Entry::Vacant(vacant) => vacant,
        };
        let (sender, progress) = watch::channel(Progress::default());
        let fill = Fill {
            origin: origin.clone(),
            caller: caller.clone(),
            progress,
        };
        vacant.insert(fill.clone());
        drop(table);

        let registration = Registration {
            fills: self.fills.clone(),
            digest,
        };
        let work = Work {
            cache: Arc::clone(self),
            origin: origin.clone(),
            digest,
            size,
            caller: caller.clone(),
            registration,
            progress: sender,
        };
        self.tasks.spawn(async move |closing| {
            tokio::select! {
                () = work.run() => {}
                // Dropping the work tells its readers: the channel closes without an end.
                () = closing.cancelled() => {}
            }
        });
        Ok(Part::Leads(fill))
    }
}

/// The task of a fill.
struct Work {
    cache: Arc<Inner>,
    origin: Origin,
    digest: Digest,
    size: Option<u64>,
    caller: Caller,
    // Before `progress`, since fields are dropped in order: whoever learns that a fill has died
    // begins another, and must not find the dead one in the table.
    registration: Registration,
    progress: watch::Sender<Progress>,
}

/// A spool with all its bytes, and the proof that they are right.
struct Filled {
    sink: Arc<dyn BlobSink>,
    verified: Verified,
}

impl Work {
    async fn run(self) {
        // Whoever began this may have looked into the store just before an earlier fill committed.
        let stat = self.cache.stores.blobs.stat(self.digest);
        if let Ok(Some(_)) = self.cache.store(StoreOperation::Stat, stat).await {
            return self.leave(End::Stored);
        }
        match self.receive().await {
            Ok(filled) => {
                // Readers get the bytes that were held back now: they are right, whatever the
                // store makes of them (I2). A reader that comes before the commit is done finds
                // this fill still in the table.
                self.finish(End::Whole);
                self.commit(filled).await;
            }
            Err(error) => {
                self.note_failure(&error);
                self.leave(End::Failed(error));
            }
        }
    }

    fn note_failure(&self, error: &CacheError) {
        if matches!(error, CacheError::NotFound) {
            self.cache
                .remember_absent(Absent::blob(&self.origin, self.digest, &self.caller));
        } else {
            tracing::warn!(
                upstream = %self.origin.upstream(),
                repository = %self.origin.repository(),
                digest = %self.digest,
                error = error as &dyn std::error::Error,
                "a fill failed"
            );
        }
    }

    /// Downloads, spools and verifies. Dropping the spool on an error discards it.
    async fn receive(&self) -> Result<Filled, CacheError> {
        let limits = &self.cache.limits;
        let permit = timeout(limits.upstream_wait_max, self.cache.fill_permits.acquire());
        let _permit = permit
            .await
            .map_err(|_| CacheError::Overloaded)?
            .map_err(|_| CacheError::Closed)?;
        // Before the upstream is asked: a store that cannot take the blob must not cost a request.
        let sink = self.stage().await?;
        let blob = self
            .cache
            .upstream_blob(&self.origin, self.digest, None, &self.caller)
            .await?;
        let size = self.agreed_size(&blob)?;
        let verified = self.spool(blob, size, sink.as_ref()).await?;
        // A blob that is empty, or that came without a length, can only be begun now.
        self.tell(Some(verified.size()), verified.size(), sink.as_ref());
        Ok(Filled { sink, verified })
    }

    /// A spool with nothing in it: what an earlier fill left is thrown away.
    async fn stage(&self) -> Result<Arc<dyn BlobSink>, CacheError> {
        loop {
            let stage = self.cache.stores.blobs.stage(self.digest, self.size);
            let sink = self.cache.store(StoreOperation::Write, stage).await?;
            if sink.kept() == 0 {
                return Ok(sink);
            }
            sink.discard();
        }
    }

    /// The size by the upstream and by the manifest, which must not disagree.
    fn agreed_size(&self, blob: &UpstreamBlob) -> Result<Option<u64>, CacheError> {
        if blob.start != 0 {
            let what = "it answered a range that was not asked for".to_owned();
            return Err(UpstreamError::Protocol { what }.into());
        }
        match (self.size, blob.size) {
            (Some(expected), Some(received)) if expected != received => {
                Err(CacheError::Length { expected, received })
            }
            (expected, told) => Ok(told.or(expected)),
        }
    }

    async fn spool(
        &self,
        mut blob: UpstreamBlob,
        size: Option<u64>,
        sink: &dyn BlobSink,
    ) -> Result<Verified, CacheError> {
        let mut hasher = Hasher::new(self.digest.algorithm());
        while let Some(chunk) = next_chunk(&mut blob, &self.cache.limits).await? {
            if let Some(expected) = size
                && hasher.size() + chunk.len() as u64 > expected
            {
                return Err(CacheError::Length {
                    expected,
                    received: expected + 1,
                });
            }
            let write = sink.write_at(hasher.size(), chunk.clone());
            self.cache.store(StoreOperation::Write, write).await?;
            hasher.update(&chunk);
            self.tell(size, hasher.size(), sink);
        }
        match size {
            Some(expected) if hasher.size() < expected => Err(CacheError::Length {
                expected,
                received: hasher.size(),
            }),
            _ => Ok(hasher.verify(self.digest)?),
        }
    }

    /// Tells readers what they can read. They learn of the blob with its first bytes, not before:
    /// an upstream that fails until then is an error they can answer with a status.
    fn tell(&self, size: Option<u64>, written: u64, sink: &dyn BlobSink) {
        self.progress.send_modify(|progress| {
            progress.written = written;
            if let (None, Some(size)) = (&progress.head, size) {
                progress.head = Some(Head {
                    size,
                    reader: sink.reader(),
                });
            }
        });
    }

    fn finish(&self, end: End) {
        self.progress
            .send_modify(|progress| progress.end = Some(end));
    }

    /// Ends without bytes to read: out of the table first, so that whoever learns of it, or comes
    /// from now on, begins anew.
    fn leave(self, end: End) {
        drop(self.registration);
        self.progress
            .send_modify(|progress| progress.end = Some(end));
    }

    /// Keeps what was verified. The link comes last: without the blob it would only cost a fill,
    /// but a blob without it costs no more than a HEAD.
    async fn commit(&self, filled: Filled) {
        let size = filled.verified.size();
        let commit = filled.sink.commit(filled.verified);
        if self
            .cache
            .store(StoreOperation::Commit, commit)
            .await
            .is_ok()
        {
            let link = Link {
                target: LinkTarget::Blob(self.digest),
                size: Some(size),
            };
            if self.cache.grant(&self.origin, vec![link]).await {
                self.cache.health.took();
            }
        }
    }
}
