//! Asking one endpoint with what it wants to be shown: its challenge, and our answer to it.
//!
//! A question costs at most [`ANSWERS_MAX`] requests more than it would where nothing has to be
//! shown, and what the token server is asked in between. What is shown, and to whom:
//!
//! - nothing, before the endpoint has asked for it;
//! - to an endpoint, a password, where it asks for that, or a token;
//! - to a token server that belongs to the endpoint, a credential that is for the endpoint;
//! - nothing to anybody else: a challenge of whom the endpoint redirects to is not answered.
//!
//! Nothing that was refused is remembered: once it is put right, the next question succeeds.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::StatusCode;
use registry_core::{Repository, UpstreamError, UpstreamId};
use secrecy::ExposeSecret as _;
use tokio::time::{Instant, timeout_at};
use tracing::warn;
use url::Url;

use super::address::Reach;
use super::authorization::Authorization;
use super::backoff::CredentialId;
use super::challenge::Challenge;
use super::clients::Clients;
use super::config::{HttpUpstreamConfig, HttpUpstreamConfigError};
use super::credentials::{Account, Credential, Credentials};
use super::failure::SendFailure;
use super::redirect::host_of;
use super::reply::Reply;
use super::token::{Asked, Tokens};
use super::token_server::TokenServers;
use super::transport::{Answered, Question, Transport};

/// How often a question is asked again because what was shown with it is not enough: once to answer
/// a challenge, and once with a credential that has changed meanwhile.
const ANSWERS_MAX: usize = 2;

/// What an upstream's endpoints are shown.
pub(super) struct Authenticator {
    credentials: Credentials,
    token_servers: TokenServers,
    tokens: Tokens,
    /// How an endpoint took an account's credential as it is, by their numbers: so that it is
    /// shown at once the next time. There are no more of them than are configured.
    direct: Mutex<HashMap<(usize, usize), Way>>,
    /// Which accounts got nowhere with an endpoint when they last tried: that is said once, and not
    /// for each pull.
    refused: Mutex<HashSet<(usize, usize)>>,
}

/// How a credential is shown to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By a token of the token server.
    Token,
    /// By a token that is the credential.
    RegistryToken,
    /// By user name and password.
    Basic,
}

/// What an endpoint is shown.
#[derive(Clone)]
struct Shown {
    authorization: Authorization,
    way: Way,
    /// What it was made of, or got with.
    credential: Option<Credential>,
}

impl Shown {
    /// A credential as it is; none where it cannot be shown so.
    fn direct(credential: &Credential, way: Way) -> Option<Self> {
        let authorization = match (credential, way) {
            (Credential::Password { username, password }, Way::Basic) => {
                Authorization::basic(username, password)
            }
            (Credential::RegistryToken(token), Way::RegistryToken) => {
                Authorization::bearer(token.expose_secret())?
            }
            _ => return None,
        };
        Some(Self {
            authorization,
            way,
            credential: Some(credential.clone()),
        })
    }

    /// Whether a challenge asks again for what this is.
    fn is_refused_by(&self, challenge: &Challenge) -> bool {
        match challenge {
            Challenge::Basic => self.way == Way::Basic,
            Challenge::Bearer(_) => self.way != Way::Basic,
        }
    }
}

/// One endpoint, as it is asked one question.
struct Asking<'a> {
    endpoint: usize,
    root: &'a Url,
    repository: &'a Repository,
    account: Option<Account>,
    /// Whether the credential was renewed for this question already.
    renewed: bool,
    deadline: Instant,
}

impl Asking<'_> {
    fn key(&self) -> (usize, Repository) {
        (self.endpoint, self.repository.clone())
    }

    /// The credential that there is.
    async fn credential(&self) -> Result<Option<Credential>, SendFailure> {
        match &self.account {
            Some(account) => self.of_source(account, None).await,
            None => Ok(None),
        }
    }

    /// What the source of an account's credentials has, in time. That it takes too long is a
    /// failure of ours as any of its is, and none of the endpoint's.
    async fn of_source(
        &self,
        account: &Account,
        refused: Option<&Credential>,
    ) -> Result<Option<Credential>, SendFailure> {
        let looking = timeout_at(self.deadline, account.credential(refused)).await;
        let what = "have its credentials at hand";
        looking
            .unwrap_or(Err(UpstreamError::Timeout { what }))
            .map_err(ours)
    }

    /// Another credential than the one that was refused; none where there is none, or was another
    /// one already.
    async fn renewed(
        &mut self,
        refused: Option<&Credential>,
    ) -> Result<Option<Credential>, SendFailure> {
        let Some(account) = &self.account else {
            return Ok(None);
        };
        if self.renewed || !account.is_renewable() {
            return Ok(None);
        }
        self.renewed = true;
        let credential = self.of_source(account, refused).await?;
        Ok(credential.filter(|credential| Some(credential) != refused))
    }
}

impl Transport {
    /// Asks one endpoint; showing it what it wants to be shown, where we have that.
    pub(super) async fn ask_endpoint(
        &self,
        endpoint: usize,
        question: &Question<'_>,
        deadline: Instant,
    ) -> Result<Reply, SendFailure> {
        let mut asking = Asking {
            endpoint,
            root: &self.roots[endpoint],
            repository: question.repository,
            account: (self.auth.credentials).account(endpoint, question.repository),
            renewed: false,
            deadline,
        };
        let mut shown = self.auth.known(&asking).await?;
        let mut answers = 0;
        loop {
            let authorization = shown.as_ref().map(|shown| &shown.authorization);
            let Answered { reply, reach } = self
                .follow(asking.root, question, authorization, deadline)
                .await?;
            let next = if answers == ANSWERS_MAX {
                None
            } else {
                let next = (self.auth).next(&mut asking, &reply, reach, shown.as_ref(), answers);
                let next = next.await;
                if let Err(failure) = &next
                    && let UpstreamError::Unauthorized { status } = failure.error
                {
                    self.auth.refused(&self.id, &asking, status, true);
                }
                next?
            };
            let Some(next) = next else {
                self.auth.judge(&self.id, &asking, &reply, shown.as_ref());
                return Ok(reply);
            };
            reply.drain().await;
            shown = Some(next);
            answers += 1;
        }
    }
}

impl Authenticator {
    pub(super) fn new(
        config: &HttpUpstreamConfig,
        clients: Arc<Clients>,
    ) -> Result<Self, HttpUpstreamConfigError> {
        let budgets = config.budgets.clone();
        Ok(Self {
            credentials: Credentials::new(config)?,
            token_servers: TokenServers::new(clients, &config.realms, budgets),
            tokens: Tokens::default(),
            direct: Mutex::default(),
            refused: Mutex::default(),
        })
    }

    /// Whose credentials an endpoint is asked about a repository with, if it wants any.
    pub(super) fn credential_id(&self, endpoint: usize, repository: &Repository) -> CredentialId {
        match self.credentials.account(endpoint, repository) {
            Some(account) => CredentialId::named(account.name),
            None => CredentialId::ANONYMOUS,
        }
    }

    /// What to show at once: what the endpoint has taken before.
    async fn known(&self, asking: &Asking<'_>) -> Result<Option<Shown>, SendFailure> {
        if let Some(account) = &asking.account {
            let way = self
                .direct()
                .get(&(asking.endpoint, account.number))
                .copied();
            if let Some(way) = way {
                let credential = asking.of_source(account, None).await?;
                return Ok(credential.and_then(|credential| Shown::direct(&credential, way)));
            }
        }
        let renew = |asked| {
            let account = asking.account.clone();
            self.token_servers.renew(asking.root, account, asked)
        };
        let key = asking.key();
        let known = self.tokens.known(&key, renew);
        match in_time(asking.deadline, known).await {
            Ok(granted) => Ok(granted.map(|granted| Shown {
                authorization: granted.token,
                way: Way::Token,
                credential: granted.asked.credential,
            })),
            // The endpoint is asked what it wants, as if for the first time.
            Err(UpstreamError::Unauthorized { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What to show next, after this reply; none where it is the answer.
    async fn next(
        &self,
        asking: &mut Asking<'_>,
        reply: &Reply,
        reach: Reach,
        shown: Option<&Shown>,
        answers: usize,
    ) -> Result<Option<Shown>, SendFailure> {
        // A storage's challenge is none of ours.
        let status = reply.status();
        if !reply.is_trusted() || status != StatusCode::UNAUTHORIZED {
            let Some(shown) = shown.filter(|shown| shown.way != Way::Token) else {
                return Ok(None);
            };
            if reply.is_trusted() && status == StatusCode::FORBIDDEN {
                // As ECR refuses a password that has expired.
                let renewed = asking.renewed(shown.credential.as_ref()).await?;
                return Ok(renewed.and_then(|credential| Shown::direct(&credential, shown.way)));
            }
            self.note(asking, Some(shown.way));
            return Ok(None);
        }
        if shown.is_some_and(|shown| shown.way != Way::Token) {
            self.note(asking, None);
        }
        let Some(challenge) = Challenge::find(reply.headers(), asking.repository) else {
            return Ok(None);
        };
        let refused = shown.filter(|shown| {
            // A token may have ended; one that was just fetched has not.
            shown.is_refused_by(&challenge) && (answers > 0 || shown.way != Way::Token)
        });
        let credential = match refused {
            None => asking.credential().await?,
            Some(refused) => match asking.renewed(refused.credential.as_ref()).await? {
                Some(renewed) => Some(renewed),
                None => return Ok(None),
            },
        };
        self.answer(asking, &challenge, reach, credential, shown)
            .await
    }

    /// What answers a challenge; none where the credential is of no use for it.
    async fn answer(
        &self,
        asking: &mut Asking<'_>,
        challenge: &Challenge,
        reach: Reach,
        credential: Option<Credential>,
        rejected: Option<&Shown>,
    ) -> Result<Option<Shown>, SendFailure> {
        let bearer = match (challenge, &credential) {
            (Challenge::Basic, credential) => {
                let direct = |credential| Shown::direct(credential, Way::Basic);
                return Ok(credential.as_ref().and_then(direct));
            }
            (Challenge::Bearer(_), Some(credential @ Credential::RegistryToken(_))) => {
                return Ok(Shown::direct(credential, Way::RegistryToken));
            }
            (Challenge::Bearer(bearer), _) => bearer,
        };
        let rejected = rejected.map(|shown| &shown.authorization);
        let key = asking.key();
        let (root, deadline) = (asking.root, asking.deadline);
        let token = |credential| {
            let asked = Asked {
                bearer: bearer.clone(),
                reach,
                credential,
            };
            let fetch = |asked| self.token_servers.fetch(root, asked);
            in_time(deadline, self.tokens.answer(&key, asked, rejected, fetch))
        };
        let granted = match token(credential.clone()).await {
            Err(refusal @ UpstreamError::Unauthorized { .. }) => {
                match asking.renewed(credential.as_ref()).await? {
                    Some(renewed) => token(Some(renewed)).await?,
                    None => return Err(refusal.into()),
                }
            }
            outcome => outcome?,
        };
        Ok(Some(Shown {
            authorization: granted.token,
            way: Way::Token,
            credential: granted.asked.credential,
        }))
    }

    /// Says what the final answer to a question means for the account it was asked with.
    fn judge(&self, id: &UpstreamId, asking: &Asking<'_>, reply: &Reply, shown: Option<&Shown>) {
        if !reply.is_trusted() {
            return;
        }
        let shown = shown.filter(|shown| shown.credential.is_some());
        let is_refused = reply.status() == StatusCode::UNAUTHORIZED;
        match shown {
            // A token that was granted and opens nothing here: there may be no such repository.
            Some(shown) if is_refused && shown.way == Way::Token => {}
            _ if is_refused => {
                self.refused(id, asking, reply.status().as_u16(), shown.is_some());
            }
            Some(_) => self.taken(asking),
            None => {}
        }
    }

    /// Says that the account is of no use, unless that was said already. The configuration is to be
    /// corrected, and clients are only told that there is no such content.
    fn refused(&self, id: &UpstreamId, asking: &Asking<'_>, status: u16, was_shown: bool) {
        let Some(account) = &asking.account else {
            return;
        };
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if !refused.insert((asking.endpoint, account.number)) {
            return;
        }
        let endpoint = host_of(asking.root);
        let (account, repository) = (&account.name, asking.repository);
        if was_shown {
            warn!(
                upstream = %id, endpoint, account = &**account, %repository, status,
                "the credentials are refused: check that they are right and still valid, and that \
                 they open this repository"
            );
        } else {
            warn!(
                upstream = %id, endpoint, account = &**account, %repository, status,
                "the endpoint wants credentials, and where they are configured to come from there \
                 are none that it takes: check that there is an entry for this endpoint"
            );
        }
    }

    fn taken(&self, asking: &Asking<'_>) {
        if let Some(account) = &asking.account {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            refused.remove(&(asking.endpoint, account.number));
        }
    }

    /// Remembers how the endpoint took the account's credential, or that it did not.
    fn note(&self, asking: &Asking<'_>, way: Option<Way>) {
        let Some(account) = &asking.account else {
            return;
        };
        let key = (asking.endpoint, account.number);
        let mut direct = self.direct();
        match way {
            Some(way) => drop(direct.insert(key, way)),
            None => drop(direct.remove(&key)),
        }
    }

    fn direct(&self) -> MutexGuard<'_, HashMap<(usize, usize), Way>> {
        // Nothing is half done in it when a thread panics.
        self.direct.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for what may be another's work under way, and no longer than for one's own.
async fn in_time<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, UpstreamError>>,
) -> Result<T, UpstreamError> {
    let outcome = timeout_at(deadline, work).await;
    outcome.unwrap_or(Err(UpstreamError::Timeout { what: "answer" }))
}

/// A failure to come by a credential, which says nothing of the endpoint.
fn ours(error: UpstreamError) -> SendFailure {
    SendFailure {
        is_elsewhere: true,
        ..error.into()
    }
}
