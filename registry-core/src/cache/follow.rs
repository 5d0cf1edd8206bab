//! Readers of a fill: bodies that are read from its spool while it grows.
//!
//! They keep I2: no body ends whole before the digest of the blob matches, and one that cannot ends
//! in an error, which the server turns into a connection closed short.
//!
//! A reader that goes along with the fill is given slices of the file that it grows in, where there
//! is one: whoever sends them copies nothing. They are read late, so that they may only be of bytes
//! that stay what they are whatever becomes of the fill: those that were hashed, and with that
//! checkpointed, and those that an earlier fill left. One that reads ahead of the fill is given
//! bytes, which are read while it is known what they are.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::time::timeout;

use super::CacheError;
use super::extents::At;
use super::seek::{Fetch, Obstacle, Seeker, obstacle};
use super::spool::End;
use crate::{BlobPayload, ByteRange, FileSlice, Limits, SpoolReader, StoreError, StoreOperation};

/// The bytes of a served body.
pub(super) type Body = BoxStream<'static, Result<Bytes, CacheError>>;

/// How far into a blob of `size` bytes clients may read before it is verified.
pub(super) fn releasable(size: u64, limits: &Limits) -> u64 {
    // At least one byte is held back, or a whole body would be out before it is known to be right.
    size.saturating_sub(limits.held_back_bytes.max(1))
}

/// A body that can be answered with.
pub(super) struct Ready {
    pub(super) seeker: Seeker,
    pub(super) size: u64,
    pub(super) range: ByteRange,
    pub(super) reader: Arc<dyn SpoolReader>,
    /// What stands between it and its first byte.
    pub(super) obstacle: Obstacle,
}

impl Ready {
    /// Whether parts were fetched ahead of the fill for it.
    pub(super) fn has_fetched(&self) -> bool {
        self.seeker.has_fetched()
    }

    /// Waits for the end of the fill, where nothing could be sent before the digest is known: then
    /// a failure can still be a status instead of a body that breaks off.
    pub(super) async fn verdict(&mut self) -> Option<End> {
        let is_held_back = self.range.start() >= self.line();
        if is_held_back {
            Some(self.seeker.fill.ended().await)
        } else {
            None
        }
    }

    /// Where the bytes end that may be sent before the digest is known.
    ///
    /// Whoever begins far ahead of the fill asks for parts, and has to check the whole that they
    /// make up; waiting for the fill would take as long as the whole does. Everybody else gets the
    /// last bytes only when they are known to be right (I2).
    fn line(&self) -> u64 {
        if self.obstacle == (Obstacle::None { is_far: true }) {
            self.size
        } else {
            releasable(self.size, &self.seeker.cache.limits)
        }
    }

    /// Reads the range from the spool of the fill, as it grows.
    pub(super) fn into_payload(mut self) -> BlobPayload<CacheError> {
        let file = self.reader.file().filter(|_| self.goes_along());
        let follower = Follower {
            position: self.range.start(),
            end: self.range.end(),
            line: self.line(),
            seeker: self.seeker,
            size: self.size,
            reader: self.reader,
            takes_lasting: file.is_some(),
        };
        match file {
            Some(file) => {
                let next = move |follower: Follower| follower.next_slice(Arc::clone(&file));
                BlobPayload::Slices(stream::try_unfold(follower, next).boxed())
            }
            None => {
                let bytes = stream::try_unfold(follower, Follower::next_bytes);
                BlobPayload::Stream(bytes.boxed())
            }
        }
    }

    /// Whether it loses nothing by waiting until the fill has hashed what it reads.
    fn goes_along(&mut self) -> bool {
        let start = self.range.start();
        match self.obstacle {
            Obstacle::None { .. } => start < self.seeker.fill.state().lasting(),
            Obstacle::Fill => true,
            Obstacle::Claimed | Obstacle::Gap => false,
        }
    }
}

struct Follower {
    seeker: Seeker,
    size: u64,
    reader: Arc<dyn SpoolReader>,
    position: u64,
    end: u64,
    /// Where the bytes end that may be sent before the digest is known.
    line: u64,
    /// It takes only bytes that stay what they are, whatever becomes of the fill.
    takes_lasting: bool,
}

/// What a follower does next.
enum Next {
    /// Reads up to this offset; after it has seen to the bytes from the second one on.
    Read(u64, Option<u64>),
    /// Has the next bytes fetched ahead of the fill.
    Fetch,
    Wait,
}

impl Follower {
    async fn next_slice(
        mut self,
        file: Arc<File>,
    ) -> Result<Option<(FileSlice, Self)>, CacheError> {
        let Some(until) = self.readable().await? else {
            return Ok(None);
        };
        let bytes_max = self.seeker.cache.limits.slice_bytes_max.max(1);
        let end = until.min(self.position.saturating_add(bytes_max));
        let range = ByteRange::new(self.position, end).expect("it is past where it reads");
        self.position = end;
        Ok(Some((FileSlice { file, range }, self)))
    }

    async fn next_bytes(mut self) -> Result<Option<(Bytes, Self)>, CacheError> {
        let Some(until) = self.readable().await? else {
            return Ok(None);
        };
        let limits = &self.seeker.cache.limits;
        let wanted = (until - self.position).min(limits.chunk_bytes.max(1) as u64);
        let wanted = usize::try_from(wanted).expect("a chunk fits in memory");
        let read = self.reader.read_at(self.position, wanted);
        let chunk = timeout(limits.store_wait_max, read).await.map_err(|_| {
            let operation = StoreOperation::Read;
            StoreError::Timeout { operation }
        })??;
        if chunk.is_empty() {
            // Written bytes cannot be read back: without this, the body would never end.
            return Err(CacheError::Length {
                expected: self.size,
                received: self.position,
            });
        }
        self.position += chunk.len() as u64;
        Ok(Some((chunk, self)))
    }

    /// Waits for bytes that may be read, and tells where they end; `None` at the end of the body.
    async fn readable(&mut self) -> Result<Option<u64>, CacheError> {
        if self.position == self.end {
            return Ok(None);
        }
        loop {
            match self.look()? {
                Next::Read(until, ahead) => {
                    if let Some(ahead) = ahead {
                        // Where it cannot be had, it is seen to when it is needed.
                        let _ = self.fetch(ahead);
                    }
                    return Ok(Some(until));
                }
                Next::Fetch => {
                    if let Fetch::Refused(_) = self.fetch(self.position) {
                        // Another may be done by the time that something changes.
                        self.seeker.fill.changed().await;
                    }
                }
                Next::Wait => self.seeker.fill.changed().await,
            }
        }
    }

    fn look(&mut self) -> Result<Next, CacheError> {
        let (position, limits) = (self.position, &self.seeker.cache.limits);
        let state = self.seeker.fill.state();
        let held = match state.coverage.at(position) {
            At::Held(end) => end,
            At::Claimed | At::Free(_) => position,
        };
        let held = if self.takes_lasting {
            held.min(state.lasting())
        } else {
            held
        };
        let readable = match &state.end {
            // What is known to be wrong is not sent any more.
            Some(End::Failed(error)) if error.is_mismatch() => return Err(error.clone()),
            // What came before a cut is worth as much as it was before: a client resumes after it.
            // The store keeps no more than was in order.
            Some(End::Failed(_) | End::Lost | End::Stored) => held.min(self.line).min(state.hashed),
            Some(End::Whole) => held,
            None => held.min(self.line),
        };
        let readable = readable.min(self.end);
        if readable > position {
            let ahead = state.coverage.run_end(position);
            let is_short = ahead - position <= self.seeker.read_ahead_bytes;
            let is_gap = ahead < self.end && obstacle(&state, ahead, limits) == Obstacle::Gap;
            return Ok(Next::Read(readable, (is_short && is_gap).then_some(ahead)));
        }
        match &state.end {
            Some(End::Failed(error)) => Err(error.clone()),
            Some(End::Lost | End::Stored | End::Whole) => Err(CacheError::Lost),
            None if position < self.line && obstacle(&state, position, limits) == Obstacle::Gap => {
                Ok(Next::Fetch)
            }
            None => Ok(Next::Wait),
        }
    }

    fn fetch(&mut self, from: u64) -> Fetch {
        let wanted = ByteRange::new(from, self.end).expect("it is before the end");
        self.seeker.fetch(wanted)
    }
}
