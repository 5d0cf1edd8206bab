//! Whatever a client sends, it gets the specification's JSON with a code and advice, and the mirror
//! goes on. Nothing of it reaches an upstream.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "loopback/mod.rs"]
mod loopback;

use loopback::{Client, Mirror, Response, add_image, repository, request};

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Words that a message gives its advice with.
const ADVICE: [&str; 12] = [
    "write ",
    "ask ",
    "send ",
    "pull ",
    "check ",
    "configure ",
    "push ",
    "speak ",
    "come back",
    "paths are",
    "has /healthz",
    "try again",
];

/// What is sent, and the status and code that come back.
struct Case {
    sent: Vec<u8>,
    status: u16,
    code: &'static str,
}

fn raw(sent: impl Into<Vec<u8>>, status: u16, code: &'static str) -> Case {
    Case {
        sent: sent.into(),
        status,
        code,
    }
}

fn get(target: &str, status: u16, code: &'static str) -> Case {
    raw(request("GET", target, &[]), status, code)
}

fn with(target: &str, headers: &[&str], status: u16, code: &'static str) -> Case {
    raw(request("GET", target, headers), status, code)
}

fn method(method: &str, target: &str) -> Case {
    raw(request(method, target, &[]), 405, "UNSUPPORTED")
}

/// Registries in `ns` that are not configured, and texts that are no registry's name.
fn namespaces() -> Vec<Case> {
    let unknown = [
        "unknown.example",
        "10.0.0.1",
        "192.168.1.1%3A5000",
        "169.254.169.254",
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "[::1]%3A5000",
        "[fd00:ec2::254]",
        "::1",
        "localhost",
        "quay.io%3A5000",
        "evil-quay.io",
    ];
    let invalid = [
        "",
        "%20",
        "quay.io&ns=quay.io",
        "quay.io&ns=docker.io",
        "user@quay.io",
        "user%3Apassword%40quay.io",
        "https%3A%2F%2Fquay.io",
        "quay.io%2Forg",
        "quay.io%23fragment",
        "quay.io%3Fquery",
        "quay.io.",
        "..",
        "quay..io",
        "quay.io%00",
        "quay.io%0D%0AHost%3A%20evil",
        "quay.io%7F",
        "qu%C3%A4y.io",
        "%FF%FE",
        "quay.io%3A",
        "quay.io%3A0",
        "quay.io%3A99999",
        "-quay.io",
        "%5C%5Cquay.io",
    ];
    let target = |ns: &&str| format!("/v2/org/app/manifests/latest?ns={ns}");
    let long = format!("/v2/org/app/manifests/latest?ns={}", "a.".repeat(200));
    let unknown = unknown.iter().map(target);
    let invalid = invalid.iter().map(target).chain([long]);
    unknown
        .map(|target| get(&target, 404, "NAME_UNKNOWN"))
        .chain(invalid.map(|target| get(&target, 400, "NAME_INVALID")))
        .chain([
            get("/v2/?ns=unknown.example", 404, "NAME_UNKNOWN"),
            get("/v2/_catalog?ns=unknown.example", 404, "NAME_UNKNOWN"),
            get(
                "/v2/unknown.example:5000/app/manifests/latest",
                404,
                "NAME_UNKNOWN",
            ),
        ])
        .collect()
}

/// Paths that climb, hide slashes, or are not names.
fn names() -> Vec<Case> {
    let invalid = [
        "/../etc/passwd",
        "/v2/../../etc/passwd",
        "/v2/org/../../../etc/manifests/latest",
        "/v2/./app/manifests/latest",
        "/v2/%2e%2e/app/manifests/latest",
        "/v2/%2E%2E%2Fapp/manifests/latest",
        "/v2/..%2f..%2fetc%2fpasswd/manifests/latest",
        "/v2/..%5c..%5cetc/manifests/latest",
        "/v2/%252e%252e/app/manifests/latest",
        "/v2/org%2Fapp/manifests/latest",
        "/v2/org%252Fapp/manifests/latest",
        "/v2/org\\app/manifests/latest",
        "/v2//app/manifests/latest",
        "/v2/org//app/manifests/latest",
        "/v2/app%00/manifests/latest",
        "/v2/app%0d%0aX-Evil:%201/manifests/latest",
        "/v2/%c0%ae%c0%ae/app/manifests/latest",
        "/v2/%e3%81%82/manifests/latest",
        "/v2/app%/manifests/latest",
        "/v2/app%zz/manifests/latest",
        "/v2/App/manifests/latest",
        "/v2/ORG/APP/manifests/latest",
        "/v2/-app/manifests/latest",
        "/v2/app-/manifests/latest",
        "/v2/a..b/manifests/latest",
        "/v2/a___b/manifests/latest",
        "/v2/a@b/manifests/latest",
        "/v2/a:b:c/manifests/latest",
        "/v2/manifests/latest",
        "/v2/tags/list",
        "/v2/quay.io/manifests/latest",
        "/v2/org/app/manifests/..",
        "/v2/org/app/blobs/..%2f..%2fpasswd",
    ];
    let long = format!("/v2/{}/manifests/latest", "a".repeat(256));
    let invalid = invalid.into_iter().map(str::to_owned).chain([long]);
    invalid
        .map(|target| get(&target, 400, "NAME_INVALID"))
        .collect()
}

/// References that are none.
fn references() -> Vec<Case> {
    let upper = HEX.to_uppercase();
    vec![
        get("/v2/org/app/blobs/sha256:short", 400, "DIGEST_INVALID"),
        get("/v2/org/app/blobs/latest", 400, "DIGEST_INVALID"),
        get("/v2/org/app/blobs/", 400, "DIGEST_INVALID"),
        get(
            &format!("/v2/org/app/blobs/sha256:{upper}"),
            400,
            "DIGEST_INVALID",
        ),
        get(
            &format!("/v2/org/app/blobs/SHA256:{HEX}"),
            400,
            "DIGEST_INVALID",
        ),
        get(
            &format!("/v2/org/app/blobs/sha256:{HEX}0"),
            400,
            "DIGEST_INVALID",
        ),
        get(
            &format!("/v2/org/app/blobs/sha256:{}", &HEX[1..]),
            400,
            "DIGEST_INVALID",
        ),
        get(
            &format!("/v2/org/app/blobs/sha512:{HEX}"),
            400,
            "DIGEST_INVALID",
        ),
        get(
            &format!("/v2/org/app/blobs/sha256:{HEX}/x"),
            400,
            "DIGEST_INVALID",
        ),
        get(
            "/v2/org/app/blobs/md5:d41d8cd98f00b204",
            404,
            "BLOB_UNKNOWN",
        ),
        get(
            &format!("/v2/org/app/blobs/blake3:{HEX}"),
            404,
            "BLOB_UNKNOWN",
        ),
        get(
            "/v2/org/app/manifests/sha256:baddigest",
            400,
            "DIGEST_INVALID",
        ),
        get("/v2/org/app/manifests/sha256:", 400, "DIGEST_INVALID"),
        get(
            &format!("/v2/org/app/manifests/blake3:{HEX}"),
            404,
            "MANIFEST_UNKNOWN",
        ),
        get("/v2/org/app/manifests/", 404, "MANIFEST_UNKNOWN"),
        get("/v2/org/app/manifests/.hidden", 404, "MANIFEST_UNKNOWN"),
        get("/v2/org/app/manifests/-dash", 404, "MANIFEST_UNKNOWN"),
        get("/v2/org/app/manifests/a+b", 404, "MANIFEST_UNKNOWN"),
        get("/v2/org/app/manifests/a/b", 404, "MANIFEST_UNKNOWN"),
        get(
            &format!("/v2/org/app/manifests/{}", "a".repeat(129)),
            404,
            "MANIFEST_UNKNOWN",
        ),
        get("/v2/org/app/referrers/sha256:short", 400, "DIGEST_INVALID"),
        get(
            &format!("/v2/org/app/referrers/sha256:{HEX}?last=v1"),
            400,
            "DIGEST_INVALID",
        ),
        get(
            &format!("/v2/org/app/referrers/sha256:{HEX}?artifactType=a%2Fb&artifactType=c%2Fd"),
            400,
            "UNSUPPORTED",
        ),
        // Not NAME_UNKNOWN: clients would not ask for the fallback tag then.
        get("/v2/org/app/referrers/blake3:00", 404, "UNSUPPORTED"),
    ]
}

/// Paths and methods that a mirror has not.
fn elsewhere() -> Vec<Case> {
    let paths = [
        "/",
        "/v1/",
        "/v2x",
        "/V2/",
        "/v2/org",
        "/v2/org/app",
        "/v2/org/app/tags",
        "/v2/org/app/tags/list/",
        "/v2/_catalog/",
        "/healthz",
        "/metrics",
        "/favicon.ico",
        "/token",
    ];
    let paths = paths.into_iter().map(|path| get(path, 404, "UNSUPPORTED"));
    let uploads = [
        "/v2/org/app/blobs/uploads/",
        "/v2/org/app/blobs/uploads/1-2",
    ];
    let uploads = uploads
        .into_iter()
        .map(|path| get(path, 404, "BLOB_UPLOAD_UNKNOWN"));
    let upload = "/v2/org/app/blobs/uploads/";
    let manifest = "/v2/org/app/manifests/latest";
    paths
        .chain(uploads)
        .chain([
            method("POST", upload),
            method("PATCH", "/v2/org/app/blobs/uploads/1-2"),
            method("PUT", manifest),
            method("DELETE", manifest),
            method("OPTIONS", manifest),
            method("TRACE", "/v2/"),
            method("BREW", "/v2/"),
            method("get", "/v2/"),
            raw("PUT /v2/org/app/manifests/latest HTTP/1.1\r\nHost: m\r\nContent-Length: 2\r\n\r\n{}",
                405, "UNSUPPORTED"),
            raw("POST /v2/org/app/blobs/uploads/ HTTP/1.1\r\nHost: m\r\nContent-Length: 0\r\n\r\n",
                405, "UNSUPPORTED"),
            raw("CONNECT evil.example:443 HTTP/1.1\r\nHost: m\r\n\r\n", 404, "UNSUPPORTED"),
            raw("OPTIONS * HTTP/1.1\r\nHost: m\r\n\r\n", 404, "UNSUPPORTED"),
            raw("GET http://evil.example/ HTTP/1.1\r\nHost: m\r\n\r\n", 404, "UNSUPPORTED"),
        ])
        .collect()
}

/// Pages and ranges that are none, or too many.
fn queries() -> Vec<Case> {
    let sizes = ["", "-1", "%2B1", "1.5", "ten", "1&n=2", "0x10", "%00"];
    let sizes = sizes.into_iter().map(|n| {
        get(
            &format!("/v2/org/app/tags/list?n={n}"),
            400,
            "PAGINATION_NUMBER_INVALID",
        )
    });
    let ranges: Vec<_> = (0..65).map(|i| format!("{0}-{0}", i * 2)).collect();
    let ranges = format!("Range: bytes={}", ranges.join(","));
    let long: Vec<_> = (0..1024)
        .map(|i| format!("{0}-{0}", 10_000_000_000u64 + i * 2))
        .collect();
    let long = format!("Range: bytes={}", long.join(","));
    let blob = format!("/v2/org/app/blobs/sha256:{HEX}");
    sizes
        .chain([
            get("/v2/org/app/tags/list?last=a%20b", 400, "TAG_INVALID"),
            get("/v2/org/app/tags/list?last=..%2Fx", 400, "TAG_INVALID"),
            get("/v2/_catalog?n=x", 400, "PAGINATION_NUMBER_INVALID"),
            get("/v2/_catalog?last=no-upstream", 400, "NAME_INVALID"),
            get("/v2/_catalog?last=quay.io/UPPER", 400, "NAME_INVALID"),
            get(
                "/v2/_catalog?last=quay.io/a&last=quay.io/b",
                400,
                "NAME_INVALID",
            ),
            with(&blob, &[&ranges], 400, "RANGE_INVALID"),
            // Over every limit of other fields: clients know to ask for less on a 400 only.
            with(&blob, &[&long], 400, "RANGE_INVALID"),
        ])
        .collect()
}

/// Requests that are too large, have bodies, or are no HTTP/1.1.
fn messages() -> Vec<Case> {
    let big = |bytes: usize| format!("X-Big: {}", "a".repeat(bytes));
    let many: Vec<String> = (0..5)
        .map(|i| format!("X-{i}: {}", "a".repeat(4_000)))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let countless: Vec<String> = (0..200).map(|i| format!("X-{i}: a")).collect();
    let countless: Vec<&str> = countless.iter().map(String::as_str).collect();
    let no_host = |head: &str| format!("{head}\r\nHost: m\r\n\r\n");
    let length = "Content-Length: 5";
    let chunked = "Transfer-Encoding: chunked";
    let body = |headers: &[&str], body: &str| {
        raw(request("GET", "/v2/", headers) + body, 400, "UNSUPPORTED")
    };
    vec![
        with("/v2/", &[&big(9_000)], 431, "UNSUPPORTED"),
        with("/v2/", &many, 431, "UNSUPPORTED"),
        with("/v2/", &countless, 431, "UNSUPPORTED"),
        // Larger than what a connection buffers.
        with("/v2/", &[&big(200_000)], 431, "UNSUPPORTED"),
        with("/v2/", &[&big(1_000_000)], 431, "UNSUPPORTED"),
        get(
            &format!("/v2/{}/manifests/latest", "a/".repeat(3_000)),
            414,
            "UNSUPPORTED",
        ),
        get(&format!("/v2/?x={}", "a".repeat(5_000)), 414, "UNSUPPORTED"),
        body(&[length], "hello"),
        body(&[length], ""),
        body(&[chunked], "5\r\nhello\r\n0\r\n\r\n"),
        body(&[chunked, length], "5\r\nhello\r\n0\r\n\r\n"),
        body(&[length, chunked], "5\r\nhello\r\n0\r\n\r\n"),
        body(&[length, "Expect: 100-continue"], ""),
        body(&["Content-Length: 5", "Content-Length: 6"], "hello"),
        body(&["Content-Length: 5, 6"], "hello"),
        body(&["Content-Length: -1"], ""),
        body(&["Content-Length: abc"], ""),
        body(&["Content-Length: 99999999999999999999999"], ""),
        body(&["Transfer-Encoding: gzip"], ""),
        body(&["Transfer-Encoding: chunked, gzip"], ""),
        body(&["Transfer-Encoding: xchunked"], ""),
        raw(no_host("GET /v2/ HTTP/3.0"), 400, "UNSUPPORTED"),
        raw(no_host("GET /v2/ HTTP/1.2"), 400, "UNSUPPORTED"),
        raw(no_host("GET /v2/ FTP/1.1"), 400, "UNSUPPORTED"),
        raw(no_host("GET /v2/"), 400, "UNSUPPORTED"),
        raw(no_host("GET /v2/ extra HTTP/1.1"), 400, "UNSUPPORTED"),
        raw(no_host("GET  /v2/ HTTP/1.1"), 400, "UNSUPPORTED"),
        raw(no_host("G@T /v2/ HTTP/1.1"), 400, "UNSUPPORTED"),
        raw(no_host("GET /v2/\x01 HTTP/1.1"), 400, "UNSUPPORTED"),
        raw("GET /v2/ HTTP/1.1\r\nHost : m\r\n\r\n", 400, "UNSUPPORTED"),
        raw(
            "GET /v2/ HTTP/1.1\r\nHost: m\r\n folded\r\n\r\n",
            400,
            "UNSUPPORTED",
        ),
        raw("GET /v2/ HTTP/1.1\r\nno colon\r\n\r\n", 400, "UNSUPPORTED"),
        raw("GET /v2/ HTTP/1.1\r\nX: a\rb\r\n\r\n", 400, "UNSUPPORTED"),
        raw(
            b"GET /v2/ HTTP/1.1\r\nX: a\0b\r\n\r\n".to_vec(),
            400,
            "UNSUPPORTED",
        ),
        raw("GET /v2/ HTTP/1.1\r\n\r\n", 400, "UNSUPPORTED"),
        raw(
            "GET /v2/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            400,
            "UNSUPPORTED",
        ),
        raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "UNSUPPORTED"),
        // The greeting of TLS.
        raw(
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
            400,
            "UNSUPPORTED",
        ),
        raw("\0\0\0\0\0\0\0\0", 400, "UNSUPPORTED"),
    ]
}

#[tokio::test]
async fn every_bad_request_is_answered_with_a_code_and_advice_and_asks_no_upstream() {
    let mirror = Mirror::start().await;
    add_image(&mirror.docker, &repository("org/app"), "latest", "layer");
    let cases = [
        namespaces(),
        names(),
        references(),
        elsewhere(),
        queries(),
        messages(),
    ];
    let cases: Vec<Case> = cases.into_iter().flatten().collect();
    assert!(cases.len() >= 70, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let shown = String::from_utf8_lossy(&case.sent[..case.sent.len().min(200)]);
        let mut client = mirror.connect().await;
        client.send_some(&case.sent).await;
        let answer = client.response("GET").await;
        let got = (answer.status, &*answer.code());
        if got != (case.status, case.code) {
            wrong.push(format!("{got:?} to {shown}"));
        }
        assert_advice(&answer, &shown);
        // On the same connection, where it goes on, or else on another.
        let closes = answer.header("connection") == Some("close");
        if closes {
            assert!(
                client.rest().await.is_empty(),
                "{shown}: nothing follows, and no reset"
            );
            client = mirror.connect().await;
        }
        assert_eq!(client.get("/v2/", &[]).await.status, 200, "after {shown}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for upstream in [&mirror.docker, &mirror.quay, &mirror.local] {
        assert_eq!(upstream.calls().total(), 0);
    }
}

fn assert_advice(answer: &Response, shown: &str) {
    let message = answer.message();
    let has_advice = ADVICE.iter().any(|word| message.contains(word));
    assert!(has_advice, "{shown}: {message}");
    assert_eq!(answer.json()["errors"].as_array().unwrap().len(), 1);
    assert_eq!(
        answer.header("docker-distribution-api-version"),
        Some("registry/2.0")
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    let cache_status = answer.header("cache-status").unwrap();
    assert!(
        cache_status.starts_with("registry-server; detail="),
        "{shown}: {cache_status}"
    );
    let allow = (answer.status == 405).then_some("GET, HEAD");
    assert_eq!(answer.header("allow"), allow, "{shown}");
}

#[tokio::test]
async fn an_error_to_a_head_has_the_headers_of_one_to_a_get_and_no_body() {
    let mirror = Mirror::start().await;
    let mut client = mirror.connect().await;
    for target in [
        "/v2/org/app/manifests/latest?ns=unknown.example",
        "/v2/App/manifests/latest",
        "/v2/org/app/blobs/sha256:short",
        "/nothing",
    ] {
        let get = client.get(target, &[]).await;
        let head = client.request("HEAD", target, &[]).await;
        let without_date = |answer: &Response| {
            let mut headers = answer.headers.clone();
            headers.retain(|(name, _)| name != "date");
            headers
        };
        assert_eq!(head.status, get.status, "{target}");
        assert_eq!(without_date(&head), without_date(&get), "{target}");
        assert!(get.length() > 0, "{target}");
    }
}

#[tokio::test]
async fn what_an_error_was_routed_to_is_told() {
    let mirror = Mirror::start().await;
    let namespace = async |target: &str| {
        let answer = mirror.get(target).await;
        answer.header("oci-namespace").map(str::to_owned)
    };
    let quay = Some("quay.io".to_owned());
    assert_eq!(namespace("/v2/a/blobs/x?ns=QUAY.io").await, quay);
    assert_eq!(namespace("/v2/quay.io/a/blobs/x").await, quay);
    assert_eq!(namespace("/v2/A/blobs/x?ns=quay.io").await, quay);
    assert_eq!(
        namespace("/v2/a/blobs/x").await,
        Some("docker.io".to_owned())
    );
    assert_eq!(namespace("/v2/a/blobs/x?ns=unknown.example").await, None);
    assert_eq!(namespace("/nothing").await, None);
}

/// A client's path and query, bounded in the log, are bounded nowhere else: nothing is built from
/// them. This holds the admin listener to the same.
#[tokio::test]
async fn the_admin_listener_refuses_the_same() {
    let mirror = Mirror::start().await;
    for (method, target, status) in [
        ("GET", "/", 404),
        ("GET", "/v2/", 404),
        ("GET", "/healthz/", 404),
        ("POST", "/healthz", 405),
        ("DELETE", "/readyz", 405),
        ("BREW", "/nothing", 404),
    ] {
        let mut client = Client::connect(mirror.admin).await;
        let answer = client.request(method, target, &[]).await;
        assert_eq!(answer.status, status, "{method} {target}");
        assert_eq!(answer.code(), "UNSUPPORTED");
        let allow = (status == 405).then_some("GET, HEAD");
        assert_eq!(answer.header("allow"), allow, "{method} {target}");
    }
    let mut client = Client::connect(mirror.admin).await;
    client.send(b"nonsense\r\n\r\n").await;
    assert_eq!(client.response("GET").await.status, 400);
}
