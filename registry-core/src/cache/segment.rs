//! Segments: parts of a blob that are fetched ahead of its fill, because a client reads there.
//!
//! A segment belongs to the cache like the fill (I7): a client that leaves ends nothing, and what
//! came stays in the spool, where the fill finds it. It asks as the fill does, at the same origin
//! and for the same caller, so that no other upstream's bytes get into the spool.

use std::sync::Arc;

use super::Inner;
use super::fill::Fill;
use super::source::{Manner, Source};
use super::spool::{Refusal, SegmentClaim};
use super::trace;
use crate::ByteRange;

impl Inner {
    /// Begins to fetch the bytes at the start of `wish`, as many of them as nobody else has.
    pub(super) fn begin_segment(
        self: &Arc<Self>,
        fill: &Fill,
        wish: ByteRange,
    ) -> Result<(), Refusal> {
        let permit = Arc::clone(&self.bypass_permits).try_acquire_owned();
        let Ok(permit) = permit else {
            return Err(Refusal::Wait);
        };
        if self.tasks.is_closed() {
            return Err(Refusal::Wait);
        }
        let segment = fill.spool.claim_segment(wish, self.limits.pieces_max)?;
        let source = Source::new(self, &fill.errand, &fill.spool, Manner::RangesOnly);
        let (cache, fill) = (Arc::clone(self), fill.clone());
        let span = trace::segment(wish);
        self.tasks.spawn(span, async move |closing| {
            let _permit = permit;
            tokio::select! {
                () = cache.fetch_segment(&fill, segment, source) => {}
                () = fill.spool.ending() => {}
                () = closing.cancelled() => {}
            }
        });
        Ok(())
    }

    /// Fetches a segment. Where it cannot be had, what is missing of it is anybody's again.
    async fn fetch_segment(&self, fill: &Fill, mut segment: SegmentClaim, mut source: Source) {
        loop {
            let claim = segment.claim_within(fill.spool.outlook().0);
            if claim.left().is_empty() {
                break;
            }
            let (at, end) = (claim.left().start(), Some(claim.left().end()));
            let fetched = match source.next(at, || end, || end).await {
                Ok(Some(chunks)) => {
                    let bytes = chunks.bytes();
                    let written = claim.write(self, &chunks).await;
                    written.map(|()| {
                        claim.hold(|_| {});
                        source.took(bytes);
                    })
                }
                Ok(None) => break,
                Err(error) => Err(error),
            };
            if let Err(error) = fetched {
                tracing::debug!(
                    upstream = %fill.errand.origin.upstream(),
                    digest = %fill.errand.digest,
                    at,
                    error = &error as &dyn std::error::Error,
                    "a part could not be had ahead of its fill"
                );
                break;
            }
        }
    }
}
