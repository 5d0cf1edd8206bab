//! The Docker Engine with `registry-mirrors`.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use registry_core::Digest;

use crate::containerd::Containerd;
use crate::image::{Content, MARK_FILE, mark_in_tar};
use crate::scene::DOCKER_IO;
use crate::site::{Client, Published, Site};
use crate::workshop::{Process, command, sandboxed};

pub(crate) const PROGRAMS: [&str; 4] = ["dockerd", "docker", "containerd", "runc"];

/// `docker pull`: docker.io by its name, since the Engine mirrors no other registry, and every other
/// by its path on the mirror.
pub(crate) struct Docker {
    folder: PathBuf,
    // Dropped in this order: the Engine before the containerd that it uses.
    _process: Process,
    _containerd: Containerd,
}

impl Docker {
    #[track_caller]
    pub(crate) fn start(site: &Site, act: &str) -> Self {
        let containerd = Containerd::start(site, &format!("containerd-{act}"));
        let name = format!("dockerd-{act}");
        let folder = site.workshop.create_folder(&name);
        let mut dockerd = sandboxed("dockerd");
        dockerd
            .arg("--config-file")
            .arg(site.examples.path("docker/daemon.json"));
        dockerd.arg("--containerd").arg(&containerd.socket);
        dockerd.arg("--data-root").arg(folder.join("data"));
        dockerd.arg("--exec-root").arg(folder.join("exec"));
        dockerd.arg("--pidfile").arg(folder.join("dockerd.pid"));
        dockerd.arg("--host").arg(host(&folder));
        // Nothing is run, so the machine's network is left alone; vfs needs nothing of the kernel.
        dockerd.args(["--bridge=none", "--iptables=false", "--ip-forward=false"]);
        dockerd.args(["--storage-driver", "vfs"]);
        let mut process = site.workshop.spawn(&name, dockerd);
        process.await_ready(|output| output.contains("API listen on").then_some(()));
        UnixStream::connect(folder.join("docker.sock")).expect("the Engine listens");
        Self {
            folder,
            _process: process,
            _containerd: containerd,
        }
    }

    fn docker(&self) -> Command {
        let mut docker = command("docker");
        docker.env("DOCKER_CONFIG", self.folder.join("client"));
        docker.arg("--host").arg(host(&self.folder));
        docker
    }

    /// `docker save` of an image that was pulled under its own name.
    #[track_caller]
    pub(crate) fn save(&self, site: &Site, name: &str, archive: &Path) {
        let archive = archive.to_str().expect("a UTF-8 path");
        self.run(site, &["save", "--output", archive, name]);
    }

    #[track_caller]
    fn run(&self, site: &Site, arguments: &[&str]) -> String {
        let mut docker = self.docker();
        docker.args(arguments);
        site.workshop.run_for_text("docker", docker)
    }
}

fn host(folder: &Path) -> String {
    format!("unix://{}", folder.join("docker.sock").display())
}

impl Client for Docker {
    #[track_caller]
    fn pull(&self, site: &Site, published: &Published) -> Content {
        let name = published.name();
        let name = match published.registry.as_str() {
            DOCKER_IO => name,
            _ => format!("{}/{name}", site.mirror),
        };
        self.run(site, &["pull", "--quiet", &name]);
        let digest = self.run(
            site,
            &[
                "image",
                "inspect",
                "--format",
                "{{index .RepoDigests 0}}",
                &name,
            ],
        );
        let (_, digest) = digest.split_once('@').expect("name@digest");

        let container = self.run(site, &["create", &name]);
        let mut copy = self.docker();
        copy.args(["cp", &format!("{container}:/{MARK_FILE}"), "-"]);
        let archive = site.workshop.run("docker-cp", copy);
        Content {
            digest: Digest::parse(digest).expect("Docker prints digests"),
            mark: mark_in_tar(archive.as_slice()).expect("the copied file"),
        }
    }
}
