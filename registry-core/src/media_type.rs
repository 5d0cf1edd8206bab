//! Media types of manifests (image-spec, *media-types.md*).

use std::fmt;
use std::sync::Arc;

/// Longest media type, in bytes: RFC 6838, section 4.2 allows 127 on each side of the slash.
const MEDIA_TYPE_BYTES_MAX: usize = 255;

/// A media type without parameters, in lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MediaType(Arc<str>);

impl MediaType {
    /// An OCI image manifest.
    pub const OCI_MANIFEST: &'static str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI image index.
    pub const OCI_INDEX: &'static str = "application/vnd.oci.image.index.v1+json";
    /// A Docker image manifest, schema 2.
    pub const DOCKER_MANIFEST: &'static str =
        "application/vnd.docker.distribution.manifest.v2+json";
    /// A Docker manifest list.
    pub const DOCKER_LIST: &'static str =
        "application/vnd.docker.distribution.manifest.list.v2+json";
    /// A Docker manifest, schema 1, signed.
    pub const DOCKER_SCHEMA1: &'static str =
        "application/vnd.docker.distribution.manifest.v1+prettyjws";
    /// A Docker manifest, schema 1, without signatures.
    pub const DOCKER_SCHEMA1_UNSIGNED: &'static str =
        "application/vnd.docker.distribution.manifest.v1+json";

    /// The types a registry is asked for: all of them, so that none converts for us (I9).
    pub const MANIFESTS: [&'static str; 6] = [
        Self::OCI_INDEX,
        Self::OCI_MANIFEST,
        Self::DOCKER_LIST,
        Self::DOCKER_MANIFEST,
        Self::DOCKER_SCHEMA1,
        Self::DOCKER_SCHEMA1_UNSIGNED,
    ];

    /// Parses a `Content-Type`; parameters are dropped.
    ///
    /// # Errors
    ///
    /// [`MediaTypeError`] where no `type/subtype` stands there.
    pub fn parse(text: &str) -> Result<Self, MediaTypeError> {
        let essence = text
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let token = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
        };
        match essence.split_once('/') {
            Some((kind, subtype))
                if token(kind) && token(subtype) && essence.len() <= MEDIA_TYPE_BYTES_MAX =>
            {
                Ok(Self(essence.into()))
            }
            _ => Err(MediaTypeError),
        }
    }

    /// `type/subtype`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is one of the types in [`Self::MANIFESTS`].
    pub fn is_manifest(&self) -> bool {
        Self::MANIFESTS.contains(&self.as_str())
    }

    pub(crate) fn known(text: &'static str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text is no media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a media type: write type/subtype")]
pub struct MediaTypeError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_case_are_dropped() {
        let parsed = MediaType::parse("Application/VND.oci.image.index.v1+json; charset=utf-8");
        assert_eq!(parsed.unwrap().as_str(), MediaType::OCI_INDEX);
    }

    #[test]
    fn what_is_no_media_type_is_refused() {
        for text in [
            "",
            "json",
            "/json",
            "a/",
            "a/b/c",
            "a/b\r\nc",
            &format!("a/{}", "b".repeat(300)),
        ] {
            assert_eq!(MediaType::parse(text), Err(MediaTypeError), "{text:?}");
        }
    }
}
