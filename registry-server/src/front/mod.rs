//! The registry's API over HTTP/1.1, and over HTTP/2 with TLS, for containerd, docker, podman and the like.
//!
//! - `address`, `range`, `conditional`: what a request asks for; pure.
//! - `service`, `content`, `multipart`, `listing`: from a request to its answer.
//! - `answer`, `error`, `body`, `file_range`: what an answer is made of.
//! - `request_body`: what a request brings, for the admin endpoints that take something.
//! - `listener`, `connection`, `wire`: sockets, their limits, and their orderly end.
//! - `sendfile`: bodies that the kernel sends.
//! - `tls`, `http2`: the same where connections are secured.
//! - `access`: the access log.
//!
//! It asks everything of [`RegistryCache`] and decides nothing about caching; it knows no store and
//! no upstream's protocol.

mod access;
mod address;
mod answer;
mod body;
mod conditional;
mod connection;
mod content;
mod error;
mod file_range;
#[cfg(test)]
mod fuzz;
mod http2;
mod limits;
mod listener;
mod listing;
mod multipart;
mod range;
mod request_body;
mod sendfile;
mod service;
mod tls;
mod wire;

use std::fmt;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use registry_core::{RegistryCache, UpstreamId};
use tokio::net::TcpListener;

use crate::admin::{Admin, AdminOptions, Surroundings};
use crate::health::{Readiness, Stage};
use crate::metrics::{Exposition, Metrics};
use listener::Listener;
use service::Registry;

pub(crate) use access::Entry;
pub(crate) use answer::{Answer, Came, Lasts};
pub(crate) use body::{BodyError, Payload};
pub(crate) use error::{ApiError, Code, chain};
pub use limits::FrontLimits;
pub(crate) use request_body::{RequestBody, RequestBodyError};
pub(crate) use service::{Service, has_body, panic_text};
pub(crate) use tls::Prepared;
pub use tls::{Tls, TlsError, TlsFiles};

/// How a [`Server`] serves.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The upstream of requests that name none.
    pub default_upstream: UpstreamId,
    /// What the registry's API is secured with; none to serve it in the clear. The admin endpoints
    /// are served in the clear in any case.
    pub tls: Option<Tls>,
    /// The limits of each listener.
    pub limits: FrontLimits,
    /// Whether the kernel sends stored blobs by itself, where it can.
    pub sendfile: bool,
    /// What `/metrics` tells, besides what the cache knows of itself.
    pub metrics: Metrics,
    /// Who may administer it, and what is told to them.
    pub admin: AdminOptions,
}

impl ServerOptions {
    /// The default limits, and this upstream for requests that name none.
    pub fn new(default_upstream: UpstreamId) -> Self {
        Self {
            default_upstream,
            tls: None,
            limits: FrontLimits::default(),
            sendfile: true,
            metrics: Metrics::default(),
            admin: AdminOptions::default(),
        }
    }
}

/// Why a [`Server`] cannot begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address is taken, or is not this machine's.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The default upstream is not one of the cache's.
    #[error("the default upstream {upstream} is not configured")]
    DefaultUpstream {
        /// Its name.
        upstream: UpstreamId,
    },
    /// What stands where the token of the admin API should is none.
    #[error("the token of the admin API cannot be used: {problem}")]
    AdminToken {
        /// What is wrong with it.
        problem: String,
    },
}

/// A cache, served over HTTP.
///
/// # Limits
///
/// [`FrontLimits`], for each listener on its own.
pub struct Server {
    registry: Listener<Registry>,
    admin: Option<Listener<Admin>>,
    tls: Option<Tls>,
    readiness: Readiness,
    limits: Arc<FrontLimits>,
}

impl Server {
    /// Listens, and serves nothing yet. Port 0 takes any port that is free.
    ///
    /// # Errors
    ///
    /// [`ServerError`].
    pub async fn bind(
        listen: SocketAddr,
        admin_listen: Option<SocketAddr>,
        cache: RegistryCache,
        options: ServerOptions,
    ) -> Result<Self, ServerError> {
        let ServerOptions {
            default_upstream,
            tls,
            limits,
            sendfile,
            metrics,
            admin,
        } = options;
        if cache.upstreams().get(&default_upstream).is_none() {
            return Err(ServerError::DefaultUpstream {
                upstream: default_upstream,
            });
        }
        let limits = Arc::new(limits);
        let readiness = Readiness::default();
        let answers = metrics.answers().clone();
        let registry = Registry {
            cache: cache.clone(),
            default_upstream: default_upstream.clone(),
            limits: Arc::clone(&limits),
            sendfile,
        };
        let socket = listen_on(listen).await?;
        let registry = Listener::new(socket, registry, tls.clone(), &limits, &answers);
        let admin = match admin_listen {
            Some(address) => {
                let socket = listen_on(address).await?;
                let exposition = Exposition::new(&metrics, cache.clone(), readiness.clone());
                let surroundings = Surroundings {
                    cache,
                    default_upstream,
                    metrics,
                    readiness: readiness.clone(),
                    listen: registry.address(),
                };
                let admin = Admin::new(surroundings, admin, exposition, socket.1)
                    .map_err(|problem| ServerError::AdminToken { problem })?;
                Some(Listener::new(socket, admin, None, &limits, &answers))
            }
            None => None,
        };
        Ok(Self {
            registry,
            admin,
            tls,
            readiness,
            limits,
        })
    }

    /// Where the registry's API is served.
    pub fn local_addr(&self) -> SocketAddr {
        self.registry.address()
    }

    /// Where the admin endpoints are served.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Listener::address)
    }

    /// Serves until `shutdown`, then lets answers under way end for
    /// [`drain_max`](FrontLimits::drain_max) at the most, and returns. Health is told to the last:
    /// the admin listener ends after the other. The cache is the caller's to close.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cuts all connections off.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        self.readiness.set(Stage::Serving);
        let (registry, admin) = (&self.registry, self.admin.as_ref());
        let administering = async {
            if let Some(admin) = admin {
                admin.accept().await;
            }
        };
        let watching = async {
            if let Some(tls) = &self.tls {
                tls.watch().await;
            }
            pending().await
        };
        let stopping = async {
            tokio::select! {
                () = shutdown => {}
                () = watching => {}
            }
            self.readiness.set(Stage::Draining);
            if let Some(admin) = admin {
                admin.service().close();
            }
            registry.drain(self.limits.drain_max).await;
            if let Some(admin) = admin {
                admin.drain(self.limits.linger_max).await;
                admin.service().closed().await;
            }
        };
        tokio::join!(registry.accept(), administering, stopping);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("local_addr", &self.local_addr())
            .field("admin_addr", &self.admin_addr())
            .finish_non_exhaustive()
    }
}

/// A socket that listens, and where it does.
async fn listen_on(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServerError> {
    let failed = |source| ServerError::Listen { address, source };
    let socket = TcpListener::bind(address).await.map_err(failed)?;
    let local = socket.local_addr().map_err(failed)?;
    Ok((socket, local))
}
