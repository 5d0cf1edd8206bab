//! Bearer tokens: one for each repository of an endpoint, fetched once for all who wait.
//!
//! Tokens are anonymous: there are no credentials yet. Where there are, they belong into the
//! request that `transport` makes for a token, and nowhere else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use registry_core::{Repository, UpstreamError};
use serde::Deserialize;
use tokio::time::Instant;

use super::address::Reach;
use super::challenge::Challenge;
use super::config::TOKENS_MAX;

/// How long a token lives whose server does not say, and the least it lives whatever it says
/// (distribution, "Token Authentication Specification").
const LIFE_MIN: Duration = Duration::from_secs(60);
/// The longest that a token is used: whoever says more has made a mistake.
const LIFE_MAX: Duration = Duration::from_secs(3600);
/// How long before its end a token is not used any more, for what is on its way.
const MARGIN: Duration = Duration::from_secs(10);

/// A bearer token as it stands in a header, never printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token(HeaderValue);

impl Token {
    /// The value of `Authorization`.
    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

/// A token and how long it is valid, as a token server answered.
pub(super) struct Issued {
    token: Token,
    life: Duration,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<f64>,
}

impl Issued {
    /// Reads a token server's answer; none where it is not one.
    pub(super) fn parse(body: &Bytes) -> Option<Self> {
        let document: Document = serde_json::from_slice(body).ok()?;
        let given = [document.token, document.access_token];
        let text = given.into_iter().flatten().find(|text| !text.is_empty())?;
        let mut value = HeaderValue::from_str(&format!("Bearer {text}")).ok()?;
        value.set_sensitive(true);
        let life = document
            .expires_in
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Some(Self {
            token: Token(value),
            life: life.unwrap_or_default().clamp(LIFE_MIN, LIFE_MAX),
        })
    }
}

/// What a token was asked for with, and the token.
#[derive(Clone)]
struct Grant {
    challenge: Challenge,
    reach: Reach,
    token: Token,
    expires: Instant,
}

impl Grant {
    fn is_fresh(&self) -> bool {
        Instant::now() + MARGIN < self.expires
    }
}

/// The grant of one repository. Locked while it is being fetched, so that all others wait for it.
type Slot = Arc<tokio::sync::Mutex<Option<Grant>>>;

/// What tokens are kept by: the number of the endpoint, and the repository.
type Key = (usize, Repository);

/// The tokens of an upstream.
#[derive(Default)]
pub(super) struct Tokens {
    slots: Mutex<HashMap<Key, Slot>>,
}

impl Tokens {
    /// The token to ask with, where this repository has asked for one before. One that is about
    /// to end is fetched anew; where that fails, there is none.
    pub(super) async fn known<F>(
        &self,
        key: &Key,
        fetch: impl FnOnce(Challenge, Reach) -> F,
    ) -> Option<Token>
    where
        F: Future<Output = Result<Issued, UpstreamError>>,
    {
        let slot = self.slots().get(key).map(Arc::clone)?;
        let mut grant = slot.lock().await;
        let known = grant.as_ref()?;
        if known.is_fresh() {
            return Some(known.token.clone());
        }
        let (challenge, reach) = (known.challenge.clone(), known.reach);
        // Taken out before the wait: what is dropped half way, or fails, leaves nothing behind.
        *grant = None;
        let issued = fetch(challenge.clone(), reach).await.ok()?;
        Some(
            grant
                .insert(Grant::new(challenge, reach, issued))
                .token
                .clone(),
        )
    }

    /// The token that answers a challenge; another than `rejected`, which was just refused.
    pub(super) async fn answer<F>(
        &self,
        key: &Key,
        challenge: Challenge,
        reach: Reach,
        rejected: Option<&Token>,
        fetch: impl FnOnce(Challenge, Reach) -> F,
    ) -> Result<Token, UpstreamError>
    where
        F: Future<Output = Result<Issued, UpstreamError>>,
    {
        let slot = self.slot(key);
        let mut grant = slot.lock().await;
        if let Some(known) = grant.as_ref()
            && known.is_fresh()
            && known.challenge == challenge
            && Some(&known.token) != rejected
        {
            return Ok(known.token.clone());
        }
        *grant = None;
        let issued = fetch(challenge.clone(), reach).await?;
        Ok(grant
            .insert(Grant::new(challenge, reach, issued))
            .token
            .clone())
    }

    fn slot(&self, key: &Key) -> Slot {
        let mut slots = self.slots();
        if slots.len() >= TOKENS_MAX && !slots.contains_key(key) {
            // Cheaper than an order to keep: each costs one request to get back.
            slots.clear();
        }
        Arc::clone(slots.entry(key.clone()).or_default())
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Slot>> {
        // Nothing is half done in it when a thread panics.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Grant {
    fn new(challenge: Challenge, reach: Reach, issued: Issued) -> Self {
        Self {
            challenge,
            reach,
            token: issued.token,
            expires: Instant::now() + issued.life,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use url::Url;

    use super::*;

    fn parse(json: &str) -> Option<(String, u64)> {
        let issued = Issued::parse(&Bytes::copy_from_slice(json.as_bytes()))?;
        let header = issued.token.header();
        Some((header.to_str().unwrap().to_owned(), issued.life.as_secs()))
    }

    #[test]
    fn answers_of_token_servers_are_read() {
        for (json, token, life) in [
            (r#"{"token":"t","expires_in":300}"#, "Bearer t", 300),
            (r#"{"access_token":"t"}"#, "Bearer t", 60),
            (
                r#"{"token":"t","access_token":"u","expires_in":61.5}"#,
                "Bearer t",
                61,
            ),
            (r#"{"token":"","access_token":"u"}"#, "Bearer u", 60),
            (r#"{"token":"t","expires_in":5}"#, "Bearer t", 60),
            (r#"{"token":"t","expires_in":-1}"#, "Bearer t", 60),
            (r#"{"token":"t","expires_in":1e300}"#, "Bearer t", 60),
            (r#"{"token":"t","expires_in":999999999}"#, "Bearer t", 3600),
        ] {
            assert_eq!(parse(json), Some((token.to_owned(), life)), "{json}");
        }
        for json in [
            "",
            "{}",
            "[]",
            r#"{"token":""}"#,
            r#"{"token":7}"#,
            r#"{"token":"a\nb"}"#,
        ] {
            assert_eq!(parse(json), None, "{json}");
        }
    }

    fn key(number: usize) -> Key {
        (0, Repository::parse(&format!("app{number}")).unwrap())
    }

    fn challenge() -> Challenge {
        Challenge {
            realm: Url::parse("https://a.example/token").unwrap(),
            service: None,
        }
    }

    /// Issues `t0`, `t1`, … for five minutes each.
    #[derive(Default)]
    struct Server(AtomicU32);

    impl Server {
        async fn fetch(&self) -> Result<Issued, UpstreamError> {
            let number = self.0.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            let json = format!(r#"{{"token":"t{number}","expires_in":300}}"#);
            Ok(Issued::parse(&json.into()).unwrap())
        }

        async fn answer(&self, tokens: &Tokens, rejected: Option<&Token>) -> Token {
            let fetch = |_, _| self.fetch();
            let key = key(0);
            let answer = tokens.answer(&key, challenge(), Reach::Public, rejected, fetch);
            answer.await.unwrap()
        }

        async fn known(&self, tokens: &Tokens) -> Option<Token> {
            tokens.known(&key(0), |_, _| self.fetch()).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_token_for_all_who_wait_and_for_as_long_as_it_lives() {
        let (tokens, server) = (Tokens::default(), Server::default());
        assert!(server.known(&tokens).await.is_none());
        let wait = (0..8).map(|_| server.answer(&tokens, None));
        let answers = futures::future::join_all(wait).await;
        assert!(answers.iter().all(|token| *token == answers[0]));
        tokio::time::advance(Duration::from_secs(289)).await;
        assert!(server.known(&tokens).await.as_ref() == Some(&answers[0]));
        assert_eq!(server.0.load(Ordering::Relaxed), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        let next = server.known(&tokens).await.unwrap();
        assert!(next != answers[0]);
        assert_eq!(server.0.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_was_rejected_is_replaced_once_for_all() {
        let (tokens, server) = (Tokens::default(), Server::default());
        let old = server.answer(&tokens, None).await;
        let wait = (0..8).map(|_| server.answer(&tokens, Some(&old)));
        let answers = futures::future::join_all(wait).await;
        assert!(
            answers
                .iter()
                .all(|token| *token == answers[0] && *token != old)
        );
        assert_eq!(server.0.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_renewal_leaves_no_token_behind() {
        let (tokens, server) = (Tokens::default(), Server::default());
        server.answer(&tokens, None).await;
        tokio::time::advance(Duration::from_secs(300)).await;
        let failing = async |_, _| Err(UpstreamError::Timeout { what: "answer" });
        assert!(tokens.known(&key(0), failing).await.is_none());
        assert!(server.known(&tokens).await.is_none());
    }

    #[tokio::test]
    async fn the_table_is_bounded() {
        let (tokens, server) = (Tokens::default(), Server::default());
        for number in 0..=TOKENS_MAX {
            let fetch = |_, _| server.fetch();
            let key = key(number);
            let answer = tokens.answer(&key, challenge(), Reach::Public, None, fetch);
            answer.await.unwrap();
            assert!(tokens.slots().len() <= TOKENS_MAX);
        }
    }
}
