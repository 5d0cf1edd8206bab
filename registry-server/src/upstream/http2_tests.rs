//! HTTP/2, which most public registries speak, and the fixture registry does not.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use http::{Request, Response, Version};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use registry_core::{Caller, Digest, MediaType, Reference, Repository, Upstream, UpstreamError};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::config::HTTP2_STREAM_WINDOW_BYTES;
use super::{HttpUpstream, HttpUpstreamConfig};
use crate::testing::FixtureTls;

/// A manifest, as such and as the bytes of each blob.
const MANIFEST: &str = r#"{"schemaVersion":2,"layers":[]}"#;

/// How a blob's body goes, by the first character of its digest.
const WHOLE: char = '0';
const SHORT: char = '1';
const RESET: char = '2';
const LONG: char = '3';

const LARGE: char = '4';

/// A large blob comes in chunks of so many bytes, all of them zeros.
const CHUNK_BYTES: usize = 32 << 10;
const LARGE_BYTES: usize = 32 << 20;

type Chunk = Result<Frame<Bytes>, io::Error>;

/// Answers; counts the bytes of large blobs that it could send.
async fn answer(
    request: Request<Incoming>,
    sent: Arc<AtomicUsize>,
) -> Result<Response<StreamBody<BoxStream<'static, Chunk>>>, Infallible> {
    assert_eq!(request.version(), Version::HTTP_2);
    let chunk = |bytes: &'static str| Ok(Frame::data(Bytes::from_static(bytes.as_bytes())));
    let digest = request.uri().path().rsplit(':').next();
    let chunks = match digest.and_then(|digest| digest.chars().next()) {
        Some(LARGE) => {
            let chunk = move |_| {
                sent.fetch_add(CHUNK_BYTES, Ordering::Relaxed);
                Ok(Frame::data(Bytes::from_static(&[0; CHUNK_BYTES])))
            };
            let chunks = stream::iter(0..LARGE_BYTES / CHUNK_BYTES).map(chunk);
            let response = Response::builder().header("content-length", LARGE_BYTES);
            let body = StreamBody::new(chunks.boxed());
            return Ok(response.body(body).expect("headers are well-formed"));
        }
        Some(SHORT) => vec![chunk(&MANIFEST[1..])],
        Some(RESET) => vec![chunk(&MANIFEST[1..]), Err(io::ErrorKind::Other.into())],
        Some(LONG) => vec![chunk(MANIFEST), chunk("x")],
        _ => vec![chunk(MANIFEST)],
    };
    let response = Response::builder()
        .header("content-type", MediaType::OCI_MANIFEST)
        .header("content-length", MANIFEST.len());
    let body = StreamBody::new(stream::iter(chunks).boxed());
    Ok(response.body(body).expect("headers are well-formed"))
}

/// A server of HTTP/2 only, for as long as the runtime lives.
async fn serve(tasks: &TaskTracker, sent: &Arc<AtomicUsize>) -> SocketAddr {
    let tls = Arc::new(FixtureTls::generate().offering(b"h2"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let connections = tasks.clone();
    let sent = Arc::clone(sent);
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, sent) = (Arc::clone(&tls), Arc::clone(&sent));
            connections.spawn(async move {
                let stream = tls.accept(stream).await.expect("a handshake");
                let builder = http2::Builder::new(TokioExecutor::new());
                let answer = service_fn(|request| answer(request, Arc::clone(&sent)));
                // How it ends is told by what the client gets.
                let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn http2_is_spoken_and_its_bodies_are_whole_or_an_error() {
    let tasks = TaskTracker::new();
    let upstream = upstream_at(serve(&tasks, &Arc::default()).await);
    let repository = Repository::parse("app").unwrap();
    let reference = Reference::parse("latest").unwrap();
    let caller = Caller::Anonymous;
    let manifest = upstream.manifest(&repository, &reference, &caller).await;
    assert_eq!(manifest.unwrap().unwrap().value.bytes(), MANIFEST);
    for (kind, whole) in [(WHOLE, true), (SHORT, false), (RESET, false), (LONG, false)] {
        let digest = Digest::parse(&format!("sha256:{}", kind.to_string().repeat(64))).unwrap();
        let blob = upstream
            .blob(&repository, digest, None, None, &caller)
            .await;
        let chunks: Vec<Result<Bytes, UpstreamError>> = match blob {
            Ok(blob) => {
                let blob = blob.unwrap();
                assert_eq!(blob.size, Some(MANIFEST.len() as u64));
                blob.stream.collect().await
            }
            // A reset may overtake the headers.
            Err(error) => vec![Err(error)],
        };
        let count: usize = chunks.iter().flatten().map(Bytes::len).sum();
        assert!(count <= MANIFEST.len(), "{kind}: {count} bytes");
        assert_eq!(
            chunks.iter().all(Result::is_ok),
            whole,
            "{kind}: {chunks:?}"
        );
    }
}

/// A body does not stand still for as long as word goes to the server and back, on a line as long and
/// as wide as is said; nor does one that nobody reads take more memory than is said.
#[tokio::test]
async fn a_window_of_http2_is_as_wide_as_a_long_line() {
    const LINE_BYTES: usize = 1_000_000_000 / 8 * 30 / 1_000;
    // What the server, which counts, holds back itself.
    const SERVER_BYTES_MAX: usize = 2 << 20;
    let window = HTTP2_STREAM_WINDOW_BYTES as usize;
    assert!(window / 2 > LINE_BYTES);
    let (tasks, sent) = (TaskTracker::new(), Arc::new(AtomicUsize::new(0)));
    let upstream = upstream_at(serve(&tasks, &sent).await);
    let repository = Repository::parse("app").unwrap();
    let digest = Digest::parse(&format!("sha256:{}", LARGE.to_string().repeat(64))).unwrap();
    let caller = Caller::Anonymous;
    let blob = upstream
        .blob(&repository, digest, None, None, &caller)
        .await;
    let blob = blob.unwrap().unwrap();
    let is_filled = async {
        while sent.load(Ordering::Relaxed) < window {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let filled = timeout(Duration::from_secs(60), is_filled).await;
    filled.expect("a whole window is sent before anything is read");
    let unread = sent.load(Ordering::Relaxed);
    assert!(unread <= window + SERVER_BYTES_MAX, "{unread} bytes");
    let received = blob.stream.map(|chunk| chunk.unwrap().len());
    assert_eq!(
        received.fold(0, async |sum, len| sum + len).await,
        LARGE_BYTES
    );
}

fn upstream_at(address: SocketAddr) -> HttpUpstream {
    let url = format!("https://{address}").parse().expect("a URL");
    let id = registry_core::UpstreamId::parse("registry.test").expect("a name");
    let mut config = HttpUpstreamConfig::new(id, [url]);
    config.insecure_skip_verify = true;
    HttpUpstream::new(config).expect("a good configuration")
}
