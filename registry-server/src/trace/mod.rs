//! Traces: which request of a client's an answer, a log line or a span belongs to.
//!
//! A client that traces says so in `traceparent` (W3C Trace Context); its trace then goes on here,
//! and its id is in the log. Without a client's, a trace begins here where somebody collects traces
//! ([`COLLECTED`]), and otherwise none does: what nobody asks for costs a look at the headers and at what is collected. None of
//! it leaves for a registry (I12).

#[cfg(feature = "otlp")]
mod otlp;
mod parent;

use std::fmt;

use http::HeaderMap;
use tracing::field::{Empty, display};
use tracing::{Level, Span, enabled, info_span};

#[cfg(feature = "otlp")]
pub use otlp::TracesError;
#[cfg(feature = "otlp")]
pub(crate) use otlp::{Traces, layer};
use parent::Parent;

/// The target that is enabled where traces are wanted of requests whose clients have none.
pub(crate) const COLLECTED: &str = "registry::traces";

/// The id of a trace: 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceId(u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The span of one request, and its trace, where it is traced.
#[derive(Clone, Debug)]
pub(crate) struct RequestTrace {
    span: Span,
    id: Option<TraceId>,
}

impl RequestTrace {
    /// No trace.
    pub(crate) fn none() -> Self {
        Self {
            span: Span::none(),
            id: None,
        }
    }

    /// Goes on with the trace of the client, or begins one where that is wanted.
    pub(crate) fn begin(headers: &HeaderMap) -> Self {
        let parent = Parent::of(headers);
        if parent.is_none() && !enabled!(target: COLLECTED, Level::INFO) {
            return Self::none();
        }
        let span = info_span!(
            parent: None,
            "request",
            otel.kind = "server",
            otel.status_code = Empty,
            trace_id = Empty,
            method = Empty,
            route = Empty,
            upstream = Empty,
            repository = Empty,
            reference = Empty,
            range = Empty,
            status = Empty,
            cache_status = Empty,
            cache_detail = Empty,
            bytes = Empty,
            error = Empty,
        );
        #[cfg(feature = "otlp")]
        let id = otlp::adopt(&span, parent.as_ref(), headers);
        #[cfg(not(feature = "otlp"))]
        let id = None;
        let id = id.or(parent.map(|parent| parent.trace_id));
        if let Some(id) = id {
            span.record("trace_id", display(id));
        }
        Self { span, id }
    }

    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// The id of the trace, where there is one.
    pub(crate) fn id(&self) -> Option<TraceId> {
        self.id
    }

    /// Notes what became of the request, which thereby ends.
    pub(crate) fn end(&self, note: impl FnOnce(&Span)) {
        if !self.span.is_disabled() {
            // A span ends when it was last entered.
            self.span.in_scope(|| note(&self.span));
        }
    }
}
