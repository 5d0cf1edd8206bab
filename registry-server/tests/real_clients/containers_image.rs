//! Skopeo and Podman: both read images with the library that CRI-O and Buildah use too, which knows
//! no `ns` and is led to a mirror by `registries.conf`, or by a path written out.

use std::fs;
use std::path::PathBuf;

use registry_core::Digest;

use crate::image::{Content, MARK_FILE, digest_of, mark_in_layer};
use crate::scene::{Client, Published, Scene};
use crate::workshop::sandboxed;

pub(crate) const PODMAN_PROGRAMS: [&str; 1] = ["podman"];

/// How the client is told to use the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The image's own name, and `examples/config/podman/registries.conf`.
    Configured,
    /// `MIRROR/quay.io/team/tool:1.0`
    Path,
}

impl Way {
    fn name_of(self, published: &Published, scene: &Scene) -> String {
        match self {
            Self::Configured => published.name(),
            Self::Path => format!("{}/{}", scene.mirror.address, published.name()),
        }
    }

    /// What allows plain HTTP, where no configuration does.
    fn tls_flag(self, flag: &'static str) -> Option<&'static str> {
        (self == Self::Path).then_some(flag)
    }
}

/// `skopeo copy --all` into a folder.
pub(crate) struct Skopeo {
    way: Way,
    folder: PathBuf,
}

impl Skopeo {
    #[track_caller]
    pub(crate) fn start(scene: &Scene, way: Way, act: &str) -> Self {
        let folder = scene.workshop.create_folder(format!("skopeo-{act}"));
        Self { way, folder }
    }
}

impl Client for Skopeo {
    #[track_caller]
    fn pull(&self, scene: &Scene, published: &Published) -> Content {
        let image = self.folder.join(published.name().replace('/', "-"));
        let mut skopeo = sandboxed("skopeo");
        skopeo
            .arg("--registries-conf")
            .arg(scene.examples.path("podman/registries.conf"));
        skopeo.args(["copy", "--quiet", "--all"]);
        skopeo.args(self.way.tls_flag("--src-tls-verify=false"));
        skopeo.arg(format!("docker://{}", self.way.name_of(published, scene)));
        skopeo.arg(format!("dir:{}", image.display()));
        scene.workshop.run("skopeo-copy", skopeo);

        let manifest = fs::read(image.join("manifest.json")).expect("skopeo wrote the manifest");
        let marks = fs::read_dir(&image)
            .expect("skopeo wrote a folder")
            .map(|file| fs::read(file.expect("list a folder").path()).expect("read a file"))
            .filter(|bytes| bytes.starts_with(&GZIP_MAGIC))
            .filter_map(|layer| mark_in_layer(&layer));
        // All platforms are there. One mark is this machine's; the digest stands for the others.
        let marks: Vec<String> = marks.collect();
        let mark = marks.iter().find(|mark| **mark == published.content.mark);
        Content {
            digest: digest_of(&manifest),
            mark: mark.cloned().unwrap_or_else(|| marks.join(", ")),
        }
    }
}

/// What layers begin with, and manifests and configurations do not (RFC 1952).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// `podman pull`.
pub(crate) struct Podman {
    way: Way,
    folder: PathBuf,
}

impl Podman {
    #[track_caller]
    pub(crate) fn start(scene: &Scene, way: Way, act: &str) -> Self {
        let folder = scene.workshop.create_folder(format!("podman-{act}"));
        Self { way, folder }
    }

    /// Runs a shell script in which `"$@"` is Podman with this client's storage.
    #[track_caller]
    fn run(&self, scene: &Scene, script: &str) -> String {
        let mut podman = sandboxed("sh");
        podman.env("HOME", &self.folder);
        podman.env(
            "CONTAINERS_REGISTRIES_CONF",
            scene.examples.path("podman/registries.conf"),
        );
        podman.args(["-c", script, "sh", "podman", "--storage-driver", "vfs"]);
        for folder in ["root", "runroot", "tmpdir"] {
            podman
                .arg(format!("--{folder}"))
                .arg(self.folder.join(folder));
        }
        scene.workshop.run_for_text("podman", podman)
    }
}

impl Client for Podman {
    #[track_caller]
    fn pull(&self, scene: &Scene, published: &Published) -> Content {
        let name = self.way.name_of(published, scene);
        let flag = self.way.tls_flag("--tls-verify=false").unwrap_or_default();
        self.run(scene, &format!("\"$@\" pull --quiet {flag} {name}"));
        let digest = self.run(
            scene,
            &format!("\"$@\" image inspect --format '{{{{.Digest}}}}' {name}"),
        );
        let mark = self.run(
            scene,
            &format!("cat \"$(\"$@\" image mount {name})/{MARK_FILE}\""),
        );
        Content {
            digest: Digest::parse(&digest).expect("Podman prints digests"),
            mark,
        }
    }
}
