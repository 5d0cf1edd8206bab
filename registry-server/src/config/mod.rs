//! Configuration: what is set where, and what stands in for what is not.
//!
//! This is the only place that knows a setting's names, its default, and the order in which flags,
//! environment and file override each other. It starts nothing; beyond the configuration file, it
//! reads no file, but tries those that the file names.

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
pub(crate) mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use registry_core::{UpstreamId, UpstreamPolicy};
use url::Url;

pub use crate::logging::{LogFilter, LogFormat};
pub use crate::upstream::{CredentialConfig, CredentialsConfig};
pub use flags::Flags;
pub use place::{ConfigError, ConfigErrors, Place};

pub(crate) use place::{Problems, Written};

use crate::upstream::{Budgets, Proxies, is_plain_public};
use layer::{Layer, UpstreamLayer};
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
    /// Folder that holds everything cached.
    pub data_dir: PathBuf,
    /// The upstream meant where a request names none; must be one of [`Self::upstreams`].
    pub default_upstream: UpstreamId,
    /// The registries that are mirrored: a closed list (I12).
    pub upstreams: BTreeMap<UpstreamId, UpstreamConfig>,
    /// How long a tag is fresh after its upstream confirmed it, where the upstream's own setting
    /// does not say.
    pub tag_ttl: Duration,
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
            data_dir: PathBuf::from(DATA_DIR),
            default_upstream: UpstreamId::parse(UpstreamId::DOCKER_IO)
                .expect("the constant is a name"),
            upstreams: known::known_upstreams().collect(),
            tag_ttl: UpstreamPolicy::default().tag_ttl,
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
        let config = Self::resolve(layer, &proxies, &mut problems);
        problems.finish(config)
    }

    fn resolve(layer: Layer, environment: &ProxyLayer, problems: &mut Problems) -> Self {
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
        Self {
            listen,
            admin_listen,
            data_dir: layer.data_dir.unwrap_or(default.data_dir),
            default_upstream,
            upstreams,
            tag_ttl: layer.tag_ttl.unwrap_or(default.tag_ttl),
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
        if let Some(admin) = self.admin_listen.filter(|admin| !admin.ip().is_loopback()) {
            warnings.push(format!(
                "the admin listener at {admin} asks nobody for a password: let no one reach it who \
                 may not administer this mirror"
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
}

/// How one registry is reached, and how its tags are kept fresh.
///
/// ```
/// use registry_server::Mirror;
/// use registry_server::config::{CredentialConfig, UpstreamConfig};
///
/// // A mirror of Docker Hub is asked first; the Hub alone is shown the access token.
/// let endpoints = ["https://mirror.example.org", "https://registry-1.docker.io"];
/// let mut hub = UpstreamConfig::new(endpoints.map(|url| url.parse().unwrap()));
/// hub.credentials.own = Some(CredentialConfig::PasswordFile {
///     username: "me".to_owned(),
///     path: "/etc/registry-server/hub-token".into(),
/// });
/// let builder = Mirror::builder().upstream_config("docker.io", hub);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UpstreamConfig {
    /// Where it answers: in the order in which they are tried.
    pub endpoints: Vec<Url>,
    /// PEM file of certificate authorities to trust besides the public ones.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the certificate to show.
    pub client_cert_file: Option<PathBuf>,
    /// PEM file of that certificate's key.
    pub client_key_file: Option<PathBuf>,
    /// Whether any certificate will do.
    pub insecure_skip_verify: bool,
    /// The proxies to go through.
    pub proxies: Proxies,
    /// How long it is waited for.
    pub budgets: Budgets,
    /// Whether the next endpoint is asked also where one says that it has no such thing.
    pub next_endpoint_on_not_found: bool,
    /// Whether redirects may lead to private addresses from anywhere.
    pub private_redirects: bool,
    /// Hosts besides its own that tokens for it may come from.
    pub realms: Vec<String>,
    /// What it is shown where it wants credentials.
    pub credentials: CredentialsConfig,
    /// How long a tag is fresh after the upstream confirmed it; none for [`Config::tag_ttl`].
    pub tag_ttl: Option<Duration>,
    /// How long a pull waits for the upstream where something cached can answer instead.
    pub tag_budget: Duration,
    /// Whether a tag that the upstream no longer has is gone here too.
    pub forward_not_found: bool,
}

impl UpstreamConfig {
    /// A registry at `endpoints`, with the default of everything else.
    pub fn new(endpoints: impl IntoIterator<Item = Url>) -> Self {
        let policy = UpstreamPolicy::default();
        Self {
            endpoints: endpoints.into_iter().collect(),
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            insecure_skip_verify: false,
            proxies: Proxies::default(),
            budgets: Budgets::default(),
            next_endpoint_on_not_found: false,
            private_redirects: false,
            realms: Vec::new(),
            credentials: CredentialsConfig::default(),
            tag_ttl: None,
            tag_budget: policy.tag_budget,
            forward_not_found: policy.forward_not_found,
        }
    }

    fn resolve(
        id: &UpstreamId,
        settings: UpstreamLayer,
        known: Option<Self>,
        environment: &ProxyLayer,
        problems: &mut Problems,
    ) -> Self {
        // Whom a known upstream trusts with tokens goes with where it answers: other endpoints have
        // token servers of their own.
        let (endpoints, realms) = match (settings.endpoints, known) {
            (Some(endpoints), _) => (Some(endpoints), Vec::new()),
            (None, Some(known)) => (Some(known.endpoints), known.realms),
            (None, None) => (None, Vec::new()),
        };
        if endpoints.is_none() {
            problems.add(
                settings.place,
                format!("needs endpoints; write for example endpoints = [\"https://{id}\"]"),
            );
        }
        let default = Self::new(endpoints.unwrap_or_default());
        let credentials = settings.credentials.unwrap_or_default();
        Self {
            credentials: credentials.resolve(id, &default.endpoints, problems),
            ca_file: settings.ca_file,
            client_cert_file: settings.client_cert_file,
            client_key_file: settings.client_key_file,
            insecure_skip_verify: settings.insecure_skip_verify.unwrap_or_default(),
            proxies: settings.proxies.over(environment),
            budgets: settings.budgets.resolve(problems),
            next_endpoint_on_not_found: settings.next_endpoint_on_not_found.unwrap_or_default(),
            private_redirects: settings.private_redirects.unwrap_or_default(),
            realms: settings.realms.unwrap_or(realms),
            tag_ttl: settings.tag_ttl,
            tag_budget: settings.tag_budget.unwrap_or(default.tag_budget),
            forward_not_found: settings
                .forward_not_found
                .unwrap_or(default.forward_not_found),
            ..default
        }
    }

    /// How its tags are kept fresh, where `tag_ttl` is the general setting.
    pub fn policy(&self, tag_ttl: Duration) -> UpstreamPolicy {
        UpstreamPolicy {
            tag_ttl: self.tag_ttl.unwrap_or(tag_ttl),
            tag_budget: self.tag_budget,
            forward_not_found: self.forward_not_found,
            ..UpstreamPolicy::default()
        }
    }
}

fn names(upstreams: &BTreeMap<UpstreamId, UpstreamConfig>) -> String {
    let names: Vec<_> = upstreams.keys().map(UpstreamId::as_str).collect();
    names.join(", ")
}
