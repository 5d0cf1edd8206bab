//! Why a mirror cannot start, and what to do about it.

use std::io;
use std::net::SocketAddr;

use registry_core::UpstreamId;
use registry_storage::OpenError;

use crate::config::{Config, ConfigErrors};
use crate::front::{ServerError, TlsError};
use crate::upstream::HttpUpstreamConfigError;

/// Why a mirror cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// What the builder was told is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// An upstream cannot be asked for anything as it is configured.
    #[error("the upstream {id} cannot be used")]
    Upstream {
        /// Which.
        id: UpstreamId,
        /// Why not.
        source: HttpUpstreamConfigError,
    },
    /// The default upstream is none of the upstreams.
    #[error("the default upstream {id} is not configured")]
    DefaultUpstream {
        /// Its name.
        id: UpstreamId,
    },
    /// The data folder cannot be used.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({setting})")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The flag that sets it.
        setting: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The certificate that clients are to be shown cannot be used.
    #[error("the certificate cannot be used: {0}")]
    Tls(#[from] TlsError),
    /// The token of the admin API cannot be used.
    #[error("the token of the admin API cannot be used: {problem}")]
    AdminToken {
        /// Why not.
        problem: String,
    },
}

impl StartError {
    /// Why the server does not begin, in terms of the settings.
    pub(super) fn of(error: ServerError, config: &Config) -> Self {
        match error {
            ServerError::Listen { address, source } => Self::Listen {
                address,
                setting: if config.admin_listen == Some(address) {
                    "--admin-listen"
                } else {
                    "--listen"
                },
                source,
            },
            ServerError::DefaultUpstream { upstream } => Self::DefaultUpstream { id: upstream },
            ServerError::AdminToken { problem } => Self::AdminToken { problem },
        }
    }

    /// What to do about it, where the error itself does not say.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            // These say it, as they know best.
            Self::Config(_) | Self::Store(_) | Self::Tls(_) | Self::AdminToken { .. } => None,
            Self::Upstream { .. } => Some("correct its table in the configuration file"),
            Self::DefaultUpstream { .. } => Some("configure it, or choose another"),
            Self::Listen { source, .. } => Some(match source.kind() {
                io::ErrorKind::AddrInUse => {
                    "another process listens there: stop it, or choose another address"
                }
                io::ErrorKind::AddrNotAvailable => {
                    "this machine has no such address: choose one that it has, or 0.0.0.0 for all"
                }
                io::ErrorKind::PermissionDenied => "this user may not: choose a port from 1024 on",
                _ => "choose another address",
            }),
        }
    }
}
