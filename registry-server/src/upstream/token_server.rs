//! One token from a token server (distribution, "Token Authentication Specification" and "OAuth2
//! Token Authentication").
//!
//! Credentials leave here for the realm of a challenge, if that belongs to the registry, and
//! nowhere else: its redirects are not followed.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::FutureExt as _;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use registry_core::UpstreamError;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::address::Reach;
use super::authorization::Authorization;
use super::challenge::Grant;
use super::clients::{Clients, Sending};
use super::config::{Budgets, TOKEN_BYTES_MAX};
use super::credentials::{Account, Credential};
use super::observer::RequestKind;
use super::realm::{is_listed, realm_is_bound};
use super::redirect::{Hop, host_of};
use super::reply::Reply;
use super::token::{Asked, Fetching, Issued};

/// The form of a posted question.
const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

/// The way to the token servers of an upstream.
#[derive(Clone)]
pub(super) struct TokenServers {
    clients: Arc<Clients>,
    realms: Arc<[String]>,
    budgets: Budgets,
}

impl TokenServers {
    pub(super) fn new(clients: Arc<Clients>, realms: &[String], budgets: Budgets) -> Self {
        Self {
            clients,
            realms: realms.into(),
            budgets,
        }
    }

    /// Fetches a token that an endpoint has asked for.
    ///
    /// # Limits
    ///
    /// Two requests: one by GET, and where GET is not known, one by POST. All of it takes no longer
    /// than an endpoint may take to answer.
    pub(super) fn fetch(&self, root: &Url, asked: Asked) -> Fetching {
        let (servers, root) = (self.clone(), root.clone());
        async move {
            let deadline = Instant::now() + servers.budgets.headers;
            let issued = timeout_at(deadline, servers.issue(&root, &asked, deadline)).await;
            let issued = issued.unwrap_or(Err(TIMEOUT))?;
            Ok((asked, issued))
        }
        .boxed()
    }

    /// Fetches a token like one before, with the credential that there is now; where its source
    /// fails, with the one of then.
    pub(super) fn renew(&self, root: &Url, account: Option<Account>, asked: Asked) -> Fetching {
        let (servers, root) = (self.clone(), root.clone());
        async move {
            let mut asked = asked;
            if let Some(account) = account
                && let Ok(credential) = account.credential(None).await
            {
                asked.credential = credential;
            }
            servers.fetch(&root, asked).await
        }
        .boxed()
    }

    async fn issue(
        &self,
        root: &Url,
        asked: &Asked,
        deadline: Instant,
    ) -> Result<Issued, UpstreamError> {
        let bearer = &asked.bearer;
        let realm = &bearer.realm;
        if !realm_is_bound(root, realm, &self.realms) {
            return Err(UpstreamError::Protocol {
                what: format!(
                    "{} sends us to {} for a token, which is not known to belong to it: if it \
                     does, list that host in the upstream's `realms`",
                    host_of(root),
                    host_of(realm)
                ),
            });
        }
        // A host that is listed by hand may be anywhere.
        let listed = is_listed(realm, &self.realms);
        let reach = if listed { Reach::Private } else { asked.reach };
        let send = |request, url| self.send(request, url, (root, reach), deadline);
        let post = |grant: &Grant<'_>| send(posted(&bearer.form(grant)), bearer.post_url());
        let reply = match &asked.credential {
            None | Some(Credential::RegistryToken(_)) => send(got(None), bearer.url()).await?,
            Some(Credential::IdentityToken(token)) => post(&Grant::RefreshToken(token)).await?,
            Some(Credential::Password { username, password }) => {
                let basic = Authorization::basic(username, password);
                let reply = send(got(Some(&basic)), bearer.url()).await?;
                if matches!(reply.status().as_u16(), 400 | 404 | 405) {
                    reply.drain().await;
                    post(&Grant::Password { username, password }).await?
                } else {
                    reply
                }
            }
        };
        self.read(reply).await
    }

    async fn send(
        &self,
        request: Request,
        url: Url,
        from: (&Url, Reach),
        deadline: Instant,
    ) -> Result<Reply, UpstreamError> {
        let host = host_of(&url);
        // It is shown no certificate of ours: that is for the endpoint.
        let hop = Hop {
            url,
            trusted: false,
        };
        let begun = Instant::now();
        let method = request.method.clone();
        let sending = self.clients.send(Sending {
            kind: RequestKind::Token,
            method: request.method,
            hop: &hop,
            headers: request.headers,
            body: request.body,
            from,
            deadline,
        });
        let sent = sending.await.map_err(|failure| match failure.error {
            UpstreamError::Timeout { .. } => TIMEOUT,
            error => error,
        })?;
        let reply = Reply::new(sent, host, true);
        tracing::debug!(
            host = reply.host(),
            %method,
            status = reply.status().as_u16(),
            elapsed = ?begun.elapsed(),
            "token server answered"
        );
        Ok(reply)
    }

    async fn read(&self, reply: Reply) -> Result<Issued, UpstreamError> {
        let status = reply.status();
        if status.is_redirection() {
            return Err(reply.protocol("redirects a request for a token, which is not followed"));
        }
        if status != StatusCode::OK {
            return Err(reply.failure());
        }
        let host = reply.host().to_owned();
        let body = reply.read(TOKEN_BYTES_MAX, self.budgets.body_idle).await?;
        Issued::parse(&body).ok_or_else(|| UpstreamError::Protocol {
            what: format!("{host} answered without a token"),
        })
    }
}

const TIMEOUT: UpstreamError = UpstreamError::Timeout {
    what: "have its token server answer",
};

/// A question to a token server.
struct Request {
    method: Method,
    headers: HeaderMap,
    body: Bytes,
}

fn got(authorization: Option<&Authorization>) -> Request {
    let header = authorization.map(|value| (AUTHORIZATION, value.header()));
    Request {
        method: Method::GET,
        headers: HeaderMap::from_iter(header),
        body: Bytes::new(),
    }
}

fn posted(form: &str) -> Request {
    Request {
        method: Method::POST,
        headers: HeaderMap::from_iter([(CONTENT_TYPE, FORM)]),
        body: Bytes::copy_from_slice(form.as_bytes()),
    }
}
