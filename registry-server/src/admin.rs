//! The admin listener: whether the mirror lives, whether requests should come to it, and what it
//! has counted.
//!
//! Kept apart from the registry's API, so that it can be bound where clients do not reach.

use futures::future::BoxFuture;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use serde_json::json;

use crate::front::{Answer, ApiError, Code, Entry, Lasts, Payload, Service};
use crate::health::Stage;
use crate::metrics::{Exposition, ListenerName, MEDIA_TYPE};

/// What is at a path.
enum Endpoint {
    Health,
    Ready,
    Metrics,
}

/// The admin endpoints.
pub(crate) struct Admin {
    exposition: Exposition,
}

impl Admin {
    pub(crate) fn new(exposition: Exposition) -> Self {
        Self { exposition }
    }

    /// Every endpoint stands here.
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
        told(StatusCode::OK, &json!({ "status": "ok" }))
    }

    /// Whether requests should come here, and what a person should look at all the same.
    fn ready(&self) -> Answer {
        let (stage, health) = self.exposition.health();
        let (code, status) = match stage {
            Stage::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
            Stage::Serving if health.problems.is_empty() => (StatusCode::OK, "ready"),
            Stage::Serving => (StatusCode::OK, "degraded"),
            Stage::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        };
        told(
            code,
            &json!({ "status": status, "problems": health.problems }),
        )
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

fn told(code: StatusCode, what: &serde_json::Value) -> Answer {
    let mut answer = Answer::json(what.to_string().into_bytes()).lasting(Lasts::Never);
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
