//! Docker's credential helpers: programs called `docker-credential-…` that are given a server on
//! standard input and answer with a credential (github.com/docker/docker-credential-helpers).
//!
//! What they answer lives for hours at the best (ECR, GCR, ACR), so it is kept for minutes, and
//! renewed before that is over. What they say is never logged.

mod run;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use registry_core::UpstreamError;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::Instant;

use super::Credential;
use crate::upstream::background::Background;

/// How long an answer is used.
const KEPT_MAX: Duration = Duration::from_secs(5 * 60);
/// From what age on an answer that is used is renewed, while it goes on being used.
const RENEWED_AFTER: Duration = Duration::from_secs(4 * 60);
/// How long it is believed that there is no credential: somebody may just be about to log in.
const NONE_KEPT_MAX: Duration = Duration::from_secs(30);
/// How long an answer is used where the helper fails to give another: what they answer is valid
/// for an hour at the least.
const PLAUSIBLE_MAX: Duration = Duration::from_secs(3600);
/// How long a helper is left alone after it ran, whoever wants another answer.
const PAUSE: Duration = Duration::from_secs(5);
/// Servers that the answers for are kept.
const SERVERS_MAX: usize = 64;
/// Longest name of a helper, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// What stands after `docker-credential-` in a helper's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HelperName(Arc<str>);

impl HelperName {
    /// # Errors
    ///
    /// What to write instead.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(allowed) {
            return Err(format!(
                "{text:?} is not the name of a credential helper; write what stands after \
                 docker-credential- in the program's name, for example ecr-login"
            ));
        }
        Ok(Self(text.into()))
    }

    /// The program's name.
    pub(crate) fn program(&self) -> String {
        format!("docker-credential-{}", self.0)
    }
}

impl fmt::Display for HelperName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A helper, with what it answered.
pub(super) struct CredentialHelper {
    name: HelperName,
    /// The program, or its name to be looked up in `PATH`.
    program: Arc<Path>,
    servers: Mutex<HashMap<String, Arc<Server>>>,
    background: Background,
}

/// What a helper answered for one server.
#[derive(Default)]
struct Server {
    kept: Mutex<Kept>,
    /// Held while the helper runs.
    run: Arc<AsyncMutex<()>>,
}

#[derive(Clone, Default)]
struct Kept {
    /// The last answer, and when it came.
    answer: Option<(Option<Credential>, Instant)>,
    /// When the helper last ended, and how, where that was no answer.
    ended: Option<(Instant, Option<UpstreamError>)>,
}

impl Kept {
    /// The answer, where it is younger than `age_max`, and not `refused`.
    fn answer(&self, age_max: Duration, refused: Option<&Credential>) -> Option<Answered> {
        let (credential, since) = self.answer.clone()?;
        let age = since.elapsed();
        let age_max = match credential {
            Some(_) => age_max,
            None => age_max.min(NONE_KEPT_MAX),
        };
        let usable = age < age_max && (refused.is_none() || credential.as_ref() != refused);
        usable.then_some(Answered { credential, age })
    }

    /// What came of the helper when it last ran, where that is not long ago.
    fn recent(
        &self,
        refused: Option<&Credential>,
    ) -> Option<Result<Option<Credential>, UpstreamError>> {
        let (at, failure) = self.ended.as_ref()?;
        (at.elapsed() < PAUSE).then(|| self.outcome(failure.as_ref(), refused))
    }

    /// What is left to say where the helper has ended like this: in the place of a failure, an
    /// older answer that may still be good.
    fn outcome(
        &self,
        failure: Option<&UpstreamError>,
        refused: Option<&Credential>,
    ) -> Result<Option<Credential>, UpstreamError> {
        match failure {
            None => Ok(self.answer.clone().and_then(|(credential, _)| credential)),
            Some(failure) => match self.answer(PLAUSIBLE_MAX, refused) {
                Some(older) => Ok(older.credential),
                None => Err(failure.clone()),
            },
        }
    }
}

struct Answered {
    credential: Option<Credential>,
    age: Duration,
}

impl CredentialHelper {
    pub(super) fn new(name: HelperName, folder: Option<&Path>) -> Self {
        let program = name.program();
        let program =
            folder.map_or_else(|| PathBuf::from(&program), |folder| folder.join(&program));
        Self {
            name,
            program: program.into(),
            servers: Mutex::default(),
            background: Background::default(),
        }
    }

    /// As [`super::CredentialSource::credential`].
    pub(super) async fn credential(
        &self,
        server: &str,
        refused: Option<&Credential>,
    ) -> Result<Option<Credential>, UpstreamError> {
        let kept = self.server(server);
        if let Some(answered) = kept.lock().answer(KEPT_MAX, refused) {
            if answered.age >= RENEWED_AFTER
                && let Ok(turn) = Arc::clone(&kept.run).try_lock_owned()
            {
                let run = self.run(server, Arc::clone(&kept), turn);
                self.background.spawn(run);
            }
            return Ok(answered.credential);
        }
        let turn = Arc::clone(&kept.run).lock_owned().await;
        // Another may have run it meanwhile.
        if let Some(answered) = kept.lock().answer(KEPT_MAX, refused) {
            return Ok(answered.credential);
        }
        if let Some(recent) = kept.lock().recent(refused) {
            return recent;
        }
        self.run(server, Arc::clone(&kept), turn).await;
        let kept = kept.lock();
        let failure = kept
            .ended
            .as_ref()
            .and_then(|(_, failure)| failure.as_ref());
        kept.outcome(failure, refused)
    }

    /// Runs the helper, and keeps what it answers.
    fn run(
        &self,
        server: &str,
        kept: Arc<Server>,
        turn: OwnedMutexGuard<()>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (name, program) = (self.name.clone(), Arc::clone(&self.program));
        let server = server.to_owned();
        async move {
            let outcome = run::ask(&program, &server).await;
            let now = Instant::now();
            let mut kept = kept.lock();
            match outcome {
                Ok(credential) => {
                    kept.answer = Some((credential, now));
                    kept.ended = Some((now, None));
                }
                Err(problem) => {
                    let program = name.program();
                    tracing::warn!(program, server, problem, "a credential helper failed");
                    let error = UpstreamError::Unavailable {
                        what: format!("{program} {problem}"),
                        source: None,
                    };
                    kept.ended = Some((now, Some(error)));
                }
            }
            drop(kept);
            drop(turn);
        }
    }

    fn server(&self, server: &str) -> Arc<Server> {
        // Nothing is half done in it when a thread panics.
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if servers.len() >= SERVERS_MAX && !servers.contains_key(server) {
            servers.clear();
        }
        Arc::clone(servers.entry(server.to_owned()).or_default())
    }
}

impl Server {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
