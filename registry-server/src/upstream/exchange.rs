//! The span of one request to an upstream, from when it is sent until its answer's end.

use tracing::field::{Empty, display};
use tracing::{Span, info_span};

use http::{Method, StatusCode};

use super::observer::RequestKind;

/// A request that is traced, if what it is sent for is. Dropping it ends its span.
#[derive(Debug)]
pub(super) struct Exchange {
    span: Span,
    /// Bytes of the answer's body that came.
    received: u64,
}

impl Exchange {
    /// A request to `host`. Of its URL nothing else is told: it may hold a signature.
    pub(super) fn begin(kind: RequestKind, method: &Method, host: &str) -> Self {
        let span = match Span::current().is_none() {
            true => Span::none(),
            false => info_span!(
                "upstream_request",
                otel.kind = "client",
                otel.status_code = Empty,
                kind = kind.as_str(),
                %method,
                endpoint = host,
                status = Empty,
                bytes = Empty,
                error = Empty,
            ),
        };
        Self { span, received: 0 }
    }

    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// The headers of the answer have come.
    pub(super) fn answered(&self, status: StatusCode) {
        self.span.record("status", status.as_u16());
        if status.is_server_error() {
            self.span.record("otel.status_code", "ERROR");
        }
    }

    pub(super) fn failed(&self, error: &(dyn std::error::Error + 'static)) {
        self.span.record("error", display(error));
        self.span.record("otel.status_code", "ERROR");
    }

    pub(super) fn received(&mut self, bytes: u64) {
        self.received += bytes;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.span.is_disabled() {
            // A span ends when it was last entered.
            let note = || self.span.record("bytes", self.received);
            self.span.in_scope(note);
        }
    }
}
