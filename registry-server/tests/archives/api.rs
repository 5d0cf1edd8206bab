//! The same over HTTP: `POST /api/v1/export` and `/api/v1/import`.

use std::time::Duration;

use futures::StreamExt as _;
use http::{Method, StatusCode};
use registry_core::{Caller, Tag, TagStore as _};
use registry_server::api::{ExportReport, ImportReport, Problem};
use registry_server::testing::{Fault, FixtureRegistry, ImageSpec, Match, Times};
use reqwest::{Body, Client, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Held, REPOSITORY, everything, in_pieces, origin, tag};

fn client() -> Client {
    // Tests give no certificates to anybody.
    let config = rustls::ClientConfig::builder_with_provider(
        rustls::crypto::ring::default_provider().into(),
    );
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let client = Client::builder().tls_backend_preconfigured(config);
    client.no_proxy().build().unwrap()
}

fn url(held: &Held, path: &str) -> String {
    format!("http://{}/api/v1/{path}", held.mirror.admin_addr().unwrap())
}

async fn export(held: &Held, document: &Value) -> Response {
    let request = client().post(url(held, "export"));
    let request = request.header("content-type", "application/json");
    request.body(document.to_string()).send().await.unwrap()
}

async fn import(held: &Held, query: &str, archive: impl Into<Body>) -> Response {
    let request = client().post(url(held, &format!("import{query}")));
    request.body(archive).send().await.unwrap()
}

async fn document<T: serde::de::DeserializeOwned>(response: Response) -> T {
    let bytes = response.bytes().await.unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

async fn registry() -> FixtureRegistry {
    let registry = FixtureRegistry::start().await;
    let spec = ImageSpec::new(1)
        .platforms(&["linux/amd64", "linux/arm64"])
        .layers(&[200_000, 10]);
    registry.add_image(REPOSITORY, "1.0", &spec);
    registry
}

#[tokio::test]
async fn an_archive_goes_out_and_in() {
    let registry = registry().await;
    let near = Held::of(&registry.url()).await;
    let mut request = json!({"images": [format!("{REPOSITORY}:1.0")], "all_platforms": true});
    request["dry_run"] = json!(true);
    let report: ExportReport = document(export(&near, &request).await).await;
    assert_eq!(report.images[0].platforms, ["linux/amd64", "linux/arm64"]);
    request["dry_run"] = json!(false);
    let answer = export(&near, &request).await;
    assert_eq!(answer.headers()["content-type"], "application/x-tar");
    assert_eq!(answer.content_length(), Some(report.bytes));
    let archive = answer.bytes().await.unwrap();
    assert!(
        archive == near.export(&everything("1.0")).await,
        "the same as without HTTP"
    );

    let far = Held::offline().await;
    // Without a length: as it comes out of a pipe.
    let chunked = Body::wrap_stream(in_pieces(&archive));
    let report: ImportReport = document(import(&far, "", chunked).await).await;
    assert_eq!(report.failures, []);
    assert_eq!(report.images.len(), 1);
    let (here, name) = (origin(), tag("1.0"));
    let cache = far.mirror.cache();
    cache
        .manifest(&here, &name, &Caller::Anonymous)
        .await
        .unwrap();
    // Under another name, all of it is held already.
    let answer = import(&far, "?as=library/other:2", archive).await;
    let report: ImportReport = document(answer).await;
    assert_eq!(report.bytes, 0, "{report:?}");
    assert!(report.images[0].name.ends_with("/library/other:2"));
}

#[tokio::test]
async fn what_cannot_be_done_is_a_problem_that_says_why() {
    let registry = registry().await;
    let near = Held::of(&registry.url()).await;
    let image = format!("{REPOSITORY}:1.0");
    for (request, status, says) in [
        (json!({"images": []}), 400, "at least one image"),
        (json!({"images": ["a b"]}), 400, "white space"),
        (
            json!({"images": [image], "platform": "x"}),
            400,
            "unknown field",
        ),
        (
            json!({"images": [image], "platforms": ["x"]}),
            400,
            "not a platform",
        ),
        (
            json!({"images": [image], "platforms": ["linux/amd64"], "all_platforms": true}),
            400,
            "different things",
        ),
        (
            json!({"images": [image], "platforms": ["linux/s390x"]}),
            404,
            "linux/amd64, linux/arm64",
        ),
        (
            json!({"images": [image], "held_only": true}),
            404,
            "is not held",
        ),
        (json!({"images": ["library/none:1"]}), 404, "cannot be had"),
        (
            json!({"images": ["other.example/a:1"]}),
            404,
            "no such upstream",
        ),
    ] {
        let answer = export(&near, &request).await;
        assert_eq!(answer.status().as_u16(), status, "{request}");
        let problem: Problem = document(answer).await;
        assert!(problem.message.contains(says), "{request}: {problem:?}");
    }
    let archive = near.export(&everything("1.0")).await;
    let cut = archive[..archive.len() / 2].to_vec();
    for (query, body, status, says) in [
        ("", b"no tar".repeat(1_000), 422, "no tar"),
        ("", cut, 422, "cut short"),
        ("?as=a%20b", archive.clone(), 400, "white space"),
        (
            "?as=other.example/a:1",
            archive.clone(),
            422,
            "is not configured",
        ),
        ("?name=x", archive, 400, "no parameter"),
    ] {
        let far = Held::offline().await;
        let answer = import(&far, query, body).await;
        assert_eq!(answer.status().as_u16(), status, "{query} {says}");
        let problem: Problem = document(answer).await;
        assert!(problem.message.contains(says), "{query}: {problem:?}");
        far.await_empty().await;
    }
}

/// A layer that turns out not to be had ends the archive short of its length.
#[tokio::test]
async fn an_export_that_breaks_off_is_seen_to() {
    let registry = registry().await;
    let near = Held::of(&registry.url()).await;
    let failing = Match::any().with_method(Method::GET);
    let plan = everything("1.0");
    let archive = near.begin_export(&plan).await.unwrap();
    let length = archive.length;
    drop(archive);
    registry.fault(failing, Times::Always, Fault::status(404));
    let request =
        json!({"images": [format!("{REPOSITORY}:1.0")], "all_platforms": true, "attached": false});
    let answer = export(&near, &request).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.content_length().unwrap() <= length);
    let mut body = answer.bytes_stream();
    let mut last = None;
    while let Some(chunk) = body.next().await {
        last = Some(chunk);
    }
    assert!(last.unwrap().is_err(), "it is short of its Content-Length");
}

/// The client is gone in the middle of its archive.
#[tokio::test]
async fn an_import_whose_client_leaves_leaves_nothing() {
    let registry = registry().await;
    let near = Held::of(&registry.url()).await;
    let archive = near.export(&everything("1.0")).await;
    let far = Held::offline().await;
    let admin = far.mirror.admin_addr().unwrap();
    let mut stream = TcpStream::connect(admin).await.unwrap();
    let head = format!(
        "POST /api/v1/import HTTP/1.1\r\nHost: {admin}\r\nContent-Length: {}\r\n\r\n",
        archive.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
        .write_all(&archive[..archive.len() - 2_000])
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(30), reading)
        .await
        .unwrap();
    let named = Tag::parse("1.0").unwrap();
    assert_eq!(
        far.store.inner().tag(&origin(), &named).await.unwrap(),
        None
    );
    far.await_empty().await;
}
