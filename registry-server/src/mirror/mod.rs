//! The mirror as one value: what a program embeds, and what the binary runs.
//!
//! It puts store, upstreams, cache and server together, and takes them apart in the right order.
//! It knows no signal and no environment, and prints nothing.

mod builder;
mod start_error;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path;
use std::sync::Arc;
use std::time::Duration;

use registry_core::{
    Clock, Limits, RegistryCache, Stores, SystemClock, Upstream, UpstreamEntry, UpstreamId,
    Upstreams,
};
use registry_storage::{DiskOptions, DiskStore};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::announcement::Announcement;
use crate::config::{Config, UpstreamConfig};
use crate::front::{FrontLimits, Server, ServerOptions};
use crate::metrics::Metrics;
use crate::upstream::{HttpUpstream, HttpUpstreamConfig, SystemTrust};

pub use builder::MirrorBuilder;
pub use start_error::StartError;

/// How long a shutdown takes at the most: answers under way are finished first, and in what is
/// left of it, downloads. Kubernetes kills after 30 seconds.
const SHUTDOWN_MAX: Duration = Duration::from_secs(25);

/// A running mirror.
///
/// ```no_run
/// # async fn example() -> Result<(), registry_server::StartError> {
/// use registry_server::Mirror;
///
/// let mirror = Mirror::builder()
///     .data_dir("/var/lib/mirror")
///     .listen("127.0.0.1:0")
///     .upstream("registry.example.org", "https://registry.example.org")
///     .start()
///     .await?;
/// println!("pull from http://{}", mirror.addr());
/// mirror.shutdown().await;
/// # Ok(())
/// # }
/// ```
///
/// Dropping it begins what [`Self::shutdown`] does, and waits for none of it.
pub struct Mirror {
    addr: SocketAddr,
    admin_addr: Option<SocketAddr>,
    cache: RegistryCache,
    /// The folder that a [`DiskStore`] keeps everything in, unless the stores are the caller's.
    store: Option<DiskStore>,
    /// The configuration that it was started with.
    config: Config,
    /// The one task: the server.
    tasks: TaskTracker,
    stop: DropGuard,
}

/// What a mirror is put together from.
struct Parts {
    config: Config,
    /// In place of a folder.
    stores: Option<Stores>,
    /// Besides the configured ones, and in place of those of the same name.
    upstreams: BTreeMap<UpstreamId, Arc<dyn Upstream>>,
    clock: Arc<dyn Clock>,
    cache_limits: Limits,
    front_limits: FrontLimits,
    #[cfg(feature = "testing")]
    outgoing: crate::testing::OutgoingLog,
}

impl Parts {
    fn new(config: Config) -> Self {
        Self {
            config,
            stores: None,
            upstreams: BTreeMap::new(),
            clock: Arc::new(SystemClock),
            cache_limits: Limits::default(),
            front_limits: FrontLimits::default(),
            #[cfg(feature = "testing")]
            outgoing: crate::testing::OutgoingLog::default(),
        }
    }
}

impl Mirror {
    /// A mirror that is yet to be configured: it knows the same upstreams as the binary, takes any
    /// free port of this machine, and has no admin listener.
    pub fn builder() -> MirrorBuilder {
        MirrorBuilder::new()
    }

    /// Starts a mirror with this configuration. No upstream is asked for anything.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing is left running.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves nothing running.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::assemble(Parts::new(config)).await
    }

    async fn assemble(parts: Parts) -> Result<Self, StartError> {
        let Parts {
            mut config,
            stores,
            upstreams,
            clock,
            cache_limits,
            front_limits,
            #[cfg(feature = "testing")]
            outgoing,
        } = parts;
        let metrics = Metrics::default();
        let common = |http: &mut HttpUpstreamConfig| {
            http.observer = Some(metrics.upstream(&http.id));
            http.manifest_bytes_max = cache_limits.manifest_bytes_max;
            http.budgets = http.budgets.clone().within(cache_limits.upstream_wait_max);
            #[cfg(feature = "testing")]
            http.outgoing.clone_from(&outgoing);
        };
        let upstreams = upstreams_of(&mut config, upstreams, common, &metrics)?;
        let (stores, store) = match stores {
            Some(stores) => (stores, None),
            None => {
                let mut options = DiskOptions::default();
                options.clock = Arc::clone(&clock);
                options.reserve = config.reserve;
                let store = DiskStore::open_with(&config.data_dir, options).await?;
                let kept = Arc::new(store.clone());
                (Stores::of(Arc::clone(&kept)).kept_by(kept), Some(store))
            }
        };
        let cache = RegistryCache::with(stores, upstreams, cache_limits, clock);
        let options = ServerOptions {
            limits: front_limits,
            metrics,
            ..ServerOptions::new(config.default_upstream.clone())
        };
        let bound = Server::bind(config.listen, config.admin_listen, cache.clone(), options).await;
        let server = match bound {
            Ok(server) => server,
            Err(error) => {
                close(store).await;
                return Err(StartError::of(error, &config));
            }
        };
        let (addr, admin_addr) = (server.local_addr(), server.admin_addr());
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(server.run(stop.clone().cancelled_owned()));
        tasks.close();
        Ok(Self {
            addr,
            admin_addr,
            cache,
            store,
            config,
            tasks,
            stop: stop.drop_guard(),
        })
    }

    /// The address that clients pull from.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address of health, metrics and administration, where there is one.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// The cache behind it, for calls without HTTP.
    pub fn cache(&self) -> &RegistryCache {
        &self.cache
    }

    /// What there is to say about it to whoever started it.
    pub fn announcement(&self) -> Announcement {
        let configured = &self.config.upstreams;
        let endpoints = |id| {
            configured
                .get(id)
                .map(|upstream| upstream.endpoints.clone())
        };
        let upstreams = self.cache.upstreams();
        Announcement {
            listen: self.addr,
            admin_listen: self.admin_addr,
            data_dir: self.store.as_ref().map(|store| {
                let path = &self.config.data_dir;
                let path = path::absolute(path).unwrap_or_else(|_| path.clone());
                (path, store.recovery().clone())
            }),
            tag_ttl: self.config.tag_ttl,
            default_upstream: self.config.default_upstream.clone(),
            upstreams: upstreams
                .ids()
                .map(|id| (id.clone(), endpoints(id).unwrap_or_default()))
                .collect(),
        }
    }

    /// Stops accepting connections, lets answers under way finish for
    /// [`drain_max`](FrontLimits::drain_max) at the most, and downloads in what is left of 25
    /// seconds; then closes the store.
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends nothing sooner: it only does not wait. The store then learns as
    /// little of its end as in a crash, which it has to outlive anyway.
    pub async fn shutdown(self) {
        let deadline = Instant::now() + SHUTDOWN_MAX;
        drop(self.stop);
        self.tasks.wait().await;
        self.cache
            .close(deadline.saturating_duration_since(Instant::now()))
            .await;
        close(self.store).await;
    }
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror")
            .field("addr", &self.addr)
            .field("admin_addr", &self.admin_addr)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

async fn close(store: Option<DiskStore>) {
    if let Some(store) = store
        && let Err(error) = store.close().await
    {
        // It has to outlive crashes, so there is nothing that has to be done about it.
        warn!(%error, "the store could not be closed in order");
    }
}

/// The configured upstreams, and those that the program brings. What is configured under the name
/// of one of these is only how its tags are kept fresh, and is taken out of the configuration.
fn upstreams_of(
    config: &mut Config,
    brought: BTreeMap<UpstreamId, Arc<dyn Upstream>>,
    common: impl Fn(&mut HttpUpstreamConfig),
    metrics: &Metrics,
) -> Result<Upstreams, StartError> {
    let mut upstreams = Upstreams::new();
    for (id, upstream) in brought {
        let settings = config.upstreams.remove(&id);
        let settings = settings.unwrap_or_else(|| UpstreamConfig::new([]));
        upstreams.insert(id, entry_of(upstream, &settings, config.tag_ttl));
    }
    let trust = SystemTrust::default();
    for (id, settings) in &config.upstreams {
        let mut http = http_config(id, settings, trust.clone());
        common(&mut http);
        let upstream = match HttpUpstream::new(http) {
            Ok(upstream) => Arc::new(upstream),
            Err(source) => {
                let id = id.clone();
                return Err(StartError::Upstream { id, source });
            }
        };
        metrics.watch(&upstream);
        upstreams.insert(id.clone(), entry_of(upstream, settings, config.tag_ttl));
    }
    Ok(upstreams)
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
