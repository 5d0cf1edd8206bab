//! One client's connection, from its first request to an orderly close (I2).

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use registry_core::{Clock as _, SystemClock};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug};

use super::access::{Access, Told};
use super::answer::Answer;
use super::body::AnswerBody;
use super::error::ApiError;
use super::limits::FrontLimits;
use super::request_body::RequestBody;
use super::sendfile::Outbox;
use super::service::{Service, answer};
use super::wire::{Marks, Transport, Wire};
use crate::metrics::Answers;

/// The least that hyper takes for a connection's buffer.
const BUFFER_BYTES_MIN: usize = 8 << 10;

/// How a listener's connections are told to end.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop {
    /// After the answer under way.
    pub(super) drain: CancellationToken,
    /// At once.
    pub(super) abort: CancellationToken,
}

/// Serves a connection in HTTP/1.1 until either side ends it.
pub(super) async fn serve<S: Service>(
    stream: impl Transport + Send,
    client: SocketAddr,
    service: Arc<S>,
    limits: Arc<FrontLimits>,
    answers: Answers,
    stop: Stop,
) {
    let marks = Arc::new(Marks::default());
    let outbox = (service.sends_files() && stream.plain_socket().is_some())
        .then(|| Arc::new(Outbox::default()));
    let (outgoing, watched) = (outbox.clone(), Arc::clone(&marks));
    let wire = Wire::new(stream, outgoing, watched, limits.write_idle_max);
    let handler = service_fn(|request| {
        let asked = Asked {
            client,
            marks: Arc::clone(&marks),
            outbox: outbox.clone(),
        };
        let (service, limits) = (Arc::clone(&service), Arc::clone(&limits));
        respond(request, asked, service, limits, &answers)
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // A body that stands for a file must come to the socket as it is.
        .writev(true)
        .header_read_timeout(limits.request_wait_max)
        .max_buf_size(limits.connection_buffer_bytes.max(BUFFER_BYTES_MIN))
        .serve_connection(TokioIo::new(wire), handler);
    // Ends a drain early where a client has sent half a request and leaves it at that.
    let mut patience = None;
    let outcome = loop {
        tokio::select! {
            outcome = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break Some(outcome),
            () = stop.abort.cancelled() => break None,
            () = stop.drain.cancelled(), if patience.is_none() => {
                patience = Some(Instant::now() + limits.linger_max);
            }
            () = until(patience), if !marks.is_answering() => break None,
        }
        Pin::new(&mut connection).graceful_shutdown();
    };
    let stream = connection.into_parts().io.into_inner().into_inner();
    let last_words = match outcome {
        // hyper's own answer was kept back; to the preface of HTTP/2, it gives none.
        Some(Err(error)) if marks.kept_back() || error.is_parse_version_h2() => {
            let status = if error.is_parse_too_large() {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            } else {
                StatusCode::BAD_REQUEST
            };
            debug!(%client, %error, "a client does not speak HTTP/1.1");
            Some(ApiError::malformed(status, &limits))
        }
        Some(Err(error)) => {
            debug!(%client, %error, "a connection ended early");
            None
        }
        Some(Ok(())) | None => None,
    };
    close(stream, last_words, &limits).await;
}

/// On what a request came.
pub(super) struct Asked {
    pub(super) client: SocketAddr,
    /// Told of the answer.
    pub(super) marks: Arc<Marks>,
    /// Where bodies put files that the kernel is to send, if it can.
    pub(super) outbox: Option<Arc<Outbox>>,
}

/// Answers one request.
pub(super) fn respond<S: Service>(
    request: Request<Incoming>,
    asked: Asked,
    service: Arc<S>,
    limits: Arc<FrontLimits>,
    answers: &Answers,
) -> impl Future<Output = Result<Response<AnswerBody>, Infallible>> + Send + use<S> {
    let (request, body) = request.into_parts();
    let mut access = Access::begin(
        &request.method,
        &request.headers,
        asked.client,
        asked.marks,
        Told {
            answers,
            logged: S::LOGGED,
            route: S::ROUTE,
        },
    );
    let (span, outbox) = (access.span().clone(), asked.outbox);
    let answering = async move {
        let body = RequestBody::new(body);
        let answer = answer(&*service, &request, body, access.entry(), &limits).await;
        Ok(answer.respond(&request.method, access, outbox))
    };
    Box::pin(answering.instrument(span))
}

/// Waits until then; for ever where that is not set.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// Tells a client that there is no room for it.
pub(super) async fn refuse(stream: TcpStream, limits: Arc<FrontLimits>) {
    let error = ApiError::connections(&limits);
    close(stream, Some(error), &limits).await;
}

/// Says a last thing, and closes the connection with a FIN: closed over bytes that were not read,
/// it would be reset, and the client might lose what was sent before.
pub(super) async fn close(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    last_words: Option<ApiError>,
    limits: &FrontLimits,
) {
    let farewell = async {
        if let Some(error) = last_words {
            let answer = Answer::from(error).of_registry(None);
            stream.write_all(&answer.to_bytes(&date())).await?;
        }
        stream.shutdown().await?;
        let mut rest = stream.take(limits.linger_bytes_max as u64);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // The client may be gone, or go on sending: either way there is nothing more to do for it.
    let _ = timeout(limits.linger_max, farewell).await;
}

fn date() -> String {
    let now = Duration::from_millis(SystemClock.now().as_millis());
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + now)
}
