//! HTTP/2, which most public registries speak, and the fixture registry does not.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use http::{Request, Response, Version};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use registry_core::{Caller, Digest, MediaType, Reference, Repository, Upstream, UpstreamError};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use super::{HttpUpstream, HttpUpstreamConfig};
use crate::testing::FixtureTls;

/// A manifest, as such and as the bytes of each blob.
const MANIFEST: &str = r#"{"schemaVersion":2,"layers":[]}"#;

/// How a blob's body goes, by the first character of its digest.
const WHOLE: char = '0';
const SHORT: char = '1';
const RESET: char = '2';
const LONG: char = '3';

type Chunk = Result<Frame<Bytes>, io::Error>;

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<StreamBody<stream::Iter<std::vec::IntoIter<Chunk>>>>, Infallible> {
    assert_eq!(request.version(), Version::HTTP_2);
    let chunk = |bytes: &'static str| Ok(Frame::data(Bytes::from_static(bytes.as_bytes())));
    let digest = request.uri().path().rsplit(':').next();
    let chunks = match digest.and_then(|digest| digest.chars().next()) {
        Some(SHORT) => vec![chunk(&MANIFEST[1..])],
        Some(RESET) => vec![chunk(&MANIFEST[1..]), Err(io::ErrorKind::Other.into())],
        Some(LONG) => vec![chunk(MANIFEST), chunk("x")],
        _ => vec![chunk(MANIFEST)],
    };
    let response = Response::builder()
        .header("content-type", MediaType::OCI_MANIFEST)
        .header("content-length", MANIFEST.len());
    let body = StreamBody::new(stream::iter(chunks));
    Ok(response.body(body).expect("headers are well-formed"))
}

/// A server of HTTP/2 only, for as long as the runtime lives.
async fn serve(tasks: &TaskTracker) -> SocketAddr {
    let tls = Arc::new(FixtureTls::generate().offering(b"h2"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let connections = tasks.clone();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = Arc::clone(&tls);
            connections.spawn(async move {
                let stream = tls.accept(stream).await.expect("a handshake");
                let builder = http2::Builder::new(TokioExecutor::new());
                // How it ends is told by what the client gets.
                let _ = builder
                    .serve_connection(TokioIo::new(stream), service_fn(answer))
                    .await;
            });
        }
    });
    address
}

#[tokio::test]
async fn http2_is_spoken_and_its_bodies_are_whole_or_an_error() {
    let tasks = TaskTracker::new();
    let address = serve(&tasks).await;
    let url = format!("https://{address}").parse().unwrap();
    let id = registry_core::UpstreamId::parse("registry.test").unwrap();
    let mut config = HttpUpstreamConfig::new(id, [url]);
    config.insecure_skip_verify = true;
    let upstream = HttpUpstream::new(config).unwrap();
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
