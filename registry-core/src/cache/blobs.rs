//! The ways of a blob through the cache: from the store, from a fill, or past both.

use std::sync::Arc;

use tokio::time::timeout;

use super::fill::{End, Fill, Head, Part};
use super::follow::{follow, pass_range, pass_whole, releasable};
use super::negative::Absent;
use super::status::{BypassReason, CacheStatus, Served};
use super::{CacheError, Inner, RegistryCache};
use crate::{
    BlobBody, BlobPayload, ByteRange, Caller, Digest, Hasher, Link, LinkTarget, Origin,
    RangeRequest, StoreOperation, UpstreamError,
};

/// A blob as it is served: its bytes may still be on their way.
type ServedBlob = Served<BlobBody<CacheError>>;

impl RegistryCache {
    /// A blob, or a range of it.
    ///
    /// What is stored is opened. What is not is downloaded once for all who want it (I7), and
    /// served while it arrives; the bytes at its end are held back until its digest matches (I2).
    /// A range far ahead of the download is passed through on a request of its own.
    ///
    /// The body has exactly the bytes of its range, or ends in an error.
    ///
    /// # Errors
    ///
    /// [`CacheError::NotFound`] where the upstream has no such blob in this repository, or had none
    /// a moment ago; [`CacheError::RangeNotSatisfiable`]; what the upstream's failure was;
    /// [`CacheError::Overloaded`]; [`CacheError::UnknownUpstream`]; [`CacheError::Closed`].
    pub async fn blob(
        &self,
        origin: &Origin,
        digest: Digest,
        range: Option<RangeRequest>,
        caller: &Caller,
    ) -> Result<ServedBlob, CacheError> {
        let ask = Ask {
            cache: &self.inner,
            origin,
            digest,
            range,
            caller,
        };
        ask.serve().await
    }

    /// A blob's size in bytes, without downloading it.
    ///
    /// # Errors
    ///
    /// As [`Self::blob`]. An upstream that does not tell the size of a blob that no manifest here
    /// names has broken the protocol: there is nothing to answer with.
    pub async fn stat_blob(
        &self,
        origin: &Origin,
        digest: Digest,
        caller: &Caller,
    ) -> Result<Served<u64>, CacheError> {
        Ask {
            cache: &self.inner,
            origin,
            digest,
            range: None,
            caller,
        }
        .stat()
        .await
    }
}

/// One request for a blob.
struct Ask<'a> {
    cache: &'a Arc<Inner>,
    origin: &'a Origin,
    digest: Digest,
    range: Option<RangeRequest>,
    caller: &'a Caller,
}

/// What the store has of a blob.
enum Opened {
    Body(BlobBody<CacheError>),
    Absent,
    /// It cannot tell, or cannot read.
    Failing,
}

/// What became of a part in a fill.
enum Turn {
    Served(ServedBlob),
    /// It failed for whom it was begun, which says nothing about us: begin again.
    Again,
}

impl Ask<'_> {
    async fn serve(&self) -> Result<ServedBlob, CacheError> {
        self.cache.entry(self.origin)?;
        let mut link = self.cache.linked(self.origin, self.target()).await;
        let mut status = CacheStatus::Hit;
        for _ in 0..self.cache.limits.follow_attempts_max.max(1) {
            if link.is_none() && self.is_elsewhere().await {
                // A fill of this origin may have linked it since we looked: a fill that has left the
                // table has linked what it stored.
                link = self.cache.linked(self.origin, self.target()).await;
                if link.is_none() {
                    // Sharing what another origin brought saves a download, and grants nothing (I5).
                    link = Some(
                        self.cache
                            .confirm(self.origin, self.target(), self.caller)
                            .await?,
                    );
                    status = CacheStatus::Revalidated;
                }
            }
            if link.is_some() {
                match self.open().await? {
                    Opened::Body(body) => return Ok(Served::new(body, status)),
                    Opened::Absent => {}
                    // A fill would be no use to a store that cannot read.
                    Opened::Failing => {
                        let size = link.and_then(|link| link.size);
                        return self.bypass(size, BypassReason::StoreFailing).await;
                    }
                }
            }
            if self.cache.is_absent(&self.absent()) {
                return Err(CacheError::NotFound);
            }
            if let Turn::Served(served) = self.through_fill(link).await? {
                return Ok(served);
            }
        }
        let size = link.and_then(|link| link.size);
        self.bypass(size, BypassReason::FillsFailing).await
    }

    async fn stat(&self) -> Result<Served<u64>, CacheError> {
        self.cache.entry(self.origin)?;
        let mut link = self.cache.linked(self.origin, self.target()).await;
        let mut status = CacheStatus::Hit;
        let elsewhere = link.is_none() && self.is_elsewhere().await;
        if elsewhere {
            // As in `serve`: it may have been linked since we looked.
            link = self.cache.linked(self.origin, self.target()).await;
        }
        if link.is_none() {
            link = Some(
                self.cache
                    .confirm(self.origin, self.target(), self.caller)
                    .await?,
            );
            status = if elsewhere {
                CacheStatus::Revalidated
            } else {
                CacheStatus::Bypass(BypassReason::Head)
            };
        }
        if let Some(size) = self.stored_size().await {
            return Ok(Served::new(size, status));
        }
        if let Some(head) = self
            .cache
            .fills
            .get(self.digest)
            .and_then(|fill| fill.progress().head)
        {
            return Ok(Served::new(head.size, CacheStatus::Follow));
        }
        if status == CacheStatus::Hit {
            // Linked by a manifest, and not stored: whether it can be had is for the upstream to say.
            link = Some(
                self.cache
                    .confirm(self.origin, self.target(), self.caller)
                    .await?,
            )
            .map(|confirmed| Link {
                size: confirmed.size.or(link.and_then(|l| l.size)),
                ..confirmed
            });
        }
        match link.and_then(|link| link.size) {
            Some(size) => Ok(Served::new(size, CacheStatus::Bypass(BypassReason::Head))),
            None => Err(no_length()),
        }
    }

    fn target(&self) -> LinkTarget {
        LinkTarget::Blob(self.digest)
    }

    fn absent(&self) -> Absent {
        Absent::blob(self.origin, self.digest, self.caller)
    }

    async fn stored_size(&self) -> Option<u64> {
        let stat = self.cache.stores.blobs.stat(self.digest);
        self.cache
            .store(StoreOperation::Stat, stat)
            .await
            .ok()
            .flatten()
            .map(|stat| stat.size)
    }

    /// Whether the bytes are here, or on their way here, on somebody else's account.
    async fn is_elsewhere(&self) -> bool {
        match self.cache.fills.get(self.digest) {
            Some(fill) => !self.shares(&fill),
            None => self.stored_size().await.is_some(),
        }
    }

    /// Whether a fill was begun for the same origin and caller: then its success is the proof of
    /// access, and its failure is ours.
    fn shares(&self, fill: &Fill) -> bool {
        fill.origin == *self.origin && fill.caller == *self.caller
    }

    async fn open(&self) -> Result<Opened, CacheError> {
        let open = self.cache.stores.blobs.open(self.digest, self.range);
        let body = match self.cache.store(StoreOperation::Read, open).await {
            Ok(Some(body)) => body,
            Ok(None) => return Ok(Opened::Absent),
            Err(_) => return Ok(Opened::Failing),
        };
        if self.range.is_some() && body.range.is_empty() {
            return Err(CacheError::RangeNotSatisfiable { size: body.size });
        }
        let payload = match body.payload {
            BlobPayload::File(file) => BlobPayload::File(file),
            BlobPayload::Stream(stream) => {
                use futures::TryStreamExt as _;
                BlobPayload::Stream(Box::pin(stream.map_err(CacheError::from)))
            }
        };
        Ok(Opened::Body(BlobBody {
            size: body.size,
            range: body.range,
            payload,
        }))
    }

    async fn through_fill(&self, link: Option<Link>) -> Result<Turn, CacheError> {
        let size = link.and_then(|link| link.size);
        let (mut fill, status) =
            match self
                .cache
                .fill(self.origin, self.digest, size, self.caller)?
            {
                Part::Leads(fill) => (fill, CacheStatus::Miss),
                // It began after we looked: ask for proof of access first.
                Part::Follows(fill) if link.is_none() && !self.shares(&fill) => {
                    return Ok(Turn::Again);
                }
                Part::Follows(fill) => (fill, CacheStatus::Follow),
            };
        if let Some(first) = self.first(size)?
            && let Some(passed) = self.past(&fill, first, size).await?
        {
            return Ok(Turn::Served(passed));
        }
        let Some(progress) = fill.wait(|now| now.head.is_some()).await else {
            return Ok(Turn::Again);
        };
        match (progress.head, progress.end) {
            (_, Some(End::Failed(error))) => self.after(&fill, size, error).await,
            (Some(head), _) => self.through_spool(fill, head, size, status).await,
            (None, _) => Ok(Turn::Again),
        }
    }

    /// What a fill's failure before its first byte means for us.
    async fn after(
        &self,
        fill: &Fill,
        size: Option<u64>,
        error: CacheError,
    ) -> Result<Turn, CacheError> {
        match error {
            // Whatever breaks in the cache, the client still gets its image.
            CacheError::Store(_) => self
                .bypass(size, BypassReason::StoreFailing)
                .await
                .map(Turn::Served),
            error if self.shares(fill) => Err(error),
            _ => Ok(Turn::Again),
        }
    }

    async fn through_spool(
        &self,
        mut fill: Fill,
        head: Head,
        size: Option<u64>,
        status: CacheStatus,
    ) -> Result<Turn, CacheError> {
        let limits = &self.cache.limits;
        let range = resolve(self.range, head.size)?;
        if self.first(size)?.is_none()
            && let Some(passed) = self.past(&fill, range.start(), Some(head.size)).await?
        {
            return Ok(Turn::Served(passed));
        }
        if range.start() >= releasable(head.size, limits) {
            // Nothing could be sent before the digest is known: then a failure can still be a
            // status instead of a body that breaks off.
            match fill.wait(|_| false).await.and_then(|progress| progress.end) {
                Some(End::Whole) => {}
                Some(End::Failed(error)) => return self.after(&fill, size, error).await,
                Some(End::Stored) | None => return Ok(Turn::Again),
            }
        }
        let size = head.size;
        let payload = BlobPayload::Stream(follow(fill, head, range, limits));
        Ok(Turn::Served(Served::new(
            BlobBody {
                size,
                range,
                payload,
            },
            status,
        )))
    }

    /// Where the bytes asked for begin; `None` where that depends on a size that is not known.
    fn first(&self, size: Option<u64>) -> Result<Option<u64>, CacheError> {
        Ok(match (self.range, size) {
            (range, Some(size)) => Some(resolve(range, size)?.start()),
            (None, None) => Some(0),
            (Some(RangeRequest::From { first } | RangeRequest::FromTo { first, .. }), None) => {
                Some(first)
            }
            (Some(RangeRequest::Suffix { .. }), None) => None,
        })
    }

    /// The range on a request of its own, where it begins far ahead of what the fill has reached.
    /// `None` where the fill will serve it sooner, or the upstream does not do ranges.
    async fn past(
        &self,
        fill: &Fill,
        first: u64,
        size: Option<u64>,
    ) -> Result<Option<ServedBlob>, CacheError> {
        let progress = fill.progress();
        let reached = progress
            .written
            .saturating_add(self.cache.limits.range_ahead_bytes_max);
        if progress.end.is_some() || first <= reached {
            return Ok(None);
        }
        match self.bypass(size, BypassReason::RangeAhead).await {
            Ok(served) => Ok(Some(served)),
            // The fill goes on, and will get there.
            Err(CacheError::Overloaded | CacheError::Upstream(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// From the upstream to this client alone.
    async fn bypass(
        &self,
        size: Option<u64>,
        reason: BypassReason,
    ) -> Result<ServedBlob, CacheError> {
        let limits = &self.cache.limits;
        let permit = Arc::clone(&self.cache.bypass_permits).acquire_owned();
        let permit = timeout(limits.upstream_wait_max, permit)
            .await
            .map_err(|_| CacheError::Overloaded)?
            .map_err(|_| CacheError::Closed)?;
        let blob = self
            .cache
            .upstream_blob(self.origin, self.digest, self.range, self.caller)
            .await
            .inspect_err(|error| {
                if matches!(error, CacheError::NotFound) {
                    self.cache.remember_absent(self.absent());
                }
            })?;
        let size = match (size, blob.size) {
            (Some(expected), Some(received)) if expected != received => {
                return Err(CacheError::Length { expected, received });
            }
            (expected, told) => told.or(expected).ok_or_else(no_length)?,
        };
        let range = resolve(self.range, size)?;
        let body = if range == ByteRange::whole(size) && blob.start == 0 {
            if size == 0 {
                // There will be no bytes to hold back.
                Hasher::new(self.digest.algorithm()).verify(self.digest)?;
            }
            pass_whole(blob, self.digest, size, permit, limits)
        } else if blob.start == range.start() {
            pass_range(blob, range, permit, limits)
        } else {
            let what = "it does not serve ranges".to_owned();
            return Err(UpstreamError::Protocol { what }.into());
        };
        let payload = BlobPayload::Stream(body);
        Ok(Served::new(
            BlobBody {
                size,
                range,
                payload,
            },
            CacheStatus::Bypass(reason),
        ))
    }
}

fn resolve(range: Option<RangeRequest>, size: u64) -> Result<ByteRange, CacheError> {
    match range {
        None => Ok(ByteRange::whole(size)),
        Some(range) => range
            .resolve(size)
            .ok_or(CacheError::RangeNotSatisfiable { size }),
    }
}

fn no_length() -> CacheError {
    UpstreamError::Protocol {
        what: "it does not tell the size of a blob".to_owned(),
    }
    .into()
}
