//! An upstream's answer: its headers read with care, its body within limits.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt as _, try_unfold};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use http::{HeaderName, StatusCode};
use registry_core::{Digest, MediaType, UpstreamError};
use reqwest::Response;
use tokio::time::{Instant, timeout};

use super::clients::Sent;
use super::config::{BODY_BYTES_MIN, DRAIN_MAX, DRAINED_BYTES_MAX};
use super::exchange::Exchange;
use super::failover::Line;
use super::failure::{body_failure, status_failure};

/// What the digest of a manifest or blob stands in.
const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// An answer whose headers are here. It does not tell its URL, which may hold a signature.
pub(super) struct Reply {
    response: Response,
    host: String,
    trusted: bool,
    exchange: Exchange,
    /// Who learns what becomes of the body.
    line: Option<Line>,
}

impl Reply {
    pub(super) fn new(sent: Sent, host: String, trusted: bool) -> Self {
        Self {
            response: sent.response,
            host,
            trusted,
            exchange: sent.exchange,
            line: None,
        }
    }

    /// Reports what becomes of the body.
    pub(super) fn reporting(self, line: Line) -> Self {
        let line = Some(line);
        Self { line, ..self }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Host and port that answered.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// It comes from the endpoint itself, and not from whom that redirects to.
    pub(super) fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Whether it says that there is no such thing.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self.status(), StatusCode::NOT_FOUND | StatusCode::GONE)
    }

    /// The error that its status means.
    pub(super) fn failure(&self) -> UpstreamError {
        status_failure(&self.host, self.trusted, self.status(), self.headers())
    }

    /// The error that it broke the protocol: `protocol("sends …")`.
    pub(super) fn protocol(&self, what: &str) -> UpstreamError {
        protocol(&self.host, what)
    }

    /// The size of the content, as the header tells it: for a HEAD, the client library's own
    /// account is that of the body, which is empty.
    pub(super) fn content_length(&self) -> Option<u64> {
        self.text(CONTENT_LENGTH)?.parse().ok()
    }

    pub(super) fn media_type(&self) -> Option<MediaType> {
        MediaType::parse(self.text(CONTENT_TYPE)?).ok()
    }

    pub(super) fn digest(&self) -> Option<Digest> {
        Digest::parse(self.text(DOCKER_CONTENT_DIGEST)?).ok()
    }

    pub(super) fn text(&self, name: HeaderName) -> Option<&str> {
        let value = self.headers().get(name)?;
        value.to_str().ok().map(str::trim)
    }

    /// Refuses content that is coded, although we asked for none of that: its bytes are not the
    /// ones that the digest names.
    pub(super) fn check_coding(&self) -> Result<(), UpstreamError> {
        match self.text(CONTENT_ENCODING) {
            None if !self.headers().contains_key(CONTENT_ENCODING) => Ok(()),
            Some(coding) if coding.is_empty() || coding.eq_ignore_ascii_case("identity") => Ok(()),
            _ => Err(self.protocol("sends content in a coding that was not asked for")),
        }
    }

    /// The whole body, of at most `bytes_max`, within `time_max`.
    pub(super) async fn read(
        mut self,
        bytes_max: usize,
        time_max: Duration,
    ) -> Result<Bytes, UpstreamError> {
        let too_big = || protocol(&self.host, &format!("sends more than {bytes_max} bytes"));
        if self.content_length() > Some(bytes_max as u64) {
            return Err(too_big());
        }
        let line = self.line.take();
        let reading = async {
            let mut body = BytesMut::new();
            while let Some(chunk) = self.response.chunk().await.transpose() {
                let chunk = chunk.map_err(|error| body_failure(&self.host, error))?;
                received(line.as_ref(), &mut self.exchange, &chunk);
                if body.len() + chunk.len() > bytes_max {
                    return Err(too_big());
                }
                body.extend_from_slice(&chunk);
            }
            Ok(body.freeze())
        };
        let what = "send a whole answer";
        let outcome = timeout(time_max, reading).await;
        let outcome = outcome.unwrap_or(Err(UpstreamError::Timeout { what }));
        if let Some(line) = line.filter(|_| self.trusted) {
            line.ended(outcome.as_ref().err());
        }
        outcome
    }

    /// Reads a short body that nobody wants, so that its connection can be used again.
    pub(super) async fn drain(mut self) {
        if self
            .content_length()
            .is_none_or(|length| length > DRAINED_BYTES_MAX)
        {
            return;
        }
        let reading = async { while let Ok(Some(_)) = self.response.chunk().await {} };
        // Where it does not work out, the connection is closed.
        let _ = timeout(DRAIN_MAX, reading).await;
    }

    /// The body as it comes, exactly `expected` bytes, where that is known. The time that it is
    /// waited for in vain, or for next to nothing, is limited by `idle_max`; that in which nobody
    /// waits does not count. `watch` is told how it ends, whole or with an error, unless it is
    /// dropped before.
    pub(super) fn into_stream(
        self,
        expected: Option<u64>,
        idle_max: Duration,
        watch: impl Fn(Option<&UpstreamError>) + Send + 'static,
    ) -> BoxStream<'static, Result<Bytes, UpstreamError>> {
        let body = Body {
            reply: self,
            expected,
            received: 0,
            pace: Pace::new(idle_max),
            watch: Box::new(watch),
        };
        try_unfold(body, Body::next).boxed()
    }
}

fn received(line: Option<&Line>, exchange: &mut Exchange, chunk: &Bytes) {
    exchange.received(chunk.len() as u64);
    if let Some(line) = line {
        line.received(chunk.len() as u64);
    }
}

fn protocol(host: &str, what: &str) -> UpstreamError {
    UpstreamError::Protocol {
        what: format!("{host} {what}"),
    }
}

/// Who is told how a body ends.
type Watch = Box<dyn Fn(Option<&UpstreamError>) + Send>;

/// A body on its way.
struct Body {
    reply: Reply,
    expected: Option<u64>,
    received: u64,
    pace: Pace,
    watch: Watch,
}

impl Body {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, UpstreamError> {
        let outcome = self.chunk().await;
        let is_last = match &outcome {
            Ok(Some(_)) => self.expected == Some(self.received),
            Ok(None) | Err(_) => true,
        };
        if is_last {
            let error = outcome.as_ref().err();
            (self.watch)(error);
            if let Some(error) = error {
                self.reply.exchange.failed(error);
            }
            if let Some(line) = self.reply.line.take_if(|_| self.reply.trusted) {
                line.ended(error);
            }
        }
        Ok(outcome?.map(|chunk| (chunk, self)))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let begun = Instant::now();
        let Ok(chunk) = timeout(self.pace.left(), self.reply.response.chunk()).await else {
            return Err(UpstreamError::Timeout {
                what: "send the next bytes of a blob",
            });
        };
        let chunk = chunk.map_err(|error| body_failure(&self.reply.host, error))?;
        let length = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        self.pace.note(begun.elapsed(), length);
        self.received += length;
        if let Some(chunk) = &chunk {
            received(self.reply.line.as_ref(), &mut self.reply.exchange, chunk);
        }
        let received = self.received;
        match (&chunk, self.expected) {
            (_, Some(expected)) if received > expected => {
                let what = format!("sends more than the {expected} bytes it announced");
                Err(self.reply.protocol(&what))
            }
            (None, Some(expected)) if received < expected => Err(UpstreamError::Unavailable {
                what: format!(
                    "a body from {} ended after {received} of {expected} bytes",
                    self.reply.host
                ),
                source: None,
            }),
            _ => Ok(chunk),
        }
    }
}

/// Whether a body comes fast enough: [`BODY_BYTES_MIN`] in each `idle_max` of waiting.
#[derive(Debug)]
struct Pace {
    idle_max: Duration,
    /// Time waited for less than the minimum, and what came in it.
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn new(idle_max: Duration) -> Self {
        Self {
            idle_max,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// How long the next bytes may take.
    fn left(&self) -> Duration {
        self.idle_max.saturating_sub(self.waited)
    }

    fn note(&mut self, waited: Duration, bytes: u64) {
        self.waited += waited;
        self.bytes += bytes;
        if self.bytes >= BODY_BYTES_MIN {
            *self = Self::new(self.idle_max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_its_time_for_a_minimum_and_not_for_each_byte() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(30 * second);
        for left in (0..30).rev() {
            pace.note(second, 1);
            assert_eq!(pace.left(), left * second);
        }
        assert_eq!(pace.left(), Duration::ZERO);
        for (waited, bytes, left) in [
            (29, BODY_BYTES_MIN - 31, 0),
            (0, 1, 30),
            (29, BODY_BYTES_MIN, 30),
            (10, BODY_BYTES_MIN / 2, 20),
            (10, BODY_BYTES_MIN / 2, 30),
            (40, 1, 0),
        ] {
            pace.note(waited * second, bytes);
            assert_eq!(pace.left(), left * second, "{waited} {bytes}");
        }
    }
}
