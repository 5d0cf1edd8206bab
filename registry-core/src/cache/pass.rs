//! Bodies that are passed through, from the upstream to one client, without being kept.
//!
//! They keep I2: a whole body does not end well before its digest matches, and one that cannot ends
//! in an error, which the server turns into a connection closed short.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::digesting::Digesting;
use super::follow::{Body, releasable};
use super::{CacheError, Inner};
use crate::{ByteRange, Digest, Limits, UpstreamBlob, UpstreamError};

/// Passes a whole blob through without keeping it, verified on the way.
pub(super) fn pass_whole(
    blob: UpstreamBlob,
    digest: Digest,
    size: u64,
    permit: OwnedSemaphorePermit,
    cache: &Arc<Inner>,
) -> Body {
    let whole = Whole {
        blob,
        digest,
        size,
        digesting: Some(Digesting::in_answer(cache, digest)),
        held: VecDeque::new(),
        released: 0,
        cache: Arc::clone(cache),
        _permit: permit,
    };
    stream::try_unfold(whole, Whole::next).boxed()
}

struct Whole {
    blob: UpstreamBlob,
    digest: Digest,
    size: u64,
    /// Gone once the digest was found to match.
    digesting: Option<Digesting>,
    /// Bytes that came and were not given out yet.
    held: VecDeque<Bytes>,
    released: u64,
    cache: Arc<Inner>,
    _permit: OwnedSemaphorePermit,
}

impl Whole {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, CacheError> {
        loop {
            let releasable = match self.digesting {
                Some(_) => releasable(self.size, &self.cache.limits),
                None => self.size,
            };
            if let Some(chunk) = self.release(releasable) {
                return Ok(Some((chunk, self)));
            }
            let Some(digesting) = &mut self.digesting else {
                return Ok(None);
            };
            match next_chunk(&mut self.blob, &self.cache.limits).await? {
                Some(chunk) if digesting.bytes() + chunk.len() as u64 > self.size => {
                    let expected = self.size;
                    return Err(CacheError::Length {
                        expected,
                        received: expected + 1,
                    });
                }
                Some(chunk) => {
                    digesting.take(vec![chunk.clone()]).await?;
                    self.held.push_back(chunk);
                }
                None if digesting.bytes() < self.size => {
                    let (expected, received) = (self.size, digesting.bytes());
                    return Err(CacheError::Length { expected, received });
                }
                None => {
                    digesting.verify(self.digest)?;
                    self.digesting = None;
                }
            }
        }
    }

    /// The next held bytes before the offset `releasable`.
    fn release(&mut self, releasable: u64) -> Option<Bytes> {
        let room = releasable.saturating_sub(self.released);
        let first = self.held.front_mut()?;
        let chunk = if first.len() as u64 <= room {
            self.held.pop_front()?
        } else if room > 0 {
            first.split_to(usize::try_from(room).expect("less than a chunk"))
        } else {
            return None;
        };
        self.released += chunk.len() as u64;
        Some(chunk)
    }
}

/// Passes a range through. The digest of the whole says nothing about a part, so only its length
/// is held to what was promised; whoever puts the parts together must verify the whole.
pub(super) fn pass_range(
    blob: UpstreamBlob,
    range: ByteRange,
    permit: OwnedSemaphorePermit,
    limits: &Limits,
) -> Body {
    let part = Part {
        blob,
        left: range.len(),
        expected: range.len(),
        limits: limits.clone(),
        _permit: permit,
    };
    stream::try_unfold(part, Part::next).boxed()
}

struct Part {
    blob: UpstreamBlob,
    left: u64,
    expected: u64,
    limits: Limits,
    _permit: OwnedSemaphorePermit,
}

impl Part {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, CacheError> {
        if self.left == 0 {
            return Ok(None);
        }
        match next_chunk(&mut self.blob, &self.limits).await? {
            Some(mut chunk) => {
                // More than was asked for is the start of what an open-ended range would hold.
                chunk.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= chunk.len() as u64;
                Ok(Some((chunk, self)))
            }
            None => Err(CacheError::Length {
                expected: self.expected,
                received: self.expected - self.left,
            }),
        }
    }
}

/// The next bytes from an upstream, which must come within a limit. Empty pieces are no bytes: they
/// neither begin a body nor keep one waiting.
pub(super) async fn next_chunk(
    blob: &mut UpstreamBlob,
    limits: &Limits,
) -> Result<Option<Bytes>, CacheError> {
    let next = async {
        loop {
            match blob.stream.next().await {
                Some(Ok(chunk)) if chunk.is_empty() => tokio::task::consume_budget().await,
                next => return next,
            }
        }
    };
    match timeout(limits.body_idle_max, next).await {
        Ok(chunk) => Ok(chunk.transpose()?),
        Err(_) => Err(UpstreamError::Timeout {
            what: "send more of a body",
        }
        .into()),
    }
}
