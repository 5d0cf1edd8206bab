//! The Docker Engine with `registry-mirrors`.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use registry_core::Digest;

use crate::containerd::Containerd;
use crate::image::{Content, MARK_FILE, mark_in_tar};
use crate::scene::{Client, DOCKER_IO, Published, Scene};
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
    pub(crate) fn start(scene: &Scene, act: &str) -> Self {
        let containerd = Containerd::start(scene, &format!("containerd-{act}"));
        let name = format!("dockerd-{act}");
        let folder = scene.workshop.create_folder(&name);
        let mut dockerd = sandboxed("dockerd");
        dockerd
            .arg("--config-file")
            .arg(scene.examples.path("docker/daemon.json"));
        dockerd.arg("--containerd").arg(&containerd.socket);
        dockerd.arg("--data-root").arg(folder.join("data"));
        dockerd.arg("--exec-root").arg(folder.join("exec"));
        dockerd.arg("--pidfile").arg(folder.join("dockerd.pid"));
        dockerd.arg("--host").arg(host(&folder));
        // Nothing is run, so the machine's network is left alone; vfs needs nothing of the kernel.
        dockerd.args(["--bridge=none", "--iptables=false", "--ip-forward=false"]);
        dockerd.args(["--storage-driver", "vfs"]);
        let mut process = scene.workshop.spawn(&name, dockerd);
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

    #[track_caller]
    fn run(&self, scene: &Scene, arguments: &[&str]) -> String {
        let mut docker = self.docker();
        docker.args(arguments);
        scene.workshop.run_for_text("docker", docker)
    }
}

fn host(folder: &Path) -> String {
    format!("unix://{}", folder.join("docker.sock").display())
}

impl Client for Docker {
    #[track_caller]
    fn pull(&self, scene: &Scene, published: &Published) -> Content {
        let name = published.name();
        let name = match published.registry.as_str() {
            DOCKER_IO => name,
            _ => format!("{}/{name}", scene.mirror.address),
        };
        self.run(scene, &["pull", "--quiet", &name]);
        let digest = self.run(
            scene,
            &[
                "image",
                "inspect",
                "--format",
                "{{index .RepoDigests 0}}",
                &name,
            ],
        );
        let (_, digest) = digest.split_once('@').expect("name@digest");

        let container = self.run(scene, &["create", &name]);
        let mut copy = self.docker();
        copy.args(["cp", &format!("{container}:/{MARK_FILE}"), "-"]);
        let archive = scene.workshop.run("docker-cp", copy);
        Content {
            digest: Digest::parse(digest).expect("Docker prints digests"),
            mark: mark_in_tar(archive.as_slice()).expect("the copied file"),
        }
    }
}
