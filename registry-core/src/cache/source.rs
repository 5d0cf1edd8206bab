//! A blob's bytes from the upstream, in order, whatever breaks off meanwhile.
//!
//! This owns the requests of one writer of a fill: it asks for what is wanted next, goes on after
//! a cut from the byte where it came, and copes with an upstream that sends other ranges than it
//! was asked for. It knows nothing of hashes and stores.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::sleep;

use super::chunks::Chunks;
use super::fill::Errand;
use super::pass::next_chunk;
use super::patience::Patience;
use super::spool::Spool;
use super::{CacheError, Inner};
use crate::{Limits, RangeRequest, UpstreamBlob, UpstreamError, Validator};

/// The upstream's bytes for one writer of a fill.
pub(super) struct Source {
    cache: Arc<Inner>,
    errand: Errand,
    spool: Arc<Spool>,
    manner: Manner,
    arriving: Option<Arriving>,
    /// Of the last body that had one, to ask for the rest of the same.
    validator: Option<Validator>,
    patience: Patience,
    /// Bytes of use have come: from then on, what breaks off is asked for again.
    has_begun: bool,
}

/// What a source does about an upstream that does not do as it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// It takes whatever comes, and goes on after a cut.
    Persistent,
    /// It takes one body, and ends with it: ranges of this upstream are not to be relied on.
    AtOnce,
    /// It takes nothing but the ranges that it asks for.
    RangesOnly,
}

/// A body on its way.
struct Arriving {
    blob: UpstreamBlob,
    /// Offset of the first byte of `rest`, or of what comes next where that is empty.
    position: u64,
    /// Where it ends, where it is not to go to the end of the blob.
    until: Option<u64>,
    /// Came, and was not taken yet.
    rest: Chunks,
    /// What came behind that, where it was no bytes: the end of the body, or a break.
    behind: Option<Result<Option<Bytes>, CacheError>>,
}

impl Source {
    pub(super) fn new(
        cache: &Arc<Inner>,
        errand: &Errand,
        spool: &Arc<Spool>,
        manner: Manner,
    ) -> Self {
        Self {
            cache: Arc::clone(cache),
            errand: errand.clone(),
            spool: Arc::clone(spool),
            manner,
            arriving: None,
            validator: None,
            patience: Patience::default(),
            has_begun: false,
        }
    }

    /// Asks for the bytes from `at` on, up to `until` where that is told, and waits for the headers
    /// of the answer.
    pub(super) async fn open(&mut self, at: u64, until: Option<u64>) -> Result<(), CacheError> {
        let range = match until {
            _ if self.manner == Manner::AtOnce => None,
            None if at == 0 => None,
            None => Some(RangeRequest::From { first: at }),
            Some(until) => Some(RangeRequest::FromTo {
                first: at,
                last: until.saturating_sub(1).max(at),
            }),
        };
        let mut prior = range.and(self.validator.clone());
        let blob = loop {
            let errand = &self.errand;
            let blob = self
                .cache
                .upstream_blob(
                    &errand.via,
                    &errand.origin,
                    errand.digest,
                    range,
                    prior.as_ref(),
                    &errand.caller,
                )
                .await?;
            let is_short = at < self.cache.limits.jump_bytes_min;
            if blob.start != 0 || is_short || !has_changed(prior.as_ref(), &blob) {
                break blob;
            }
            // Another body than the one that was cut, of the same digest: all the same to us, and
            // to ask for the part without condition costs less than to take the whole.
            prior = None;
        };
        self.spool.agree(blob.size)?;
        self.spool.sent_by(blob.endpoint.as_ref());
        let is_asked_part = blob.start == at;
        match range {
            _ if !is_asked_part => self.accept_another_part(&blob, at)?,
            Some(_) => self.spool.set_ranged(),
            None => {}
        }
        if self.manner == Manner::RangesOnly && blob.size.is_none() {
            self.spool.set_whole_only();
            return Err(broke_protocol("it does not tell the size of a blob"));
        }
        self.validator = blob.validator.clone().or(prior);
        self.arriving = Some(Arriving {
            position: blob.start,
            until: until.filter(|_| is_asked_part && range.is_some()),
            blob,
            rest: Chunks::default(),
            behind: None,
        });
        Ok(())
    }

    fn accept_another_part(&self, blob: &UpstreamBlob, at: u64) -> Result<(), CacheError> {
        if blob.start != 0 {
            return Err(match blob.size {
                // There is nothing where we asked.
                Some(size) if size < at => CacheError::Length {
                    expected: at,
                    received: size,
                },
                _ => broke_protocol("it sends another range than it was asked for"),
            });
        }
        self.spool.set_whole_only();
        match self.manner {
            Manner::RangesOnly => Err(broke_protocol("it does not serve ranges")),
            Manner::Persistent | Manner::AtOnce => Ok(()),
        }
    }

    /// The next bytes from `at` on: those that have come, once some have, up to where `until` then
    /// says at the most. Where they have to be asked for, up to where `ask_until` says. They stay
    /// here until a call that asks for what comes after them. `None` at the end of the blob, or past
    /// it.
    pub(super) async fn next(
        &mut self,
        at: u64,
        until: impl Fn() -> Option<u64>,
        mut ask_until: impl FnMut() -> Option<u64>,
    ) -> Result<Option<Chunks>, CacheError> {
        loop {
            let (size, whole_only) = self.spool.outlook();
            if size.is_some_and(|size| size <= at) {
                return Ok(None);
            }
            let jump = self.cache.limits.jump_bytes_min;
            let arriving = self.arriving.as_mut();
            let outcome = match arriving.filter(|body| body.gets_to(at, jump, whole_only)) {
                None => self.open(at, ask_until()).await,
                Some(body) => match body.pull(&self.cache, at, size).await {
                    Ok(Pulled::Bytes) => {
                        let until = until();
                        body.gather(&self.cache.limits, size, until);
                        return Ok(Some(body.first(at, until)));
                    }
                    Ok(Pulled::Skipped) => Ok(()),
                    Ok(Pulled::End) => {
                        self.arriving = None;
                        Ok(())
                    }
                    Ok(Pulled::EndOfBlob) => return Ok(None),
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = outcome {
                self.recover(error).await?;
            }
        }
    }

    /// Bytes were taken that were of use.
    pub(super) fn took(&mut self, bytes: u64) {
        self.has_begun = true;
        self.patience.progressed(bytes);
    }

    /// Lets go of a body that goes to the end of the blob: what it carries on the way is given up,
    /// and the sooner, the less that is.
    pub(super) fn give_up_the_rest(&mut self) {
        self.arriving.take_if(|arriving| arriving.until.is_none());
    }

    /// Lets go of a body that is far from being of use again: the bytes up to `offset` are in the
    /// spool.
    pub(super) fn pass_over(&mut self, offset: u64) {
        let jump = self.cache.limits.jump_bytes_min;
        let (_, whole_only) = self.spool.outlook();
        if !whole_only {
            let is_far = |body: &mut Arriving| offset >= body.received().saturating_add(jump);
            self.arriving.take_if(is_far);
        }
    }

    /// Whether there is more where a blob of `size` bytes should end.
    pub(super) async fn finish(&mut self, size: u64) -> Result<(), CacheError> {
        let Some(mut arriving) = self.arriving.take() else {
            return Ok(());
        };
        if arriving.until.is_some() || arriving.received() < size {
            return Ok(());
        }
        match arriving.next_piece(&self.cache).await {
            Ok(Some(_)) => Err(too_long(size)),
            // All there should be is here; how the rest ends is the digest's to judge.
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// Waits for the time to ask again, where that may help.
    async fn recover(&mut self, error: CacheError) -> Result<(), CacheError> {
        self.arriving = None;
        if !self.has_begun || self.manner == Manner::AtOnce {
            return Err(error);
        }
        let Some(delay) = self.patience.after(&error, &self.cache.limits) else {
            return Err(error);
        };
        tracing::info!(
            upstream = %self.errand.origin.upstream(),
            repository = %self.errand.origin.repository(),
            digest = %self.errand.digest,
            error = &error as &dyn std::error::Error,
            ?delay,
            "a download broke off, and goes on"
        );
        self.spool.set_pieced();
        sleep(delay).await;
        Ok(())
    }
}

/// What came of waiting for a body.
enum Pulled {
    /// There are bytes at the offset that was asked for.
    Bytes,
    /// There are none there yet.
    Skipped,
    /// It has ended where it should.
    End,
    /// It has ended, which tells the size of the blob.
    EndOfBlob,
}

impl Arriving {
    /// Offset past the last byte that came.
    fn received(&self) -> u64 {
        self.position + self.rest.bytes()
    }

    /// Whether it gets to `at` sooner than another request would.
    fn gets_to(&self, at: u64, jump_bytes_min: u64, whole_only: bool) -> bool {
        // Its next byte is always near: or else it would be asked for without end.
        let is_near = at < self.received().saturating_add(jump_bytes_min.max(1));
        self.position <= at && (is_near || whole_only)
    }

    /// The bytes that are here at `at`, which is where it has got to, up to `until`.
    fn first(&self, at: u64, until: Option<u64>) -> Chunks {
        self.rest.first(until.map_or(u64::MAX, |until| until - at))
    }

    /// Gets to `at`, past what came before it, and waits for bytes there.
    async fn pull(
        &mut self,
        cache: &Inner,
        at: u64,
        size: Option<u64>,
    ) -> Result<Pulled, CacheError> {
        self.position += self.rest.pass(at - self.position);
        if !self.rest.is_empty() {
            return Ok(Pulled::Bytes);
        }
        let end = match (self.until, size) {
            (Some(until), Some(size)) => Some(until.min(size)),
            (until, size) => until.or(size),
        };
        if self.until.is_some() && end.is_some_and(|end| self.position >= end) {
            return Ok(Pulled::End);
        }
        let Some(piece) = self.next_piece(cache).await? else {
            return match end {
                None if self.position == at => Ok(Pulled::EndOfBlob),
                expected => Err(cut_short(self.position, expected)),
            };
        };
        self.take_in(piece, size)?;
        Ok(Pulled::Skipped)
    }

    async fn next_piece(&mut self, cache: &Inner) -> Result<Option<Bytes>, CacheError> {
        match self.behind.take() {
            Some(behind) => behind,
            None => next_chunk(&mut self.blob, &cache.limits).await,
        }
    }

    /// Takes what has come behind the first piece by now, up to `until`: as much as is worth one
    /// write.
    fn gather(&mut self, limits: &Limits, size: Option<u64>, until: Option<u64>) {
        let until = [self.until, until, size].into_iter().flatten().min();
        while self.rest.bytes() < limits.batch_bytes_max
            && self.rest.pieces() < limits.batch_pieces_max
            && until.is_none_or(|until| self.received() < until)
            && self.behind.is_none()
        {
            let taken = match self.blob.stream.next().now_or_never() {
                // Nothing has, or nothing worth it: whoever comes next waits for more.
                None => return,
                Some(Some(Ok(piece))) if piece.is_empty() => return,
                Some(Some(Ok(piece))) => self.take_in(piece, size),
                Some(Some(Err(error))) => Err(error.into()),
                Some(None) => {
                    self.behind = Some(Ok(None));
                    return;
                }
            };
            if let Err(error) = taken {
                // What came before it is good.
                self.behind = Some(Err(error));
                return;
            }
        }
    }

    fn take_in(&mut self, mut piece: Bytes, size: Option<u64>) -> Result<(), CacheError> {
        match (self.until, size) {
            // More than was asked for is the start of what an open-ended range would hold.
            (Some(until), _) => {
                let room = usize::try_from(until - self.received()).unwrap_or(usize::MAX);
                piece.truncate(room);
            }
            (None, Some(size)) if self.received() + piece.len() as u64 > size => {
                return Err(too_long(size));
            }
            (None, _) => {}
        }
        self.rest.push(piece);
        Ok(())
    }
}

/// Whether who has sent the beginning has another body by now.
fn has_changed(prior: Option<&Validator>, blob: &UpstreamBlob) -> bool {
    let pair = prior.zip(blob.validator.as_ref());
    pair.is_some_and(|(prior, now)| prior.source() == now.source() && prior != now)
}

fn too_long(size: u64) -> CacheError {
    CacheError::Length {
        expected: size,
        received: size + 1,
    }
}

/// A body that ended in good order, and too soon, is one that was cut.
fn cut_short(position: u64, expected: Option<u64>) -> CacheError {
    let what = match expected {
        Some(expected) => format!("a body ended at byte {position} of {expected}"),
        None => format!("a body ended at byte {position}, before where an earlier one was cut"),
    };
    UpstreamError::Unavailable { what, source: None }.into()
}

fn broke_protocol(what: &str) -> CacheError {
    let what = what.to_owned();
    UpstreamError::Protocol { what }.into()
}
