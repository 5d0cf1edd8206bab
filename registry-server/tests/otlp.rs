//! Traces: what a collector receives of a pull, by OTLP over HTTP. With the feature `otlp` only.
//!
//! One test in a binary of its own: a subscriber is the whole process's.
#![cfg(feature = "otlp")]
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at what it cannot do without"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use registry_server::Mirror;
use registry_server::config::{CredentialConfig, UpstreamConfig};
use registry_server::logging::{LogFilter, LogFormat, start_logging};
use registry_server::testing::{
    FixtureRegistry, ImageSpec, Login, OutgoingLog, Secrets, TokenAuth,
};
use url::Url;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT_SPAN: &str = "b7ad6b7169203331";
const PASSWORD: &str = "hush-password";
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Takes what is sent to it, and gives the spans.
struct Collector {
    address: SocketAddr,
    spans: Receiver<Vec<Span>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, spans) = channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let mut reader = BufReader::new(stream);
                while let Some(body) = read_request(&mut reader) {
                    let export = ExportTraceServiceRequest::decode(&*body).unwrap();
                    let resources = export.resource_spans.into_iter();
                    let scopes = resources.flat_map(|resource| resource.scope_spans);
                    let _ = sender.send(scopes.flat_map(|scope| scope.spans).collect());
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    reader.get_mut().write_all(answer).unwrap();
                }
            }
        });
        Self { address, spans }
    }

    /// All spans, once `enough` of them have come.
    fn spans_until(&self, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let deadline = Instant::now() + WAIT_MAX;
        let mut all = Vec::new();
        while !enough(&all) {
            let left = deadline.saturating_duration_since(Instant::now());
            let some = self.spans.recv_timeout(left);
            all.extend(some.unwrap_or_else(|_| panic!("spans come: {all:#?}")));
        }
        all
    }
}

/// The body of the next request; none at the end of the connection.
fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    assert!(line.starts_with("POST /v1/traces HTTP/1.1"), "{line}");
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        let lower = line.trim().to_lowercase();
        if lower.is_empty() {
            break;
        }
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    Some(body)
}

/// Pulls a path, as a client that traces, or one that does not.
async fn pull(address: SocketAddr, path: &str, headers: &str) {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\
         Authorization: Bearer hush-client\r\n{headers}\r\n"
    );
    let pulling = tokio::task::spawn_blocking(move || {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    });
    pulling.await.unwrap();
}

fn attributes(span: &Span) -> BTreeMap<&str, String> {
    let told = span.attributes.iter().filter_map(|attribute| {
        let value = match attribute.value.as_ref()?.value.as_ref()? {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            other => format!("{other:?}"),
        };
        Some((attribute.key.as_str(), value))
    });
    told.collect()
}

/// The registry, which wants a password.
fn with_password(origin: &FixtureRegistry, folder: &Path) -> UpstreamConfig {
    let path = folder.join("password");
    fs::write(&path, PASSWORD).unwrap();
    let mut upstream = UpstreamConfig::new([Url::parse(&origin.url()).unwrap()]);
    upstream.credentials.own = Some(CredentialConfig::PasswordFile {
        username: "marvin".to_owned(),
        path,
    });
    upstream
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[track_caller]
fn only(spans: &[Span], what: impl Fn(&Span) -> bool) -> &Span {
    let found: Vec<_> = spans.iter().filter(|span| what(span)).collect();
    assert_eq!(found.len(), 1, "{found:#?} of {spans:#?}");
    found[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_is_one_trace_from_the_client_to_the_registry() {
    let collector = Collector::start();
    let endpoint = Url::parse(&format!("http://{}", collector.address)).unwrap();
    let (filter, form) = (LogFilter::default(), LogFormat::Json);
    let logging = start_logging(&filter, form, Some(&endpoint)).unwrap();

    let origin = FixtureRegistry::start().await;
    let image = origin.add_image("org/app", "1", &ImageSpec::new(1).layers(&[100_000]));
    let layer = image.layers[0].digest;
    let folder = tempfile::tempdir().unwrap();
    let outgoing = OutgoingLog::default();
    origin.behave(|behaviour| {
        behaviour.token = Some(TokenAuth {
            logins: vec![Login::new("marvin", PASSWORD)],
            ..TokenAuth::default()
        });
    });
    let mirror = Mirror::builder()
        .without_known_upstreams()
        .data_dir(folder.path().join("data"))
        .upstream_config("registry.example", with_password(&origin, folder.path()))
        .default_upstream("registry.example")
        .outgoing_log(outgoing.clone())
        .start()
        .await
        .unwrap();
    let context =
        format!("traceparent: 00-{TRACE}-{CLIENT_SPAN}-01\r\ntracestate: vendor=hush-state\r\n");
    pull(mirror.addr(), "/v2/org/app/manifests/1", &context).await;
    let blob = format!("/v2/org/app/blobs/{layer}");
    pull(mirror.addr(), &blob, &context).await;
    // One that traces nothing, and one that says not to record.
    pull(mirror.addr(), &blob, "").await;
    let unsampled = context
        .replace("-01\r\n", "-00\r\n")
        .replace(TRACE, &"1".repeat(32));
    pull(mirror.addr(), &blob, &unsampled).await;
    mirror.shutdown().await;
    tokio::task::spawn_blocking(|| logging.finish())
        .await
        .unwrap();

    let is = |name: &'static str| move |span: &Span| span.name == name;
    let requests = |spans: &[Span]| spans.iter().filter(|span| is("request")(span)).count();
    let has_fill = |spans: &[Span]| spans.iter().any(is("fill"));
    let spans = collector.spans_until(|spans| requests(spans) >= 3 && has_fill(spans));
    assert_eq!(
        requests(&spans),
        3,
        "an unsampled one is not sent: {spans:#?}"
    );

    let of_route = |route: &'static str| {
        move |span: &Span| {
            let told = attributes(span);
            hex(&span.trace_id) == TRACE && told.get("route").is_some_and(|it| it == route)
        }
    };
    let manifest = only(&spans, of_route("manifest"));
    assert_eq!(hex(&manifest.parent_span_id), CLIENT_SPAN);
    assert_eq!(manifest.trace_state, "vendor=hush-state");
    let told = attributes(manifest);
    for (key, value) in [
        ("upstream", "registry.example"),
        ("repository", "org/app"),
        ("reference", "1"),
        ("status", "200"),
        ("cache_status", "miss"),
        ("trace_id", TRACE),
    ] {
        assert_eq!(told.get(key).map(String::as_str), Some(value), "{told:?}");
    }
    assert_eq!(told["bytes"], image.root().size.to_string());

    // A tag is a flight, which asks for its manifest in another; each asks the registry once.
    let flight = |what: &'static str| {
        move |span: &Span| attributes(span).get("what").is_some_and(|it| it == what)
    };
    let tag = only(&spans, flight("tag"));
    assert_eq!(tag.parent_span_id, manifest.span_id);
    let fetch = only(&spans, flight("manifest"));
    assert_eq!(fetch.parent_span_id, tag.span_id);
    let asked_by = |parent: &Span| {
        let parent = parent.span_id.clone();
        move |span: &Span| {
            let told = attributes(span);
            span.name == "upstream_request"
                && span.parent_span_id == parent
                && told["kind"] != "token"
                && told["status"] != "401"
        }
    };
    let head = only(&spans, asked_by(tag));
    assert_eq!(attributes(head)["method"], "HEAD");
    // The token belongs to the question that it was wanted for.
    let token = |span: &Span| attributes(span).get("kind").is_some_and(|it| it == "token");
    let token = only(&spans, token);
    assert_eq!(token.parent_span_id, tag.span_id);
    let get = only(&spans, asked_by(fetch));
    let told = attributes(get);
    assert_eq!(told["method"], "GET");
    assert_eq!(told["status"], "200");
    assert_eq!(told["endpoint"], origin.host());
    assert_eq!(told["bytes"], image.root().size.to_string());
    assert_eq!(hex(&get.trace_id), TRACE);

    // A fill is a trace of its own, linked with the request that began it.
    let blob = only(&spans, of_route("blob"));
    let fill = only(&spans, is("fill"));
    assert_ne!(fill.trace_id, blob.trace_id);
    assert!(fill.parent_span_id.is_empty(), "{fill:#?}");
    assert_eq!(fill.links[0].span_id, blob.span_id);
    assert_eq!(blob.links[0].span_id, fill.span_id);
    assert_eq!(attributes(fill)["bytes"], "100000");
    let download = only(&spans, asked_by(fill));
    assert_eq!(attributes(download)["bytes"], "100000");
    assert!(blob.end_time_unix_nano > blob.start_time_unix_nano);

    // Nothing of it leaves for the registry (I12), and no secret for the collector.
    let sent = format!("{:?}", outgoing.requests());
    assert!(
        !sent.contains("traceparent") && !sent.contains(TRACE),
        "{sent}"
    );
    assert!(!sent.contains("tracestate"), "{sent}");
    let mut secrets = Secrets::account("marvin", PASSWORD).token("hush-client");
    let mut shown = Vec::new();
    for request in outgoing.requests() {
        let headers = request.headers.into_iter();
        shown.extend(headers.filter(|(name, _)| name == "authorization"));
    }
    let tokens: Vec<_> = shown
        .iter()
        .filter_map(|(_, value)| value.strip_prefix("Bearer "))
        .collect();
    assert!(
        !tokens.is_empty() && tokens.len() < shown.len(),
        "{shown:?}"
    );
    for token in tokens {
        secrets = secrets.token(token);
    }
    secrets.assert_not_in(&format!("{spans:?}"));
}
