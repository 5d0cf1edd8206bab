//! Metrics, as OpenMetrics text: counted where things happen, gathered where they are asked for.
//!
//! - `answers`, `labels`: what clients were answered; `upstreams`: what registries were asked.
//! - `cache`, `configuration`, `process`: what is looked up at the moment of a scrape.
//!
//! Labels come from closed lists only (configured upstreams, kinds of request, status codes), so
//! that the number of series does not grow with what clients ask for (I8).

mod answers;
mod cache;
mod configuration;
mod labels;
#[cfg(target_os = "linux")]
mod process;
mod upstreams;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Metric, Registry};
use registry_core::{RegistryCache, UpstreamId};

use crate::api::Traffic;
use crate::health::Readiness;
use crate::upstream::{HttpUpstream, UpstreamObserver};

pub(crate) use answers::{Answers, Ended, Named, Side};
pub(crate) use configuration::OfConfiguration;
pub(crate) use labels::ListenerName;

/// What every name begins with, but for those of the process.
const PREFIX: &str = "registry";

/// The media type of [`Exposition::text`] (OpenMetrics 1.0.0).
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a mirror counts, for [`Server`](crate::front::Server) to tell at `/metrics`. Clones share
/// the counters.
#[derive(Clone, Default)]
pub struct Metrics {
    answers: Answers,
    upstreams: Arc<upstreams::Counted>,
    /// Whose endpoints are told of. Weak, since whoever is watched may count here as well.
    watched: Arc<Mutex<Vec<Weak<HttpUpstream>>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabels {
    upstream: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

impl Metrics {
    /// Who counts what is asked of one upstream, and what comes.
    pub fn upstream(&self, upstream: &UpstreamId) -> Arc<dyn UpstreamObserver> {
        Arc::new(upstreams::OfUpstream::new(upstream, &self.upstreams))
    }

    /// Tells how the endpoints of `upstream` are too, while there is one.
    pub fn watch(&self, upstream: &Arc<HttpUpstream>) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that a new configuration has replaced.
        watched.retain(|upstream| upstream.strong_count() > 0);
        watched.push(Arc::downgrade(upstream));
    }

    /// Those that are watched, in the order in which that began.
    pub(crate) fn upstreams(&self) -> Vec<Arc<HttpUpstream>> {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.iter().filter_map(Weak::upgrade).collect()
    }

    /// What was answered, sent and received since the start. Of fills nothing is known here: none
    /// are told.
    pub fn totals(&self) -> Traffic {
        let (answers, served_bytes) = self.answers.totals();
        Traffic {
            answers,
            served_bytes,
            upstream_bytes: self.upstreams.bytes_in_all(),
            fills_active: 0,
        }
    }

    /// Where answers are counted.
    pub(crate) fn answers(&self) -> &Answers {
        &self.answers
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Where [`Metrics`] are read, together with what is known only at that moment.
pub(crate) struct Exposition {
    registry: Registry,
    /// Names that have no prefix.
    plain: Registry,
    cache: RegistryCache,
    readiness: Readiness,
}

impl Exposition {
    pub(crate) fn new(metrics: &Metrics, cache: RegistryCache, readiness: Readiness) -> Self {
        let mut exposition = Self {
            registry: Registry::with_prefix(PREFIX),
            plain: Registry::default(),
            cache,
            readiness,
        };
        exposition.register(
            "build_info",
            "Which program this is: always 1.",
            build_info(),
        );
        metrics.answers.register(&mut exposition);
        metrics.upstreams.register(&mut exposition);
        exposition.gather(upstreams::OfEndpoints(metrics.clone()));
        #[cfg(target_os = "linux")]
        exposition
            .plain
            .register_collector(Box::new(process::OfProcess));
        exposition
    }

    /// Adds what is counted as it happens. It is told from the start on, also while there is nothing
    /// to tell: who writes a query finds its name.
    fn register(&mut self, name: &'static str, help: &'static str, metric: impl Metric) {
        let metric = Box::new(metric);
        self.gather(Declared { name, help, metric });
    }

    /// Adds what is asked for anew each time.
    pub(crate) fn gather(&mut self, collector: impl Collector) {
        self.registry.register_collector(Box::new(collector));
    }

    /// All metrics at this moment.
    pub(crate) async fn text(&self) -> String {
        let mut looked_up = Registry::with_prefix(PREFIX);
        let ready = Gauge::<i64>::default();
        ready.set(i64::from(self.readiness.is_ready()));
        looked_up.register(
            "ready",
            "Whether requests should come here: as /readyz",
            ready,
        );
        let of_cache = cache::OfCache::look(&self.cache).await;
        looked_up.register_collector(Box::new(of_cache));
        let mut text = String::new();
        [&self.registry, &looked_up, &self.plain]
            .into_iter()
            .try_for_each(|registry| encode_registry(&mut text, registry))
            .and_then(|()| encode_eof(&mut text))
            .expect("a String takes all that is written to it");
        text
    }
}

/// A metric with its name, whether or not it has any series. (A registry leaves out those that have
/// none.)
#[derive(Debug)]
struct Declared {
    name: &'static str,
    help: &'static str,
    metric: Box<dyn Metric>,
}

impl Collector for Declared {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let kind = self.metric.metric_type();
        let descriptor = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        self.metric.encode(descriptor)
    }
}

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exposition").finish_non_exhaustive()
    }
}

fn build_info() -> Family<BuildLabels, Gauge> {
    let info = Family::<BuildLabels, Gauge>::default();
    let labels = BuildLabels {
        version: env!("CARGO_PKG_VERSION"),
    };
    info.get_or_create(&labels).set(1);
    info
}

/// A number, as far as a gauge has room for it.
fn gauge(value: u64) -> ConstGauge {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}
