//! containerd: through `ctr`, and through the interface that the kubelet uses.

use std::cell::Cell;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use registry_core::Digest;

use crate::example_files::CERTS_FOLDER;
use crate::image::{Content, MARK_FILE};
use crate::site::{Client, Published, Site};
use crate::workshop::{NoNetwork, Process, Workshop, command, sandboxed};

pub(crate) const PROGRAMS: [&str; 3] = ["containerd", "ctr", "runc"];
/// Needs nothing of the kernel, unlike the default.
const SNAPSHOTTER: &str = "native";
/// Where the kubelet's images are.
const CRI_NAMESPACE: &str = "k8s.io";

/// A daemon with the configuration of `examples/config/containerd`.
pub(crate) struct Containerd {
    pub(crate) socket: PathBuf,
    certs: PathBuf,
    /// Where it runs, if not where the tests do.
    network: Option<NoNetwork>,
    // Held for its end.
    _process: Process,
}

impl Containerd {
    #[track_caller]
    pub(crate) fn start(site: &Site, name: &str) -> Self {
        Self::start_within(site, name, None)
    }

    #[track_caller]
    fn start_within(site: &Site, name: &str, network: Option<NoNetwork>) -> Self {
        let folder = site.workshop.create_folder(name);
        let certs = site.examples.path("containerd/certs.d");
        let configuration = folder.join("config.toml");
        fs::write(&configuration, configure(site, &certs, &folder)).expect("write config.toml");
        let socket = folder.join("containerd.sock");
        let mut containerd = sandboxed("containerd");
        containerd.arg("--config").arg(configuration);
        containerd.arg("--address").arg(&socket);
        containerd.arg("--root").arg(folder.join("root"));
        containerd.arg("--state").arg(folder.join("state"));
        let containerd = match &network {
            Some(network) => network.within(containerd),
            None => containerd,
        };
        let mut process = site.workshop.spawn(name, containerd);
        process.await_ready(|_| UnixStream::connect(&socket).ok());
        Self {
            socket,
            certs,
            network,
            _process: process,
        }
    }

    fn ctr(&self, namespace: &str) -> Command {
        let mut ctr = command("ctr");
        ctr.arg("--address").arg(&self.socket);
        ctr.args(["--namespace", namespace]);
        ctr
    }

    /// The command, in the network that the daemon is in: it is ctr that asks registries.
    fn within(&self, command: Command) -> Command {
        match &self.network {
            Some(network) => network.within(command),
            None => command,
        }
    }

    /// What the daemon holds under `name`, unpacked.
    #[track_caller]
    fn content(&self, workshop: &Workshop, namespace: &str, name: &str) -> Content {
        let mut list = self.ctr(namespace);
        list.args(["images", "list", &format!("name=={name}")]);
        let table = workshop.run_for_text("ctr-list", list);
        let row = table
            .lines()
            .nth(1)
            .expect("the image is listed under its name");
        let digest = row.split_whitespace().nth(2).expect("the column DIGEST");

        // ctr itself mounts the snapshot, so it has to be read where ctr runs; and it names the
        // snapshot after the folder, so that has to be another for each image.
        let script =
            format!(r#"rootfs=/run/{digest}; mkdir $rootfs && "$@" $rootfs >&2 && cat $rootfs/$0"#);
        let mut mount = sandboxed("sh");
        mount.args(["-c", &script, MARK_FILE]);
        mount.arg("ctr").arg("--address").arg(&self.socket);
        mount.args(["--namespace", namespace, "images", "mount"]);
        mount.args(["--snapshotter", SNAPSHOTTER, name]);
        Content {
            digest: Digest::parse(digest).expect("containerd prints digests"),
            mark: workshop.run_for_text("ctr-mount", mount),
        }
    }
}

/// `examples/config/containerd/config.toml`, with what keeps this daemon to its folder.
fn configure(site: &Site, certs: &Path, folder: &Path) -> String {
    let example = site.examples.read("containerd/config.toml");
    assert!(
        example.contains(CERTS_FOLDER),
        "the example names {CERTS_FOLDER}"
    );
    let example = example.replace(CERTS_FOLDER, certs.to_str().expect("a UTF-8 path"));
    let optional = folder.join("opt");
    format!(
        "{example}\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"{SNAPSHOTTER}\"\n\
         [plugins.\"io.containerd.cri.v1.images\"]\nsnapshotter = \"{SNAPSHOTTER}\"\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\npath = {optional:?}\n"
    )
}

/// `ctr images pull --hosts-dir`.
pub(crate) struct Ctr {
    containerd: Containerd,
}

impl Ctr {
    #[track_caller]
    pub(crate) fn start(site: &Site, act: &str) -> Self {
        let containerd = Containerd::start(site, &format!("containerd-{act}"));
        Self { containerd }
    }

    /// One that reaches nothing outside of this network.
    #[track_caller]
    pub(crate) fn start_within(site: &Site, act: &str, network: NoNetwork) -> Self {
        let name = format!("containerd-{act}");
        let containerd = Containerd::start_within(site, &name, Some(network));
        Self { containerd }
    }

    /// `ctr images import`, and what came of it.
    #[track_caller]
    pub(crate) fn import(&self, site: &Site, archive: &Path, name: &str) -> Content {
        let mut import = self.containerd.ctr("default");
        import.args(["images", "import", "--snapshotter", SNAPSHOTTER]);
        import.arg(archive);
        site.workshop.run("ctr-import", import);
        self.containerd.content(&site.workshop, "default", name)
    }
}

impl Client for Ctr {
    #[track_caller]
    fn pull(&self, site: &Site, published: &Published) -> Content {
        let name = published.name();
        let mut pull = self.containerd.ctr("default");
        pull.args(["images", "pull", "--snapshotter", SNAPSHOTTER]);
        pull.arg("--hosts-dir")
            .arg(&self.containerd.certs)
            .arg(&name);
        site.workshop.run("ctr-pull", self.containerd.within(pull));
        self.containerd.content(&site.workshop, "default", &name)
    }
}

/// The kubelet's way: `PullImage` of the container runtime interface, which finds the mirror by
/// the daemon's own `config_path`.
pub(crate) struct Kubelet {
    containerd: Containerd,
    calls: Cell<u32>,
}

impl Kubelet {
    #[track_caller]
    pub(crate) fn start(site: &Site, act: &str) -> Self {
        let containerd = Containerd::start(site, &format!("cri-{act}"));
        Self {
            containerd,
            calls: Cell::new(0),
        }
    }
}

impl Client for Kubelet {
    #[track_caller]
    fn pull(&self, site: &Site, published: &Published) -> Content {
        let name = published.name();
        let number = self.calls.replace(self.calls.get() + 1);
        let request = self
            .containerd
            .socket
            .with_file_name(format!("request-{number}"));
        fs::write(&request, pull_image_request(&name)).expect("write a request");
        let mut call = command("curl");
        call.args([
            "--silent",
            "--show-error",
            "--http2-prior-knowledge",
            "--unix-socket",
        ]);
        call.arg(&self.containerd.socket);
        // The status of a gRPC call is in the trailers, which curl writes behind the headers.
        call.args(["--dump-header", "/dev/stdout", "--output", "/dev/null"]);
        call.args([
            "--header",
            "content-type: application/grpc",
            "--header",
            "te: trailers",
        ]);
        call.arg("--data-binary")
            .arg(format!("@{}", request.display()));
        call.arg("http://localhost/runtime.v1.ImageService/PullImage");
        let answer = site.workshop.run_for_text("cri-pull", call);
        assert!(
            answer.lines().any(|line| line == "grpc-status: 0"),
            "{name}: {answer}"
        );
        self.containerd
            .content(&site.workshop, CRI_NAMESPACE, &name)
    }
}

/// `PullImageRequest { image: ImageSpec { image: name } }` as one message of gRPC.
fn pull_image_request(name: &str) -> Vec<u8> {
    let image_spec = protobuf_field_1(name.as_bytes());
    let request = protobuf_field_1(&image_spec);
    let len = u32::try_from(request.len()).expect("a short message");
    [&[0], &len.to_be_bytes()[..], &request].concat()
}

/// A length-delimited field with the number 1.
fn protobuf_field_1(value: &[u8]) -> Vec<u8> {
    let len = u8::try_from(value.len()).expect("a short message");
    assert!(len < 0x80, "a longer length takes more than one byte");
    [&[0x0a, len], value].concat()
}
