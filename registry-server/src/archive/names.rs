//! What the images of an archive are called: each program writes that in its own way.

use std::collections::HashSet;

use registry_core::cache::ImportError;
use registry_core::{Digest, Origin, Reference, RegistryCache, Tag, UpstreamId};

use super::ArchiveError;
use super::layout::{Index, Named, name_of};
use crate::api::{ImageName, ImageNameError, ImportFailure};

/// The name that an archive's one image is given, in place of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportName {
    origin: Origin,
    /// What the image has in the archive, where no tag is written.
    reference: Option<Reference>,
}

impl ImportName {
    /// Parses a name as people write it, with or without a tag.
    ///
    /// # Errors
    ///
    /// [`ImageNameError`].
    pub fn parse(
        text: &str,
        default_upstream: &UpstreamId,
        is_known: impl Fn(&UpstreamId) -> bool,
    ) -> Result<Self, ImageNameError> {
        let name = ImageName::parse(text, default_upstream, is_known)?;
        let last = text.rsplit('/').next().unwrap_or_default();
        Ok(Self {
            origin: name.origin,
            reference: last.contains([':', '@']).then_some(name.reference),
        })
    }
}

/// An image of an archive, under the name that it gets.
pub(super) struct Image {
    pub(super) origin: Origin,
    pub(super) tag: Option<Tag>,
    pub(super) digest: Digest,
    pub(super) name: String,
}

/// What is to be recorded.
pub(super) struct NamedImages {
    pub(super) images: Vec<Image>,
    pub(super) failures: Vec<ImportFailure>,
    /// The origin that the one image had, and the one that it gets.
    pub(super) moved: Option<(Origin, Origin)>,
}

/// Names what an index lists. An image that cannot be is a failure among others; where none can,
/// nothing is to be imported.
pub(super) fn name_images(
    cache: &RegistryCache,
    index: &Index,
    name: Option<&ImportName>,
) -> Result<NamedImages, ArchiveError> {
    let named = match name {
        Some(name) => vec![rename(cache, index, name)?],
        None => {
            let own = index.manifests.iter().map(|named| own_name(cache, named));
            own.collect::<Result<Vec<_>, _>>()?
        }
    };
    let mut result = NamedImages {
        images: Vec::new(),
        failures: Vec::new(),
        moved: None,
    };
    for image in named {
        match image {
            Ok((image, moved)) => {
                result.moved = moved;
                result.images.push(image);
            }
            Err(failure) => result.failures.push(failure),
        }
    }
    match result.failures.first() {
        Some(failure) if result.images.is_empty() => Err(ArchiveError::Unnamed(format!(
            "{}: {}",
            failure.name, failure.reason
        ))),
        None if result.images.is_empty() => {
            Err(ArchiveError::malformed("its index lists no image"))
        }
        _ => Ok(result),
    }
}

type Renamed = Result<(Image, Option<(Origin, Origin)>), ImportFailure>;

/// An image under its own name, where that says which registry it is from.
fn own_name(cache: &RegistryCache, named: &Named) -> Result<Renamed, ArchiveError> {
    let digest = named.digest()?;
    let Some(name) = named.name() else {
        return Ok(Err(ImportFailure {
            name: digest.to_string(),
            reason: "it has no name in the archive: give it one with --as".to_owned(),
        }));
    };
    let refuse = |reason: String| {
        let name = name.to_owned();
        Ok(Err(ImportFailure { name, reason }))
    };
    let Some(parsed) = whole_name(cache, name) else {
        return refuse(
            "this does not say which registry it is from: give it a whole name, as in --as \
             docker.io/library/alpine:3.20"
                .to_owned(),
        );
    };
    match parsed {
        Ok(ImageName { origin, reference }) => {
            if let Err(reason) = check_digest(&reference, digest) {
                return refuse(reason);
            }
            if cache.upstreams().get(origin.upstream()).is_none() {
                let upstream = origin.upstream().clone();
                return refuse(ImportError::UnknownUpstream { upstream }.to_string());
            }
            let image = Image {
                name: name_of(&origin, &reference),
                tag: tag_of(reference),
                origin,
                digest,
            };
            Ok(Ok((image, None)))
        }
        Err(error) => refuse(error.to_string()),
    }
}

/// The one image, under another name.
fn rename(
    cache: &RegistryCache,
    index: &Index,
    name: &ImportName,
) -> Result<Renamed, ArchiveError> {
    let digests = index.manifests.iter().map(Named::digest);
    let digests = digests.collect::<Result<HashSet<_>, _>>()?;
    let (Some(named), 1) = (index.manifests.first(), digests.len()) else {
        let what = format!(
            "the archive has {} images, and --as names only one",
            digests.len()
        );
        return Err(ArchiveError::Unnamed(what));
    };
    let digest = named.digest()?;
    let own = named.name().and_then(|name| whole_name(cache, name)?.ok());
    let own_tag = || {
        let short = named.name().and_then(|name| Tag::parse(name).ok());
        short.or_else(|| tag_of(own.clone()?.reference))
    };
    let reference = match &name.reference {
        Some(reference) => reference.clone(),
        None => match own_tag() {
            Some(tag) => Reference::Tag(tag),
            None => {
                let what = format!("the archive tells no tag: write {}:TAG", name.origin);
                return Err(ArchiveError::Unnamed(what));
            }
        },
    };
    check_digest(&reference, digest).map_err(ArchiveError::Unnamed)?;
    let origin = name.origin.clone();
    if cache.upstreams().get(origin.upstream()).is_none() {
        let upstream = origin.upstream().clone();
        return Err(ImportError::UnknownUpstream { upstream }.into());
    }
    let moved = own.map(|own| (own.origin, origin.clone()));
    let image = Image {
        name: name_of(&origin, &reference),
        tag: tag_of(reference),
        origin,
        digest,
    };
    Ok(Ok((image, moved)))
}

/// What a name says, if it says which registry it is from.
fn whole_name(cache: &RegistryCache, name: &str) -> Option<Result<ImageName, ImageNameError>> {
    let (first, _) = name.split_once('/')?;
    let upstream = UpstreamId::parse(first).ok();
    let is_known = |id: &UpstreamId| cache.upstreams().get(id).is_some();
    let is_registry = first.contains(['.', ':'])
        || first == "localhost"
        || upstream.as_ref().is_some_and(is_known);
    // The registry is written, so that no other is meant.
    is_registry.then(|| ImageName::parse(name, &upstream?, is_known).into())?
}

fn check_digest(reference: &Reference, digest: Digest) -> Result<(), String> {
    match reference {
        Reference::Digest(named) if *named != digest => {
            Err(format!("the archive has {digest} under this name"))
        }
        _ => Ok(()),
    }
}

pub(super) fn tag_of(reference: Reference) -> Option<Tag> {
    match reference {
        Reference::Tag(tag) => Some(tag),
        Reference::Digest(_) => None,
    }
}
