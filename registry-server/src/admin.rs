//! The admin listener: whether the mirror lives, whether requests should come to it, and what it
//! has counted.
//!
//! Kept apart from the registry's API, so that it can be bound where clients do not reach.

use futures::future::BoxFuture;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use serde_json::json;

use crate::front::{Answer, ApiError, Code, Entry, Lasts, Payload, Readiness, Service};
use crate::metrics::{Exposition, ListenerName, MEDIA_TYPE};

/// What is at a path.
enum Endpoint {
    Health,
    Ready,
    Metrics,
}

/// The admin endpoints.
pub(crate) struct Admin {
    readiness: Readiness,
    exposition: Exposition,
}

impl Admin {
    pub(crate) fn new(readiness: Readiness, exposition: Exposition) -> Self {
        Self {
            readiness,
            exposition,
        }
    }

    /// Every endpoint stands here; those that need more than [`Readiness`] bring it in [`Admin`].
    async fn respond(&self, method: &Method, path: &str) -> Result<Answer, ApiError> {
        let endpoint = match path {
            "/healthz" => Endpoint::Health,
            "/readyz" => Endpoint::Ready,
            "/metrics" => Endpoint::Metrics,
            _ => return Err(unknown_path()),
        };
        match *method {
            Method::GET | Method::HEAD => Ok(match endpoint {
                Endpoint::Health => self.health(),
                Endpoint::Ready => self.ready(),
                Endpoint::Metrics => self.metrics().await,
            }),
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

impl Admin {
    /// Everything that is counted, in the text format of OpenMetrics.
    async fn metrics(&self) -> Answer {
        let text = self.exposition.text().await;
        let length = text.len() as u64;
        let media_type = HeaderValue::from_static(MEDIA_TYPE);
        Answer::content(Payload::Bytes(text.into()), length, media_type).lasting(Lasts::Never)
    }
}

impl Service for Admin {
    const LISTENER: ListenerName = ListenerName::Admin;
    const LOGGED: bool = false;
    const ROUTE: &'static str = "admin";

    fn answer<'a>(&'a self, request: &'a Parts, _: &'a mut Entry) -> BoxFuture<'a, Answer> {
        Box::pin(async {
            let answered = self.respond(&request.method, request.uri.path()).await;
            answered.unwrap_or_else(Answer::from)
        })
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
        "nothing is served at this path: the admin listener has /healthz, /readyz and \
         /metrics, the registry's API is on the other",
    )
}
