//! One client's connection in HTTP/2, from its first request to an orderly close (I2).
//!
//! All of it runs in the connection's one task, its streams as well: they wait for each other anyway,
//! and between two threads every 16 KiB would cost two wake-ups.
//!
//! A body that breaks off ends in a reset of its stream, once what came before the break has left.
//! That is the one end which no client takes for a whole body, and which leaves the other streams of
//! the connection alone ([ADR 23](../../../docs/adr/0023-tls-and-http2-towards-clients.md)).

mod shared;
mod stream;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::stream::{FuturesUnordered, StreamExt as _};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep};
use tracing::debug;

use super::connection::{Answering, Stop, close};
use super::limits::FrontLimits;
use super::service::Service;
use crate::metrics::Answers;
use shared::Shared;
use stream::{Outgoing, StreamBody, Streams, Watched};

/// Bytes of requests' bodies that a client may send before some of them are read, for a stream and
/// for the connection: the least that the protocol knows, as hardly any request has one.
const REQUEST_WINDOW_BYTES: u32 = (64 << 10) - 1;

/// Serves a connection in HTTP/2 until either side ends it.
pub(super) async fn serve<S: Service>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: SocketAddr,
    service: Arc<S>,
    limits: Arc<FrontLimits>,
    answers: Answers,
    stop: Stop,
) {
    let (stream, lent) = Shared::new(stream);
    let streams = Streams::default();
    let answering = Answering::new(service, Arc::clone(&limits), answers, client);
    let handler = service_fn(|request| {
        let outgoing = Arc::new(Outgoing::default());
        streams.announce(Arc::clone(&outgoing));
        let responding = answering.respond(request, outgoing.marks(), None);
        async move {
            let response = responding.await?;
            Ok::<_, std::convert::Infallible>(response.map(|body| StreamBody::new(body, outgoing)))
        }
    });
    // h2's own limits on resets that a client sends or provokes stay as they are.
    let connection = http2::Builder::new(streams.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(header_list_bytes_max(&limits))
        .max_send_buf_size(limits.stream_buffer_bytes)
        .initial_stream_window_size(REQUEST_WINDOW_BYTES)
        .initial_connection_window_size(REQUEST_WINDOW_BYTES)
        .serve_connection(TokioIo::new(lent), handler);
    let mut connection = pin!(connection);
    let mut live = Live::new(&streams, &limits);
    let outcome = loop {
        let ended = tokio::select! {
            ended = poll_fn(|cx| live.poll(connection.as_mut(), cx)) => ended,
            () = stop.abort.cancelled() => break Ok(()),
            () = stop.drain.cancelled(), if !live.is_closing => Ended::Asked,
        };
        match ended {
            Ended::Connection(outcome) => break outcome,
            Ended::Silence if live.is_closing => break Ok(()),
            Ended::Silence | Ended::Asked => {
                live.is_closing = true;
                live.silence = None;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = outcome {
        debug!(%client, %error, "a connection ended early");
    }
    drop(live);
    close(stream, None, &limits).await;
}

/// As large as what HTTP/1.1 has room for: all header fields, the path, and `Range`.
fn header_list_bytes_max(limits: &FrontLimits) -> u32 {
    let fields = limits.header_bytes_max + limits.header_field_bytes_max;
    u32::try_from(fields + limits.target_bytes_max).unwrap_or(u32::MAX)
}

/// Why a connection is looked at.
enum Ended {
    /// It has ended.
    Connection(hyper::Result<()>),
    /// Nothing was asked for long enough.
    Silence,
    /// The server is ending.
    Asked,
}

/// The streams of a connection, and how long there have been none.
struct Live<'a> {
    started: &'a Streams,
    running: FuturesUnordered<Watched>,
    limits: &'a FrontLimits,
    /// Whether the client was told to ask no more.
    is_closing: bool,
    /// Runs while nothing is asked.
    silence: Option<Pin<Box<Sleep>>>,
}

impl<'a> Live<'a> {
    fn new(started: &'a Streams, limits: &'a FrontLimits) -> Self {
        Self {
            started,
            running: FuturesUnordered::new(),
            limits,
            is_closing: false,
            silence: None,
        }
    }

    fn poll(
        &mut self,
        connection: Pin<&mut impl Future<Output = hyper::Result<()>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Ended> {
        if let Poll::Ready(outcome) = connection.poll(cx) {
            return Poll::Ready(Ended::Connection(outcome));
        }
        let write_idle_max = self.limits.write_idle_max;
        let started = self.started.take().into_iter();
        self.running
            .extend(started.map(|stream| Watched::new(stream, write_idle_max)));
        while let Poll::Ready(Some(())) = self.running.poll_next_unpin(cx) {}
        if !self.running.is_empty() {
            self.silence = None;
            return Poll::Pending;
        }
        let limit = match self.is_closing {
            true => self.limits.linger_max,
            false => self.limits.request_wait_max,
        };
        let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(limit)));
        silence.as_mut().poll(cx).map(|()| {
            // Polled again after this, it begins anew.
            silence.as_mut().reset(Instant::now() + limit);
            Ended::Silence
        })
    }
}
