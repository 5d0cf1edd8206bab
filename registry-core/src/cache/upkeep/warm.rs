//! Fetching an image before anybody pulls it: by the ways of a pull, but that nobody reads it.
//!
//! So a tag is asked for only where it is not fresh, what is held is not fetched, and what others
//! pull at the same time is fetched once.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;
use futures::stream;

use super::super::fill::{Errand, Part, Settled};
use super::super::negative::Absent;
use super::super::{CacheError, Inner, RegistryCache};
use super::bonds::INDEX_DEPTH_MAX;
use crate::{
    Caller, Digest, Link, LinkTarget, Manifest, Named, Origin, Platform, Progress, Reference,
    ReferrersPage, StoreOperation, Tag,
};

/// What of an image is fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WarmOptions {
    /// Of an index, only what these platforms run; all of it where there are none. An image that is
    /// no index is fetched whatever it runs on.
    pub platforms: Vec<Platform>,
    /// Also what is attached to it: signatures, attestations, bills of materials.
    pub attached: bool,
}

/// What was fetched before anybody pulled it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warmed {
    /// The manifest or index that was named.
    pub digest: Digest,
    /// The platforms that were chosen from an index.
    pub platforms: Vec<Platform>,
    /// Manifests that are here now, the index and what is attached included.
    pub manifests: u64,
    /// Blobs that are here now.
    pub blobs: u64,
    /// Bytes of these blobs, as far as they are told.
    pub bytes: u64,
    /// Blobs that had to be fetched.
    pub fetched_blobs: u64,
    /// Their bytes.
    pub fetched_bytes: u64,
    /// It was told to end before it was done.
    pub cancelled: bool,
}

impl RegistryCache {
    /// Fetches an image, so that it is here when it is pulled. All that can be fetched is, also
    /// where something cannot.
    ///
    /// # Errors
    ///
    /// As [`Self::manifest`] and [`Self::blob`]: the first failure. [`CacheError::NoSuchPlatform`]
    /// where an index lists nothing for the platforms asked for.
    ///
    /// # Cancellation
    ///
    /// Dropping the future, or [`Progress::cancel`], begins nothing more. What is being fetched is
    /// the cache's, and goes on.
    ///
    /// # Limits
    ///
    /// [`Limits::warm_blobs_max`](crate::Limits::warm_blobs_max) blobs at a time. Nothing that is
    /// fetched is kept in memory but its manifests.
    pub async fn warm(
        &self,
        origin: &Origin,
        reference: &Reference,
        options: &WarmOptions,
        progress: &Progress,
    ) -> Result<Warmed, CacheError> {
        let served = self.manifest(origin, reference, &Caller::Anonymous).await?;
        let mut warming = Warming {
            cache: self,
            origin,
            options,
            progress,
            blobs: BTreeMap::new(),
            seen: BTreeSet::new(),
            failure: None,
            warmed: Warmed {
                digest: served.value.digest(),
                platforms: Vec::new(),
                manifests: 0,
                blobs: 0,
                bytes: 0,
                fetched_blobs: 0,
                fetched_bytes: 0,
                cancelled: false,
            },
        };
        warming.gather(served.value).await?;
        warming.fetch().await;
        match warming.failure {
            Some(error) => Err(error),
            None => Ok(warming.warmed),
        }
    }
}

/// An image that is being fetched.
struct Warming<'a> {
    cache: &'a RegistryCache,
    origin: &'a Origin,
    options: &'a WarmOptions,
    progress: &'a Progress,
    /// The blobs that it needs, and their sizes.
    blobs: BTreeMap<Digest, Option<u64>>,
    /// Manifests that were looked at.
    seen: BTreeSet<Digest>,
    failure: Option<CacheError>,
    warmed: Warmed,
}

/// A manifest that is here, and how many indexes and images led to it.
struct Gathered {
    manifest: Manifest,
    depth: usize,
}

impl Warming<'_> {
    /// Fetches the manifests, and finds out which blobs they need.
    async fn gather(&mut self, root: Manifest) -> Result<(), CacheError> {
        let mut gathered = vec![Gathered {
            manifest: root,
            depth: 0,
        }];
        while let Some(Gathered { manifest, depth }) = gathered.pop() {
            if self.is_cancelled() {
                return Ok(());
            }
            if !self.seen.insert(manifest.digest()) {
                continue;
            }
            self.warmed.manifests += 1;
            self.progress.update(|made| {
                made.items += 1;
                made.current = Some(manifest.digest().to_string());
            });
            let contents = manifest.contents();
            for blob in contents.blobs() {
                self.blobs.insert(blob.digest, blob.size);
            }
            let chosen = self.choose(&contents.manifests)?;
            if depth > INDEX_DEPTH_MAX {
                continue;
            }
            for child in chosen {
                if !child.is_manifest() && child.media_type.is_some() {
                    self.blobs.insert(child.digest, child.size);
                    continue;
                }
                let child = Reference::Digest(child.digest);
                gathered.extend(self.manifest(&child).await.map(|manifest| Gathered {
                    manifest,
                    depth: depth + 1,
                }));
            }
            if self.options.attached {
                for manifest in self.attached(manifest.digest()).await {
                    // Signatures of signatures are nobody's business, but attachments may be indexes.
                    let depth = depth.max(INDEX_DEPTH_MAX);
                    gathered.push(Gathered { manifest, depth });
                }
            }
        }
        Ok(())
    }

    /// What of an index is wanted.
    fn choose(&mut self, listed: &[Named]) -> Result<Vec<Named>, CacheError> {
        let wanted = |named: &&Named| named.attached_to.is_none() || self.options.attached;
        let listed: Vec<_> = listed.iter().filter(wanted).cloned().collect();
        let platforms = &self.options.platforms;
        if platforms.is_empty() || listed.is_empty() {
            let told = listed.iter().filter_map(|named| named.platform.clone());
            self.warmed.platforms.extend(told);
            return Ok(listed);
        }
        let mut chosen: Vec<Named> = Vec::new();
        for platform in platforms {
            let is_it = |runs: &Platform, named: &Named| named.platform.as_ref() == Some(runs);
            let runs = platform.runs();
            let best = runs
                .iter()
                .find(|runs| listed.iter().any(|named| is_it(runs, named)));
            let best = best
                .into_iter()
                .inspect(|best| self.warmed.platforms.push((*best).clone()));
            for best in best {
                chosen.extend(listed.iter().filter(|named| is_it(best, named)).cloned());
            }
        }
        // An index that tells no platforms at all leaves nothing to choose by.
        let is_told = |named: &Named| named.platform.is_some();
        if chosen.is_empty() && listed.iter().any(is_told) {
            return Err(CacheError::NoSuchPlatform);
        }
        if chosen.is_empty() {
            return Ok(listed);
        }
        let images: BTreeSet<_> = chosen.iter().map(|named| named.digest).collect();
        let is_about = |named: &&Named| named.attached_to.is_some_and(|to| images.contains(&to));
        chosen.extend(listed.iter().filter(is_about).cloned());
        Ok(chosen)
    }

    /// A manifest, by the way of a pull; what fails is remembered.
    async fn manifest(&mut self, reference: &Reference) -> Option<Manifest> {
        let manifest = self
            .cache
            .manifest(self.origin, reference, &Caller::Anonymous);
        match manifest.await {
            Ok(served) => Some(served.value),
            Err(error) => {
                self.failure.get_or_insert(error);
                None
            }
        }
    }

    /// What is attached to a manifest: what the upstream lists, and what stands under tags that are
    /// made of its digest.
    async fn attached(&mut self, subject: Digest) -> Vec<Manifest> {
        let mut attached = Vec::new();
        for digest in self.referrers(subject).await {
            attached.extend(self.manifest(&Reference::Digest(digest)).await);
        }
        for tag in attached_tags(subject) {
            let reference = Reference::Tag(tag);
            let manifest = self
                .cache
                .manifest(self.origin, &reference, &Caller::Anonymous);
            match manifest.await {
                Ok(served) => attached.push(served.value),
                Err(CacheError::NotFound | CacheError::NotFoundStale { .. }) => {}
                Err(error) => drop(self.failure.get_or_insert(error)),
            }
        }
        attached
    }

    async fn referrers(&mut self, subject: Digest) -> Vec<Digest> {
        let page = ReferrersPage {
            limit: self.cache.limits().page_entries_max,
            after: None,
            artifact_type: None,
        };
        let listed = self
            .cache
            .referrers(self.origin, subject, page, &Caller::Anonymous);
        match listed.await {
            Ok(served) => served
                .value
                .referrers
                .iter()
                .map(|of| of.digest())
                .collect(),
            Err(CacheError::NotFound | CacheError::NotFoundStale { .. }) => Vec::new(),
            Err(error) => {
                self.failure.get_or_insert(error);
                Vec::new()
            }
        }
    }

    /// Fetches the blobs, several at a time.
    async fn fetch(&mut self) {
        let blobs = std::mem::take(&mut self.blobs);
        let items = self.warmed.manifests + blobs.len() as u64;
        let bytes = blobs.values().map(|size| size.unwrap_or_default()).sum();
        self.progress.update(|made| {
            made.items_total = Some(items);
            made.bytes_total = Some(bytes);
        });
        let cache = &self.cache.inner;
        let (origin, progress) = (self.origin, self.progress);
        let fetches = blobs.into_iter().map(async |(digest, size)| {
            let link = Link {
                target: LinkTarget::Blob(digest),
                size,
            };
            let kept = cache.keep_blob(origin, digest, link, progress);
            tokio::select! {
                kept = kept => Some(kept),
                () = progress.cancelled() => None,
            }
        });
        let at_a_time = cache.limits.warm_blobs_max.max(1);
        let mut fetches = stream::iter(fetches).buffer_unordered(at_a_time);
        while let Some(kept) = fetches.next().await {
            match kept {
                Some(Ok(kept)) => {
                    self.warmed.blobs += 1;
                    self.warmed.bytes += kept.bytes;
                    if kept.is_new {
                        self.warmed.fetched_blobs += 1;
                        self.warmed.fetched_bytes += kept.bytes;
                    }
                    progress.update(|made| made.items += 1);
                }
                Some(Err(error)) => drop(self.failure.get_or_insert(error)),
                None => {
                    self.warmed.cancelled = true;
                    return;
                }
            }
        }
    }

    fn is_cancelled(&mut self) -> bool {
        self.warmed.cancelled |= self.progress.is_cancelled();
        self.warmed.cancelled
    }
}

/// A blob that is here.
struct Kept {
    bytes: u64,
    is_new: bool,
}

impl Inner {
    /// Sees to it that a blob is in the store that a manifest of `origin` names, by the fill that is
    /// under way or one that is begun.
    async fn keep_blob(
        self: &std::sync::Arc<Self>,
        origin: &Origin,
        digest: Digest,
        link: Link,
        progress: &Progress,
    ) -> Result<Kept, CacheError> {
        let caller = Caller::Anonymous;
        let mut is_new = false;
        let mut came = 0;
        let mut failure = CacheError::Lost;
        for _ in 0..self.limits.follow_attempts_max.max(1) {
            let stat = self.stores.blobs.stat(digest);
            if let Some(stat) = self.store(StoreOperation::Stat, stat).await? {
                advance(progress, &mut came, stat.size);
                return Ok(Kept {
                    bytes: stat.size,
                    is_new,
                });
            }
            if self.is_absent(&Absent::blob(origin, digest, &caller)) {
                return Err(CacheError::NotFound);
            }
            let errand = Errand {
                via: self.via(origin)?,
                origin: origin.clone(),
                digest,
                caller: caller.clone(),
            };
            let (mut fill, is_ours) = match self.fill(errand.clone(), Some(link))? {
                Part::Leads(fill) => (fill, true),
                Part::Follows(fill) => {
                    let is_ours = fill.errand == errand;
                    (fill, is_ours)
                }
            };
            let told = |bytes| advance(progress, &mut came, bytes);
            match fill.settled(told).await {
                Settled::Kept => is_new = true,
                Settled::Failed(error) if is_ours => return Err(error),
                Settled::Failed(error) => failure = error,
            }
        }
        Err(failure)
    }
}

/// Tells of bytes that have come since it was told last.
fn advance(progress: &Progress, came: &mut u64, bytes: u64) {
    if bytes > *came {
        progress.update(|made| made.bytes += bytes - *came);
        *came = bytes;
    }
}

/// The tags that tools put what is attached to a manifest under.
fn attached_tags(subject: Digest) -> impl Iterator<Item = Tag> {
    let stem = subject.to_string().replace(':', "-");
    let names = ["", ".sig", ".att", ".sbom"];
    names
        .into_iter()
        .filter_map(move |suffix| Tag::parse(&format!("{stem}{suffix}")).ok())
}
