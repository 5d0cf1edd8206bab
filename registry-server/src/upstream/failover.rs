//! One question to an upstream's endpoints, in order, until one answers it; and what each of them
//! is known by afterwards.

use std::sync::Arc;

use http::{Method, StatusCode};
use registry_core::{
    Answered, Asked, Clock as _, Condition, Digest, Repository, SystemClock, UpstreamError,
};
use tokio::time::{Duration, Instant};
use tracing::{debug, info, warn};

use super::backoff::{BackoffKey, Class, CredentialId, Pass};
use super::breaker::Sign;
use super::config::ENOUGH_TIME;
use super::endpoint::Endpoint;
use super::observer::RequestKind;
use super::quota::{Quota, Turn};
use super::reply::Reply;
use super::transport::{Question, Transport};

impl Transport {
    /// Asks one endpoint after the other by `attempt`, until it comes to something; none where
    /// there is no such thing.
    ///
    /// Every failure moves on, refusals (401, 403) included: an endpoint that does not let us in
    /// must not hide one that does. "Not found" is the answer, unless endpoints hold a part of what
    /// there is: then all must say so.
    ///
    /// # Errors
    ///
    /// Of several failures, the one that tells most ([`Failures`]).
    ///
    /// # Limits
    ///
    /// The budget for all of it ([`Budgets::total`](super::Budgets::total)). An endpoint that is
    /// rested costs nothing.
    pub(super) async fn ask<T, A>(
        self: &Arc<Self>,
        attempt: impl Fn(Visit) -> A,
    ) -> Result<Option<Answered<T>>, UpstreamError>
    where
        A: Future<Output = Result<Option<T>, UpstreamError>>,
    {
        self.ask_from(0, attempt).await
    }

    /// The same for bytes of a blob. Where its body broke off at one endpoint, the next is asked
    /// first, and that one last.
    pub(super) async fn ask_for_blob<T, A>(
        self: &Arc<Self>,
        digest: Digest,
        attempt: impl Fn(Visit) -> A,
    ) -> Result<Option<Answered<T>>, UpstreamError>
    where
        A: Future<Output = Result<Option<T>, UpstreamError>>,
    {
        let first = self.cuts.first_for(digest, self.endpoints.len());
        self.ask_from(first, attempt).await
    }

    async fn ask_from<T, A>(
        self: &Arc<Self>,
        first: usize,
        attempt: impl Fn(Visit) -> A,
    ) -> Result<Option<Answered<T>>, UpstreamError>
    where
        A: Future<Output = Result<Option<T>, UpstreamError>>,
    {
        let deadline = Instant::now() + self.budgets.total;
        let mut failures = Failures::default();
        let endpoints = self.endpoints.len();
        for number in (first..endpoints).chain(0..first) {
            let endpoint = &self.endpoints[number];
            if let Some(error) = endpoint.resting() {
                failures.add(error, Told::BeforeItWasAsked);
                continue;
            }
            if Instant::now() >= deadline {
                failures.add(UpstreamError::Timeout { what: "answer" }, Told::ByIt);
                break;
            }
            let transport = Arc::clone(self);
            let visit = Visit {
                transport,
                number,
                deadline,
            };
            match attempt(visit).await {
                Ok(Some(value)) => {
                    let endpoint = Some(endpoint.name().into());
                    return Ok(Some(Answered { value, endpoint }));
                }
                Ok(None) if self.next_on_not_found => {}
                Ok(None) => return Ok(None),
                Err(error) => {
                    debug!(upstream = %self.id, endpoint = endpoint.name(), %error, "no answer");
                    endpoint.failed(&error);
                    failures.add(error, Told::ByIt);
                }
            }
        }
        match failures.most_telling() {
            Some(error) => Err(error),
            None => Ok(None),
        }
    }
}

impl Transport {
    /// What a question would come to that is asked now: ready if one endpoint may be asked, and
    /// otherwise what [`Self::ask`] would tell.
    pub(super) fn condition(&self, repository: &Repository, asked: Asked) -> Condition {
        let mut condition = None;
        for (number, endpoint) in self.endpoints.iter().enumerate() {
            if let Some((elapsed, what)) = endpoint.rest() {
                condition = condition.or(Some(Condition::Resting { elapsed, what }));
                continue;
            }
            let class = match asked {
                Asked::Tag if endpoint.manifest_head.is_usable() => Class::ManifestHead,
                Asked::Tag | Asked::Manifest => Class::Manifest,
                Asked::Blob => Class::Blob,
            };
            let credential = self.auth.credential_id(number, repository);
            let Some(wait) = endpoint.limit(&BackoffKey { class, credential }) else {
                return Condition::Ready;
            };
            // As among `Failures`: a limit goes before a rest, and the shorter before the longer.
            let wait = match condition {
                Some(Condition::Limited { wait: known }) => wait.min(known),
                _ => wait,
            };
            condition = Some(Condition::Limited { wait });
        }
        condition.unwrap_or_default()
    }
}

/// How an endpoint's failure came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    ByIt,
    /// From an earlier question.
    BeforeItWasAsked,
}

/// The failures of several endpoints, of which one is told.
///
/// What may pass goes before what may not: as long as one endpoint could not be asked, nobody can
/// say that the others' refusal is all there is. Of what may pass, that which just happened goes
/// before what is remembered, and the shortest of the waits.
#[derive(Debug, Default)]
struct Failures(Option<(u8, UpstreamError)>);

impl Failures {
    fn add(&mut self, error: UpstreamError, told: Told) {
        let weight = match (&error, told) {
            (UpstreamError::Unavailable { .. }, Told::ByIt) => 7,
            (UpstreamError::Timeout { .. }, Told::ByIt) => 6,
            (UpstreamError::RateLimited { .. }, _) => 5,
            (_, Told::BeforeItWasAsked) => 4,
            (UpstreamError::Content(_), _) => 3,
            (UpstreamError::Unauthorized { .. }, _) => 1,
            _ => 2,
        };
        let is_more = match &self.0 {
            None => true,
            Some((known, kept)) => weight > *known || is_sooner(&error, kept),
        };
        if is_more {
            self.0 = Some((weight, error));
        }
    }

    fn most_telling(self) -> Option<UpstreamError> {
        self.0.map(|(_, error)| error)
    }
}

/// Whether both are limits, and the first ends sooner.
fn is_sooner(error: &UpstreamError, than: &UpstreamError) -> bool {
    match (error, than) {
        (
            UpstreamError::RateLimited { retry_after: wait },
            UpstreamError::RateLimited { retry_after: than },
        ) => wait < than,
        _ => false,
    }
}

/// One endpoint's turn to answer.
pub(super) struct Visit {
    transport: Arc<Transport>,
    number: usize,
    deadline: Instant,
}

impl Visit {
    /// What is known of the endpoint.
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.transport.endpoints[self.number]
    }

    /// Who takes note of how the body of a blob ends that comes from here.
    pub(super) fn watch(&self, digest: Digest) -> impl Fn(Option<&UpstreamError>) + Send + use<> {
        let (transport, number) = (Arc::clone(&self.transport), self.number);
        move |error| match error {
            None => transport.cuts.forget(digest),
            Some(UpstreamError::Unavailable { .. } | UpstreamError::Timeout { .. }) => {
                transport.cuts.note(digest, number);
            }
            // It came, and was wrong.
            Some(_) => {}
        }
    }

    /// How long the body of an answer may take that is read as a whole.
    pub(super) fn body_max(&self) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        left.min(self.transport.budgets.body_idle)
    }

    /// Asks the endpoint, and waits for the headers of its answer, whatever the status; but for
    /// 429, which is an error, and makes that the next questions of the kind are not asked for a
    /// while.
    pub(super) async fn ask(&self, question: &Question<'_>) -> Result<Reply, UpstreamError> {
        let transport = &self.transport;
        let credential = (transport.auth).credential_id(self.number, question.repository);
        let pass = self.endpoint().leave(question.backoff_key(credential))?;
        let begun = pass.begun;
        let deadline = self.deadline.min(begun + transport.budgets.headers);
        let asking = transport.ask_endpoint(self.number, question, deadline);
        let outcome = asking.await;
        let line = Line {
            transport: Arc::clone(transport),
            number: self.number,
            begun,
        };
        match outcome {
            Ok(reply) => self.answered(question, pass, reply.reporting(line.clone()), &line),
            Err(failure) => {
                let had = deadline.saturating_duration_since(begun);
                let had_its_time = had >= transport.budgets.headers.mul_f64(ENOUGH_TIME);
                if let Some(sign) = failure.sign(had_its_time) {
                    line.note(sign, Some(&failure.error));
                }
                Err(self.limited(pass, failure.error))
            }
        }
    }

    fn answered(
        &self,
        question: &Question<'_>,
        pass: Pass<'_, BackoffKey>,
        reply: Reply,
        line: &Line,
    ) -> Result<Reply, UpstreamError> {
        let status = reply.status();
        debug!(
            upstream = %self.transport.id,
            host = reply.host(),
            method = %question.method,
            repository = %question.repository,
            path = question.path,
            status = status.as_u16(),
            elapsed = ?line.begun.elapsed(),
            "upstream answered"
        );
        if question.kind == RequestKind::Manifest && reply.is_trusted() {
            self.note_quota(pass.key.credential.clone(), &reply);
        }
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Err(self.limited(pass, reply.failure()));
        }
        pass.answered();
        // That something is not implemented is a registry's way, and no illness.
        let is_ill = status == StatusCode::REQUEST_TIMEOUT
            || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED);
        if is_ill && reply.is_trusted() {
            line.note(Sign::Ill, Some(&reply.failure()));
        } else if question.method == Method::HEAD || !status.is_success() || !reply.is_trusted() {
            // Of anything else, only the end of the body tells.
            line.note(Sign::Well, None);
        }
        Ok(reply)
    }

    /// Where `error` is a limit, leaves the endpoint alone for a while, and says for how long.
    fn limited(&self, pass: Pass<'_, BackoffKey>, error: UpstreamError) -> UpstreamError {
        let UpstreamError::RateLimited { retry_after } = error else {
            return error;
        };
        let wait = pass.refused(retry_after);
        warn!(
            upstream = %self.transport.id,
            endpoint = self.endpoint().name(),
            ?wait,
            "the endpoint limits requests (429): it is asked nothing of the kind for a while"
        );
        UpstreamError::RateLimited {
            retry_after: Some(wait),
        }
    }

    fn note_quota(&self, credential: CredentialId, reply: &Reply) {
        let Some(quota) = Quota::read(reply.headers(), SystemClock.now()) else {
            return;
        };
        let (id, endpoint) = (&self.transport.id, self.endpoint().name());
        let Quota {
            limit, remaining, ..
        } = quota;
        match self.endpoint().note_quota(credential, quota) {
            Some(Turn::RunsLow) => warn!(
                upstream = %id,
                endpoint,
                limit,
                remaining,
                "few pulls are left of what the registry grants"
            ),
            Some(Turn::Recovers) => info!(
                upstream = %id,
                endpoint,
                limit,
                remaining,
                "the registry grants pulls again"
            ),
            None => {}
        }
    }
}

/// Whoever reports what became of one question.
#[derive(Clone)]
pub(super) struct Line {
    transport: Arc<Transport>,
    number: usize,
    begun: Instant,
}

impl Line {
    /// Bytes of the body have come.
    pub(super) fn received(&self, bytes: u64) {
        if let Some(observer) = &self.transport.observer {
            observer.received(bytes);
        }
    }

    /// The body came to an end, whole or with an error.
    pub(super) fn ended(&self, error: Option<&UpstreamError>) {
        match error {
            None => self.note(Sign::Well, None),
            Some(UpstreamError::Unavailable { .. } | UpstreamError::Timeout { .. }) => {
                self.note(Sign::Ill, error);
            }
            // It came, and was wrong.
            Some(_) => {}
        }
    }

    fn note(&self, sign: Sign, error: Option<&UpstreamError>) {
        let why = error.map(ToString::to_string).unwrap_or_default();
        let endpoint = &self.transport.endpoints[self.number];
        if let Some(error) = error {
            endpoint.failed(error);
        }
        if endpoint.note(sign, &why, self.begun) {
            self.transport.rest(self.number, &why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(name: &str) -> UpstreamError {
        let limited = |seconds| UpstreamError::RateLimited {
            retry_after: Some(Duration::from_secs(seconds)),
        };
        match name {
            "limited" => limited(60),
            "limited shortly" => limited(5),
            "timeout" => UpstreamError::Timeout { what: "answer" },
            "unauthorized" => UpstreamError::Unauthorized { status: 403 },
            "protocol" => UpstreamError::Protocol {
                what: "is no registry".to_owned(),
            },
            what => UpstreamError::Unavailable {
                what: what.to_owned(),
                source: None,
            },
        }
    }

    #[test]
    fn the_most_telling_failure_is_told() {
        for (names, told) in [
            (&["unauthorized"][..], "unauthorized"),
            (&["unauthorized", "protocol"], "protocol"),
            (&["unauthorized", "resting"], "resting"),
            (&["protocol", "resting"], "resting"),
            (&["resting", "limited"], "limited"),
            (
                &["limited", "limited shortly", "limited"],
                "limited shortly",
            ),
            (&["limited", "timeout"], "timeout"),
            (&["timeout", "down"], "down"),
            (&["down", "also down"], "down"),
            (&["resting", "down", "unauthorized"], "down"),
        ] {
            let mut failures = Failures::default();
            for name in names {
                let told = match *name {
                    "resting" => Told::BeforeItWasAsked,
                    _ => Told::ByIt,
                };
                failures.add(error(name), told);
            }
            let kept = failures.most_telling().unwrap();
            assert_eq!(
                format!("{kept:?}"),
                format!("{:?}", error(told)),
                "{names:?}"
            );
        }
        assert!(Failures::default().most_telling().is_none());
    }
}
