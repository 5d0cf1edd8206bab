//! What is asked of upstreams, what comes, and what they tell of their limits.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use registry_core::UpstreamId;

use super::{Exposition, Metrics, UpstreamLabels, gauge};
use crate::upstream::{Quota, RequestKind, UpstreamObserver};

/// Upper bounds of [`Counted::answer`]: from a registry next door to the 24 seconds that one is
/// waited for at the most.
const ANSWER_SECONDS: [f64; 10] = [0.005, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0, 30.0];

/// What is counted as it happens.
pub(super) struct Counted {
    requests: Family<RequestLabels, Counter>,
    bytes: Family<UpstreamLabels, Counter>,
    /// Of all upstreams.
    bytes_in_all: Counter,
    answer: Family<UpstreamLabels, Histogram, fn() -> Histogram>,
    rests: Family<EndpointLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    upstream: String,
    kind: &'static str,
    /// The status of the answer, or `none` where there was none.
    status: String,
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

impl Default for Counted {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            bytes: Family::default(),
            bytes_in_all: Counter::default(),
            answer: Family::new_with_constructor(|| Histogram::new(ANSWER_SECONDS)),
            rests: Family::default(),
        }
    }
}

impl Counted {
    /// Bytes of bodies received, from whomever.
    pub(super) fn bytes_in_all(&self) -> u64 {
        self.bytes_in_all.get()
    }

    pub(super) fn register(&self, exposition: &mut Exposition) {
        exposition.register(
            "upstream_requests",
            "Requests sent upstream, by kind and status of the answer.",
            self.requests.clone(),
        );
        exposition.register(
            "upstream_bytes",
            "Bytes of bodies received from upstream.",
            self.bytes.clone(),
        );
        exposition.register(
            "upstream_answer_seconds",
            "Time from a request sent upstream until the headers of its answer.",
            self.answer.clone(),
        );
        exposition.register(
            "upstream_endpoint_rests",
            "How often an endpoint failed, and was only probed from then on.",
            self.rests.clone(),
        );
    }
}

/// The counters of one upstream.
pub(super) struct OfUpstream {
    upstream: String,
    bytes: Counter,
    /// Since it was first asked.
    answer: OnceLock<Histogram>,
    counted: Arc<Counted>,
}

impl OfUpstream {
    pub(super) fn new(upstream: &UpstreamId, counted: &Arc<Counted>) -> Self {
        let upstream = upstream.to_string();
        let labels = UpstreamLabels {
            upstream: upstream.clone(),
        };
        Self {
            upstream,
            // From the start on, so that the first bytes are an increase.
            bytes: counted.bytes.get_or_create_owned(&labels),
            answer: OnceLock::new(),
            counted: Arc::clone(counted),
        }
    }

    fn labels(&self) -> UpstreamLabels {
        let upstream = self.upstream.clone();
        UpstreamLabels { upstream }
    }
}

impl UpstreamObserver for OfUpstream {
    fn answered(&self, kind: RequestKind, status: Option<u16>, elapsed: Duration) {
        let labels = RequestLabels {
            upstream: self.upstream.clone(),
            kind: kind.as_str(),
            status: status.map_or_else(|| "none".to_owned(), |status| status.to_string()),
        };
        self.counted.requests.get_or_create(&labels).inc();
        if status.is_some() {
            let find = || self.counted.answer.get_or_create_owned(&self.labels());
            self.answer.get_or_init(find).observe(elapsed.as_secs_f64());
        }
    }

    fn received(&self, bytes: u64) {
        self.bytes.inc_by(bytes);
        self.counted.bytes_in_all.inc_by(bytes);
    }

    fn endpoint_turned(&self, endpoint: &str, is_well: bool) {
        if is_well {
            return;
        }
        let labels = EndpointLabels {
            upstream: self.upstream.clone(),
            endpoint: endpoint.to_owned(),
        };
        self.counted.rests.get_or_create(&labels).inc();
    }
}

impl fmt::Debug for OfUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfUpstream")
            .field("upstream", &self.upstream)
            .finish_non_exhaustive()
    }
}

/// How the endpoints of upstreams are, and what they told of how much they still grant.
#[derive(Debug)]
pub(super) struct OfEndpoints(pub(super) Metrics);

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

impl Collector for OfEndpoints {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        // Of those of the same name, the one that was set up last: others end with what is still
        // asked of them.
        let upstreams = self.0.upstreams().into_iter();
        let upstreams: BTreeMap<_, _> = upstreams
            .map(|upstream| (upstream.id().clone(), upstream.endpoints()))
            .collect();
        let endpoints = || {
            let all = upstreams.iter();
            all.flat_map(|(id, endpoints)| endpoints.iter().map(move |endpoint| (id, endpoint)))
        };
        let name = "upstream_endpoint_up";
        let help = "Whether an endpoint is asked (1), or failed and is only probed (0).";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (id, endpoint) in endpoints() {
            let labels = EndpointLabels {
                upstream: id.to_string(),
                endpoint: endpoint.endpoint.clone(),
            };
            gauge(u64::from(endpoint.up)).encode(metric.encode_family(&labels)?)?;
        }
        for (name, help, read) in READINGS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (id, endpoint) in endpoints() {
                for told in &endpoint.quotas {
                    let Some(value) = read(&told.quota) else {
                        continue;
                    };
                    let labels = QuotaLabels {
                        upstream: id.to_string(),
                        endpoint: endpoint.endpoint.clone(),
                        credential: told.credential.clone(),
                        source: told.quota.source.clone().unwrap_or_default(),
                    };
                    gauge(value).encode(metric.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}
