//! I5 over HTTP: what is cached from one origin is served in another only where that has it.

use http::Method;
use registry_server::testing::{FixtureRegistry, ImageSpec, Object};

use crate::support::{Setup, get, sha256};

#[tokio::test]
async fn a_cached_digest_is_404_where_it_is_not_and_costs_one_head_where_it_is() {
    let [other, has] = [
        FixtureRegistry::start().await,
        FixtureRegistry::start().await,
    ];
    let setup = Setup::with(|builder, _| {
        builder
            .upstream("other.example", &other.url())
            .upstream("has.example", &has.url())
    })
    .await;
    let mirror = setup.mirror.addr();
    let spec = ImageSpec::new(7).layers(&[1 << 20]);
    let image = setup.origin.add_image("library/app", "latest", &spec);
    has.add_image("team/copy", "latest", &spec);
    let (manifest, layer) = (image.root().digest, image.layers[0].digest);
    let path = |repository: &str, kind: &str, digest, ns: &str| {
        format!("/v2/{repository}/{kind}/{digest}?ns={ns}")
    };
    for (kind, digest) in [("manifests", manifest), ("blobs", layer)] {
        let answer = get(mirror, &path("library/app", kind, digest, "origin.example")).await;
        assert_eq!((answer.status(), sha256(&answer.body)), (200, digest));
    }
    setup.idle().await;

    for (kind, digest, code) in [
        ("manifests", manifest, "MANIFEST_UNKNOWN"),
        ("blobs", layer, "BLOB_UNKNOWN"),
    ] {
        for (repository, ns) in [
            ("library/app", "other.example"),
            ("library/secret", "origin.example"),
        ] {
            let answer = get(mirror, &path(repository, kind, digest, ns)).await;
            assert_eq!(
                (answer.status(), answer.error_code().as_str()),
                (404, code),
                "{ns}"
            );
        }
    }
    assert_eq!(other.count(Method::GET, Object::Blob), 0);
    assert_eq!(other.count(Method::GET, Object::ManifestByDigest), 0);

    for (kind, digest) in [("manifests", manifest), ("blobs", layer)] {
        has.reset_counters();
        for _ in 0..2 {
            let answer = get(mirror, &path("team/copy", kind, digest, "has.example")).await;
            assert_eq!((answer.status(), sha256(&answer.body)), (200, digest));
        }
        // The manifest names the layer, so that the layer needs no proof of its own.
        let proofs = if kind == "manifests" { 1 } else { 0 };
        assert_eq!(has.total(), proofs, "{kind}");
        assert_eq!(has.count(Method::HEAD, Object::ManifestByDigest), proofs);
    }
}

#[tokio::test]
async fn a_cached_blob_alone_costs_one_head_and_no_download() {
    let has = FixtureRegistry::start().await;
    let setup = Setup::with(|builder, _| builder.upstream("has.example", &has.url())).await;
    let mirror = setup.mirror.addr();
    let blob = setup.origin.add_blob("library/app", 9, 1 << 20);
    has.add_blob("team/copy", 9, 1 << 20);
    setup.blob(blob.digest).await;
    setup.idle().await;
    for status in ["fwd=stale; detail=revalidated", "hit"] {
        let path = format!("/v2/team/copy/blobs/{}?ns=has.example", blob.digest);
        let answer = get(mirror, &path).await;
        assert_eq!((answer.status(), sha256(&answer.body)), (200, blob.digest));
        let told = answer.header("cache-status").unwrap();
        assert!(told.contains(status), "{told}");
    }
    assert_eq!(has.count(Method::HEAD, Object::Blob), 1);
    assert_eq!((has.total(), has.blob_bytes_sent(&blob.digest)), (1, 0));
}
