//! What the README shows is what is shown.

use registry_server::api::Why;
use registry_server::testing::{Fault, Match, Times};

use crate::http::get;
use crate::support::Scene;

const README: &str = include_str!("../../../README.md");

/// What the README says that a command prints.
fn shown(command: &str) -> &'static str {
    let (_, after) = README
        .split_once(&format!("```console\n$ {command}\n"))
        .expect("the README has the command");
    after.split("```").next().unwrap()
}

/// A text whose columns are as wide as anybody's names, without the room that a disk has.
fn lines(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let line = match line.rsplit_once(", ") {
            Some((before, room)) if room.ends_with(" free on the disk") => before,
            _ => line,
        };
        let words: Vec<_> = line.split_whitespace().collect();
        words.join(" ")
    };
    text.trim_end().lines().map(line).collect()
}

impl Scene {
    /// Pulls what is held of an image, as a node does that has none of it.
    fn pull(&self, upstream: &str, repository: &str, tag: &str) {
        let name = format!("{upstream}/{repository}:{tag}");
        let why: Why = self.cli(&["why", "--json", &name]).document();
        let image = why.image.unwrap();
        self.pull_manifest(upstream, repository, tag);
        for manifest in image
            .manifests
            .iter()
            .filter(|of| of.held && !of.blobs.is_empty())
        {
            let blobs = manifest.blobs.iter().map(|blob| ("blobs", &blob.digest));
            for (kind, digest) in [("manifests", &manifest.digest)].into_iter().chain(blobs) {
                let path = format!("/v2/{repository}/{kind}/{digest}?ns={upstream}");
                assert_eq!(get(self.mirror.addr(), &path).status, 200, "{path}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_the_readme_is_one() {
    let scene = Scene::with(|builder, _| builder.max_size("64MiB"))
        .await
        .filled();
    let quota = [
        ("ratelimit-limit", "100;w=21600"),
        ("ratelimit-remaining", "87;w=21600"),
    ];
    let quota = quota.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let quota = Fault::Headers(quota.to_vec());
    scene.hub.fault(Match::any(), Times::Always, quota);
    for _ in 0..10 {
        scene.pull("docker.io", "library/alpine", "3.20");
        scene.pull("docker.io", "library/postgres", "16");
        scene.pull("ghcr.io", "org/tools", "v1");
    }
    let text = scene.cli(&["status"]).done();
    let data = scene.folder.path().join("data");
    let text = text
        .replace(&scene.hub.host(), "registry-1.docker.io")
        .replace(&scene.ghcr.host(), "ghcr.io")
        .replace(&scene.mirror.addr().to_string(), "127.0.0.1:5000")
        .replace(data.to_str().unwrap(), "/var/lib/registry-server");
    assert_eq!(
        lines(&text),
        lines(shown("registry-server status")),
        "{text}"
    );
}
