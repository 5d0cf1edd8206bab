//! Spans of what the cache does on tasks of its own, for whoever traces requests.
//!
//! They begin where a traced request is the cause, and nowhere else: what nobody traces costs one
//! look at the current span. What a question is asked for belongs to the request that asked first,
//! and those who share the answer are linked to it. A fill is the cache's (I7), and outlives every
//! request: it is a trace of its own, linked with each that reads it.

use std::sync::{Arc, OnceLock};

use tracing::field::{Empty, display};
use tracing::{Id, Span, info_span};

use super::fill::Errand;
use crate::ByteRange;

/// The span of a question that is asked once for all who want its answer.
pub(super) fn flight(what: &'static str) -> Span {
    if Span::current().is_none() {
        return Span::none();
    }
    info_span!("flight", what)
}

/// The span of a part that is fetched ahead of a fill.
pub(super) fn segment(wish: ByteRange) -> Span {
    if Span::current().is_none() {
        return Span::none();
    }
    info_span!("segment", start = wish.start(), end = wish.end())
}

/// The span of a fill.
pub(super) fn fill(errand: &Errand) -> Span {
    let cause = Span::current();
    if cause.is_none() {
        return cause;
    }
    let fill = info_span!(
        parent: None,
        "fill",
        upstream = %errand.origin.upstream(),
        repository = %errand.origin.repository(),
        digest = %errand.digest,
        bytes = Empty,
        error = Empty,
        otel.status_code = Empty,
    );
    fill.follows_from(cause.id());
    fill
}

/// The name of a span, for whoever is to be linked with it. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Mark(Arc<OnceLock<Id>>);

impl Mark {
    /// Names the span, if it is one.
    pub(super) fn set(&self, span: &Span) {
        if let Some(id) = span.id() {
            // Whoever begins something does so once.
            let _ = self.0.set(id);
        }
    }

    /// Links the current span with it.
    pub(super) fn follow(&self) {
        if let Some(id) = self.0.get() {
            Span::current().follows_from(id);
        }
    }
}

/// Notes on the current span that a fill has all its bytes.
pub(super) fn filled(bytes: u64) {
    Span::current().record("bytes", bytes);
}

/// Notes on the current span why a fill has failed.
pub(super) fn failed(error: &(dyn std::error::Error + 'static)) {
    let fill = Span::current();
    fill.record("error", display(error));
    fill.record("otel.status_code", "ERROR");
}
