//! What a token is asked for with: read from a request's query, form and headers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{Method, header};

use super::Access;

/// What is asked for a token with, by either method.
pub(super) struct Question {
    /// The fields of the query or the form, in their order.
    fields: Vec<(String, String)>,
    pub(super) credentials: Credentials,
}

/// Who says that he asks.
pub(super) enum Credentials {
    None,
    /// A name and a password.
    Password(String, String),
    /// A refresh token.
    Refresh(String),
    /// Not what the specification knows.
    Malformed,
}

impl Question {
    pub(super) fn read(head: &Parts, body: &[u8]) -> Option<Self> {
        let text = match head.method {
            Method::GET => head.uri.query().unwrap_or_default().as_bytes(),
            Method::POST => body,
            _ => return None,
        };
        let fields: Vec<_> = form_urlencoded::parse(text).into_owned().collect();
        let mut question = Self {
            fields,
            credentials: Credentials::None,
        };
        question.credentials = if head.method == Method::POST {
            question.credentials_of_form()
        } else {
            credentials_of_header(head)
        };
        Some(question)
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        let found = fields.find(|(candidate, _)| candidate == name);
        found.map(|(_, value)| value.as_str())
    }

    /// (distribution, "Docker Registry v2 authentication using OAuth2")
    fn credentials_of_form(&self) -> Credentials {
        let field = |name| self.field(name).map(str::to_owned);
        if self.field("client_id").is_none() {
            return Credentials::Malformed;
        }
        match self.field("grant_type") {
            Some("password") => match (field("username"), field("password")) {
                (Some(username), Some(password)) => Credentials::Password(username, password),
                _ => Credentials::Malformed,
            },
            Some("refresh_token") => {
                field("refresh_token").map_or(Credentials::Malformed, Credentials::Refresh)
            }
            _ => Credentials::Malformed,
        }
    }

    /// The one repository that is asked for; an error where there are several.
    pub(super) fn access(&self) -> Result<Option<Access>, ()> {
        let scopes = self.fields.iter().filter(|(name, _)| name == "scope");
        let mut scopes = scopes.flat_map(|(_, scopes)| scopes.split_whitespace());
        let Some(scope) = scopes.next() else {
            return Ok(None);
        };
        let access = Access::parse(scope).ok_or(())?;
        if scopes.next().is_some() {
            return Err(());
        }
        Ok(Some(access))
    }
}

fn credentials_of_header(head: &Parts) -> Credentials {
    let Some(value) = head.headers.get(header::AUTHORIZATION) else {
        return Credentials::None;
    };
    let read = || {
        let encoded = value.to_str().ok()?.strip_prefix("Basic ")?;
        let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
        let (username, password) = decoded.split_once(':')?;
        Some(Credentials::Password(
            username.to_owned(),
            password.to_owned(),
        ))
    };
    read().unwrap_or(Credentials::Malformed)
}
