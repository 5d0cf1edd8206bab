//! Challenges of registries (RFC 9110, section 11; distribution, "Token Authentication
//! Specification"): which of them is answered, and what it asks for.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use http_auth::parser::ChallengeParser;
use registry_core::Repository;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::config::{CHALLENGE_LINE_BYTES_MAX, CHALLENGE_STARTS_MAX, SCOPE_BYTES_MAX, SCOPES_MAX};

/// Who we say we are to token servers.
const CLIENT_ID: &str = "registry-server";

/// What a registry wants to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token of a token server.
    Bearer(Bearer),
    /// A user name and a password.
    Basic,
}

/// Where to get a token, for which service, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bearer {
    pub(super) realm: Url,
    service: Option<String>,
    /// To pull from the repository at hand, first; then what the registry wants besides.
    scopes: Vec<String>,
}

impl Challenge {
    /// The challenge to answer among those of a 401, which may stand on one line or on many: one
    /// for a token before one for a password, as a token is good for less.
    pub(super) fn find(headers: &HeaderMap, repository: &Repository) -> Option<Self> {
        let mut basic = None;
        let lines = headers.get_all(WWW_AUTHENTICATE).iter();
        let lines = lines
            .filter_map(|line| line.to_str().ok())
            .filter(|line| line.len() <= CHALLENGE_LINE_BYTES_MAX);
        for start in lines.flat_map(starts).take(CHALLENGE_STARTS_MAX) {
            match Self::parse(start, repository) {
                Some(Self::Bearer(bearer)) => return Some(Self::Bearer(bearer)),
                Some(Self::Basic) => basic = Some(Self::Basic),
                None => {}
            }
        }
        basic
    }

    /// The challenge that a text begins with.
    fn parse(text: &str, repository: &Repository) -> Option<Self> {
        // The parser takes one space there, and RFC 9110 any number of them.
        let (scheme, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
        let text = format!("{scheme} {}", rest.trim_start());
        let challenge = ChallengeParser::new(text.trim_end()).next()?.ok()?;
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !challenge.scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameter = |name: &str| {
            let mut parameters = challenge.params.iter();
            let found = parameters.find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        Some(Self::Bearer(Bearer {
            realm: Url::parse(&parameter("realm")?).ok()?,
            service: parameter("service").filter(|service| !service.is_empty()),
            scopes: scopes(&parameter("scope").unwrap_or_default(), repository),
        }))
    }
}

/// Where on a line a challenge may begin: at its start, and after each comma that is not within
/// quotes. Read from each of these, a line of which the parser cannot make sense (`token68`, or
/// garbage) still tells what stands beside that.
fn starts(line: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let commas = line.bytes().enumerate().filter_map(move |(index, byte)| {
        let is_separator = byte == b',' && !quoted;
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
        is_separator.then_some(index + 1)
    });
    let starts = std::iter::once(0).chain(commas);
    starts.map(|start| line[start..].trim_start_matches([' ', '\t']))
}

/// What a token is asked for: to pull from one repository, whatever else the registry's challenge
/// names (some name placeholders, or pushing).
///
/// The repository is called as the registry calls it, where that is our name behind a prefix of
/// its own: one behind a path knows its repositories by longer names. Scopes that are of no
/// type (`aws`, of public.ecr.aws) are asked for besides.
fn scopes(challenged: &str, repository: &Repository) -> Vec<String> {
    let ours = repository.as_str();
    let mut name = ours;
    let mut others = Vec::new();
    for scope in challenged.split_ascii_whitespace() {
        if scope.len() > SCOPE_BYTES_MAX {
            continue;
        }
        match scope.split_once(':') {
            None if others.len() < SCOPES_MAX => others.push(scope.to_owned()),
            Some(("repository", rest)) => {
                let theirs = rest.rsplit_once(':').map_or(rest, |(name, _)| name);
                let prefix = theirs.strip_suffix(ours);
                if prefix.is_some_and(|prefix| prefix.ends_with('/')) {
                    name = theirs;
                }
            }
            _ => {}
        }
    }
    let mut scopes = vec![format!("repository:{name}:pull")];
    scopes.append(&mut others);
    scopes
}

impl Bearer {
    /// The URL that a token is got from by GET.
    pub(super) fn url(&self) -> Url {
        let mut url = self.post_url();
        let mut query = url.query_pairs_mut();
        query.extend_pairs(self.service.iter().map(|service| ("service", service)));
        query.extend_pairs(self.scopes.iter().map(|scope| ("scope", scope)));
        drop(query);
        url
    }

    /// The URL that a token is got from by POST.
    pub(super) fn post_url(&self) -> Url {
        let mut url = self.realm.clone();
        url.set_fragment(None);
        url
    }

    /// The form that is posted there (distribution, "OAuth2 Token Authentication").
    pub(super) fn form(&self, grant: &Grant<'_>) -> Zeroizing<String> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        match grant {
            Grant::Password { username, password } => form
                .append_pair("grant_type", "password")
                .append_pair("username", username)
                .append_pair("password", password.expose_secret()),
            Grant::RefreshToken(token) => form
                .append_pair("grant_type", "refresh_token")
                .append_pair("refresh_token", token.expose_secret()),
        };
        // A server has to be told a service; one that names none takes any.
        form.append_pair("service", self.service.as_deref().unwrap_or_default())
            .append_pair("client_id", CLIENT_ID)
            .append_pair("scope", &self.scopes.join(" "));
        Zeroizing::new(form.finish())
    }
}

/// What a token is posted for.
pub(super) enum Grant<'a> {
    /// A user name and a password.
    Password {
        username: &'a str,
        password: &'a SecretString,
    },
    /// An identity token, as docker calls it.
    RefreshToken(&'a SecretString),
}

#[cfg(test)]
mod tests;
