//! What `/metrics` tells.
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at what it cannot do without"
)]

#[path = "support/http.rs"]
mod http;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ::http::Method;
use http::{Answer, get};
use registry_server::Mirror;
use registry_server::testing::{Fault, FixtureRegistry, ImageSpec, Match, Object, Times};
use serde_json::Value;
use tempfile::TempDir;

const UPSTREAM: (&str, &str) = ("upstream", "registry.example");

/// A mirror of a fixture registry, both without anything.
struct Setup {
    origin: FixtureRegistry,
    mirror: Mirror,
    folder: TempDir,
}

impl Setup {
    async fn start() -> Self {
        let origin = FixtureRegistry::start().await;
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
        Self {
            origin,
            mirror,
            folder,
        }
    }

    async fn get(&self, path: &str) -> Answer {
        asked(self.mirror.addr(), path).await
    }

    async fn ask(&self, method: &'static str, path: &str) -> u16 {
        let (address, path) = (self.mirror.addr(), path.to_owned());
        let asking = tokio::task::spawn_blocking(move || http::ask(method, address, &path));
        asking.await.unwrap().status
    }

    /// What `/metrics` tells, once every answer so far is counted: the last of them, which is
    /// counted when its connection has seen its end.
    async fn metrics_after(&self, answers: f64) -> String {
        let counted = |text: &str| -> f64 {
            let requests = text.lines().filter(|line| {
                line.starts_with("registry_http_requests_total") && !line.contains("\"admin\"")
            });
            requests
                .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
                .sum()
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let text = self.metrics().await;
            if counted(&text) >= answers {
                return text;
            }
            assert!(Instant::now() < deadline, "{answers} answers: {text}");
            tokio::task::yield_now().await;
        }
    }

    async fn metrics(&self) -> String {
        let admin = self.mirror.admin_addr().unwrap();
        let answer = asked(admin, "/metrics").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        String::from_utf8(answer.body.clone()).unwrap()
    }
}

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
    // From the start on, so that the first bytes are an increase.
    let labels = [("upstream", "registry.example")];
    let bytes = value(&text, "registry_upstream_bytes_total", &labels);
    assert_eq!(bytes, Some(0.0), "{text}");
    let host = origin.host();
    let labels = [UPSTREAM, ("endpoint", host.as_str())];
    let up = value(&text, "registry_upstream_endpoint_up", &labels);
    assert_eq!(up, Some(1.0), "{text}");

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

#[tokio::test]
async fn what_clients_were_answered_is_counted() {
    let setup = Setup::start().await;
    let image = setup
        .origin
        .add_image("org/app", "1", &ImageSpec::new(1).layers(&[100_000]));
    let blob = format!("/v2/org/app/blobs/{}", image.layers[0].digest);
    assert_eq!(setup.get("/v2/").await.status, 200);
    for (path, times) in [("/v2/org/app/manifests/1", 2), (&*blob, 3)] {
        for _ in 0..times {
            assert_eq!(setup.get(path).await.status, 200);
        }
    }
    assert_eq!(setup.ask("HEAD", &blob).await, 200);
    assert_eq!(setup.get("/v2/org/app/manifests/2").await.status, 404);
    assert_eq!(
        setup
            .get("/v2/org/app/tags/list?ns=nobody.example")
            .await
            .status,
        404
    );
    assert_eq!(setup.ask("DELETE", &blob).await, 405);
    let text = setup.metrics_after(10.0).await;

    let http = |method, route, status| {
        let labels = [("method", method), ("route", route), ("status", status)];
        value(&text, "registry_http_requests_total", &labels)
    };
    assert_eq!(http("GET", "ping", "200"), Some(1.0), "{text}");
    assert_eq!(http("GET", "manifest", "200"), Some(2.0), "{text}");
    assert_eq!(http("GET", "manifest", "404"), Some(1.0), "{text}");
    assert_eq!(http("GET", "blob", "200"), Some(3.0), "{text}");
    assert_eq!(http("HEAD", "blob", "200"), Some(1.0), "{text}");
    assert_eq!(http("GET", "none", "404"), Some(1.0), "{text}");
    assert_eq!(http("other", "none", "405"), Some(1.0), "{text}");
    let cache = |upstream, object, status| {
        let labels = [
            ("upstream", upstream),
            ("object", object),
            ("status", status),
        ];
        value(&text, "registry_cache_requests_total", &labels)
    };
    let of = |object, status| cache("registry.example", object, status);
    assert_eq!(of("manifest", "miss"), Some(1.0), "{text}");
    assert_eq!(of("manifest", "revalidated"), Some(1.0), "{text}");
    assert_eq!(of("manifest", "not_found"), Some(1.0), "{text}");
    assert_eq!(of("blob", "miss"), Some(1.0), "{text}");
    let served = of("blob", "hit").unwrap_or(0.0) + of("blob", "follow").unwrap_or(0.0);
    assert_eq!(served, 3.0, "two GETs and a HEAD: {text}");
    assert_eq!(cache("unknown", "none", "not_found"), Some(1.0), "{text}");
    let failed = |reason| {
        value(
            &text,
            "registry_failed_answers_total",
            &[("reason", reason)],
        )
    };
    assert_eq!(failed("not-found"), Some(1.0), "{text}");
    assert_eq!(failed("unknown-upstream"), Some(1.0), "{text}");

    let sent = value(&text, "registry_served_bytes_total", &[UPSTREAM]).unwrap();
    let content = 3 * 100_000 + 2 * image.root().size;
    assert!(sent > content as f64, "the words of errors, too: {text}");
    assert!(sent < (content + 5_000) as f64, "{text}");
    let labels = [("object", "blob"), ("status", "miss")];
    for name in ["first_byte", "body"] {
        let count = value(&text, &format!("registry_{name}_seconds_count"), &labels);
        assert_eq!(count, Some(1.0), "{name}: {text}");
    }
    for (name, expected) in [
        ("registry_ready", 1.0),
        ("registry_store_failing", 0.0),
        ("registry_store_failures_total", 0.0),
        ("registry_refused_for_room_total", 0.0),
        ("registry_pins", 0.0),
    ] {
        assert_eq!(value(&text, name, &[]), Some(expected), "{name}: {text}");
    }
    setup.mirror.shutdown().await;
}

#[tokio::test]
async fn what_is_served_stale_is_counted_by_its_reason() {
    let setup = Setup::start().await;
    setup.origin.add_image("org/app", "1", &ImageSpec::new(1));
    assert_eq!(setup.get("/v2/org/app/manifests/1").await.status, 200);
    let by_tag = Match::object(Object::ManifestByTag);
    setup
        .origin
        .fault(by_tag, Times::Always, Fault::status(503));
    assert_eq!(setup.get("/v2/org/app/manifests/1").await.status, 200);
    let text = setup.metrics_after(2.0).await;
    let labels = [UPSTREAM, ("reason", "unavailable")];
    let stale = value(&text, "registry_stale_answers_total", &labels);
    assert_eq!(stale, Some(1.0), "{text}");
    let ages = value(&text, "registry_stale_age_seconds_count", &[]);
    assert_eq!(ages, Some(1.0), "{text}");
    setup.mirror.shutdown().await;
}

/// A file that is gone or cut short is a miss that repairs itself, and is counted.
#[tokio::test]
async fn what_was_damaged_and_fetched_anew_is_counted() {
    let setup = Setup::start().await;
    let spec = ImageSpec::new(1).layers(&[100_000, 50_000]);
    let image = setup.origin.add_image("org/app", "1", &spec);
    let layers = [0, 1].map(|layer| image.layers[layer].digest);
    let healed = async |expected: u64| {
        let text = setup.metrics().await;
        let counted = value(&text, "registry_healed_total", &[]);
        assert_eq!(counted, Some(expected as f64), "{text}");
        let admin = setup.mirror.admin_addr().unwrap();
        let status = asked(admin, "/api/v1/status").await;
        let status: Value = serde_json::from_slice(&status.body).unwrap();
        assert_eq!(status["storage"]["healed"], expected);
    };
    let pull = async || {
        for layer in layers {
            let answer = setup.get(&format!("/v2/org/app/blobs/{layer}")).await;
            assert_eq!(answer.status, 200);
            assert!(answer.body == setup.origin.bytes(&layer).unwrap());
        }
        // Until they are kept.
        let deadline = Instant::now() + Duration::from_secs(30);
        while value(&setup.metrics().await, "registry_fills_active", &[]) != Some(0.0) {
            assert!(Instant::now() < deadline);
        }
    };
    assert_eq!(setup.get("/v2/org/app/manifests/1").await.status, 200);
    pull().await;
    healed(0).await;
    let file = |layer: registry_core::Digest| {
        let encoded = layer.encoded();
        let shelf = setup.folder.path().join("data/blobs/sha256");
        shelf.join(&encoded[..2]).join(encoded)
    };
    std::fs::remove_file(file(layers[0])).unwrap();
    let cut = std::fs::File::options()
        .write(true)
        .open(file(layers[1]))
        .unwrap();
    cut.set_len(10_000).unwrap();
    pull().await;
    healed(2).await;
    assert_eq!(setup.origin.count(Method::GET, Object::Blob), 4);
    pull().await;
    healed(2).await;
    assert_eq!(setup.origin.count(Method::GET, Object::Blob), 4);
    setup.mirror.shutdown().await;
}

/// What clients make up must not become series (I8).
#[tokio::test]
async fn series_do_not_grow_with_what_clients_ask_for() {
    let setup = Setup::start().await;
    setup.origin.add_image("org/app", "1", &ImageSpec::new(1));
    let ask = async |number: usize| {
        for path in [
            format!("/v2/org/app{number}/manifests/1"),
            format!("/v2/org/app/manifests/tag{number}"),
            format!("/v2/org/app/manifests/1?ns=host{number}.example"),
            format!("/v2/org/app/tags/list?n={number}&ns=registry.example"),
            format!("/v2/org/App{number}/manifests/1"),
            format!("/made/up/{number}"),
        ] {
            setup.get(&path).await;
        }
        let method = ["PUT", "POST", "PATCH", "DELETE", "BREW"][number % 5];
        setup.ask(method, "/v2/").await;
    };
    let series = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
            .collect()
    };
    // Scrapes are counted as well.
    setup.metrics().await;
    for number in 0..5 {
        ask(number).await;
    }
    let before = series(&setup.metrics_after(5.0 * 7.0).await);
    for number in 5..30 {
        ask(number).await;
    }
    let after = series(&setup.metrics_after(30.0 * 7.0).await);
    let grown: Vec<_> = after.difference(&before).collect();
    assert!(grown.is_empty(), "{grown:?}");
    assert!(before.len() < 1000, "{}", before.len());
    setup.mirror.shutdown().await;
}

/// What a metric is called in `# TYPE` lines, with the end that its series have.
fn declared(text: &str) -> BTreeMap<String, String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            let end = if kind == "counter" { "_total" } else { "" };
            (format!("{name}{end}"), kind.to_owned())
        })
        .collect()
}

#[tokio::test]
async fn every_metric_is_documented_and_none_is_made_up() {
    let setup = Setup::start().await;
    let told = declared(&setup.metrics().await);
    setup.mirror.shutdown().await;
    let document = include_str!("../../docs/metrics.md");
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    let documented: BTreeMap<_, _> = rows
        .map(|row| {
            let mut cells = row.split('|').map(str::trim).skip(1);
            let name = cells.next().unwrap().trim_matches('`');
            let name = name.split('{').next().unwrap();
            (name.to_owned(), cells.next().unwrap().to_owned())
        })
        .collect();
    assert_eq!(documented, told);
}

/// As <https://prometheus.io/docs/practices/naming> has it.
#[tokio::test]
async fn names_end_with_their_units() {
    let setup = Setup::start().await;
    let told = declared(&setup.metrics().await);
    setup.mirror.shutdown().await;
    for (name, kind) in &told {
        let base = name.trim_end_matches("_total").trim_end_matches("_info");
        for unit in [
            "milliseconds",
            "ms",
            "minutes",
            "kilobytes",
            "kb",
            "percent",
        ] {
            assert!(!base.split('_').any(|word| word == unit), "{name}");
        }
        if kind == "histogram" {
            assert!(
                base.ends_with("_seconds") || base.ends_with("_bytes"),
                "{name}"
            );
        }
        let unit = base
            .split('_')
            .position(|word| matches!(word, "seconds" | "bytes"));
        let last = base.split('_').count() - 1;
        assert!(
            unit.is_none_or(|unit| unit == last),
            "{name}: a unit stands last"
        );
    }
}

/// The names of metrics in an expression: words that begin as ours do. What rules record has a
/// colon in its name.
fn names_in(expression: &str) -> impl Iterator<Item = &str> {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | ':');
    let words = expression.split(move |letter| !is_word(letter));
    words.filter(|word| {
        !word.contains(':') && (word.starts_with("registry_") || word.starts_with("process_"))
    })
}

/// All texts of a document under one of these keys.
fn texts_under<'a>(value: &'a Value, keys: &[&str], found: &mut Vec<&'a str>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| match value.as_str() {
            Some(text) if keys.contains(&key.as_str()) => found.push(text),
            _ => texts_under(value, keys, found),
        }),
        Value::Array(values) => values.iter().for_each(|it| texts_under(it, keys, found)),
        _ => {}
    }
}

#[tokio::test]
async fn dashboard_and_alert_rules_use_only_metrics_that_there_are() {
    let setup = Setup::start().await;
    let told = declared(&setup.metrics().await);
    setup.mirror.shutdown().await;
    let dashboard = include_str!("../../dashboards/registry-server.json");
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    let rules = include_str!("../../dashboards/alerts.yaml");
    let rules: Value = serde_saphyr::from_str(rules).unwrap();
    for (document, uses_min) in [(&dashboard, 20), (&rules, 10)] {
        let mut expressions = Vec::new();
        texts_under(document, &["expr", "definition", "query"], &mut expressions);
        let mut used = BTreeSet::new();
        for name in expressions
            .iter()
            .flat_map(|expression| names_in(expression))
        {
            let series = ["_bucket", "_sum", "_count"];
            let of_histogram = series.iter().find_map(|end| name.strip_suffix(end));
            let histogram =
                of_histogram.filter(|it| told.get(*it).is_some_and(|it| it == "histogram"));
            let base = histogram.unwrap_or(name);
            assert!(told.contains_key(base), "{name} is no metric");
            used.insert(base);
        }
        assert!(used.len() >= uses_min, "{used:?}");
    }
}

/// A mirror that cannot ask any registry still serves what it has: it stays where requests come to,
/// and says what is the matter.
#[tokio::test]
async fn a_mirror_whose_registries_are_down_is_ready_and_says_so() {
    let setup = Setup::start().await;
    setup.origin.add_image("org/app", "1", &ImageSpec::new(1));
    let admin = setup.mirror.admin_addr().unwrap();
    let ready = async || {
        let answer = asked(admin, "/readyz").await;
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        (answer.status, body)
    };
    let (status, body) = ready().await;
    assert_eq!((status, &body["status"]), (200, &"ready".into()), "{body}");
    assert_eq!(body["problems"], Value::Array(Vec::new()));
    let everything = Match::any();
    setup
        .origin
        .fault(everything, Times::Always, Fault::status(503));
    // It takes some failures in a row until an endpoint is rested.
    for number in 0..5 {
        setup.get(&format!("/v2/org/app/manifests/{number}")).await;
    }
    let (status, body) = ready().await;
    assert_eq!(
        (status, &body["status"]),
        (200, &"degraded".into()),
        "{body}"
    );
    let problem = body["problems"][0].as_str().unwrap();
    assert!(
        problem.contains("registry.example cannot be asked"),
        "{problem}"
    );
    let text = setup.metrics().await;
    assert_eq!(value(&text, "registry_ready", &[]), Some(1.0));
    let host = setup.origin.host();
    let labels = [UPSTREAM, ("endpoint", host.as_str())];
    for (name, expected) in [("up", 0.0), ("rests_total", 1.0)] {
        let name = format!("registry_upstream_endpoint_{name}");
        assert_eq!(value(&text, &name, &labels), Some(expected), "{text}");
    }
    setup.mirror.shutdown().await;
}
