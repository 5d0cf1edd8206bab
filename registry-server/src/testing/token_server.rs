//! A token server: signs tokens that a real registry verifies (distribution, "Token Authentication
//! Specification"), and keeps account of who asked for what.

mod jwt;
mod question;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::tls::Socket;
use super::{ANY_PORT, FixtureTls, listen, lock};
use jwt::Signer;
use question::{Credentials, Question};

pub use jwt::Access;

/// Largest body of a request for a token, in bytes.
const FORM_BYTES_MAX: usize = 64 << 10;
/// How long tokens are valid unless a test wants otherwise, in seconds.
const LIFE_SECONDS: u64 = 300;
/// Where tokens are asked for.
const TOKEN_PATH: &str = "/token";
/// Begins the refresh tokens: an account's name follows.
const REFRESH_PREFIX: &str = "fixture-refresh-";

/// A token server in this process, on a free port of `127.0.0.1`. It serves until it is dropped.
///
/// It gives tokens for what an account may do, as real ones do: who asks for more gets a token for
/// less, and a registry that verifies it refuses. It takes credentials by GET (Basic) and by POST
/// (`grant_type=password` or `refresh_token`).
///
/// Every token is for one repository: a request with several scopes of repositories is refused, so
/// that a client that asks for more than it needs is found out.
#[derive(Debug)]
pub struct TokenServer {
    state: Arc<State>,
    _stop: DropGuard,
}

/// Who may pull what.
#[derive(Debug, Default)]
struct Account {
    password: String,
    /// Repositories, and what may be done there.
    grants: BTreeMap<String, BTreeSet<String>>,
}

struct State {
    address: SocketAddr,
    tls: Option<FixtureTls>,
    signer: Signer,
    rules: Mutex<Rules>,
    requests: Mutex<Vec<TokenRequest>>,
}

/// What a test can change while it serves.
#[derive(Debug)]
struct Rules {
    accounts: BTreeMap<String, Account>,
    anonymous: Account,
    life_seconds: u64,
    post_only: bool,
}

/// A request for a token, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// GET or POST.
    pub method: Method,
    /// The account whose credentials were right; none for nobody's.
    pub account: Option<String>,
    /// The repository and the actions that were asked for; none where none were.
    pub asked: Option<Access>,
    /// The actions among them that were granted.
    pub granted: Vec<String>,
    /// What it was answered with.
    pub status: u16,
    /// The token it was answered with.
    pub token: Option<String>,
}

impl TokenServer {
    /// The service that tokens are for: `service` of a registry's configuration.
    pub const SERVICE: &str = "fixture-registry";
    /// Who issues them: `issuer` of a registry's configuration.
    pub const ISSUER: &str = "fixture-token-server";

    /// Starts one that knows no account; over HTTPS where a certificate is given.
    ///
    /// # Panics
    ///
    /// Where there is no free port.
    pub async fn start(tls: Option<&FixtureTls>) -> Self {
        let listener = listen(ANY_PORT.into()).await;
        let state = Arc::new(State {
            address: listener.local_addr().expect("a listener has an address"),
            tls: tls.cloned(),
            signer: Signer::generate(),
            rules: Mutex::new(Rules {
                accounts: BTreeMap::new(),
                anonymous: Account::default(),
                life_seconds: LIFE_SECONDS,
                post_only: false,
            }),
            requests: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(accept(
            listener,
            Arc::clone(&state),
            stop.clone(),
            tasks.clone(),
        ));
        Self {
            state,
            _stop: stop.drop_guard(),
        }
    }

    /// `https://127.0.0.1:PORT/token`: `realm` of a registry's configuration.
    pub fn realm(&self) -> String {
        let scheme = if self.state.tls.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}{TOKEN_PATH}", self.state.address)
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.state.address.to_string()
    }

    /// The certificate that tokens are verified with, in PEM: what `rootcertbundle` of a
    /// registry's configuration names.
    pub fn root_cert_pem(&self) -> &str {
        self.state.signer.certificate_pem()
    }

    /// Lets an account do these things in a repository; its password is the last that was given.
    pub fn allow(&self, username: &str, password: &str, repository: &str, actions: &[&str]) {
        let mut rules = lock(&self.state.rules);
        let account = rules.accounts.entry(username.to_owned()).or_default();
        account.password = password.to_owned();
        account.grant(repository, actions);
    }

    /// Lets everybody do these things in a repository.
    pub fn allow_anonymous(&self, repository: &str, actions: &[&str]) {
        lock(&self.state.rules).anonymous.grant(repository, actions);
    }

    /// Forgets an account: whoever asks in its name is answered with 401 from now on. Tokens that
    /// it has are as good as before, as they are with real registries.
    pub fn revoke(&self, username: &str) {
        lock(&self.state.rules).accounts.remove(username);
    }

    /// The refresh token of an account, as its client would keep it.
    pub fn refresh_token(&self, username: &str) -> String {
        format!("{REFRESH_PREFIX}{username}")
    }

    /// Lets tokens from now on be valid for so many seconds.
    pub fn expire_in(&self, seconds: u64) {
        lock(&self.state.rules).life_seconds = seconds;
    }

    /// Answers GET by 405 from now on, as servers do that know OAuth2 only.
    pub fn refuse_get(&self) {
        lock(&self.state.rules).post_only = true;
    }

    /// The requests so far, in the order in which they were answered.
    pub fn requests(&self) -> Vec<TokenRequest> {
        lock(&self.state.requests).clone()
    }
}

impl Account {
    fn grant(&mut self, repository: &str, actions: &[&str]) {
        let granted = self.grants.entry(repository.to_owned()).or_default();
        granted.extend(actions.iter().copied().map(String::from));
    }

    fn may(&self, access: &Access, action: &str) -> bool {
        let granted = self.grants.get(&access.name);
        granted.is_some_and(|granted| granted.contains(action))
    }
}

async fn accept(
    listener: TcpListener,
    state: Arc<State>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        // An accept fails where the client was gone before it: the next one may succeed.
        let Ok((stream, _)) = accepted else { continue };
        let state = Arc::clone(&state);
        let stop = stop.clone();
        tasks.spawn(async move {
            let serving = async {
                let socket = match &state.tls {
                    Some(tls) => Socket::Tls(Box::new(tls.accept(stream).await.ok()?)),
                    None => Socket::Plain(stream),
                };
                let answer = service_fn(|request| answer(&state, request));
                let mut server = http1::Builder::new();
                let connection = server
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(socket), answer);
                connection.await.ok()
            };
            // How a connection ends is for the client to judge.
            let _ = stop.run_until_cancelled(serving).await;
        });
    }
}

async fn answer(
    state: &State,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let (head, body) = request.into_parts();
    let (status, document) = match Limited::new(body, FORM_BYTES_MAX).collect().await {
        Ok(body) => state.answer(&head, &body.to_bytes()),
        Err(_) => refusal(StatusCode::BAD_REQUEST, "the body cannot be read"),
    };
    let mut response = Response::new(Full::from(document.to_string()));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

fn refusal(status: StatusCode, message: &str) -> (StatusCode, Value) {
    let error = json!({"code": "UNAUTHORIZED", "message": message});
    (status, json!({ "errors": [error] }))
}

impl State {
    fn answer(&self, head: &Parts, body: &[u8]) -> (StatusCode, Value) {
        if head.uri.path() != TOKEN_PATH {
            return refusal(StatusCode::NOT_FOUND, "no such path");
        }
        let mut record = TokenRequest {
            method: head.method.clone(),
            account: None,
            asked: None,
            granted: Vec::new(),
            status: 0,
            token: None,
        };
        let refused = head.method == Method::GET && lock(&self.rules).post_only;
        let answer = match Question::read(head, body).filter(|_| !refused) {
            Some(question) => self.grant(&question, &mut record),
            None => refusal(StatusCode::METHOD_NOT_ALLOWED, "GET or POST"),
        };
        record.status = answer.0.as_u16();
        lock(&self.requests).push(record);
        answer
    }

    fn grant(&self, question: &Question, record: &mut TokenRequest) -> (StatusCode, Value) {
        let rules = lock(&self.rules);
        let named = match &question.credentials {
            Credentials::None => None,
            Credentials::Password(username, password) => {
                let account = rules.accounts.get_key_value(username);
                let right = account.filter(|(_, account)| account.password == *password);
                Some(right)
            }
            Credentials::Refresh(token) => {
                let username = token.strip_prefix(REFRESH_PREFIX).unwrap_or_default();
                Some(rules.accounts.get_key_value(username))
            }
            Credentials::Malformed => Some(None),
        };
        let account = match named {
            Some(None) => return refusal(StatusCode::UNAUTHORIZED, "wrong credentials"),
            Some(Some((username, account))) => {
                record.account = Some(username.clone());
                account
            }
            None => &rules.anonymous,
        };
        if question.field("service") != Some(TokenServer::SERVICE) {
            return refusal(StatusCode::BAD_REQUEST, "no such service");
        }
        let Ok(asked) = question.access() else {
            return refusal(StatusCode::BAD_REQUEST, "one repository at a time");
        };
        let granted = asked.clone().map(|access| {
            let actions = access.actions.iter();
            let actions = actions.filter(|action| account.may(&access, action));
            Access {
                actions: actions.cloned().collect(),
                ..access.clone()
            }
        });
        record.asked = asked;
        record.granted = granted.clone().map_or_else(Vec::new, |g| g.actions);
        let subject = record.account.as_deref().unwrap_or_default();
        let token = self.signer.sign(subject, granted, rules.life_seconds);
        record.token = Some(token.clone());
        (
            StatusCode::OK,
            answer_document(record, &token, rules.life_seconds),
        )
    }
}

/// By GET a `token`, and by POST an `access_token`: each as its specification has it.
fn answer_document(record: &TokenRequest, token: &str, life_seconds: u64) -> Value {
    let mut document = json!({"expires_in": life_seconds});
    if record.method == Method::POST {
        document["access_token"] = json!(token);
        let scope = record.asked.as_ref().map(ToString::to_string);
        document["scope"] = json!(scope.unwrap_or_default());
    } else {
        document["token"] = json!(token);
    }
    document
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
