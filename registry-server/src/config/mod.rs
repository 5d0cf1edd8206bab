//! Configuration: what is set where, and what stands in for what is not.
//!
//! This is the only place that knows a setting's names, its default, and the order in which flags,
//! environment and file override each other. It starts nothing; beyond the configuration file, it
//! reads no file, but tries those that the file names.

mod admin_point;
mod admin_token;
mod budgets;
mod credentials;
mod document;
mod file;
mod flags;
#[cfg(test)]
mod fuzz;
mod known;
mod layer;
mod place;
mod proxy;
mod repository;
mod retention;
mod source;
mod tls;
mod upstream;
pub(crate) mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use registry_core::{Retention, UpstreamId, UpstreamPolicy, Verification};
use registry_storage::Reserve;
use url::Url;

pub use crate::front::TlsFiles;
pub use crate::logging::{LogFilter, LogFormat};
pub use crate::upstream::{CredentialConfig, CredentialsConfig};
pub use admin_point::AdminPoint;
pub use admin_token::AdminToken;
pub use flags::Flags;
pub use place::{ConfigError, ConfigErrors, Place};
pub use repository::RepositorySettings;
pub use source::ConfigSource;
pub use upstream::UpstreamConfig;

pub(crate) use place::{Problems, Written};

use crate::upstream::is_plain_public;
use layer::Layer;
use proxy::ProxyLayer;

/// Port that clients pull from.
const LISTEN_PORT: u16 = 5000;
/// Port of health, metrics and administration.
const ADMIN_PORT: u16 = 5001;
/// Where everything cached is kept.
const DATA_DIR: &str = "registry-data";

/// Everything that can be set, with what is in effect.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Address that clients pull from. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Address of health, metrics and administration; none to go without.
    pub admin_listen: Option<SocketAddr>,
    /// Where the token comes from that whoever uses the admin API has to show.
    pub admin_token: AdminToken,
    /// The files of the certificate that clients are shown; none to serve them in plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Folder that holds everything cached.
    pub data_dir: PathBuf,
    /// The upstream meant where a request names none; must be one of [`Self::upstreams`].
    pub default_upstream: UpstreamId,
    /// The registries that are mirrored: a closed list (I12).
    pub upstreams: BTreeMap<UpstreamId, UpstreamConfig>,
    /// How long a tag is fresh after its upstream confirmed it, where the upstream's own setting
    /// does not say.
    pub tag_ttl: Duration,
    /// How much is kept, and for how long.
    pub retention: Retention,
    /// What is left free of the file system.
    pub reserve: Reserve,
    /// How often and how fast what is kept is checked.
    pub verification: Verification,
    /// Whether the kernel sends stored blobs by itself, where it can.
    pub sendfile: bool,
    /// Where traces are sent to, in builds that can.
    pub otlp_endpoint: Option<Url>,
    /// What to log.
    pub log: LogFilter,
    /// How to log.
    pub log_format: LogFormat,
}

impl Default for Config {
    /// The configuration in effect where nothing is set.
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            listen: loopback(LISTEN_PORT),
            admin_listen: Some(loopback(ADMIN_PORT)),
            admin_token: AdminToken::default(),
            tls: None,
            data_dir: PathBuf::from(DATA_DIR),
            default_upstream: UpstreamId::parse(UpstreamId::DOCKER_IO)
                .expect("the constant is a name"),
            upstreams: known::known_upstreams().collect(),
            tag_ttl: UpstreamPolicy::default().tag_ttl,
            retention: Retention::default(),
            reserve: retention::default_reserve(),
            verification: Verification::default(),
            sendfile: true,
            otlp_endpoint: None,
            log: LogFilter::default(),
            log_format: LogFormat::default(),
        }
    }
}

impl Config {
    /// The configuration in effect: flags over environment over file over defaults.
    ///
    /// `env` looks a variable up: `std::env::var_os` in a program. Besides those of the settings,
    /// these are the ones that the file names in `password_env`, and `PATH`.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, each with its place.
    pub fn load(
        flags: Flags,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigErrors> {
        let mut problems = Problems::default();
        let (flags, flags_file) = flags.texts();
        let proxies = proxy::environment(&env, &mut problems);
        let (environment, environment_file) = flags::environment(&env, &mut problems);
        let flags = flags.read(&mut problems);
        let environment = environment.read(&mut problems);
        let file = match flags_file.or(environment_file) {
            Some(path) => file::read(path, &env, &mut problems),
            None => Layer::default(),
        };
        let layer = flags.over(environment).over(file);
        let config = Self::resolve(layer, &proxies, &env, &mut problems);
        problems.finish(config)
    }

    fn resolve(
        layer: Layer,
        environment: &ProxyLayer,
        env: &dyn Fn(&str) -> Option<OsString>,
        problems: &mut Problems,
    ) -> Self {
        let default = Self::default();
        let mut upstreams = default.upstreams;
        for known in upstreams.values_mut() {
            known.proxies = ProxyLayer::default().over(environment);
        }
        for (id, settings) in layer.upstreams {
            let known = upstreams.remove(&id);
            let upstream = UpstreamConfig::resolve(&id, settings, known, environment, problems);
            upstreams.insert(id, upstream);
        }
        let (listen, admin_listen) =
            Self::resolve_addresses(layer.listen, layer.admin_listen, problems);
        let default_upstream = match layer.default_upstream {
            Some(chosen) => {
                if !upstreams.contains_key(&chosen.value) {
                    let problem = format!(
                        "\"{id}\" is not a configured upstream; add --upstream {id}=https://{id}, \
                         or name one of {known}",
                        id = chosen.value,
                        known = names(&upstreams)
                    );
                    problems.add(chosen.place, problem);
                }
                chosen.value
            }
            None => default.default_upstream,
        };
        let (retention, reserve, verification) = layer.retention.resolve(problems);
        Self {
            listen,
            admin_listen,
            admin_token: admin_token::resolve(layer.admin_token, env, problems),
            tls: tls::resolve(layer.tls_cert_file, layer.tls_key_file, problems),
            data_dir: layer.data_dir.unwrap_or(default.data_dir),
            default_upstream,
            upstreams,
            tag_ttl: layer.tag_ttl.unwrap_or(default.tag_ttl),
            retention,
            reserve,
            verification,
            sendfile: layer.sendfile.unwrap_or(default.sendfile),
            otlp_endpoint: layer.otlp_endpoint,
            log: layer.log.unwrap_or(default.log),
            log_format: layer.log_format.unwrap_or(default.log_format),
        }
    }

    fn resolve_addresses(
        listen: Option<Written<SocketAddr>>,
        admin: Option<Written<SocketAddr>>,
        problems: &mut Problems,
    ) -> (SocketAddr, Option<SocketAddr>) {
        let default = Self::default();
        let address = |written: &Option<Written<SocketAddr>>| written.as_ref().map(|w| w.value);
        let listen_address = address(&listen).unwrap_or(default.listen);
        let admin_address = address(&admin).or(default.admin_listen);
        let chosen = admin.or(listen).map(|written| written.place);
        if let Some(place) = chosen
            && admin_address == Some(listen_address)
            && listen_address.port() != 0
        {
            let problem = format!(
                "pulls and administration would share {listen_address}; give one of listen and \
                 admin_listen another port"
            );
            problems.add(place, problem);
        }
        (listen_address, admin_address)
    }

    /// What is allowed, and seldom meant: one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let remote = self.admin_listen.filter(|admin| !admin.ip().is_loopback());
        if let Some(admin) = remote.filter(|_| !self.admin_token.is_required()) {
            warnings.push(format!(
                "the admin listener at {admin} tells health and metrics to whoever reaches it, and \
                 answers all else to this machine only: set admin_token_file to administer this \
                 mirror from elsewhere"
            ));
        }
        let has_credentials = |upstream: &UpstreamConfig| !upstream.credentials.is_empty();
        let mut opened = self.upstreams.iter().filter(|(_, it)| has_credentials(it));
        if let Some((id, _)) = opened.next().filter(|_| !self.listen.ip().is_loopback()) {
            let others = opened.map(|(id, _)| format!(", {id}"));
            warnings.push(format!(
                "whoever reaches {listen} can pull all that the credentials for {id}{others} open, \
                 and is asked for no password: let no one reach it who may not",
                listen = self.listen,
                others = others.collect::<String>(),
            ));
        }
        self.warn_of_limits(&mut warnings);
        for (id, upstream) in &self.upstreams {
            if upstream.insecure_skip_verify {
                let and_password = if has_credentials(upstream) {
                    ", and gets its credentials"
                } else {
                    ""
                };
                warnings.push(format!(
                    "certificates of {id} are not verified (insecure_skip_verify): whoever stands \
                     in between decides what its tags name{and_password}"
                ));
            }
            if let Some(url) = upstream.endpoints.iter().find(|url| is_plain_public(url)) {
                warnings.push(format!(
                    "{id} is asked in plain HTTP ({url}): whoever stands in between decides what \
                     its tags name"
                ));
            }
        }
        warnings
    }

    /// Limits that another is below.
    fn warn_of_limits(&self, warnings: &mut Vec<String>) {
        for (id, upstream) in &self.upstreams {
            let of_patterns = upstream.repositories.iter();
            let of_patterns = of_patterns.map(|(pattern, it)| {
                let above = [
                    (upstream.rules.bytes_max, format!("max_size of {id}")),
                    (self.retention.bytes_max, "max_size".to_owned()),
                ];
                (format!("{id}/{pattern}"), it.bytes_max, above.to_vec())
            });
            let general = vec![(self.retention.bytes_max, "max_size".to_owned())];
            let own = (id.to_string(), upstream.rules.bytes_max, general);
            for (name, limit, above) in std::iter::once(own).chain(of_patterns) {
                let exceeded = above.into_iter().find(|(of_all, _)| {
                    limit.is_some_and(|limit| of_all.is_some_and(|of_all| limit > of_all))
                });
                if let Some((_, what)) = exceeded {
                    warnings.push(format!(
                        "the max_size of {name} is more than the {what}, which ends it first"
                    ));
                }
            }
        }
    }
}

fn names(upstreams: &BTreeMap<UpstreamId, UpstreamConfig>) -> String {
    let names: Vec<_> = upstreams.keys().map(UpstreamId::as_str).collect();
    names.join(", ")
}
