//! What can be set of an upstream.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use registry_core::{RepositoryPattern, RepositoryRule, RetentionRule, UpstreamId, UpstreamPolicy};
use url::Url;

use super::layer::UpstreamLayer;
use super::place::Problems;
use super::proxy::ProxyLayer;
use super::repository::RepositorySettings;
use crate::upstream::{Budgets, CredentialsConfig, Proxies};

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
    /// How its tags are kept fresh and its content is kept.
    pub rules: RepositorySettings,
    /// What is different for the repositories that a pattern stands for. Where several do, the
    /// [most specific](RepositoryPattern::specificity) decides.
    pub repositories: BTreeMap<RepositoryPattern, RepositorySettings>,
}

impl UpstreamConfig {
    /// A registry at `endpoints`, with the default of everything else.
    pub fn new(endpoints: impl IntoIterator<Item = Url>) -> Self {
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
            rules: RepositorySettings::default(),
            repositories: BTreeMap::new(),
        }
    }

    pub(super) fn resolve(
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
            rules: settings.rules,
            repositories: settings.repositories,
            endpoints: default.endpoints,
        }
    }

    /// Whether the registry is reached in the same way, however what it sends is treated. Files are
    /// the same where they have the same names.
    pub(crate) fn is_reached_like(&self, other: &Self) -> bool {
        // All of them are named, so that a new one is not forgotten.
        let Self {
            endpoints,
            ca_file,
            client_cert_file,
            client_key_file,
            insecure_skip_verify,
            proxies,
            budgets,
            next_endpoint_on_not_found,
            private_redirects,
            realms,
            credentials,
            rules: _,
            repositories: _,
        } = self;
        *endpoints == other.endpoints
            && *ca_file == other.ca_file
            && *client_cert_file == other.client_cert_file
            && *client_key_file == other.client_key_file
            && *insecure_skip_verify == other.insecure_skip_verify
            && *proxies == other.proxies
            && *budgets == other.budgets
            && *next_endpoint_on_not_found == other.next_endpoint_on_not_found
            && *private_redirects == other.private_redirects
            && *realms == other.realms
            && *credentials == other.credentials
    }

    /// How its tags are kept fresh, where `tag_ttl` is the general setting.
    pub fn policy(&self, tag_ttl: Duration) -> UpstreamPolicy {
        self.rules.policy(UpstreamPolicy {
            tag_ttl,
            ..UpstreamPolicy::default()
        })
    }

    /// How its content is kept.
    pub fn retention(&self) -> RetentionRule {
        self.rules.retention()
    }

    /// What is different for some of its repositories, where `tag_ttl` is the general setting: the
    /// most specific pattern first, so that the first that matches decides.
    pub fn repository_rules(&self, tag_ttl: Duration) -> Vec<RepositoryRule> {
        let general = RepositorySettings {
            tag_ttl: Some(tag_ttl),
            ..RepositorySettings::default()
        };
        let upstream = self.rules.clone().or(general);
        let patterns = self.repositories.iter();
        let mut rules: Vec<_> = patterns
            .map(|(pattern, settings)| settings.rule(pattern, &upstream))
            .collect();
        // Stable: those that are as specific as each other stay in the order of their texts.
        rules.sort_by_key(|rule| Reverse(rule.pattern.specificity()));
        rules
    }
}
