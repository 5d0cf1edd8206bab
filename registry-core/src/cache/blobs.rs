//! The ways of a blob through the cache: from the store, from a fill, or past both.

use std::sync::Arc;

use futures::TryStreamExt as _;
use tokio::time::timeout;

use super::fill::{Errand, Fill, Part};
use super::follow::Ready;
use super::negative::Absent;
use super::pass::{pass_range, pass_whole};
use super::seek::{Found, Seeker, resolve};
use super::spool::End;
use super::status::{BypassReason, CacheStatus, Served};
use super::via::Via;
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
            via: self.inner.via(origin)?,
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
            via: self.inner.via(origin)?,
            origin,
            digest,
            range: None,
            caller,
        }
        .stat()
        .await
    }
}

impl BlobBody {
    /// The same, as the cache gives it.
    pub(super) fn of_cache(self) -> BlobBody<CacheError> {
        let payload = match self.payload {
            BlobPayload::File(file) => BlobPayload::File(file),
            BlobPayload::Slices(slices) => {
                BlobPayload::Slices(Box::pin(slices.map_err(CacheError::from)))
            }
            BlobPayload::Stream(stream) => {
                BlobPayload::Stream(Box::pin(stream.map_err(CacheError::from)))
            }
        };
        BlobBody {
            size: self.size,
            range: self.range,
            payload,
        }
    }
}

/// One request for a blob.
struct Ask<'a> {
    cache: &'a Arc<Inner>,
    via: Via,
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
                            .confirm(&self.via, self.origin, self.target(), self.caller)
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
                    .confirm(&self.via, self.origin, self.target(), self.caller)
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
        let fill = self.cache.fills.get(self.digest);
        if let Some(size) = fill.and_then(|mut fill| fill.size()) {
            return Ok(Served::new(size, CacheStatus::Follow));
        }
        if status == CacheStatus::Hit {
            // Linked by a manifest, and not stored: whether it can be had is for the upstream to say.
            link = Some(
                self.cache
                    .confirm(&self.via, self.origin, self.target(), self.caller)
                    .await?,
            )
            .map(|confirmed| Link {
                // What a manifest says of it was verified; what an answer to a HEAD says was not.
                size: link.and_then(|link| link.size).or(confirmed.size),
                ..confirmed
            });
        }
        match link.and_then(|link| link.size) {
            Some(size) => Ok(Served::new(size, CacheStatus::Bypass(BypassReason::Head))),
            None => Err(no_length()),
        }
    }

    fn errand(&self) -> Errand {
        Errand {
            via: self.via.clone(),
            origin: self.origin.clone(),
            digest: self.digest,
            caller: self.caller.clone(),
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

    /// Whether a fill was begun for the same origin and caller, through the same upstream: then its
    /// success is the proof of access, and its failure is ours.
    fn shares(&self, fill: &Fill) -> bool {
        fill.errand == self.errand()
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
        let BlobBody {
            size,
            range,
            payload,
        } = body.of_cache();
        let payload = self.cache.payload_in_use(self.digest, payload);
        Ok(Opened::Body(BlobBody {
            size,
            range,
            payload,
        }))
    }

    async fn through_fill(&self, link: Option<Link>) -> Result<Turn, CacheError> {
        let size = link.and_then(|link| link.size);
        if let Some(size) = size {
            // A range that lies outside is refused without a download.
            resolve(self.range, size)?;
        }
        let (fill, status) = match self.cache.fill(self.errand(), link)? {
            Part::Leads(fill) => (fill, CacheStatus::Miss),
            // It began after we looked: ask for proof of access first.
            Part::Follows(fill) if link.is_none() && !self.shares(&fill) => {
                return Ok(Turn::Again);
            }
            Part::Follows(fill) => (fill, CacheStatus::Follow),
        };
        let shares = self.shares(&fill);
        let mut seeker = Seeker::new(self.cache, fill, self.range);
        loop {
            seeker = match seeker.find().await? {
                Found::Ready(ready) => {
                    return self.through_spool(ready, size, status, shares).await;
                }
                Found::Ended(end) => return self.after(end, size, shares).await,
                Found::NoPlace(seeker) => match self.past(size).await? {
                    Some(passed) => return Ok(Turn::Served(passed)),
                    None => seeker,
                },
            };
        }
    }

    /// The range on a request of its own, without being kept. `None` where the fill, which goes on,
    /// has to be waited for.
    async fn past(&self, size: Option<u64>) -> Result<Option<ServedBlob>, CacheError> {
        if self.cache.bypass_permits.available_permits() == 0 {
            return Ok(None);
        }
        match self.bypass(size, BypassReason::RangeAhead).await {
            Ok(served) => Ok(Some(served)),
            Err(CacheError::Overloaded | CacheError::Upstream(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the end of a fill means for us that has left nothing to read.
    async fn after(&self, end: End, size: Option<u64>, shares: bool) -> Result<Turn, CacheError> {
        match end {
            // Whatever breaks in the cache, the client still gets its image.
            End::Failed(CacheError::Store(_)) => self
                .bypass(size, BypassReason::StoreFailing)
                .await
                .map(Turn::Served),
            End::Failed(CacheError::NoRoom) => self
                .bypass(size, BypassReason::NoRoom)
                .await
                .map(Turn::Served),
            End::Failed(error) if shares => Err(error),
            End::Failed(_) | End::Stored | End::Lost | End::Whole => Ok(Turn::Again),
        }
    }

    async fn through_spool(
        &self,
        mut ready: Ready,
        size: Option<u64>,
        status: CacheStatus,
        shares: bool,
    ) -> Result<Turn, CacheError> {
        match ready.verdict().await {
            None | Some(End::Whole) => {}
            Some(end) => return self.after(end, size, shares).await,
        }
        let status = if ready.has_fetched() {
            CacheStatus::Bypass(BypassReason::RangeAhead)
        } else {
            status
        };
        let (size, range) = (ready.size, ready.range);
        let payload = ready.into_payload();
        let payload = self.cache.payload_in_use(self.digest, payload);
        Ok(Turn::Served(Served::new(
            BlobBody {
                size,
                range,
                payload,
            },
            status,
        )))
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
            .upstream_blob(
                &self.via,
                self.origin,
                self.digest,
                self.range,
                None,
                self.caller,
            )
            .await
            .inspect_err(|error| {
                if matches!(error, CacheError::NotFound) {
                    self.cache.remember_absent(&self.via, self.absent());
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
            pass_whole(blob, self.digest, size, permit, self.cache)
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

fn no_length() -> CacheError {
    UpstreamError::Protocol {
        what: "it does not tell the size of a blob".to_owned(),
    }
    .into()
}
