//! How a fill gets its bytes together: in order, hashed in order, from whoever has them.
//!
//! The conductor goes from the first byte to the last. What nobody has, it fetches; what others
//! wrote ahead of it, it reads back; what others are fetching, it waits for. So what is hashed is
//! what stands in the spool, each byte written once (I1), and nothing is fetched twice that is
//! worth a request of its own.

use std::sync::Arc;

use super::fill::Errand;
use super::source::{Manner, Source};
use super::spool::{Spool, State, Step};
use super::{CacheError, Inner};
use crate::{
    BlobSink, ByteRange, Hasher, Limits, StoreError, StoreOperation, UpstreamError, Verified,
};

/// The one who puts a blob together.
pub(super) struct Conductor<'a> {
    cache: &'a Arc<Inner>,
    errand: &'a Errand,
    spool: &'a Arc<Spool>,
    sink: &'a Arc<dyn BlobSink>,
    source: Source,
    hasher: Hasher,
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
            hasher: Hasher::new(errand.digest.algorithm()),
            stride: Stride::default(),
        }
    }

    /// Gets every byte, and the proof that they are right; to be begun first.
    ///
    /// Dropping the future leaves what was checkpointed to the next fill.
    pub(super) async fn conduct(&mut self) -> Result<Verified, CacheError> {
        let jump = self.cache.limits.jump_bytes_min;
        loop {
            let at = self.hasher.size();
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
                Step::Fetch { until, bounded } => {
                    if bounded {
                        self.source.give_up_the_rest();
                    }
                    self.fetch(at, until).await?;
                }
            }
        }
        let size = self.hasher.size();
        self.source.finish(size).await?;
        let held = self.spool.look(|state| state.coverage.held_end());
        if held != size {
            // A part was sent that lies past the end.
            return Err(CacheError::Length {
                expected: size,
                received: held,
            });
        }
        let verified = self.hasher.clone().verify(self.errand.digest)?;
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
        self.spool.begin();
        Ok(())
    }

    /// Hashes a piece of what is held before `end`.
    async fn hash(&mut self, end: u64) -> Result<(), CacheError> {
        let at = self.hasher.size();
        let len = (end - at).min(self.cache.limits.chunk_bytes.max(1) as u64);
        let len = usize::try_from(len).expect("a chunk fits in memory");
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
        self.hasher.update(&chunk);
        self.advance();
        // A store that answers at once must not keep a runtime thread for the length of a blob.
        tokio::task::consume_budget().await;
        Ok(())
    }

    /// Gets some of the bytes from `at` on, which nobody had.
    async fn fetch(&mut self, at: u64, until: Option<u64>) -> Result<(), CacheError> {
        let (spool, limits, stride) = (self.spool, &self.cache.limits, &mut self.stride);
        let ask_until = || spool.look(|state| stride.until(state, at, limits));
        let Some(chunk) = self.source.next(at, until, ask_until).await? else {
            return self.spool.agree(Some(at));
        };
        let end = at + chunk.len() as u64;
        let wish = ByteRange::new(at, end).expect("its end is not before its start");
        // While these were on their way, a part may have begun before their end, or here.
        let Some(mut claim) = self.spool.claim(self.sink, wish) else {
            return Ok(());
        };
        let taken = claim.left().len();
        let chunk = chunk.slice(..usize::try_from(taken).expect("no longer than the chunk"));
        self.hasher.update(&chunk);
        claim.write(self.cache, chunk).await?;
        self.spool.begin();
        self.source.took(taken);
        self.advance();
        Ok(())
    }

    fn advance(&self) {
        let hashed = self.hasher.size();
        self.sink.checkpoint(hashed);
        self.spool.hashed(hashed);
    }
}
