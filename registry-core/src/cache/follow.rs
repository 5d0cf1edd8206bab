//! Readers of a fill: bodies that are read from its spool while it grows.
//!
//! A reader that is far ahead of the fill has parts fetched there, as it reads on. It keeps I2: no
//! body ends whole before the digest of the blob matches, and one that cannot ends in an error,
//! which the server turns into a connection closed short.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::time::timeout;

use super::extents::At;
use super::fill::Fill;
use super::spool::{End, Refusal, State};
use super::{CacheError, Inner};
use crate::{ByteRange, Limits, RangeRequest, SpoolReader, StoreError, StoreOperation};

/// The bytes of a served body.
pub(super) type Body = BoxStream<'static, Result<Bytes, CacheError>>;

/// How far into a blob of `size` bytes clients may read before it is verified.
pub(super) fn releasable(size: u64, limits: &Limits) -> u64 {
    // At least one byte is held back, or a whole body would be out before it is known to be right.
    size.saturating_sub(limits.held_back_bytes.max(1))
}

/// Someone who wants bytes of a blob that is being filled.
pub(super) struct Seeker {
    cache: Arc<Inner>,
    fill: Fill,
    range: Option<RangeRequest>,
    /// The length of the next part that is fetched ahead of the fill, at the most.
    segment_bytes: u64,
    /// Where the last such part was begun: trying once is enough to find out that it is not to be
    /// had.
    segment_at: Option<u64>,
    /// How little may be left of what is fetched before more is.
    read_ahead_bytes: u64,
    may_fetch: bool,
}

/// What became of looking for the first byte.
pub(super) enum Found {
    /// There is something to answer with.
    Ready(Ready),
    /// The fill has ended without.
    Ended(End),
    /// It is far ahead, and there is no place for it in the spool. There is the fill to wait for.
    NoPlace(Seeker),
}

/// What stands between a reader and the byte at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    /// None: it is here.
    None {
        /// And far ahead of the fill.
        is_far: bool,
    },
    /// It is on its way, ahead of the fill.
    Claimed,
    /// Nobody fetches it, and the fill is far from it.
    Gap,
    /// The fill, which will get there.
    Fill,
}

fn obstacle(state: &State, offset: u64, limits: &Limits) -> Obstacle {
    // What was kept is hashed once more, which is soon done; the fill's own download goes on behind it.
    let frontier = state.hashed.max(state.kept);
    let is_far = offset > frontier.saturating_add(limits.range_ahead_bytes_max);
    match state.coverage.at(offset) {
        // What was kept is nobody's before the upstream has answered.
        At::Held(_) if state.begun || offset >= state.kept => Obstacle::None { is_far },
        At::Claimed if is_far => Obstacle::Claimed,
        At::Free(_) if is_far && state.takes_segments() => Obstacle::Gap,
        At::Held(_) | At::Claimed | At::Free(_) => Obstacle::Fill,
    }
}

/// What is the case where someone looks for the first byte.
struct Survey {
    /// The fill has ended without the blob.
    end: Option<End>,
    begun: bool,
    wanted: Option<(ByteRange, Obstacle)>,
    /// The size, and where the bytes are.
    answer: Option<(u64, Arc<dyn SpoolReader>)>,
}

impl Seeker {
    pub(super) fn new(cache: &Arc<Inner>, fill: Fill, range: Option<RangeRequest>) -> Self {
        let limits = &cache.limits;
        let segment_bytes = match range {
            // It is told how much is wanted.
            Some(RangeRequest::FromTo { .. } | RangeRequest::Suffix { .. }) => {
                limits.segment_bytes_max
            }
            // It may be left after a little.
            Some(RangeRequest::From { .. }) | None => limits.segment_bytes_min,
        };
        Self {
            cache: Arc::clone(cache),
            fill,
            range,
            segment_bytes: segment_bytes.max(1),
            segment_at: None,
            read_ahead_bytes: 0,
            may_fetch: true,
        }
    }

    /// Waits until there is something to answer with: the first byte asked for where that is far
    /// ahead, any byte of the fill otherwise.
    pub(super) async fn find(mut self) -> Result<Found, CacheError> {
        loop {
            let Survey {
                end,
                begun,
                wanted,
                answer,
            } = self.survey()?;
            if let Some(end) = end {
                return Ok(Found::Ended(end));
            }
            let is_ready = match wanted {
                Some((_, Obstacle::None { is_far })) => begun || is_far,
                Some((wanted, Obstacle::Gap)) => match self.fetch(wanted) {
                    Fetch::Begun => false,
                    // The fill gets there in the end.
                    Fetch::Refused(Refusal::Wait) => begun,
                    Fetch::Refused(Refusal::NoPlace) => {
                        self.may_fetch = false;
                        return Ok(Found::NoPlace(self));
                    }
                },
                Some((_, Obstacle::Fill)) => begun,
                Some((_, Obstacle::Claimed)) | None => false,
            };
            if let (Some((size, reader)), Some((range, obstacle)), true) =
                (answer, wanted, is_ready)
            {
                return Ok(Found::Ready(Ready {
                    is_apart: obstacle == Obstacle::None { is_far: true },
                    seeker: self,
                    size,
                    reader,
                    range,
                }));
            }
            self.fill.changed().await;
        }
    }

    fn survey(&mut self) -> Result<Survey, CacheError> {
        let limits = &self.cache.limits;
        let state = self.fill.state();
        let end = match &state.end {
            None | Some(End::Whole) => None,
            Some(end) => Some(end.clone()),
        };
        let wanted = match end {
            // Why it ended says more than that there is no such range.
            Some(_) => None,
            None => wanted(self.range, state.size)?,
        };
        Ok(Survey {
            end,
            begun: state.begun,
            wanted: wanted.map(|wanted| (wanted, obstacle(&state, wanted.start(), limits))),
            answer: state.size.zip(state.reader()),
        })
    }

    /// Whether a part was fetched ahead of the fill for it.
    fn has_fetched(&self) -> bool {
        self.segment_at.is_some()
    }

    /// Has the first bytes of `wanted` fetched ahead of the fill.
    fn fetch(&mut self, wanted: ByteRange) -> Fetch {
        let start = wanted.start();
        if self.segment_at == Some(start) || !self.may_fetch {
            return Fetch::Refused(Refusal::Wait);
        }
        let end = wanted.end().min(start.saturating_add(self.segment_bytes));
        let wish = ByteRange::new(start, end).expect("its end is not before its start");
        match self.cache.begin_segment(&self.fill, wish) {
            Err(refusal) => Fetch::Refused(refusal),
            Ok(()) => {
                self.segment_at = Some(start);
                self.read_ahead_bytes = self.segment_bytes / 2;
                let doubled = self.segment_bytes.saturating_mul(2);
                self.segment_bytes = doubled.min(self.cache.limits.segment_bytes_max.max(1));
                Fetch::Begun
            }
        }
    }
}

enum Fetch {
    Begun,
    Refused(Refusal),
}

/// What is asked for, as far as that can be told; its end may lie past the blob's while the size is
/// not known.
fn wanted(range: Option<RangeRequest>, size: Option<u64>) -> Result<Option<ByteRange>, CacheError> {
    Ok(match (range, size) {
        (range, Some(size)) => Some(resolve(range, size)?),
        (Some(RangeRequest::From { first }), None) => ByteRange::new(first, u64::MAX),
        (Some(RangeRequest::FromTo { first, last }), None) => {
            ByteRange::new(first, last.saturating_add(1))
        }
        (Some(RangeRequest::Suffix { .. }) | None, None) => None,
    })
}

pub(super) fn resolve(range: Option<RangeRequest>, size: u64) -> Result<ByteRange, CacheError> {
    match range {
        None => Ok(ByteRange::whole(size)),
        Some(range) => range
            .resolve(size)
            .ok_or(CacheError::RangeNotSatisfiable { size }),
    }
}

/// A body that can be answered with.
pub(super) struct Ready {
    seeker: Seeker,
    pub(super) size: u64,
    pub(super) range: ByteRange,
    reader: Arc<dyn SpoolReader>,
    /// It begins with bytes that were fetched ahead of the fill.
    is_apart: bool,
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
        if self.is_apart {
            self.size
        } else {
            releasable(self.size, &self.seeker.cache.limits)
        }
    }

    /// Reads the range from the spool of the fill, as it grows.
    pub(super) fn into_body(self) -> Body {
        let line = self.line();
        let follower = Follower {
            position: self.range.start(),
            end: self.range.end(),
            line,
            seeker: self.seeker,
            size: self.size,
            reader: self.reader,
        };
        stream::try_unfold(follower, Follower::next).boxed()
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
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, CacheError> {
        if self.position == self.end {
            return Ok(None);
        }
        let until = loop {
            match self.look()? {
                Next::Read(until, ahead) => {
                    if let Some(ahead) = ahead {
                        // Where it cannot be had, it is seen to when it is needed.
                        let _ = self.fetch(ahead);
                    }
                    break until;
                }
                Next::Fetch => {
                    if let Fetch::Refused(_) = self.fetch(self.position) {
                        // Another may be done by the time that something changes.
                        self.seeker.fill.changed().await;
                    }
                }
                Next::Wait => self.seeker.fill.changed().await,
            }
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

    fn look(&mut self) -> Result<Next, CacheError> {
        let (position, limits) = (self.position, &self.seeker.cache.limits);
        let state = self.seeker.fill.state();
        let held = match state.coverage.at(position) {
            At::Held(end) => end,
            At::Claimed | At::Free(_) => position,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::spool::Spool;
    use crate::{Algorithm, BlobStore as _, Hasher, MemoryStore};

    #[tokio::test]
    async fn what_was_kept_is_not_far_ahead_while_it_is_hashed_again() {
        let limits = Limits::default();
        let kept = limits.range_ahead_bytes_max * 2;
        let store = MemoryStore::new();
        let digest = Hasher::digest_of(Algorithm::Sha256, b"");
        let left = store.stage(digest, None).await.unwrap();
        let bytes = Bytes::from(vec![0; usize::try_from(kept).unwrap()]);
        left.write_at(0, bytes).await.unwrap();
        left.checkpoint(kept);
        drop(left);

        let spool = Arc::new(Spool::new(Some(kept * 4), false));
        let sink = store.stage(digest, None).await.unwrap();
        spool.attach(&sink);
        spool.begin();
        let obstacle = |offset| spool.look(|state| super::obstacle(state, offset, &limits));
        assert_eq!(obstacle(kept - 1), Obstacle::None { is_far: false });
        assert_eq!(obstacle(kept), Obstacle::Fill);
        let reached = kept + limits.range_ahead_bytes_max;
        assert_eq!(obstacle(reached), Obstacle::Fill);
        assert_eq!(obstacle(reached + 1), Obstacle::Gap);
    }
}
