//! The admin listener: whether the mirror lives, and whether requests should come to it.
//!
//! Kept apart from the registry's API, so that it can be bound where clients do not reach.

use futures::future::BoxFuture;
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::json;

use crate::front::{Answer, ApiError, Code, Entry, Lasts, Readiness, Service};

/// The admin endpoints.
pub(crate) struct Admin {
    readiness: Readiness,
}

impl Admin {
    pub(crate) fn new(readiness: Readiness) -> Self {
        Self { readiness }
    }

    /// Every endpoint stands here; those that need more than [`Readiness`] bring it in [`Admin`].
    fn respond(&self, method: &Method, path: &str) -> Result<Answer, ApiError> {
        let endpoint = match path {
            "/healthz" => Self::health,
            "/readyz" => Self::ready,
            _ => return Err(unknown_path()),
        };
        match *method {
            Method::GET | Method::HEAD => Ok(endpoint(self)),
            _ => Err(ApiError::method()),
        }
    }

    /// The process lives: it answers.
    fn health(&self) -> Answer {
        status(StatusCode::OK, "ok", "the process answers")
    }

    /// Whether requests should come here.
    fn ready(&self) -> Answer {
        if self.readiness.is_ready() {
            status(StatusCode::OK, "ready", "requests are served")
        } else {
            status(
                StatusCode::SERVICE_UNAVAILABLE,
                "draining",
                "the mirror is shutting down: answers under way end, no new connection is accepted",
            )
        }
    }
}

impl Service for Admin {
    const LOGGED: bool = false;

    fn answer<'a>(&'a self, request: &'a Parts, _: &'a mut Entry) -> BoxFuture<'a, Answer> {
        let answered = self.respond(&request.method, request.uri.path());
        Box::pin(async { answered.unwrap_or_else(Answer::from) })
    }
}

fn status(code: StatusCode, status: &str, reason: &str) -> Answer {
    let body = json!({ "status": status, "reason": reason });
    let mut answer = Answer::json(body.to_string().into_bytes()).lasting(Lasts::Never);
    answer.status = code;
    answer
}

fn unknown_path() -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        Code::Unsupported,
        "path",
        "nothing is served at this path: the admin listener has /healthz and /readyz, the \
         registry's API is on the other",
    )
}
