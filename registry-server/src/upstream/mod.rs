//! Registries over HTTP: the upstreams that the cache is filled from.
//!
//! This module owns the HTTP client. It knows the quirks of registries, follows their redirects,
//! shows them the credentials and tokens that they want, moves on to another endpoint where one
//! fails, and gives what they send a limit in size and time. It knows nothing of stores, and decides
//! nothing about caching.
//!
//! Requests are built from scratch: nothing of a client's is in them, `ns` least of all (I12).
//! Content is asked for as it is (`Accept-Encoding: identity`), and manifests by all their types,
//! so that nothing is converted on the way (I9).

mod address;
mod auth;
mod authorization;
mod background;
mod backoff;
mod blobs;
mod breaker;
mod challenge;
mod clients;
mod config;
mod credentials;
mod cuts;
mod endpoint;
mod exchange;
mod failover;
mod failure;
#[cfg(test)]
mod fuzz;
mod head;
#[cfg(all(test, feature = "testing"))]
mod http2_tests;
mod link;
mod manifests;
mod observer;
mod probe;
mod proxy;
mod quota;
mod realm;
mod redirect;
mod referrers;
mod reply;
mod tags;
mod tls;
mod token;
mod token_server;
mod transport;

use std::fmt;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _};
use registry_core::{
    Answered, Asked, Caller, Condition, Digest, FetchedTags, Manifest, RangeRequest, Reference,
    Referrers, Repository, Resolution, Tag, TagPage, Upstream, UpstreamBlob, UpstreamError,
    UpstreamId, Validator,
};
use tokio_util::sync::DropGuard;

pub(crate) use address::is_plain_public;
#[cfg(feature = "otlp")]
pub(crate) use clients::client_of_collector;
pub(crate) use credentials::{
    HelperName, WatchedFile, check_docker_config, check_password_file, eligible_endpoints,
};

pub use config::{Budgets, HttpUpstreamConfig, HttpUpstreamConfigError, ProbeSchedule};
pub use credentials::{CredentialConfig, CredentialsConfig};
pub use endpoint::{EndpointError, EndpointState};
pub use observer::{RequestKind, UpstreamObserver};
pub use proxy::{Proxies, ProxyUrl, ProxyUrlError};
pub use quota::{EndpointQuota, Quota};
pub use tls::SystemTrust;

use endpoint::Endpoint;
use transport::Transport;

/// A registry over HTTP.
///
/// It asks with credentials of its own, or anonymously, whoever the [`Caller`]: what they open is
/// open to all who may ask it anything. Each question ends within its [`Budgets`]; what is dropped is
/// abandoned, and costs at most its connection.
///
/// - Several endpoints are asked in order, until one answers. One that is silent, or that fails
///   again and again, is not asked but probed in the background until it is well: what is asked
///   meanwhile goes to the next, or fails at once where there is none. The probes are this value's,
///   and end with it.
/// - An endpoint that limits requests (429) is sent none of the kind until it wants them again.
/// - Redirects are followed, and lose the credentials and the client's certificate with the first
///   change of scheme, host or port. They lead from https to https only, to private addresses
///   only from such (or where all may), and to link-local ones never; their URLs are neither
///   logged nor told.
/// - Where HEAD does not work, GET does: for an hour after that was found out.
pub struct HttpUpstream {
    id: UpstreamId,
    transport: Arc<Transport>,
    manifest_bytes_max: usize,
    /// Ends the probes.
    _stop: DropGuard,
}

impl HttpUpstream {
    /// Sets up an upstream, without asking it anything.
    ///
    /// # Errors
    ///
    /// [`HttpUpstreamConfigError`], which says what to change.
    pub fn new(config: HttpUpstreamConfig) -> Result<Self, HttpUpstreamConfigError> {
        let transport = Arc::new(Transport::new(&config)?);
        Ok(Self {
            _stop: transport.stop.clone().drop_guard(),
            transport,
            manifest_bytes_max: config.manifest_bytes_max,
            id: config.id,
        })
    }

    /// Its name.
    pub fn id(&self) -> &UpstreamId {
        &self.id
    }

    /// How much each endpoint still grants, as far as it has told: in the order of the endpoints.
    pub fn quotas(&self) -> Vec<EndpointQuota> {
        let endpoints = self.endpoints().into_iter();
        endpoints.flat_map(|endpoint| endpoint.quotas).collect()
    }

    /// How each endpoint is, in the order in which they are asked.
    pub fn endpoints(&self) -> Vec<EndpointState> {
        let endpoints = self.transport.endpoints.iter();
        endpoints.map(Endpoint::state).collect()
    }
}

impl Upstream for HttpUpstream {
    fn resolve<'a>(
        &'a self,
        repository: &'a Repository,
        tag: &'a Tag,
        prior: Option<Digest>,
        _: &'a Caller,
    ) -> BoxFuture<'a, Result<Answered<Resolution>, UpstreamError>> {
        self.ask_tag(repository, tag, prior).boxed()
    }

    fn manifest<'a>(
        &'a self,
        repository: &'a Repository,
        reference: &'a Reference,
        _: &'a Caller,
    ) -> BoxFuture<'a, Result<Option<Answered<Manifest>>, UpstreamError>> {
        self.fetch_manifest(repository, reference).boxed()
    }

    fn has_manifest<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        _: &'a Caller,
    ) -> BoxFuture<'a, Result<bool, UpstreamError>> {
        self.ask_manifest(repository, digest).boxed()
    }

    fn stat_blob<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        _: &'a Caller,
    ) -> BoxFuture<'a, Result<Option<Option<u64>>, UpstreamError>> {
        self.ask_blob(repository, digest).boxed()
    }

    fn blob<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        range: Option<RangeRequest>,
        prior: Option<&'a Validator>,
        _: &'a Caller,
    ) -> BoxFuture<'a, Result<Option<UpstreamBlob>, UpstreamError>> {
        self.fetch_blob(repository, digest, range, prior).boxed()
    }

    fn tags<'a>(
        &'a self,
        repository: &'a Repository,
        page: TagPage<'a>,
        _: &'a Caller,
    ) -> BoxFuture<'a, Result<Option<FetchedTags>, UpstreamError>> {
        self.fetch_tags(repository, page).boxed()
    }

    fn referrers<'a>(
        &'a self,
        repository: &'a Repository,
        subject: Digest,
        _: &'a Caller,
    ) -> BoxFuture<'a, Result<Option<Referrers>, UpstreamError>> {
        self.fetch_referrers(repository, subject).boxed()
    }

    fn condition(&self, repository: &Repository, asked: Asked) -> Condition {
        self.transport.condition(repository, asked)
    }
}

impl fmt::Debug for HttpUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpUpstream")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
