//! How an upstream is reached, and every limit of doing so (I8).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use registry_core::UpstreamId;
use url::Url;

use super::credentials::CredentialsConfig;
use super::observer::UpstreamObserver;
use super::proxy::Proxies;
use super::tls::SystemTrust;

/// How often a request is sent whose connection ends before an answer.
pub(super) const SENDS_MAX: u32 = 2;
/// Redirects followed for one request.
pub(super) const REDIRECTS_MAX: usize = 10;
/// Largest answer of a token server, in bytes.
pub(super) const TOKEN_BYTES_MAX: usize = 1 << 20;
/// Repositories of one upstream whose tokens are kept.
pub(super) const TOKENS_MAX: usize = 4096;
/// Longest line with challenges that is looked at, in bytes.
pub(super) const CHALLENGE_LINE_BYTES_MAX: usize = 8 << 10;
/// Places of all lines together at which challenges are looked for; each costs a look at the rest
/// of its line.
pub(super) const CHALLENGE_STARTS_MAX: usize = 64;
/// Longest scope of a challenge that is looked at, in bytes: a repository's longest name, and what
/// stands around it.
pub(super) const SCOPE_BYTES_MAX: usize = 512;
/// Most scopes that are asked for because a challenge names them, besides to pull.
pub(super) const SCOPES_MAX: usize = 4;
/// Largest page of a list of tags, in bytes.
pub(super) const TAG_PAGE_BYTES_MAX: usize = 4 << 20;
/// Pages of the upstream's that make up one of ours.
pub(super) const TAG_PAGES_MAX: usize = 64;
/// Largest page of a list of referrers, in bytes.
pub(super) const REFERRERS_PAGE_BYTES_MAX: usize = 4 << 20;
/// Pages of the upstream's that make up a list of referrers.
pub(super) const REFERRERS_PAGES_MAX: usize = 64;
/// Referrers of one manifest.
pub(super) const REFERRERS_MAX: usize = 16_384;
/// Bytes of all their descriptors.
pub(super) const REFERRERS_BYTES_MAX: usize = 4 << 20;
/// Longest line of an upstream's `Link` that is read, in bytes.
pub(super) const LINK_BYTES_MAX: usize = 8 << 10;
/// Longest query that an upstream's `Link` makes us ask with, in bytes.
pub(super) const LINK_QUERY_BYTES_MAX: usize = 2048;
/// Bytes of an answer nobody reads that are read all the same, so that its connection can be used
/// again.
pub(super) const DRAINED_BYTES_MAX: u64 = 64 << 10;
/// How long that may take.
pub(super) const DRAIN_MAX: Duration = Duration::from_millis(100);
/// Idle connections kept to each host.
pub(super) const IDLE_CONNECTIONS_MAX: usize = 32;
/// How long an idle connection is kept: less than most servers keep theirs.
pub(super) const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(30);
/// How long a registry whose HEAD was found not to work is asked by GET before HEAD is tried anew.
pub(super) const HEAD_DISTRUST: Duration = Duration::from_secs(3600);
/// Longest wait that an upstream can ask for by `Retry-After`.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// How long an endpoint is left alone that limits requests and does not say for how long, and a
/// storage that could not be reached: at first, and after many times in a row.
pub(super) const BACKOFF_FIRST: Duration = Duration::from_secs(1);
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// What is told to those who come while the one question is out that finds out whether a limit still
/// holds.
pub(super) const TRIAL_WAIT: Duration = Duration::from_secs(1);
/// Back-offs kept for one endpoint, and for all storages.
pub(super) const BACKOFFS_MAX: usize = 1024;
/// Failures (5xx, bodies that break off) in a row after which an endpoint is rested.
pub(super) const ILL_MAX: u32 = 5;
/// Probes in a row that are answered, but by an error, before an endpoint is asked again all the same.
pub(super) const ILL_PROBES_MAX: u32 = 8;
/// How long the probes of an endpoint wait that is rested again and again: at first, and at most.
const PROBE_FIRST: Duration = Duration::from_secs(1);
const PROBE_MAX: Duration = Duration::from_secs(30);
/// The least that must come of a body in each [`Budgets::body_idle`] of waiting for it, or what is
/// left of it: whoever sends a byte now and then is as good as silent.
pub(super) const BODY_BYTES_MIN: u64 = 16 << 10;
/// The share of [`Budgets::headers`] after which an endpoint that is silent has had its time: all
/// of it, but for what was used up before it was asked, where it could be as much as for everything.
pub(super) const ENOUGH_TIME: f64 = 0.9;
/// The share that [`Budgets::total`] has of the time for which whoever asks waits.
const TOTAL_SHARE: f64 = 0.96;
/// Quotas kept for one endpoint.
pub(super) const QUOTAS_MAX: usize = 256;
/// Blobs of which it is known where their bodies broke off.
pub(super) const CUTS_MAX: usize = 256;
/// What is left of a quota, in percent, below which that is said.
pub(super) const QUOTA_LOW_PERCENT: u64 = 10;
/// What must be left again before that is taken back.
pub(super) const QUOTA_WELL_PERCENT: u64 = 20;
/// Longest name of whom a registry counts requests of; longer ones are not kept.
pub(super) const QUOTA_SOURCE_CHARS_MAX: usize = 64;
/// Bytes of one body that may be on their way on a connection of HTTP/2, and of all bodies on one.
/// Half of the former is certain to be granted at any time: what fits on a line of 1 Gbit/s with a
/// round trip of 30 ms. They take memory only where they come faster than they are written.
pub(super) const HTTP2_STREAM_WINDOW_BYTES: u32 = 8 << 20;
pub(super) const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Longest frame of HTTP/2 that is taken: fewer of them cost less. Servers that know no other send
/// 16 KiB.
pub(super) const HTTP2_FRAME_BYTES_MAX: u32 = 64 << 10;
/// How often a connection of HTTP/2 is asked for a sign of life, and how long that is waited for.
/// Without, one that has died silently takes every question with it until the system gives it up.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(10);
pub(super) const PING_MAX: Duration = Duration::from_secs(5);

/// How an upstream is reached.
///
/// ```
/// use registry_core::UpstreamId;
/// use registry_server::upstream::{HttpUpstream, HttpUpstreamConfig};
///
/// let id = UpstreamId::parse("ghcr.io").unwrap();
/// let mut config = HttpUpstreamConfig::new(id, ["https://ghcr.io".parse().unwrap()]);
/// config.budgets.connect = std::time::Duration::from_secs(1);
/// let upstream = HttpUpstream::new(config).unwrap();
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HttpUpstreamConfig {
    /// Its name: for messages and logs, and never an address (I12).
    pub id: UpstreamId,
    /// Where it answers, in the order in which they are asked. `http` or `https`, with a host,
    /// maybe a port and a path that `/v2` is put after, unless it has `/v2` in it; without
    /// credentials.
    pub endpoints: Vec<Url>,
    /// A PEM file of authorities to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// A PEM file with the certificate, and its chain, to show to the endpoints.
    pub client_cert_file: Option<PathBuf>,
    /// A PEM file with the certificate's private key.
    pub client_key_file: Option<PathBuf>,
    /// Trust whatever certificate is shown.
    pub insecure_skip_verify: bool,
    /// The proxies to go through. Those of the environment are not looked at here. Addresses behind
    /// a proxy are resolved by it (but for `socks5`), so what redirects may lead to is then its
    /// decision, but for addresses written out in them.
    pub proxies: Proxies,
    /// Ask the next endpoint also where one says that it has no such thing. Only if all say so, it
    /// is not there. For endpoints that hold a part of what there is.
    pub next_endpoint_on_not_found: bool,
    /// Let redirects lead to private addresses from anywhere, and not from such only. Never to
    /// link-local ones.
    pub private_redirects: bool,
    /// Hosts that may issue tokens for this upstream besides its own, and those under the same
    /// registrable domain: `auth.example.org`, or with a port.
    pub realms: Vec<String>,
    /// What it is shown where it wants credentials.
    pub credentials: CredentialsConfig,
    /// How long to wait for what.
    pub budgets: Budgets,
    /// When an endpoint that is rested is probed.
    pub probes: ProbeSchedule,
    /// Who is told of what is asked and what comes.
    pub observer: Option<Arc<dyn UpstreamObserver>>,
    /// Largest manifest, in bytes.
    pub manifest_bytes_max: usize,
    /// The system's authorities, where several upstreams are to share them in memory.
    pub system_trust: SystemTrust,
    /// Where a test reads what was sent.
    #[cfg(feature = "testing")]
    pub outgoing: crate::testing::OutgoingLog,
}

impl HttpUpstreamConfig {
    /// The upstream `id` at these endpoints, with the default of everything else.
    pub fn new(id: UpstreamId, endpoints: impl IntoIterator<Item = Url>) -> Self {
        Self {
            id,
            endpoints: endpoints.into_iter().collect(),
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            insecure_skip_verify: false,
            proxies: Proxies::default(),
            next_endpoint_on_not_found: false,
            private_redirects: false,
            realms: Vec::new(),
            credentials: CredentialsConfig::default(),
            budgets: Budgets::default(),
            probes: ProbeSchedule::default(),
            observer: None,
            manifest_bytes_max: registry_core::Limits::default().manifest_bytes_max,
            system_trust: SystemTrust::default(),
            #[cfg(feature = "testing")]
            outgoing: crate::testing::OutgoingLog::default(),
        }
    }

    pub(super) fn check(&self) -> Result<(), HttpUpstreamConfigError> {
        if self.endpoints.is_empty() {
            return Err(HttpUpstreamConfigError::NoEndpoint);
        }
        for url in &self.endpoints {
            if let Some(problem) = url_problem(url) {
                return Err(HttpUpstreamConfigError::Url {
                    host: url.host_str().unwrap_or_default().to_owned(),
                    problem,
                });
            }
        }
        Ok(())
    }
}

/// Why a URL cannot be used: never with the URL itself, which may hold a secret.
fn url_problem(url: &Url) -> Option<&'static str> {
    if !matches!(url.scheme(), "http" | "https") {
        Some("only http and https are spoken")
    } else if !url.has_host() {
        Some("it has no host")
    } else if !url.username().is_empty() || url.password().is_some() {
        Some("credentials do not belong into a URL")
    } else if url.query().is_some() || url.fragment().is_some() {
        Some("it must have no query and no fragment")
    } else {
        None
    }
}

/// How long an upstream is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// To resolve a name, connect and shake hands: for each connection.
    pub connect: Duration,
    /// From a request to an endpoint until its answer's headers, redirects and tokens included.
    pub headers: Duration,
    /// For the next bytes of a blob; for the whole of anything smaller.
    pub body_idle: Duration,
    /// From a question until its answer, whatever endpoints that takes; for a blob, until its
    /// headers. To be less than [`upstream_wait_max`](registry_core::Limits::upstream_wait_max) of
    /// the cache, which asks, and more than [`Self::headers`], or the endpoint after a silent one
    /// is not asked.
    pub total: Duration,
}

impl Budgets {
    /// The same for someone who waits for so long: who leaves first does not learn, and what is
    /// asked here does not either, that an endpoint is silent.
    pub(crate) fn within(self, wait_max: Duration) -> Self {
        let total = self.total.min(wait_max.mul_f64(TOTAL_SHARE));
        let headers = self.headers.min(total);
        Self {
            connect: self.connect.min(headers),
            headers,
            total,
            ..self
        }
    }
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            headers: Duration::from_secs(15),
            body_idle: Duration::from_secs(30),
            total: Duration::from_secs(24),
        }
    }
}

/// When an endpoint is probed that is not asked for having failed: at once; where that did not help,
/// again after `first`, and then after twice as long each time, up to `max`. All give or take a
/// fifth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSchedule {
    /// Wait before the second probe.
    pub first: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl Default for ProbeSchedule {
    fn default() -> Self {
        Self {
            first: PROBE_FIRST,
            max: PROBE_MAX,
        }
    }
}

/// Why an upstream cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpUpstreamConfigError {
    /// No endpoint is given.
    #[error("it needs an endpoint, such as https://registry.example.org")]
    NoEndpoint,
    /// A URL that cannot be used.
    #[error("the URL at host `{host}` cannot be used: {problem}")]
    Url {
        /// The URL's host.
        host: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A PEM file that cannot be used.
    #[error("`{}` cannot be used: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Credentials that cannot be used.
    #[error("its credentials cannot be used: {problem}")]
    Credentials {
        /// Why not.
        problem: String,
    },
    /// A certificate without a key, or a key without a certificate.
    #[error("client_cert_file and client_key_file are needed together")]
    HalfIdentity,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {problem}")]
    Tls {
        /// Why.
        problem: String,
    },
    /// The HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
}
