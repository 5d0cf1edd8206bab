//! Tags that move, and what finding out costs.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use registry_core::testing::ManualClock;
use registry_server::testing::{FixtureRegistry, ImageSpec, Object};

use crate::support::{Setup, get, head, manifest_path};

/// HEAD and GET of manifests by tag and by digest, as the origin counted them.
fn manifests(origin: &FixtureRegistry) -> [u64; 4] {
    [
        origin.count(Method::HEAD, Object::ManifestByTag),
        origin.count(Method::GET, Object::ManifestByTag),
        origin.count(Method::HEAD, Object::ManifestByDigest),
        origin.count(Method::GET, Object::ManifestByDigest),
    ]
}

fn push(origin: &FixtureRegistry, seed: u64) -> String {
    let image = origin.add_image("library/app", "latest", &ImageSpec::new(seed));
    image.root().digest.to_string()
}

#[tokio::test]
async fn a_tag_that_moves_is_seen_on_the_next_pull_for_one_head_and_one_get() {
    let setup = Setup::new().await;
    let mirror = setup.mirror.addr();
    for seed in 0..3 {
        let pushed = push(&setup.origin, seed);
        setup.origin.reset_counters();
        // As containerd pulls: HEAD by tag, then GET by digest.
        let resolved = head(mirror, &manifest_path("latest")).await;
        assert_eq!(resolved.header("docker-content-digest"), Some(&*pushed));
        let answer = get(mirror, &manifest_path(&pushed)).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(resolved.content_length(), answer.body.len() as u64);
        assert_eq!(manifests(&setup.origin), [1, 0, 0, 1]);
        // As Podman pulls: GET by tag.
        setup.origin.reset_counters();
        let answer = get(mirror, &manifest_path("latest")).await;
        assert_eq!(answer.header("docker-content-digest"), Some(&*pushed));
        assert_eq!(manifests(&setup.origin), [1, 0, 0, 0]);
    }
}

#[tokio::test]
async fn with_a_ttl_a_move_is_seen_when_it_ends_and_not_before() {
    let clock = Arc::new(ManualClock::default());
    let ttl = Duration::from_secs(60);
    let shared = Arc::clone(&clock);
    let setup = Setup::with(|builder, _| builder.tag_ttl(ttl).clock(shared)).await;
    let mirror = setup.mirror.addr();
    let first = push(&setup.origin, 1);
    get(mirror, &manifest_path("latest")).await;
    let moved = push(&setup.origin, 2);
    setup.origin.reset_counters();
    clock.advance(ttl - Duration::from_millis(1));
    let answer = get(mirror, &manifest_path("latest")).await;
    assert_eq!(answer.header("docker-content-digest"), Some(&*first));
    assert_eq!(answer.header("cache-status"), Some("registry-server; hit"));
    assert_eq!(answer.header("age"), Some("59"));
    assert_eq!(setup.origin.total(), 0);
    clock.advance(Duration::from_millis(1));
    let answer = get(mirror, &manifest_path("latest")).await;
    assert_eq!(answer.header("docker-content-digest"), Some(&*moved));
    assert_eq!(manifests(&setup.origin), [1, 0, 0, 1]);
}
