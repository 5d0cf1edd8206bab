//! A connection's first bytes: the handshake, or the answer to a client that does not begin one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::Tls;
use crate::front::connection::{self, Stop, close};
use crate::front::error::ApiError;
use crate::front::http2;
use crate::front::limits::FrontLimits;
use crate::front::service::Service;
use crate::front::wire::Transport;
use crate::metrics::Answers;

/// The protocol that a client has chosen where it has chosen HTTP/2.
const HTTP2: &[u8] = b"h2";

/// What the kernel wrote to the socket by itself would not be sealed.
impl Transport for Box<TlsStream<TcpStream>> {
    fn plain_socket(&self) -> Option<&TcpStream> {
        None
    }
}

/// What a connection turned out to be.
enum Begun {
    Tls(Box<TlsStream<TcpStream>>),
    /// A request in plain HTTP is waiting on it.
    Plain(TcpStream),
}

/// Serves a connection, once it is secured, until either side ends it.
pub(in crate::front) async fn serve<S: Service>(
    stream: TcpStream,
    client: SocketAddr,
    tls: Tls,
    service: Arc<S>,
    limits: Arc<FrontLimits>,
    answers: Answers,
    stop: Stop,
) {
    let begun = tokio::select! {
        begun = begin(stream, client, tls.serving(), &limits) => begun,
        // Nothing is being answered.
        () = stop.drain.cancelled() => return,
        () = stop.abort.cancelled() => return,
    };
    match begun {
        Some(Begun::Tls(stream)) if stream.get_ref().1.alpn_protocol() == Some(HTTP2) => {
            http2::serve(stream, client, service, limits, answers, stop).await;
        }
        Some(Begun::Tls(stream)) => {
            connection::serve(stream, client, service, limits, answers, stop).await;
        }
        Some(Begun::Plain(stream)) => close(stream, Some(ApiError::plain()), &limits).await,
        None => {}
    }
}

/// Tells a client that there is no room for it.
pub(in crate::front) async fn refuse(
    stream: TcpStream,
    client: SocketAddr,
    tls: Tls,
    limits: Arc<FrontLimits>,
) {
    let error = ApiError::connections(&limits);
    match begin(stream, client, tls.refusing(), &limits).await {
        Some(Begun::Tls(stream)) => close(stream, Some(error), &limits).await,
        Some(Begun::Plain(stream)) => close(stream, Some(error), &limits).await,
        None => {}
    }
}

/// Secures a connection; none where that fails, which is the client's to see: rustls tells it why.
async fn begin(
    stream: TcpStream,
    client: SocketAddr,
    config: Arc<ServerConfig>,
    limits: &FrontLimits,
) -> Option<Begun> {
    let begun = timeout(limits.handshake_max, async {
        if is_plain(&stream).await? {
            return Ok(Begun::Plain(stream));
        }
        let acceptor = TlsAcceptor::from(config);
        let accept = acceptor.accept_with(stream, |connection| {
            connection.set_buffer_limit(Some(limits.tls_buffer_bytes));
        });
        accept.await.map(|stream| Begun::Tls(Box::new(stream)))
    });
    match begun.await {
        Ok(Ok(Begun::Plain(stream))) => {
            debug!(%client, "a client speaks plain HTTP where TLS is spoken");
            Some(Begun::Plain(stream))
        }
        Ok(Ok(begun)) => Some(begun),
        Ok(Err(error)) => {
            debug!(%client, %error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            debug!(%client, "a TLS handshake took too long");
            None
        }
    }
}

/// Whether a request is waiting where a handshake should: it begins with the letter of a method,
/// and no record of TLS with any.
async fn is_plain(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    let count = stream.peek(&mut first).await?;
    Ok(count == 1 && first[0].is_ascii_alphabetic())
}
