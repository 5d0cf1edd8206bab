//! One layer of the configuration (flags, environment, file), and how one lies over another.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use registry_core::{RepositoryPattern, UpstreamId};
use url::Url;

use super::admin_token::{self, TokenSource};
use super::budgets::BudgetsLayer;
use super::credentials::CredentialsLayer;
use super::place::{Place, Problems, Written};
use super::proxy::ProxyLayer;
use super::repository::RepositorySettings;
use super::retention::{RetentionLayer, RetentionTexts};
use super::{LogFilter, LogFormat, values};

/// The settings of a layer that are written as one text each.
#[derive(Debug, Default)]
pub(super) struct Texts {
    pub(super) listen: Option<Written<String>>,
    pub(super) admin_listen: Option<Written<String>>,
    pub(super) tls_cert_file: Option<Written<PathBuf>>,
    pub(super) tls_key_file: Option<Written<PathBuf>>,
    pub(super) data_dir: Option<Written<PathBuf>>,
    pub(super) upstreams: Vec<Written<String>>,
    pub(super) default_upstream: Option<Written<String>>,
    pub(super) tag_ttl: Option<Written<String>>,
    pub(super) retention: RetentionTexts,
    pub(super) admin_token_file: Option<Written<PathBuf>>,
    pub(super) admin_token_env: Option<Written<String>>,
    pub(super) sendfile: Option<Written<String>>,
    pub(super) otlp_endpoint: Option<Written<String>>,
    pub(super) log: Option<Written<String>>,
    pub(super) log_format: Option<Written<String>>,
}

impl Texts {
    /// Checks every value, also those that another layer will override: a mistake is easier to
    /// find on the day it is made.
    pub(super) fn read(self, problems: &mut Problems) -> Layer {
        let mut upstreams = BTreeMap::new();
        for upstream in self.upstreams {
            let Some(upstream) = upstream.parse(problems, values::upstream) else {
                continue;
            };
            let (id, endpoints) = upstream.value;
            let settings = UpstreamLayer::with_endpoints(upstream.place, endpoints);
            add_upstream(&mut upstreams, id, settings, problems);
        }
        Layer {
            listen: self
                .listen
                .and_then(|text| text.parse(problems, values::address)),
            admin_listen: self
                .admin_listen
                .and_then(|text| text.parse(problems, values::address)),
            tls_cert_file: self.tls_cert_file,
            tls_key_file: self.tls_key_file,
            data_dir: self.data_dir.map(|path| path.value),
            upstreams,
            default_upstream: self
                .default_upstream
                .and_then(|id| id.parse(problems, values::upstream_id)),
            tag_ttl: parse(self.tag_ttl, problems, values::duration),
            retention: self.retention.read(problems),
            admin_token: admin_token::source(self.admin_token_file, self.admin_token_env, problems),
            sendfile: parse(self.sendfile, problems, values::switch),
            otlp_endpoint: parse(self.otlp_endpoint, problems, values::otlp_endpoint),
            log: parse(self.log, problems, values::log_filter),
            log_format: parse(self.log_format, problems, values::log_format),
        }
    }
}

/// Adds an upstream to a layer, which may name each of them once.
pub(super) fn add_upstream(
    upstreams: &mut BTreeMap<UpstreamId, UpstreamLayer>,
    id: UpstreamId,
    settings: UpstreamLayer,
    problems: &mut Problems,
) {
    match upstreams.entry(id) {
        Entry::Vacant(entry) => {
            entry.insert(settings);
        }
        Entry::Occupied(entry) => problems.add(
            settings.place,
            format!(
                "names the upstream {} a second time; write all its endpoints in one place",
                entry.key()
            ),
        ),
    }
}

pub(super) fn parse<T>(
    text: Option<Written<String>>,
    problems: &mut Problems,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    Some(text?.parse(problems, parse)?.value)
}

/// What one layer says.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub(super) listen: Option<Written<SocketAddr>>,
    pub(super) admin_listen: Option<Written<SocketAddr>>,
    pub(super) tls_cert_file: Option<Written<PathBuf>>,
    pub(super) tls_key_file: Option<Written<PathBuf>>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) upstreams: BTreeMap<UpstreamId, UpstreamLayer>,
    pub(super) default_upstream: Option<Written<UpstreamId>>,
    pub(super) tag_ttl: Option<Duration>,
    pub(super) retention: RetentionLayer,
    pub(super) admin_token: Option<Written<TokenSource>>,
    pub(super) sendfile: Option<bool>,
    pub(super) otlp_endpoint: Option<Url>,
    pub(super) log: Option<LogFilter>,
    pub(super) log_format: Option<LogFormat>,
}

impl Layer {
    /// What this layer says, and where it is silent, what `below` says.
    pub(super) fn over(self, below: Self) -> Self {
        let mut upstreams = below.upstreams;
        for (id, settings) in self.upstreams {
            let settings = match upstreams.remove(&id) {
                Some(below) => settings.over(below),
                None => settings,
            };
            upstreams.insert(id, settings);
        }
        Self {
            listen: self.listen.or(below.listen),
            admin_listen: self.admin_listen.or(below.admin_listen),
            tls_cert_file: self.tls_cert_file.or(below.tls_cert_file),
            tls_key_file: self.tls_key_file.or(below.tls_key_file),
            data_dir: self.data_dir.or(below.data_dir),
            upstreams,
            default_upstream: self.default_upstream.or(below.default_upstream),
            tag_ttl: self.tag_ttl.or(below.tag_ttl),
            retention: self.retention.or(below.retention),
            admin_token: self.admin_token.or(below.admin_token),
            sendfile: self.sendfile.or(below.sendfile),
            otlp_endpoint: self.otlp_endpoint.or(below.otlp_endpoint),
            log: self.log.or(below.log),
            log_format: self.log_format.or(below.log_format),
        }
    }
}

/// What one layer says of an upstream.
#[derive(Debug)]
pub(super) struct UpstreamLayer {
    pub(super) place: Place,
    pub(super) endpoints: Option<Vec<Url>>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) client_cert_file: Option<PathBuf>,
    pub(super) client_key_file: Option<PathBuf>,
    pub(super) insecure_skip_verify: Option<bool>,
    pub(super) proxies: ProxyLayer,
    pub(super) budgets: BudgetsLayer,
    pub(super) next_endpoint_on_not_found: Option<bool>,
    pub(super) private_redirects: Option<bool>,
    pub(super) realms: Option<Vec<String>>,
    pub(super) credentials: Option<CredentialsLayer>,
    pub(super) rules: RepositorySettings,
    pub(super) repositories: BTreeMap<RepositoryPattern, RepositorySettings>,
}

impl UpstreamLayer {
    /// The command line's form: endpoints and nothing else.
    fn with_endpoints(place: Place, endpoints: Vec<Url>) -> Self {
        Self {
            place,
            endpoints: Some(endpoints),
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            insecure_skip_verify: None,
            proxies: ProxyLayer::default(),
            budgets: BudgetsLayer::default(),
            next_endpoint_on_not_found: None,
            private_redirects: None,
            realms: None,
            credentials: None,
            rules: RepositorySettings::default(),
            repositories: BTreeMap::new(),
        }
    }

    fn over(self, below: Self) -> Self {
        Self {
            place: self.place,
            endpoints: self.endpoints.or(below.endpoints),
            ca_file: self.ca_file.or(below.ca_file),
            client_cert_file: self.client_cert_file.or(below.client_cert_file),
            client_key_file: self.client_key_file.or(below.client_key_file),
            insecure_skip_verify: self.insecure_skip_verify.or(below.insecure_skip_verify),
            proxies: self.proxies.or(below.proxies),
            budgets: self.budgets.or(below.budgets),
            next_endpoint_on_not_found: self
                .next_endpoint_on_not_found
                .or(below.next_endpoint_on_not_found),
            private_redirects: self.private_redirects.or(below.private_redirects),
            realms: self.realms.or(below.realms),
            credentials: self.credentials.or(below.credentials),
            rules: self.rules.or(below.rules),
            repositories: match self.repositories.is_empty() {
                true => below.repositories,
                false => self.repositories,
            },
        }
    }
}
