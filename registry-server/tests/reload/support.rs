//! A mirror that is configured by a file, and the registries that it mirrors.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use registry_server::Mirror;
use registry_server::api::Reloaded;
use registry_server::config::{ConfigSource, Flags};
use registry_server::testing::{FixtureImage, FixtureRegistry, ImageSpec};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use crate::http::{self, Answer};

#[derive(clap::Parser)]
struct CommandLine {
    #[command(flatten)]
    flags: Flags,
}

/// A mirror in this process, and the folder that its file is in.
pub(crate) struct Scene {
    pub(crate) mirror: Mirror,
    pub(crate) folder: TempDir,
}

impl Scene {
    pub(crate) async fn start(text: &str) -> Self {
        Self::start_with(text, &[]).await
    }

    pub(crate) async fn start_with(text: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.toml");
        let data = folder.path().join("data");
        fs::write(&path, text).unwrap();
        let mut line = vec!["test", "--listen", "127.0.0.1:0", "--admin-listen"];
        line.extend([
            "127.0.0.1:0",
            "--config",
            path.to_str().unwrap(),
            "--data-dir",
        ]);
        line.push(data.to_str().unwrap());
        line.extend(flags);
        let flags = CommandLine::try_parse_from(line).unwrap().flags;
        let source = ConfigSource::new(flags, |_| None);
        let config = source.load().unwrap();
        let mirror = Mirror::start_watching(config, source).await.unwrap();
        Self { mirror, folder }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("registry.toml")
    }

    /// Writes another file, and lets it be read: what has changed.
    pub(crate) async fn reload(&self, text: &str) -> Reloaded {
        fs::write(self.path(), text).unwrap();
        self.mirror.reload().await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        get(self.mirror.addr(), path).await
    }

    /// The status of a pull by tag, and how it was answered.
    pub(crate) async fn pull(&self, upstream: &str, name: &str) -> (u16, String) {
        let answer = self.get(&manifest(upstream, name)).await;
        let status = answer.header("cache-status").unwrap_or_default();
        (answer.status, status.replace("registry-server; ", ""))
    }
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    let path = path.to_owned();
    spawn_blocking(move || http::get(address, &path))
        .await
        .unwrap()
}

/// Where `repository:tag` is.
pub(crate) fn manifest(upstream: &str, name: &str) -> String {
    let (repository, tag) = name.split_once(':').unwrap();
    format!("/v2/{repository}/manifests/{tag}?ns={upstream}")
}

/// A registry with one image, `app:latest`.
pub(crate) async fn registry() -> (FixtureRegistry, FixtureImage) {
    let registry = FixtureRegistry::start().await;
    let image = registry.add_image("app", "latest", &ImageSpec::new(1).layers(&[300_000]));
    (registry, image)
}

/// The head of an upstream's table, with its endpoint.
pub(crate) fn table(name: &str, registry: &FixtureRegistry) -> String {
    format!(
        "[upstream.\"{name}\"]\nendpoints = [\"{}\"]\n",
        registry.url()
    )
}

/// Puts a file in the place of another, as editors do.
pub(crate) fn replace(path: &Path, text: &str) {
    let other = path.with_extension("new");
    fs::write(&other, text).unwrap();
    fs::rename(other, path).unwrap();
}
