//! What a manifest is made of, with what decides whether a part goes along.

use serde::Deserialize;

use crate::{Digest, LinkTarget, Manifest, MediaType, Named, Platform};

/// One thing that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) target: LinkTarget,
    /// What it is for, of a manifest in an index.
    pub(super) platform: Option<Platform>,
    /// The manifest that it says something about, as BuildKit's attestations in an index do.
    pub(super) about: Option<Digest>,
    /// A layer that registries need not have (`nondistributable`): its absence is no gap.
    pub(super) is_optional: bool,
}

impl Part {
    pub(super) fn is_manifest(&self) -> bool {
        matches!(self.target, LinkTarget::Manifest(_))
    }
}

/// Whether these bytes are a document that names others, as far as can be told without knowing who
/// names them: every manifest and every index has a version of its schema, and no configuration of
/// an image has.
pub(super) fn is_versioned(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versioned {
        schema_version: Option<u64>,
    }
    serde_json::from_slice::<Versioned>(bytes)
        .is_ok_and(|document| document.schema_version.is_some())
}

/// What a manifest names, in its order.
pub(super) fn parts_of(manifest: &Manifest) -> Vec<Part> {
    let contents = manifest.contents();
    let blobs = contents.blobs().map(|named| part(named, LinkTarget::Blob));
    let manifests = contents.manifests.iter().map(|named| {
        // BuildKit's cache exports list layers in an index.
        let is_blob = named.media_type.is_some() && !named.is_manifest();
        match is_blob {
            true => part(named, LinkTarget::Blob),
            false => part(named, LinkTarget::Manifest),
        }
    });
    blobs.chain(manifests).collect()
}

fn part(named: &Named, target: fn(Digest) -> LinkTarget) -> Part {
    let kind = named.media_type.as_ref().map_or("", MediaType::as_str);
    Part {
        target: target(named.digest),
        platform: named.platform.clone(),
        about: named.attached_to,
        is_optional: kind.contains(".foreign.") || kind.contains(".nondistributable."),
    }
}
