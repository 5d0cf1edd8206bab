//! Caches of caches: ours before ours, and ours on either side of `docker-registry` as a cache.

use std::net::SocketAddr;

use serde_json::Value;

use super::are_met;
use super::show::{Show, Stage, UPSTREAM, assert_every_blob_was_downloaded_once};
use super::tapped::TappedMirror;
use crate::example_files::example;
use crate::http::{Answer, ask, get};
use crate::origin::{Origin, OriginOptions};
use crate::site::{Published, Site};

/// The other cache of the example.
const CACHE: &str = "cache.example.org:5000";

/// A registry, and a mirror of ours in front of it, to put something else in front of.
struct Inner {
    stage: Stage,
    origin: Origin,
    images: Vec<Published>,
    mirror: TappedMirror,
}

impl Inner {
    #[track_caller]
    fn start() -> Self {
        let stage = Stage::new();
        let origin = Origin::start(&stage.workshop, "origin");
        let images = stage.publish(&[&origin]);
        let configuration = configuration(&origin.url());
        let mirror = TappedMirror::start(&stage.runtime, &stage.workshop, "inner", &configuration);
        Self {
            stage,
            origin,
            images,
            mirror,
        }
    }
}

/// That of a mirror of one registry, which is also the one that is meant where none is named.
fn configuration(endpoint: &str) -> String {
    format!(
        "default_upstream = \"{UPSTREAM}\"\n\
         [upstream.\"{UPSTREAM}\"]\nendpoints = [\"{endpoint}\"]\n"
    )
}

#[test]
fn ours_before_ours_by_path() {
    if !are_met("cascade", &[]) {
        return;
    }
    let Inner {
        stage,
        origin,
        images,
        mirror: inner,
    } = Inner::start();
    let configuration = example("mirror/another-cache.toml");
    assert!(configuration.contains(CACHE), "the example names {CACHE}");
    let configuration = configuration.replace(CACHE, &inner.address.to_string());
    let show = Show::open(stage, &configuration, images);
    show.play(|| origin.stop());
    assert_every_blob_was_downloaded_once(&inner.log.requests());
    inner.stop(&show.runtime);
    show.finish();
}

#[test]
fn ours_before_ours_by_its_default_upstream() {
    if !are_met("cascade", &[]) {
        return;
    }
    let Inner {
        stage,
        origin,
        images,
        mirror: inner,
    } = Inner::start();
    let endpoint = format!("http://{}", inner.address);
    let outer = TappedMirror::start(
        &stage.runtime,
        &stage.workshop,
        "head-first",
        &configuration(&endpoint),
    );
    for published in &images {
        assert_head_tells_what_get_does(&stage, outer.address, published);
    }
    outer.stop(&stage.runtime);

    let show = Show::open(stage, &configuration(&endpoint), images);
    show.cold();
    show.warm();
    // What the outer holds needs nobody.
    inner.stop(&show.runtime);
    origin.stop();
    show.offline();
    show.finish();
}

/// Of everything that an image is made of, where neither cache has seen it.
#[track_caller]
fn assert_head_tells_what_get_does(stage: &Stage, outer: SocketAddr, published: &Published) {
    let repository = published.repository;
    let digest = published.content.digest.to_string();
    let digest_in = |descriptor: &Value| descriptor["digest"].as_str().map(str::to_owned);
    let mut manifest = stage.manifest(repository, &digest);
    let mut paths = vec![
        format!("manifests/{digest}"),
        format!("manifests/{}", published.tag),
    ];
    if let Some(platform) = digest_in(&manifest["manifests"][0]) {
        paths.push(format!("manifests/{platform}"));
        manifest = stage.manifest(repository, &platform);
    }
    let layers = manifest["layers"].as_array().expect("an image has layers");
    for blob in layers.iter().chain([&manifest["config"]]) {
        let digest = digest_in(blob).expect("a descriptor has a digest");
        paths.push(format!("blobs/{digest}"));
    }
    // Blobs first, while no manifest has made them known.
    paths.reverse();
    let head = |path: &str| ask("HEAD", outer, path);
    let get = |path: &str| get(outer, path);
    let of_all = |ask: &dyn Fn(&str) -> Answer| -> Vec<Answer> {
        let address = |path| format!("/v2/{repository}/{path}?ns={UPSTREAM}");
        paths.iter().map(|path| ask(&address(path))).collect()
    };
    // All of one before any of the other.
    for ((path, head), get) in paths.iter().zip(of_all(&head)).zip(of_all(&get)) {
        assert_eq!(head.status, 200, "{path}: {head:?}");
        assert_eq!(get.status, 200, "{path}: {get:?}");
        assert!(head.body.is_empty(), "{path}");
        assert_eq!(
            head.header("content-length"),
            Some(get.body.len().to_string().as_str())
        );
        for name in ["content-length", "content-type", "docker-content-digest"] {
            assert_eq!(head.header(name), get.header(name), "{path}: {name}");
        }
    }
}

#[test]
fn docker_registry_as_a_cache_before_ours() {
    if !are_met("cascade", &[]) {
        return;
    }
    let Inner {
        stage,
        origin,
        images,
        mirror: ours,
    } = Inner::start();
    let options = OriginOptions {
        remote: Some(format!("http://{}", ours.address)),
        ..OriginOptions::default()
    };
    let outer = Origin::start_with(&stage.workshop, "outer", &options);
    let Stage { runtime, workshop } = stage;
    let site = Site::new(workshop, outer.address, "config");
    let show = Show::open_at(site, ours, runtime, images);
    show.play(|| origin.stop());
    outer.stop();
    show.finish();
}

#[test]
fn ours_before_docker_registry_as_a_cache() {
    if !are_met("cascade", &[]) {
        return;
    }
    let stage = Stage::new();
    let origin = Origin::start(&stage.workshop, "origin");
    let images = stage.publish(&[&origin]);
    let options = OriginOptions {
        remote: Some(origin.url()),
        ..OriginOptions::default()
    };
    let cache = Origin::start_with(&stage.workshop, "cache", &options);
    let show = Show::open(stage, &configuration(&cache.url()), images);
    show.play(|| {
        cache.stop();
        origin.stop();
    });
    show.finish();
}
