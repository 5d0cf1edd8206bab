//! The admin listener: whether the mirror lives, whether requests should come to it, what it has
//! counted, and in `api` its administration.
//!
//! Kept apart from the registry's API, so that it can be bound where clients do not reach.

mod api;

use std::net::SocketAddr;

use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use serde_json::json;

use crate::front::{Answer, ApiError, Code, Entry, Lasts, Payload, RequestBody, Service, has_body};
use crate::health::Stage;
use crate::metrics::{Exposition, ListenerName, MEDIA_TYPE};

pub use api::AdminOptions;
pub(crate) use api::{Surroundings, check_admin_token};

use api::Api;

/// What is at a path.
enum Endpoint {
    Health,
    Ready,
    Metrics,
}

/// The admin endpoints.
pub(crate) struct Admin {
    exposition: Exposition,
    api: Api,
}

impl Admin {
    /// For a listener at `address`.
    ///
    /// # Errors
    ///
    /// Why the token of the API cannot be used.
    pub(crate) fn new(
        surroundings: Surroundings,
        options: AdminOptions,
        mut exposition: Exposition,
        address: SocketAddr,
    ) -> Result<Self, String> {
        let api = Api::new(surroundings, options, address)?;
        api.tell(&mut exposition);
        Ok(Self { exposition, api })
    }

    /// Ends what was begun through the API; [`Self::closed`] waits for it.
    pub(crate) fn close(&self) {
        self.api.close();
    }

    pub(crate) async fn closed(&self) {
        self.api.closed().await;
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
                Endpoint::Ready => self.ready().await,
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
    async fn ready(&self) -> Answer {
        let health = self.api.health_for_all().await;
        // Asked after it, so that whoever is told of the end is not told to come.
        let stage = self.api.stage();
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
    const TAKES_BODIES: bool = true;

    async fn answer<'a>(
        &'a self,
        request: &'a Parts,
        body: RequestBody,
        entry: &'a mut Entry,
    ) -> Answer {
        let path = request.uri.path();
        if api::is_below(path) {
            return self.api.answer(request, body, entry.client()).await;
        }
        let answered = match has_body(&request.headers) {
            true => Err(ApiError::body_refused()),
            false => self.respond(&request.method, path).await,
        };
        answered.unwrap_or_else(Answer::from)
    }

    fn refuse(&self, request: &Parts, error: ApiError) -> Answer {
        if api::is_below(request.uri.path()) {
            return Api::refuse(error);
        }
        Answer::from(error).of_registry(None)
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
        "nothing is served at this path: the admin listener has /healthz, /readyz, /metrics \
         and /api/v1/, the registry's API is on the other",
    )
}
