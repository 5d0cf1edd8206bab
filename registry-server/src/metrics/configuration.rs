//! Whether what the configuration says is in effect, looked up at the moment of a scrape.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;

use super::gauge;
use crate::api::ConfigurationState;

/// What tells of the configuration.
pub(crate) struct OfConfiguration<F>(pub(crate) F);

impl<F> Collector for OfConfiguration<F>
where
    F: Fn() -> ConfigurationState + Send + Sync + 'static,
{
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let state = (self.0)();
        let loaded_at = state.loaded_at.timestamp().as_millis() / 1_000;
        for (name, help, value) in [
            (
                "config_reload_success",
                "Whether what the configuration says is in effect (1), or was refused when it was \
                 read last (0).",
                u64::from(state.refused.is_none()),
            ),
            (
                "config_last_reload_timestamp_seconds",
                "When the configuration that is in effect was read.",
                loaded_at,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge(value).encode(metric)?;
        }
        Ok(())
    }
}

impl<F> fmt::Debug for OfConfiguration<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfConfiguration").finish_non_exhaustive()
    }
}
