//! What belongs to an image, found out from the top: its manifests, of the platforms that are chosen,
//! and what they name.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use tokio::sync::OwnedSemaphorePermit;

use super::export::{
    AttachedContent, ExportContent, ExportError, ExportPlan, ExportRequest, ExportedImage, LeftOut,
    PlatformChoice, name_of,
};
use super::parts::{Part, parts_of};
use crate::cache::{CacheError, RegistryCache};
use crate::{
    Caller, Descriptor, Digest, LinkTarget, Manifest, Origin, Platform, Reference, Referrers,
    StoreOperation, Tag,
};

/// What a plan is made of, as far as it is found out.
pub(super) struct Planner<'a> {
    pub(super) cache: &'a RegistryCache,
    pub(super) request: &'a ExportRequest,
    contents: BTreeMap<(bool, Digest), ExportContent>,
    images: BTreeMap<String, ExportedImage>,
    pub(super) tags: BTreeMap<(Origin, Tag), Descriptor>,
    pub(super) referrers: BTreeMap<(Origin, Digest), Option<Referrers>>,
    left_out: Vec<LeftOut>,
}

/// The image that is being looked at.
pub(super) struct Asked<'a> {
    pub(super) origin: &'a Origin,
    pub(super) reference: &'a Reference,
}

impl Asked<'_> {
    fn name(&self) -> String {
        name_of(self.origin, self.reference)
    }

    pub(super) fn cannot(
        &self,
        what: impl Into<String>,
        source: impl Into<CacheError>,
    ) -> ExportError {
        ExportError::Image {
            image: self.name(),
            what: what.into(),
            source: source.into(),
        }
    }

    fn not_held(&self, what: impl Into<String>) -> ExportError {
        ExportError::NotHeld {
            image: self.name(),
            what: what.into(),
        }
    }
}

/// A manifest, and the blobs that it needs.
struct Found {
    digest: Digest,
    size: u64,
    contents: Vec<ExportContent>,
}

/// What a manifest needs.
enum Needs {
    /// This, all of which is held or can be had.
    All(Vec<ExportContent>),
    /// More than is held.
    NotHeld(String),
}

impl<'a> Planner<'a> {
    pub(super) fn new(cache: &'a RegistryCache, request: &'a ExportRequest) -> Self {
        Self {
            cache,
            request,
            contents: BTreeMap::new(),
            images: BTreeMap::new(),
            tags: BTreeMap::new(),
            referrers: BTreeMap::new(),
            left_out: Vec::new(),
        }
    }

    pub(super) async fn image(
        &mut self,
        origin: &Origin,
        reference: &Reference,
    ) -> Result<(), ExportError> {
        let asked = Asked { origin, reference };
        let root = self
            .root(&asked)
            .await?
            .ok_or_else(|| asked.not_held("nothing of it is"))?;
        let mut manifests = Vec::new();
        let platforms = self.tree(&asked, &root, &mut manifests).await?;
        let image = ExportedImage {
            origin: origin.clone(),
            reference: reference.clone(),
            descriptor: root.descriptor().clone(),
            platforms,
        };
        self.images.insert(asked.name(), image);
        if self.request.attached {
            self.attached(origin, manifests).await?;
        }
        Ok(())
    }

    /// What the reference names: as a pull would find it, or as it is held.
    pub(super) async fn root(&self, asked: &Asked<'_>) -> Result<Option<Manifest>, ExportError> {
        let (cache, origin) = (self.cache, asked.origin);
        if !self.request.held_only {
            let pulled = cache.manifest(origin, asked.reference, &Caller::Anonymous);
            let pulled = pulled
                .await
                .map_err(|error| asked.cannot("its manifest", error))?;
            return Ok(Some(pulled.value));
        }
        let digest = match asked.reference {
            // Held for another repository, it is not this one's (I5).
            Reference::Digest(digest) => {
                let target = LinkTarget::Manifest(*digest);
                if cache.inner.linked(origin, target).await.is_none() {
                    return Ok(None);
                }
                *digest
            }
            Reference::Tag(tag) => {
                let record = cache.inner.stores.tags.tag(origin, tag);
                let record = cache.inner.store(StoreOperation::Index, record).await;
                match record.map_err(|error| asked.cannot("its tag", error))? {
                    Some(record) => record.digest,
                    None => return Ok(None),
                }
            }
        };
        self.look_at(asked, digest).await
    }

    async fn look_at(
        &self,
        asked: &Asked<'_>,
        digest: Digest,
    ) -> Result<Option<Manifest>, ExportError> {
        let looked = self.cache.inner.look_at_manifest(digest).await;
        looked.map_err(|error| asked.cannot(format!("manifest {digest}"), error))
    }

    /// Takes a manifest and what is chosen of it; those of its platforms that are taken. Every
    /// manifest that is taken is added to `manifests`.
    async fn tree(
        &mut self,
        asked: &Asked<'_>,
        root: &Manifest,
        manifests: &mut Vec<Digest>,
    ) -> Result<Vec<Platform>, ExportError> {
        let parts = parts_of(root);
        let children: Vec<Part> = parts
            .iter()
            .filter(|part| matches!(part.target, LinkTarget::Manifest(_)))
            .cloned()
            .collect();
        let own = match self.needs(asked, root.digest(), &parts).await? {
            Needs::All(contents) => Found {
                digest: root.digest(),
                size: root.descriptor().size,
                contents,
            },
            Needs::NotHeld(what) => return Err(asked.not_held(what)),
        };
        let chosen = self.choose(asked, &children).await?;
        let must_have_all = matches!(self.request.platforms, PlatformChoice::Only(_));
        let (mut platforms, mut has_any, mut gap) = (BTreeSet::new(), false, None);
        for part in children {
            let digest = part.target.digest();
            let is_chosen = chosen.contains(&digest);
            let taken = match is_chosen {
                true => self.child(asked, digest, manifests).await?,
                false => Err("it was not asked for".to_owned()),
            };
            match taken {
                Ok(()) => {
                    has_any = true;
                    platforms.extend(part.platform);
                }
                Err(what) => {
                    if is_chosen && part.about.is_none() {
                        gap = gap.or(Some((part.platform.clone(), what)));
                    }
                    self.leave_out(asked, part.platform, digest);
                }
            }
        }
        if let Some((platform, what)) = gap
            && (must_have_all || !has_any)
        {
            let platform = platform.map(|platform| format!("of {platform}, "));
            return Err(asked.not_held(format!("{}{what}", platform.unwrap_or_default())));
        }
        self.take(asked, own, manifests)?;
        Ok(platforms.into_iter().collect())
    }

    pub(super) fn leave_out(
        &mut self,
        asked: &Asked<'_>,
        platform: Option<Platform>,
        manifest: Digest,
    ) {
        self.left_out.push(LeftOut {
            origin: asked.origin.clone(),
            reference: asked.reference.clone(),
            platform,
            manifest,
        });
    }

    /// Takes a manifest with all that it names, indexes within indexes included; or nothing, and
    /// what of it is not held.
    pub(super) async fn child(
        &mut self,
        asked: &Asked<'_>,
        root: Digest,
        manifests: &mut Vec<Digest>,
    ) -> Result<Result<(), String>, ExportError> {
        let mut found: Vec<Found> = Vec::new();
        let mut seen = HashSet::from([root]);
        let mut next = vec![root];
        while let Some(digest) = next.pop() {
            let manifest = match self.look_at(asked, digest).await? {
                Some(manifest) => manifest,
                None if self.request.held_only => return Ok(Err(format!("manifest {digest}"))),
                None => self.fetch(asked, digest).await?,
            };
            let parts = parts_of(&manifest);
            let contents = match self.needs(asked, digest, &parts).await? {
                Needs::All(contents) => contents,
                Needs::NotHeld(what) => return Ok(Err(what)),
            };
            let size = manifest.descriptor().size;
            found.push(Found {
                digest,
                size,
                contents,
            });
            self.refuse_too_much(self.contents.len().saturating_add(found.len()))?;
            let nested = parts.iter().filter(|part| part.is_manifest());
            let nested = nested.map(|part| part.target.digest());
            next.extend(nested.filter(|digest| seen.insert(*digest)));
        }
        for found in found {
            self.take(asked, found, manifests)?;
        }
        Ok(Ok(()))
    }

    async fn fetch(&self, asked: &Asked<'_>, digest: Digest) -> Result<Manifest, ExportError> {
        let reference = Reference::Digest(digest);
        let fetched = self
            .cache
            .manifest(asked.origin, &reference, &Caller::Anonymous);
        match fetched.await {
            Ok(fetched) => Ok(fetched.value),
            Err(error) => Err(asked.cannot(format!("manifest {digest}"), error)),
        }
    }

    /// The blobs that a manifest names.
    async fn needs(
        &self,
        asked: &Asked<'_>,
        of: Digest,
        parts: &[Part],
    ) -> Result<Needs, ExportError> {
        let (cache, held_only) = (&self.cache.inner, self.request.held_only);
        let mut contents = Vec::new();
        for part in parts {
            let LinkTarget::Blob(digest) = part.target else {
                continue;
            };
            let held = cache.held_size(digest).await;
            let held = held.map_err(|error| asked.cannot(format!("blob {digest}"), error))?;
            let size = match held {
                Some(size) => size,
                None if part.is_optional => continue,
                None if held_only => {
                    return Ok(Needs::NotHeld(format!("blob {digest} of manifest {of}")));
                }
                None => {
                    let stat = self
                        .cache
                        .stat_blob(asked.origin, digest, &Caller::Anonymous);
                    let stat = stat.await;
                    stat.map_err(|error| asked.cannot(format!("blob {digest}"), error))?
                        .value
                }
            };
            contents.push(ExportContent {
                target: part.target,
                size,
                origin: asked.origin.clone(),
            });
        }
        Ok(Needs::All(contents))
    }

    fn take(
        &mut self,
        asked: &Asked<'_>,
        found: Found,
        manifests: &mut Vec<Digest>,
    ) -> Result<(), ExportError> {
        let own = ExportContent {
            target: LinkTarget::Manifest(found.digest),
            size: found.size,
            origin: asked.origin.clone(),
        };
        manifests.push(found.digest);
        for content in found.contents.into_iter().chain([own]) {
            let is_blob = matches!(content.target, LinkTarget::Blob(_));
            let digest = content.target.digest();
            self.contents.entry((is_blob, digest)).or_insert(content);
        }
        self.refuse_too_much(self.contents.len())
    }

    fn refuse_too_much(&self, entries: usize) -> Result<(), ExportError> {
        let limit = self.cache.inner.limits.transfer_entries_max;
        let what = "manifests and blobs";
        match entries > limit {
            true => Err(ExportError::TooMuch { what, limit }),
            false => Ok(()),
        }
    }

    /// Those manifests of an index that are asked for.
    async fn choose(
        &self,
        asked: &Asked<'_>,
        children: &[Part],
    ) -> Result<HashSet<Digest>, ExportError> {
        let all = || children.iter().map(|part| part.target.digest()).collect();
        let mut chosen: HashSet<Digest> = match &self.request.platforms {
            PlatformChoice::All => return Ok(all()),
            PlatformChoice::Only(platforms) => {
                let mut chosen = HashSet::new();
                for platform in platforms {
                    let found = of_platform(children, platform);
                    if found.is_empty() {
                        return Err(ExportError::NoSuchPlatform {
                            image: asked.name(),
                            platform: platform.clone(),
                            has: platforms_of(children),
                        });
                    }
                    chosen.extend(found);
                }
                chosen
            }
            PlatformChoice::Held => {
                let mut held = HashSet::new();
                for part in children.iter().filter(|part| part.about.is_none()) {
                    let digest = part.target.digest();
                    if self.look_at(asked, digest).await?.is_some() {
                        held.insert(digest);
                    }
                }
                if held.is_empty()
                    && let Some(own) = of_this_machine()
                {
                    held = of_platform(children, &own);
                }
                if held.is_empty() { all() } else { held }
            }
        };
        if self.request.attached {
            let about = children
                .iter()
                .filter(|part| part.about.is_some_and(|subject| chosen.contains(&subject)));
            let about: Vec<Digest> = about.map(|part| part.target.digest()).collect();
            chosen.extend(about);
        }
        Ok(chosen)
    }

    pub(super) fn finish(self, permit: OwnedSemaphorePermit) -> ExportPlan {
        let tags = self.tags.into_iter();
        let tags = tags.map(|((origin, tag), descriptor)| AttachedContent::Tag {
            origin,
            tag,
            descriptor,
        });
        let referrers = self.referrers.into_iter();
        let lists = referrers.map(
            |((origin, subject), referrers)| AttachedContent::Referrers {
                origin,
                subject,
                referrers,
            },
        );
        // What one image leaves out, another may need.
        let contents = self.contents;
        let mut left_out = self.left_out;
        left_out.retain(|left| !contents.contains_key(&(false, left.manifest)));
        ExportPlan {
            images: self.images.into_values().collect(),
            attached: tags.chain(lists).collect(),
            contents: contents.into_values().collect(),
            left_out,
            held_only: self.request.held_only,
            _permit: permit,
        }
    }
}

/// The best that a machine of this platform runs.
fn of_platform(children: &[Part], platform: &Platform) -> HashSet<Digest> {
    let of = |runs: &Platform| -> HashSet<Digest> {
        let of = children
            .iter()
            .filter(|part| part.platform.as_ref() == Some(runs));
        of.map(|part| part.target.digest()).collect()
    };
    let mut found = platform.runs().into_iter().map(|runs| of(&runs));
    found.find(|found| !found.is_empty()).unwrap_or_default()
}

/// The platform of the machine that this runs on.
fn of_this_machine() -> Option<Platform> {
    use std::env::consts::{ARCH, OS};
    Platform::parse(&format!("{OS}/{ARCH}")).ok()
}

fn platforms_of(children: &[Part]) -> String {
    let platforms = children.iter().filter_map(|part| part.platform.as_ref());
    let platforms: BTreeSet<String> = platforms.map(ToString::to_string).collect();
    let platforms: Vec<String> = platforms.into_iter().collect();
    platforms.join(", ")
}
