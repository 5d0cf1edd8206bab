//! The mirror as one value: what a program embeds, and what the binary runs.
//!
//! It puts store, upstreams, cache and server together, and takes them apart in the right order.
//! It knows no signal and no environment, and prints nothing.

mod builder;
mod changes;
mod reload;
mod start_error;
mod upstreams;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{self, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use registry_core::{Clock, Limits, RegistryCache, Stores, SystemClock, Upstream, UpstreamId};
use registry_storage::{DiskOptions, DiskStore};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::admin::AdminOptions;
use crate::announcement::Announcement;
use crate::api::Reloaded;
use crate::config::{Config, ConfigSource};
use crate::front::{FrontLimits, Server, ServerOptions, Tls};
use crate::metrics::Metrics;
use crate::upstream::SystemTrust;
use reload::{Started, keep_by};
use upstreams::{InUse, Unusable, Workshop};

pub use builder::MirrorBuilder;
pub use reload::{ReloadError, ReloadHandle};
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
    is_secure: bool,
    admin_addr: Option<SocketAddr>,
    cache: RegistryCache,
    /// The folder that a [`DiskStore`] keeps everything in, unless the stores are the caller's.
    store: Option<DiskStore>,
    reload: ReloadHandle,
    /// The server, and who watches the configuration.
    tasks: TaskTracker,
    stop: DropGuard,
}

/// What a mirror is put together from.
struct Parts {
    config: Config,
    /// Where it came from, to be read again.
    source: Option<ConfigSource>,
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
            source: None,
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

    /// Starts a mirror with this configuration, which `source` gave, and puts in effect what that
    /// says later: a few seconds after a change of the file, and on [`ReloadHandle::reload`].
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing is left running.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves nothing running.
    pub async fn start_watching(config: Config, source: ConfigSource) -> Result<Self, StartError> {
        let mut parts = Parts::new(config);
        parts.source = Some(source);
        Self::assemble(parts).await
    }

    async fn assemble(parts: Parts) -> Result<Self, StartError> {
        let Parts {
            config,
            source,
            stores,
            upstreams,
            clock,
            cache_limits,
            front_limits,
            #[cfg(feature = "testing")]
            outgoing,
        } = parts;
        let metrics = Metrics::default();
        let workshop = Workshop {
            brought: upstreams,
            limits: cache_limits.clone(),
            metrics: metrics.clone(),
            trust: SystemTrust::default(),
            #[cfg(feature = "testing")]
            outgoing,
        };
        let made = workshop.make(&config, &InUse::new());
        let (upstreams, in_use) =
            made.map_err(|Unusable { id, source }| StartError::Upstream { id, source })?;
        let tls = config.tls.clone().map(Tls::open).transpose()?;
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
        let cache = RegistryCache::with(stores, upstreams, cache_limits, Arc::clone(&clock));
        let reload = ReloadHandle::new(Started {
            source,
            config: config.clone(),
            cache: cache.clone(),
            workshop,
            in_use,
            tls: tls.clone(),
            clock: Arc::clone(&clock),
        });
        let admin = AdminOptions {
            token: config.admin_token.clone(),
            data_dir: store.is_some().then(|| absolute(&config.data_dir)),
            configuration: Some(reload.clone()),
            clock,
        };
        let is_secure = tls.is_some();
        let options = ServerOptions {
            tls,
            limits: front_limits,
            sendfile: config.sendfile,
            metrics,
            admin,
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
        // Begins what is done in the background: only for a mirror that starts.
        keep_by(&cache, &config);
        let (addr, admin_addr) = (server.local_addr(), server.admin_addr());
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(server.run(stop.clone().cancelled_owned()));
        tasks.spawn(watch::watch(reload.clone(), stop.clone()));
        tasks.close();
        Ok(Self {
            addr,
            is_secure,
            admin_addr,
            cache,
            store,
            reload,
            tasks,
            stop: stop.drop_guard(),
        })
    }

    /// The address that clients pull from.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Whether clients pull from it by `https://`.
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// The address of health, metrics and administration, where there is one.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// The cache behind it, for calls without HTTP.
    pub fn cache(&self) -> &RegistryCache {
        &self.cache
    }

    /// What exchanges its configuration while it runs.
    pub fn reload_handle(&self) -> &ReloadHandle {
        &self.reload
    }

    /// Reads the configuration file again: [`ReloadHandle::reload`].
    ///
    /// # Errors
    ///
    /// [`ReloadError`].
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        self.reload.reload().await
    }

    /// What there is to say about it to whoever started it.
    pub fn announcement(&self) -> Announcement {
        let config = self.reload.config();
        let configured = &config.upstreams;
        let endpoints = |id| {
            configured
                .get(id)
                .map(|upstream| upstream.endpoints.clone())
        };
        let upstreams = self.cache.upstreams();
        Announcement {
            listen: self.addr,
            is_secure: self.is_secure(),
            admin_listen: self.admin_addr,
            data_dir: self.store.as_ref().map(|store| {
                let path = absolute(&config.data_dir);
                (path, store.recovery().clone())
            }),
            tag_ttl: config.tag_ttl,
            default_upstream: config.default_upstream.clone(),
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
            .field("config", &self.reload.config())
            .finish_non_exhaustive()
    }
}

fn absolute(path: &Path) -> PathBuf {
    path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

async fn close(store: Option<DiskStore>) {
    if let Some(store) = store
        && let Err(error) = store.close().await
    {
        // It has to outlive crashes, so there is nothing that has to be done about it.
        warn!(%error, "the store could not be closed in order");
    }
}
