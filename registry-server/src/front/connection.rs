//! One client's connection, from its first request to an orderly close (I2).

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use registry_core::{Clock as _, SystemClock};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};
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
    let answering = Answering::new(service, Arc::clone(&limits), answers, client);
    let handler = service_fn(|request| answering.respond(request, &marks, outbox.clone()));
    let mut connection = http1::Builder::new()
        // A body that stands for a file must come to the socket as it is.
        .writev(true)
        // A timer for every request, where one for the connection does: see `silence`.
        .header_read_timeout(None)
        .max_buf_size(limits.connection_buffer_bytes.max(BUFFER_BYTES_MIN))
        .serve_connection(TokioIo::new(wire), handler);
    let mut events = events(&stop, &marks, &limits);
    let outcome = loop {
        let event = tokio::select! {
            biased;
            outcome = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break Some(outcome),
            Some(event) = events.next() => event,
        };
        match event {
            Event::Abort => break None,
            Event::Silence => {
                debug!(%client, "a client asks for nothing more");
                break None;
            }
            Event::Drain => {
                Pin::new(&mut connection).graceful_shutdown();
                let linger = sleep(limits.linger_max).map(|()| Event::Linger);
                events.push(linger.boxed());
            }
            // Half a request was sent, and it was left at that.
            Event::Linger if !marks.is_answering() => break None,
            // hyper closes the connection behind what is being answered.
            Event::Linger => {}
        }
    };
    drop(events);
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

/// What all requests of a connection are answered with. Each takes a share of it, and of nothing that
/// other connections share: what two threads count is paid for by both.
pub(super) struct Answering<S> {
    shared: Arc<Shared<S>>,
    told: Arc<Told>,
}

struct Shared<S> {
    service: Arc<S>,
    limits: Arc<FrontLimits>,
}

impl<S: Service> Answering<S> {
    pub(super) fn new(
        service: Arc<S>,
        limits: Arc<FrontLimits>,
        answers: Answers,
        client: SocketAddr,
    ) -> Self {
        let told = Told {
            client,
            answers,
            logged: S::LOGGED,
            route: S::ROUTE,
        };
        Self {
            shared: Arc::new(Shared { service, limits }),
            told: Arc::new(told),
        }
    }

    /// Answers one request, and tells its marks of it; bodies put files that the kernel is to send
    /// into the outbox, if there is one.
    pub(super) fn respond(
        &self,
        request: Request<Incoming>,
        marks: &Arc<Marks>,
        outbox: Option<Arc<Outbox>>,
    ) -> impl Future<Output = Result<Response<AnswerBody>, Infallible>> + Send + use<S> {
        let (request, body) = request.into_parts();
        let (marks, told) = (Arc::clone(marks), Arc::clone(&self.told));
        let mut access = Access::begin(&request.method, &request.headers, marks, told);
        let (span, shared) = (access.span().clone(), Arc::clone(&self.shared));
        let answering = async move {
            let Shared { service, limits } = &*shared;
            let body = RequestBody::new(body);
            let answer = answer(&**service, &request, body, access.entry(), limits).await;
            Ok(answer.respond(&request.method, access, outbox))
        };
        Box::pin(answering.instrument(span))
    }
}

/// What happens to a connection besides its requests.
enum Event {
    /// It is to end at once.
    Abort,
    /// It is to end behind what is being answered.
    Drain,
    /// It had some time for that.
    Linger,
    /// Its client has not asked for anything for as long as it may.
    Silence,
}

/// Each is asked again only when it was woken: as branches of a `select!` all of them would be asked
/// whenever the socket has something, and all connections would meet at the locks behind them.
fn events<'a>(
    stop: &'a Stop,
    marks: &'a Marks,
    limits: &'a FrontLimits,
) -> FuturesUnordered<BoxFuture<'a, Event>> {
    let events = FuturesUnordered::new();
    events.push(stop.abort.cancelled().map(|()| Event::Abort).boxed());
    events.push(stop.drain.cancelled().map(|()| Event::Drain).boxed());
    let silence = silence(marks, limits.request_wait_max);
    events.push(silence.map(|()| Event::Silence).boxed());
    events
}

/// Ends when nothing has been asked for so long, and nothing is being answered. Its timer is set
/// anew when it has run out, and not with every request.
async fn silence(marks: &Marks, limit: Duration) {
    loop {
        let begins = marks.idle_since();
        let until = begins.unwrap_or_else(Instant::now) + limit;
        if begins.is_some() && until <= Instant::now() {
            return;
        }
        sleep_until(until).await;
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
