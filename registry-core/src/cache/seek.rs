//! Whoever wants bytes of a fill looks for the first of them: where that is far ahead, a part is
//! fetched there, and more of them as it reads on.

use std::sync::Arc;

use super::extents::At;
use super::fill::Fill;
use super::follow::Ready;
use super::spool::{End, Refusal, State};
use super::{CacheError, Inner};
use crate::{ByteRange, Limits, RangeRequest, SpoolReader};

/// Someone who wants bytes of a blob that is being filled.
pub(super) struct Seeker {
    pub(super) cache: Arc<Inner>,
    pub(super) fill: Fill,
    range: Option<RangeRequest>,
    /// The length of the next part that is fetched ahead of the fill, at the most.
    segment_bytes: u64,
    /// Where the last such part was begun: trying once is enough to find out that it is not to be
    /// had.
    segment_at: Option<u64>,
    /// How little may be left of what is fetched before more is.
    pub(super) read_ahead_bytes: u64,
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
pub(super) enum Obstacle {
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

pub(super) fn obstacle(state: &State, offset: u64, limits: &Limits) -> Obstacle {
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
                    seeker: self,
                    size,
                    range,
                    reader,
                    obstacle,
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
    pub(super) fn has_fetched(&self) -> bool {
        self.segment_at.is_some()
    }

    /// Has the first bytes of `wanted` fetched ahead of the fill.
    pub(super) fn fetch(&mut self, wanted: ByteRange) -> Fetch {
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

/// What came of it.
pub(super) enum Fetch {
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

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
