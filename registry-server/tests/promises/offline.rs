//! Without any upstream: the mirror starts, serves what it has, and says plainly what it has not.

use std::path::Path;
use std::time::Duration;

use registry_server::Mirror;
use registry_server::config::UpstreamConfig;
use registry_server::testing::{Fault, FixtureRegistry, ImageSpec, Match, Times};
use tokio::time::{Instant, timeout};

use crate::support::{End, Setup, UPSTREAM, blob_path, get, head, manifest_path, sha256};

/// Starts over on the folder of an earlier mirror, after something was done to it.
async fn restart(setup: Setup, between: impl FnOnce(&Path)) -> Setup {
    let Setup {
        origin,
        mirror,
        folder,
    } = setup;
    mirror.shutdown().await;
    between(folder.path());
    let mirror = Mirror::builder()
        .data_dir(folder.path().join("data"))
        .upstream(UPSTREAM, &origin.url())
        .start()
        .await
        .unwrap();
    Setup {
        origin,
        mirror,
        folder,
    }
}

#[tokio::test]
async fn cached_content_is_served_and_marked_stale_after_a_start_without_upstream() {
    let setup = Setup::new().await;
    let spec = ImageSpec::new(1)
        .platforms(&["linux/amd64", "linux/arm64"])
        .layers(&[1 << 20]);
    let image = setup.origin.add_image("library/app", "latest", &spec);
    get(setup.mirror.addr(), &manifest_path("latest")).await;
    for manifest in &image.manifests {
        get(setup.mirror.addr(), &manifest_path(manifest.digest)).await;
    }
    for blob in image.blobs() {
        assert_eq!(setup.blob(blob.digest).await.end, End::Whole);
    }
    setup.idle().await;
    setup.origin.stop().await;
    let setup = restart(setup, |_| {}).await;
    let mirror = setup.mirror.addr();

    let answer = get(mirror, &manifest_path("latest")).await;
    assert_eq!(
        (answer.status(), sha256(&answer.body)),
        (200, image.root().digest)
    );
    let told = answer.header("cache-status").unwrap();
    assert!(
        told.contains("fwd=stale") && told.contains("detail=unavailable"),
        "{told}"
    );
    assert!(
        answer.header("warning").unwrap().starts_with("299 "),
        "{answer:?}"
    );
    assert!(answer.header("age").is_some());
    for manifest in &image.manifests {
        let answer = get(mirror, &manifest_path(manifest.digest)).await;
        assert_eq!(
            (answer.status(), sha256(&answer.body)),
            (200, manifest.digest)
        );
        assert_eq!(answer.header("cache-status"), Some("registry-server; hit"));
        assert_eq!(answer.header("warning"), None);
    }
    for blob in image.blobs() {
        let answer = setup.blob(blob.digest).await;
        assert_eq!(
            (answer.end, sha256(&answer.body)),
            (End::Whole, blob.digest)
        );
    }
    let list = get(mirror, &format!("/v2/library/app/tags/list?ns={UPSTREAM}")).await;
    assert_eq!(list.body, br#"{"name":"library/app","tags":["latest"]}"#);
    assert!(list.header("cache-status").unwrap().contains("fwd=stale"));

    // What was never seen is an error that says so, and HEAD agrees with GET.
    let unseen = setup.origin.add_blob("library/app", 99, 10);
    for path in [
        manifest_path("other"),
        manifest_path(unseen.digest),
        blob_path(unseen.digest),
    ] {
        let answer = get(mirror, &path).await;
        assert_eq!(answer.status(), 502, "{answer:?}");
        assert!(!answer.error_code().is_empty());
        assert_eq!(head(mirror, &path).await.status, 502);
    }
}

/// I10: without its index and without its upstream, the mirror serves by digest all that it holds,
/// where it was pulled and nowhere else.
#[tokio::test]
async fn the_index_can_be_thrown_away() {
    let setup = Setup::new().await;
    let image = setup
        .origin
        .add_image("library/app", "latest", &ImageSpec::new(1).layers(&[1000]));
    get(setup.mirror.addr(), &manifest_path("latest")).await;
    for blob in image.blobs() {
        setup.blob(blob.digest).await;
    }
    setup.idle().await;
    setup.origin.stop().await;
    let lose_the_index =
        |folder: &Path| std::fs::remove_dir_all(folder.join("data/index")).unwrap();
    let setup = restart(setup, lose_the_index).await;
    let mirror = setup.mirror.addr();
    let answer = get(mirror, &manifest_path(image.root().digest)).await;
    assert_eq!(
        (answer.status(), sha256(&answer.body)),
        (200, image.root().digest)
    );
    for blob in image.blobs() {
        let answer = setup.blob(blob.digest).await;
        assert_eq!(
            (answer.end, sha256(&answer.body)),
            (End::Whole, blob.digest)
        );
        let elsewhere = format!("/v2/library/other/blobs/{}?ns={UPSTREAM}", blob.digest);
        assert_eq!(
            get(mirror, &elsewhere).await.status(),
            502,
            "nobody can confirm it there"
        );
    }
    assert_eq!(
        get(mirror, &manifest_path("latest")).await.status(),
        502,
        "tags are lost"
    );
}

/// An upstream that takes connections and never answers costs `tag_budget` and no more.
#[tokio::test]
async fn a_black_hole_costs_the_budget_and_no_more() {
    let budget = Duration::from_millis(300);
    let setup = Setup::with(|builder, origin| {
        let url = origin.url().parse().unwrap();
        let mut upstream = UpstreamConfig::new([url]);
        upstream.rules.tag_budget = Some(budget);
        builder.upstream_config(UPSTREAM, upstream)
    })
    .await;
    let mirror = setup.mirror.addr();
    let image = setup
        .origin
        .add_image("library/app", "latest", &ImageSpec::new(1));
    setup
        .origin
        .move_tag("library/app", "other", image.root().digest);
    get(mirror, &manifest_path("latest")).await;
    get(mirror, &manifest_path("other")).await;
    setup
        .origin
        .fault(Match::any(), Times::Always, Fault::BlackHole);
    let asked = Instant::now();
    let answer = timeout(budget * 20, get(mirror, &manifest_path("latest")))
        .await
        .unwrap();
    assert!(
        asked.elapsed() >= budget,
        "it did not wait for the upstream at all"
    );
    assert_eq!(sha256(&answer.body), image.root().digest);
    assert!(
        answer
            .header("cache-status")
            .unwrap()
            .contains("detail=timeout"),
        "{answer:?}"
    );

    // Nor does the next one, nor another tag of the same upstream, while that question is open.
    let asked = setup.origin.total();
    for reference in ["latest", "other"].iter().cycle().take(50) {
        let answer = get(mirror, &manifest_path(reference)).await;
        assert_eq!(sha256(&answer.body), image.root().digest);
        let status = answer.header("cache-status").unwrap();
        assert!(status.contains("detail=timeout"), "{status}");
    }
    assert_eq!(setup.origin.total(), asked);
}

#[tokio::test]
async fn a_mirror_that_has_nothing_starts_without_any_upstream() {
    let origin = FixtureRegistry::start().await;
    origin.stop().await;
    let folder = tempfile::tempdir().unwrap();
    let mirror = Mirror::builder()
        .data_dir(folder.path())
        .upstream(UPSTREAM, &origin.url())
        .start()
        .await
        .unwrap();
    assert_eq!(get(mirror.addr(), "/v2/").await.status(), 200);
    let answer = get(mirror.addr(), &manifest_path("latest")).await;
    assert_eq!(answer.status(), 502, "{answer:?}");
}
