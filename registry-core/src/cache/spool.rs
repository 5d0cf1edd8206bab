//! What all who work on one fill share: its spool, who owns which bytes of it, and how it is going.
//!
//! Writers go through a [`Claim`], which nobody else has the bytes of. What this tells only ever
//! grows: a size, more bytes, an end. An end that is a failure is never mistaken for the end of the
//! bytes, since both are told apart by type.

use std::sync::{Arc, Weak};

use tokio::sync::watch;

use super::chunks::Chunks;
use super::extents::{At, Coverage};
use super::{CacheError, Inner};
use crate::{BlobSink, ByteRange, SpoolReader, StoreError, StoreOperation};

/// A fill's spool and its state.
#[derive(Default)]
pub(super) struct Spool {
    state: watch::Sender<State>,
}

/// How far a fill has come.
#[derive(Default)]
pub(super) struct State {
    /// Size of the blob in bytes, once anybody was told.
    pub(super) size: Option<u64>,
    /// The fill waits for its turn.
    queued: bool,
    /// Where the bytes are, once there is such a place.
    file: Option<File>,
    /// Whether the fill's own download has brought bytes, so that there is something to answer
    /// with: an upstream that fails until then is an error with a status.
    pub(super) begun: bool,
    /// Bytes from the beginning that an earlier fill left. Nobody may read them before the upstream
    /// has answered this one.
    pub(super) kept: u64,
    /// Bytes from the beginning that were hashed.
    pub(super) hashed: u64,
    /// Which bytes are held, and which are being fetched.
    pub(super) coverage: Coverage,
    /// Parts may not be fetched apart from the rest: the upstream is known not to serve ranges, or
    /// not to serve them right.
    pub(super) whole_only: bool,
    /// Whether any bytes were fetched apart from the first request.
    pieced: bool,
    /// The upstream is known to serve ranges.
    ranged: bool,
    /// Who sent the first of the bytes.
    pub(super) endpoint: Option<Arc<str>>,
    /// Parts that are being fetched apart from the rest.
    segments: usize,
    /// How many were begun in all.
    pub(super) segments_begun: u64,
    /// Why the spool is of no use any more.
    broken: Option<CacheError>,
    /// The fill is about to end: nothing new begins, and what goes on beside it stops.
    ending: bool,
    /// How it ended.
    pub(super) end: Option<End>,
    /// What the store made of it, once that is known.
    pub(super) settled: Option<Result<(), StoreError>>,
}

struct File {
    // Whoever reads a fill must not keep an unfinished spool from the next one.
    sink: Weak<dyn BlobSink>,
    reader: Arc<dyn SpoolReader>,
}

/// How a fill ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// Every byte is in the spool, and the digest matches.
    Whole,
    /// It never began: an earlier fill had committed the blob just before.
    Stored,
    /// There are not, or not all, of the right bytes.
    Failed(CacheError),
    /// Its task died: a panic, or the end of the cache.
    Lost,
}

impl State {
    /// Where the bytes can be read, once there is such a place.
    pub(super) fn reader(&self) -> Option<Arc<dyn SpoolReader>> {
        self.file.as_ref().map(|file| Arc::clone(&file.reader))
    }

    /// Where the bytes end, from the beginning on, that stay as they are whatever becomes of the
    /// fill. What is beyond was not checkpointed: the store may give it up with the sink.
    pub(super) fn lasting(&self) -> u64 {
        let kept = if self.begun { self.kept } else { 0 };
        self.hashed.max(kept)
    }

    /// Whether parts may be fetched apart from the rest now.
    pub(super) fn takes_segments(&self) -> bool {
        let is_over = self.ending || self.end.is_some() || self.broken.is_some();
        !is_over && !self.whole_only && (self.file.is_some() || self.queued)
    }

    fn agree(&mut self, told: Option<u64>) -> Result<(), CacheError> {
        let Some(told) = told else { return Ok(()) };
        let least = self.coverage.held_end().max(self.kept);
        match self.size {
            Some(size) if size != told => Err(CacheError::Length {
                expected: size,
                received: told,
            }),
            _ if told < least => Err(CacheError::Length {
                expected: told,
                received: least,
            }),
            _ => {
                self.size = Some(told);
                Ok(())
            }
        }
    }
}

/// Why a part is not fetched apart from the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Not now, or not of this upstream: the fill gets there in the end.
    Wait,
    /// There is no place for it: the spool is in too many pieces already, or the fill still waits
    /// for its turn.
    NoPlace,
}

impl Spool {
    /// A spool of which the size is known already, or not. Parts may be fetched apart from the rest
    /// unless `whole_only`.
    pub(super) fn new(size: Option<u64>, whole_only: bool) -> Self {
        let state = State {
            size,
            whole_only,
            ..State::default()
        };
        Self {
            state: watch::Sender::new(state),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Whether the fill waits for its turn.
    pub(super) fn set_queued(&self, queued: bool) {
        self.state
            .send_if_modified(|state| std::mem::replace(&mut state.queued, queued) != queued);
    }

    /// The place to write to is here, with what it holds already.
    pub(super) fn attach(&self, sink: &Arc<dyn BlobSink>) {
        self.state.send_modify(|state| {
            let kept = sink.kept();
            state.kept = kept;
            state.pieced |= kept > 0;
            state.coverage.hold(ByteRange::whole(kept));
            state.file = Some(File {
                sink: Arc::downgrade(sink),
                reader: sink.reader(),
            });
        });
    }

    /// Takes note of a size, which must be the one that is known, where one is.
    pub(super) fn agree(&self, told: Option<u64>) -> Result<(), CacheError> {
        let mut agreed = Ok(());
        self.state.send_if_modified(|state| {
            let before = state.size;
            agreed = state.agree(told);
            before != state.size
        });
        agreed
    }

    /// The upstream has sent what there is to answer with.
    pub(super) fn begin(&self) {
        self.state
            .send_if_modified(|state| !std::mem::replace(&mut state.begun, true));
    }

    /// So many bytes from the beginning were hashed, and checkpointed.
    pub(super) fn hashed(&self, bytes: u64) {
        self.state.send_modify(|state| state.hashed = bytes);
    }

    /// The store has taken all of it, or has not.
    pub(super) fn settle(&self, outcome: Result<(), StoreError>) {
        self.state
            .send_modify(|state| state.settled = Some(outcome));
    }

    /// Whoever would have said what the store made of it is gone.
    pub(super) fn abandon(&self) {
        self.state.send_if_modified(|state| {
            let is_open = state.settled.is_none();
            if is_open {
                state.settled = Some(Err(StoreError::Closed {
                    operation: StoreOperation::Commit,
                }));
            }
            is_open
        });
    }

    /// Somebody sends bytes; of several, the first is remembered.
    pub(super) fn sent_by(&self, endpoint: Option<&Arc<str>>) {
        self.state.send_if_modified(|state| {
            if state.endpoint.is_none() {
                state.endpoint = endpoint.cloned();
            }
            false
        });
    }

    /// The upstream does not serve ranges.
    pub(super) fn set_whole_only(&self) {
        self.state
            .send_if_modified(|state| !std::mem::replace(&mut state.whole_only, true));
    }

    /// The upstream serves ranges.
    pub(super) fn set_ranged(&self) {
        self.state.send_if_modified(|state| {
            state.ranged = true;
            false
        });
    }

    /// Bytes were, or are about to be, fetched apart from the first request.
    pub(super) fn set_pieced(&self) {
        self.state.send_if_modified(|state| {
            state.pieced = true;
            false
        });
    }

    /// The size, where it is known, and whether there is nothing to be had but the whole.
    pub(super) fn outlook(&self) -> (Option<u64>, bool) {
        let state = self.state.borrow();
        (state.size, state.whole_only)
    }

    /// What is the case now.
    pub(super) fn look<T>(&self, at: impl FnOnce(&State) -> T) -> T {
        at(&self.state.borrow())
    }

    /// Waits until something is the case.
    pub(super) async fn wait(&self, is_met: impl FnMut(&State) -> bool) {
        let mut state = self.state.subscribe();
        // The sender is `self`, so that this ends only so.
        let _ = state.wait_for(is_met).await;
    }

    /// What the fill's own download does next at `offset`.
    pub(super) fn step(&self, offset: u64, jump_bytes_min: u64) -> Step {
        self.state.borrow().step(offset, jump_bytes_min)
    }

    /// Whether any bytes were fetched apart from the first request, which are as good as the
    /// upstream's ranges are.
    pub(super) fn is_pieced(&self) -> bool {
        self.state.borrow().pieced
    }

    /// How the fill ends, unless it is told that already.
    pub(super) fn end(&self, end: End) {
        self.state.send_if_modified(|state| {
            let is_first = state.end.is_none();
            state.end.get_or_insert(end);
            is_first
        });
    }

    /// Waits until the spool is of no use any more.
    pub(super) async fn broken(&self) -> CacheError {
        self.wait(|state| state.broken.is_some()).await;
        let broken = self.look(|state| state.broken.clone());
        broken.unwrap_or(CacheError::Lost)
    }

    /// Waits until what goes on beside the fill has to stop.
    pub(super) async fn ending(&self) {
        self.wait(|state| state.ending || state.end.is_some() || state.broken.is_some())
            .await;
    }

    /// Stops what goes on beside the fill, and waits until it has let go of the spool.
    pub(super) async fn quiesce(&self) {
        self.state.send_if_modified(|state| {
            state.ending = true;
            state.segments > 0
        });
        self.wait(|state| state.segments == 0).await;
    }

    /// Claims the bytes at the start of `wish`, as many of them as nobody else has.
    pub(super) fn claim(
        self: &Arc<Self>,
        sink: &Arc<dyn BlobSink>,
        wish: ByteRange,
    ) -> Option<Claim> {
        let mut claimed = None;
        self.state.send_if_modified(|state| {
            claimed = state.coverage.claim(wish);
            false
        });
        Some(Claim {
            spool: Arc::clone(self),
            sink: Arc::clone(sink),
            left: claimed?,
            writing: None,
        })
    }

    /// Claims a part that is to be fetched apart from the rest.
    pub(super) fn claim_segment(
        self: &Arc<Self>,
        wish: ByteRange,
        pieces_max: usize,
    ) -> Result<SegmentClaim, Refusal> {
        let mut outcome = Err(Refusal::Wait);
        self.state.send_if_modified(|state| {
            if !state.takes_segments() {
                return false;
            }
            if state.queued || state.coverage.pieces() >= pieces_max {
                outcome = Err(Refusal::NoPlace);
                return false;
            }
            let sink = state.file.as_ref().and_then(|file| file.sink.upgrade());
            let Some(sink) = sink else { return false };
            let end = state.size.unwrap_or(u64::MAX).min(wish.end());
            let wish = ByteRange::new(wish.start(), end);
            if let Some(left) = wish.and_then(|wish| state.coverage.claim(wish)) {
                state.segments += 1;
                state.segments_begun += 1;
                state.pieced = true;
                outcome = Ok((sink, left));
            }
            false
        });
        // Made outside of the state's lock, which dropping one takes.
        outcome.map(|(sink, left)| SegmentClaim {
            claim: Claim {
                spool: Arc::clone(self),
                sink,
                left,
                writing: None,
            },
            _counted: Counted(Arc::clone(self)),
        })
    }
}

/// Bytes that only the owner of this may write. Those that were not written when it is dropped are
/// anybody's again.
pub(super) struct Claim {
    spool: Arc<Spool>,
    sink: Arc<dyn BlobSink>,
    left: ByteRange,
    /// The bytes of a write that is under way, or has failed, so that what it has done is not known;
    /// or is done and not yet told.
    writing: Option<ByteRange>,
}

impl Claim {
    /// The bytes that are still to be written.
    pub(super) fn left(&self) -> ByteRange {
        self.left
    }

    /// Writes the next bytes, of which there are no more than are left; to be followed by
    /// [`Self::hold`].
    ///
    /// Where it fails, or is dropped, nobody can tell what stands there now: the whole spool is
    /// broken then (I1).
    pub(super) async fn write(&mut self, cache: &Inner, chunks: &Chunks) -> Result<(), CacheError> {
        let start = self.left.start();
        let end = start + chunks.bytes();
        let (Some(writing), Some(left)) = (
            ByteRange::new(start, end),
            ByteRange::new(end, self.left.end()),
        ) else {
            unreachable!("a chunk is cut to its claim");
        };
        self.writing = Some(writing);
        let write = self.sink.write_chunks_at(start, chunks.to_vec());
        if let Err(error) = cache.store(StoreOperation::Write, write).await {
            self.break_spool(error.clone().into());
            return Err(error.into());
        }
        self.left = left;
        Ok(())
    }

    /// Tells that what was written is held, and what is so besides from now on.
    pub(super) fn hold(&mut self, besides: impl FnOnce(&mut State)) {
        let written = self.writing.take();
        self.spool.state.send_modify(|state| {
            if let Some(written) = written {
                state.coverage.hold(written);
            }
            besides(state);
        });
    }

    fn break_spool(&self, error: CacheError) {
        self.spool.state.send_modify(|state| {
            state.broken.get_or_insert(error);
        });
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.writing.is_some() {
            self.break_spool(CacheError::Lost);
        }
        if !self.left.is_empty() {
            let left = self.left;
            self.spool
                .state
                .send_modify(|state| state.coverage.release(left));
        }
    }
}

/// The claim of a part that is fetched apart from the rest.
pub(super) struct SegmentClaim {
    // Before the count, since fields are dropped in order: once nobody is counted, nobody has the
    // sink.
    claim: Claim,
    _counted: Counted,
}

impl SegmentClaim {
    /// What is claimed of a blob of this size, which may not have been known before.
    pub(super) fn claim_within(&mut self, size: Option<u64>) -> &mut Claim {
        let left = self.claim.left;
        let end = size.map_or(left.end(), |size| size.clamp(left.start(), left.end()));
        let (Some(within), Some(past)) = (
            ByteRange::new(left.start(), end),
            ByteRange::new(end, left.end()),
        ) else {
            unreachable!("the end lies in between");
        };
        if !past.is_empty() {
            self.claim.left = within;
            let state = &self.claim.spool.state;
            state.send_modify(|state| state.coverage.release(past));
        }
        &mut self.claim
    }
}

struct Counted(Arc<Spool>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.segments -= 1);
    }
}

/// What the fill's own download does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: every byte was hashed.
    Done,
    /// Hash what is held, up to this offset.
    Hash(u64),
    /// Wait for whoever is fetching the next bytes.
    Wait,
    /// Fetch what nobody has.
    Fetch {
        /// Much of what comes after is here already, or will be, and need not be asked for.
        bounded: bool,
    },
}

impl State {
    /// Up to where nobody has the bytes from `offset` on; to the end of the blob where that is not
    /// told.
    pub(super) fn free_until(&self, offset: u64) -> Option<u64> {
        match self.coverage.at(offset) {
            At::Free(until) => until,
            At::Held(_) | At::Claimed => Some(offset),
        }
    }

    /// What comes next at `offset`. What is taken in runs of at least `jump_bytes_min` is much.
    pub(super) fn step(&self, offset: u64, jump_bytes_min: u64) -> Step {
        if self.size == Some(offset) {
            return Step::Done;
        }
        match self.coverage.at(offset) {
            At::Held(end) => Step::Hash(end),
            At::Claimed => Step::Wait,
            At::Free(_) => Step::Fetch {
                bounded: self.ranged
                    && !self.whole_only
                    && self
                        .coverage
                        .long_run_past(offset, jump_bytes_min)
                        .is_some(),
            },
        }
    }
}
