//! What is known of one endpoint: its health, its limits, and what it has of HEAD.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use registry_core::{Clock as _, SystemClock, Timestamp, UpstreamError};
use tokio::time::Instant;
use url::Url;

use super::backoff::{BackoffKey, Backoffs, CredentialId, Pass};
use super::breaker::{Breaker, Sign, jitter};
use super::config::ProbeSchedule;
use super::head::HeadSupport;
use super::quota::{EndpointQuota, Quota, Quotas, Turn};
use super::redirect::host_of;

/// How one endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointState {
    /// Its host, with the port and path where it has any.
    pub endpoint: String,
    /// Whether it is asked, or rested and probed in the background.
    pub up: bool,
    /// Since when it is so, where that has changed since the start.
    pub since: Option<Timestamp>,
    /// The last failure, and when that was.
    pub last_error: Option<EndpointError>,
    /// How much it still grants, as far as it has told.
    pub quotas: Vec<EndpointQuota>,
}

/// A failure of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointError {
    /// When.
    pub at: Timestamp,
    /// What, in words for a person, without secrets.
    pub what: String,
}

/// What is known of one endpoint.
pub(super) struct Endpoint {
    name: String,
    pub(super) manifest_head: HeadSupport,
    pub(super) blob_head: HeadSupport,
    breaker: Mutex<Breaker>,
    backoffs: Backoffs<BackoffKey>,
    quotas: Mutex<Quotas>,
    last_error: Mutex<Option<EndpointError>>,
}

impl Endpoint {
    /// Nothing is known yet of the endpoint whose API is at `root`.
    pub(super) fn new(root: &Url) -> Self {
        let path = root.path().strip_suffix("/v2").unwrap_or(root.path());
        Self {
            name: host_of(root) + path,
            manifest_head: HeadSupport::default(),
            blob_head: HeadSupport::default(),
            breaker: Mutex::default(),
            backoffs: Backoffs::default(),
            quotas: Mutex::default(),
            last_error: Mutex::default(),
        }
    }

    /// Its host, with the port and path where it has any.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The reason not to ask it, if there is one.
    pub(super) fn resting(&self) -> Option<UpstreamError> {
        let (_, what) = self.rest()?;
        Some(UpstreamError::Unavailable { what, source: None })
    }

    /// How long it has not been asked, and the reason.
    pub(super) fn rest(&self) -> Option<(Duration, String)> {
        let breaker = lock(&self.breaker);
        let rest = breaker.rest()?;
        let elapsed = rest.since.elapsed();
        let what = format!(
            "{} failed {} s ago, and is probed but not asked until it is well: {}",
            self.name,
            elapsed.as_secs(),
            rest.why
        );
        Some((elapsed, what))
    }

    /// How it is.
    pub(super) fn state(&self) -> EndpointState {
        let now = SystemClock.now();
        let (rest, closed_at) = {
            let breaker = lock(&self.breaker);
            (breaker.rest().map(|rest| rest.since), breaker.closed_at())
        };
        let quotas = self.quotas().into_iter();
        EndpointState {
            endpoint: self.name.clone(),
            up: rest.is_none(),
            since: rest.or(closed_at).map(|since| now.before(since.elapsed())),
            last_error: lock(&self.last_error).clone(),
            quotas: quotas
                .map(|(credential, quota)| EndpointQuota {
                    endpoint: self.name.clone(),
                    credential,
                    quota,
                })
                .collect(),
        }
    }

    /// Takes note of a failure, for whoever wants to know.
    pub(super) fn failed(&self, error: &UpstreamError) {
        *lock(&self.last_error) = Some(EndpointError {
            at: SystemClock.now(),
            what: error.to_string(),
        });
    }

    /// How long a question had better wait that is asked now.
    pub(super) fn limit(&self, key: &BackoffKey) -> Option<Duration> {
        self.backoffs.wait(key)
    }

    /// Takes note of what became of a question asked at `begun`; whether the endpoint is to be
    /// probed from now on.
    pub(super) fn note(&self, sign: Sign, why: &str, begun: Instant) -> bool {
        lock(&self.breaker).note(sign, why, begun, Instant::now())
    }

    /// How long the next probe waits.
    pub(super) fn next_probe(&self, schedule: &ProbeSchedule) -> Duration {
        lock(&self.breaker).next_probe(schedule, jitter())
    }

    /// Takes note that it is to be asked again; for how long it was not.
    pub(super) fn close(&self) -> Option<Duration> {
        let since = lock(&self.breaker).close(Instant::now())?;
        Some(since.elapsed())
    }

    /// Whether a question may go out.
    ///
    /// # Errors
    ///
    /// [`UpstreamError::RateLimited`], with how long it had better wait.
    pub(super) fn leave(&self, key: BackoffKey) -> Result<Pass<'_, BackoffKey>, UpstreamError> {
        let leave = self.backoffs.leave(key);
        leave.map_err(|wait| UpstreamError::RateLimited {
            retry_after: Some(wait),
        })
    }

    /// Takes note of a quota.
    pub(super) fn note_quota(&self, credential: CredentialId, quota: Quota) -> Option<Turn> {
        lock(&self.quotas).note(credential, quota)
    }

    /// The last quotas, each with the name of the credentials it is granted to.
    pub(super) fn quotas(&self) -> Vec<(String, Quota)> {
        let quotas = lock(&self.quotas);
        let all = quotas.all();
        all.map(|(credential, quota)| (credential.to_string(), quota.clone()))
            .collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is half done in it when a thread panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
