//! What a fixture registry puts on the wire, looked at byte by byte.

use std::io::ErrorKind;
use std::time::Duration;

use http::Method;
use registry_core::{Algorithm, Digest, Hasher, Manifest, MediaType};
use registry_server::testing::{
    Behaviour, BlobRedirect, Fault, FixtureRegistry, Gate, ImageFormat, ImageSpec, Match, Object,
    Times, TokenAuth,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Everything that came over one connection.
#[derive(Debug)]
struct Raw {
    status: u16,
    head: String,
    body: Vec<u8>,
    /// It ended by RST and not by FIN.
    reset: bool,
}

impl Raw {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (candidate, value) = line.split_once(": ")?;
            candidate.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    fn digest(&self) -> Digest {
        Hasher::digest_of(Algorithm::Sha256, &self.body)
    }
}

async fn connect(registry: &FixtureRegistry, method: &str, target: &str, more: &str) -> TcpStream {
    let mut stream = TcpStream::connect(registry.address())
        .await
        .expect("it listens");
    let request =
        format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n");
    let written = stream.write_all(request.as_bytes()).await;
    written.expect("it takes a request");
    stream
}

async fn ask(registry: &FixtureRegistry, method: &str, target: &str, more: &str) -> Raw {
    let mut stream = connect(registry, method, target, more).await;
    let mut bytes = Vec::new();
    let reset = match stream.read_to_end(&mut bytes).await {
        Ok(_) => false,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
        Err(error) => panic!("{error}"),
    };
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.map_or(bytes.len(), |at| at + 4);
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Raw {
        status: status.unwrap_or_default(),
        head,
        body: bytes[end..].to_vec(),
        reset,
    }
}

async fn get(registry: &FixtureRegistry, target: &str) -> Raw {
    ask(registry, "GET", target, "").await
}

#[tokio::test]
async fn an_image_can_be_pulled_by_tag() {
    for format in [ImageFormat::Oci, ImageFormat::Docker] {
        let registry = FixtureRegistry::start().await;
        let spec = ImageSpec::new(1)
            .format(format)
            .platforms(&["linux/amd64", "linux/arm64"])
            .layers(&[100_000, 0])
            .archives(&[500]);
        let image = registry.add_image("library/app", "latest", &spec);
        let root = image.root();
        for method in ["HEAD", "GET"] {
            let answer = ask(&registry, method, "/v2/library/app/manifests/latest", "").await;
            assert_eq!(answer.status, 200);
            assert_eq!(
                answer.header("content-type"),
                Some(root.media_type.as_str())
            );
            assert_eq!(
                answer.header("docker-content-digest"),
                Some(root.digest.to_string().as_str())
            );
            assert_eq!(
                answer.header("content-length"),
                Some(root.size.to_string().as_str())
            );
            if method == "HEAD" {
                assert!(answer.body.is_empty());
            } else {
                assert_eq!(answer.digest(), root.digest);
            }
        }
        for manifest in &image.manifests {
            let path = format!("/v2/library/app/manifests/{}", manifest.digest);
            let body = get(&registry, &path).await.body;
            let manifest = Manifest::verify(None, body.into(), manifest.digest).unwrap();
            assert_eq!(manifest.links().len(), 1 + 3);
        }
        for blob in image.blobs() {
            let answer = get(&registry, &format!("/v2/library/app/blobs/{}", blob.digest)).await;
            assert_eq!((answer.status, answer.digest()), (200, blob.digest));
            assert_eq!(registry.blob_bytes_sent(&blob.digest), blob.size);
            assert_eq!(registry.bytes(&blob.digest).unwrap(), answer.body);
        }
        assert_eq!(registry.count(Method::HEAD, Object::ManifestByTag), 1);
        assert_eq!(registry.count(Method::GET, Object::ManifestByTag), 1);
        assert_eq!(registry.count(Method::GET, Object::ManifestByDigest), 2);
        assert_eq!(
            registry.count(Method::GET, Object::Blob),
            image.blobs().count() as u64
        );
    }
}

#[tokio::test]
async fn what_is_not_there_is_404_and_what_is_elsewhere_too() {
    let registry = FixtureRegistry::start().await;
    let blob = registry.add_blob("one/app", 1, 10).digest;
    registry.add_image("two/app", "latest", &ImageSpec::new(1));
    for (path, code) in [
        (
            "/v2/one/app/manifests/latest".to_owned(),
            "MANIFEST_UNKNOWN",
        ),
        (format!("/v2/two/app/blobs/{blob}"), "BLOB_UNKNOWN"),
        ("/v2/three/tags/list".to_owned(), "NAME_UNKNOWN"),
        ("/v3/".to_owned(), "UNSUPPORTED"),
    ] {
        let answer = get(&registry, &path).await;
        assert_eq!(answer.status, 404, "{path}");
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(body["errors"][0]["code"], code, "{path}");
    }
    assert_eq!(
        ask(&registry, "POST", "/v2/one/app/blobs/uploads/", "")
            .await
            .status,
        405
    );
}

#[tokio::test]
async fn tags_move_and_go_and_are_confirmed_by_etag() {
    let registry = FixtureRegistry::start().await;
    let old = registry.add_image("app", "latest", &ImageSpec::new(1));
    let new = registry.add_image("app", "next", &ImageSpec::new(2));
    let condition = format!("If-None-Match: \"{}\"\r\n", old.root().digest);
    let path = "/v2/app/manifests/latest";
    assert_eq!(ask(&registry, "HEAD", path, &condition).await.status, 304);
    registry.move_tag("app", "latest", new.root().digest);
    assert_eq!(ask(&registry, "HEAD", path, &condition).await.status, 200);
    assert_eq!(get(&registry, path).await.digest(), new.root().digest);
    registry.delete_tag("app", "latest");
    assert_eq!(get(&registry, path).await.status, 404);
}

#[tokio::test]
async fn single_ranges_are_served() {
    let registry = FixtureRegistry::start().await;
    let blob = registry.add_blob("app", 1, 200_000);
    let whole = registry.bytes(&blob.digest).unwrap();
    let path = format!("/v2/app/blobs/{}", blob.digest);
    for (range, status, part, content_range) in [
        ("bytes=0-0", 206, 0..1, Some("bytes 0-0/200000")),
        (
            "bytes=65530-65545",
            206,
            65_530..65_546,
            Some("bytes 65530-65545/200000"),
        ),
        (
            "bytes=199999-",
            206,
            199_999..200_000,
            Some("bytes 199999-199999/200000"),
        ),
        (
            "bytes=-3",
            206,
            199_997..200_000,
            Some("bytes 199997-199999/200000"),
        ),
        ("bytes=5-1", 200, 0..200_000, None),
        ("bytes=0-1,4-5", 200, 0..200_000, None),
    ] {
        let answer = ask(&registry, "GET", &path, &format!("Range: {range}\r\n")).await;
        assert_eq!(answer.status, status, "{range}");
        assert_eq!(answer.header("content-range"), content_range, "{range}");
        assert!(answer.body == whole[part], "{range}");
    }
    let answer = ask(&registry, "GET", &path, "Range: bytes=200000-\r\n").await;
    assert_eq!(answer.status, 416);
    assert_eq!(answer.header("content-range"), Some("bytes */200000"));
    let ranges = registry.requests();
    assert_eq!(ranges[0].range(), Some("bytes=0-0"));
    assert_eq!(
        (ranges[0].object, ranges[0].status),
        (Object::Blob, Some(206))
    );
}

#[tokio::test]
async fn tags_are_listed_in_pages() {
    let registry = FixtureRegistry::start().await;
    for tag in ["a", "b", "c"] {
        registry.add_image("app", tag, &ImageSpec::new(1));
    }
    let page = |target: &'static str| async {
        let answer = get(&registry, target).await;
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let link = answer.header("link").map(ToOwned::to_owned);
        (body["tags"].to_string(), link)
    };
    let next = |link: &str| Some(format!("<{link}>; rel=\"next\""));
    assert_eq!(
        page("/v2/app/tags/list").await,
        (r#"["a","b","c"]"#.to_owned(), None)
    );
    assert_eq!(
        page("/v2/app/tags/list?n=2").await,
        (
            r#"["a","b"]"#.to_owned(),
            next("/v2/app/tags/list?n=2&last=b")
        )
    );
    assert_eq!(
        page("/v2/app/tags/list?n=2&last=b").await,
        (r#"["c"]"#.to_owned(), None)
    );
    registry.behave(|behaviour| behaviour.tags_page_max = Some(1));
    assert_eq!(
        page("/v2/app/tags/list?n=2&last=a").await,
        (r#"["b"]"#.to_owned(), next("/v2/app/tags/list?n=1&last=b"))
    );
}

#[tokio::test]
async fn bodies_go_wrong_as_scripted() {
    const SIZE: usize = 200_000;
    let registry = FixtureRegistry::start().await;
    let blob = registry.add_blob("app", 1, SIZE as u64);
    let whole = registry.bytes(&blob.digest).unwrap();
    let path = format!("/v2/app/blobs/{}", blob.digest);
    // Each: how much comes, of which so many bytes are right; what is declared; how it ends.
    for (fault, comes, right, declared, reset) in [
        (
            Fault::WrongBytes { offset: 70_000 },
            SIZE,
            70_000,
            SIZE,
            false,
        ),
        (Fault::Short { after: 0 }, 0, 0, SIZE, false),
        (Fault::Short { after: 70_001 }, 70_001, 70_001, SIZE, false),
        (Fault::Reset { after: 3 }, 3, 3, SIZE, true),
        (Fault::TooMany { extra: 7 }, SIZE + 7, SIZE, SIZE + 7, false),
        (
            Fault::Several(vec![
                Fault::WrongBytes { offset: 5 },
                Fault::Short { after: 10 },
            ]),
            10,
            5,
            SIZE,
            false,
        ),
        (
            Fault::Trickle {
                after: SIZE as u64 - 3,
                interval: Duration::from_millis(1),
            },
            SIZE,
            SIZE,
            SIZE,
            false,
        ),
        (Fault::WrongLength { declared: 5 }, SIZE, SIZE, 5, false),
        (
            Fault::WrongLength { declared: 300_000 },
            SIZE,
            SIZE,
            300_000,
            false,
        ),
    ] {
        let name = format!("{fault:?}");
        registry.fault(Match::blob(blob.digest), Times::Once, fault);
        let answer = get(&registry, &path).await;
        assert_eq!(answer.status, 200, "{name}");
        let length = answer.header("content-length").unwrap();
        assert_eq!(length, declared.to_string(), "{name}");
        assert_eq!((answer.body.len(), answer.reset), (comes, reset), "{name}");
        let equal = answer.body.iter().zip(&whole).take_while(|(a, b)| a == b);
        assert_eq!(equal.count(), right, "{name}");
        assert_eq!(registry.faults_left(), 0, "{name}");
        assert_eq!(get(&registry, &path).await.digest(), blob.digest, "{name}");
    }
}

#[tokio::test]
async fn answers_go_wrong_as_scripted() {
    let registry = FixtureRegistry::start().await;
    registry.add_image("app", "latest", &ImageSpec::new(1));
    let path = "/v2/app/manifests/latest";
    let open = Gate::new();
    open.open();
    for (fault, status) in [
        (Fault::status(503), 503),
        (Fault::status_with(429, &[("Retry-After", "7")]), 429),
        (Fault::headers(&[("Content-Encoding", "gzip")]), 200),
        (Fault::Gzip, 200),
        (Fault::Close, 0),
        (Fault::Garbage, 0),
        (
            Fault::Several(vec![Fault::Hold { gate: open.clone() }, Fault::status(503)]),
            503,
        ),
        (
            Fault::SlowHead {
                interval: Duration::from_micros(1),
            },
            200,
        ),
    ] {
        let name = format!("{fault:?}");
        registry.fault(Match::tag("latest"), Times::Once, fault);
        let answer = get(&registry, path).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.head);
        assert_eq!(
            answer.header("retry-after").is_some(),
            status == 429,
            "{name}"
        );
        let coded = answer.header("content-encoding") == Some("gzip");
        assert_eq!(coded, name.to_lowercase().contains("gzip"), "{name}");
        assert_eq!(get(&registry, path).await.status, 200, "{name}");
    }
}

#[tokio::test]
async fn a_gate_holds_a_body_until_it_is_opened() {
    let registry = FixtureRegistry::start().await;
    let blob = registry.add_blob("app", 1, 200_000);
    let path = format!("/v2/app/blobs/{}", blob.digest);
    let gate = Gate::new();
    let fault = Fault::HoldAfter {
        bytes: 65_536,
        gate: gate.clone(),
    };
    registry.fault(Match::blob(blob.digest), Times::Once, fault);
    let mut stream = connect(&registry, "GET", &path, "").await;
    let stats = registry.wait_for(|stats| stats.body_bytes_sent > 0).await;
    assert_eq!(stats.blob_bytes_sent(&blob.digest), 65_536);
    assert_eq!(stats.in_flight, 1);
    gate.open();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(registry.blob_bytes_sent(&blob.digest), 200_000);
    registry.wait_for(|stats| stats.in_flight == 0).await;
}

#[tokio::test]
async fn a_client_that_gives_up_is_noticed() {
    let registry = FixtureRegistry::start().await;
    let blob = registry.add_blob("app", 1, 100);
    let path = format!("/v2/app/blobs/{}", blob.digest);
    for fault in [
        Fault::BlackHole,
        Fault::Stall { after: 10 },
        Fault::Hold { gate: Gate::new() },
        Fault::HoldAfter {
            bytes: 10,
            gate: Gate::new(),
        },
    ] {
        registry.fault(Match::any(), Times::Once, fault);
        let stream = connect(&registry, "GET", &path, "").await;
        registry.wait_for(|stats| stats.in_flight == 1).await;
        drop(stream);
        registry.wait_for(|stats| stats.in_flight == 0).await;
    }
}

#[tokio::test]
async fn quirks_of_real_registries() {
    let registry = FixtureRegistry::start().await;
    let image = registry.add_image("app", "latest", &ImageSpec::new(1).layers(&[100]));
    let blob = image.layers[0].digest;
    let path = format!("/v2/app/blobs/{blob}");
    registry.behave(|behaviour| {
        *behaviour = Behaviour {
            omit_digest: true,
            omit_length: true,
            omit_etag: true,
            ignore_range: true,
            refuse_unknown_query: true,
            ..Behaviour::default()
        }
    });
    let answer = ask(&registry, "GET", &path, "Range: bytes=1-2\r\n").await;
    assert_eq!(answer.status, 200);
    for absent in ["docker-content-digest", "content-length", "etag"] {
        assert_eq!(answer.header(absent), None, "{absent}");
    }
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    let head = ask(&registry, "HEAD", &path, "").await;
    assert_eq!((head.status, head.header("content-length")), (200, None));
    assert_eq!(
        get(&registry, &format!("{path}?ns=docker.io")).await.status,
        400
    );
    registry.behave(|behaviour| behaviour.refuse_head = Some(405));
    assert_eq!(ask(&registry, "HEAD", &path, "").await.status, 405);
}

#[tokio::test]
async fn blobs_are_redirected_to_signed_storage() {
    let registry = FixtureRegistry::start().await;
    let storage = registry.start_storage().await;
    let blob = registry.add_blob("app", 1, 1000);
    let path = format!("/v2/app/blobs/{}", blob.digest);
    let redirect = BlobRedirect {
        base: Some(storage.url()),
        ..BlobRedirect::default()
    };
    registry.behave(|behaviour| behaviour.redirect_blobs = Some(redirect));
    storage.behave(|behaviour| behaviour.refuse_storage_authorization = true);
    let answer = get(&registry, &path).await;
    assert_eq!(answer.status, 307);
    let location = answer.header("location").unwrap();
    let signed = location.strip_prefix(&storage.url()).unwrap();
    assert_eq!(get(&storage, signed).await.digest(), blob.digest);
    let secret = "Authorization: Bearer x\r\n";
    assert_eq!(ask(&storage, "GET", signed, secret).await.status, 400);
    assert_eq!(ask(&storage, "HEAD", signed, "").await.status, 403);
    let unsigned = signed.split('?').next().unwrap();
    assert_eq!(get(&storage, unsigned).await.status, 403);
    assert_eq!(storage.count(Method::GET, Object::Storage), 3);
    assert_eq!(storage.blob_bytes_sent(&blob.digest), 1000);
    assert_eq!(registry.blob_bytes_sent(&blob.digest), 0);
}

#[tokio::test]
async fn tokens_are_asked_for_given_and_revoked() {
    let registry = FixtureRegistry::start().await;
    registry.add_image("app", "latest", &ImageSpec::new(1));
    registry.add_image("other", "latest", &ImageSpec::new(1));
    registry.behave(|behaviour| behaviour.token = Some(TokenAuth::default()));
    let path = "/v2/app/manifests/latest";
    let answer = get(&registry, path).await;
    let challenge = format!(
        "Bearer realm=\"{}/token\",service=\"fixture\",scope=\"repository:app:pull\"",
        registry.url()
    );
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("www-authenticate"), Some(challenge.as_str()));
    let answer = get(
        &registry,
        "/token?service=fixture&scope=repository:app:pull",
    )
    .await;
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let token = body["token"].as_str().unwrap();
    let bearer = format!("Authorization: Bearer {token}\r\n");
    assert_eq!(ask(&registry, "GET", path, &bearer).await.status, 200);
    let other = "/v2/other/manifests/latest";
    assert_eq!(ask(&registry, "GET", other, &bearer).await.status, 401);
    registry.revoke_tokens();
    assert_eq!(ask(&registry, "GET", path, &bearer).await.status, 401);
    assert_eq!(registry.count(Method::GET, Object::Token), 1);
}

#[tokio::test]
async fn a_stopped_registry_refuses_connections_and_comes_back() {
    let registry = FixtureRegistry::start().await;
    registry.add_manifest("app", Some("odd"), MediaType::OCI_INDEX, "not JSON");
    let path = "/v2/app/manifests/odd";
    assert_eq!(get(&registry, path).await.body, b"not JSON");
    for _ in 0..3 {
        registry.stop().await;
        let refused = TcpStream::connect(registry.address()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        registry.restart().await;
        assert_eq!(get(&registry, path).await.status, 200);
    }
    registry.reset_counters();
    assert_eq!((registry.total(), registry.requests().len()), (0, 0));
    let address = registry.address();
    drop(registry);
    // The task that accepts ends in its own time.
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn bandwidth_and_latency_are_limited() {
    let registry = FixtureRegistry::start().await;
    let blob = registry.add_blob("app", 1, 1000);
    registry.behave(|behaviour| {
        behaviour.latency = Duration::from_millis(20);
        behaviour.bytes_per_second = Some(10_000);
    });
    let begin = std::time::Instant::now();
    let answer = get(&registry, &format!("/v2/app/blobs/{}", blob.digest)).await;
    assert_eq!(answer.digest(), blob.digest);
    // At least 20 ms, and four pauses of 20 ms between five chunks of 200 bytes.
    assert!(
        begin.elapsed() >= Duration::from_millis(100),
        "{:?}",
        begin.elapsed()
    );
}
