//! What the cache knows of itself, looked up at the moment of a scrape.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use registry_core::RegistryCache;

use super::gauge;

/// A cache, at the moment of a scrape.
#[derive(Debug)]
pub(super) struct OfCache {
    fills_active: u64,
    store_failures: u64,
    store_is_failing: bool,
}

impl OfCache {
    pub(super) async fn look(cache: &RegistryCache) -> Self {
        Self {
            fills_active: cache.fills_active() as u64,
            store_failures: cache.store_failures(),
            store_is_failing: cache.store_is_failing(),
        }
    }
}

impl Collector for OfCache {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut tell = |name: &str, help: &str, metric: &dyn EncodeMetric| {
            let kind = metric.metric_type();
            metric.encode(encoder.encode_descriptor(name, help, None, kind)?)
        };
        tell(
            "fills_active",
            "Downloads under way that blobs are served from and stored by.",
            &gauge(self.fills_active),
        )?;
        tell(
            "store_failures",
            "How often the store has failed.",
            &ConstCounter::new(self.store_failures),
        )?;
        tell(
            "store_failing",
            "Whether the store has failed, and has taken nothing since (1): the mirror is a proxy.",
            &gauge(u64::from(self.store_is_failing)),
        )
    }
}
