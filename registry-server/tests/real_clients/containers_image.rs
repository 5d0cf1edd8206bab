//! Skopeo and Podman: both read images with the library that CRI-O and Buildah use too, which knows
//! no `ns` and is led to a mirror by `registries.conf`, or by a path written out.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use registry_core::Digest;

use crate::image::{Content, MARK_FILE, digest_of, mark_in_layer};
use crate::site::{Client, Published, Site};
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
    fn name_of(self, published: &Published, site: &Site) -> String {
        match self {
            Self::Configured => published.name(),
            Self::Path => format!("{}/{}", site.mirror, published.name()),
        }
    }

    /// What names the mirror's authority; or else what allows plain HTTP, where no configuration
    /// does. `prefix`: of the flags.
    fn tls_flag(self, site: &Site, prefix: &str) -> Option<String> {
        match &site.certs {
            Some(certs) => Some(format!("--{prefix}cert-dir={}", certs.display())),
            None => (self == Self::Path).then(|| format!("--{prefix}tls-verify=false")),
        }
    }
}

/// `skopeo copy --all` into a folder.
pub(crate) struct Skopeo {
    way: Way,
    folder: PathBuf,
    registries_d: Option<PathBuf>,
}

impl Skopeo {
    #[track_caller]
    pub(crate) fn start(site: &Site, way: Way, act: &str) -> Self {
        let folder = site.workshop.create_folder(format!("skopeo-{act}"));
        Self {
            way,
            folder,
            registries_d: None,
        }
    }

    /// One that takes an image's signatures along, where this folder says that it has some.
    pub(crate) fn with_signatures(mut self, registries_d: &Path) -> Self {
        self.registries_d = Some(registries_d.to_owned());
        self
    }

    /// The folder that an image is copied to.
    pub(crate) fn target(&self, published: &Published) -> PathBuf {
        self.folder.join(published.name().replace('/', "-"))
    }
}

impl Client for Skopeo {
    #[track_caller]
    fn pull(&self, site: &Site, published: &Published) -> Content {
        let image = self.target(published);
        let mut skopeo = sandboxed("skopeo");
        skopeo
            .arg("--registries-conf")
            .arg(site.examples.path("podman/registries.conf"));
        if let Some(folder) = &self.registries_d {
            skopeo.arg("--registries.d").arg(folder);
        }
        skopeo.args(["copy", "--quiet", "--all"]);
        skopeo.args(self.way.tls_flag(site, "src-"));
        skopeo.arg(format!("docker://{}", self.way.name_of(published, site)));
        skopeo.arg(format!("dir:{}", image.display()));
        site.workshop.run("skopeo-copy", skopeo);

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
    pub(crate) fn start(site: &Site, way: Way, act: &str) -> Self {
        let folder = site.workshop.create_folder(format!("podman-{act}"));
        Self { way, folder }
    }

    /// One that takes an image's signatures along, where this folder says that it has some.
    pub(crate) fn with_signatures(self, registries_d: &Path) -> Self {
        // It can be told no other folder than that of the home that is given to it.
        let containers = self.folder.join(".config/containers");
        fs::create_dir_all(&containers).expect("create a folder");
        symlink(registries_d, containers.join("registries.d")).expect("link a folder");
        self
    }

    /// Runs a shell script in which `"$@"` is Podman with this client's storage.
    #[track_caller]
    fn run(&self, site: &Site, script: &str) -> String {
        let mut podman = sandboxed("sh");
        podman.env("HOME", &self.folder);
        podman.env(
            "CONTAINERS_REGISTRIES_CONF",
            site.examples.path("podman/registries.conf"),
        );
        podman.args(["-c", script, "sh", "podman", "--storage-driver", "vfs"]);
        for folder in ["root", "runroot", "tmpdir"] {
            podman
                .arg(format!("--{folder}"))
                .arg(self.folder.join(folder));
        }
        site.workshop.run_for_text("podman", podman)
    }
}

impl Podman {
    /// `podman load`, and what came of it.
    #[track_caller]
    pub(crate) fn load(&self, site: &Site, archive: &Path, name: &str) -> Content {
        self.run(
            site,
            &format!("\"$@\" load --quiet --input {}", archive.display()),
        );
        self.content(site, name)
    }

    #[track_caller]
    fn content(&self, site: &Site, name: &str) -> Content {
        let digest = self.run(
            site,
            &format!("\"$@\" image inspect --format '{{{{.Digest}}}}' {name}"),
        );
        let mark = self.run(
            site,
            &format!("cat \"$(\"$@\" image mount {name})/{MARK_FILE}\""),
        );
        Content {
            digest: Digest::parse(&digest).expect("Podman prints digests"),
            mark,
        }
    }
}

impl Client for Podman {
    #[track_caller]
    fn pull(&self, site: &Site, published: &Published) -> Content {
        let name = self.way.name_of(published, site);
        let flag = self.way.tls_flag(site, "").unwrap_or_default();
        self.run(site, &format!("\"$@\" pull --quiet {flag} {name}"));
        self.content(site, &name)
    }
}
