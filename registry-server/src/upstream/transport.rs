//! One question to one endpoint until its answer's headers: where it goes, and redirects.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, IF_RANGE, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use registry_core::{Repository, UpstreamError, UpstreamId, Validator};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use super::address::Reach;
use super::auth::Authenticator;
use super::authorization::Authorization;
use super::backoff::{BackoffKey, Backoffs, Class, CredentialId, Pass};
use super::clients::{Clients, Sending};
use super::config::{
    Budgets, HttpUpstreamConfig, HttpUpstreamConfigError, ProbeSchedule, REDIRECTS_MAX,
};
use super::cuts::Cuts;
use super::endpoint::Endpoint;
use super::failure::SendFailure;
use super::observer::{RequestKind, UpstreamObserver};
use super::redirect::{Hop, host_of};
use super::reply::Reply;

/// What is asked of an upstream. Nothing of a client's request is in it (I12).
#[derive(Clone, Debug)]
pub(super) struct Question<'a> {
    pub(super) kind: RequestKind,
    pub(super) method: Method,
    pub(super) repository: &'a Repository,
    /// What stands after the repository: `manifests/latest`.
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) headers: HeaderMap,
    /// What the range in the headers goes on from; for the host that issued it only.
    pub(super) prior: Option<&'a Validator>,
}

/// The way to an upstream's endpoints.
pub(super) struct Transport {
    pub(super) id: UpstreamId,
    /// Each endpoint's URL, with the path that its repositories are below.
    pub(super) roots: Vec<Url>,
    /// What is known of each.
    pub(super) endpoints: Vec<Endpoint>,
    /// Where bodies of blobs broke off.
    pub(super) cuts: Cuts,
    pub(super) clients: Arc<Clients>,
    pub(super) auth: Authenticator,
    pub(super) budgets: Budgets,
    pub(super) next_on_not_found: bool,
    pub(super) probes: ProbeSchedule,
    pub(super) observer: Option<Arc<dyn UpstreamObserver>>,
    /// Hosts that endpoints led to, and that could not be reached.
    elsewhere: Backoffs<String>,
    /// The probes under way.
    pub(super) tasks: TaskTracker,
    /// Ends them.
    pub(super) stop: CancellationToken,
}

/// An endpoint's answer, and how far that endpoint may lead.
pub(super) struct Answered {
    pub(super) reply: Reply,
    pub(super) reach: Reach,
}

impl Transport {
    pub(super) fn new(config: &HttpUpstreamConfig) -> Result<Self, HttpUpstreamConfigError> {
        config.check()?;
        let roots: Vec<Url> = config.endpoints.iter().map(api_root).collect();
        let clients = Arc::new(Clients::new(config)?);
        Ok(Self {
            id: config.id.clone(),
            endpoints: roots.iter().map(Endpoint::new).collect(),
            cuts: Cuts::default(),
            roots,
            auth: Authenticator::new(config, Arc::clone(&clients))?,
            clients,
            budgets: config.budgets.clone(),
            next_on_not_found: config.next_endpoint_on_not_found,
            probes: config.probes.clone(),
            observer: config.observer.clone(),
            elsewhere: Backoffs::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    pub(super) fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// Asks one endpoint and follows its redirects.
    pub(super) async fn follow(
        &self,
        root: &Url,
        question: &Question<'_>,
        authorization: Option<&Authorization>,
        deadline: Instant,
    ) -> Result<Answered, SendFailure> {
        let mut hop = Hop::first(question.url(root));
        let mut from = root.clone();
        // An endpoint is asked wherever it is.
        let mut reach = Reach::Public;
        for _ in 0..=REDIRECTS_MAX {
            let mut headers = question.headers.clone();
            if let Some(authorization) = authorization.filter(|_| hop.trusted) {
                headers.insert(AUTHORIZATION, authorization.header());
            }
            if let Some(prior) = question.prior
                && prior.source() == host_of(&hop.url)
                && let Ok(entity_tag) = HeaderValue::from_str(prior.entity_tag())
            {
                headers.insert(IF_RANGE, entity_tag);
            }
            let pass = self.leave_for(&hop)?;
            let sending = self.clients.send(Sending {
                kind: question.kind,
                method: question.method.clone(),
                hop: &hop,
                headers,
                body: Bytes::new(),
                from: (&from, reach),
                deadline,
            });
            let outcome = sending.await;
            match (pass, &outcome) {
                (Some(pass), Ok(_)) => pass.answered(),
                (Some(pass), Err(failure)) if failure.unconnected => {
                    pass.refused(None);
                }
                _ => {}
            }
            let sent = outcome.map_err(|failure| failure.at(&hop))?;
            reach = self.clients.reach_from(&hop.url, &sent.response);
            let reply = Reply::new(sent, host_of(&hop.url), hop.trusted);
            if !is_redirect(reply.status()) {
                return Ok(Answered { reply, reach });
            }
            let location = reply.headers().get(LOCATION).map(HeaderValue::to_str);
            let Some(Ok(location)) = location else {
                return Err(reply.protocol("redirects without a Location").into());
            };
            let next = hop.next(location, reach)?;
            from = std::mem::replace(&mut hop, next).url;
            reply.drain().await;
        }
        Err(UpstreamError::Protocol {
            what: format!(
                "{} redirects more than {REDIRECTS_MAX} times",
                host_of(root)
            ),
        }
        .into())
    }

    /// Leave for a request to whom an endpoint leads to; an endpoint itself has a breaker. A host
    /// that could not be reached is left out for a while, so that not every blob pays for it.
    fn leave_for(&self, hop: &Hop) -> Result<Option<Pass<'_, String>>, SendFailure> {
        if hop.trusted {
            return Ok(None);
        }
        let host = host_of(&hop.url);
        let unreachable = |_| UpstreamError::Unavailable {
            what: format!("{host} could not be reached a moment ago"),
            source: None,
        };
        let leave = self.elsewhere.leave(host.clone()).map_err(unreachable);
        leave
            .map(Some)
            .map_err(|error| SendFailure::from(error).at(hop))
    }
}

impl Question<'_> {
    /// What a limit that it runs into is kept by, where it is asked with these credentials.
    pub(super) fn backoff_key(&self, credential: CredentialId) -> BackoffKey {
        BackoffKey {
            class: match (self.kind, &self.method) {
                (RequestKind::Manifest, &Method::HEAD) => Class::ManifestHead,
                (RequestKind::Manifest, _) => Class::Manifest,
                (RequestKind::Blob, _) => Class::Blob,
                _ => Class::Other,
            },
            credential,
        }
    }

    fn url(&self, root: &Url) -> Url {
        let mut url = root.clone();
        let path = format!("{}/{}/{}", root.path(), self.repository, self.path);
        url.set_path(&path);
        url.set_query(self.query.as_deref());
        url
    }
}

/// Where an endpoint's repositories are: below `/v2`, after the path that it may have. Where that
/// path has `/v2` in it, it is taken as it is: what follows begins the name of each repository, as
/// with a cache of several registries (`https://cache.example.org/v2/quay.io`).
fn api_root(endpoint: &Url) -> Url {
    let mut root = endpoint.clone();
    let path = endpoint.path().trim_end_matches('/');
    let path = match path.split('/').any(|component| component == "v2") {
        true => path.to_owned(),
        false => format!("{path}/v2"),
    };
    root.set_path(&path);
    root
}

/// What every registry answers, below an endpoint's `/v2` whatever stands after that.
pub(super) fn ping_url(root: &Url) -> Url {
    let mut url = root.clone();
    let mut path = String::new();
    for component in root.path().split('/').skip(1) {
        path = path + "/" + component;
        if component == "v2" {
            break;
        }
    }
    url.set_path(&(path + "/"));
    url
}

/// The redirects that keep the method, for the two methods that are used here.
fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_go_below_v2() {
        let repository = Repository::parse("library/app").unwrap();
        for (endpoint, url) in [
            (
                "https://ghcr.io",
                "https://ghcr.io/v2/library/app/tags/list?n=1",
            ),
            (
                "https://ghcr.io/",
                "https://ghcr.io/v2/library/app/tags/list?n=1",
            ),
            (
                "http://h:5000/v2/",
                "http://h:5000/v2/library/app/tags/list?n=1",
            ),
            (
                "https://h/mirror/hub",
                "https://h/mirror/hub/v2/library/app/tags/list?n=1",
            ),
            (
                "https://h/v2/quay.io/",
                "https://h/v2/quay.io/library/app/tags/list?n=1",
            ),
        ] {
            let question = Question {
                method: Method::GET,
                repository: &repository,
                kind: RequestKind::Tags,
                path: "tags/list".to_owned(),
                query: Some("n=1".to_owned()),
                headers: HeaderMap::new(),
                prior: None,
            };
            let root = api_root(&Url::parse(endpoint).unwrap());
            assert_eq!(question.url(&root).as_str(), url, "{endpoint}");
        }
    }

    #[test]
    fn an_endpoint_is_probed_where_its_api_begins() {
        for (endpoint, url) in [
            ("https://ghcr.io", "https://ghcr.io/v2/"),
            ("http://h:5000/v2/", "http://h:5000/v2/"),
            ("https://h/v2/hub/cache", "https://h/v2/"),
            ("https://h/api/docker/hub", "https://h/api/docker/hub/v2/"),
        ] {
            let root = api_root(&Url::parse(endpoint).unwrap());
            assert_eq!(ping_url(&root).as_str(), url, "{endpoint}");
        }
    }
}
