//! How a fill gets its bytes together: in order, hashed in order, from whoever has them.
//!
//! The conductor goes from the first byte to the last. What nobody has, it fetches; what others
//! wrote ahead of it, it reads back; what others are fetching, it waits for. So what is hashed is
//! what stands in the spool, each byte written once (I1), and nothing is fetched twice that is
//! worth a request of its own.

use std::mem;
use std::sync::Arc;

use futures::join;
use tokio::task::yield_now;

use super::digesting::Digesting;
use super::fill::Errand;
use super::source::{Manner, Source};
use super::spool::{Spool, State, Step};
use super::{CacheError, Inner};
use crate::{BlobSink, ByteRange, Limits, StoreError, StoreOperation, UpstreamError, Verified};

/// The one who puts a blob together.
pub(super) struct Conductor<'a> {
    cache: &'a Arc<Inner>,
    errand: &'a Errand,
    spool: &'a Arc<Spool>,
    sink: &'a Arc<dyn BlobSink>,
    source: Source,
    digesting: Digesting,
    stride: Stride,
}

/// How much is asked for at a time, while clients read ahead: a request that runs into what they
/// have had fetched meanwhile has asked for too much.
#[derive(Default)]
struct Stride {
    bytes: u64,
    segments_begun: u64,
}

impl Stride {
    /// Up to where to ask from `at` on; to the end of the blob where nobody reads ahead.
    fn until(&mut self, state: &State, at: u64, limits: &Limits) -> Option<u64> {
        if state.segments_begun == 0 {
            return None;
        }
        self.bytes = if self.segments_begun == state.segments_begun {
            self.bytes.saturating_mul(2)
        } else {
            limits.segment_bytes_max.max(1)
        };
        self.segments_begun = state.segments_begun;
        // Past `at`: nobody has that, or only just now.
        let taken = state.coverage.long_run_past(at + 1, limits.jump_bytes_min);
        let end = taken.or(state.size).unwrap_or(u64::MAX);
        Some(end.min(at.saturating_add(self.bytes)))
    }
}

impl<'a> Conductor<'a> {
    pub(super) fn new(
        cache: &'a Arc<Inner>,
        errand: &'a Errand,
        spool: &'a Arc<Spool>,
        sink: &'a Arc<dyn BlobSink>,
        whole_only: bool,
    ) -> Self {
        let manner = if whole_only {
            Manner::AtOnce
        } else {
            Manner::Persistent
        };
        Self {
            cache,
            errand,
            spool,
            sink,
            source: Source::new(cache, errand, spool, manner),
            digesting: Digesting::in_task(cache, errand.digest),
            stride: Stride::default(),
        }
    }

    /// Gets every byte, and the proof that they are right; to be begun first, and where there is
    /// room for them: answers begin here.
    ///
    /// Dropping the future leaves what was checkpointed to the next fill.
    pub(super) async fn conduct(&mut self) -> Result<Verified, CacheError> {
        if self.spool.look(|state| state.kept) > 0 {
            self.spool.begin();
        }
        let jump = self.cache.limits.jump_bytes_min;
        loop {
            let at = self.digesting.bytes();
            match self.spool.step(at, jump) {
                Step::Done => break,
                Step::Hash(end) => {
                    self.source.pass_over(end);
                    self.hash(end).await?;
                }
                Step::Wait => {
                    let is_over = |state: &State| state.step(at, jump) != Step::Wait;
                    self.spool.wait(is_over).await;
                }
                Step::Fetch { bounded } => {
                    if bounded {
                        self.source.give_up_the_rest();
                    }
                    self.fetch(at).await?;
                }
            }
        }
        let size = self.digesting.bytes();
        self.source.finish(size).await?;
        let held = self.spool.look(|state| state.coverage.held_end());
        if held != size {
            // A part was sent that lies past the end.
            return Err(CacheError::Length {
                expected: size,
                received: held,
            });
        }
        let verified = self.digesting.verify(self.errand.digest)?;
        // A blob that is empty, or that came without a length, can only be begun now.
        self.spool.begin();
        Ok(verified)
    }

    /// Asks the upstream for what comes after the kept bytes: its answer is the proof that they may
    /// be had here. Where there is nothing to come, a link is.
    pub(super) async fn begin(&mut self, is_linked: bool) -> Result<(), CacheError> {
        let (kept, size) = self.spool.look(|state| (state.kept, state.size));
        if kept == 0 {
            return self.source.open(0, None).await;
        }
        if size != Some(kept) || !is_linked {
            match self.source.open(kept, None).await {
                // It cannot be asked for a part. That must not keep the blob from whoever could
                // have all of it: what is kept would be kept for the next fill, and the next.
                Err(CacheError::Upstream(UpstreamError::Protocol { .. })) => {
                    self.spool.set_whole_only();
                    self.source.open(0, None).await?;
                }
                opened => opened?,
            }
        }
        tracing::debug!(digest = %self.errand.digest, kept, "going on with an unfinished blob");
        self.source.took(0);
        Ok(())
    }

    /// Hashes a piece of what is held before `end`.
    async fn hash(&mut self, end: u64) -> Result<(), CacheError> {
        let at = self.digesting.bytes();
        let len = (end - at).min(self.cache.limits.batch_bytes_max.max(1));
        let len = usize::try_from(len).expect("a batch fits in memory");
        let reader = self.spool.look(State::reader);
        let reader = reader.expect("what is held is held somewhere");
        let read = reader.read_at(at, len);
        let chunk = self.cache.store(StoreOperation::Read, read).await?;
        if chunk.is_empty() {
            return Err(CacheError::Store(StoreError::Corrupt {
                operation: StoreOperation::Read,
                what: "written bytes cannot be read back",
            }));
        }
        self.digesting.take(vec![chunk]).await?;
        self.spool.hashed(self.checkpoint());
        // A store that answers at once must not keep a runtime thread for the length of a blob.
        tokio::task::consume_budget().await;
        Ok(())
    }

    /// Gets some of the bytes from `at` on, which nobody had.
    async fn fetch(&mut self, at: u64) -> Result<(), CacheError> {
        let (spool, limits, stride) = (self.spool, &self.cache.limits, &mut self.stride);
        // While they are waited for, a part may begin before their end, or here.
        let until = || spool.look(|state| state.free_until(at));
        let ask_until = || spool.look(|state| stride.until(state, at, limits));
        let Some(chunks) = self.source.next(at, until, ask_until).await? else {
            return self.spool.agree(Some(at));
        };
        let end = at + chunks.bytes();
        let wish = ByteRange::new(at, end).expect("its end is not before its start");
        let Some(mut claim) = self.spool.claim(self.sink, wish) else {
            return Ok(());
        };
        let taken = claim.left().len();
        let chunks = chunks.first(taken);
        // In this order: it is written by another thread, while this one may be the one that hashes.
        let write = claim.write(self.cache, &chunks);
        let (written, digested) = join!(write, self.digesting.take(chunks.to_vec()));
        written.and(digested)?;
        self.source.took(taken);
        let hashed = self.checkpoint();
        let mut begins = false;
        claim.hold(|state| {
            state.hashed = hashed;
            begins = !mem::replace(&mut state.begun, true);
        });
        if begins {
            // An answer begins with the first bytes, however soon the last are here.
            yield_now().await;
        }
        Ok(())
    }

    /// Has the next fill go on behind what was hashed; how much that is. Before anybody is told of
    /// it: what is read of it stays as it is, whatever becomes of this fill.
    fn checkpoint(&self) -> u64 {
        let hashed = self.digesting.bytes();
        self.sink.checkpoint(hashed);
        hashed
    }
}
