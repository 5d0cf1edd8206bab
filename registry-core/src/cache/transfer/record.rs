//! From what an archive brought to images that are served: only those that are whole.

use std::collections::HashSet;

use super::import::{ImportError, ImportedImage, State};
use super::parts::{Part, parts_of};
use crate::cache::Inner;
use crate::cache::negative::Absent;
use crate::{
    Caller, Digest, Hasher, Link, LinkTarget, Manifest, Origin, Platform, Provenance, Referrers,
    ReferrersRecord, RemovedUnused, StoreOperation, Tag, TagRecord, Timestamp,
};

/// What is noted as the endpoint that sent what was imported.
const ENDPOINT: &str = "import";

impl State {
    /// A manifest of the archive, or one that is held.
    async fn manifest(&self, digest: Digest) -> Result<Option<Manifest>, ImportError> {
        match self.documents.get(&digest) {
            Some(bytes) => match Manifest::verify(None, bytes.clone(), digest) {
                Ok(manifest) => Ok(Some(manifest)),
                Err(source) => Err(ImportError::Manifest { digest, source }),
            },
            None => Ok(self.cache.look_at_manifest(digest).await?),
        }
    }

    pub(super) async fn record(
        &mut self,
        origin: &Origin,
        tag: Option<&Tag>,
        digest: Digest,
    ) -> Result<ImportedImage, ImportError> {
        if self.cache.via(origin).is_err() {
            let upstream = origin.upstream().clone();
            return Err(ImportError::UnknownUpstream { upstream });
        }
        let whole = self.whole(digest).await?;
        let image = ImportedImage {
            digest,
            platforms: whole.platforms,
            absent: whole.absent,
        };
        for manifest in whole.manifests {
            self.keep(origin, manifest).await?;
        }
        self.cache.kept_more(origin).await;
        if let Some(tag) = tag {
            self.cache.record_imported(origin, tag, digest).await?;
        }
        Ok(image)
    }

    /// Finds everything of an image that is there, what is named before what names it.
    async fn whole(&self, root: Digest) -> Result<Whole, ImportError> {
        let missing = |what: String| ImportError::Incomplete { what };
        let manifest = self.manifest(root).await?;
        let manifest = manifest.ok_or_else(|| missing(format!("manifest {root}")))?;
        let mut whole = Whole::default();
        let parts = parts_of(&manifest);
        let mut gap = self.gap_in(&parts).await?;
        for part in parts.into_iter().filter(|part| part.is_manifest()) {
            match self.branch(part.target.digest()).await? {
                Ok(manifests) => {
                    whole.manifests.extend(manifests);
                    whole.platforms.extend(part.platform);
                }
                Err(what) => {
                    whole.absent += 1;
                    gap = gap.or(Some(what));
                }
            }
        }
        if let Some(what) = gap
            && whole.manifests.is_empty()
        {
            return Err(missing(what));
        }
        whole.manifests.push(manifest);
        Ok(whole)
    }

    /// A manifest of an index, with all that it names in turn; or what of it is missing.
    async fn branch(&self, root: Digest) -> Result<Result<Vec<Manifest>, String>, ImportError> {
        let mut manifests = Vec::new();
        let mut seen = HashSet::from([root]);
        let mut next = vec![root];
        while let Some(digest) = next.pop() {
            let Some(manifest) = self.manifest(digest).await? else {
                return Ok(Err(format!("manifest {digest}")));
            };
            let parts = parts_of(&manifest);
            if let Some(what) = self.gap_in(&parts).await? {
                return Ok(Err(what));
            }
            let nested = parts.iter().filter(|part| part.is_manifest());
            let nested = nested.map(|part| part.target.digest());
            next.extend(nested.filter(|digest| seen.insert(*digest)));
            manifests.push(manifest);
        }
        manifests.reverse();
        Ok(Ok(manifests))
    }

    /// The first of the blobs that is not there.
    async fn gap_in(&self, parts: &[Part]) -> Result<Option<String>, ImportError> {
        for part in parts.iter().filter(|part| !part.is_optional) {
            let LinkTarget::Blob(digest) = part.target else {
                continue;
            };
            let is_here = self.documents.contains_key(&digest)
                || self.cache.held_size(digest).await?.is_some();
            if !is_here {
                return Ok(Some(format!("blob {digest}")));
            }
        }
        Ok(None)
    }

    /// Keeps a manifest whose blobs are there, and links what it names; the same steps in the same
    /// order as after a fetch.
    async fn keep(&mut self, origin: &Origin, manifest: Manifest) -> Result<(), ImportError> {
        let digest = manifest.digest();
        for part in parts_of(&manifest) {
            let LinkTarget::Blob(blob) = part.target else {
                continue;
            };
            // A blob that looks like a manifest.
            if let Some(bytes) = self.documents.get(&blob).cloned() {
                let mut hasher = Hasher::new(blob.algorithm());
                hasher.update(&bytes);
                self.keep_small(hasher.verify(blob)?, bytes).await?;
            }
        }
        if self.cache.look_at_manifest(digest).await?.is_none() {
            let size = manifest.descriptor().size;
            let _promise = self.room(size).await?;
            let put = || self.cache.stores.manifests.put_manifest(manifest.clone());
            let operation = StoreOperation::Index;
            self.cache.store_making_room(operation, size, put).await?;
            self.imported.contents += 1;
            self.imported.bytes += manifest.descriptor().size;
        } else if self.documents.contains_key(&digest) {
            self.imported.contents_held += 1;
            self.imported.bytes_held += manifest.descriptor().size;
        }
        self.documents.remove(&digest);
        self.note(LinkTarget::Manifest(digest), origin).await?;
        let mut links = manifest.links().to_vec();
        for link in &links {
            let blob = link.target.digest();
            if matches!(link.target, LinkTarget::Blob(_)) && self.unclaimed.remove(&blob) {
                self.note(link.target, origin).await?;
            }
        }
        links.push(Link {
            target: LinkTarget::Manifest(digest),
            size: Some(manifest.descriptor().size),
        });
        self.cache.forget_absent(origin, &links);
        let link = self.cache.stores.links.link(origin, links);
        Ok(self.cache.store(StoreOperation::Index, link).await?)
    }

    async fn note(&self, target: LinkTarget, origin: &Origin) -> Result<(), ImportError> {
        let Some(upkeep) = &self.cache.stores.upkeep else {
            return Ok(());
        };
        let provenance = Provenance {
            origin: origin.clone(),
            endpoint: Some(ENDPOINT.into()),
            at: self.cache.now(),
        };
        let note = upkeep.inventory.note(target, provenance);
        Ok(self.cache.store(StoreOperation::Index, note).await?)
    }

    pub(super) async fn record_referrers(
        &mut self,
        origin: &Origin,
        subject: Digest,
        referrers: Option<Referrers>,
    ) -> Result<(), ImportError> {
        for referrer in referrers.iter().flat_map(Referrers::iter) {
            match self.record(origin, None, referrer.digest()).await {
                // The list is the upstream's, whether all that it names came along or not.
                Ok(_) | Err(ImportError::Incomplete { .. } | ImportError::Manifest { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let cache = &self.cache;
        let recorded = cache.stores.referrers.referrers(origin, subject);
        let recorded = cache.store(StoreOperation::Index, recorded).await?;
        if recorded.is_some_and(|record| record.validated_at != Timestamp::NEVER) {
            return Ok(());
        }
        let record = ReferrersRecord {
            referrers,
            validated_at: Timestamp::NEVER,
        };
        let put = cache
            .stores
            .referrers
            .put_referrers(origin, subject, record);
        cache.store(StoreOperation::Index, put).await?;
        cache.forget(&Absent::referrers(origin, subject, &Caller::Anonymous));
        Ok(())
    }
}

/// What is there of an image.
#[derive(Default)]
struct Whole {
    manifests: Vec<Manifest>,
    platforms: Vec<Platform>,
    absent: usize,
}

impl Inner {
    /// Records what a tag names by an archive's account. What the upstream said of it stands, where
    /// that is the same.
    async fn record_imported(
        &self,
        origin: &Origin,
        tag: &Tag,
        digest: Digest,
    ) -> Result<(), ImportError> {
        let recorded = self.stores.tags.tag(origin, tag);
        let recorded = self.store(StoreOperation::Index, recorded).await?;
        if recorded.is_none_or(|record| record.digest != digest) {
            let record = TagRecord {
                digest,
                fetched_at: self.now(),
                validated_at: Timestamp::NEVER,
            };
            let put = self.stores.tags.put_tag(origin, tag, record);
            self.store(StoreOperation::Index, put).await?;
        }
        self.forget(&Absent::tag(origin, tag, &Caller::Anonymous));
        Ok(())
    }

    /// Removes blobs that were written for images which then were not recorded; the sizes of those
    /// that were removed. Without an inventory nobody knows whether they have come to be
    /// needed meanwhile, and they stay.
    pub(super) async fn remove_unclaimed(&self, unclaimed: HashSet<Digest>) -> Vec<u64> {
        let mut removed = Vec::new();
        let Some(upkeep) = &self.stores.upkeep else {
            return removed;
        };
        for digest in unclaimed {
            let size = self.held_size(digest).await.ok().flatten();
            let remove = upkeep.inventory.remove_unused(digest);
            let outcome = self.store(StoreOperation::Remove, remove).await;
            if let (Ok(RemovedUnused::Removed(_)), Some(size)) = (outcome, size) {
                removed.push(size);
            }
        }
        removed
    }
}
