//! What is kept, for people: repositories, images, and what an image is made of. Looking is no
//! access.

use std::cmp::Ordering;
use std::sync::Arc;

use super::super::{CacheError, Inner, RegistryCache};
use super::anatomy::Anatomy;
use super::bonds::{BONDS_MAX, Bonds};
use crate::{
    Charge, Digest, LinkTarget, MediaType, Origin, Platform, Reference, StoreOperation, Tag,
    TagRecord, Timestamp, Upkeep, UpstreamId,
};

/// Tags of a repository are counted up to so many.
pub(super) const TAGS_COUNTED_MAX: usize = 1_000;

/// What is kept of one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositorySummary {
    /// Which.
    pub origin: Origin,
    /// Bytes that are charged to it: of content that several use, to the first that brought it.
    pub bytes: u64,
    /// Tags that are recorded; not counted further than a thousand.
    pub tags: u64,
}

/// What is kept of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// Its repository.
    pub origin: Origin,
    /// Its tag, or its digest.
    pub reference: Reference,
    /// The manifest or index that it names.
    pub digest: Digest,
    /// Platforms of which everything is held, in order.
    pub platforms: Vec<Platform>,
    /// Bytes of everything of it that is held.
    pub bytes: u64,
    /// Those of them that no other manifest that is held needs: what removing it would give free,
    /// once it is not pinned any more.
    pub own_bytes: u64,
    /// Whether everything that it needs, of at least one platform, is held.
    pub complete: bool,
    /// Whether a pin holds it.
    pub pinned: bool,
    /// When the tag was first seen to name this digest; of a digest, when it was fetched.
    pub fetched_at: Option<Timestamp>,
    /// When the upstream last confirmed the tag.
    pub validated_at: Option<Timestamp>,
    /// When anything of it was last pulled, as far as that was recorded.
    pub accessed_at: Option<Timestamp>,
}

/// Images that are kept under no tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UntaggedPage {
    /// The images.
    pub images: Vec<ImageSummary>,
    /// Past which digest there may be more.
    pub next: Option<Digest>,
}

/// What is kept of one image, part by part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDetail {
    /// The whole.
    pub summary: ImageSummary,
    /// The manifests that it is made of, the one that it names first; those that an index lists
    /// come after it.
    pub manifests: Vec<ManifestDetail>,
    /// It has more parts than are looked at
    /// ([`Limits::image_parts_max`](crate::Limits::image_parts_max)): what is told is of those only.
    pub truncated: bool,
}

/// A manifest that an image is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestDetail {
    /// Its digest.
    pub digest: Digest,
    /// Its media type, as it or its index tells it.
    pub media_type: Option<MediaType>,
    /// What kind of artifact it is, where it is told to be one.
    pub artifact_type: Option<MediaType>,
    /// Its platform, where it is one platform's.
    pub platform: Option<Platform>,
    /// What it is attached to within its index: an attestation to its image.
    pub attached_to: Option<Digest>,
    /// Whether it lists other manifests.
    pub is_index: bool,
    /// Whether it is held.
    pub held: bool,
    /// Bytes of it and of the blobs that it names, as far as they are told.
    pub bytes: u64,
    /// Bytes of it and of these blobs that are held.
    pub held_bytes: u64,
    /// The endpoint that sent it.
    pub endpoint: Option<Arc<str>>,
    /// When it was fetched.
    pub fetched_at: Option<Timestamp>,
    /// When it was last accessed, as far as that was recorded.
    pub accessed_at: Option<Timestamp>,
    /// The blobs that it names.
    pub blobs: Vec<BlobDetail>,
}

/// A blob that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobDetail {
    /// Its digest.
    pub digest: Digest,
    /// Its media type, as the manifest tells it.
    pub media_type: Option<MediaType>,
    /// Its size in bytes, as the manifest tells it.
    pub bytes: Option<u64>,
    /// Whether it is held.
    pub held: bool,
    /// Bytes that are held of it.
    pub held_bytes: u64,
    /// Whether another manifest that is held names it, too.
    pub shared: bool,
    /// The endpoint that sent it.
    pub endpoint: Option<Arc<str>>,
    /// When it was fetched.
    pub fetched_at: Option<Timestamp>,
}

impl ManifestDetail {
    /// Whether it and all that it names is held.
    pub fn is_whole(&self) -> bool {
        self.held && self.blobs.iter().all(|blob| blob.held)
    }
}

impl RegistryCache {
    /// Up to `limit` repositories of which something is kept, in the order of (upstream,
    /// repository), beginning past `after`; only those of `upstream` where one is given. At most
    /// [`Limits::page_entries_max`](crate::Limits::page_entries_max).
    ///
    /// # Errors
    ///
    /// [`CacheError::NoUpkeep`]; [`CacheError::Store`] where the store cannot tell.
    pub async fn repositories(
        &self,
        upstream: Option<&UpstreamId>,
        after: Option<&Origin>,
        limit: usize,
    ) -> Result<Vec<RepositorySummary>, CacheError> {
        let cache = &self.inner;
        let limit = limit.min(cache.limits.page_entries_max);
        let charges = cache.upkeep()?.inventory.charges(upstream, after, limit);
        let charges = cache.store(StoreOperation::Index, charges).await?;
        let linked = self.catalog(upstream, after, limit).await?;
        let mut repositories = merge(linked, charges);
        repositories.truncate(limit);
        for repository in &mut repositories {
            let tags = cache
                .stores
                .tags
                .tags(&repository.origin, None, TAGS_COUNTED_MAX);
            let tags = cache.store(StoreOperation::Index, tags).await?;
            repository.tags = tags.len() as u64;
        }
        Ok(repositories)
    }

    /// Bytes that are charged to an upstream: of content that several use, to the first that brought
    /// it. `None` where too many repositories would have to be added up
    /// ([`Limits::quota_origins_max`](crate::Limits::quota_origins_max)).
    ///
    /// # Errors
    ///
    /// [`CacheError::NoUpkeep`]; [`CacheError::Store`] where the store cannot tell.
    pub async fn charged(&self, upstream: &UpstreamId) -> Result<Option<u64>, CacheError> {
        let cache = &self.inner;
        let inventory = &cache.upkeep()?.inventory;
        let page_max = cache.limits.page_entries_max;
        let (mut bytes, mut count) = (0, 0);
        let mut after: Option<Origin> = None;
        while count < cache.limits.quota_origins_max {
            let page = inventory.charges(Some(upstream), after.as_ref(), page_max);
            let page = cache.store(StoreOperation::Index, page).await?;
            bytes += page.iter().map(|charge| charge.bytes).sum::<u64>();
            count += page.len();
            if page.len() < page_max {
                return Ok(Some(bytes));
            }
            after = page.into_iter().next_back().map(|charge| charge.origin);
        }
        Ok(None)
    }

    /// Up to `limit` images that are kept under a tag of a repository, in the order of their tags,
    /// beginning past `after`. At most
    /// [`Limits::page_entries_max`](crate::Limits::page_entries_max).
    ///
    /// # Errors
    ///
    /// [`CacheError::NoUpkeep`]; [`CacheError::Store`] where the store cannot tell.
    pub async fn images(
        &self,
        origin: &Origin,
        after: Option<&Tag>,
        limit: usize,
    ) -> Result<Vec<ImageSummary>, CacheError> {
        let cache = &self.inner;
        let upkeep = cache.upkeep()?;
        let bonds = Bonds::new(cache, upkeep).await?;
        let limit = limit.min(cache.limits.page_entries_max);
        let tags = cache
            .stores
            .tags
            .tags(origin, after.map(Tag::as_str), limit);
        let mut images = Vec::new();
        for tag in cache.store(StoreOperation::Index, tags).await? {
            // It may have gone since.
            let reference = Reference::Tag(tag);
            let image = cache.image(upkeep, &bonds, origin, &reference).await?;
            images.extend(image.map(|image| image.summary));
        }
        Ok(images)
    }

    /// Images that are kept in a repository under no tag of it, and that no index lists: those that
    /// were pulled by digest. Up to `limit`, in the order of their digests, beginning past `after`.
    ///
    /// # Limits
    ///
    /// [`Limits::page_entries_max`](crate::Limits::page_entries_max) links are looked at: a page
    /// may have few images, or none, and still not be the last.
    ///
    /// # Errors
    ///
    /// [`CacheError::NoUpkeep`]; [`CacheError::Store`] where the store cannot tell.
    pub async fn untagged(
        &self,
        origin: &Origin,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<UntaggedPage, CacheError> {
        let cache = &self.inner;
        let upkeep = cache.upkeep()?;
        let bonds = Bonds::new(cache, upkeep).await?;
        let looked_at = cache.limits.page_entries_max;
        let linked = upkeep.inventory.linked_manifests(origin, after, looked_at);
        let linked = cache.store(StoreOperation::Index, linked).await?;
        let mut page = UntaggedPage {
            next: linked.last().copied().filter(|_| linked.len() == looked_at),
            ..UntaggedPage::default()
        };
        for digest in linked {
            if page.images.len() == limit {
                page.next = page.images.last().map(|image| image.digest);
                break;
            }
            let is_listed = bonds.named_by(LinkTarget::Manifest(digest), 1).await?;
            let mut tags = bonds.tagged_as(digest, BONDS_MAX).await?.into_iter();
            if is_listed.is_empty() && !tags.any(|(of, _)| of == *origin) {
                let reference = Reference::Digest(digest);
                let image = cache.image(upkeep, &bonds, origin, &reference).await?;
                page.images.extend(image.map(|image| image.summary));
            }
        }
        Ok(page)
    }

    /// What is kept of one image: of a tag that is recorded, or of a manifest that is kept and
    /// linked in this repository.
    ///
    /// # Errors
    ///
    /// [`CacheError::NoUpkeep`]; [`CacheError::Store`] where the store cannot tell.
    pub async fn image(
        &self,
        origin: &Origin,
        reference: &Reference,
    ) -> Result<Option<ImageDetail>, CacheError> {
        let cache = &self.inner;
        let upkeep = cache.upkeep()?;
        let bonds = Bonds::new(cache, upkeep).await?;
        cache.image(upkeep, &bonds, origin, reference).await
    }
}

impl Inner {
    pub(super) async fn image(
        &self,
        upkeep: &Upkeep,
        bonds: &Bonds<'_>,
        origin: &Origin,
        reference: &Reference,
    ) -> Result<Option<ImageDetail>, CacheError> {
        let (digest, record) = match reference {
            Reference::Tag(tag) => match self.tag_record(origin, tag).await? {
                Some(record) => (record.digest, Some(record)),
                None => return Ok(None),
            },
            Reference::Digest(digest) => {
                let target = LinkTarget::Manifest(*digest);
                if self.linked(origin, target).await.is_none()
                    || self.content_record(upkeep, target).await?.is_none()
                {
                    return Ok(None);
                }
                (*digest, None)
            }
        };
        let anatomy = Anatomy::examine(self, upkeep, bonds, digest).await?;
        let pinned = match reference {
            Reference::Tag(tag) if bonds.pin_of_tag(origin, tag).is_some() => true,
            _ => bonds.pin_of(digest).await?.is_some(),
        };
        let root_fetched_at = anatomy.manifests.first().and_then(|root| root.fetched_at);
        let summary = ImageSummary {
            origin: origin.clone(),
            reference: reference.clone(),
            digest,
            platforms: anatomy.platforms(),
            bytes: anatomy.bytes,
            own_bytes: anatomy.own_bytes,
            complete: anatomy.is_complete(),
            pinned,
            fetched_at: record
                .as_ref()
                .map(|record| record.fetched_at)
                .or(root_fetched_at),
            validated_at: record.map(|record| record.validated_at),
            accessed_at: anatomy
                .manifests
                .iter()
                .filter_map(|of| of.accessed_at)
                .max(),
        };
        Ok(Some(ImageDetail {
            summary,
            manifests: anatomy.manifests,
            truncated: anatomy.truncated,
        }))
    }

    pub(super) async fn tag_record(
        &self,
        origin: &Origin,
        tag: &Tag,
    ) -> Result<Option<TagRecord>, CacheError> {
        let record = self.stores.tags.tag(origin, tag);
        Ok(self.store(StoreOperation::Index, record).await?)
    }
}

/// All of either, in order.
fn merge(linked: Vec<Origin>, charges: Vec<Charge>) -> Vec<RepositorySummary> {
    let mut linked = linked.into_iter().peekable();
    let mut charges = charges.into_iter().peekable();
    let mut merged = Vec::new();
    loop {
        let order = match (linked.peek(), charges.peek()) {
            (None, None) => return merged,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(origin), Some(charge)) => origin.cmp(&charge.origin),
        };
        let origin = linked.next_if(|_| order.is_le());
        let charge = charges.next_if(|_| order.is_ge());
        let bytes = charge.as_ref().map_or(0, |charge| charge.bytes);
        let origin = origin.or(charge.map(|charge| charge.origin));
        merged.extend(origin.map(|origin| RepositorySummary {
            origin,
            bytes,
            tags: 0,
        }));
    }
}
