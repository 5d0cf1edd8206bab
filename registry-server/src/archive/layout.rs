//! The files of an OCI image layout, and the names in its index.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use registry_core::{Algorithm, Descriptor, Digest, Hasher, MediaType, Origin, Reference};
use serde::{Deserialize, Serialize};

use super::ArchiveError;

/// What says that something is a layout.
pub(super) const LAYOUT_FILE: &str = "oci-layout";
/// Its content: the one version that there is.
pub(super) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// Where the images are listed.
pub(super) const INDEX_FILE: &str = "index.json";
/// What archives of `docker save` before version 25 have in its place.
pub(super) const DOCKER_INDEX_FILE: &str = "manifest.json";
const BLOBS: &str = "blobs";

/// The name of an image: for other programs its tag, for ours and some others all of it.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The whole name, for containerd and docker.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Of the index of the layout: the digest of an index of what is attached to the images. It stands
/// beside the images and not among them, so that programs which load every image, or the only one,
/// do not meet what they cannot run.
const ATTACHED: &str = "registry-server.attached";
/// Of an entry in that one: whose referrers the index is that it describes.
const REFERRERS_OF: &str = "registry-server.referrers-of";

/// What image-spec describes where there is nothing to describe: here, that an upstream lists no
/// referrers for anybody. Its bytes stand in the descriptor itself.
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const EMPTY: &[u8] = b"{}";

/// Where content stands.
pub(super) fn blob_path(digest: Digest) -> String {
    format!("{BLOBS}/{}/{}", digest.algorithm().name(), digest.encoded())
}

/// What a path of a layout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum File {
    Layout,
    Index,
    DockerIndex,
    Blob(Digest),
    /// Nothing that is needed.
    Other,
}

impl File {
    pub(super) fn at(path: &str) -> Result<Self, ArchiveError> {
        match path {
            LAYOUT_FILE => return Ok(Self::Layout),
            INDEX_FILE => return Ok(Self::Index),
            DOCKER_INDEX_FILE => return Ok(Self::DockerIndex),
            _ => {}
        }
        let Some(name) = path
            .strip_prefix(BLOBS)
            .and_then(|rest| rest.strip_prefix('/'))
        else {
            return Ok(Self::Other);
        };
        match Digest::parse(&name.replacen('/', ":", 1)) {
            Ok(digest) => Ok(Self::Blob(digest)),
            Err(registry_core::DigestError::UnsupportedAlgorithm) => Ok(Self::Other),
            Err(_) => Err(ArchiveError::malformed(format!(
                "{path:?} is not named after a digest"
            ))),
        }
    }
}

/// The version of a layout has to be one that we know.
pub(super) fn check_layout(bytes: &[u8]) -> Result<(), ArchiveError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layout {
        image_layout_version: String,
    }
    match serde_json::from_slice::<Layout>(bytes) {
        Ok(layout) if layout.image_layout_version == "1.0.0" => Ok(()),
        Ok(layout) => Err(ArchiveError::malformed(format!(
            "it is a layout of version {}, and 1.0.0 is known",
            layout.image_layout_version
        ))),
        Err(_) => Err(ArchiveError::malformed("oci-layout says no version")),
    }
}

type Annotations = BTreeMap<String, String>;

/// An index of a layout, as we write it and as far as we read it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    schema_version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    pub(super) manifests: Vec<Named>,
    #[serde(default, skip_serializing_if = "Annotations::is_empty")]
    annotations: Annotations,
}

/// A descriptor in one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Named {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    #[serde(default, skip_serializing_if = "Annotations::is_empty")]
    annotations: Annotations,
}

impl Index {
    pub(super) fn new(manifests: Vec<Named>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(MediaType::OCI_INDEX.to_owned()),
            manifests,
            annotations: Annotations::new(),
        }
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ArchiveError> {
        serde_json::from_slice(bytes)
            .map_err(|error| ArchiveError::malformed(format!("an index is not readable: {error}")))
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers can be written")
    }

    pub(super) fn with_attached(mut self, attached: Option<Digest>) -> Self {
        let attached = attached.map(|digest| (ATTACHED.to_owned(), digest.to_string()));
        self.annotations.extend(attached);
        self
    }

    pub(super) fn attached(&self) -> Option<Digest> {
        Digest::parse(self.annotations.get(ATTACHED)?).ok()
    }
}

impl Named {
    /// An image under its whole name.
    pub(super) fn image(descriptor: &Descriptor, name: &str) -> Self {
        let mut named = Self::attached(descriptor, name);
        let name = (CONTAINERD_NAME.to_owned(), name.to_owned());
        named.annotations.extend([name]);
        named
    }

    /// What is attached to one, under its whole name.
    pub(super) fn attached(descriptor: &Descriptor, name: &str) -> Self {
        Self {
            media_type: descriptor.media_type.to_string(),
            digest: descriptor.digest.to_string(),
            size: descriptor.size,
            data: None,
            annotations: Annotations::from([(REF_NAME.to_owned(), name.to_owned())]),
        }
    }

    /// A list of the referrers of `subject`, which is written as `origin@digest`.
    pub(super) fn referrers(list: &[u8], subject: &str) -> Self {
        Self {
            media_type: MediaType::OCI_INDEX.to_owned(),
            digest: Hasher::digest_of(Algorithm::Sha256, list).to_string(),
            size: list.len() as u64,
            data: None,
            annotations: Annotations::from([(REFERRERS_OF.to_owned(), subject.to_owned())]),
        }
    }

    /// That there is no such list, for anybody.
    pub(super) fn no_referrers(subject: &str) -> Self {
        Self {
            media_type: EMPTY_TYPE.to_owned(),
            data: Some(BASE64_STANDARD.encode(EMPTY)),
            ..Self::referrers(EMPTY, subject)
        }
    }

    pub(super) fn digest(&self) -> Result<Digest, ArchiveError> {
        Digest::parse(&self.digest).map_err(|_| {
            ArchiveError::malformed(format!("its index names {:?}, no digest", self.digest))
        })
    }

    /// The most that is told of its name.
    pub(super) fn name(&self) -> Option<&str> {
        let name = |key| self.annotations.get(key).map(String::as_str);
        name(CONTAINERD_NAME).or_else(|| name(REF_NAME))
    }

    /// Whose referrers it lists, if it is such a list.
    pub(super) fn referrers_of(&self) -> Option<&str> {
        self.annotations.get(REFERRERS_OF).map(String::as_str)
    }

    /// Whether it is the list, and not the lack of one.
    pub(super) fn is_list(&self) -> bool {
        self.media_type == MediaType::OCI_INDEX
    }
}

/// `docker.io/library/alpine:3.20`, or with a digest.
pub(super) fn name_of(origin: &Origin, reference: &Reference) -> String {
    match reference {
        Reference::Tag(tag) => format!("{origin}:{tag}"),
        Reference::Digest(digest) => format!("{origin}@{digest}"),
    }
}
