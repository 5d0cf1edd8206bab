//! A mirror with some images, and the program that asks it.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use registry_core::testing::ManualClock;
use registry_core::{Clock, SystemClock, Timestamp};
use registry_server::api::Time;
use registry_server::testing::{FixtureRegistry, ImageSpec};
use registry_server::{Mirror, MirrorBuilder};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::http::get;

/// How long ago everything happened, for a clock that stands: far from where an age is rounded.
const AGE: Duration = Duration::from_secs(3 * 60 * 60 + 30 * 60);

/// A mirror of two registries, whose clock has stood still for three and a half hours.
pub(crate) struct Scene {
    pub(crate) hub: FixtureRegistry,
    pub(crate) ghcr: FixtureRegistry,
    pub(crate) mirror: Mirror,
    clock: Arc<ManualClock>,
    pub(crate) folder: TempDir,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::with(|builder, _| builder).await
    }

    pub(crate) async fn with(
        configure: impl FnOnce(MirrorBuilder, &Path) -> MirrorBuilder,
    ) -> Self {
        Self::of(|builder, folder, _| configure(builder, folder)).await
    }

    /// The same, where docker.io, which answers at a URL, is to be configured.
    pub(crate) async fn with_hub(
        configure: impl FnOnce(MirrorBuilder, &str) -> MirrorBuilder,
    ) -> Self {
        Self::of(|builder, _, hub| configure(builder, hub)).await
    }

    async fn of(configure: impl FnOnce(MirrorBuilder, &Path, &str) -> MirrorBuilder) -> Self {
        let (hub, ghcr) = (
            FixtureRegistry::start().await,
            FixtureRegistry::start().await,
        );
        let layer = 3 << 20;
        let alpine = ImageSpec::new(1).platforms(&["linux/amd64", "linux/arm64"]);
        hub.add_image("library/alpine", "3.20", &alpine.layers(&[layer]));
        let base = ImageSpec::new(2).shared_layers(9, &[8 << 20]);
        hub.add_image("library/postgres", "16", &base.clone().layers(&[4 << 20]));
        let tools = ImageSpec::new(3).shared_layers(9, &[8 << 20]);
        ghcr.add_image("org/tools", "v1", &tools.layers(&[1 << 20]));
        let redis = ImageSpec::new(4).layers(&[1 << 20]);
        hub.add_image("library/redis", "7", &redis);
        let folder = tempfile::tempdir().unwrap();
        let then = SystemClock.now().as_millis() - u64::try_from(AGE.as_millis()).unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(then)));
        let shared = Arc::<ManualClock>::clone(&clock) as Arc<dyn Clock>;
        let builder = Mirror::builder()
            .without_known_upstreams()
            .data_dir(folder.path().join("data"))
            .clock(shared)
            .admin_listen("127.0.0.1:0")
            .upstream("docker.io", &hub.url())
            .upstream("ghcr.io", &ghcr.url());
        let mirror = configure(builder, folder.path(), &hub.url())
            .start()
            .await
            .unwrap();
        Self {
            hub,
            ghcr,
            mirror,
            clock,
            folder,
        }
    }

    /// The same, with two images of the one registry and one of the other, of which one is pinned.
    #[track_caller]
    pub(crate) fn filled(self) -> Self {
        let images = ["alpine:3.20", "postgres:16", "ghcr.io/org/tools:v1"];
        let warm = ["warm", "--platform", "linux/amd64"];
        self.cli(&[&warm[..], &images].concat()).done();
        self.cli(&["pin", "alpine:3.20"]).done();
        self
    }

    /// When everything happened.
    pub(crate) fn then(&self) -> Time {
        Time::from(self.clock.now())
    }

    /// A text in which what differs from run to run does not, and is as long.
    pub(crate) fn without_addresses(&self, text: &str) -> String {
        let hidden = "127.0.0.1:#####";
        let addresses = [
            self.hub.host(),
            self.ghcr.host(),
            self.mirror.addr().to_string(),
        ];
        let text = addresses
            .iter()
            .fold(text.to_owned(), |text, it| text.replace(it, hidden));
        let data = self.folder.path().join("data");
        text.replace(data.to_str().unwrap(), "DATA")
    }

    /// The biggest file below a folder.
    pub(crate) fn biggest_file(&self, folder: &Path) -> PathBuf {
        let mut folders = vec![folder.to_owned()];
        let mut biggest = (0, PathBuf::new());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let metadata = entry.metadata().unwrap();
                if metadata.is_dir() {
                    folders.push(entry.path());
                } else if metadata.len() > biggest.0 {
                    biggest = (metadata.len(), entry.path());
                }
            }
        }
        biggest.1
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.mirror.admin_addr().unwrap()
    }

    /// Pulls an image as a client does: its manifest, and no more.
    pub(crate) fn pull_manifest(&self, upstream: &str, repository: &str, tag: &str) {
        let path = format!("/v2/{repository}/manifests/{tag}?ns={upstream}");
        let answer = get(self.mirror.addr(), &path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(
            answer.header("docker-content-digest").is_some(),
            "{answer:?}"
        );
    }

    /// Runs the program against the mirror.
    #[track_caller]
    pub(crate) fn cli(&self, arguments: &[&str]) -> Ran {
        self.cli_with(arguments, "")
    }

    /// The same, with something on its standard input.
    #[track_caller]
    pub(crate) fn cli_with(&self, arguments: &[&str], input: &str) -> Ran {
        let admin = format!("http://{}", self.admin());
        run(arguments, &[("REGISTRY_ADMIN", &admin)], input)
    }
}

/// The program, about to be run with nothing of the environment.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_registry-server"));
    command.env_clear().args(arguments);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs the program to its end.
#[track_caller]
pub(crate) fn run(arguments: &[&str], env: &[(&str, &str)], input: &str) -> Ran {
    let mut child = command(arguments)
        .envs(env.iter().copied())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // What it does not read is not waited for.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    Ran::from(child.wait_with_output().unwrap())
}

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// Its results, where it ended well.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self.out
    }

    /// What it said went wrong, where it ended with this status.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        self.err
    }

    /// Its result, as a document.
    #[track_caller]
    pub(crate) fn document<T: DeserializeOwned>(&self) -> T {
        match serde_json::from_str(&self.out) {
            Ok(document) => document,
            Err(error) => panic!("{error}: {}{}", self.out, self.err),
        }
    }
}

/// Compares what a person sees, line by line.
#[track_caller]
pub(crate) fn assert_lines(text: &str, wanted: &str) {
    assert_eq!(text, wanted, "\n--- found\n{text}--- wanted\n{wanted}---");
}
