//! Spans on their way to a collector, by OTLP over HTTP.
//!
//! They leave on a thread of their own, with a runtime of its own: whatever the collector does, no
//! pull waits for it. What it does not take in time is dropped.

use std::fmt;
use std::future::{Future, ready};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Request, Response};
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceState, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};
use tokio::runtime::{self, Runtime};
use tracing::level_filters::LevelFilter;
use tracing::{Span, Subscriber, info, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;
use url::Url;

use super::parent::Parent;
use super::{COLLECTED, TraceId};
use crate::upstream::{HttpUpstreamConfigError, client_of_collector};

/// Spans that wait to be sent; more are dropped.
const QUEUE_SPANS_MAX: usize = 4096;
/// Spans that are sent together.
const BATCH_SPANS_MAX: usize = 512;
/// How long a span waits for others to be sent with.
const SEND_INTERVAL: Duration = Duration::from_secs(2);
/// How long the collector may take to take them.
const SEND_MAX: Duration = Duration::from_secs(5);
/// How long the last spans are given when the process ends.
const FLUSH_MAX: Duration = Duration::from_secs(3);
/// Largest answer of the collector that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Longest `tracestate` that is passed on, and the most members of it, as the specification has it.
const STATE_BYTES_MAX: usize = 512;
const STATE_MEMBERS_MAX: usize = 32;

/// What a collector takes traces at, below the base of its API.
const TRACES_PATH: &str = "v1/traces";
/// What spans are sent under, unless `OTEL_SERVICE_NAME` says otherwise.
const SERVICE: &str = "registry-server";

const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Traces that are being sent to a collector.
#[derive(Debug)]
pub(crate) struct Traces(SdkTracerProvider);

/// Why no traces can be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TracesError {
    /// The HTTP client cannot be set up.
    #[error("cannot set up the client of the collector")]
    Client(#[from] HttpUpstreamConfigError),
    /// The exporter cannot be set up.
    #[error("cannot set up the exporter of traces")]
    Exporter(#[from] ExporterBuildError),
    /// The system refused what is needed for it.
    #[error("cannot start a runtime to send traces with")]
    Runtime(#[from] io::Error),
}

impl Traces {
    /// Sends what is left, and ends.
    ///
    /// # Limits
    ///
    /// It blocks the thread for three seconds at the most; what was not taken by then is dropped.
    pub(crate) fn finish(self) {
        // Nobody is left to be told what else went wrong.
        let _ = self.0.shutdown_with_timeout(FLUSH_MAX);
    }
}

/// What sends the spans of this program to the collector at `endpoint`.
pub(crate) fn layer<S>(endpoint: &Url) -> Result<(impl Layer<S> + use<S>, Traces), TracesError>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Collector::new(endpoint)?)
        .with_endpoint(traces_url(endpoint))
        .with_timeout(SEND_MAX)
        .build()?;
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE_SPANS_MAX)
        .with_max_export_batch_size(BATCH_SPANS_MAX)
        .with_scheduled_delay(SEND_INTERVAL)
        .build();
    let processor = BatchSpanProcessor::builder(exporter)
        .with_batch_config(config)
        .build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_resource(resource())
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(SERVICE))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_context_activation(false)
        .with_filter(ours());
    Ok((layer, Traces(provider)))
}

/// Spans and events of this program: those of its libraries tell URLs.
fn ours() -> Targets {
    Targets::new().with_targets(
        [COLLECTED, "registry_core", "registry_server"].map(|target| (target, LevelFilter::INFO)),
    )
}

/// Who sends them.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let named = Resource::builder().with_attribute(version.clone()).build();
    let name = named.get(&"service.name".into());
    let is_unnamed = name.is_none_or(|name| name.as_str().starts_with("unknown_service"));
    match is_unnamed {
        false => named,
        true => Resource::builder()
            .with_attribute(version)
            .with_service_name(SERVICE)
            .build(),
    }
}

/// Where a collector takes traces: below its base, unless that is it already.
fn traces_url(endpoint: &Url) -> String {
    let base = endpoint.as_str().trim_end_matches('/');
    match base.ends_with(TRACES_PATH) {
        true => base.to_owned(),
        false => format!("{base}/{TRACES_PATH}"),
    }
}

/// Makes a span part of the client's trace, where it has one. Gives the id of the span's trace;
/// none where no traces are sent.
pub(super) fn adopt(span: &Span, parent: Option<&Parent>, headers: &HeaderMap) -> Option<TraceId> {
    if let Some(parent) = parent {
        let flags = match parent.is_sampled {
            true => TraceFlags::SAMPLED,
            false => TraceFlags::NOT_SAMPLED,
        };
        let context = SpanContext::new(
            opentelemetry::TraceId::from(parent.trace_id.0),
            SpanId::from(parent.span_id),
            flags,
            true,
            state_of(headers),
        );
        // It fails where nobody collects spans, and then there is nothing to be part of.
        let _ = span.set_parent(Context::new().with_remote_span_context(context));
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    let id = u128::from_be_bytes(context.trace_id().to_bytes());
    context.is_valid().then_some(TraceId(id))
}

/// `tracestate`; nothing of it where it is not right.
fn state_of(headers: &HeaderMap) -> TraceState {
    let values = headers.get_all(TRACESTATE).iter();
    let values: Option<Vec<_>> = values.map(|value| value.to_str().ok()).collect();
    let state = values.unwrap_or_default().join(",");
    let fits = state.len() <= STATE_BYTES_MAX && state.split(',').count() <= STATE_MEMBERS_MAX;
    match fits {
        true => state.parse().unwrap_or_default(),
        false => TraceState::default(),
    }
}

/// The collector. It is asked on the exporter's own thread, which has nothing else to do.
struct Collector {
    client: reqwest::Client,
    runtime: Runtime,
    is_failing: AtomicBool,
}

impl Collector {
    fn new(endpoint: &Url) -> Result<Self, TracesError> {
        Ok(Self {
            client: client_of_collector(endpoint)?,
            runtime: runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            is_failing: AtomicBool::new(false),
        })
    }

    async fn post(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let request = self
            .client
            .request(parts.method, parts.uri.to_string())
            .headers(parts.headers)
            .timeout(SEND_MAX)
            .body(body);
        let mut response = request.send().await?.error_for_status()?;
        let mut answer = Response::new(Bytes::new());
        *answer.status_mut() = response.status();
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err("the collector says more than it may".into());
            }
            body.extend_from_slice(&chunk);
        }
        *answer.body_mut() = body.freeze();
        Ok(answer)
    }

    /// Says once that the collector fails, and once that it does no more.
    fn note(&self, error: Option<&HttpError>) {
        let was_failing = self.is_failing.swap(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) if !was_failing => {
                let error: &(dyn std::error::Error + 'static) = &**error;
                warn!(
                    error,
                    "traces cannot be sent, and are dropped until they can"
                );
            }
            None if was_failing => info!("traces are sent again"),
            _ => {}
        }
    }
}

impl HttpClient for Collector {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let outcome = self.runtime.block_on(self.post(request));
        self.note(outcome.as_ref().err());
        Box::pin(ready(outcome))
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn traces_go_below_the_base_of_the_collectors_api() {
        for (endpoint, url) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
            (
                "https://otlp.example/base",
                "https://otlp.example/base/v1/traces",
            ),
            (
                "https://otlp.example/v1/traces",
                "https://otlp.example/v1/traces",
            ),
        ] {
            assert_eq!(traces_url(&Url::parse(endpoint).unwrap()), url);
        }
    }

    #[test]
    fn a_state_is_taken_whole_or_not_at_all() {
        let long = format!("a={}", "x".repeat(STATE_BYTES_MAX));
        let many = vec!["k=v"; STATE_MEMBERS_MAX + 1].join(",");
        for (values, state) in [
            (
                &["rojo=00f067aa0ba902b7", "congo=t61rcWkgMzE"][..],
                "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
            ),
            (&["no state"], ""),
            (&[&*long], ""),
            (&[&*many], ""),
            (&[], ""),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(TRACESTATE, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(state_of(&headers).header(), state);
        }
    }
}
