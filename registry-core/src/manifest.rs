//! Manifests: small, hot, and kept byte for byte (I9).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::platform::WrittenPlatform;
use crate::{
    Algorithm, Descriptor, Digest, DigestMismatch, Hasher, Link, LinkTarget, MediaType, Platform,
};

/// An image manifest, an index, or any other JSON document that a registry keeps under
/// `manifests/`: its exact bytes, their digest, and the media type to serve them with.
///
/// A value of this type has been verified: its digest was computed from its bytes (I1). Cloning
/// shares all of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Manifest(Arc<Whole>);

#[derive(PartialEq, Eq)]
struct Whole {
    descriptor: Descriptor,
    bytes: Bytes,
    /// What it names: asked for by every hit, and not worth reading the bytes for each time.
    links: Box<[Link]>,
}

impl Manifest {
    /// Takes bytes that should have the digest `expected`.
    ///
    /// The media type is a function of the bytes where they tell it (`mediaType`, or else the
    /// fields), and `content_type` only where they do not: so no upstream can give the type of
    /// content that another serves too (CVE-2021-41190).
    ///
    /// # Errors
    ///
    /// [`ManifestError::Mismatch`] for other bytes, and what [`Self::of_bytes`] gives.
    pub fn verify(
        content_type: Option<&MediaType>,
        bytes: Bytes,
        expected: Digest,
    ) -> Result<Self, ManifestError> {
        let mut hasher = Hasher::new(expected.algorithm());
        hasher.update(&bytes);
        let mismatch = hasher.verify(expected).err();
        match (Self::typed(content_type, bytes, expected), mismatch) {
            // A signed schema 1 manifest has the digest of its payload, which is not ours to cut
            // out: say what it is rather than that it is wrong.
            (Err(ManifestError::Schema1), _) => Err(ManifestError::Schema1),
            (_, Some(mismatch)) => Err(mismatch.into()),
            (manifest, None) => manifest,
        }
    }

    /// Takes bytes whose digest nobody has told, and names them by their SHA-256.
    ///
    /// # Errors
    ///
    /// [`ManifestError::Malformed`], [`ManifestError::Ambiguous`], [`ManifestError::Schema1`].
    pub fn of_bytes(content_type: Option<&MediaType>, bytes: Bytes) -> Result<Self, ManifestError> {
        let digest = Hasher::digest_of(Algorithm::Sha256, &bytes);
        Self::typed(content_type, bytes, digest)
    }

    fn typed(
        content_type: Option<&MediaType>,
        bytes: Bytes,
        digest: Digest,
    ) -> Result<Self, ManifestError> {
        let document = Document::parse(&bytes)?;
        let media_type = document.media_type(content_type)?;
        let links = document.contents().links().into_boxed_slice();
        let size = bytes.len() as u64;
        Ok(Self(Arc::new(Whole {
            descriptor: Descriptor {
                media_type,
                digest,
                size,
            },
            bytes,
            links,
        })))
    }

    /// Media type, digest and size.
    pub fn descriptor(&self) -> &Descriptor {
        &self.0.descriptor
    }

    /// The digest of [`Self::bytes`].
    pub fn digest(&self) -> Digest {
        self.0.descriptor.digest
    }

    /// The media type to serve it with.
    pub fn media_type(&self) -> &MediaType {
        &self.0.descriptor.media_type
    }

    /// The bytes, as the upstream sent them.
    pub fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }

    /// What this manifest names: by I5, whoever may read it in a repository may read these there.
    pub fn links(&self) -> &[Link] {
        &self.0.links
    }

    /// What it is made of, as far as it can be used: what names no digest of ours is left out.
    pub fn contents(&self) -> ManifestContents {
        match Document::parse(&self.0.bytes) {
            Ok(document) => document.contents(),
            // Parsed when it was made.
            Err(_) => ManifestContents::default(),
        }
    }
}

/// What a manifest is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestContents {
    /// The configuration of an image.
    pub config: Option<Named>,
    /// The layers of an image, or the files of another artifact.
    pub layers: Vec<Named>,
    /// The manifests that an index lists.
    pub manifests: Vec<Named>,
    /// The manifest that this one is attached to.
    pub subject: Option<Digest>,
    /// What kind of artifact it is, where it says so itself.
    pub artifact_type: Option<MediaType>,
}

/// Something that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes, where that is told.
    pub size: Option<u64>,
    /// Its media type, where that is told.
    pub media_type: Option<MediaType>,
    /// Its platform, in an index that tells it.
    pub platform: Option<Platform>,
    /// What kind of artifact it is, in an index that tells it.
    pub artifact_type: Option<MediaType>,
    /// What it is attached to within its index (`vnd.docker.reference.digest`): `BuildKit` puts
    /// attestations beside the images that they are about.
    pub attached_to: Option<Digest>,
}

impl ManifestContents {
    /// The blobs that it names, the configuration first.
    pub fn blobs(&self) -> impl Iterator<Item = &Named> {
        self.config.iter().chain(&self.layers)
    }

    /// What it names: see [`Manifest::links`].
    pub fn links(&self) -> Vec<Link> {
        let blobs = self.blobs().map(|named| named.link(LinkTarget::Blob));
        let manifests = self.manifests.iter().flat_map(|named| {
            // BuildKit's cache exports list layers in an index: what is not known to be a
            // manifest may be asked for either way.
            let as_blob = (!named.is_manifest()).then(|| named.link(LinkTarget::Blob));
            let as_manifest = named.link(LinkTarget::Manifest);
            std::iter::once(as_manifest).chain(as_blob)
        });
        blobs.chain(manifests).collect()
    }
}

impl Named {
    /// That of which only the digest is known.
    pub(crate) fn unknown(digest: Digest) -> Self {
        Self {
            digest,
            size: None,
            media_type: None,
            platform: None,
            artifact_type: None,
            attached_to: None,
        }
    }

    /// Whether it is told to be a manifest; where it is not, it may still be one.
    pub fn is_manifest(&self) -> bool {
        self.media_type.as_ref().is_some_and(MediaType::is_manifest)
    }

    fn link(&self, target: fn(Digest) -> LinkTarget) -> Link {
        Link {
            target: target(self.digest),
            size: self.size,
        }
    }
}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0.descriptor, f)
    }
}

/// Why bytes are no manifest that can be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The bytes are not the ones asked for.
    #[error("the manifest does not match its digest: {0}")]
    Mismatch(#[from] DigestMismatch),
    /// Not a JSON object with the fields of a manifest.
    #[error("the manifest is not JSON of the form the image specification gives")]
    Malformed,
    /// Both an index and an image (CVE-2021-41190): clients disagree on what it means.
    #[error("the manifest has both `manifests` and `layers`, so clients disagree on what it is")]
    Ambiguous,
    /// Docker's schema 1, whose digest is not that of its bytes.
    #[error(
        "Docker schema 1 manifests are not supported: push the image again with a current tool"
    )]
    Schema1,
}

/// The fields that tell what a manifest is and what it names.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<Written>,
    #[serde(default)]
    layers: Option<Vec<Written>>,
    #[serde(default)]
    blobs: Option<Vec<Written>>,
    #[serde(default)]
    manifests: Option<Vec<Written>>,
    #[serde(default, deserialize_with = "leniently")]
    subject: Option<Written>,
    #[serde(default, deserialize_with = "leniently")]
    artifact_type: Option<String>,
}

/// A descriptor within a manifest. Lenient: one we cannot use links nothing, and must not make
/// the rest of the image unusable.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    digest: Option<String>,
    #[serde(default)]
    size: Option<i64>,
    #[serde(default, deserialize_with = "leniently")]
    platform: Option<WrittenPlatform>,
    #[serde(default, deserialize_with = "leniently")]
    artifact_type: Option<String>,
    #[serde(default, deserialize_with = "leniently")]
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "vnd.docker.reference.digest", default)]
    reference: Option<String>,
}

/// What nobody needs who pulls: where it is not of the form that it should have, it is not there.
fn leniently<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}

impl Document {
    fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        serde_json::from_slice(bytes).map_err(|_| ManifestError::Malformed)
    }

    fn media_type(&self, content_type: Option<&MediaType>) -> Result<MediaType, ManifestError> {
        if self.manifests.is_some() && self.layers.is_some() {
            return Err(ManifestError::Ambiguous);
        }
        if self.schema_version == Some(1) {
            return Err(ManifestError::Schema1);
        }
        if let Some(told) = media_type(self.media_type.as_deref()) {
            return Ok(told);
        }
        let of_index = |kind: &MediaType| {
            matches!(kind.as_str(), MediaType::OCI_INDEX | MediaType::DOCKER_LIST)
        };
        if self.manifests.is_some() {
            let told = content_type.filter(|kind| of_index(kind)).cloned();
            return Ok(told.unwrap_or_else(|| MediaType::known(MediaType::OCI_INDEX)));
        }
        match content_type {
            Some(kind) if kind.is_manifest() && !of_index(kind) => Ok(kind.clone()),
            _ if self.layers.is_some() || self.config.is_some() => {
                Ok(MediaType::known(MediaType::OCI_MANIFEST))
            }
            Some(kind) => Ok(kind.clone()),
            None => Err(ManifestError::Malformed),
        }
    }

    fn contents(self) -> ManifestContents {
        let read = |all: Option<Vec<Written>>| {
            let all = all.into_iter().flatten();
            all.filter_map(|written| written.read()).collect::<Vec<_>>()
        };
        let mut layers = read(self.layers);
        layers.extend(read(self.blobs));
        ManifestContents {
            config: self.config.and_then(|config| config.read()),
            layers,
            manifests: read(self.manifests),
            subject: self
                .subject
                .and_then(|subject| Some(subject.read()?.digest)),
            artifact_type: media_type(self.artifact_type.as_deref()),
        }
    }
}

impl Written {
    fn read(&self) -> Option<Named> {
        let annotations = self.annotations.as_ref();
        let attached_to = annotations.and_then(|of| Digest::parse(of.reference.as_deref()?).ok());
        Some(Named {
            digest: Digest::parse(self.digest.as_deref()?).ok()?,
            size: self.size.and_then(|size| u64::try_from(size).ok()),
            media_type: media_type(self.media_type.as_deref()),
            platform: self.platform.as_ref().and_then(WrittenPlatform::read),
            artifact_type: media_type(self.artifact_type.as_deref()),
            attached_to,
        })
    }
}

fn media_type(text: Option<&str>) -> Option<MediaType> {
    MediaType::parse(text?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(fill: char) -> String {
        format!("sha256:{}", fill.to_string().repeat(64))
    }

    fn manifest(content_type: Option<&str>, json: &str) -> Result<Manifest, ManifestError> {
        let content_type = content_type.map(|text| MediaType::parse(text).unwrap());
        Manifest::of_bytes(
            content_type.as_ref(),
            Bytes::copy_from_slice(json.as_bytes()),
        )
    }

    #[test]
    fn the_type_is_a_function_of_the_bytes_where_they_tell_it() {
        let told = format!(
            r#"{{"mediaType":"{}","layers":[]}}"#,
            MediaType::DOCKER_MANIFEST
        );
        for (content_type, json, media_type) in [
            (
                Some(MediaType::OCI_INDEX),
                told.as_str(),
                MediaType::DOCKER_MANIFEST,
            ),
            (None, told.as_str(), MediaType::DOCKER_MANIFEST),
            (
                Some("text/plain"),
                r#"{"layers":[]}"#,
                MediaType::OCI_MANIFEST,
            ),
            (
                Some(MediaType::OCI_INDEX),
                r#"{"layers":[]}"#,
                MediaType::OCI_MANIFEST,
            ),
            (
                Some(MediaType::DOCKER_MANIFEST),
                r#"{"layers":[]}"#,
                MediaType::DOCKER_MANIFEST,
            ),
            (
                Some(MediaType::OCI_MANIFEST),
                r#"{"manifests":[]}"#,
                MediaType::OCI_INDEX,
            ),
            (
                Some(MediaType::DOCKER_LIST),
                r#"{"manifests":[]}"#,
                MediaType::DOCKER_LIST,
            ),
            (Some("application/x"), r#"{"a":1}"#, "application/x"),
        ] {
            let parsed = manifest(content_type, json).unwrap();
            assert_eq!(
                parsed.media_type().as_str(),
                media_type,
                "{content_type:?} {json}"
            );
        }
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        for (json, error) in [
            ("", ManifestError::Malformed),
            ("[]", ManifestError::Malformed),
            ("<html>", ManifestError::Malformed),
            ("{}", ManifestError::Malformed),
            (r#"{"manifests":[],"layers":[]}"#, ManifestError::Ambiguous),
            (
                r#"{"schemaVersion":1,"fsLayers":[]}"#,
                ManifestError::Schema1,
            ),
        ] {
            assert_eq!(manifest(None, json), Err(error), "{json}");
        }
    }

    #[test]
    fn other_bytes_are_a_mismatch() {
        let bytes = Bytes::from_static(br#"{"layers":[]}"#);
        let right = Hasher::digest_of(Algorithm::Sha512, &bytes);
        assert_eq!(
            Manifest::verify(None, bytes.clone(), right)
                .unwrap()
                .digest(),
            right
        );
        let wrong = Digest::parse(&digest('0')).unwrap();
        assert!(matches!(
            Manifest::verify(None, bytes, wrong),
            Err(ManifestError::Mismatch(mismatch)) if mismatch.expected() == wrong
        ));
    }

    #[test]
    fn links_are_what_it_names() {
        let image = format!(
            r#"{{"config":{{"digest":"{}","size":7}},"layers":[{{"digest":"{}","size":-1}},{{"digest":"md5:00"}},{{}}]}}"#,
            digest('1'),
            digest('2'),
        );
        let parse = |fill| Digest::parse(&digest(fill)).unwrap();
        assert_eq!(
            manifest(None, &image).unwrap().links(),
            [
                Link {
                    target: LinkTarget::Blob(parse('1')),
                    size: Some(7)
                },
                Link {
                    target: LinkTarget::Blob(parse('2')),
                    size: None
                },
            ]
        );
        let index = format!(
            r#"{{"manifests":[{{"mediaType":"{}","digest":"{}","size":9}},{{"mediaType":"application/x","digest":"{}"}}]}}"#,
            MediaType::OCI_MANIFEST,
            digest('3'),
            digest('4'),
        );
        assert_eq!(
            manifest(None, &index).unwrap().links(),
            [
                Link {
                    target: LinkTarget::Manifest(parse('3')),
                    size: Some(9)
                },
                Link {
                    target: LinkTarget::Manifest(parse('4')),
                    size: None
                },
                Link {
                    target: LinkTarget::Blob(parse('4')),
                    size: None
                },
            ]
        );
    }

    #[test]
    fn contents_tell_platforms_and_what_is_attached() {
        let index = format!(
            r#"{{"artifactType":"application/x","manifests":[
                {{"mediaType":"{image}","digest":"{one}","platform":{{"os":"linux","architecture":"arm64","variant":"v8"}}}},
                {{"mediaType":"{image}","digest":"{two}","platform":{{"os":"unknown","architecture":"unknown"}},
                  "annotations":{{"vnd.docker.reference.digest":"{one}","n":7}}}},
                {{"mediaType":"{image}","digest":"{three}","platform":"linux","artifactType":7,"annotations":[]}}],
                "subject":{{"digest":"{two}"}}}}"#,
            image = MediaType::OCI_MANIFEST,
            one = digest('1'),
            two = digest('2'),
            three = digest('3'),
        );
        let contents = manifest(None, &index).unwrap().contents();
        let parse = |fill| Digest::parse(&digest(fill)).unwrap();
        let told: Vec<_> = contents
            .manifests
            .iter()
            .map(|named| {
                let platform = named.platform.as_ref().map(ToString::to_string);
                (named.digest, platform, named.attached_to)
            })
            .collect();
        let arm = Some("linux/arm64".to_owned());
        assert_eq!(
            told,
            [
                (parse('1'), arm, None),
                (parse('2'), None, Some(parse('1'))),
                (parse('3'), None, None),
            ]
        );
        assert_eq!(contents.subject, Some(parse('2')));
        assert_eq!(contents.artifact_type.unwrap().as_str(), "application/x");
    }
}
