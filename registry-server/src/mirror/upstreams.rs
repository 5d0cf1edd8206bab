//! The upstreams of a mirror, made of its configuration: once at the start, and again where that has
//! changed. Those that are reached as before are kept, with their connections, tokens, quotas and
//! what is known of their health.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use registry_core::{Limits, Upstream, UpstreamEntry, UpstreamId, Upstreams};

use crate::config::{Config, UpstreamConfig};
use crate::files::{self, Stamp};
use crate::metrics::Metrics;
use crate::upstream::{HttpUpstream, HttpUpstreamConfig, HttpUpstreamConfigError, SystemTrust};

/// What upstreams are made with, besides their configuration.
pub(super) struct Workshop {
    /// Those that the program brings, in place of configured ones of the same name.
    pub(super) brought: BTreeMap<UpstreamId, Arc<dyn Upstream>>,
    pub(super) limits: Limits,
    pub(super) metrics: Metrics,
    pub(super) trust: SystemTrust,
    #[cfg(feature = "testing")]
    pub(super) outgoing: crate::testing::OutgoingLog,
}

/// An upstream that is in use, and what it was made of.
#[derive(Clone)]
pub(super) struct Made {
    settings: UpstreamConfig,
    /// The files that it has read and does not look at again, as they were.
    files: Vec<Stamp>,
    upstream: Arc<HttpUpstream>,
}

/// All that are in use.
pub(super) type InUse = BTreeMap<UpstreamId, Made>;

/// Why one of them cannot be made.
pub(super) struct Unusable {
    pub(super) id: UpstreamId,
    pub(super) source: HttpUpstreamConfigError,
}

impl Workshop {
    /// The upstreams of a configuration; those `in_use` that are the same are kept.
    pub(super) fn make(
        &self,
        config: &Config,
        in_use: &InUse,
    ) -> Result<(Upstreams, InUse), Unusable> {
        let mut upstreams = Upstreams::new();
        for (id, upstream) in &self.brought {
            let settings = config.upstreams.get(id).cloned();
            let settings = settings.unwrap_or_else(|| UpstreamConfig::new([]));
            let entry = entry_of(Arc::clone(upstream), &settings, config.tag_ttl);
            upstreams.insert(id.clone(), entry);
        }
        let mut made = InUse::new();
        for (id, settings) in &config.upstreams {
            if self.brought.contains_key(id) {
                continue;
            }
            // Before they are used: whatever changes meanwhile is another stamp the next time.
            let files = files_of(settings).map(files::stamp).collect();
            let same = in_use
                .get(id)
                .filter(|made| made.settings.is_reached_like(settings) && made.files == files);
            let upstream = match same {
                Some(made) => Arc::clone(&made.upstream),
                None => self.open(id, settings)?,
            };
            let entry = entry_of(Arc::clone(&upstream) as _, settings, config.tag_ttl);
            upstreams.insert(id.clone(), entry);
            let settings = settings.clone();
            made.insert(
                id.clone(),
                Made {
                    settings,
                    files,
                    upstream,
                },
            );
        }
        Ok((upstreams, made))
    }

    fn open(
        &self,
        id: &UpstreamId,
        settings: &UpstreamConfig,
    ) -> Result<Arc<HttpUpstream>, Unusable> {
        let mut http = http_config(id, settings, self.trust.clone());
        http.observer = Some(self.metrics.upstream(&http.id));
        http.manifest_bytes_max = self.limits.manifest_bytes_max;
        http.budgets = http.budgets.within(self.limits.upstream_wait_max);
        #[cfg(feature = "testing")]
        http.outgoing.clone_from(&self.outgoing);
        match HttpUpstream::new(http) {
            Ok(upstream) => {
                let upstream = Arc::new(upstream);
                self.metrics.watch(&upstream);
                Ok(upstream)
            }
            Err(source) => Err(Unusable {
                id: id.clone(),
                source,
            }),
        }
    }
}

/// Whether these are the same connection to a registry.
pub(super) fn is_kept(id: &UpstreamId, before: &InUse, after: &InUse) -> bool {
    let same = |(one, other): (&Made, &Made)| Arc::ptr_eq(&one.upstream, &other.upstream);
    before.get(id).zip(after.get(id)).is_some_and(same)
}

/// The files that an upstream reads once. Those with credentials it looks at by itself.
pub(super) fn files_of(settings: &UpstreamConfig) -> impl Iterator<Item = &Path> {
    let files = [
        &settings.ca_file,
        &settings.client_cert_file,
        &settings.client_key_file,
    ];
    files.into_iter().flatten().map(|path| path.as_path())
}

/// An upstream with how to treat it, where `tag_ttl` is the general setting.
fn entry_of(
    upstream: Arc<dyn Upstream>,
    settings: &UpstreamConfig,
    tag_ttl: Duration,
) -> UpstreamEntry {
    UpstreamEntry {
        upstream,
        policy: settings.policy(tag_ttl),
        retention: settings.retention(),
        repositories: settings.repository_rules(tag_ttl),
    }
}

fn http_config(
    id: &UpstreamId,
    settings: &UpstreamConfig,
    system_trust: SystemTrust,
) -> HttpUpstreamConfig {
    let mut http = HttpUpstreamConfig::new(id.clone(), settings.endpoints.iter().cloned());
    http.ca_file.clone_from(&settings.ca_file);
    http.client_cert_file.clone_from(&settings.client_cert_file);
    http.client_key_file.clone_from(&settings.client_key_file);
    http.insecure_skip_verify = settings.insecure_skip_verify;
    http.proxies.clone_from(&settings.proxies);
    http.budgets.clone_from(&settings.budgets);
    http.next_endpoint_on_not_found = settings.next_endpoint_on_not_found;
    http.private_redirects = settings.private_redirects;
    http.realms.clone_from(&settings.realms);
    http.credentials.clone_from(&settings.credentials);
    http.system_trust = system_trust;
    http
}
