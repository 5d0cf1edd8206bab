//! Small real images, built here so that no test needs a registry on the internet.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use registry_core::{Algorithm, Digest, Hasher};
use serde_json::{Value, json};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// What cosign signs, and where it keeps the signature (cosign, `specs/SIGNATURE_SPEC.md`).
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
pub(crate) const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";

/// The file, at the root of every image, that says which image it is.
pub(crate) const MARK_FILE: &str = "origin.txt";

/// Large enough to arrive in many pieces, small enough to build in no time.
const BASE_BYTES: usize = 4 * 1024 * 1024;
/// The seed of the base layer, where there is but one.
const BASE_SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a client got when it pulled a name: enough to tell any image from any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// Of the manifest, or of the index where the image has several platforms.
    pub(crate) digest: Digest,
    /// The [`MARK_FILE`] of this machine's platform, read from the unpacked image.
    pub(crate) mark: String,
}

/// The layer that all images stand on. An unoptimised build takes a while to compress it, so it is
/// made once.
pub(crate) struct BaseLayer {
    diff_id: Digest,
    gzipped: Vec<u8>,
}

impl BaseLayer {
    pub(crate) fn new() -> Self {
        Self::with_seed(BASE_SEED)
    }

    /// Another one; `seed` is not zero.
    pub(crate) fn with_seed(seed: u64) -> Self {
        let archive = tar_of("base.bin", &noise(seed, BASE_BYTES));
        Self {
            diff_id: digest_of(&archive),
            gzipped: gzip(&archive),
        }
    }
}

/// An image in an OCI layout on disk.
pub(crate) struct Image {
    pub(crate) content: Content,
    pub(crate) layout: PathBuf,
}

impl Image {
    /// An image for this machine's platform alone.
    pub(crate) fn single(layout: PathBuf, base: &BaseLayer, mark: &str) -> Self {
        let writer = Layout::create(layout);
        let (architecture, _) = architectures();
        let manifest = writer.platform(base, mark, architecture);
        writer.finish(&manifest, mark, architecture)
    }

    /// An image with an index of two platforms.
    pub(crate) fn multi(layout: PathBuf, base: &BaseLayer, mark: &str) -> Self {
        let writer = Layout::create(layout);
        let (ours, other) = architectures();
        let manifests = [ours, other].map(|architecture| {
            let mut manifest = writer.platform(base, mark, architecture);
            manifest["platform"] = json!({"os": "linux", "architecture": architecture});
            manifest
        });
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        let index = writer.json(INDEX, &index);
        writer.finish(&index, mark, ours)
    }

    /// A signature as cosign stores it: an image whose layer is a statement about another one.
    pub(crate) fn signature(layout: PathBuf, statement: &[u8], signature: &str) -> Self {
        let writer = Layout::create(layout);
        let mut layer = writer.blob(SIMPLE_SIGNING, statement);
        layer["annotations"] = json!({ SIGNATURE_ANNOTATION: signature });
        let (architecture, _) = architectures();
        let config = json!({
            "os": "linux",
            "architecture": architecture,
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": writer.json(CONFIG, &config),
            "layers": [layer],
        });
        let manifest = writer.json(MANIFEST, &manifest);
        writer.finish_without_mark(&manifest)
    }
}

/// The [`MARK_FILE`] in a tar archive, if it is there.
pub(crate) fn mark_in_tar(archive: impl Read) -> Option<String> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().expect("a tar archive");
    entries
        .map(|entry| entry.expect("an entry of a tar archive"))
        .find(|entry| {
            entry
                .path()
                .is_ok_and(|path| path.as_ref() == Path::new(MARK_FILE))
        })
        .map(|mut entry| {
            let mut mark = String::new();
            entry
                .read_to_string(&mut mark)
                .expect("a file in a tar archive");
            mark
        })
}

/// The [`MARK_FILE`] in a gzipped layer, if it is there.
pub(crate) fn mark_in_layer(layer: &[u8]) -> Option<String> {
    mark_in_tar(GzDecoder::new(layer))
}

pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Hasher::digest_of(Algorithm::Sha256, bytes)
}

/// This machine's architecture in the words of the image specification, and another.
fn architectures() -> (&'static str, &'static str) {
    match std::env::consts::ARCH {
        "aarch64" => ("arm64", "amd64"),
        "x86_64" => ("amd64", "arm64"),
        architecture => panic!("teach this module how OCI names {architecture}"),
    }
}

/// What [`MARK_FILE`] holds, so that no two images and no two platforms of one are the same.
fn mark_text(mark: &str, architecture: &str) -> String {
    format!("{mark} for {architecture}")
}

/// An OCI layout under construction (image-spec, *image-layout.md*).
struct Layout {
    folder: PathBuf,
}

impl Layout {
    fn create(folder: PathBuf) -> Self {
        fs::create_dir_all(folder.join("blobs/sha256")).expect("create an OCI layout");
        Self { folder }
    }

    /// Writes a blob and returns its descriptor.
    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest_of(bytes);
        let path = self.folder.join("blobs/sha256").join(digest.encoded());
        fs::write(path, bytes).expect("write a blob");
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    }

    fn json(&self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, value.to_string().as_bytes())
    }

    /// Writes the image of one platform and returns the descriptor of its manifest.
    fn platform(&self, base: &BaseLayer, mark: &str, architecture: &str) -> Value {
        let top = tar_of(MARK_FILE, mark_text(mark, architecture).as_bytes());
        let config = json!({
            "os": "linux",
            "architecture": architecture,
            "config": {"Cmd": ["/nothing-is-ever-run"]},
            "rootfs": {
                "type": "layers",
                "diff_ids": [base.diff_id.to_string(), digest_of(&top).to_string()],
            },
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.json(CONFIG, &config),
            "layers": [self.blob(LAYER, &base.gzipped), self.blob(LAYER, &gzip(&top))],
        });
        self.json(MANIFEST, &manifest)
    }

    /// Names `root` as the layout's only image.
    fn finish(self, root: &Value, mark: &str, architecture: &str) -> Image {
        let mut image = self.finish_without_mark(root);
        image.content.mark = mark_text(mark, architecture);
        image
    }

    fn finish_without_mark(self, root: &Value) -> Image {
        let version = json!({"imageLayoutVersion": "1.0.0"});
        let index = json!({"schemaVersion": 2, "manifests": [root]});
        for (name, value) in [("oci-layout", version), ("index.json", index)] {
            fs::write(self.folder.join(name), value.to_string()).expect("write an OCI layout");
        }
        let digest = root["digest"].as_str().expect("a descriptor has a digest");
        Image {
            content: Content {
                digest: Digest::parse(digest).expect("written by us"),
                mark: String::new(),
            },
            layout: self.folder,
        }
    }
}

fn tar_of(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    let mut archive = tar::Builder::new(Vec::new());
    archive
        .append_data(&mut header, name, bytes)
        .expect("writing to a Vec cannot fail");
    archive.into_inner().expect("writing to a Vec cannot fail")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    encoder
        .write_all(bytes)
        .expect("writing to a Vec cannot fail");
    encoder.finish().expect("writing to a Vec cannot fail")
}

/// Bytes without a pattern, the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    let mut state = seed;
    while bytes.len() < len {
        // xorshift64, Marsaglia 2003.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
