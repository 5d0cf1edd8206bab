//! The access log: one line for each request, with what it was about and what became of it.
//!
//! One test in a binary of its own: a subscriber is the whole process's.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "loopback/mod.rs"]
mod loopback;

use std::io;
use std::sync::{Arc, Mutex};

use loopback::{Blobs, Mirror, Setup, add_image, repository, request};
use registry_core::UpstreamError;
use registry_core::testing::content::sample;
use registry_core::testing::{Act, BodyScript, Call, Gate, Piece};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tracing_subscriber::fmt::MakeWriter;

/// Keeps the lines, and tells of each.
#[derive(Clone, Default)]
struct Lines {
    lines: Arc<Mutex<Vec<Value>>>,
    written: Arc<Notify>,
}

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let value: Value = serde_json::from_slice(line).unwrap();
        if value["target"] == "access" {
            self.lines.lock().unwrap().push(value);
            self.written.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Lines {
    /// The next line's fields.
    async fn next(&self) -> Value {
        let next = async {
            loop {
                let taken = {
                    let mut lines = self.lines.lock().unwrap();
                    (!lines.is_empty()).then(|| lines.remove(0))
                };
                match taken {
                    Some(line) => return line,
                    None => self.written.notified().await,
                }
            }
        };
        let next = tokio::time::timeout(loopback::PATIENCE, next).await;
        let line = next.expect("a line is written");
        assert_eq!(
            (&line["level"], &line["target"]),
            (&json!("INFO"), &json!("access"))
        );
        line["fields"].clone()
    }
}

/// Holds the fields of a line against those expected; `null` stands for one that must be missing.
fn assert_line(line: &Value, expected: &Value) {
    for (field, value) in expected.as_object().unwrap() {
        let found = line.get(field).unwrap_or(&Value::Null);
        assert_eq!(found, value, "{field} of {line}");
    }
}

#[tokio::test]
async fn each_request_is_one_line() {
    let lines = Lines::default();
    tracing_subscriber::fmt()
        .json()
        .with_writer(lines.clone())
        .init();
    let mirror = Mirror::with(Setup {
        blobs: Blobs::Files,
        ..Setup::default()
    })
    .await;
    let app = repository("org/app");
    let (manifest, layer) = add_image(&mirror.quay, &app, "v", "layer");

    let mut client = mirror.connect().await;
    let headers = ["User-Agent: containerd/2.1", "Authorization: Bearer secret"];
    let target = "/v2/org/app/manifests/v?ns=quay.io&token=secret";
    client.get(target, &headers).await;
    let line = lines.next().await;
    let size = client.request("HEAD", target, &[]).await.length();
    assert_line(
        &line,
        &json!({
            "method": "GET", "route": "manifest", "upstream": "quay.io", "repository": "org/app",
            "reference": "v", "range": null, "status": 200, "cache_status": "miss",
            "cache_detail": null, "bytes": size, "user_agent": "containerd/2.1", "aborted": null,
            "error": null,
        }),
    );
    assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(line["duration_ms"].as_f64().unwrap() > 0.0);
    assert!(!line.to_string().contains("secret"), "{line}");
    assert_line(
        &lines.next().await,
        &json!({ "method": "HEAD", "status": 200, "bytes": 0, "cache_status": "revalidated",
            "user_agent": null, "aborted": null }),
    );

    let blob = format!("/v2/quay.io/org/app/blobs/{layer}");
    client
        .get(&blob, &["Range: bytes=1-2", "User-Agent: a\tb"])
        .await;
    assert_line(
        &lines.next().await,
        &json!({ "route": "blob", "upstream": "quay.io", "repository": "org/app",
            "reference": layer.to_string(), "range": "bytes=1-2", "status": 206, "bytes": 2,
            "user_agent": "a?b", "aborted": null }),
    );

    // Errors: of the request, and of an upstream with its cause.
    client.get("/v2/App/manifests/v", &[]).await;
    let error = lines.next().await;
    assert_line(
        &error,
        &json!({ "route": "none", "repository": null, "status": 400, "cache_status": "error",
            "cache_detail": "name", "error": null }),
    );
    assert!(error["bytes"].as_u64().unwrap() > 0);
    let what = "refused".to_owned();
    let down = UpstreamError::Unavailable { what, source: None };
    mirror.quay.set_down(Some(down));
    client.get("/v2/org/none/manifests/v?ns=quay.io", &[]).await;
    let error = lines.next().await;
    assert_line(
        &error,
        &json!({ "status": 502, "cache_detail": "upstream-unavailable" }),
    );
    assert!(
        error["error"].as_str().unwrap().contains("refused"),
        "{error}"
    );
    client
        .get(&format!("/v2/org/app/manifests/{manifest}?ns=quay.io"), &[])
        .await;
    assert_line(
        &lines.next().await,
        &json!({ "status": 200, "cache_status": "hit" }),
    );
    mirror.quay.set_down(None);
    client.get("/v2/", &[]).await;
    assert_line(
        &lines.next().await,
        &json!({ "route": "ping", "upstream": null, "bytes": 2 }),
    );

    aborted(&mirror, &lines).await;
    broken(&mirror, &lines).await;
    for sendfile in [true, false] {
        from_files(&lines, sendfile).await;
    }
}

/// Clients that leave: before the answer, and within it.
async fn aborted(mirror: &Mirror, lines: &Lines) {
    let app = repository("org/app");
    let gate = Gate::new();
    mirror.quay.once(Call::Tags, Act::Wait(gate.clone()));
    let mut client = mirror.connect().await;
    client
        .send(request("GET", "/v2/org/app/tags/list?ns=quay.io", &[]).as_bytes())
        .await;
    while mirror.quay.calls().tags == 0 {
        tokio::task::yield_now().await;
    }
    drop(client);
    assert_line(
        &lines.next().await,
        &json!({ "route": "tags", "status": 499, "bytes": 0, "aborted": true }),
    );
    let bytes = sample(200_000, 1);
    let digest = mirror.quay.add_blob(&app, bytes.clone());
    let pieces = vec![Piece::Bytes(bytes.slice(..100_000)), Piece::Wait(gate)];
    let script = BodyScript::new(Some(200_000), pieces);
    mirror.quay.once(Call::Blob, Act::Body(script));
    let mut client = mirror.connect().await;
    let target = format!("/v2/org/app/blobs/{digest}?ns=quay.io");
    client.send(request("GET", &target, &[]).as_bytes()).await;
    client.head().await;
    assert_eq!(client.bytes(100_000).await.len(), 100_000);
    drop(client);
    // Exactly what has left, not what was read ahead.
    assert_line(
        &lines.next().await,
        &json!({ "status": 200, "bytes": 100_000, "aborted": true, "error": null }),
    );
}

/// A body that the mirror could not go on with is not the client's doing.
async fn broken(mirror: &Mirror, lines: &Lines) {
    // Not one that the download would be gone on with after.
    let what = "refused".to_owned();
    let error = UpstreamError::Protocol { what };
    let bytes = sample(200_000, 2);
    let digest = mirror.quay.add_blob(&repository("org/app"), bytes.clone());
    let gate = Gate::new();
    let pieces = vec![
        Piece::Bytes(bytes.slice(..100_000)),
        Piece::Wait(gate.clone()),
        Piece::Fail(error),
    ];
    let script = BodyScript::new(Some(200_000), pieces);
    mirror.quay.once(Call::Blob, Act::Body(script));
    let mut client = mirror.connect().await;
    let target = format!("/v2/org/app/blobs/{digest}?ns=quay.io");
    client.send(request("GET", &target, &[]).as_bytes()).await;
    client.head().await;
    client.bytes(100_000).await;
    gate.open();
    client.rest().await;
    let line = lines.next().await;
    assert_line(
        &line,
        &json!({ "status": 200, "bytes": 100_000, "aborted": null }),
    );
    assert!(
        line["error"].as_str().unwrap().contains("refused"),
        "{line}"
    );
}

/// Bodies that stand in files: whole, left by the client, and cut under the mirror's feet.
async fn from_files(lines: &Lines, sendfile: bool) {
    let bytes = sample(16 << 20, 3);
    let with = async |blobs: Blobs| {
        let mirror = Mirror::with(Setup {
            blobs,
            sendfile: Some(sendfile),
            ..Setup::default()
        })
        .await;
        let digest = mirror
            .docker
            .add_blob(&repository("org/app"), bytes.clone());
        let target = format!("/v2/org/app/blobs/{digest}");
        // Fills it.
        mirror.get(&target).await;
        lines.next().await;
        (mirror, target)
    };
    let (mirror, target) = with(Blobs::Files).await;
    let mut client = mirror.connect().await;
    client.get(&target, &[]).await;
    client.get(&target, &["Range: bytes=5-6"]).await;
    for sent in [bytes.len(), 2] {
        assert_line(
            &lines.next().await,
            &json!({ "cache_status": "hit", "bytes": sent, "aborted": null, "error": null }),
        );
    }
    let mut client = mirror.connect().await;
    client.send(request("GET", &target, &[]).as_bytes()).await;
    client.head().await;
    client.bytes(100_000).await;
    drop(client);
    let line = lines.next().await;
    assert_line(&line, &json!({ "aborted": true, "error": null }));
    let sent = line["bytes"].as_u64().unwrap();
    assert!((100_000..16 << 20).contains(&sent), "{line}");

    for left in [0, 1 << 20, (16 << 20) - 1] {
        let (mirror, target) = with(Blobs::CutFiles(left)).await;
        let mut client = mirror.connect().await;
        client.send(request("GET", &target, &[]).as_bytes()).await;
        client.head().await;
        assert_eq!(client.rest().await.len() as u64, left);
        let line = lines.next().await;
        assert_line(
            &line,
            &json!({ "status": 200, "bytes": left, "aborted": null }),
        );
        assert!(line["error"].is_string(), "{line}");
    }
}
