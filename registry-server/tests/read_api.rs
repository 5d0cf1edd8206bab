//! The read side of distribution-spec as clients see it, byte for byte.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "loopback/mod.rs"]
mod loopback;

use std::time::Duration;

use bytes::Bytes;
use loopback::{Blobs, Mirror, Response, Setup, add_image, repository, tag};
use registry_core::testing::content::sample;
use registry_core::testing::{Act, BodyScript, Call, Gate, Piece};
use registry_core::{Algorithm, Hasher, Limits, Manifest, UpstreamError, UpstreamPolicy};
use registry_server::front::FrontLimits;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

fn unavailable() -> UpstreamError {
    UpstreamError::Unavailable {
        what: "scripted".to_owned(),
        source: None,
    }
}

/// A mirror that holds one blob of `org/app` at quay.io already.
async fn holding(bytes: &Bytes, blobs: Blobs) -> (Mirror, String) {
    let setup = Setup {
        blobs,
        ..Setup::default()
    };
    let mirror = Mirror::with(setup).await;
    let digest = mirror.quay.add_blob(&repository("org/app"), bytes.clone());
    let target = format!("/v2/org/app/blobs/{digest}?ns=quay.io");
    let filled = mirror.get(&target).await;
    assert_eq!((filled.status, filled.body.len()), (200, bytes.len()));
    await_hit(&mirror, &target).await;
    (mirror, target)
}

/// Waits until a blob comes from the store: a fill commits after its last byte has been served.
async fn await_hit(mirror: &Mirror, target: &str) {
    loop {
        let head = mirror.head(target).await;
        if head.header("cache-status") == Some("registry-server; hit") {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_ping_says_that_this_is_a_registry() {
    let mirror = Mirror::start().await;
    for target in ["/v2/", "/v2", "/v2/?ns=quay.io"] {
        let answer = mirror.get(target).await;
        assert_eq!(
            (answer.status, &*answer.body),
            (200, &b"{}"[..]),
            "{target}"
        );
        assert_eq!(
            answer.header("docker-distribution-api-version"),
            Some("registry/2.0")
        );
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert!(answer.header("date").is_some());
    }
    let named = mirror.get("/v2/?ns=quay.io").await;
    assert_eq!(named.header("oci-namespace"), Some("quay.io"));
    assert_eq!(mirror.get("/v2/").await.header("oci-namespace"), None);
}

#[tokio::test]
async fn a_manifest_is_served_byte_for_byte_by_tag_and_by_digest() {
    let mirror = Mirror::start().await;
    let app = repository("org/app");
    // Odd white space and an odd order of keys stay.
    let json = format!("{{ \"manifests\" : [ ],\n\t\"mediaType\":\"{INDEX}\" }}\n");
    let manifest = Manifest::of_bytes(None, json.clone().into()).unwrap();
    let digest = manifest.digest();
    mirror.quay.add_manifest(&app, manifest);
    mirror.quay.set_tag(&app, &tag("latest"), digest);
    let etag = format!("\"{digest}\"");
    for (reference, control) in [
        ("latest".to_owned(), "no-cache"),
        (digest.to_string(), IMMUTABLE),
        (digest.to_string().replace(':', "%3A"), IMMUTABLE),
    ] {
        let target = format!("/v2/org/app/manifests/{reference}?ns=quay.io");
        let get = mirror.get(&target).await;
        assert_eq!((get.status, &*get.body), (200, json.as_bytes()), "{target}");
        let head = mirror.head(&target).await;
        for answer in [&get, &head] {
            assert_eq!(answer.length(), json.len());
            assert_eq!(answer.header("content-type"), Some(INDEX));
            assert_eq!(
                answer.header("docker-content-digest"),
                Some(&*digest.to_string())
            );
            assert_eq!(answer.header("etag"), Some(&*etag));
            assert_eq!(answer.header("cache-control"), Some(control));
            assert_eq!(answer.header("oci-namespace"), Some("quay.io"));
            assert_eq!(answer.header("transfer-encoding"), None);
            assert_eq!(answer.header("accept-ranges"), None);
        }
        assert_eq!(head.status, 200);
        // Small enough to be sent whole, whatever part of it is asked for.
        let ranged = mirror.get_with(&target, &["Range: bytes=0-0"]).await;
        assert_eq!((ranged.status, ranged.body.len()), (200, json.len()));
    }
}

#[tokio::test]
async fn a_digest_of_another_algorithm_names_the_same_bytes() {
    let mirror = Mirror::start().await;
    let app = repository("org/app");
    let json = Bytes::from(format!("{{\"mediaType\":\"{MANIFEST}\",\"layers\":[]}}"));
    let digest = Hasher::digest_of(Algorithm::Sha512, &json);
    mirror
        .docker
        .add_manifest(&app, Manifest::verify(None, json.clone(), digest).unwrap());
    let answer = mirror.get(&format!("/v2/org/app/manifests/{digest}")).await;
    assert_eq!((answer.status, &answer.body[..]), (200, &json[..]));
    assert_eq!(
        answer.header("docker-content-digest"),
        Some(&*digest.to_string())
    );
}

#[tokio::test]
async fn names_lead_to_their_upstreams() {
    let mirror = Mirror::start().await;
    let (docker, _) = add_image(&mirror.docker, &repository("library/app"), "v", "of docker");
    let (quay, _) = add_image(&mirror.quay, &repository("library/app"), "v", "of quay");
    let (local, _) = add_image(&mirror.local, &repository("library/app"), "v", "of local");
    for (target, digest, upstream) in [
        ("/v2/app/manifests/v", docker, "docker.io"),
        ("/v2/library/app/manifests/v", docker, "docker.io"),
        (
            "/v2/app/manifests/v?ns=index.docker.io",
            docker,
            "docker.io",
        ),
        ("/v2/docker.io/app/manifests/v", docker, "docker.io"),
        ("/v2/library/app/manifests/v?ns=quay.io", quay, "quay.io"),
        ("/v2/quay.io/library/app/manifests/v", quay, "quay.io"),
        (
            "/v2/quay.io/library/app/manifests/v?ns=quay.io",
            quay,
            "quay.io",
        ),
        (
            "/v2/library/app/manifests/v?ns=localhost%3A5001",
            local,
            "localhost:5001",
        ),
        (
            "/v2/localhost:5001/library/app/manifests/v",
            local,
            "localhost:5001",
        ),
        (
            "/v2/localhost%3A5001/library/app/manifests/v",
            local,
            "localhost:5001",
        ),
        (
            "http://elsewhere.example/v2/quay.io/library/app/manifests/v",
            quay,
            "quay.io",
        ),
    ] {
        let answer = mirror.get(target).await;
        let found = (
            answer.header("docker-content-digest"),
            answer.header("oci-namespace"),
        );
        assert_eq!(
            found,
            (Some(&*digest.to_string()), Some(upstream)),
            "{target}"
        );
    }
    // What one upstream has, another has not.
    let elsewhere = format!("/v2/library/app/manifests/{quay}?ns=docker.io");
    let answer = mirror.get(&elsewhere).await;
    assert_eq!((answer.status, &*answer.code()), (404, "MANIFEST_UNKNOWN"));
}

#[tokio::test]
async fn a_head_of_a_blob_downloads_nothing() {
    let mirror = Mirror::start().await;
    let bytes = sample(100_000, 1);
    let digest = mirror.quay.add_blob(&repository("org/app"), bytes.clone());
    let target = format!("/v2/org/app/blobs/{digest}?ns=quay.io");
    let cold = mirror.head(&target).await;
    assert_eq!(mirror.quay.calls().blob, 0);
    assert_eq!(
        cold.header("cache-status"),
        Some("registry-server; fwd=bypass; detail=head")
    );
    let get = mirror.get(&target).await;
    assert_eq!((get.status, get.body.len()), (200, bytes.len()));
    await_hit(&mirror, &target).await;
    let warm = mirror.head(&target).await;
    for answer in [&cold, &warm, &get] {
        assert_eq!((answer.status, answer.length()), (200, bytes.len()));
        assert_eq!(
            answer.header("content-type"),
            Some("application/octet-stream")
        );
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
        assert_eq!(
            answer.header("docker-content-digest"),
            Some(&*digest.to_string())
        );
        assert_eq!(answer.header("etag"), Some(&*format!("\"{digest}\"")));
        assert_eq!(answer.header("cache-control"), Some(IMMUTABLE));
    }
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    for blobs in [Blobs::Memory, Blobs::Files] {
        let (mirror, target) = holding(&Bytes::new(), blobs).await;
        for headers in [
            &[][..],
            &["Range: bytes=0-"],
            &["Range: bytes=-5"],
            &["Range: bytes=0-0,5-"],
        ] {
            let answer = mirror.get_with(&target, headers).await;
            let whole = answer.status == 200 || headers.len() == 1;
            assert!(whole, "{headers:?}: {answer:?}");
            assert_eq!(answer.length(), 0, "{headers:?}");
        }
    }
}

/// Status, `Content-Range` and the bytes that should come.
type Part = (u16, Option<String>, std::ops::Range<usize>);

fn ranges(size: usize) -> Vec<(&'static str, Part)> {
    let part = |from: usize, to: usize| {
        let last = to - 1;
        (206, Some(format!("bytes {from}-{last}/{size}")), from..to)
    };
    let whole = || (200, None, 0..size);
    let outside = || (416, Some(format!("bytes */{size}")), 0..0);
    vec![
        ("bytes=0-", part(0, size)),
        ("bytes=0-0", part(0, 1)),
        ("bytes=500-1499", part(500, 1500)),
        ("bytes=500-", part(500, size)),
        ("bytes=-500", part(size - 500, size)),
        ("bytes=-999999999", part(0, size)),
        ("bytes=0-99999999999999999999", part(0, size)),
        ("BYTES=1-2", part(1, 3)),
        ("bytes= 1-2 ", part(1, 3)),
        // Several that come to one.
        ("bytes=0-5,3-9", part(0, 10)),
        ("bytes=3-9,0-5", part(0, 10)),
        ("bytes=1-2,99999999999-", part(1, 3)),
        ("bytes=99999999999-,1-2", part(1, 3)),
        ("bytes=99999999999-", outside()),
        ("bytes=99999999999-99999999999999", outside()),
        ("bytes=-0", outside()),
        ("bytes=99999999999-,-0", outside()),
        ("bytes=500-0", whole()),
        ("bytes=", whole()),
        ("bytes=a-b", whole()),
        ("bytes=0-1,b", whole()),
        ("lines=0-1", whole()),
        ("bytes 0-1", whole()),
    ]
}

#[tokio::test]
async fn ranges_are_served_from_memory_and_from_files() {
    let bytes = sample(300_000, 2);
    for blobs in [Blobs::Memory, Blobs::Files] {
        let (mirror, target) = holding(&bytes, blobs).await;
        let mut client = mirror.connect().await;
        for (range, (status, content_range, expected)) in ranges(bytes.len()) {
            let answer = client.get(&target, &[&format!("Range: {range}")]).await;
            assert_eq!(answer.status, status, "{range}");
            let told = answer.header("content-range").map(str::to_owned);
            assert_eq!(told, content_range, "{range}");
            if status == 416 {
                assert_eq!(answer.code(), "RANGE_INVALID");
            } else {
                assert!(
                    answer.body == bytes[expected],
                    "{range}: the bytes asked for"
                );
                assert_eq!(answer.header("accept-ranges"), Some("bytes"));
                assert_eq!(answer.header("cache-status"), Some("registry-server; hit"));
            }
        }
        // A HEAD ignores it.
        let head = client.request("HEAD", &target, &["Range: bytes=0-0"]).await;
        assert_eq!((head.status, head.length()), (200, bytes.len()));
        assert_eq!(mirror.quay.calls().blob, 1, "the upstream was asked once");
    }
}

#[tokio::test]
async fn ranges_of_a_cold_blob_are_the_same() {
    let bytes = sample(300_000, 3);
    for (range, (status, content_range, expected)) in ranges(bytes.len()) {
        let mirror = Mirror::start().await;
        let digest = mirror.quay.add_blob(&repository("org/app"), bytes.clone());
        let target = format!("/v2/org/app/blobs/{digest}?ns=quay.io");
        let answer = mirror
            .get_with(&target, &[&format!("Range: {range}")])
            .await;
        let told = answer.header("content-range").map(str::to_owned);
        assert_eq!((answer.status, told), (status, content_range), "{range}");
        if status != 416 {
            assert!(
                answer.body == bytes[expected],
                "{range}: the bytes asked for"
            );
        }
    }
}

#[tokio::test]
async fn a_range_far_ahead_of_the_fill_does_not_wait_for_it() {
    let cache_limits = Limits {
        range_ahead_bytes_max: 1_000,
        ..Limits::default()
    };
    let setup = Setup {
        cache_limits,
        ..Setup::default()
    };
    let mirror = Mirror::with(setup).await;
    let bytes = sample(300_000, 4);
    let digest = mirror.quay.add_blob(&repository("org/app"), bytes.clone());
    let target = format!("/v2/org/app/blobs/{digest}?ns=quay.io");
    let gate = Gate::new();
    let size = Some(bytes.len() as u64);
    let held = BodyScript::new(
        size,
        vec![
            Piece::Bytes(bytes.slice(..1_000)),
            Piece::Wait(gate.clone()),
            Piece::Bytes(bytes.slice(1_000..)),
        ],
    );
    mirror.quay.once(Call::Blob, Act::Body(held));
    let mut first = mirror.connect().await;
    first
        .send(loopback::request("GET", &target, &[]).as_bytes())
        .await;
    first.head().await;
    let answer = mirror.get_with(&target, &["Range: bytes=200000-"]).await;
    assert_eq!(
        answer.header("cache-status"),
        Some("registry-server; fwd=bypass; detail=range-ahead")
    );
    assert_eq!(answer.status, 206);
    assert!(answer.body == bytes[200_000..]);
    // Each of several costs one request upstream, the first too; what is here by now costs none.
    for (several, starts, requests) in [
        ("100000-100009,150000-150009", [100_000, 150_000], 2),
        ("200000-200009,250000-250009", [200_000, 250_000], 0),
    ] {
        let before = mirror.quay.calls().blob;
        let range = format!("Range: bytes={several}");
        let answer = mirror.get_with(&target, &[&range]).await;
        let found: Vec<_> = parts(&answer).into_iter().map(|(_, bytes)| bytes).collect();
        assert!(found == starts.map(|start: usize| &bytes[start..start + 10]));
        assert_eq!(mirror.quay.calls().blob - before, requests);
    }
    gate.open();
    assert!(first.bytes(bytes.len()).await == bytes);
}

/// The parts of a `multipart/byteranges` answer: `Content-Range` and bytes.
fn parts(answer: &Response) -> Vec<(String, Vec<u8>)> {
    let content_type = answer.header("content-type").unwrap();
    let boundary = content_type
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap();
    let delimiter = format!("\r\n--{boundary}");
    // The first delimiter has no line before it to end.
    let body = [b"\r\n", &answer.body[..]].concat();
    let mut pieces = split(&body, delimiter.as_bytes()).into_iter();
    assert_eq!(
        pieces.next(),
        Some(&[][..]),
        "nothing stands before the first part"
    );
    let mut pieces: Vec<_> = pieces.collect();
    assert_eq!(
        pieces.pop(),
        Some(&b"--\r\n"[..]),
        "the last delimiter ends it"
    );
    let part = |piece: &[u8]| {
        let head = split(piece, b"\r\n\r\n")[0];
        let content = piece[head.len() + 4..].to_vec();
        let head = std::str::from_utf8(head).unwrap();
        assert!(
            head.contains("\r\nContent-Type: application/octet-stream"),
            "{head}"
        );
        let (_, range) = head.split_once("Content-Range: ").unwrap();
        (range.lines().next().unwrap().to_owned(), content)
    };
    pieces.into_iter().map(part).collect()
}

fn split<'a>(mut bytes: &'a [u8], delimiter: &[u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    while let Some(at) = bytes
        .windows(delimiter.len())
        .position(|window| window == delimiter)
    {
        pieces.push(&bytes[..at]);
        bytes = &bytes[at + delimiter.len()..];
    }
    pieces.push(bytes);
    pieces
}

#[tokio::test]
async fn several_ranges_come_as_parts() {
    let bytes = sample(300_000, 5);
    let size = bytes.len();
    let cases: [(&str, &[(usize, usize)]); 5] = [
        ("bytes=0-9,100-199", &[(0, 10), (100, 200)]),
        // In the order asked for, and apart where they only touch.
        (
            "bytes=200000-299999,0-9,10-19",
            &[(200_000, 300_000), (0, 10), (10, 20)],
        ),
        ("bytes=0-9, 5-14 ,-1", &[(0, 15), (299_999, 300_000)]),
        ("bytes=400000-,0-0,2-2", &[(0, 1), (2, 3)]),
        (
            "bytes=0-149999,150000-",
            &[(0, 150_000), (150_000, 300_000)],
        ),
    ];
    for blobs in [Blobs::Memory, Blobs::Files] {
        let (mirror, target) = holding(&bytes, blobs).await;
        let mut client = mirror.connect().await;
        for (range, expected) in cases {
            let answer = client.get(&target, &[&format!("Range: {range}")]).await;
            assert_eq!(
                (answer.status, answer.header("content-range")),
                (206, None),
                "{range}"
            );
            let expected: Vec<_> = expected
                .iter()
                .map(|&(from, to)| {
                    (
                        format!("bytes {from}-{}/{size}", to - 1),
                        bytes[from..to].to_vec(),
                    )
                })
                .collect();
            assert!(parts(&answer) == expected, "{range}");
        }
    }
}

#[tokio::test]
async fn several_ranges_of_a_cold_blob_come_from_its_one_fill() {
    let mirror = Mirror::start().await;
    let bytes = sample(300_000, 6);
    let digest = mirror.quay.add_blob(&repository("org/app"), bytes.clone());
    let target = format!("/v2/org/app/blobs/{digest}?ns=quay.io");
    let answer = mirror.get_with(&target, &["Range: bytes=1-2,-3"]).await;
    let expected = [
        ("bytes 1-2/300000".to_owned(), bytes[1..3].to_vec()),
        (
            "bytes 299997-299999/300000".to_owned(),
            bytes[299_997..].to_vec(),
        ),
    ];
    assert!(parts(&answer) == expected);
    assert_eq!(mirror.quay.calls().blob, 1);
}

#[tokio::test]
async fn as_many_ranges_as_clients_count_on_are_served() {
    let bytes = sample(1_000, 7);
    let (mirror, target) = holding(&bytes, Blobs::Files).await;
    let ranges: Vec<_> = (0..64).map(|i| format!("{0}-{0}", i * 3)).collect();
    let header = format!("Range: bytes={}", ranges.join(","));
    let answer = mirror.get_with(&target, &[&header]).await;
    assert_eq!((answer.status, parts(&answer).len()), (206, 64));
}

#[tokio::test]
async fn conditions_are_weighed_before_ranges() {
    let bytes = sample(10_000, 8);
    let (mirror, blob) = holding(&bytes, Blobs::Memory).await;
    let app = repository("org/app");
    let (manifest, _) = add_image(&mirror.quay, &app, "latest", "layer");
    let by_tag = "/v2/org/app/manifests/latest?ns=quay.io".to_owned();
    let by_digest = format!("/v2/org/app/manifests/{manifest}?ns=quay.io");
    let blob_etag = mirror.head(&blob).await.header("etag").unwrap().to_owned();
    for (target, etag) in [
        (&blob, &blob_etag),
        (&by_tag, &format!("\"{manifest}\"")),
        (&by_digest, &format!("\"{manifest}\"")),
    ] {
        let mut client = mirror.connect().await;
        for (headers, status) in [
            (vec![format!("If-None-Match: {etag}")], 304),
            (vec![format!("If-None-Match: W/{etag}")], 304),
            (vec![format!("If-None-Match: \"x\", {etag}")], 304),
            (vec!["If-None-Match: *".to_owned()], 304),
            (
                vec![
                    format!("If-None-Match: {etag}"),
                    "Range: bytes=0-0".to_owned(),
                ],
                304,
            ),
            (vec!["If-None-Match: \"x\"".to_owned()], 200),
            (vec![format!("If-Match: {etag}")], 200),
            (vec!["If-Match: \"x\"".to_owned()], 412),
            (
                vec![format!("If-Match: \"x\""), format!("If-None-Match: {etag}")],
                412,
            ),
            (
                vec!["If-Modified-Since: Sun, 06 Nov 2044 08:49:37 GMT".to_owned()],
                200,
            ),
        ] {
            let headers: Vec<_> = headers.iter().map(String::as_str).collect();
            for method in ["GET", "HEAD"] {
                let answer = client.request(method, target, &headers).await;
                assert_eq!(answer.status, status, "{method} {target} {headers:?}");
                if status != 412 {
                    assert_eq!(answer.header("etag"), Some(&**etag), "{headers:?}");
                }
                if status == 304 {
                    assert_eq!(answer.header("content-length"), None);
                    assert_eq!(answer.header("content-type"), None);
                }
            }
        }
    }
    // Content that is not there has no conditions.
    let missing = format!("/v2/org/app/blobs/{manifest}?ns=quay.io");
    let answer = mirror.get_with(&missing, &["If-None-Match: *"]).await;
    assert_eq!((answer.status, &*answer.code()), (404, "BLOB_UNKNOWN"));
}

#[tokio::test]
async fn a_resumed_download_gets_its_range_only_of_the_same_content() {
    let bytes = sample(10_000, 9);
    let (mirror, target) = holding(&bytes, Blobs::Files).await;
    let etag = mirror
        .head(&target)
        .await
        .header("etag")
        .unwrap()
        .to_owned();
    for (condition, status) in [
        (etag.clone(), 206),
        (format!("W/{etag}"), 200),
        ("\"x\"".to_owned(), 200),
        ("Sun, 06 Nov 1994 08:49:37 GMT".to_owned(), 200),
    ] {
        let condition = format!("If-Range: {condition}");
        let answer = mirror
            .get_with(&target, &["Range: bytes=9000-", &condition])
            .await;
        assert_eq!(answer.status, status, "{condition}");
        let from = if status == 206 { 9_000 } else { 0 };
        assert!(answer.body == bytes[from..], "{condition}");
    }
}

fn listed(answer: &Response) -> (Vec<String>, Option<String>) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let list = answer.json();
    let list = list.get("tags").or(list.get("repositories")).unwrap();
    let names = list.as_array().unwrap().iter();
    let names = names
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    let link = answer.header("link").map(|link| {
        let target = link.strip_prefix('<').unwrap();
        target.strip_suffix(">; rel=\"next\"").unwrap().to_owned()
    });
    (names, link)
}

#[tokio::test]
async fn tags_are_listed_page_by_page() {
    let limits = FrontLimits {
        page_entries_max: 3,
        ..FrontLimits::default()
    };
    let setup = Setup {
        limits,
        ..Setup::default()
    };
    let mirror = Mirror::with(setup).await;
    let app = repository("org/app");
    for name in ["a", "b", "c", "d", "e"] {
        add_image(&mirror.quay, &app, name, "layer");
    }
    for (base, query, name) in [
        ("/v2/org/app/tags/list", "ns=quay.io", "org/app"),
        ("/v2/quay.io/org/app/tags/list", "", "quay.io/org/app"),
    ] {
        let page = async |more: &str| mirror.get(&format!("{base}?{query}{more}")).await;
        let first = page("").await;
        assert_eq!(first.json()["name"], name);
        assert_eq!(
            first.header("cache-status"),
            Some("registry-server; fwd=bypass; detail=listing")
        );
        assert_eq!(first.header("cache-control"), Some("no-cache"));
        // Followed to the end, each tag comes once.
        let (mut all, mut next) = listed(&first);
        assert_eq!(all.len(), 3);
        while let Some(target) = next {
            assert!(target.starts_with(base), "{target}");
            let (names, link) = listed(&mirror.get(&target).await);
            all.extend(names);
            next = link;
        }
        assert_eq!(all, ["a", "b", "c", "d", "e"]);
        let none: [&str; 0] = [];
        for (more, names, has_more) in [
            ("&n=0", &none[..], false),
            ("&n=2", &["a", "b"], true),
            ("&n=2&last=b", &["c", "d"], true),
            ("&n=2&last=d", &["e"], false),
            ("&last=c", &["d", "e"], false),
            ("&last=e", &none, false),
            // Larger than a page may be.
            ("&n=1000", &["a", "b", "c"], true),
            ("&n=99999999999999999999999", &["a", "b", "c"], true),
        ] {
            let (found, link) = listed(&page(more).await);
            assert_eq!(
                (found.as_slice(), link.is_some()),
                (owned(names).as_slice(), has_more),
                "{more}"
            );
        }
    }
    let link = mirror.get("/v2/org/app/tags/list?n=2&ns=quay.io").await;
    assert_eq!(
        link.header("link"),
        Some("</v2/org/app/tags/list?n=2&last=b&ns=quay.io>; rel=\"next\"")
    );
    let missing = mirror.get("/v2/org/none/tags/list?n=0&ns=quay.io").await;
    assert_eq!((missing.status, &*missing.code()), (404, "NAME_UNKNOWN"));
    let head = mirror.head("/v2/org/app/tags/list?ns=quay.io").await;
    assert_eq!(head.status, 200);
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn the_catalog_lists_what_is_cached_by_names_to_pull_by() {
    let mirror = Mirror::start().await;
    let (none, link) = listed(&mirror.get("/v2/_catalog").await);
    assert!(none.is_empty() && link.is_none());
    for (upstream, names) in [
        (&mirror.docker, &["library/app", "org/app"][..]),
        (&mirror.quay, &["org/app", "org/zoo"]),
        (&mirror.local, &["app"]),
    ] {
        for name in names {
            add_image(upstream, &repository(name), "v", "layer");
        }
    }
    let all = [
        "docker.io/library/app",
        "docker.io/org/app",
        "localhost:5001/app",
        "quay.io/org/app",
        "quay.io/org/zoo",
    ];
    for name in all {
        assert_eq!(
            mirror.get(&format!("/v2/{name}/manifests/v")).await.status,
            200,
            "{name}"
        );
    }
    let answer = mirror.get("/v2/_catalog").await;
    assert_eq!(listed(&answer), (owned(&all), None));
    assert_eq!(answer.header("oci-namespace"), None);
    let mut found = Vec::new();
    let mut next = Some("/v2/_catalog?n=2".to_owned());
    let mut pages = 0;
    while let Some(target) = next {
        let (names, link) = listed(&mirror.get(&target).await);
        found.extend(names);
        next = link;
        pages += 1;
    }
    assert_eq!((found, pages), (owned(&all), 3));
    let answer = mirror.get("/v2/_catalog?ns=quay.io&n=1").await;
    let next = "/v2/_catalog?n=1&last=org%2Fapp&ns=quay.io";
    assert_eq!(
        listed(&answer),
        (owned(&["org/app"]), Some(next.to_owned()))
    );
    assert_eq!(answer.header("oci-namespace"), Some("quay.io"));
    assert_eq!(listed(&mirror.get(next).await), (owned(&["org/zoo"]), None));
    assert_eq!(
        listed(&mirror.get("/v2/_catalog?n=0").await),
        (Vec::new(), None)
    );
    let after = mirror.get("/v2/_catalog?last=localhost%3A5001/app").await;
    assert_eq!(listed(&after).0, owned(&all[3..]));
}

#[tokio::test]
async fn each_way_through_the_cache_is_told() {
    let mirror = Mirror::start().await;
    let (digest, _) = add_image(&mirror.quay, &repository("org/app"), "v", "layer");
    let by_tag = "/v2/org/app/manifests/v?ns=quay.io";
    let by_digest = format!("/v2/org/app/manifests/{digest}?ns=quay.io");
    let came = async |target: &str| {
        let answer = mirror.get(target).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
    };
    let status = |answer: &Response| answer.header("cache-status").unwrap().to_owned();
    assert_eq!(
        status(&came(by_tag).await),
        "registry-server; fwd=miss; stored"
    );
    let again = came(by_tag).await;
    assert_eq!(
        status(&again),
        "registry-server; fwd=stale; detail=revalidated"
    );
    assert_eq!(again.header("warning"), None);
    assert_eq!(status(&came(&by_digest).await), "registry-server; hit");
    let limited = UpstreamError::RateLimited { retry_after: None };
    for (error, detail, why) in [
        (unavailable(), "unavailable", "cannot be reached"),
        (limited, "rate-limited", "limits the rate of requests"),
    ] {
        mirror.quay.set_down(Some(error));
        let stale = came(by_tag).await;
        assert_eq!(
            status(&stale),
            format!("registry-server; fwd=stale; detail={detail}")
        );
        let warning = stale.header("warning").unwrap();
        assert!(warning.starts_with("299 - \""), "{warning}");
        assert!(
            warning.ends_with(&format!(": quay.io {why}\"")),
            "{warning}"
        );
        assert!(stale.header("age").unwrap().parse::<u64>().is_ok());
        assert_eq!(status(&came(&by_digest).await), "registry-server; hit");
    }
    mirror.quay.set_down(None);
    mirror.quay.remove_tag(&repository("org/app"), &tag("v"));
    let stale = came(by_tag).await;
    assert_eq!(
        status(&stale),
        "registry-server; fwd=stale; detail=gone-upstream"
    );
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_in_time_makes_stale() {
    let policy = UpstreamPolicy {
        tag_budget: Duration::from_millis(10),
        ..UpstreamPolicy::default()
    };
    let setup = Setup {
        policy,
        ..Setup::default()
    };
    let mirror = Mirror::with(setup).await;
    add_image(&mirror.quay, &repository("org/app"), "v", "layer");
    let target = "/v2/org/app/manifests/v?ns=quay.io";
    mirror.get(target).await;
    mirror.quay.always(Call::Resolve, Act::Hang);
    let stale = mirror.get(target).await;
    let status = stale.header("cache-status").unwrap();
    assert_eq!(status, "registry-server; fwd=stale; detail=timeout");
    assert_eq!(stale.status, 200);
}

#[tokio::test]
async fn a_fresh_tag_tells_its_age() {
    let policy = UpstreamPolicy {
        tag_ttl: Duration::from_secs(3600),
        ..UpstreamPolicy::default()
    };
    let setup = Setup {
        policy,
        ..Setup::default()
    };
    let mirror = Mirror::with(setup).await;
    add_image(&mirror.quay, &repository("org/app"), "v", "layer");
    let target = "/v2/org/app/manifests/v?ns=quay.io";
    mirror.get(target).await;
    let fresh = mirror.get(target).await;
    assert_eq!(fresh.header("cache-status"), Some("registry-server; hit"));
    assert!(fresh.header("age").unwrap().parse::<u64>().unwrap() < 3600);
    assert_eq!(fresh.header("warning"), None);
}

#[tokio::test]
async fn who_joins_a_fill_is_told_so_and_gets_its_first_bytes_at_once() {
    let mirror = Mirror::start().await;
    let bytes = sample(300_000, 10);
    let digest = mirror.quay.add_blob(&repository("org/app"), bytes.clone());
    let target = format!("/v2/org/app/blobs/{digest}?ns=quay.io");
    let gate = Gate::new();
    let pieces = vec![
        Piece::Bytes(bytes.slice(..65_536)),
        Piece::Wait(gate.clone()),
        Piece::Bytes(bytes.slice(65_536..)),
    ];
    let held = BodyScript::new(Some(bytes.len() as u64), pieces);
    mirror.quay.once(Call::Blob, Act::Body(held));
    let mut clients = Vec::new();
    for came in ["fwd=miss; stored", "fwd=miss; collapsed; detail=follow"] {
        let mut client = mirror.connect().await;
        client
            .send(loopback::request("GET", &target, &[]).as_bytes())
            .await;
        let head = client.head().await;
        assert_eq!(
            head.header("cache-status"),
            Some(&*format!("registry-server; {came}"))
        );
        assert_eq!(head.length(), bytes.len());
        assert!(client.bytes(65_536).await == bytes[..65_536]);
        clients.push(client);
    }
    gate.open();
    for mut client in clients {
        assert!(client.bytes(bytes.len() - 65_536).await == bytes[65_536..]);
    }
    assert_eq!(mirror.quay.calls().blob, 1);
}

#[tokio::test]
async fn what_cannot_be_answered_has_the_status_that_clients_move_on_from() {
    let mirror = Mirror::start().await;
    let manifest = "/v2/org/app/manifests/v?ns=quay.io";
    let blob = |fill: &str| format!("/v2/org/app/blobs/sha256:{}?ns=quay.io", fill.repeat(64));
    let absent = mirror.get(manifest).await;
    assert_eq!((absent.status, &*absent.code()), (404, "MANIFEST_UNKNOWN"));
    assert_eq!(
        absent.header("cache-status"),
        Some("registry-server; fwd=miss; detail=not-found")
    );
    let absent = mirror.get(&blob("0")).await;
    assert_eq!((absent.status, &*absent.code()), (404, "BLOB_UNKNOWN"));
    let absent = mirror.head(&blob("1")).await;
    assert_eq!((absent.status, absent.body.len()), (404, 0));
    let limited = |seconds| UpstreamError::RateLimited {
        retry_after: Some(Duration::from_secs(seconds)),
    };
    for (error, status, code, retry) in [
        (
            UpstreamError::Unauthorized { status: 401 },
            404,
            "BLOB_UNKNOWN",
            None,
        ),
        (
            UpstreamError::Unauthorized { status: 403 },
            404,
            "BLOB_UNKNOWN",
            None,
        ),
        (limited(7), 503, "TOOMANYREQUESTS", Some("7")),
        (unavailable(), 502, "UNAVAILABLE", None),
        (
            UpstreamError::Timeout { what: "answer" },
            504,
            "UNAVAILABLE",
            None,
        ),
        (
            UpstreamError::Protocol {
                what: String::new(),
            },
            502,
            "UNAVAILABLE",
            None,
        ),
    ] {
        mirror.quay.set_down(Some(error.clone()));
        let answer = mirror.get(&blob("2")).await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (status, code),
            "{error:?}"
        );
        assert_eq!(answer.header("retry-after"), retry, "{error:?}");
        assert_eq!(answer.header("oci-namespace"), Some("quay.io"));
        let cache_status = answer.header("cache-status").unwrap();
        assert!(
            cache_status.starts_with("registry-server; fwd=miss; detail="),
            "{cache_status}"
        );
        assert!(!answer.message().is_empty());
    }
}

#[tokio::test]
async fn a_download_that_goes_wrong_is_never_whole_and_ends_in_order() {
    let bytes = sample(300_000, 11);
    let wrong = sample(300_000, 12);
    let rest = |bytes: &Bytes| Piece::Bytes(bytes.slice(100_000..));
    for (begin, end) in [
        (&wrong, rest(&wrong)),
        (&bytes, rest(&wrong)),
        (&bytes, Piece::Bytes(bytes.slice(100_000..299_999))),
        (&bytes, Piece::Bytes(sample(300_000, 12))),
        (&bytes, Piece::Fail(unavailable())),
    ] {
        let mirror = Mirror::start().await;
        let digest = mirror.quay.add_blob(&repository("org/app"), bytes.clone());
        let target = format!("/v2/org/app/blobs/{digest}?ns=quay.io");
        let gate = Gate::new();
        let pieces = vec![
            Piece::Bytes(begin.slice(..100_000)),
            Piece::Wait(gate.clone()),
            end,
        ];
        let script = BodyScript::new(Some(300_000), pieces);
        mirror.quay.once(Call::Blob, Act::Body(script));
        // The rest of what is cut is not to be had either.
        mirror.quay.once(Call::BlobPart, Act::Absent);
        let mut client = mirror.connect().await;
        client
            .send(loopback::request("GET", &target, &[]).as_bytes())
            .await;
        let head = client.head().await;
        assert_eq!((head.status, head.length()), (200, 300_000));
        assert!(client.bytes(100_000).await == begin[..100_000]);
        gate.open();
        // Panics where the connection is reset instead of closed.
        assert!(client.rest().await.len() < 200_000);
        let healthy = mirror.get(&target).await;
        assert!(healthy.status == 200 && healthy.body == bytes);
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_ends_in_order_with_everything_before_the_break() {
    let bytes = sample(4_000_000, 13);
    let pipelined = loopback::request("GET", "/v2/", &[]).repeat(3);
    // More than what hyper reads ahead, so that some of it is never read.
    let flood = loopback::request("GET", "/v2/", &[]).repeat(8_000);
    // As much as a socket holds, and less.
    for sent in [0, 1, 200_000, 3_500_000] {
        let (mirror, target) = holding(&bytes, Blobs::CutFiles(sent)).await;
        for behind in ["", &pipelined, &flood] {
            let mut client = mirror.connect().await;
            client
                .send((loopback::request("GET", &target, &[]) + behind).as_bytes())
                .await;
            let head = client.head().await;
            assert_eq!((head.status, head.length()), (200, bytes.len()));
            // Panics where the connection is reset instead of closed.
            let received = client.rest().await;
            assert_eq!(received.len() as u64, sent);
            assert!(bytes.starts_with(&received));
        }
    }
}

#[tokio::test]
async fn a_part_that_breaks_off_ends_the_parts() {
    let bytes = sample(1_000_000, 14);
    let (mirror, target) = holding(&bytes, Blobs::CutFiles(100_000)).await;
    let mut client = mirror.connect().await;
    let ranges = ["Range: bytes=0-9,99990-100009"];
    client
        .send(loopback::request("GET", &target, &ranges).as_bytes())
        .await;
    let head = client.head().await;
    assert_eq!(head.status, 206);
    let received = client.rest().await;
    assert!(received.len() < head.length());
    assert!(
        received.ends_with(&bytes[99_990..100_000]),
        "up to the break, and no end after it"
    );
}

#[tokio::test]
async fn requests_in_one_go_are_answered_in_order() {
    let bytes = sample(200_000, 15);
    let (mirror, target) = holding(&bytes, Blobs::Files).await;
    let mut client = mirror.connect().await;
    let requests = [
        loopback::request("GET", "/v2/", &[]),
        loopback::request("HEAD", &target, &[]),
        loopback::request("GET", &target, &[]),
        loopback::request("GET", "/v2/App/manifests/v", &[]),
        loopback::request("GET", &target, &["Range: bytes=1-1"]),
        loopback::request("GET", "/v2/", &["Connection: close"]),
    ];
    client.send(requests.concat().as_bytes()).await;
    assert_eq!(client.response("GET").await.body, b"{}");
    assert_eq!(client.response("HEAD").await.length(), bytes.len());
    assert!(client.response("GET").await.body == bytes);
    assert_eq!(client.response("GET").await.code(), "NAME_INVALID");
    assert!(client.response("GET").await.body == bytes[1..2]);
    let last = client.response("GET").await;
    assert_eq!(last.header("connection"), Some("close"));
    assert!(client.rest().await.is_empty());
}

#[tokio::test]
async fn nonsense_behind_a_request_is_answered_after_it() {
    let bytes = sample(200_000, 16);
    let (mirror, target) = holding(&bytes, Blobs::Memory).await;
    let mut client = mirror.connect().await;
    let request = loopback::request("GET", &target, &[]);
    client.send((request + "nonsense\r\n\r\n").as_bytes()).await;
    assert!(client.response("GET").await.body == bytes);
    let answer = client.response("GET").await;
    assert_eq!((answer.status, &*answer.code()), (400, "UNSUPPORTED"));
    assert!(client.rest().await.is_empty());
}

#[tokio::test]
async fn old_clients_are_answered() {
    let bytes = sample(200_000, 17);
    let (mirror, target) = holding(&bytes, Blobs::Files).await;
    let mut client = mirror.connect().await;
    client
        .send(format!("GET {target} HTTP/1.0\r\n\r\n").as_bytes())
        .await;
    assert!(client.response("GET").await.body == bytes);
    assert!(client.rest().await.is_empty());
}

#[tokio::test]
async fn a_connection_goes_on_after_errors_and_through_many_requests() {
    let bytes = sample(1_000, 18);
    let (mirror, target) = holding(&bytes, Blobs::Files).await;
    let mut client = mirror.connect().await;
    for _ in 0..50 {
        assert_eq!(client.get("/v2/App/manifests/v", &[]).await.status, 400);
        assert_eq!(client.request("PUT", &target, &[]).await.status, 405);
        assert_eq!(
            client.get(&target, &["Range: bytes=5000-"]).await.status,
            416
        );
        assert!(client.get(&target, &[]).await.body == bytes);
        assert_eq!(client.request("HEAD", &target, &[]).await.length(), 1_000);
    }
}

#[tokio::test]
async fn a_client_that_leaves_half_way_harms_nobody() {
    let bytes = sample(4_000_000, 19);
    let (mirror, target) = holding(&bytes, Blobs::Files).await;
    for _ in 0..20 {
        let mut client = mirror.connect().await;
        client
            .send(loopback::request("GET", &target, &[]).as_bytes())
            .await;
        client.head().await;
        client.bytes(1_000).await;
    }
    assert!(mirror.get(&target).await.body == bytes);
    assert_eq!(mirror.quay.calls().blob, 1);
}

#[tokio::test]
async fn a_handler_that_panics_is_an_answer_and_the_mirror_goes_on() {
    let (mirror, target) = holding(&sample(1_000, 20), Blobs::Panicking).await;
    let mut client = mirror.connect().await;
    let answer = client.get(&target, &[]).await;
    assert_eq!((answer.status, &*answer.code()), (500, "UNKNOWN"));
    assert!(answer.message().contains("pull from the registry itself"));
    assert!(client.rest().await.is_empty());
    assert_eq!(mirror.get("/v2/").await.status, 200);
}
