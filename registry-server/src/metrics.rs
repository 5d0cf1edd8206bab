//! Metrics, as OpenMetrics text: counted where things happen, gathered where they are asked for.
//!
//! Labels come from closed lists only (configured upstreams, kinds of request, status codes), so
//! that the number of series does not grow with what clients ask for (I8).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Metric, Registry};
use registry_core::{RegistryCache, UpstreamId};

use crate::upstream::{HttpUpstream, Quota, RequestKind, UpstreamObserver};

/// What every name begins with.
const PREFIX: &str = "registry";

/// The media type of [`Metrics::text`] (OpenMetrics 1.0.0).
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a mirror counts, for [`Server`](crate::front::Server) to tell at `/metrics`. Clones share
/// the counters.
#[derive(Clone, Default)]
pub struct Metrics {
    counted: Arc<Counted>,
    /// Whose quotas are told. Weak, since whoever is watched may count here as well.
    watched: Arc<Mutex<Vec<Weak<HttpUpstream>>>>,
}

/// What is counted as it happens.
#[derive(Default)]
struct Counted {
    upstream_requests: Family<UpstreamRequest, Counter>,
    upstream_bytes: Family<UpstreamLabels, Counter>,
    endpoints_up: Family<EndpointLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamRequest {
    upstream: String,
    kind: &'static str,
    /// The status of the answer, or `none` where there was none.
    status: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabels {
    upstream: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    upstream: String,
    /// Its host, with the port and path where it has any.
    endpoint: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QuotaLabels {
    upstream: String,
    endpoint: String,
    /// Whose quota it is: `anonymous`, or a name that says nothing secret.
    credential: String,
    /// Whom the registry counts, as it says.
    source: String,
}

impl Metrics {
    /// Who counts what is asked of one upstream, and what comes.
    pub fn upstream(&self, upstream: &UpstreamId) -> Arc<dyn UpstreamObserver> {
        Arc::new(OfUpstream {
            upstream: upstream.to_string(),
            counted: Arc::clone(&self.counted),
        })
    }

    /// Tells the quotas of `upstream` too, while there is one.
    pub fn watch(&self, upstream: &Arc<HttpUpstream>) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.push(Arc::downgrade(upstream));
    }
}

/// The counters of one upstream.
struct OfUpstream {
    upstream: String,
    counted: Arc<Counted>,
}

impl UpstreamObserver for OfUpstream {
    fn answered(&self, kind: RequestKind, status: Option<u16>) {
        let labels = UpstreamRequest {
            upstream: self.upstream.clone(),
            kind: kind.as_str(),
            status: status.map_or_else(|| "none".to_owned(), |status| status.to_string()),
        };
        self.counted.upstream_requests.get_or_create(&labels).inc();
    }

    fn received(&self, bytes: u64) {
        let upstream = self.upstream.clone();
        let labels = UpstreamLabels { upstream };
        let counter = self.counted.upstream_bytes.get_or_create(&labels);
        counter.inc_by(bytes);
    }

    fn endpoint_turned(&self, endpoint: &str, is_well: bool) {
        let labels = EndpointLabels {
            upstream: self.upstream.clone(),
            endpoint: endpoint.to_owned(),
        };
        let gauge = self.counted.endpoints_up.get_or_create(&labels);
        gauge.set(i64::from(is_well));
    }
}

impl fmt::Debug for OfUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfUpstream")
            .field("upstream", &self.upstream)
            .finish_non_exhaustive()
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
}

impl Exposition {
    pub(crate) fn new(metrics: &Metrics, cache: RegistryCache) -> Self {
        let mut exposition = Self {
            registry: Registry::with_prefix(PREFIX),
        };
        let counted = &metrics.counted;
        exposition.register(
            "upstream_requests",
            "Requests sent upstream, by kind and status of the answer",
            counted.upstream_requests.clone(),
        );
        exposition.register(
            "upstream_bytes",
            "Bytes of bodies received from upstream",
            counted.upstream_bytes.clone(),
        );
        exposition.register(
            "upstream_endpoint_up",
            "Whether an endpoint that once failed is asked again (1) or only probed (0)",
            counted.endpoints_up.clone(),
        );
        exposition.gather(OfCache(cache));
        exposition.gather(OfQuotas(metrics.clone()));
        exposition
    }

    /// `help` without the full stop, which is put behind it here, and not behind a collector's.
    fn register(&mut self, name: &str, help: &str, metric: impl Metric) {
        self.registry.register(name, help, metric);
    }

    /// Adds what is asked for anew each time.
    pub(crate) fn gather(&mut self, collector: impl Collector) {
        self.registry.register_collector(Box::new(collector));
    }

    /// All metrics at this moment.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String takes all that is written to it");
        text
    }
}

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exposition").finish_non_exhaustive()
    }
}

/// What upstreams told of how much they still grant.
#[derive(Debug)]
struct OfQuotas(Metrics);

/// A number that a quota has, and what it is called.
type Reading = (&'static str, &'static str, fn(&Quota) -> Option<u64>);

const READINGS: [Reading; 4] = [
    (
        "upstream_ratelimit_limit",
        "Requests that the upstream grants in a window.",
        |quota| Some(quota.limit),
    ),
    (
        "upstream_ratelimit_remaining",
        "Requests that the upstream still grants in this window.",
        |quota| Some(quota.remaining),
    ),
    (
        "upstream_ratelimit_window_seconds",
        "The window that the upstream counts requests in.",
        |quota| Some(quota.window?.as_secs()),
    ),
    (
        "upstream_ratelimit_reset_timestamp_seconds",
        "When the upstream begins to count anew, where it tells.",
        |quota| Some(quota.reset_at?.as_millis() / 1000),
    ),
];

impl Collector for OfQuotas {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let watched = self.0.watched.lock();
        let upstreams: Vec<_> = (watched.unwrap_or_else(PoisonError::into_inner).iter())
            .filter_map(Weak::upgrade)
            .collect();
        for (name, help, read) in READINGS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for upstream in &upstreams {
                for told in upstream.quotas() {
                    let Some(value) = read(&told.quota) else {
                        continue;
                    };
                    let labels = QuotaLabels {
                        upstream: upstream.id().to_string(),
                        endpoint: told.endpoint,
                        credential: told.credential,
                        source: told.quota.source.unwrap_or_default(),
                    };
                    let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                    gauge.encode(metric.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

/// What the cache knows of itself.
#[derive(Debug)]
struct OfCache(RegistryCache);

impl Collector for OfCache {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let fills = ConstGauge::new(i64::try_from(self.0.fills_active()).unwrap_or(i64::MAX));
        let help = "Downloads under way that blobs are served from and stored by.";
        let metric = encoder.encode_descriptor("fills_active", help, None, fills.metric_type())?;
        fills.encode(metric)
    }
}
