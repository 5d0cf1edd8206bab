//! The HTTP upstream against registries that behave, and against those that do not. What counts is
//! as much what was asked, and how often, as what came of it.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::join_all;
use http::Method;
use registry_core::{
    Algorithm, Caller, Digest, FetchedTags, Hasher, MediaType, RangeRequest, Reference, Repository,
    Resolution, Tag, TagPage, Upstream, UpstreamError, UpstreamId, Validator,
};
use registry_server::testing::{
    BlobRedirect, Fault, FixtureImage, FixtureRegistry, Gate, ImageSpec, Match, Object, Times,
    TokenAuth,
};
use registry_server::upstream::{
    HttpUpstream, HttpUpstreamConfig, HttpUpstreamConfigError, Proxies,
};
use tokio::net::TcpListener;

#[path = "support/errors.rs"]
mod errors;

use errors::kind;

/// A budget that is soon over, for tests of what happens then: only what is sure to end by it may
/// be held against it, as the machine may be busy.
const SOON: Duration = Duration::from_millis(200);

/// How long a body may stand still, for tests that expect what came before it did: long enough for
/// that on a busy machine.
const STANDSTILL: Duration = Duration::from_secs(1);

fn config(endpoints: &[&str]) -> HttpUpstreamConfig {
    let endpoints = endpoints.iter().map(|url| url.parse().expect("a URL"));
    let id = UpstreamId::parse("registry.test").expect("a name");
    HttpUpstreamConfig::new(id, endpoints)
}

/// An upstream, asked about one repository by nobody in particular.
struct Asked {
    upstream: HttpUpstream,
    repository: Repository,
}

impl Asked {
    fn with(config: HttpUpstreamConfig) -> Self {
        Self {
            upstream: HttpUpstream::new(config).expect("a good configuration"),
            repository: repository("app"),
        }
    }

    fn of(registry: &FixtureRegistry) -> Self {
        Self::with(config(&[&registry.url()]))
    }

    /// An upstream that is not waited for.
    fn impatient(registry: &FixtureRegistry) -> Self {
        let mut config = config(&[&registry.url()]);
        config.budgets.headers = SOON;
        config.budgets.body_idle = SOON;
        Self::with(config)
    }

    /// An upstream whose answers are waited for, but not the rest of a body that stands still.
    fn intolerant_of_standstill(registry: &FixtureRegistry) -> Self {
        let mut config = config(&[&registry.url()]);
        config.budgets.body_idle = STANDSTILL;
        Self::with(config)
    }

    async fn resolve(&self, tag: &str, prior: Option<Digest>) -> Result<Resolution, UpstreamError> {
        let tag = Tag::parse(tag).expect("a tag");
        let caller = Caller::Anonymous;
        let resolving = (self.upstream).resolve(&self.repository, &tag, prior, &caller);
        Ok(resolving.await?.value)
    }

    async fn manifest(&self, reference: &str) -> Result<Option<Bytes>, UpstreamError> {
        let reference = Reference::parse(reference).expect("a reference");
        let manifest = self
            .upstream
            .manifest(&self.repository, &reference, &Caller::Anonymous)
            .await?;
        Ok(manifest.map(|manifest| manifest.value.bytes().clone()))
    }

    async fn has_manifest(&self, digest: Digest) -> Result<bool, UpstreamError> {
        self.upstream
            .has_manifest(&self.repository, digest, &Caller::Anonymous)
            .await
    }

    async fn stat_blob(&self, digest: Digest) -> Result<Option<Option<u64>>, UpstreamError> {
        self.upstream
            .stat_blob(&self.repository, digest, &Caller::Anonymous)
            .await
    }

    /// Everything that comes of a blob, until its end or an error.
    async fn blob(
        &self,
        digest: Digest,
        range: Option<RangeRequest>,
    ) -> Result<Option<Received>, UpstreamError> {
        self.go_on(digest, range, None).await
    }

    /// The same of a part that goes on from what came with `prior`.
    async fn go_on(
        &self,
        digest: Digest,
        range: Option<RangeRequest>,
        prior: Option<&Validator>,
    ) -> Result<Option<Received>, UpstreamError> {
        let blob = self
            .upstream
            .blob(&self.repository, digest, range, prior, &Caller::Anonymous)
            .await?;
        let Some(mut blob) = blob else {
            return Ok(None);
        };
        let mut received = Received {
            size: blob.size,
            start: blob.start,
            validator: blob.validator,
            bytes: Vec::new(),
            error: None,
        };
        while let Some(chunk) = blob.stream.next().await {
            match chunk {
                Ok(chunk) => received.bytes.extend_from_slice(&chunk),
                Err(error) => {
                    received.error = Some(error);
                    assert!(blob.stream.next().await.is_none(), "an error ends a body");
                }
            }
        }
        Ok(Some(received))
    }

    async fn tags(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Option<FetchedTags>, UpstreamError> {
        let page = TagPage { after, limit };
        self.upstream
            .tags(&self.repository, page, &Caller::Anonymous)
            .await
    }
}

#[derive(Debug)]
struct Received {
    size: Option<u64>,
    start: u64,
    validator: Option<Validator>,
    bytes: Vec<u8>,
    error: Option<UpstreamError>,
}

impl Received {
    fn digest(&self) -> Digest {
        Hasher::digest_of(Algorithm::Sha256, &self.bytes)
    }
}

fn repository(name: &str) -> Repository {
    Repository::parse(name).expect("a repository")
}

/// A registry with one image, at `app:latest`, and that image.
async fn registry() -> (FixtureRegistry, FixtureImage) {
    let registry = FixtureRegistry::start().await;
    // No test may send what no registry knows.
    registry.behave(|behaviour| behaviour.refuse_unknown_query = true);
    let image = registry.add_image("app", "latest", &ImageSpec::new(1).layers(&[200_000]));
    (registry, image)
}

/// Requests by method, since the last look.
fn asked(registry: &FixtureRegistry) -> String {
    let requests = registry.requests();
    registry.reset_counters();
    let lines = requests
        .iter()
        .map(|request| format!("{} {:?}", request.method, request.object));
    lines.collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn a_tag_is_resolved_by_one_head() {
    let (registry, image) = registry().await;
    let upstream = Asked::of(&registry);
    let Resolution::Names(named) = upstream.resolve("latest", None).await.unwrap() else {
        panic!("the tag names something");
    };
    assert_eq!(&named, image.root());
    assert_eq!(asked(&registry), "HEAD ManifestByTag");
    let unchanged = upstream.resolve("latest", Some(named.digest)).await;
    assert!(matches!(unchanged, Ok(Resolution::Unchanged)));
    assert_eq!(registry.requests()[0].status, Some(304));
    assert_eq!(asked(&registry), "HEAD ManifestByTag");

    let moved = registry.add_image("app", "latest", &ImageSpec::new(2));
    let resolution = upstream.resolve("latest", Some(named.digest)).await;
    assert!(
        matches!(resolution, Ok(Resolution::Names(named)) if named == *moved.root()),
        "a tag that moved"
    );
    registry.delete_tag("app", "latest");
    let absent = upstream.resolve("latest", Some(named.digest)).await;
    assert!(matches!(absent, Ok(Resolution::Absent)));
    assert_eq!(asked(&registry), "HEAD ManifestByTag, HEAD ManifestByTag");
}

#[tokio::test]
async fn requests_are_made_from_scratch() {
    let (registry, image) = registry().await;
    let upstream = Asked::of(&registry);
    upstream.resolve("latest", None).await.unwrap();
    upstream.manifest("latest").await.unwrap().unwrap();
    upstream.blob(image.layers[0].digest, None).await.unwrap();
    upstream.tags(None, 10).await.unwrap();
    for request in registry.requests() {
        let mut names: Vec<_> = request
            .headers
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["accept", "accept-encoding", "host", "user-agent"],
            "{request:?}"
        );
        assert_eq!(request.header("accept-encoding"), Some("identity"));
        let agent = concat!("registry-server/", env!("CARGO_PKG_VERSION"));
        assert_eq!(request.header("user-agent"), Some(agent));
        let accept = request.header("accept").unwrap();
        let of_manifest = matches!(request.object, Object::ManifestByTag);
        for media_type in MediaType::MANIFESTS {
            assert_eq!(accept.contains(media_type), of_manifest, "{request:?}");
        }
        let query = (request.object == Object::Tags).then_some("n=10");
        assert_eq!(request.query.as_deref(), query);
    }
}

#[tokio::test]
async fn a_registry_without_a_useful_head_is_asked_by_get_from_then_on() {
    type Quirk = fn(&mut registry_server::testing::Behaviour);
    let quirks: [(&str, Quirk); 5] = [
        ("405", |behaviour| behaviour.refuse_head = Some(405)),
        ("404", |behaviour| behaviour.refuse_head = Some(404)),
        ("401", |behaviour| behaviour.refuse_head = Some(401)),
        ("501", |behaviour| behaviour.refuse_head = Some(501)),
        ("no digest", |behaviour| behaviour.omit_digest = true),
    ];
    for (name, quirk) in quirks {
        let (registry, image) = registry().await;
        registry.behave(quirk);
        let upstream = Asked::of(&registry);
        let digest = image.root().digest;
        let Resolution::Fetched(manifest) = upstream.resolve("latest", None).await.unwrap() else {
            panic!("{name}: fetched");
        };
        assert_eq!(manifest.digest(), digest, "{name}");
        assert_eq!(
            asked(&registry),
            "HEAD ManifestByTag, GET ManifestByTag",
            "{name}"
        );
        let unchanged = upstream.resolve("latest", Some(digest)).await;
        assert!(matches!(unchanged, Ok(Resolution::Unchanged)), "{name}");
        assert_eq!(registry.requests()[0].status, Some(304), "{name}");
        assert_eq!(asked(&registry), "GET ManifestByTag", "{name}");
        assert!(upstream.has_manifest(digest).await.unwrap(), "{name}");
        assert_eq!(asked(&registry), "GET ManifestByDigest", "{name}");
    }
}

#[tokio::test]
async fn a_head_that_tells_the_digest_is_enough_to_revalidate() {
    let (registry, image) = registry().await;
    registry.behave(|behaviour| behaviour.omit_length = true);
    let upstream = Asked::of(&registry);
    let digest = image.root().digest;
    // Fetching is for what has changed: a registry counts it as a pull.
    for _ in 0..2 {
        let moved = upstream.resolve("latest", None).await.unwrap();
        assert!(matches!(moved, Resolution::Fetched(manifest) if manifest.digest() == digest));
        let requests = "HEAD ManifestByTag, GET ManifestByTag";
        assert_eq!(asked(&registry), requests);
        let unchanged = upstream.resolve("latest", Some(digest)).await.unwrap();
        assert!(matches!(unchanged, Resolution::Unchanged));
        assert_eq!(asked(&registry), "HEAD ManifestByTag");
    }
}

#[tokio::test]
async fn what_is_absent_is_no_error() {
    let (registry, image) = registry().await;
    let mut upstream = Asked::of(&registry);
    // Until HEAD was seen to work, its 404 is not taken for a fact.
    let absent = upstream.resolve("none", None).await;
    assert!(matches!(absent, Ok(Resolution::Absent)));
    assert_eq!(asked(&registry), "HEAD ManifestByTag, GET ManifestByTag");
    upstream.resolve("latest", None).await.unwrap();
    let absent = upstream.resolve("none", None).await;
    assert!(matches!(absent, Ok(Resolution::Absent)));
    assert_eq!(asked(&registry), "HEAD ManifestByTag, HEAD ManifestByTag");

    assert_eq!(upstream.manifest("none").await.unwrap(), None);
    upstream.repository = repository("other");
    let (manifest, blob) = (image.root().digest, image.layers[0].digest);
    assert!(!upstream.has_manifest(manifest).await.unwrap());
    assert_eq!(upstream.stat_blob(blob).await.unwrap(), None);
    assert!(upstream.blob(blob, None).await.unwrap().is_none());
    assert_eq!(upstream.tags(None, 10).await.unwrap(), None);
    assert_eq!(
        asked(&registry),
        "GET ManifestByTag, HEAD ManifestByDigest, HEAD Blob, GET Blob, GET Tags"
    );
}

#[tokio::test]
async fn manifests_are_fetched_byte_for_byte_and_verified() {
    let (registry, image) = registry().await;
    let upstream = Asked::of(&registry);
    let digest = image.root().digest;
    let expected = registry.bytes(&digest);
    for reference in ["latest".to_owned(), digest.to_string()] {
        assert_eq!(
            upstream.manifest(&reference).await.unwrap(),
            expected,
            "{reference}"
        );
    }
    assert!(upstream.has_manifest(digest).await.unwrap());

    // What the header says of a tag's manifest is worth nothing.
    let lie = [("Docker-Content-Digest", "sha256:00")];
    registry.fault(Match::tag("latest"), Times::Once, Fault::headers(&lie));
    assert_eq!(upstream.manifest("latest").await.unwrap(), expected);

    let other = registry
        .add_image("app", "other", &ImageSpec::new(2))
        .root()
        .digest;
    let body = registry.bytes(&other).unwrap();
    for (fault, expected) in [
        (Fault::WrongBytes { offset: 30 }, "content"),
        (
            Fault::Answer {
                status: 200,
                headers: Vec::new(),
                body,
            },
            "content",
        ),
        (Fault::headers(&[("Content-Encoding", "gzip")]), "protocol"),
        (Fault::Short { after: 10 }, "unavailable"),
        (Fault::TooMany { extra: 4 << 20 }, "protocol"),
    ] {
        let name = format!("{fault:?}");
        registry.fault(Match::manifest(digest), Times::Once, fault);
        let error = upstream.manifest(&digest.to_string()).await.unwrap_err();
        assert_eq!(kind(&error), expected, "{name}: {error}");
    }
    assert_eq!(registry.faults_left(), 0);
}

#[tokio::test]
async fn manifests_have_a_limit_whether_they_tell_their_size_or_not() {
    for omit_length in [false, true] {
        let (registry, _) = registry().await;
        registry.behave(|behaviour| behaviour.omit_length = omit_length);
        let document = |padding: usize| format!(r#"{{"layers":[],"x":"{}"}}"#, "x".repeat(padding));
        let empty = document(0).len();
        let mut config = config(&[&registry.url()]);
        config.manifest_bytes_max = 1000;
        let upstream = Asked::with(config);
        for (size, fits) in [(1000, true), (1001, false), (300_000, false)] {
            let bytes = document(size - empty);
            registry.add_manifest("app", Some("big"), MediaType::OCI_MANIFEST, bytes);
            match upstream.manifest("big").await {
                Ok(manifest) => assert!(fits && manifest.is_some(), "{size}"),
                Err(error) => assert!(!fits && kind(&error) == "protocol", "{size}: {error}"),
            }
        }
    }
}

#[tokio::test]
async fn blobs_and_their_parts_are_streamed() {
    let (registry, image) = registry().await;
    let upstream = Asked::of(&registry);
    let digest = image.layers[0].digest;
    let whole = registry.bytes(&digest).unwrap();
    let size = whole.len();
    for (range, part) in [
        (None, 0..size),
        (Some(RangeRequest::FromTo { first: 5, last: 9 }), 5..10),
        (
            Some(RangeRequest::FromTo {
                first: 5,
                last: u64::MAX,
            }),
            5..size,
        ),
        (Some(RangeRequest::From { first: 199_999 }), 199_999..size),
        (Some(RangeRequest::From { first: 0 }), 0..size),
        (Some(RangeRequest::Suffix { length: 7 }), size - 7..size),
        (Some(RangeRequest::Suffix { length: u64::MAX }), 0..size),
    ] {
        for omit_length in [false, true] {
            registry.behave(|behaviour| behaviour.omit_length = omit_length);
            let received = upstream.blob(digest, range).await.unwrap().unwrap();
            assert_eq!(received.start, part.start as u64, "{range:?}");
            assert!(received.bytes == whole[part.clone()], "{range:?}");
            assert!(received.error.is_none(), "{range:?}");
            // A chunked 206 tells the size all the same.
            let tells_size = !omit_length || range.is_some();
            assert_eq!(
                received.size,
                tells_size.then_some(size as u64),
                "{range:?}"
            );
        }
    }
    registry.behave(|behaviour| {
        behaviour.omit_length = false;
        behaviour.ignore_range = true;
    });
    let range = Some(RangeRequest::From { first: 100 });
    let ignored = upstream.blob(digest, range).await.unwrap().unwrap();
    assert_eq!((ignored.start, ignored.bytes.len()), (0, size));
}

#[tokio::test]
async fn a_range_past_the_end_tells_the_size() {
    let (registry, image) = registry().await;
    let upstream = Asked::of(&registry);
    let digest = image.layers[0].digest;
    let range = Some(RangeRequest::From { first: 200_000 });
    let received = upstream.blob(digest, range).await.unwrap().unwrap();
    assert_eq!((received.size, received.start), (Some(200_000), 200_000));
    assert!(received.bytes.is_empty() && received.error.is_none());
    let groundless = Fault::status_with(416, &[("Content-Range", "bytes */200001")]);
    registry.fault(Match::blob(digest), Times::Once, groundless);
    let error = upstream.blob(digest, range).await.unwrap_err();
    assert_eq!(kind(&error), "protocol", "{error}");
}

#[tokio::test]
async fn parts_that_were_not_asked_for_are_refused() {
    let (registry, image) = registry().await;
    let upstream = Asked::of(&registry);
    let digest = image.layers[0].digest;
    let part = |content_range: &str| Fault::Answer {
        status: 206,
        headers: vec![("Content-Range".to_owned(), content_range.to_owned())],
        body: Bytes::from_static(b"abcde"),
    };
    let asked = Some(RangeRequest::FromTo { first: 5, last: 9 });
    for (range, fault) in [
        (None, part("bytes 0-4/200000")),
        (None, Fault::status(206)),
        (asked, part("bytes 4-8/200000")),
        (asked, part("bytes 5-8/200000")),
        (asked, part("bytes 5-9/9")),
        (asked, part("bytes 5-10/200000")),
        (asked, part("bytes 5-9")),
        (asked, Fault::status(206)),
        (
            asked,
            Fault::headers(&[("Content-Range", "bytes 0-4/200000")]),
        ),
        (asked, Fault::headers(&[("Content-Encoding", "br")])),
        (asked, Fault::WrongLength { declared: 4 }),
    ] {
        let name = format!("{range:?} {fault:?}");
        registry.fault(Match::blob(digest), Times::Once, fault);
        let error = upstream.blob(digest, range).await.unwrap_err();
        assert_eq!(kind(&error), "protocol", "{name}: {error}");
    }
    registry.fault(Match::blob(digest), Times::Once, part("bytes 5-9/*"));
    let received = upstream.blob(digest, asked).await.unwrap().unwrap();
    assert_eq!(
        (received.size, received.bytes.as_slice()),
        (None, &b"abcde"[..])
    );
}

#[tokio::test]
async fn bodies_that_break_off_end_in_an_error() {
    let (registry, image) = registry().await;
    let (patient, impatient) = (
        Asked::of(&registry),
        Asked::intolerant_of_standstill(&registry),
    );
    let digest = image.layers[0].digest;
    let ranged = Some(RangeRequest::From { first: 100_000 });
    for (fault, comes, expected) in [
        (Fault::Short { after: 0 }, 0, Some("unavailable")),
        (Fault::Short { after: 70_000 }, 70_000, Some("unavailable")),
        (
            Fault::WrongLength { declared: 300_000 },
            100_000,
            Some("unavailable"),
        ),
        (Fault::Stall { after: 5000 }, 5000, Some("timeout")),
        // To hold bytes against their digest is the cache's part.
        (Fault::WrongBytes { offset: 7 }, 100_000, None),
    ] {
        for range in [None, ranged] {
            let name = format!("{range:?} {fault:?}");
            // The whole is twice its second half.
            let comes = match (range, comes) {
                (None, 100_000) => 200_000,
                _ => comes,
            };
            if range.is_some() && name.contains("declared") {
                // Told from the range at once: see the test above.
                continue;
            }
            let upstream = match expected {
                Some("timeout") => &impatient,
                _ => &patient,
            };
            registry.fault(Match::blob(digest), Times::Once, fault.clone());
            let received = upstream.blob(digest, range).await.unwrap().unwrap();
            assert_eq!(received.bytes.len(), comes, "{name}");
            let error = received.error.as_ref().map(kind);
            assert_eq!(error, expected, "{name}: {:?}", received.error);
        }
    }
    // What a reset leaves of the bytes before it is up to the network.
    registry.fault(
        Match::blob(digest),
        Times::Once,
        Fault::Reset { after: 70_000 },
    );
    let received = patient.blob(digest, None).await.unwrap().unwrap();
    assert_eq!(received.error.as_ref().map(kind), Some("unavailable"));
    // A part that is chunked tells its length by its range only.
    registry.behave(|behaviour| behaviour.omit_length = true);
    for (body, expected) in [("abc", "unavailable"), ("abcdefg", "protocol")] {
        let part = Fault::Answer {
            status: 206,
            headers: vec![("Content-Range".to_owned(), "bytes 5-9/200000".to_owned())],
            body: Bytes::from_static(body.as_bytes()),
        };
        registry.fault(Match::blob(digest), Times::Once, part);
        let range = Some(RangeRequest::FromTo { first: 5, last: 9 });
        let received = patient.blob(digest, range).await.unwrap().unwrap();
        assert_eq!(received.error.as_ref().map(kind), Some(expected), "{body}");
        assert!(received.bytes.len() <= 5, "{body}");
    }
    // Chunked bodies that are cut do not pass for whole ones.
    registry.fault(
        Match::blob(digest),
        Times::Once,
        Fault::Short { after: 70_000 },
    );
    let received = patient.blob(digest, None).await.unwrap().unwrap();
    assert_eq!(received.error.as_ref().map(kind), Some("unavailable"));
    assert_eq!(registry.faults_left(), 0);
}

#[tokio::test]
async fn a_slow_reader_does_not_run_out_of_budget() {
    let (registry, image) = registry().await;
    let gate = Gate::new();
    let digest = image.layers[0].digest;
    let hold = Fault::HoldAfter {
        bytes: 1000,
        gate: gate.clone(),
    };
    registry.fault(Match::blob(digest), Times::Once, hold);
    let upstream = Asked::impatient(&registry);
    let blob = upstream
        .upstream
        .blob(&upstream.repository, digest, None, None, &Caller::Anonymous)
        .await;
    let mut stream = blob.unwrap().unwrap().stream;
    // Nobody waits for bytes in this time: the reader is busy elsewhere.
    tokio::time::sleep(3 * SOON).await;
    gate.open();
    let mut count = 0;
    while let Some(chunk) = stream.next().await {
        count += chunk.unwrap().len();
    }
    assert_eq!(count, 200_000);
}

#[tokio::test]
async fn a_blob_is_weighed_without_fetching_it() {
    let (registry, image) = registry().await;
    let digest = image.layers[0].digest;
    let upstream = Asked::of(&registry);
    assert_eq!(
        upstream.stat_blob(digest).await.unwrap(),
        Some(Some(200_000))
    );
    assert_eq!(asked(&registry), "HEAD Blob");
    registry.behave(|behaviour| behaviour.omit_length = true);
    assert_eq!(upstream.stat_blob(digest).await.unwrap(), Some(None));
    assert_eq!(asked(&registry), "HEAD Blob");
    registry.behave(|behaviour| {
        behaviour.omit_length = false;
        behaviour.refuse_head = Some(405);
    });
    for requests in ["HEAD Blob, GET Blob", "GET Blob"] {
        assert_eq!(
            upstream.stat_blob(digest).await.unwrap(),
            Some(Some(200_000))
        );
        assert_eq!(
            registry.requests().last().unwrap().range(),
            Some("bytes=0-0")
        );
        assert_eq!(registry.blob_bytes_sent(&digest), 1);
        assert_eq!(asked(&registry), requests);
    }
    let empty = registry.add_blob("app", 1, 0).digest;
    assert_eq!(upstream.stat_blob(empty).await.unwrap(), Some(Some(0)));
}

#[tokio::test]
async fn statuses_become_the_errors_that_callers_act_on() {
    let (registry, image) = registry().await;
    let digest = image.root().digest;
    let blob = image.layers[0].digest;
    for (status, expected) in [
        (400, "protocol"),
        (401, "unauthorized"),
        (403, "unauthorized"),
        (406, "protocol"),
        (408, "unavailable"),
        (418, "protocol"),
        (429, "rate-limited"),
        (500, "unavailable"),
        (502, "unavailable"),
        (503, "unavailable"),
        (504, "unavailable"),
        (201, "protocol"),
        (204, "protocol"),
        (300, "protocol"),
        (302, "protocol"),
        (304, "protocol"),
    ] {
        // Each time a new one, that nothing was refused yet.
        let upstream = Asked::of(&registry);
        upstream.resolve("latest", None).await.unwrap();
        registry.fault(Match::any(), Times::Always, Fault::status(status));
        let errors = [
            upstream.resolve("latest", None).await.err(),
            upstream.manifest(&digest.to_string()).await.err(),
            upstream.has_manifest(digest).await.err(),
            upstream.stat_blob(blob).await.err(),
            upstream.blob(blob, None).await.err(),
            upstream.tags(None, 10).await.err(),
        ];
        for (error, what) in errors
            .into_iter()
            .zip(["resolve", "manifest", "has", "stat", "blob", "tags"])
        {
            let error = error.unwrap_or_else(|| panic!("{status} is an error of {what}"));
            assert_eq!(kind(&error), expected, "{status} {what}: {error}");
        }
        registry.clear_faults();
    }
    let limited = Fault::status_with(429, &[("Retry-After", "7")]);
    registry.fault(Match::any(), Times::Once, limited);
    let error = Asked::of(&registry)
        .resolve("latest", None)
        .await
        .unwrap_err();
    let UpstreamError::RateLimited { retry_after } = error else {
        panic!("{error}");
    };
    assert_eq!(retry_after, Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn silence_ends_in_time() {
    let (registry, image) = registry().await;
    // Each time a new one, that did not find the registry silent before.
    let upstream = || Asked::impatient(&registry);
    let interval = Duration::from_millis(20);
    for fault in [
        Fault::BlackHole,
        Fault::SlowHead { interval },
        Fault::Hold { gate: Gate::new() },
    ] {
        registry.fault(Match::any(), Times::Always, fault);
        let error = upstream().resolve("latest", None).await.unwrap_err();
        assert_eq!(kind(&error), "timeout", "{error}");
        let error = upstream()
            .blob(image.layers[0].digest, None)
            .await
            .unwrap_err();
        assert_eq!(kind(&error), "timeout", "{error}");
        registry.clear_faults();
    }
    registry.fault(Match::any(), Times::Always, Fault::Stall { after: 10 });
    let error = upstream().manifest("latest").await.unwrap_err();
    assert_eq!(kind(&error), "timeout", "{error}");
    let error = upstream().tags(None, 10).await.unwrap_err();
    assert_eq!(kind(&error), "timeout", "{error}");
    // What was given up leaves nothing behind at the registry.
    registry.wait_for(|stats| stats.in_flight == 0).await;
}

#[tokio::test]
async fn a_connection_that_ends_before_an_answer_is_tried_once_more() {
    let (registry, _) = registry().await;
    let upstream = Asked::of(&registry);
    for (fault, expected) in [(Fault::Close, true), (Fault::Garbage, false)] {
        let name = format!("{fault:?}");
        registry.fault(Match::any(), Times::Once, fault.clone());
        assert!(
            upstream.resolve("latest", None).await.is_ok() || !expected,
            "{name}"
        );
        registry.clear_faults();
        registry.fault(Match::any(), Times::Always, fault);
        registry.reset_counters();
        let error = upstream.resolve("latest", None).await.unwrap_err();
        assert_eq!(kind(&error), "unavailable", "{name}: {error}");
        assert!(
            error.to_string().contains(&registry.host()),
            "{name}: {error}"
        );
        assert!(registry.total() <= 2, "{name}");
        registry.clear_faults();
    }
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_in_time_is_given_up() {
    let (registry, _) = registry().await;
    // The operating system takes the connection; nobody ever shakes hands on it.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("https://{}", listener.local_addr().unwrap());
    for (endpoints, answers) in [
        (vec![silent.clone()], false),
        (vec![silent, registry.url()], true),
    ] {
        let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
        let mut config = config(&endpoints);
        config.budgets.connect = SOON;
        match Asked::with(config).resolve("latest", None).await {
            Ok(_) => assert!(answers),
            Err(UpstreamError::Timeout { what }) => {
                assert!(!answers && what == "take a connection", "{what}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn names_that_do_not_resolve_are_told() {
    let upstream = Asked::with(config(&["http://registry.invalid"]));
    let error = upstream.manifest("latest").await.unwrap_err();
    assert_eq!(kind(&error), "unavailable");
    assert!(error.to_string().contains("registry.invalid"), "{error}");
}

#[tokio::test]
async fn tokens_are_fetched_once_and_kept() {
    for auth in [
        TokenAuth::default(),
        TokenAuth {
            field: "access_token",
            ..TokenAuth::default()
        },
        TokenAuth {
            basic_first: true,
            ..TokenAuth::default()
        },
        TokenAuth {
            service: None,
            expires_in: None,
            ..TokenAuth::default()
        },
    ] {
        let (registry, image) = registry().await;
        registry.behave(|behaviour| behaviour.token = Some(auth.clone()));
        let upstream = Asked::of(&registry);
        upstream.resolve("latest", None).await.unwrap();
        let query = &registry.requests()[1].query;
        let service = auth
            .service
            .map_or(String::new(), |service| format!("service={service}&"));
        assert_eq!(
            *query,
            Some(format!("{service}scope=repository%3Aapp%3Apull"))
        );
        assert_eq!(
            asked(&registry),
            "HEAD ManifestByTag, GET Token, HEAD ManifestByTag"
        );
        upstream.resolve("latest", None).await.unwrap();
        upstream.blob(image.layers[0].digest, None).await.unwrap();
        assert_eq!(asked(&registry), "HEAD ManifestByTag, GET Blob");
        registry.revoke_tokens();
        upstream.resolve("latest", None).await.unwrap();
        assert_eq!(
            asked(&registry),
            "HEAD ManifestByTag, GET Token, HEAD ManifestByTag"
        );
    }
}

#[tokio::test]
async fn one_token_is_fetched_for_all_who_need_it() {
    let (registry, _) = registry().await;
    registry.add_image("other", "latest", &ImageSpec::new(1));
    registry.behave(|behaviour| behaviour.token = Some(TokenAuth::default()));
    let gate = Gate::new();
    let hold = Fault::Hold { gate: gate.clone() };
    registry.fault(Match::object(Object::Token), Times::Once, hold);
    let mut upstream = Asked::of(&registry);
    let all = join_all((0..16).map(|_| upstream.resolve("latest", None)));
    let open = async {
        registry
            .wait_for(|stats| stats.count(Method::HEAD, Object::ManifestByTag) == 16)
            .await;
        gate.open();
    };
    let (all, ()) = tokio::join!(all, open);
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(registry.count(Method::GET, Object::Token), 1);
    upstream.repository = repository("other");
    upstream.resolve("latest", None).await.unwrap();
    assert_eq!(registry.count(Method::GET, Object::Token), 2);
}

#[tokio::test]
async fn a_token_that_cannot_be_had_is_an_error() {
    let (registry, _) = registry().await;
    registry.behave(|behaviour| behaviour.token = Some(TokenAuth::default()));
    let body = |body: &[u8]| Fault::Answer {
        status: 200,
        headers: Vec::new(),
        body: Bytes::copy_from_slice(body),
    };
    for (fault, expected) in [
        (Fault::status(401), "unauthorized"),
        (Fault::status(403), "unauthorized"),
        (Fault::status(429), "rate-limited"),
        (Fault::status(500), "unavailable"),
        (
            Fault::status_with(302, &[("Location", "/elsewhere")]),
            "protocol",
        ),
        (body(b"{}"), "protocol"),
        (body(b"<html>"), "protocol"),
        (body(&vec![b' '; (1 << 20) + 1]), "protocol"),
        (body(br#"{"token":"not-issued-by-me"}"#), "unauthorized"),
    ] {
        let name = format!("{fault:?}").chars().take(60).collect::<String>();
        registry.fault(Match::object(Object::Token), Times::Always, fault);
        let upstream = Asked::of(&registry);
        let error = upstream.manifest("latest").await.unwrap_err();
        assert_eq!(kind(&error), expected, "{name}: {error}");
        // Asked with and without a token once each at the most, and for a token once.
        assert!(
            registry.count(Method::GET, Object::ManifestByTag) <= 2,
            "{name}"
        );
        assert_eq!(registry.count(Method::GET, Object::Token), 1, "{name}");
        registry.clear_faults();
        registry.reset_counters();
        let outcome = upstream.manifest("latest").await;
        // A limit holds on for a while; nothing else does.
        assert_eq!(outcome.is_err(), expected == "rate-limited", "{name}");
        registry.reset_counters();
    }
}

#[tokio::test]
async fn a_realm_that_does_not_belong_to_the_registry_is_not_asked() {
    let (registry, _) = registry().await;
    let elsewhere = FixtureRegistry::start().await;
    let realm = elsewhere.url().replace("127.0.0.1", "localhost") + "/token";
    let auth = TokenAuth {
        realm: Some(realm),
        ..TokenAuth::default()
    };
    registry.behave(|behaviour| behaviour.token = Some(auth));
    let error = Asked::of(&registry).manifest("latest").await.unwrap_err();
    assert_eq!(kind(&error), "protocol");
    assert!(
        error.to_string().contains("realms"),
        "it says what to do: {error}"
    );
    assert_eq!(elsewhere.stats().connections, 0);
}

/// RFC 9110, section 13.1.5: a part goes on from a body of the same tag, and the tag means something
/// to the host that sent it only.
#[tokio::test]
async fn a_part_goes_on_from_the_body_that_its_host_sent() {
    let (registry, image) = registry().await;
    let storage = registry.start_storage().await;
    let digest = image.layers[0].digest;
    let upstream = Asked::of(&registry);
    let range = Some(RangeRequest::From { first: 10 });
    let if_range = |registry: &FixtureRegistry| {
        let requests = registry.requests();
        let last = requests.last().expect("a request");
        last.header("if-range").map(str::to_owned)
    };

    let begun = upstream.blob(digest, None).await.unwrap().unwrap();
    let of_registry = begun.validator.expect("a strong tag");
    assert_eq!(of_registry.entity_tag(), format!("\"{digest}\""));
    for (tag, start) in [(of_registry.entity_tag(), 10), ("\"another\"", 0)] {
        let prior = Validator::new(of_registry.source(), tag);
        let part = upstream.go_on(digest, range, Some(&prior)).await;
        assert_eq!(part.unwrap().unwrap().start, start, "{tag}");
        assert_eq!(if_range(&registry).as_deref(), Some(tag));
    }
    for unusable in ["W/\"x\"", "x", "\"", "\"x"] {
        let fault = Fault::headers(&[("ETag", unusable)]);
        registry.fault(Match::blob(digest), Times::Once, fault);
        let weak = upstream.blob(digest, None).await.unwrap().unwrap();
        assert_eq!(weak.validator, None, "{unusable}");
    }

    let redirect = BlobRedirect {
        base: Some(storage.url()),
        ..BlobRedirect::default()
    };
    registry.behave(|behaviour| behaviour.redirect_blobs = Some(redirect));
    let part = upstream.go_on(digest, range, Some(&of_registry)).await;
    let of_storage = part.unwrap().unwrap().validator.expect("a strong tag");
    assert_eq!(
        if_range(&registry).as_deref(),
        Some(of_registry.entity_tag())
    );
    assert_eq!(if_range(&storage), None);
    let part = upstream.go_on(digest, range, Some(&of_storage)).await;
    assert_eq!(part.unwrap().unwrap().start, 10);
    assert_eq!(if_range(&registry), None);
    assert_eq!(if_range(&storage).as_deref(), Some(of_storage.entity_tag()));
}

#[tokio::test]
async fn redirects_to_storage_carry_the_range_and_nothing_secret() {
    let (registry, image) = registry().await;
    let storage = registry.start_storage().await;
    storage.behave(|behaviour| behaviour.refuse_storage_authorization = true);
    let digest = image.layers[0].digest;
    let whole = registry.bytes(&digest).unwrap();
    for (status, further_hops) in [(301, 0), (302, 1), (303, 2), (307, 9), (308, 0)] {
        let base = Some(storage.url());
        let redirect = BlobRedirect {
            base,
            status,
            further_hops,
            ..BlobRedirect::default()
        };
        registry.behave(|behaviour| {
            behaviour.redirect_blobs = Some(redirect);
            behaviour.token = Some(TokenAuth::default());
        });
        let upstream = Asked::of(&registry);
        let range = Some(RangeRequest::From { first: 150_000 });
        let received = upstream.blob(digest, range).await.unwrap().unwrap();
        assert_eq!(received.start, 150_000);
        assert!(received.bytes == whole[150_000..], "{status}");
        assert_eq!(
            upstream.stat_blob(digest).await.unwrap(),
            Some(Some(200_000))
        );
        assert_eq!(storage.total(), 2 * u64::from(further_hops + 1), "{status}");
        for request in storage.requests() {
            assert_eq!(request.header("authorization"), None, "{status}");
            let expected = (request.method == Method::GET).then_some("bytes=150000-");
            assert_eq!(request.range(), expected, "{status}");
        }
        storage.reset_counters();
    }
}

#[tokio::test]
async fn a_storage_that_asks_for_a_token_gets_none() {
    let (registry, image) = registry().await;
    let storage = registry.start_storage().await;
    let digest = image.layers[0].digest;
    let redirect = BlobRedirect {
        base: Some(storage.url()),
        ..BlobRedirect::default()
    };
    registry.behave(|behaviour| behaviour.redirect_blobs = Some(redirect));
    let challenge = format!("Bearer realm=\"{}/token\"", storage.url());
    let challenge = Fault::status_with(401, &[("WWW-Authenticate", &challenge)]);
    storage.fault(Match::storage(digest), Times::Always, challenge);
    let error = Asked::of(&registry).blob(digest, None).await.unwrap_err();
    assert_eq!(kind(&error), "unavailable", "{error}");
    assert_eq!(asked(&registry), "GET Blob");
    assert_eq!(asked(&storage), "GET Storage");
}

#[tokio::test]
async fn redirects_within_the_registry_keep_the_token() {
    let (registry, image) = registry().await;
    registry.behave(|behaviour| {
        behaviour.redirect_blobs = Some(BlobRedirect::default());
        behaviour.token = Some(TokenAuth::default());
    });
    let upstream = Asked::of(&registry);
    let received = upstream
        .blob(image.layers[0].digest, None)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(received.digest(), image.layers[0].digest);
    let last = registry.requests().pop().unwrap();
    assert_eq!(last.object, Object::Storage);
    assert!(last.header("authorization").is_some());
}

#[tokio::test]
async fn storage_that_is_signed_for_get_is_weighed_by_get() {
    let (registry, image) = registry().await;
    let storage = registry.start_storage().await;
    let digest = image.layers[0].digest;
    let redirect = BlobRedirect {
        base: Some(storage.url()),
        signed_for_get_only: true,
        ..BlobRedirect::default()
    };
    registry.behave(|behaviour| behaviour.redirect_blobs = Some(redirect));
    let upstream = Asked::of(&registry);
    for requests in ["HEAD Storage, GET Storage", "GET Storage"] {
        assert_eq!(
            upstream.stat_blob(digest).await.unwrap(),
            Some(Some(200_000))
        );
        assert_eq!(storage.blob_bytes_sent(&digest), 1);
        assert_eq!(asked(&storage), requests);
    }
}

#[tokio::test]
async fn what_goes_wrong_behind_a_redirect_tells_no_secret() {
    let (registry, image) = registry().await;
    let storage = registry.start_storage().await;
    let digest = image.layers[0].digest;
    let redirect = BlobRedirect {
        base: Some(storage.url()),
        ..BlobRedirect::default()
    };
    registry.behave(|behaviour| behaviour.redirect_blobs = Some(redirect));
    let (patient, impatient) = (Asked::of(&registry), Asked::impatient(&registry));
    let upstream = |expected| match expected {
        "timeout" => &impatient,
        _ => &patient,
    };
    let check = |error: UpstreamError, expected: &str, name: &str| {
        assert_eq!(kind(&error), expected, "{name}: {error}");
        let told = format!("{error} {error:?} {error:#?}");
        for secret in ["fixture-secret", "Signature", "/storage/"] {
            assert!(!told.contains(secret), "{name}: {told}");
        }
    };
    for (fault, expected) in [
        // A storage's refusal says nothing of our access to the registry.
        (Fault::status(401), "unavailable"),
        (Fault::status(403), "unavailable"),
        (Fault::status(503), "unavailable"),
        (Fault::status(400), "protocol"),
        (
            Fault::status_with(307, &[("Location", "ftp://h/")]),
            "protocol",
        ),
        (Fault::Close, "unavailable"),
        (Fault::Garbage, "unavailable"),
        (Fault::BlackHole, "timeout"),
    ] {
        let name = format!("{fault:?}");
        storage.fault(Match::storage(digest), Times::Always, fault);
        let error = upstream(expected).blob(digest, None).await.unwrap_err();
        check(error, expected, &name);
        storage.clear_faults();
    }
    for (fault, expected) in [
        (Fault::Short { after: 10 }, "unavailable"),
        (Fault::Reset { after: 10 }, "unavailable"),
        (Fault::Stall { after: 10 }, "timeout"),
    ] {
        let name = format!("{fault:?}");
        storage.fault(Match::storage(digest), Times::Once, fault);
        let received = Asked::intolerant_of_standstill(&registry)
            .blob(digest, None)
            .await
            .unwrap()
            .unwrap();
        check(received.error.unwrap(), expected, &name);
    }
    storage.stop().await;
    let error = patient.blob(digest, None).await.unwrap_err();
    check(error, "unavailable", "stopped");
}

#[tokio::test]
async fn redirects_end_somewhere() {
    let (registry, image) = registry().await;
    let digest = image.layers[0].digest;
    let redirect = BlobRedirect {
        further_hops: u32::MAX,
        ..BlobRedirect::default()
    };
    registry.behave(|behaviour| behaviour.redirect_blobs = Some(redirect));
    let error = Asked::of(&registry).blob(digest, None).await.unwrap_err();
    assert_eq!(kind(&error), "protocol", "{error}");
    assert_eq!(registry.total(), 11);
}

#[tokio::test]
async fn redirects_lead_nowhere_they_should_not() {
    let (registry, image) = registry().await;
    let storage = registry.start_storage().await;
    let digest = image.layers[0].digest;
    // This registry is at a private address itself, so that private ones are open to it …
    for location in [
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/x",
        "http://[::ffff:169.254.169.254]/x",
        "http://0.0.0.0/x",
        "file:///etc/passwd",
        "http://user:secret@127.0.0.1/x",
    ] {
        let redirect = Fault::status_with(307, &[("Location", location)]);
        registry.fault(Match::blob(digest), Times::Once, redirect);
        let error = Asked::of(&registry).blob(digest, None).await.unwrap_err();
        assert_eq!(kind(&error), "protocol", "{location}: {error}");
    }
    // … and this one, behind a proxy, is not known to be.
    let redirect = BlobRedirect {
        base: Some(storage.url()),
        ..BlobRedirect::default()
    };
    registry.behave(|behaviour| behaviour.redirect_blobs = Some(redirect));
    let mut config = config(&["http://registry.example.org"]);
    config.proxies = Proxies::all(registry.url().parse().unwrap());
    let upstream = Asked::with(config);
    upstream.resolve("latest", None).await.unwrap();
    let error = upstream.blob(digest, None).await.unwrap_err();
    assert_eq!(kind(&error), "protocol", "{error}");
    assert_eq!(storage.stats().connections, 0);
    let host = registry.requests().pop().unwrap();
    assert_eq!(host.header("host"), Some("registry.example.org"));
}

#[tokio::test]
async fn tags_are_listed_across_pages() {
    let registry = FixtureRegistry::start().await;
    for tag in ["a", "b", "c", "d", "e"] {
        registry.add_image("app", tag, &ImageSpec::new(1));
    }
    let upstream = Asked::of(&registry);
    for (page_max, after, limit, tags, more, requests) in [
        (None, None, 100, "abcde", false, 1),
        (None, None, 5, "abcde", false, 1),
        (None, None, 2, "ab", true, 1),
        (None, Some("b"), 2, "cd", true, 1),
        (None, Some("d"), 2, "e", false, 1),
        (None, Some("e"), 2, "", false, 1),
        (Some(2), None, 100, "abcde", false, 3),
        (Some(2), None, 3, "abc", true, 2),
        (Some(1), Some("a"), 3, "bcd", true, 3),
    ] {
        registry.behave(|behaviour| behaviour.tags_page_max = page_max);
        registry.reset_counters();
        let fetched = upstream.tags(after, limit).await.unwrap().unwrap();
        let names: String = fetched.tags.iter().map(Tag::as_str).collect();
        assert_eq!(
            (names.as_str(), fetched.more),
            (tags, more),
            "{page_max:?} {after:?} {limit}"
        );
        assert_eq!(registry.count(Method::GET, Object::Tags), requests);
    }
}

#[tokio::test]
async fn a_list_of_many_small_pages_is_followed_only_so_far() {
    let registry = FixtureRegistry::start().await;
    for number in 0..70 {
        registry.add_image("app", &format!("{number:02}"), &ImageSpec::new(1));
    }
    registry.behave(|behaviour| behaviour.tags_page_max = Some(1));
    let fetched = Asked::of(&registry).tags(None, 100).await.unwrap().unwrap();
    assert_eq!((fetched.tags.len(), fetched.more), (64, true));
    assert_eq!(registry.count(Method::GET, Object::Tags), 64);
}

#[tokio::test]
async fn lists_of_tags_that_never_end_do() {
    let (registry, _) = registry().await;
    let upstream = Asked::of(&registry);
    let page = |link: &str| Fault::Answer {
        status: 200,
        headers: vec![("Link".to_owned(), link.to_owned())],
        body: Bytes::from_static(br#"{"name":"app","tags":["a"]}"#),
    };
    for (link, requests) in [
        // Always the next page, and always the same one: asked for once each.
        (r#"</v2/app/tags/list?n=10>; rel="next""#, 1),
        // Leads elsewhere: only the query is used.
        (r#"<http://169.254.169.254/?last=a>; rel="next""#, 2),
    ] {
        registry.fault(Match::object(Object::Tags), Times::Always, page(link));
        let fetched = upstream.tags(None, 10).await.unwrap().unwrap();
        assert!(!fetched.more, "{link}");
        assert_eq!(
            registry.count(Method::GET, Object::Tags),
            requests,
            "{link}"
        );
        registry.clear_faults();
        registry.reset_counters();
    }
    for link in [
        "</next>; rel=next",
        &format!("<?{}>; rel=next", "x".repeat(3000)),
    ] {
        registry.fault(Match::object(Object::Tags), Times::Once, page(link));
        assert_eq!(
            kind(&upstream.tags(None, 10).await.unwrap_err()),
            "protocol"
        );
    }
    for body in ["", "[]", r#"{"tags":"a"}"#] {
        let fault = Fault::Answer {
            status: 200,
            headers: Vec::new(),
            body: body.into(),
        };
        registry.fault(Match::object(Object::Tags), Times::Once, fault);
        let error = upstream.tags(None, 10).await.unwrap_err();
        assert_eq!(kind(&error), "protocol", "{body}: {error}");
    }
    for body in ["{}", r#"{"tags":null}"#, r#"{"tags":["-no"]}"#] {
        let fault = Fault::Answer {
            status: 200,
            headers: Vec::new(),
            body: body.into(),
        };
        registry.fault(Match::object(Object::Tags), Times::Once, fault);
        let fetched = upstream.tags(None, 10).await.unwrap().unwrap();
        assert_eq!(fetched, FetchedTags::default(), "{body}");
    }
}

/// A folder with what a client of this registry needs: authority, certificate and key.
fn pem_files(registry: &FixtureRegistry) -> (tempfile::TempDir, [PathBuf; 3]) {
    let folder = tempfile::tempdir().expect("a folder");
    let tls = registry.tls().expect("HTTPS");
    let files = [
        ("ca.pem", &tls.ca_pem),
        ("cert.pem", &tls.client_cert_pem),
        ("key.pem", &tls.client_key_pem),
    ];
    let paths = files.map(|(name, contents)| {
        let path = folder.path().join(name);
        std::fs::write(&path, contents).expect("a file");
        path
    });
    (folder, paths)
}

#[tokio::test]
async fn certificates_are_verified() {
    let registry = FixtureRegistry::start_https().await;
    let other = FixtureRegistry::start_https().await;
    registry.add_image("app", "latest", &ImageSpec::new(1));
    let (_folder, [ca_file, ..]) = pem_files(&registry);
    let (_other_folder, [other_ca_file, ..]) = pem_files(&other);
    let localhost = registry.url().replace("127.0.0.1", "localhost");
    for (url, ca_file, insecure_skip_verify, trusted) in [
        (registry.url(), Some(&ca_file), false, true),
        (localhost, Some(&ca_file), false, true),
        (registry.url(), Some(&other_ca_file), false, false),
        (registry.url(), None, true, true),
    ] {
        let mut config = config(&[&url]);
        config.ca_file = ca_file.cloned();
        config.insecure_skip_verify = insecure_skip_verify;
        match Asked::with(config).manifest("latest").await {
            Ok(manifest) => assert!(trusted && manifest.is_some(), "{url} {ca_file:?}"),
            Err(error) => {
                assert!(!trusted && kind(&error) == "unavailable", "{error}");
                assert!(error.to_string().contains("certificate"), "{error}");
            }
        }
    }
    // Plain HTTP, and nothing at all, where TLS is expected.
    let plain = FixtureRegistry::start().await;
    let mut config = config(&[&plain.url().replace("http:", "https:")]);
    config.insecure_skip_verify = true;
    config.budgets.connect = SOON;
    let error = Asked::with(config).manifest("latest").await.unwrap_err();
    assert!(matches!(kind(&error), "unavailable" | "timeout"), "{error}");
}

#[tokio::test]
async fn a_certificate_is_shown_to_the_registry_and_to_nobody_else() {
    let registry = FixtureRegistry::start_https().await;
    let storage = registry.start_storage().await;
    let image = registry.add_image("app", "latest", &ImageSpec::new(1).layers(&[1000]));
    let digest = image.layers[0].digest;
    let redirect = BlobRedirect {
        base: Some(storage.url()),
        ..BlobRedirect::default()
    };
    registry.behave(|behaviour| behaviour.redirect_blobs = Some(redirect));
    let (_folder, [ca_file, cert_file, key_file]) = pem_files(&registry);
    let mut config = config(&[&registry.url()]);
    config.ca_file = Some(ca_file);
    config.client_cert_file = Some(cert_file);
    config.client_key_file = Some(key_file);
    let received = Asked::with(config)
        .blob(digest, None)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(received.digest(), digest);
    assert!(registry.requests()[0].client_certificate);
    assert!(!storage.requests()[0].client_certificate);
}

#[tokio::test]
async fn https_is_not_left_for_http() {
    let registry = FixtureRegistry::start_https().await;
    let image = registry.add_image("app", "latest", &ImageSpec::new(1).layers(&[1000]));
    let storage = FixtureRegistry::start().await;
    let digest = image.layers[0].digest;
    let redirect = BlobRedirect {
        base: Some(storage.url()),
        ..BlobRedirect::default()
    };
    let realm = Some(format!("{}/token", storage.url()));
    registry.behave(|behaviour| behaviour.redirect_blobs = Some(redirect));
    let (_folder, [ca_file, ..]) = pem_files(&registry);
    let mut config = config(&[&registry.url()]);
    config.ca_file = Some(ca_file);
    let upstream = Asked::with(config);
    let error = upstream.blob(digest, None).await.unwrap_err();
    assert_eq!(kind(&error), "protocol", "{error}");
    let auth = TokenAuth {
        realm,
        ..TokenAuth::default()
    };
    registry.behave(|behaviour| behaviour.token = Some(auth));
    let error = upstream.manifest("latest").await.unwrap_err();
    assert_eq!(kind(&error), "protocol", "{error}");
    assert_eq!(storage.stats().connections, 0);
}

#[tokio::test]
async fn bodies_that_break_off_do_so_over_https_too() {
    let registry = FixtureRegistry::start_https().await;
    let blob = registry.add_blob("app", 1, 100_000).digest;
    let mut config = config(&[&registry.url()]);
    config.insecure_skip_verify = true;
    let upstream = Asked::with(config);
    for fault in [
        Fault::Short { after: 70_000 },
        Fault::Reset { after: 70_000 },
    ] {
        registry.fault(Match::blob(blob), Times::Once, fault);
        let received = upstream.blob(blob, None).await.unwrap().unwrap();
        assert_eq!(received.error.as_ref().map(kind), Some("unavailable"));
    }
    let received = upstream.blob(blob, None).await.unwrap().unwrap();
    assert_eq!((received.digest(), received.error.is_none()), (blob, true));
}

#[test]
fn what_cannot_be_done_is_refused_at_once() {
    let new = |config| HttpUpstream::new(config).map(drop);
    assert!(matches!(
        new(config(&[])),
        Err(HttpUpstreamConfigError::NoEndpoint)
    ));
    for url in [
        "ftp://registry.test",
        "https://user:secret@registry.test",
        "https://registry.test?secret",
        "https://registry.test/#secret",
        "unix:/socket",
    ] {
        let error = new(config(&[url])).unwrap_err();
        assert!(
            matches!(error, HttpUpstreamConfigError::Url { .. }),
            "{url}: {error}"
        );
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let mut half = config(&["https://registry.test"]);
    half.client_cert_file = Some("/cert.pem".into());
    assert!(matches!(
        new(half),
        Err(HttpUpstreamConfigError::HalfIdentity)
    ));
    for contents in [None, Some(""), Some("-----BEGIN CERTIFICATE-----\n???")] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.pem");
        if let Some(contents) = contents {
            std::fs::write(&path, contents).expect("a file");
        }
        let mut config = config(&["https://registry.test"]);
        config.ca_file = Some(path.clone());
        let error = new(config).unwrap_err();
        assert!(
            matches!(error, HttpUpstreamConfigError::File { .. }),
            "{error}"
        );
        assert!(
            error.to_string().contains(path.to_str().expect("text")),
            "{error}"
        );
    }
}
