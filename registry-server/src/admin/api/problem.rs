//! Why a request to the admin API is not done, and what to do about it.

use std::borrow::Cow;

use http::header::{ALLOW, CONNECTION, HeaderName, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use registry_core::CacheError;
use serde::Serialize;

use super::limits;
use crate::api::Problem;
use crate::front::{Answer, ApiError, Lasts, chain};

/// What is asked for when a token is missing or wrong (RFC 6750).
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"registry-server\"");
const CHALLENGE_AGAIN: HeaderValue =
    HeaderValue::from_static("Bearer realm=\"registry-server\", error=\"invalid_token\"");

/// Why a request is not done.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            headers: Vec::new(),
        }
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// What it asks makes no sense.
    pub(super) fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", message)
    }

    /// Its body is not what is taken here; the connection ends, since the body was not read.
    pub(super) fn body(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        let close = HeaderValue::from_static("close");
        Self::new(status, "invalid", message).with(CONNECTION, close)
    }

    /// Its body is what is taken here, and nothing comes of it.
    pub(super) fn unprocessable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message)
    }

    /// There is no room for what it brings.
    pub(super) fn full(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "unavailable", message)
    }

    /// The connection ends with it.
    pub(super) fn closing(self) -> Self {
        self.with(CONNECTION, HeaderValue::from_static("close"))
    }

    pub(super) fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// Nothing is asked for at such a path: by whoever knows another version of the API.
    pub(super) fn unknown_path() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown_path",
            "nothing is served at this path: GET /api/v1/openapi.yaml describes those that are",
        )
    }

    /// Whoever asks has shown no token, or a wrong one.
    pub(super) fn unauthorized(shown: bool) -> Self {
        let (challenge, message) = if shown {
            (CHALLENGE_AGAIN, "this is not the token of this mirror")
        } else {
            (
                CHALLENGE,
                "the admin API wants its token: send it as Authorization: Bearer TOKEN",
            )
        };
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
            .with(WWW_AUTHENTICATE, challenge)
    }

    /// Whoever asks may not, whatever is shown.
    pub(super) fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// It cannot be done as things are.
    pub(super) fn conflict(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// There is no room for it now.
    pub(super) fn busy(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
            .with(RETRY_AFTER, limits::RETRY_AFTER.as_secs().into())
    }

    /// What it needs is not there.
    pub(super) fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    /// The path does not take the method, but these.
    pub(super) fn method(allowed: &str) -> Self {
        let allow = HeaderValue::try_from(allowed).expect("names of methods are a header value");
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            format!("this path takes {allowed} only"),
        )
        .with(ALLOW, allow)
    }
}

impl From<&CacheError> for Refusal {
    fn from(error: &CacheError) -> Self {
        match error {
            CacheError::UnknownUpstream => Self::not_found(
                "no such upstream is configured: GET /api/v1/upstreams lists those that are",
            ),
            CacheError::Pinned { .. } | CacheError::TooManyPins { .. } => {
                Self::conflict(chain(error))
            }
            CacheError::NotFound | CacheError::NotFoundStale { .. } => {
                Self::not_found(chain(error))
            }
            CacheError::Overloaded => {
                Self::busy("too many downloads are under way: try again in a moment")
            }
            _ => Self::unavailable(chain(error)),
        }
    }
}

impl From<CacheError> for Refusal {
    fn from(error: CacheError) -> Self {
        Self::from(&error)
    }
}

impl From<ApiError> for Refusal {
    /// What every listener refuses.
    fn from(error: ApiError) -> Self {
        let code = if error.status.is_server_error() {
            "internal"
        } else {
            "invalid"
        };
        let refusal = Self::new(error.status, code, error.message);
        if error.closes {
            return refusal.with(CONNECTION, HeaderValue::from_static("close"));
        }
        refusal
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let problem = Problem {
            code: refusal.code.to_owned(),
            message: refusal.message.into_owned(),
        };
        let mut answer = document(refusal.status, &problem);
        answer.headers.extend(refusal.headers);
        answer
    }
}

/// An answer with a document.
pub(super) fn document(status: StatusCode, document: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(document).expect("a document of the API is always JSON");
    let mut answer = Answer::json(body).lasting(Lasts::Never);
    answer.status = status;
    answer
}

/// An answer with a document that will be found at `location` as well.
pub(super) fn document_at(status: StatusCode, location: &str, content: &impl Serialize) -> Answer {
    let mut answer = document(status, content);
    let location = HeaderValue::try_from(location).expect("a path of ours is a header value");
    answer.headers.insert(LOCATION, location);
    answer
}
