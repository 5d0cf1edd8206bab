//! Who may use the admin API: whoever shows its token; without one, who is on this machine. And no
//! page that a browser shows, whoever sits before it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use http::header::{AUTHORIZATION, FORWARDED, HOST, HeaderName, ORIGIN, VIA};
use http::request::Parts;
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{error, warn};

use super::limits;
use super::problem::Refusal;
use crate::ReloadHandle;
use crate::config::AdminToken;
use crate::upstream::WatchedFile;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What proxies add: whoever comes through one is not who is at the other end of the connection.
const OF_PROXIES: [HeaderName; 3] = [FORWARDED, VIA, HeaderName::from_static("x-real-ip")];
/// What else they add begins so: `X-Forwarded-For`, `-Host`, `-Proto`, ….
const OF_PROXIES_BEGINS: &str = "x-forwarded-";

/// Decides who may use the API.
pub(super) struct Guard {
    current: Mutex<Current>,
    /// Where another token may come from while this one is in use.
    configuration: Option<ReloadHandle>,
    refused: Mutex<Refused>,
}

/// The token in use.
struct Current {
    token: Arc<Token>,
    /// What the configuration said of it when it was taken from there.
    configured: Option<AdminToken>,
}

/// The token, or where it stands.
enum Token {
    None,
    Value(SecretString),
    File(WatchedFile<SecretString>),
}

impl Token {
    /// # Errors
    ///
    /// Why it cannot be used, without quoting it.
    fn read(token: &AdminToken) -> Result<Self, String> {
        Ok(match token {
            AdminToken::None => Self::None,
            AdminToken::Value(token) => {
                check(token.expose_secret())?;
                Self::Value(token.clone())
            }
            AdminToken::File(path) => {
                let file = WatchedFile::open(path, limits::TOKEN_FILE_BYTES_MAX, read);
                Self::File(file.map_err(|problem| format!("{} {problem}", path.display()))?)
            }
        })
    }
}

/// Whether a token can be used, as one has to be that a configuration names.
///
/// # Errors
///
/// Why not, without quoting it.
pub(crate) fn check_admin_token(token: &AdminToken) -> Result<(), String> {
    Token::read(token).map(drop)
}

fn configured(configuration: &ReloadHandle) -> AdminToken {
    configuration.config().admin_token.clone()
}

/// Who was refused since that was last logged.
#[derive(Default)]
struct Refused {
    count: u64,
    logged: Option<Instant>,
}

impl Guard {
    /// With `token`, until `configuration` names another.
    ///
    /// # Errors
    ///
    /// Why the token cannot be used, without quoting it.
    pub(super) fn new(
        token: &AdminToken,
        configuration: Option<ReloadHandle>,
    ) -> Result<Self, String> {
        let current = Current {
            token: Arc::new(Token::read(token)?),
            configured: configuration.as_ref().map(configured),
        };
        Ok(Self {
            current: Mutex::new(current),
            configuration,
            refused: Mutex::default(),
        })
    }

    /// Whether `client` may ask this.
    pub(super) async fn admit(&self, request: &Parts, client: SocketAddr) -> Result<(), Refusal> {
        let admitted = match is_page(request) {
            true => Err(Refusal::forbidden(
                "the admin API answers no page in a browser: ask it from a program",
            )),
            false => self.admit_program(request, client).await,
        };
        if admitted.is_err() {
            self.note(client);
        }
        admitted
    }

    async fn admit_program(&self, request: &Parts, client: SocketAddr) -> Result<(), Refusal> {
        let in_use = self.token().await;
        let current;
        let token = match &*in_use {
            Token::None => return admit_local(request, client),
            Token::Value(token) => token,
            Token::File(file) => {
                current = file.current(false).await;
                &*current
            }
        };
        let Some(shown) = request.headers.get(AUTHORIZATION) else {
            return Err(Refusal::unauthorized(false));
        };
        let shown = bearer(shown.as_bytes()).unwrap_or_default();
        let is_it = shown.ct_eq(token.expose_secret().as_bytes());
        if bool::from(is_it) {
            Ok(())
        } else {
            Err(Refusal::unauthorized(true))
        }
    }

    /// The token in use: since the last reload, the one that the configuration names.
    async fn token(&self) -> Arc<Token> {
        let wanted = self.configuration.as_ref().map(configured);
        let current = {
            let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            if current.configured == wanted {
                return Arc::clone(&current.token);
            }
            Arc::clone(&current.token)
        };
        let Some(wanted) = wanted else {
            return current;
        };
        let named = wanted.clone();
        let read = spawn_blocking(move || Token::read(&named)).await;
        match read.unwrap_or_else(|_| Err("cannot be looked at".to_owned())) {
            Ok(token) => {
                let token = Arc::new(token);
                let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
                *current = Current {
                    token: Arc::clone(&token),
                    configured: Some(wanted),
                };
                token
            }
            Err(problem) => {
                // It was right when it was read with the configuration: it will be again.
                error!(
                    problem,
                    "the new token of the admin API cannot be used: the old one is"
                );
                current
            }
        }
    }

    fn note(&self, client: SocketAddr) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.count += 1;
        let rest = limits::REFUSALS_REST;
        if refused.logged.is_none_or(|at| at.elapsed() >= rest) {
            refused.logged = Some(Instant::now());
            let count = std::mem::take(&mut refused.count);
            warn!(%client, count, "refused who may not use the admin API");
        }
    }
}

/// Whether a page asks, for all that can be told. Browsers send `Origin` with whatever can change
/// something, and most send `Sec-Fetch-Site` with everything; where somebody types the address,
/// that is `none`.
fn is_page(request: &Parts) -> bool {
    let site = request.headers.get(SEC_FETCH_SITE);
    request.headers.contains_key(ORIGIN) || site.is_some_and(|site| site != "none")
}

/// Without a token: whether a request is from this machine, and for it. A name that an attacker
/// makes point here (DNS rebinding) is neither an address nor `localhost`.
fn admit_local(request: &Parts, client: SocketAddr) -> Result<(), Refusal> {
    let of_proxy = |name: &HeaderName| {
        OF_PROXIES.contains(name) || name.as_str().starts_with(OF_PROXIES_BEGINS)
    };
    let is_forwarded = request.headers.keys().any(of_proxy);
    if !client.ip().to_canonical().is_loopback() || is_forwarded {
        return Err(Refusal::forbidden(
            "the admin API answers this machine only: set admin_token_file, and send what stands \
             in that file as Authorization: Bearer TOKEN",
        ));
    }
    let host = request.headers.get(HOST);
    let host = host.map_or(Some(""), |host| host.to_str().ok());
    let target = request.uri.host().unwrap_or("localhost");
    // HTTP/1.0 may leave Host out; no browser speaks that.
    let is_ours = host.is_some_and(|host| host.is_empty() || is_this_machine(host));
    if is_ours && is_this_machine(target) {
        return Ok(());
    }
    Err(Refusal::forbidden(
        "the admin API is asked by an address or as localhost, and by no other name: a page in a \
         browser might have made that up (with admin_token_file set, any name will do)",
    ))
}

/// Whether a host, with or without a port, can only be meant for whom it reached.
fn is_this_machine(host: &str) -> bool {
    if host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() {
        return true;
    }
    let bracketed = |host: &str| {
        let inner = host.strip_prefix('[')?.strip_suffix(']')?;
        inner.parse::<Ipv6Addr>().ok()
    };
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    bracketed(host).is_some() || name.eq_ignore_ascii_case("localhost")
}

/// What stands after `Bearer`.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked("Bearer ".len())?;
    let token = token.trim_ascii();
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// The token of a file.
fn read(bytes: &[u8]) -> Result<SecretString, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not text")?;
    let token = text.trim_end_matches(['\r', '\n']);
    check(token)?;
    Ok(token.into())
}

fn check(token: &str) -> Result<(), String> {
    if token.len() < limits::TOKEN_CHARS_MIN {
        return Err(format!(
            "holds a token that can be guessed: it needs {} characters at least (openssl rand \
             -hex 32 makes one)",
            limits::TOKEN_CHARS_MIN
        ));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(
            "holds a token with characters that no header can have: use letters and \
                    digits (openssl rand -hex 32 makes one)"
                .to_owned(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_this_machine() {
        for (host, is) in [
            ("127.0.0.1", true),
            ("127.0.0.1:5001", true),
            ("192.0.2.7:5001", true),
            ("[::1]:5001", true),
            ("[::1]", true),
            ("localhost", true),
            ("LocalHost:5001", true),
            ("localhost.evil.example", false),
            ("evil.example:5001", false),
            ("127.0.0.1.evil.example", false),
            ("mirror", false),
            ("[evil]", false),
            ("", false),
        ] {
            assert_eq!(is_this_machine(host), is, "{host}");
        }
    }

    #[test]
    fn a_token_stands_after_its_scheme() {
        for (header, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Basic abc", None),
            ("Bearer", None),
            ("Bearerabc", None),
            ("", None),
        ] {
            assert_eq!(
                bearer(header.as_bytes()),
                token.map(str::as_bytes),
                "{header}"
            );
        }
    }

    #[test]
    fn tokens_that_can_be_guessed_or_sent_by_no_header_are_refused() {
        for (bytes, says) in [
            (&b""[..], "16 characters"),
            (b"short\n", "16 characters"),
            (b"0123456789 abcdef", "no header"),
            (b"0123456789abcdef\n0123456789abcdef", "no header"),
            (b"\xff\xfe0123456789abcdef", "not text"),
        ] {
            let problem = read(bytes).map(drop).unwrap_err();
            assert!(problem.contains(says), "{problem}");
        }
        assert_eq!(
            read(b"0123456789abcdef\r\n").unwrap().expose_secret(),
            "0123456789abcdef"
        );
    }
}
