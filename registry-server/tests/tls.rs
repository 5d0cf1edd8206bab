//! TLS and HTTP/2 towards clients.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "loopback/mod.rs"]
mod loopback;

use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use http::{Request, StatusCode, Version};
use loopback::{Blobs, Client, Mirror, PATIENCE, Setup, add_image, repository, request};
use registry_core::UpstreamError;
use registry_core::testing::content::sample;
use registry_core::testing::{Act, BodyScript, Call, Gate, Piece};
use registry_server::front::FrontLimits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

async fn secured(limits: FrontLimits, blobs: Blobs) -> Mirror {
    Mirror::with(Setup {
        secured: true,
        limits,
        blobs,
        ..Setup::default()
    })
    .await
}

/// A client of HTTP/2 that hands over every frame's worth.
struct Http2 {
    requests: SendRequest<Bytes>,
    connection: JoinSet<Result<(), h2::Error>>,
}

/// An answer's status, length and body, and how the body ended.
struct Answered {
    status: StatusCode,
    length: Option<u64>,
    body: Vec<u8>,
    error: Option<h2::Error>,
}

impl Http2 {
    async fn connect(mirror: &Mirror) -> Self {
        let mut builder = h2::client::Builder::new();
        // So that a body which nobody reads holds no other up.
        builder.initial_connection_window_size(16 << 20);
        Self::with(mirror, &builder).await
    }

    async fn with(mirror: &Mirror, builder: &h2::client::Builder) -> Self {
        let stream = mirror.handshake(&[b"h2", b"http/1.1"]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (requests, running) = builder.handshake::<_, Bytes>(stream).await.unwrap();
        let mut connection = JoinSet::new();
        connection.spawn(running);
        Self {
            requests,
            connection,
        }
    }

    async fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
    ) -> ResponseFuture {
        let mut requests = self.requests.clone().ready().await.unwrap();
        let mut request = Request::builder()
            .method(method)
            .version(Version::HTTP_2)
            .uri(format!("https://localhost{target}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (response, _) = requests
            .send_request(request.body(()).unwrap(), true)
            .unwrap();
        response
    }

    async fn get(&mut self, target: &str) -> Answered {
        self.get_with(target, &[]).await
    }

    async fn get_with(&mut self, target: &str, headers: &[(&str, &str)]) -> Answered {
        let response = self.send("GET", target, headers).await;
        timeout(PATIENCE, read(response)).await.expect("it ends")
    }

    /// Waits until the other side has ended the connection.
    async fn ended(mut self) -> Result<(), h2::Error> {
        drop(self.requests);
        let ended = timeout(PATIENCE, self.connection.join_next()).await;
        ended.expect("it ends in time").unwrap().unwrap()
    }
}

async fn read(response: ResponseFuture) -> Answered {
    let response = response.await.unwrap();
    let length = response.headers().get("content-length");
    let length = length.map(|length| length.to_str().unwrap().parse().unwrap());
    let (head, body) = response.into_parts();
    let (body, error) = read_body(body).await;
    Answered {
        status: head.status,
        length,
        body,
        error,
    }
}

async fn read_body(mut body: RecvStream) -> (Vec<u8>, Option<h2::Error>) {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        match chunk {
            Ok(chunk) => {
                body.flow_control().release_capacity(chunk.len()).unwrap();
                bytes.extend_from_slice(&chunk);
            }
            Err(error) => return (bytes, Some(error)),
        }
    }
    (bytes, None)
}

/// A blob at quay.io, and where the mirror has it.
fn blob(mirror: &Mirror, size: usize, seed: u64) -> (String, Bytes) {
    let bytes = sample(size, seed);
    let digest = mirror.quay.add_blob(&repository("org/app"), bytes.clone());
    (format!("/v2/org/app/blobs/{digest}?ns=quay.io"), bytes)
}

/// A blob whose second half comes once the gate is open.
fn gated(mirror: &Mirror) -> (Gate, String, Bytes) {
    let gate = Gate::new();
    let (target, bytes) = blob(mirror, 100_000, 7);
    let pieces = vec![
        Piece::Bytes(bytes.slice(..50_000)),
        Piece::Wait(gate.clone()),
        Piece::Bytes(bytes.slice(50_000..)),
    ];
    let script = BodyScript::new(Some(100_000), pieces);
    mirror.quay.once(Call::Blob, Act::Body(script));
    (gate, target, bytes)
}

#[tokio::test]
async fn content_is_the_same_over_every_protocol() {
    for blobs in [Blobs::Memory, Blobs::Files] {
        let mirror = secured(FrontLimits::default(), blobs).await;
        let (target, bytes) = blob(&mirror, 3_000_001, 1);
        let (manifest, _) = add_image(&mirror.quay, &repository("org/app"), "1", &b"layer"[..]);
        let mut old = mirror.connect().await;
        let mut new = Http2::connect(&mirror).await;
        // Filled by the one, hit by the other, and both again on the same connections.
        for _ in 0..2 {
            let answer = old.get(&target, &[]).await;
            assert_eq!(answer.status, 200);
            assert!(answer.body == bytes, "{blobs:?}");
            let answer = new.get(&target).await;
            assert_eq!(
                (answer.status, answer.length),
                (StatusCode::OK, Some(3_000_001))
            );
            assert!(answer.body == bytes && answer.error.is_none(), "{blobs:?}");
        }
        assert_eq!(mirror.quay.calls().blob, 1);
        let range = [("range", "bytes=2999990-")];
        let answer = new.get_with(&target, &range).await;
        assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
        assert_eq!(answer.body, bytes[2_999_990..]);
        let image = new.get("/v2/org/app/manifests/1?ns=quay.io").await;
        assert_eq!(image.status, StatusCode::OK);
        let by_digest = format!("/v2/org/app/manifests/{manifest}?ns=quay.io");
        let head = read(new.send("HEAD", &by_digest, &[]).await).await;
        assert_eq!(
            (head.status, head.length),
            (StatusCode::OK, Some(image.body.len() as u64))
        );
        assert!(head.body.is_empty() && head.error.is_none());
        let unknown = new.get("/v2/org/app/manifests/2?ns=example.org").await;
        assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn many_streams_share_a_connection() {
    let mirror = secured(FrontLimits::default(), Blobs::Files).await;
    let mut client = Http2::connect(&mirror).await;
    let mut answers = JoinSet::new();
    for seed in 0..50 {
        let (target, bytes) = blob(&mirror, 100_000 + seed, seed as u64);
        let response = client.send("GET", &target, &[]).await;
        answers.spawn(async move {
            let answer = read(response).await;
            assert!(answer.body == bytes && answer.error.is_none());
        });
    }
    let all = timeout(PATIENCE, answers.join_all()).await;
    assert_eq!(all.expect("all end in time").len(), 50);
    assert_eq!(mirror.quay.calls().blob, 50);
}

#[tokio::test]
async fn more_streams_than_may_be_at_a_time_are_refused_and_the_rest_goes_on() {
    let limits = FrontLimits {
        streams_max: 2,
        ..FrontLimits::default()
    };
    let mirror = secured(limits, Blobs::Files).await;
    let (target, bytes) = blob(&mirror, 1_000_000, 1);
    let mut client = Http2::connect(&mirror).await;
    // Once this is answered, the client knows the limit, and holds back what is past it.
    assert_eq!(client.get("/v2/").await.status, StatusCode::OK);
    let mut answers = JoinSet::new();
    for _ in 0..6 {
        let response = client.send("GET", &target, &[]).await;
        let bytes = bytes.clone();
        answers.spawn(async move { assert!(read(response).await.body == bytes) });
    }
    let all = timeout(PATIENCE, answers.join_all()).await;
    assert_eq!(all.expect("all end in time").len(), 6);
}

#[tokio::test]
async fn a_client_in_the_clear_is_told_that_it_should_not_be() {
    let mirror = secured(FrontLimits::default(), Blobs::Memory).await;
    let mut client = Client::connect(mirror.address).await;
    let answer = client.get("/v2/", &[]).await;
    assert_eq!((answer.status, &*answer.code()), (400, "UNSUPPORTED"));
    assert!(
        answer.message().contains("https://"),
        "{}",
        answer.message()
    );
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(client.rest().await.is_empty());
    // The admin endpoints stay what they are.
    let mut admin = Client::connect(mirror.admin).await;
    assert_eq!(admin.get("/healthz", &[]).await.status, 200);
}

#[tokio::test]
async fn a_client_with_tls_where_there_is_none_reads_an_answer_in_the_clear() {
    let mirror = Mirror::start().await;
    let mut stream = TcpStream::connect(mirror.address).await.unwrap();
    // The head of a record, and the beginning of a handshake. Go tells by "HTTP/" in place of a
    // record that the server speaks plain HTTP, and containerd falls back to that.
    stream
        .write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_given_up() {
    let limits = FrontLimits {
        connections_max: 1,
        handshake_max: Duration::from_millis(50),
        ..FrontLimits::default()
    };
    let mirror = secured(limits, Blobs::Memory).await;
    for said in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"] {
        let mut client = Client::connect(mirror.address).await;
        client.send(said).await;
        client.rest().await;
    }
    // What is no record at all ends at once, with an alert.
    let mut client = Client::connect(mirror.address).await;
    client.send(&[0; 64]).await;
    assert_eq!(client.rest().await.first(), Some(&0x15));
    let served = async {
        loop {
            if mirror.handshake(&[b"h2"]).await.is_ok() {
                return;
            }
        }
    };
    timeout(PATIENCE, served)
        .await
        .expect("there is room again");
}

#[tokio::test]
async fn a_client_for_which_there_is_no_room_is_told_so() {
    let limits = FrontLimits {
        connections_max: 1,
        ..FrontLimits::default()
    };
    let mirror = secured(limits, Blobs::Memory).await;
    let mut first = Http2::connect(&mirror).await;
    assert_eq!(first.get("/v2/").await.status, StatusCode::OK);
    let stream = mirror.handshake(&[b"h2", b"http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let mut second = Client::over(stream);
    let refused = second.response("GET").await;
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (503, Some("5"))
    );
    assert!(second.rest().await.is_empty());
    assert_eq!(first.get("/v2/").await.status, StatusCode::OK);
}

fn down() -> UpstreamError {
    UpstreamError::Unavailable {
        what: "scripted".to_owned(),
        source: None,
    }
}

/// A body of which all upstreams together cannot give the second half.
fn broken(mirror: &Mirror, size: usize) -> (String, Bytes) {
    mirror.quay.always(Call::Blob, Act::Fail(down()));
    let (target, bytes) = blob(mirror, size, 7);
    let half = Piece::Bytes(bytes.slice(..size / 2));
    let script = BodyScript::new(Some(size as u64), vec![half, Piece::Fail(down())]);
    mirror.quay.once(Call::Blob, Act::Body(script));
    (target, bytes)
}

#[tokio::test]
async fn a_body_that_breaks_off_ends_short_and_in_order_in_http_1() {
    let mirror = secured(FrontLimits::default(), Blobs::Files).await;
    let (target, bytes) = broken(&mirror, 400_000);
    let mut client = mirror.connect().await;
    client.send(request("GET", &target, &[]).as_bytes()).await;
    let head = client.head().await;
    assert_eq!((head.status, head.length()), (200, 400_000));
    // rustls calls an end without close_notify an error.
    let body = client.rest().await;
    assert!(!body.is_empty() && body.len() <= 200_000, "{}", body.len());
    assert!(body == bytes[..body.len()]);
}

#[tokio::test]
async fn a_body_that_breaks_off_resets_its_stream_and_no_other_in_http_2() {
    let mirror = secured(FrontLimits::default(), Blobs::Files).await;
    let (other, whole) = blob(&mirror, 1_000_000, 1);
    let mut client = Http2::connect(&mirror).await;
    assert!(client.get(&other).await.body == whole);
    let (target, bytes) = broken(&mirror, 400_000);
    let healthy = client.send("GET", &other, &[]).await;
    let answer = client.get(&target).await;
    assert_eq!(
        (answer.status, answer.length),
        (StatusCode::OK, Some(400_000))
    );
    assert_eq!(answer.error.unwrap().reason(), Some(Reason::INTERNAL_ERROR));
    // All that was there before the break has come: it is gone on with from there.
    let got = answer.body.len();
    assert!(got > 0 && answer.body == bytes[..got], "{got}");
    assert!(read(healthy).await.body == whole);
    assert_eq!(client.get("/v2/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_file_that_is_cut_under_our_feet_breaks_off_after_what_there_was() {
    let mirror = secured(FrontLimits::default(), Blobs::CutFiles(150_000)).await;
    let (target, bytes) = blob(&mirror, 400_000, 1);
    let mut client = Http2::connect(&mirror).await;
    assert!(
        client.get(&target).await.body == bytes,
        "filled, from the spool"
    );
    let answer = client.get(&target).await;
    assert!(answer.error.unwrap().is_reset());
    assert!(answer.body == bytes[..150_000], "{}", answer.body.len());
    let mut client = mirror.connect().await;
    client.send(request("GET", &target, &[]).as_bytes()).await;
    assert_eq!(client.head().await.length(), 400_000);
    assert!(client.rest().await == bytes[..150_000]);
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_a_stream_loses_that_stream() {
    let limits = FrontLimits {
        write_idle_max: Duration::from_millis(50),
        ..FrontLimits::default()
    };
    let mirror = secured(limits, Blobs::Files).await;
    let (target, _) = blob(&mirror, 1_000_000, 1);
    let mut client = Http2::connect(&mirror).await;
    let stuck = client.send("GET", &target, &[]).await.await.unwrap();
    let mut body = stuck.into_body();
    // Takes what comes, and never says that it could take more.
    let error = loop {
        match timeout(PATIENCE, body.data()).await.unwrap().unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason(), Some(Reason::CANCEL));
    assert_eq!(client.get("/v2/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_answer_whose_last_bytes_wait_for_the_client_is_under_way() {
    let limits = FrontLimits {
        request_wait_max: Duration::from_millis(50),
        linger_max: Duration::from_millis(50),
        ..FrontLimits::default()
    };
    let mirror = secured(limits, Blobs::Memory).await;
    let (target, bytes) = blob(&mirror, 60_000, 1);
    let mut builder = h2::client::Builder::new();
    // All but a little fits: the last frame is begun, and not ended before the client has room.
    builder.initial_window_size(59_000);
    let mut client = Http2::with(&mirror, &builder).await;
    assert!(client.get(&target).await.body == bytes, "filled");
    let response = client.send("GET", &target, &[]).await.await.unwrap();
    sleep(Duration::from_millis(500)).await;
    let (body, error) = read_body(response.into_body()).await;
    assert!(error.is_none(), "{error:?}");
    assert!(body == bytes);
    client.ended().await.unwrap();
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused() {
    let mirror = secured(FrontLimits::default(), Blobs::Memory).await;
    let mut client = Http2::connect(&mirror).await;
    let large = "a".repeat(9 << 10);
    let answer = client.get_with("/v2/", &[("x-large", &large)]).await;
    assert_eq!(answer.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let many: Vec<_> = (0..40).map(|_| ("x-many", &large[..1 << 10])).collect();
    let answer = client.get_with("/v2/", &many).await;
    assert_eq!(answer.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let answer = client.get(&format!("/v2/{}", "a".repeat(5 << 10))).await;
    assert_eq!(answer.status, StatusCode::URI_TOO_LONG);
    assert_eq!(client.get("/v2/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_idle_connection_is_ended_and_one_with_an_answer_under_way_is_not() {
    let limits = FrontLimits {
        request_wait_max: Duration::from_millis(50),
        ..FrontLimits::default()
    };
    let mirror = secured(limits, Blobs::Memory).await;
    let (gate, target, bytes) = gated(&mirror);
    let mut client = Http2::connect(&mirror).await;
    let response = client.send("GET", &target, &[]).await.await.unwrap();
    let idle = Http2::connect(&mirror).await;
    idle.ended().await.unwrap();
    gate.open();
    let (body, error) = read_body(response.into_body()).await;
    assert!(error.is_none() && body == bytes);
    client.ended().await.unwrap();
}

#[tokio::test]
async fn answers_under_way_end_before_a_shutdown_does() {
    let mut mirror = secured(FrontLimits::default(), Blobs::Memory).await;
    let (gate, target, bytes) = gated(&mirror);
    let mut client = Http2::connect(&mirror).await;
    let response = client.send("GET", &target, &[]).await.await.unwrap();
    let idle = Http2::connect(&mirror).await;
    mirror.begin_shutdown();
    idle.ended().await.unwrap();
    gate.open();
    let (body, error) = read_body(response.into_body()).await;
    assert!(error.is_none() && body == bytes);
    client.ended().await.unwrap();
    mirror.ended().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_while_the_mirror_runs() {
    let mut mirror = secured(FrontLimits::default(), Blobs::Memory).await;
    let mut there = Http2::connect(&mirror).await;
    assert_eq!(there.get("/v2/").await.status, StatusCode::OK);
    mirror.secured().exchange();
    // The client trusts the new one alone.
    let renewed = async {
        while mirror.handshake(&[b"h2"]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, renewed)
        .await
        .expect("the new one is shown");
    assert_eq!(
        there.get("/v2/").await.status,
        StatusCode::OK,
        "it keeps its own"
    );
}
