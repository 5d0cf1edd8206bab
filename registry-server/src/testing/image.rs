//! Images to put into a fixture registry: what they are made of, and what comes out.

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use registry_core::{Algorithm, Descriptor, Digest, Hasher, MediaType};
use serde_json::{Value, json};

use super::content::{Generated, Source, StoredManifest, mix};

/// The platform of an image that is given none.
const DEFAULT_PLATFORM: &str = "linux/amd64";

/// The time that every generated image says it was made at, so that its digest depends on nothing
/// but its specification.
const CREATED: &str = "2024-01-01T00:00:00Z";

/// Which generation of media types an image is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageFormat {
    /// OCI image specification.
    #[default]
    Oci,
    /// Docker image manifest version 2, schema 2, and its manifest list.
    Docker,
}

impl ImageFormat {
    fn index(self) -> &'static str {
        match self {
            Self::Oci => MediaType::OCI_INDEX,
            Self::Docker => MediaType::DOCKER_LIST,
        }
    }

    fn manifest(self) -> &'static str {
        match self {
            Self::Oci => MediaType::OCI_MANIFEST,
            Self::Docker => MediaType::DOCKER_MANIFEST,
        }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.config.v1+json",
            Self::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn layer(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Docker => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }
}

/// What a generated image is made of. The same specification gives the same bytes and digests
/// everywhere; another seed gives others, layers that are shared by name excepted.
///
/// ```
/// use registry_server::testing::ImageSpec;
///
/// let spec = ImageSpec::new(1)
///     .platforms(&["linux/amd64", "linux/arm64"])
///     .layers(&[64 << 10, 1 << 20])
///     .shared_layers(99, &[4 << 20]);
/// ```
#[derive(Clone, Debug)]
pub struct ImageSpec {
    seed: u64,
    format: ImageFormat,
    platforms: Vec<String>,
    layers: Vec<LayerSpec>,
}

#[derive(Clone, Copy, Debug)]
enum LayerSpec {
    /// Random bytes that no one can unpack; its own in each platform.
    Random { size: u64 },
    /// Random bytes, the same wherever this seed and size are used.
    Shared { seed: u64, size: u64 },
    /// A gzipped tar archive with one file of this size, its own in each platform.
    Archive { file_bytes: usize },
}

impl ImageSpec {
    /// An image of one platform (`linux/amd64`) and without layers, in OCI's media types.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            format: ImageFormat::Oci,
            platforms: Vec::new(),
            layers: Vec::new(),
        }
    }

    /// Writes the image in these media types.
    pub fn format(mut self, format: ImageFormat) -> Self {
        self.format = format;
        self
    }

    /// One manifest for each of these (`os/architecture` or `os/architecture/variant`), under an
    /// index. Without a call to this, the tag names the manifest itself.
    pub fn platforms(mut self, platforms: &[&str]) -> Self {
        self.platforms = platforms.iter().map(ToString::to_string).collect();
        self
    }

    /// Adds layers of random bytes, of these sizes in bytes, to each platform. They are generated
    /// as they are read, so they may be of any size, and no client can unpack them.
    pub fn layers(mut self, sizes: &[u64]) -> Self {
        let layers = sizes.iter().map(|&size| LayerSpec::Random { size });
        self.layers.extend(layers);
        self
    }

    /// Adds layers like [`Self::layers`] that are the same in every platform, and in every image
    /// that shares layers of this seed and size.
    pub fn shared_layers(mut self, seed: u64, sizes: &[u64]) -> Self {
        let layers = sizes.iter().map(|&size| LayerSpec::Shared { seed, size });
        self.layers.extend(layers);
        self
    }

    /// Adds layers that real clients can unpack: gzipped tar archives, each with one file of
    /// random bytes of the size given. They are made in memory: keep them small.
    pub fn archives(mut self, file_sizes: &[usize]) -> Self {
        let layers = file_sizes
            .iter()
            .map(|&file_bytes| LayerSpec::Archive { file_bytes });
        self.layers.extend(layers);
        self
    }

    pub(crate) fn build(&self) -> BuiltImage {
        let mut built = BuiltImage::default();
        if self.platforms.is_empty() {
            let descriptor = self.build_platform(DEFAULT_PLATFORM, 0, &mut built);
            built.image.manifests.push(descriptor);
            return built;
        }
        let mut entries = Vec::new();
        for (number, platform) in (0..).zip(&self.platforms) {
            let descriptor = self.build_platform(platform, number, &mut built);
            let mut entry = descriptor_json(&descriptor);
            entry["platform"] = platform_json(platform);
            entries.push(entry);
            built.image.manifests.push(descriptor);
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": self.format.index(),
            "manifests": entries,
        });
        built.image.index = Some(built.add_manifest(self.format.index(), &index));
        built
    }

    fn build_platform(&self, platform: &str, number: u64, built: &mut BuiltImage) -> Descriptor {
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for (index, layer) in (0..).zip(&self.layers) {
            let own_seed = mix(mix(self.seed, number), index);
            let (source, diff_id) = match *layer {
                LayerSpec::Random { size } => (Generated::new(own_seed, size).into(), None),
                LayerSpec::Shared { seed, size } => (Generated::new(seed, size).into(), None),
                LayerSpec::Archive { file_bytes } => archive(own_seed, file_bytes),
            };
            let descriptor = built.add_blob(self.format.layer(), source);
            // What nobody can unpack has no digest of its unpacked form: its own must do.
            diff_ids.push(diff_id.unwrap_or(descriptor.digest).to_string());
            layers.push(descriptor_json(&descriptor));
            if !built.image.layers.contains(&descriptor) {
                built.image.layers.push(descriptor);
            }
        }
        let config = self.config(platform, &diff_ids);
        let config = built.add_blob(self.format.config(), Source::Bytes(to_bytes(&config)));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": self.format.manifest(),
            "config": descriptor_json(&config),
            "layers": layers,
        });
        built.image.configs.push(config);
        built.add_manifest(self.format.manifest(), &manifest)
    }

    fn config(&self, platform: &str, diff_ids: &[String]) -> Value {
        let mut config = platform_json(platform);
        let history = diff_ids.iter().map(|_| json!({ "created": CREATED }));
        config["created"] = json!(CREATED);
        config["config"] = json!({
            "Cmd": ["/fixture"],
            "Labels": { "fixture.seed": self.seed.to_string() },
        });
        config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        config["history"] = history.collect();
        config
    }
}

/// What an [`ImageSpec`] became: the descriptors of everything in the image.
#[derive(Clone, Debug, Default)]
pub struct FixtureImage {
    /// The index, where the image has platforms.
    pub index: Option<Descriptor>,
    /// The manifest of each platform.
    pub manifests: Vec<Descriptor>,
    /// The configuration of each platform.
    pub configs: Vec<Descriptor>,
    /// The layers of all platforms, each once.
    pub layers: Vec<Descriptor>,
}

impl FixtureImage {
    /// What the tag names: the index, or else the only manifest.
    ///
    /// # Panics
    ///
    /// On a default value, which describes no image.
    pub fn root(&self) -> &Descriptor {
        self.index
            .as_ref()
            .or(self.manifests.first())
            .expect("an image has a manifest")
    }

    /// Configurations and layers: everything that is pulled as a blob.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.configs.iter().chain(&self.layers)
    }

    /// The size of all its blobs together, in bytes.
    pub fn blob_bytes(&self) -> u64 {
        self.blobs().map(|blob| blob.size).sum()
    }
}

/// An image on its way into a registry.
#[derive(Default)]
pub(crate) struct BuiltImage {
    pub(crate) image: FixtureImage,
    pub(crate) blobs: Vec<(Digest, Source)>,
    pub(crate) manifests: Vec<(Digest, StoredManifest)>,
}

impl BuiltImage {
    fn add_blob(&mut self, media_type: &str, source: Source) -> Descriptor {
        let descriptor = Descriptor {
            media_type: parse_media_type(media_type),
            digest: source.digest(),
            size: source.size(),
        };
        self.blobs.push((descriptor.digest, source));
        descriptor
    }

    /// An artifact that refers to `subject` (image-spec, *Guidelines for Artifact Usage*).
    pub(crate) fn add_referrer(
        &mut self,
        subject: &Descriptor,
        artifact_type: &str,
        annotations: &[(&str, &str)],
        content: Source,
    ) -> Descriptor {
        let empty = Source::Bytes(Bytes::from_static(b"{}"));
        let config = self.add_blob("application/vnd.oci.empty.v1+json", empty);
        let layer = self.add_blob(artifact_type, content);
        let annotations = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)));
        let document = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": descriptor_json(&config),
            "layers": [descriptor_json(&layer)],
            "subject": descriptor_json(subject),
            "annotations": Value::Object(annotations.collect()),
        });
        self.add_manifest(MediaType::OCI_MANIFEST, &document)
    }

    fn add_manifest(&mut self, media_type: &str, document: &Value) -> Descriptor {
        let manifest = StoredManifest {
            media_type: parse_media_type(media_type),
            bytes: to_bytes(document),
        };
        let descriptor = manifest.descriptor();
        self.manifests.push((descriptor.digest, manifest));
        descriptor
    }
}

impl StoredManifest {
    pub(crate) fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.clone(),
            digest: Hasher::digest_of(Algorithm::Sha256, &self.bytes),
            size: self.bytes.len() as u64,
        }
    }
}

impl From<Generated> for Source {
    fn from(generated: Generated) -> Self {
        Self::Generated(generated)
    }
}

pub(crate) fn parse_media_type(text: &str) -> MediaType {
    MediaType::parse(text).expect("a media type in a test is well-formed")
}

/// A gzipped archive with one file, and the digest of it before compression.
fn archive(seed: u64, file_bytes: usize) -> (Source, Option<Digest>) {
    const IN_MEMORY: &str = "writing to memory cannot fail";
    let file = Source::from(Generated::new(seed, file_bytes as u64)).read(0, file_bytes);
    let mut header = tar::Header::new_ustar();
    header.set_size(file_bytes as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    let mut archive = tar::Builder::new(Vec::new());
    archive
        .append_data(&mut header, format!("fixture/{seed:016x}"), &*file)
        .expect(IN_MEMORY);
    let archive = archive.into_inner().expect(IN_MEMORY);
    let diff_id = Hasher::digest_of(Algorithm::Sha256, &archive);
    let mut compressed = GzEncoder::new(Vec::new(), Compression::fast());
    std::io::Write::write_all(&mut compressed, &archive).expect(IN_MEMORY);
    let compressed = compressed.finish().expect(IN_MEMORY);
    (Source::Bytes(compressed.into()), Some(diff_id))
}

fn descriptor_json(descriptor: &Descriptor) -> Value {
    json!({
        "mediaType": descriptor.media_type.as_str(),
        "digest": descriptor.digest.to_string(),
        "size": descriptor.size,
    })
}

fn platform_json(platform: &str) -> Value {
    let mut parts = platform.split('/');
    let mut part = || parts.next().unwrap_or_default();
    let mut json = json!({ "os": part(), "architecture": part() });
    if let Some(variant) = parts.next() {
        json["variant"] = json!(variant);
    }
    json
}

fn to_bytes(document: &Value) -> Bytes {
    document.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_a_function_of_its_specification() {
        let spec = |seed| {
            ImageSpec::new(seed)
                .platforms(&["linux/amd64", "linux/arm64/v8"])
                .layers(&[1000])
                .shared_layers(9, &[2000])
                .archives(&[100])
        };
        let (one, again, other) = (
            spec(1).build().image,
            spec(1).build().image,
            spec(2).build().image,
        );
        assert_eq!(one.root(), again.root());
        assert_ne!(one.root(), other.root());
        assert_eq!((one.manifests.len(), one.configs.len()), (2, 2));
        // Two layers of its own in each platform, and one that both share with the other image.
        assert_eq!(one.layers.len(), 5);
        let common = one
            .layers
            .iter()
            .filter(|layer| other.layers.contains(layer));
        assert_eq!(common.map(|layer| layer.size).collect::<Vec<_>>(), [2000]);
    }

    #[test]
    fn documents_are_what_their_format_says() {
        for (format, index, manifest) in [
            (
                ImageFormat::Oci,
                MediaType::OCI_INDEX,
                MediaType::OCI_MANIFEST,
            ),
            (
                ImageFormat::Docker,
                MediaType::DOCKER_LIST,
                MediaType::DOCKER_MANIFEST,
            ),
        ] {
            let spec = ImageSpec::new(1).format(format).layers(&[10]);
            let single = spec.clone().build();
            assert_eq!(single.image.root().media_type.as_str(), manifest);
            let built = spec.platforms(&["linux/amd64"]).build();
            assert_eq!(built.image.root().media_type.as_str(), index);
            for (digest, stored) in built.manifests {
                let parsed = registry_core::Manifest::verify(None, stored.bytes, digest).unwrap();
                assert_eq!(*parsed.media_type(), stored.media_type);
            }
        }
    }

    #[test]
    fn an_archive_unpacks_to_what_its_diff_id_names() {
        let (source, diff_id) = archive(3, 5000);
        let Source::Bytes(compressed) = source else {
            panic!("an archive is in memory");
        };
        let mut unpacked = Vec::new();
        std::io::copy(
            &mut flate2::read::GzDecoder::new(&*compressed),
            &mut unpacked,
        )
        .unwrap();
        assert_eq!(
            Some(Hasher::digest_of(Algorithm::Sha256, &unpacked)),
            diff_id
        );
        let mut archive = tar::Archive::new(&*unpacked);
        let sizes = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().size());
        assert_eq!(sizes.collect::<Vec<_>>(), [5000]);
    }
}
