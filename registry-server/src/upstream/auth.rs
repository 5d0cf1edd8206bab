//! Asking one endpoint with what it wants to be asked with: its challenge, and our answer to it.

use http::{HeaderMap, Method, StatusCode};
use registry_core::{Repository, UpstreamError};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::address::Reach;
use super::challenge::{Challenge, is_listed, realm_is_bound};
use super::clients::Sending;
use super::config::TOKEN_BYTES_MAX;
use super::failure::SendFailure;
use super::observer::RequestKind;
use super::redirect::{Hop, host_of};
use super::reply::Reply;
use super::token::Issued;
use super::transport::{Answered, Question, Transport};

impl Transport {
    /// Asks one endpoint; with a token, where it wants one.
    pub(super) async fn ask_endpoint(
        &self,
        endpoint: usize,
        question: &Question<'_>,
        deadline: Instant,
    ) -> Result<Reply, SendFailure> {
        let root = &self.roots[endpoint];
        let key = (endpoint, question.repository.clone());
        let fetch = |challenge: Challenge, reach| {
            self.fetch_token(root, challenge, reach, question.repository, deadline)
        };
        let known = in_time(deadline, self.tokens.known(&key, fetch)).await?;
        let Answered { reply, reach } = self
            .follow(root, question, known.as_ref(), deadline)
            .await?;
        // A storage's challenge is none of ours: our tokens are for the endpoint.
        if reply.status() != StatusCode::UNAUTHORIZED || !reply.is_trusted() {
            return Ok(reply);
        }
        let Some(challenge) = Challenge::find(reply.headers()) else {
            return Ok(reply);
        };
        reply.drain().await;
        let token = self
            .tokens
            .answer(&key, challenge, reach, known.as_ref(), fetch);
        let token = in_time(deadline, token).await??;
        let answered = self.follow(root, question, Some(&token), deadline).await?;
        Ok(answered.reply)
    }

    /// Gets an anonymous token from the realm of a challenge.
    async fn fetch_token(
        &self,
        root: &Url,
        challenge: Challenge,
        reach: Reach,
        repository: &Repository,
        deadline: Instant,
    ) -> Result<Issued, UpstreamError> {
        let realm = &challenge.realm;
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
        let reach = if listed { Reach::Private } else { reach };
        let hop = Hop {
            url: challenge.token_url(repository.as_str()),
            trusted: false,
        };
        let sending = self.clients.send(Sending {
            kind: RequestKind::Token,
            method: Method::GET,
            hop: &hop,
            headers: HeaderMap::new(),
            from: (root, reach),
            deadline,
        });
        let response = sending.await.map_err(|failure| failure.error)?;
        let reply = Reply::new(response, host_of(realm), true);
        if reply.status() != StatusCode::OK {
            return Err(reply.failure());
        }
        let host = reply.host().to_owned();
        let body = reply.read(TOKEN_BYTES_MAX, self.budgets.body_idle).await?;
        Issued::parse(&body).ok_or_else(|| UpstreamError::Protocol {
            what: format!("{host} answered without a token"),
        })
    }
}

/// Waits for what may be another's work under way, and no longer than for one's own.
async fn in_time<T>(deadline: Instant, work: impl Future<Output = T>) -> Result<T, UpstreamError> {
    let outcome = timeout_at(deadline, work).await;
    outcome.map_err(|_| UpstreamError::Timeout { what: "answer" })
}
