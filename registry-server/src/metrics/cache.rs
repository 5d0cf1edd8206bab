//! What the cache knows of itself, looked up at the moment of a scrape.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use registry_core::RegistryCache;
use registry_core::cache::{CacheUsage, EvictionCounts};
use tokio::time::timeout;

use super::gauge;

/// How long a scrape waits for the store. What it has not told by then is left out: a scraper that
/// is kept waiting gives up all of it.
const STORE_WAIT_MAX: Duration = Duration::from_secs(1);

/// A cache, at the moment of a scrape.
#[derive(Debug)]
pub(super) struct OfCache {
    fills_active: u64,
    store_failures: u64,
    store_is_failing: bool,
    refused_for_room: u64,
    healed: u64,
    evictions: EvictionCounts,
    /// None where the store does not tell.
    usage: Option<CacheUsage>,
    pins: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ObjectLabels {
    object: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

impl OfCache {
    pub(super) async fn look(cache: &RegistryCache) -> Self {
        let (usage, pins) = tokio::join!(
            timeout(STORE_WAIT_MAX, cache.usage()),
            timeout(STORE_WAIT_MAX, cache.pins()),
        );
        let pins = pins.ok().and_then(Result::ok);
        Self {
            fills_active: cache.fills_active() as u64,
            store_failures: cache.store_failures(),
            store_is_failing: cache.store_is_failing(),
            refused_for_room: cache.refused_for_room(),
            healed: cache.healed(),
            evictions: cache.evictions(),
            usage: usage.ok().and_then(Result::ok).flatten(),
            pins: pins.map(|pins| pins.len() as u64),
        }
    }

    /// What is one number each, where it is known.
    fn gauges(&self) -> [(&'static str, &'static str, Option<u64>); 8] {
        let usage = self.usage.as_ref();
        let kept = usage.map(|usage| usage.kept);
        [
            (
                "fills_active",
                "Downloads under way that blobs are served from and stored by.",
                Some(self.fills_active),
            ),
            (
                "store_failing",
                "Whether the store has failed, and has taken nothing since (1): the mirror is a \
                 proxy.",
                Some(u64::from(self.store_is_failing)),
            ),
            (
                "cache_bytes",
                "Bytes of content that is kept.",
                kept.map(|kept| kept.bytes),
            ),
            (
                "cache_limit_bytes",
                "Bytes that content may take, where there is a limit.",
                usage.and_then(|usage| usage.bytes_max),
            ),
            (
                "cache_unfinished_bytes",
                "Bytes of downloads that are under way or broke off.",
                kept.map(|kept| kept.unfinished_bytes),
            ),
            (
                "cache_promised_bytes",
                "Bytes that downloads under way may still need.",
                usage.map(|usage| usage.promised_bytes),
            ),
            (
                "cache_free_bytes",
                "Bytes that may still be written before the reserve of the disk is touched.",
                kept.and_then(|kept| kept.free_bytes),
            ),
            ("pins", "Pins.", self.pins),
        ]
    }
}

impl Collector for OfCache {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, value) in self.gauges() {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            if let Some(value) = value {
                gauge(value).encode(metric)?;
            }
        }
        for (name, help, value) in [
            (
                "store_failures",
                "How often the store has failed.",
                self.store_failures,
            ),
            (
                "refused_for_room",
                "Content that was passed through for want of room.",
                self.refused_for_room,
            ),
            (
                "healed",
                "Content that was found missing or damaged, and given up to be fetched anew.",
                self.healed,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        let help = "Content that is kept, by what it is.";
        let mut metric =
            encoder.encode_descriptor("cache_objects", help, None, MetricType::Gauge)?;
        if let Some(CacheUsage { kept, .. }) = self.usage {
            for (object, count) in [("blob", kept.blobs), ("manifest", kept.manifests)] {
                gauge(count).encode(metric.encode_family(&ObjectLabels { object })?)?;
            }
        }
        let help = "Images and blobs that were removed, by why.";
        let mut metric = encoder.encode_descriptor("evictions", help, None, MetricType::Counter)?;
        for (reason, evicted) in self.evictions.iter() {
            let reason = reason.as_str();
            let labels = ReasonLabels { reason };
            ConstCounter::new(evicted.count).encode(metric.encode_family(&labels)?)?;
        }
        let help = "Bytes that removals gave free, by why.";
        let mut metric =
            encoder.encode_descriptor("evicted_bytes", help, None, MetricType::Counter)?;
        for (reason, evicted) in self.evictions.iter() {
            let reason = reason.as_str();
            let labels = ReasonLabels { reason };
            ConstCounter::new(evicted.bytes).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
