//! An image, taken apart: its manifests and their blobs, and what of them is held.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::Deserialize as _;

use super::super::{CacheError, Inner};
use super::bonds::{Bonds, INDEX_DEPTH_MAX};
use super::survey::{BlobDetail, ManifestDetail};
use crate::platform::WrittenPlatform;
use crate::{
    ContentRecord, Digest, LinkTarget, Manifest, ManifestContents, Named, Platform, StoreOperation,
    Upkeep,
};

/// A larger configuration of an image is not read to find out its platform.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// An image, as far as it was looked at.
pub(super) struct Anatomy {
    pub(super) manifests: Vec<ManifestDetail>,
    /// Bytes that are held.
    pub(super) bytes: u64,
    /// Those of them that would go with it.
    pub(super) own_bytes: u64,
    /// There are more parts.
    pub(super) truncated: bool,
}

/// A manifest that is yet to be looked at.
struct Expected {
    named: Named,
    depth: usize,
}

/// What was found of an image so far.
struct Examination<'a> {
    cache: &'a Inner,
    upkeep: &'a Upkeep,
    bonds: &'a Bonds<'a>,
    manifests: Vec<ManifestDetail>,
    records: BTreeMap<LinkTarget, u64>,
    parts: usize,
    truncated: bool,
}

impl Anatomy {
    /// Looks at the image whose manifest or index is `root`.
    pub(super) async fn examine(
        cache: &Inner,
        upkeep: &Upkeep,
        bonds: &Bonds<'_>,
        root: Digest,
    ) -> Result<Self, CacheError> {
        let mut examination = Examination {
            cache,
            upkeep,
            bonds,
            manifests: Vec::new(),
            records: BTreeMap::new(),
            parts: 0,
            truncated: false,
        };
        examination.walk(root).await?;
        examination.finish(root).await
    }

    /// All that is held.
    pub(super) fn held(&self) -> BTreeSet<LinkTarget> {
        let manifests = self.manifests.iter().filter(|of| of.held);
        let manifests = manifests.map(|of| LinkTarget::Manifest(of.digest));
        let blobs = self.manifests.iter().flat_map(|of| &of.blobs);
        let blobs = blobs.filter(|blob| blob.held);
        manifests
            .chain(blobs.map(|blob| LinkTarget::Blob(blob.digest)))
            .collect()
    }

    /// The platforms of which everything is held.
    pub(super) fn platforms(&self) -> Vec<Platform> {
        let whole = self.images().filter(|image| image.is_whole());
        let platforms: BTreeSet<_> = whole.filter_map(|image| image.platform.clone()).collect();
        platforms.into_iter().collect()
    }

    /// Whether one of its images is held with everything.
    pub(super) fn is_complete(&self) -> bool {
        self.images().any(ManifestDetail::is_whole)
    }

    /// What a client may want of it: not indexes, and not what is attached.
    pub(super) fn images(&self) -> impl Iterator<Item = &ManifestDetail> {
        images_of(&self.manifests)
    }
}

/// Of the manifests of an image, those of images.
pub(super) fn images_of(manifests: &[ManifestDetail]) -> impl Iterator<Item = &ManifestDetail> {
    let images = manifests.iter();
    images.filter(|of| !of.is_index && of.attached_to.is_none())
}

impl Examination<'_> {
    /// From the root down, level by level.
    async fn walk(&mut self, root: Digest) -> Result<(), CacheError> {
        let named = Named::unknown(root);
        let mut seen = BTreeSet::from([root]);
        let mut expected = VecDeque::from([Expected { named, depth: 0 }]);
        while let Some(Expected { named, depth }) = expected.pop_front() {
            if !self.has_room() {
                break;
            }
            let contents = self.manifest(named, depth == 0).await?;
            if depth < INDEX_DEPTH_MAX {
                let children = contents.manifests.into_iter();
                let children = children.filter(|child| seen.insert(child.digest));
                expected.extend(children.map(|named| Expected {
                    named,
                    depth: depth + 1,
                }));
            }
        }
        Ok(())
    }

    /// Looks at a manifest and its blobs. What an index lists that is no manifest is a blob of it.
    async fn manifest(
        &mut self,
        named: Named,
        is_root: bool,
    ) -> Result<ManifestContents, CacheError> {
        let digest = named.digest;
        let target = LinkTarget::Manifest(digest);
        let record = self.record(target).await?;
        let peeked = self.upkeep.inventory.peek_manifest(digest);
        let manifest = self.cache.store(StoreOperation::Read, peeked).await?;
        let contents = manifest
            .as_ref()
            .map(Manifest::contents)
            .unwrap_or_default();
        if manifest.is_none() && !is_root && named.media_type.is_some() && !named.is_manifest() {
            // It was found among the manifests of an index.
            let blob = self.blob(&named, None).await?;
            if let Some(index) = self.manifests.first_mut() {
                index.blobs.push(blob);
            }
            return Ok(contents);
        }
        let mut blobs = Vec::new();
        for blob in contents.blobs() {
            if !self.has_room() {
                break;
            }
            blobs.push(self.blob(blob, Some(digest)).await?);
        }
        let size = manifest.as_ref().map(|manifest| manifest.descriptor().size);
        let size = size.or(named.size).unwrap_or_default();
        let platform = match (named.platform, &contents.config) {
            (None, Some(config)) => self.platform_of(config).await?,
            (told, _) => told,
        };
        let told = blobs.iter().map(|blob| blob.bytes.unwrap_or_default());
        let held = blobs.iter().map(|blob| blob.held_bytes);
        let record_bytes = record.as_ref().map_or(0, |record| record.bytes);
        let provenance = record.as_ref().and_then(|record| record.provenance.clone());
        let media_type = manifest
            .as_ref()
            .map(|manifest| manifest.media_type().clone());
        self.manifests.push(ManifestDetail {
            digest,
            media_type: media_type.or(named.media_type),
            artifact_type: contents.artifact_type.clone().or(named.artifact_type),
            platform,
            attached_to: named.attached_to,
            is_index: !contents.manifests.is_empty(),
            held: manifest.is_some(),
            bytes: size + told.sum::<u64>(),
            held_bytes: record_bytes + held.sum::<u64>(),
            endpoint: provenance.as_ref().and_then(|of| of.endpoint.clone()),
            fetched_at: provenance.map(|of| of.at),
            accessed_at: record.and_then(|record| record.accessed_at),
            blobs,
        });
        Ok(contents)
    }

    async fn blob(
        &mut self,
        named: &Named,
        named_by: Option<Digest>,
    ) -> Result<BlobDetail, CacheError> {
        let target = LinkTarget::Blob(named.digest);
        let record = self.record(target).await?;
        let others = self.bonds.named_by(target, 2).await?;
        let provenance = record.as_ref().and_then(|record| record.provenance.clone());
        Ok(BlobDetail {
            digest: named.digest,
            media_type: named.media_type.clone(),
            bytes: named.size,
            held: record.is_some(),
            held_bytes: record.as_ref().map_or(0, |record| record.bytes),
            shared: others.iter().any(|other| Some(*other) != named_by),
            endpoint: provenance.as_ref().and_then(|of| of.endpoint.clone()),
            fetched_at: provenance.map(|of| of.at),
        })
    }

    async fn record(&mut self, target: LinkTarget) -> Result<Option<ContentRecord>, CacheError> {
        self.parts += 1;
        let record = self.cache.content_record(self.upkeep, target).await?;
        if let Some(record) = &record {
            self.records.insert(target, record.bytes);
        }
        Ok(record)
    }

    /// What the configuration of an image says that it runs on, if that is held.
    async fn platform_of(&self, config: &Named) -> Result<Option<Platform>, CacheError> {
        let peeked = self.upkeep.inventory.peek_blob(config.digest);
        let Some(peeked) = self.cache.store(StoreOperation::Read, peeked).await? else {
            return Ok(None);
        };
        if peeked.size > CONFIG_BYTES_MAX {
            return Ok(None);
        }
        let len = usize::try_from(peeked.size).unwrap_or(usize::MAX);
        let read = peeked.reader.read_at(0, len);
        let bytes = self.cache.store(StoreOperation::Read, read).await?;
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let written = WrittenPlatform::deserialize(&mut json).ok();
        Ok(written.and_then(|written| written.read()))
    }

    fn has_room(&mut self) -> bool {
        let has_room = self.parts < self.cache.limits.image_parts_max;
        self.truncated |= !has_room;
        has_room
    }

    async fn finish(self, root: Digest) -> Result<Anatomy, CacheError> {
        let children = self
            .manifests
            .iter()
            .filter(|of| of.held && of.digest != root);
        let children: Vec<_> = children.map(|of| of.digest).collect();
        let going = self.bonds.going_with(root, &children).await?;
        let mut own_bytes = 0;
        for (target, bytes) in &self.records {
            let goes = match target {
                LinkTarget::Manifest(digest) => going.contains(digest),
                LinkTarget::Blob(_) => !self.bonds.is_needed_beside(*target, &going).await?,
            };
            own_bytes += if goes { *bytes } else { 0 };
        }
        Ok(Anatomy {
            bytes: self.records.values().sum(),
            own_bytes,
            manifests: self.manifests,
            truncated: self.truncated,
        })
    }
}

impl Inner {
    pub(super) async fn content_record(
        &self,
        upkeep: &Upkeep,
        target: LinkTarget,
    ) -> Result<Option<ContentRecord>, CacheError> {
        let record = upkeep.inventory.record(target);
        Ok(self.store(StoreOperation::Index, record).await?)
    }
}
