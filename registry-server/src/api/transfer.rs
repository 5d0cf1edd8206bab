//! Documents about archives of images.

use serde::{Deserialize, Serialize};

/// What `POST /api/v1/export` takes. It answers an OCI image layout as a tar, whose length is known;
/// with [`Self::dry_run`], an [`ExportReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportRequest {
    /// Images, as `docker.io/library/alpine:3.20` or as people write them (`alpine`).
    pub images: Vec<String>,
    /// Platforms, as `linux/amd64`, each of which every image must have; where the list is empty,
    /// those that something is held of, or where that is none, the mirror's own.
    #[serde(default)]
    pub platforms: Vec<String>,
    /// All platforms.
    #[serde(default)]
    pub all_platforms: bool,
    /// Whether signatures, attestations, SBOMs and other referrers go along.
    #[serde(default = "yes")]
    pub attached: bool,
    /// Whether no registry is asked for anything: what is not held is left out.
    #[serde(default)]
    pub held_only: bool,
    /// Tells what would be exported, and exports nothing.
    #[serde(default)]
    pub dry_run: bool,
}

fn yes() -> bool {
    true
}

/// What is in an archive, and what is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportReport {
    /// The images.
    pub images: Vec<ArchivedImage>,
    /// Signatures, attestations, SBOMs and other referrers that go along.
    pub attached: u64,
    /// Files of the archive.
    pub files: u64,
    /// Length of the archive in bytes.
    pub bytes: u64,
    /// Manifests that belong to the images and are left out.
    pub left_out: Vec<LeftOut>,
}

/// An image in an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivedImage {
    /// Its name: `docker.io/library/alpine:3.20`.
    pub name: String,
    /// Digest of the manifest or index that it names.
    pub digest: String,
    /// Platforms that came along, of an image that has several: `linux/amd64`.
    pub platforms: Vec<String>,
}

/// A manifest of an image that is not in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The image.
    pub image: String,
    /// The digest of the manifest.
    pub digest: String,
    /// Its platform, where it has one.
    pub platform: Option<String>,
}

/// What an import came to: the answer to `POST /api/v1/import`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportReport {
    /// The images that can be pulled now.
    pub images: Vec<ArchivedImage>,
    /// Signatures, attestations, SBOMs and other referrers that came along.
    pub attached: u64,
    /// Manifests and blobs that were kept.
    pub contents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Manifests and blobs that were here already.
    pub contents_held: u64,
    /// Their bytes.
    pub bytes_held: u64,
    /// Manifests and blobs that no image needs, and that were not kept.
    pub contents_unused: u64,
    /// What was not imported: empty where all was.
    pub failures: Vec<ImportFailure>,
}

/// An image that was not imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportFailure {
    /// Its name, or its digest.
    pub name: String,
    /// Why, and what to do.
    pub reason: String,
}
