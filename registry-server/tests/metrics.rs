//! What `/metrics` tells.
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at what it cannot do without"
)]

#[path = "support/http.rs"]
mod http;

use std::net::SocketAddr;

use ::http::Method;
use http::{Answer, get};
use registry_server::Mirror;
use registry_server::testing::{Fault, FixtureRegistry, ImageSpec, Match, Object, Times};

async fn asked(address: SocketAddr, path: &str) -> Answer {
    let path = path.to_owned();
    let asking = tokio::task::spawn_blocking(move || get(address, &path));
    asking.await.unwrap()
}

/// The value of a metric with exactly these labels, in any order; none where it is not told.
fn value(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let mut wanted: Vec<_> = labels
        .iter()
        .map(|(key, value)| format!("{key}=\"{value}\""))
        .collect();
    wanted.sort();
    text.lines().find_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (series_name, rest) = series.split_once('{').unwrap_or((series, "}"));
        let mut told: Vec<_> = rest.trim_end_matches('}').split(',').collect();
        told.retain(|label| !label.is_empty());
        told.sort_unstable();
        let same = series_name == name && told == wanted;
        same.then(|| value.parse().unwrap())
    })
}

#[tokio::test]
async fn what_was_asked_upstream_is_counted_and_quotas_are_told() {
    let origin = FixtureRegistry::start().await;
    let image = origin.add_image("org/app", "1", &ImageSpec::new(1).layers(&[100_000]));
    let quota = [
        ("ratelimit-limit", "100;w=21600"),
        ("ratelimit-remaining", "76;w=21600"),
        ("ratelimit-reset", "4102444800"),
        ("docker-ratelimit-source", "192.0.2.7"),
    ];
    let by_tag = Match::object(Object::ManifestByTag);
    origin.fault(by_tag, Times::Always, Fault::headers(&quota));
    let folder = tempfile::tempdir().unwrap();
    let mirror = Mirror::builder()
        .without_known_upstreams()
        .data_dir(folder.path().join("data"))
        .upstream("registry.example", &origin.url())
        .default_upstream("registry.example")
        .admin_listen("127.0.0.1:0")
        .start()
        .await
        .unwrap();
    let admin = mirror.admin_addr().unwrap();
    let before = asked(admin, "/metrics").await;
    assert_eq!(before.status, 200, "{before:?}");
    assert_eq!(
        before.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    let text = String::from_utf8(before.body.to_vec()).unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert_eq!(value(&text, "registry_fills_active", &[]), Some(0.0));
    assert!(!text.contains("registry.example"), "{text}");

    let layer = image.layers[0].digest;
    for path in [
        "/v2/org/app/manifests/1".to_owned(),
        format!("/v2/org/app/blobs/{layer}"),
    ] {
        assert_eq!(asked(mirror.addr(), &path).await.status, 200);
    }
    let text = asked(admin, "/metrics").await.body;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let upstream = ("upstream", "registry.example");
    let requests = |kind, status| {
        let labels = [upstream, ("kind", kind), ("status", status)];
        value(&text, "registry_upstream_requests_total", &labels)
    };
    // A HEAD of the tag and a GET of what it names; the blob.
    assert_eq!(requests("manifest", "200"), Some(2.0), "{text}");
    assert_eq!(requests("blob", "200"), Some(1.0), "{text}");
    assert_eq!(origin.count(Method::GET, Object::Blob), 1);
    let bytes = value(&text, "registry_upstream_bytes_total", &[upstream]);
    let manifest = image.root().size;
    assert_eq!(bytes, Some((100_000 + manifest) as f64), "{text}");
    let host = origin.host();
    let labels = [
        upstream,
        ("endpoint", host.as_str()),
        ("credential", "anonymous"),
        ("source", "192.0.2.7"),
    ];
    for (name, expected) in [
        ("limit", 100.0),
        ("remaining", 76.0),
        ("window_seconds", 21_600.0),
        ("reset_timestamp_seconds", 4_102_444_800.0),
    ] {
        let name = format!("registry_upstream_ratelimit_{name}");
        assert_eq!(
            value(&text, &name, &labels),
            Some(expected),
            "{name}: {text}"
        );
    }
    mirror.shutdown().await;
}
