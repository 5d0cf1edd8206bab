//! The settings of a mirror that a program embeds.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use registry_core::{Clock, Limits, Stores, Upstream};

use super::{Mirror, Parts, StartError};
use crate::config::{AdminToken, Config, Place, Problems, UpstreamConfig, Written, values};
use crate::front::{FrontLimits, TlsFiles};

/// The settings of a [`Mirror`], checked when it starts: [`Mirror::builder`] has an example.
///
/// A setting that is given twice is the one that was given last.
#[must_use = "a builder does nothing before `start`"]
pub struct MirrorBuilder {
    parts: Parts,
    /// Whether the upstreams that need no configuration are known.
    knows_public: bool,
    problems: Problems,
}

impl MirrorBuilder {
    pub(super) fn new() -> Self {
        Self {
            parts: Parts::new(Config {
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
                admin_listen: None,
                upstreams: BTreeMap::new(),
                #[cfg(feature = "testing")]
                sendfile: crate::testing::sends_files(),
                ..Config::default()
            }),
            knows_public: true,
            problems: Problems::default(),
        }
    }

    /// The address that clients pull from, in place of a free port of this machine.
    pub fn listen(mut self, address: &str) -> Self {
        if let Some(address) = self.parse("listen", address, values::address) {
            self.parts.config.listen = address;
        }
        self
    }

    /// The certificate that clients are shown, and its key, as PEM: they pull by `https://` then,
    /// in place of plain HTTP. The files are looked at again while the mirror runs.
    pub fn tls(mut self, cert_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> Self {
        self.parts.config.tls = Some(TlsFiles {
            cert_file: cert_file.into(),
            key_file: key_file.into(),
        });
        self
    }

    /// The address of health, metrics and administration, in place of none.
    pub fn admin_listen(mut self, address: &str) -> Self {
        if let Some(address) = self.parse("admin_listen", address, values::address) {
            self.parts.config.admin_listen = Some(address);
        }
        self
    }

    /// The folder that holds everything cached, in place of `registry-data` in the folder that the
    /// program runs in.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.parts.config.data_dir = path.into();
        self
    }

    /// A registry to mirror, with the one URL where it answers; [`Self::upstream_config`] takes
    /// more. In place of what is known of it without configuration, if anything.
    pub fn upstream(mut self, name: &str, url: &str) -> Self {
        match self.parse("upstream", url, values::endpoint) {
            Some(url) => self.upstream_config(name, UpstreamConfig::new([url])),
            None => self,
        }
    }

    /// A registry to mirror, with all that can be set about it.
    pub fn upstream_config(mut self, name: &str, upstream: UpstreamConfig) -> Self {
        if let Some(id) = self.parse("upstream", name, values::upstream_id) {
            self.parts.upstreams.remove(&id);
            self.parts.config.upstreams.insert(id, upstream);
        }
        self
    }

    /// A registry that is reached by the program's own means.
    pub fn upstream_with(mut self, name: &str, upstream: Arc<dyn Upstream>) -> Self {
        if let Some(id) = self.parse("upstream_with", name, values::upstream_id) {
            self.parts.upstreams.insert(id, upstream);
        }
        self
    }

    /// Only the registries that this builder is told of: none is known by itself.
    pub fn without_known_upstreams(mut self) -> Self {
        self.knows_public = false;
        self
    }

    /// The upstream meant where a request names none, in place of `docker.io`.
    pub fn default_upstream(mut self, name: &str) -> Self {
        if let Some(id) = self.parse("default_upstream", name, values::upstream_id) {
            self.parts.config.default_upstream = id;
        }
        self
    }

    /// How long a tag is served without asking whether it moved, in place of not at all.
    pub fn tag_ttl(mut self, ttl: Duration) -> Self {
        self.parts.config.tag_ttl = ttl;
        self
    }

    /// Most bytes to keep, as in `50GiB`, in place of what the disk holds but for its reserve.
    pub fn max_size(mut self, size: &str) -> Self {
        if let Some(bytes) = self.parse("max_size", size, values::size) {
            self.parts.config.retention.bytes_max = Some(bytes);
        }
        self
    }

    /// What is left free of the file system, as in `20GiB` or `5%`, in place of the latter.
    pub fn reserve(mut self, reserve: &str) -> Self {
        if let Some(reserve) = self.parse("reserve", reserve, values::reserve) {
            self.parts.config.reserve = reserve;
        }
        self
    }

    /// How long to keep what nobody pulls, in place of as long as there is room.
    pub fn max_idle(mut self, limit: Duration) -> Self {
        self.parts.config.retention.idle_max = Some(limit);
        self
    }

    /// Whether the kernel sends stored blobs by itself, where it can, in place of that it does.
    pub fn sendfile(mut self, is_on: bool) -> Self {
        self.parts.config.sendfile = is_on;
        self
    }

    /// The file with the token that the admin API wants from everybody, in place of answering this
    /// machine only.
    pub fn admin_token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.parts.config.admin_token = AdminToken::File(path.into());
        self
    }

    /// The program's own stores, in place of a folder. They are the program's to close, after
    /// [`Mirror::shutdown`].
    pub fn stores(mut self, stores: Stores) -> Self {
        self.parts.stores = Some(stores);
        self
    }

    /// The clock that decides what is fresh, in place of the system's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.parts.clock = clock;
        self
    }

    /// The limits of the cache.
    pub fn cache_limits(mut self, limits: Limits) -> Self {
        self.parts.cache_limits = limits;
        self
    }

    /// The limits of the listeners.
    pub fn front_limits(mut self, limits: FrontLimits) -> Self {
        self.parts.front_limits = limits;
        self
    }

    /// Where every request that leaves for an upstream is written down.
    #[cfg(feature = "testing")]
    pub fn outgoing_log(mut self, log: crate::testing::OutgoingLog) -> Self {
        self.parts.outgoing = log;
        self
    }

    /// Starts the mirror. No upstream is asked for anything.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing is left running.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves nothing running.
    pub async fn start(self) -> Result<Mirror, StartError> {
        let mut parts = self.problems.finish(self.parts)?;
        if self.knows_public {
            for (id, known) in Config::default().upstreams {
                parts.config.upstreams.entry(id).or_insert(known);
            }
        }
        Mirror::assemble(parts).await
    }

    fn parse<T>(
        &mut self,
        method: &'static str,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let written = Written::new(text.to_owned(), Place::Builder(method));
        Some(written.parse(&mut self.problems, parse)?.value)
    }
}

impl fmt::Debug for MirrorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MirrorBuilder")
            .field("config", &self.parts.config)
            .field("problems", &self.problems)
            .finish_non_exhaustive()
    }
}
