//! What has to be in an archive for an image to be whole there, and its bytes.
//!
//! First all of it is found out, so that what is missing is told before a byte is sent, and the
//! archive's length is known; then its contents are read one after the other. What is held is
//! looked at without counting as an access. What is not is fetched on the way, through the cache:
//! so an export may be larger than the cache.

use std::sync::Arc;

use futures::stream;
use tokio::sync::OwnedSemaphorePermit;

use super::plan::Planner;
use crate::cache::{CacheError, Inner, RegistryCache};
use crate::{
    BlobBody, BlobPayload, ByteRange, Caller, Descriptor, Digest, LinkTarget, Manifest, Origin,
    Platform, Progress, Reference, Referrers, StoreError, StoreOperation, Tag,
};

/// What is to be exported.
#[derive(Clone, Debug)]
pub struct ExportRequest {
    /// The images.
    pub images: Vec<(Origin, Reference)>,
    /// Which platforms, of those that have several.
    pub platforms: PlatformChoice,
    /// Whether signatures, attestations, SBOMs and other referrers go along.
    pub attached: bool,
    /// Whether nobody is asked for anything: what is not held is left out.
    pub held_only: bool,
}

/// Which platforms of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlatformChoice {
    /// Those that something is held of; that of this machine, where nothing is held of any.
    Held,
    /// All of them.
    All,
    /// These, each of which the image must have.
    Only(Vec<Platform>),
}

/// All that goes into an archive. It keeps its place among the transfers of the cache
/// ([`Limits::transfers_max`](crate::Limits)) until it is dropped.
#[derive(Debug)]
pub struct ExportPlan {
    /// The images, in the order of their names.
    pub images: Vec<ExportedImage>,
    /// What is attached to them.
    pub attached: Vec<AttachedContent>,
    /// Every manifest and blob, each once: manifests first, each kind in the order of digests.
    pub contents: Vec<ExportContent>,
    /// What belongs to the images and is left out.
    pub left_out: Vec<LeftOut>,
    pub(super) held_only: bool,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// One image of an archive.
#[derive(Clone, Debug)]
pub struct ExportedImage {
    /// Where it is from.
    pub origin: Origin,
    /// What it was asked for by.
    pub reference: Reference,
    /// Its manifest or index.
    pub descriptor: Descriptor,
    /// Its platforms that are in the archive, where it has several.
    pub platforms: Vec<Platform>,
}

/// What is attached to an image.
#[derive(Clone, Debug)]
pub enum AttachedContent {
    /// The manifest under a tag that its digest gives.
    Tag {
        /// Where.
        origin: Origin,
        /// The tag.
        tag: Tag,
        /// What it names.
        descriptor: Descriptor,
    },
    /// All that refers to one of its manifests.
    Referrers {
        /// Where.
        origin: Origin,
        /// The manifest.
        subject: Digest,
        /// The list; `None` where the upstream lists none for anybody.
        referrers: Option<Referrers>,
    },
}

/// A manifest or a blob of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportContent {
    /// What it is.
    pub target: LinkTarget,
    /// Its size in bytes.
    pub size: u64,
    /// Where it can be had.
    pub(super) origin: Origin,
}

/// A part of an image that is not in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Where the image is from.
    pub origin: Origin,
    /// What it was asked for by.
    pub reference: Reference,
    /// The platform, where it is one's.
    pub platform: Option<Platform>,
    /// The manifest.
    pub manifest: Digest,
}

/// Why nothing can be exported.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// An image, or something that belongs to it, cannot be had.
    #[error("{image} cannot be had: {what}")]
    Image {
        /// The image.
        image: String,
        /// What of it.
        what: String,
        /// Why not.
        #[source]
        source: CacheError,
    },
    /// It is not held, and nobody was to be asked.
    #[error("{image} is not held: {what}")]
    NotHeld {
        /// The image.
        image: String,
        /// What of it.
        what: String,
    },
    /// It has no such platform.
    #[error("{image} has no platform {platform}; it has {has}")]
    NoSuchPlatform {
        /// The image.
        image: String,
        /// What was asked for.
        platform: Platform,
        /// What it has.
        has: String,
    },
    /// A limit of the cache is reached.
    #[error("more than {limit} {what} cannot be exported at once")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// Too many exports and imports are under way.
    #[error("too many exports and imports are under way")]
    Busy,
}

impl RegistryCache {
    /// Finds out all that has to be in an archive of these images: manifests byte for byte (I9), of
    /// the platforms that are chosen, with all that they name.
    ///
    /// A tag is resolved as a pull would, unless only what is held is asked for. Manifests that are
    /// not held are fetched; of blobs that are not, it is made sure that they can be.
    ///
    /// # Errors
    ///
    /// [`ExportError`].
    ///
    /// # Limits
    ///
    /// [`Limits`](crate::Limits), those that begin with `transfer`.
    pub async fn plan_export(
        &self,
        request: &ExportRequest,
        progress: &Progress,
    ) -> Result<ExportPlan, ExportError> {
        let limits = &self.inner.limits;
        if request.images.len() > limits.transfer_images_max {
            return Err(ExportError::TooMuch {
                what: "images",
                limit: limits.transfer_images_max,
            });
        }
        let permit = Arc::clone(&self.inner.transfer_permits).try_acquire_owned();
        let permit = permit.map_err(|_| ExportError::Busy)?;
        let mut planner = Planner::new(self, request);
        for (origin, reference) in &request.images {
            progress.update(|made| made.current = Some(name_of(origin, reference)));
            planner.image(origin, reference).await?;
            progress.update(|made| made.items += 1);
        }
        Ok(planner.finish(permit))
    }

    /// A manifest or blob of a plan. Its bytes are not verified here.
    ///
    /// # Errors
    ///
    /// [`CacheError::NotFound`] where it is gone since the plan was made, and nobody was to be
    /// asked; else as [`Self::blob`] and [`Self::manifest`].
    pub async fn exported(
        &self,
        plan: &ExportPlan,
        content: &ExportContent,
    ) -> Result<BlobBody<CacheError>, CacheError> {
        let (cache, origin, caller) = (&self.inner, &content.origin, &Caller::Anonymous);
        match content.target {
            LinkTarget::Manifest(digest) => {
                let manifest = match cache.look_at_manifest(digest).await? {
                    Some(manifest) => manifest,
                    None if plan.held_only => return Err(CacheError::NotFound),
                    None => {
                        let reference = Reference::Digest(digest);
                        self.manifest(origin, &reference, caller).await?.value
                    }
                };
                Ok(whole(
                    stream::iter([Ok(manifest.bytes().clone())]),
                    content.size,
                ))
            }
            LinkTarget::Blob(digest) => match cache.look_at_blob(digest).await? {
                Some(body) => Ok(body),
                None if plan.held_only => Err(CacheError::NotFound),
                None => Ok(self.blob(origin, digest, None, caller).await?.value),
            },
        }
    }
}

fn whole(
    stream: impl futures::Stream<Item = Result<bytes::Bytes, CacheError>> + Send + 'static,
    size: u64,
) -> BlobBody<CacheError> {
    BlobBody {
        size,
        range: ByteRange::whole(size),
        payload: BlobPayload::Stream(Box::pin(stream)),
    }
}

/// `docker.io/library/alpine:3.20`, or with a digest.
pub(super) fn name_of(origin: &Origin, reference: &Reference) -> String {
    match reference {
        Reference::Tag(tag) => format!("{origin}:{tag}"),
        Reference::Digest(digest) => format!("{origin}@{digest}"),
    }
}

impl Inner {
    /// A manifest that is held, without an access where the store can do without.
    pub(super) async fn look_at_manifest(
        &self,
        digest: Digest,
    ) -> Result<Option<Manifest>, StoreError> {
        let looked = match &self.stores.upkeep {
            Some(upkeep) => upkeep.inventory.peek_manifest(digest),
            None => self.stores.manifests.manifest(digest),
        };
        self.store(StoreOperation::Index, looked).await
    }

    /// A blob that is held, in the same way.
    async fn look_at_blob(
        self: &Arc<Self>,
        digest: Digest,
    ) -> Result<Option<BlobBody<CacheError>>, CacheError> {
        let Some(upkeep) = &self.stores.upkeep else {
            let open = self.stores.blobs.open(digest, None);
            let body = self.store(StoreOperation::Read, open).await?;
            return Ok(body.map(BlobBody::of_cache));
        };
        let peek = upkeep.inventory.peek_blob(digest);
        let Some(blob) = self.store(StoreOperation::Read, peek).await? else {
            return Ok(None);
        };
        let size = blob.size;
        let read = move |(cache, reader, at): (Arc<Self>, Arc<dyn crate::SpoolReader>, u64)| async move {
            if at >= size {
                return Ok(None);
            }
            let chunk_bytes = cache.limits.chunk_bytes.max(1);
            let read = reader.read_at(at, chunk_bytes);
            let chunk = cache.store(StoreOperation::Read, read).await?;
            if chunk.is_empty() {
                return Err(CacheError::Store(StoreError::Corrupt {
                    operation: StoreOperation::Read,
                    what: "a blob is shorter than it was",
                }));
            }
            let next = at + chunk.len() as u64;
            Ok(Some((chunk, (cache, reader, next))))
        };
        let start = (Arc::clone(self), blob.reader, 0);
        Ok(Some(whole(stream::try_unfold(start, read), size)))
    }

    /// The size of a blob, if it is held.
    pub(super) async fn held_size(&self, digest: Digest) -> Result<Option<u64>, StoreError> {
        let stat = self.stores.blobs.stat(digest);
        let stat = self.store(StoreOperation::Stat, stat).await?;
        Ok(stat.map(|stat| stat.size))
    }
}
