//! The configuration of a running mirror: what of it can be exchanged, and how
//! ([ADR 16](../../../docs/adr/0016-what-a-reload-swaps.md)).
//!
//! Everything is made ready before anything is put in effect, so that a configuration is in effect
//! as a whole or not at all.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use registry_core::{Clock, RegistryCache, Timestamp, UpstreamId};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::{debug, error, info, warn};

use super::changes::{changes, needs_restart};
use super::upstreams::{InUse, Unusable, Workshop, files_of};
use crate::admin::check_admin_token;
use crate::api::{ConfigurationState, Reloaded, Time};
use crate::config::{Config, ConfigErrors, ConfigSource};
use crate::files::{self, Stamp};
use crate::front::{Prepared, Tls, TlsError};
use crate::upstream::HttpUpstreamConfigError;

/// Exchanges the configuration of a running [`Mirror`](super::Mirror). Clones are the same mirror's;
/// they keep its cache alive, and nothing else of it.
#[derive(Clone)]
pub struct ReloadHandle {
    live: Arc<Live>,
}

/// Why a configuration is not in effect. What was in effect still is.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// Nothing can have changed: there is no file.
    #[error(
        "there is no configuration file to read again: flags and environment stay what they were"
    )]
    NoFile,
    /// It can be read only once: it is a pipe, or the like.
    #[error(
        "{path} is no file that can be read again, but a pipe or the like: what it said at the \
         start stays in effect; write it to a file for it to be read again"
    )]
    NotAFile {
        /// Where it is.
        path: PathBuf,
    },
    /// What it says is wrong, or it cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// An upstream cannot be asked for anything as it is configured.
    #[error("the upstream {id} cannot be used: {source}")]
    Upstream {
        /// Which.
        id: UpstreamId,
        /// Why not.
        source: Arc<HttpUpstreamConfigError>,
    },
    /// The certificate that clients are to be shown cannot be used.
    #[error("the certificate cannot be used: {0}")]
    Tls(#[from] TlsError),
    /// There is nothing in the file any more, which is more often an accident, such as a full disk,
    /// than meant.
    #[error(
        "the file is empty, and would undo all that was configured: where that is meant, write a \
         comment into it"
    )]
    Emptied,
    /// What stands where the token of the admin API should is none.
    #[error("the token of the admin API cannot be used: {problem}")]
    AdminToken {
        /// What is wrong with it.
        problem: String,
    },
    /// The process is ending.
    #[error("the mirror is shutting down")]
    Stopping,
}

struct Live {
    source: Option<ConfigSource>,
    /// Whether it was read from a file. From a pipe, it is all that will ever be said.
    is_from_file: bool,
    /// What only a restart puts in effect is compared with this.
    started: Config,
    cache: RegistryCache,
    workshop: Workshop,
    /// What shows the certificate, where there is one.
    tls: Option<Tls>,
    clock: Arc<dyn Clock>,
    current: watch::Sender<Arc<Config>>,
    /// The upstreams in use. Held while a configuration is read and put in effect: one at a time.
    in_use: tokio::sync::Mutex<InUse>,
    outcome: Mutex<Outcome>,
}

/// How the last attempt went.
struct Outcome {
    loaded_at: Timestamp,
    refused: Option<String>,
    needs_restart: Vec<String>,
}

/// What a mirror was put together from.
pub(super) struct Started {
    pub(super) source: Option<ConfigSource>,
    pub(super) config: Config,
    pub(super) cache: RegistryCache,
    pub(super) workshop: Workshop,
    pub(super) in_use: InUse,
    pub(super) tls: Option<Tls>,
    pub(super) clock: Arc<dyn Clock>,
}

impl ReloadHandle {
    pub(super) fn new(started: Started) -> Self {
        let outcome = Outcome {
            loaded_at: started.clock.now(),
            refused: None,
            needs_restart: Vec::new(),
        };
        let path = started.source.as_ref().and_then(ConfigSource::file);
        Self {
            live: Arc::new(Live {
                is_from_file: path.is_some_and(|path| files::can_be_read_again(&path)),
                source: started.source,
                current: watch::Sender::new(Arc::new(started.config.clone())),
                started: started.config,
                cache: started.cache,
                workshop: started.workshop,
                tls: started.tls,
                clock: started.clock,
                in_use: tokio::sync::Mutex::new(started.in_use),
                outcome: Mutex::new(outcome),
            }),
        }
    }

    /// The configuration that is in effect; of what needs a restart, what is asked for.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.live.current.borrow())
    }

    /// Each configuration that comes into effect from now on.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Config>> {
        self.live.current.subscribe()
    }

    /// Where the configuration is from, and how the last attempt to read it went.
    pub fn state(&self) -> ConfigurationState {
        let outcome = self.live.outcome();
        ConfigurationState {
            file: self.file().map(|path| path.display().to_string()),
            loaded_at: Time::from(outcome.loaded_at),
            refused: outcome.refused.clone(),
            needs_restart: outcome.needs_restart.clone(),
        }
    }

    /// The configuration file, where there is one.
    pub(super) fn file(&self) -> Option<PathBuf> {
        self.live.source.as_ref()?.file()
    }

    /// Whether the configuration is from a file, which may say something else later.
    pub(super) fn is_from_file(&self) -> bool {
        self.live.is_from_file
    }

    /// What stands in the configuration file and in those that upstreams read once.
    pub(super) fn stamps(&self) -> Vec<Stamp> {
        let (config, file) = (self.config(), self.file());
        let of_upstreams = config.upstreams.values().flat_map(files_of);
        let files = file.iter().map(PathBuf::as_path).chain(of_upstreams);
        files.map(files::stamp).collect()
    }

    /// Reads the configuration file again, and puts in effect what it says. No pull is cut short:
    /// those under way end as they began.
    ///
    /// # Errors
    ///
    /// [`ReloadError`], which is logged as well, once for as long as it stays the same; but
    /// [`ReloadError::NoFile`] is not.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the one configuration in effect or the other, as a whole.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let Some((source, path)) = self.live.source.clone().zip(self.file()) else {
            return Err(ReloadError::NoFile);
        };
        if !self.live.is_from_file {
            let error = ReloadError::NotAFile { path };
            warn!("{error}");
            return Err(error);
        }
        let mut in_use = self.live.in_use.lock().await;
        let load = spawn_blocking(move || {
            let is_empty = files::is_empty(&path);
            Ok((load(&source, path)?, is_empty))
        });
        let reloaded = match load.await.unwrap_or(Err(ReloadError::Stopping)) {
            Ok((config, is_empty)) => self.put(config, is_empty, &mut in_use).await,
            Err(error) => Err(error),
        };
        self.tell(&reloaded);
        reloaded
    }

    /// Puts a configuration in effect that a program has made. Upstreams that it brought are not
    /// exchanged.
    ///
    /// # Errors
    ///
    /// [`ReloadError`].
    ///
    /// # Cancellation
    ///
    /// As [`Self::reload`].
    pub async fn apply(&self, config: Config) -> Result<Reloaded, ReloadError> {
        let mut in_use = self.live.in_use.lock().await;
        let reloaded = self.put(config, false, &mut in_use).await;
        self.tell(&reloaded);
        reloaded
    }

    /// `is_empty`: there is nothing in the file that it is from.
    async fn put(
        &self,
        config: Config,
        is_empty: bool,
        in_use: &mut InUse,
    ) -> Result<Reloaded, ReloadError> {
        let (live, before) = (Arc::clone(&self.live), in_use.clone());
        let make = spawn_blocking(move || {
            let made = live.workshop.make(&config, &before);
            let token = check_admin_token(&config.admin_token);
            // One that is asked for now, where there was none, needs a restart.
            let files = config.tls.clone().filter(|_| live.tls.is_some());
            let certificate = files.map(Prepared::read).transpose();
            (config, before, made, token, certificate)
        });
        let made = make.await.map_err(|_| ReloadError::Stopping)?;
        let (config, before, made, token, certificate) = made;
        token.map_err(|problem| ReloadError::AdminToken { problem })?;
        let certificate = certificate?;
        let (upstreams, after) = made.map_err(|Unusable { id, source }| {
            let source = Arc::new(source);
            ReloadError::Upstream { id, source }
        })?;
        let live = &self.live;
        let old = self.config();
        let reloaded = Reloaded {
            changed: changes(&old, &config, &before, &after),
            needs_restart: needs_restart(&live.started, &config),
        };
        if is_empty && !reloaded.changed.is_empty() {
            return Err(ReloadError::Emptied);
        }
        for warning in config.warnings() {
            if !old.warnings().contains(&warning) {
                warn!("{warning}");
            }
        }
        // From here on nothing can fail, and nothing is waited for.
        live.cache.set_upstreams(upstreams);
        keep_by(&live.cache, &config);
        if let Some((tls, certificate)) = live.tls.as_ref().zip(certificate) {
            tls.show(certificate);
        }
        *in_use = after;
        live.current.send_replace(Arc::new(config));
        *live.outcome() = Outcome {
            loaded_at: live.clock.now(),
            refused: None,
            needs_restart: reloaded.needs_restart.clone(),
        };
        Ok(reloaded)
    }

    fn tell(&self, outcome: &Result<Reloaded, ReloadError>) {
        let file = self.file().map(|path| path.display().to_string());
        match outcome {
            Ok(reloaded) if reloaded.changed.is_empty() && reloaded.needs_restart.is_empty() => {
                debug!(
                    file,
                    "the configuration was read again: nothing has changed"
                );
            }
            Ok(reloaded) => {
                let changed = reloaded.changed.join("; ");
                info!(file, changed, "another configuration is in effect");
                if !reloaded.needs_restart.is_empty() {
                    let settings = reloaded.needs_restart.join(", ");
                    warn!(settings, "only a restart puts these in effect");
                }
            }
            Err(refusal) => {
                let refused = Some(refusal.to_string());
                let mut outcome = self.live.outcome();
                if outcome.refused != refused {
                    outcome.refused.clone_from(&refused);
                    error!(
                        file,
                        error = refused,
                        "the configuration was read again and is refused: what was in effect still is"
                    );
                }
            }
        }
    }
}

impl Live {
    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        // Nothing panics while it holds the lock.
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for ReloadHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReloadHandle")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// What the configuration says now. What has taken the place of its file is not waited for.
fn load(source: &ConfigSource, path: PathBuf) -> Result<Config, ReloadError> {
    if path.exists() && !files::can_be_read_again(&path) {
        return Err(ReloadError::NotAFile { path });
    }
    Ok(source.load()?)
}

/// Tells the cache how much to keep, and how often to check it.
pub(super) fn keep_by(cache: &RegistryCache, config: &Config) {
    cache.set_retention(config.retention.clone());
    cache.set_verification(config.verification.clone());
}
