//! Bearer tokens: one for each repository of an endpoint, fetched once for all who wait, and
//! renewed while it is still valid.
//!
//! This module knows how long tokens live and who waits for which; how one is fetched, and with
//! what credential, is `auth`'s and `token_server`'s matter.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use registry_core::{Repository, UpstreamError};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::Instant;

use super::address::Reach;
use super::authorization::Authorization;
use super::background::Background;
use super::challenge::Bearer;
use super::config::TOKENS_MAX;
use super::credentials::Credential;

/// How long a token lives whose server does not say, and the least it lives whatever it says
/// (distribution, "Token Authentication Specification").
const LIFE_MIN: Duration = Duration::from_secs(60);
/// The longest that a token is used: whoever says more has made a mistake.
const LIFE_MAX: Duration = Duration::from_secs(3600);
/// How long before its end a token is not used any more, for what is on its way.
const MARGIN: Duration = Duration::from_secs(10);
/// How long before its end a token that is used is renewed, while it goes on being used.
const RENEWED_AHEAD: Duration = Duration::from_secs(30);
/// How long that is not tried again where it failed: a token server in trouble is not asked once a
/// question.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);

/// A token and how long it is valid, as a token server answered.
pub(super) struct Issued {
    token: Authorization,
    life: Duration,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    token: Option<SecretString>,
    #[serde(default)]
    access_token: Option<SecretString>,
    #[serde(default)]
    expires_in: Option<f64>,
}

impl Issued {
    /// Reads a token server's answer; none where it is not one.
    pub(super) fn parse(body: &Bytes) -> Option<Self> {
        let document: Document = serde_json::from_slice(body).ok()?;
        let given = [document.token, document.access_token];
        let mut given = given.iter().flatten().map(|token| token.expose_secret());
        let token = Authorization::bearer(given.find(|text| !text.is_empty())?)?;
        let life = document
            .expires_in
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Some(Self {
            token,
            life: life.unwrap_or_default().clamp(LIFE_MIN, LIFE_MAX),
        })
    }
}

/// What a token is asked for with.
#[derive(Clone, PartialEq)]
pub(super) struct Asked {
    pub(super) bearer: Bearer,
    /// How far the endpoint that sends us there may lead.
    pub(super) reach: Reach,
    /// None: anonymously.
    pub(super) credential: Option<Credential>,
}

/// A token, and what it was asked for with.
#[derive(Clone)]
pub(super) struct Granted {
    pub(super) token: Authorization,
    pub(super) asked: Asked,
    expires: Instant,
}

impl Granted {
    fn left(&self) -> Duration {
        self.expires.saturating_duration_since(Instant::now())
    }
}

/// What a token is fetched by: once, and maybe after whoever began it has left.
pub(super) type Fetching = BoxFuture<'static, Result<(Asked, Issued), UpstreamError>>;

/// The token of one repository.
#[derive(Default)]
struct Slot {
    granted: Mutex<Option<Granted>>,
    /// Held while a token is fetched, so that all others wait for it.
    flight: Arc<AsyncMutex<Flight>>,
}

#[derive(Default)]
struct Flight {
    /// How the last one failed, and when. Who waited for it gets the same, and who comes later asks
    /// again: what is wrong may have been put right.
    failed: Option<(Asked, Instant, UpstreamError)>,
    /// When a renewal ahead of the end last failed.
    renewal_failed: Option<Instant>,
}

impl Flight {
    fn may_renew_ahead(&self) -> bool {
        (self.renewal_failed).is_none_or(|at| at.elapsed() >= RENEWAL_PAUSE)
    }
}

impl Slot {
    /// The token, where it is valid still.
    fn fresh(&self) -> Option<Granted> {
        let granted = self.lock();
        granted.clone().filter(|granted| granted.left() > MARGIN)
    }

    fn set(&self, granted: Option<Granted>) {
        *self.lock() = granted;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Granted>> {
        // Nothing is half done in it when a thread panics.
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self, fetching: Fetching) -> Result<Granted, UpstreamError> {
        let (asked, issued) = fetching.await?;
        let granted = Granted {
            token: issued.token,
            asked,
            expires: Instant::now() + issued.life,
        };
        self.set(Some(granted.clone()));
        Ok(granted)
    }
}

/// What tokens are kept by: the number of the endpoint, and the repository.
pub(super) type Key = (usize, Repository);

/// The tokens of an upstream.
#[derive(Default)]
pub(super) struct Tokens {
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    background: Background,
}

impl Tokens {
    /// The token to ask with, where this repository has asked for one before. One that is about
    /// to end is renewed while it goes on being used; one that has ended is fetched anew.
    ///
    /// # Errors
    ///
    /// Why no other could be fetched for one that has ended. It is forgotten then.
    ///
    /// # Cancellation
    ///
    /// Whoever waits fetches it in its place.
    pub(super) async fn known(
        &self,
        key: &Key,
        renew: impl FnOnce(Asked) -> Fetching,
    ) -> Result<Option<Granted>, UpstreamError> {
        let slot = self.slots().get(key).map(Arc::clone);
        let Some(slot) = slot else { return Ok(None) };
        if let Some(granted) = slot.fresh() {
            if granted.left() <= RENEWED_AHEAD
                && let Ok(turn) = Arc::clone(&slot.flight).try_lock_owned()
                && turn.may_renew_ahead()
            {
                let fetching = renew(granted.asked.clone());
                self.background.spawn(renew_ahead(slot, turn, fetching));
            }
            return Ok(Some(granted));
        }
        let _turn = slot.flight.lock().await;
        if let Some(granted) = slot.fresh() {
            return Ok(Some(granted));
        }
        // Taken out before the wait: what is dropped half way, or fails, leaves nothing behind.
        let Some(ended) = slot.lock().take() else {
            return Ok(None);
        };
        slot.fetch(renew(ended.asked)).await.map(Some)
    }

    /// The token that answers a challenge; another than `rejected`, which was just refused.
    ///
    /// # Errors
    ///
    /// Why none could be fetched: the same for all who waited for it.
    ///
    /// # Cancellation
    ///
    /// As [`Self::known`].
    pub(super) async fn answer(
        &self,
        key: &Key,
        asked: Asked,
        rejected: Option<&Authorization>,
        fetch: impl FnOnce(Asked) -> Fetching,
    ) -> Result<Granted, UpstreamError> {
        let slot = self.slot(key);
        let since = Instant::now();
        let mut turn = slot.flight.lock().await;
        if let Some(granted) = slot.fresh()
            && granted.asked == asked
            && Some(&granted.token) != rejected
        {
            return Ok(granted);
        }
        if let Some((failed, at, error)) = &turn.failed
            && *failed == asked
            && *at > since
        {
            return Err(error.clone());
        }
        slot.set(None);
        let fetched = slot.fetch(fetch(asked.clone())).await;
        let failed = fetched.as_ref().err().cloned();
        turn.failed = failed.map(|error| (asked, Instant::now(), error));
        fetched
    }

    fn slot(&self, key: &Key) -> Arc<Slot> {
        let mut slots = self.slots();
        if slots.len() >= TOKENS_MAX && !slots.contains_key(key) {
            // Cheaper than an order to keep: each costs one request to get back.
            slots.clear();
        }
        Arc::clone(slots.entry(key.clone()).or_default())
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Key, Arc<Slot>>> {
        // Nothing is half done in it when a thread panics.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces a token that is still valid; where that fails, it is left as it is.
async fn renew_ahead(slot: Arc<Slot>, mut turn: OwnedMutexGuard<Flight>, fetching: Fetching) {
    if let Err(error) = slot.fetch(fetching).await {
        tracing::debug!(%error, "a token could not be renewed ahead of its end");
        turn.renewal_failed = Some(Instant::now());
    }
    drop(turn);
}

#[cfg(test)]
mod tests;
