//! The admin API over HTTP: everything below `/api/v1/`, described in `docs/openapi.yaml`.
//!
//! - `guard`: who may use it; `routes`, `question`: what is asked; `problem`: why it is not done.
//! - `status`, `images`, `listing`, `pins`, `work`, `transfer`: the answers; `documents`: what the cache knows, in the words of the API.
//! - `jobs`: what takes long.
//!
//! It is HTTP over [`RegistryCache`] and decides nothing about what is kept: a program that embeds
//! the mirror has the same through [`Mirror::cache`](crate::Mirror::cache).

mod documents;
mod guard;
mod images;
mod jobs;
mod limits;
mod listing;
mod pins;
mod problem;
mod question;
mod routes;
mod status;
mod transfer;
mod work;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderValue, StatusCode};
use registry_core::{Clock, RegistryCache, SystemClock, Timestamp, UpstreamId};

use crate::config::AdminToken;
use crate::front::{Answer, ApiError, Lasts, Payload, RequestBody, has_body};
use crate::health::Readiness;
use crate::metrics::{Exposition, Metrics, OfConfiguration};
use crate::{ReloadError, ReloadHandle};
pub(crate) use guard::check_admin_token;

use guard::Guard;
use jobs::Jobs;
use problem::{Refusal, document};
use question::Parameters;
use routes::{Operation, Path, ROOT};
use serde::de::DeserializeOwned;

/// The description of all this.
const OPENAPI: &str = include_str!("../../../../docs/openapi.yaml");

/// What the admin API is told by whoever starts a server.
#[derive(Clone)]
pub struct AdminOptions {
    /// What those who use it have to show.
    pub token: AdminToken,
    /// The folder that everything is kept in, where it is one.
    pub data_dir: Option<PathBuf>,
    /// What reads the configuration again, where something can.
    pub configuration: Option<ReloadHandle>,
    /// The time that is told.
    pub clock: Arc<dyn Clock>,
}

impl Default for AdminOptions {
    /// No token, no folder, no configuration that can be read again.
    fn default() -> Self {
        Self {
            token: AdminToken::None,
            data_dir: None,
            configuration: None,
            clock: Arc::new(SystemClock),
        }
    }
}

impl fmt::Debug for AdminOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminOptions")
            .field("token", &self.token)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

/// The API.
pub(super) struct Api {
    cache: RegistryCache,
    default_upstream: UpstreamId,
    metrics: Metrics,
    readiness: Readiness,
    options: AdminOptions,
    guard: Guard,
    jobs: Jobs,
    listen: SocketAddr,
    admin_listen: SocketAddr,
    started_at: Timestamp,
}

/// What the server knows that the API is part of.
pub(crate) struct Surroundings {
    pub(crate) cache: RegistryCache,
    pub(crate) default_upstream: UpstreamId,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
    /// Where clients pull from.
    pub(crate) listen: SocketAddr,
}

impl Api {
    /// # Errors
    ///
    /// Why the token cannot be used.
    pub(super) fn new(
        surroundings: Surroundings,
        options: AdminOptions,
        admin_listen: SocketAddr,
    ) -> Result<Self, String> {
        let Surroundings {
            cache,
            default_upstream,
            metrics,
            readiness,
            listen,
        } = surroundings;
        Ok(Self {
            guard: Guard::new(&options.token, options.configuration.clone())?,
            jobs: Jobs::new(Arc::clone(&options.clock)),
            started_at: options.clock.now(),
            cache,
            default_upstream,
            metrics,
            readiness,
            options,
            listen,
            admin_listen,
        })
    }

    /// Answers a request to what [`is_below`] says is its path.
    pub(super) async fn answer(
        &self,
        request: &Parts,
        body: RequestBody,
        client: SocketAddr,
    ) -> Answer {
        self.perform(request, body, client)
            .await
            .unwrap_or_else(Answer::from)
    }

    /// What a request is told that is refused before it is looked at.
    pub(super) fn refuse(error: ApiError) -> Answer {
        Refusal::from(error).into()
    }

    /// Tells of the configuration and of jobs wherever metrics are told.
    pub(super) fn tell(&self, exposition: &mut Exposition) {
        exposition.gather(OfConfiguration(self.told_of_configuration()));
        exposition.gather(self.jobs.counted());
    }

    /// Ends all jobs; [`Self::closed`] waits for it.
    pub(super) fn close(&self) {
        self.jobs.close();
    }

    pub(super) async fn closed(&self) {
        self.jobs.wait().await;
    }

    async fn perform(
        &self,
        request: &Parts,
        body: RequestBody,
        client: SocketAddr,
    ) -> Result<Answer, Refusal> {
        self.guard.admit(request, client).await?;
        let path = request.uri.path().strip_prefix(ROOT).unwrap_or_default();
        let (path, place) = Path::find(path).ok_or_else(Refusal::unknown_path)?;
        let operation = path.operation(&request.method);
        let operation = operation.ok_or_else(|| Refusal::method(&path.allowed()))?;
        let parameters = Parameters::parse(request.uri.query(), operation.parameters())?;
        if !operation.takes_body() && has_body(&request.headers) {
            return Err(Refusal::body(
                StatusCode::BAD_REQUEST,
                "this request takes no body: send it without one",
            ));
        }
        let asked = Asked {
            request,
            body,
            parameters,
            place,
        };
        self.operate(operation, asked).await
    }

    async fn operate(&self, operation: Operation, asked: Asked<'_>) -> Result<Answer, Refusal> {
        match operation {
            Operation::Status => self.status().await,
            Operation::Upstreams => self.upstreams().await,
            Operation::Repositories => self.repositories(&asked.parameters).await,
            Operation::Images => self.images(&asked.parameters).await,
            Operation::Image => self.image(&asked.parameters).await,
            Operation::DeleteImage => self.delete_image(&asked.parameters).await,
            Operation::Why => self.why(&asked.parameters).await,
            Operation::Pins => self.list_pins().await,
            Operation::Pin => self.pin(asked.document().await?).await,
            Operation::Unpin => self.unpin(&asked.parameters).await,
            Operation::Removals => self.removals(&asked.parameters).await,
            Operation::Jobs => Ok(self.list_jobs()),
            Operation::StartJob => self.start_job(asked.document().await?),
            Operation::Job => self.job(asked.id()?),
            Operation::CancelJob => self.cancel_job(asked.id()?),
            Operation::Export => self.export(asked.document().await?).await,
            Operation::Import => self.import(&asked.parameters, asked.body).await,
            Operation::Reload => self.reload().await,
            Operation::OpenApi => Ok(description()),
        }
    }

    async fn reload(&self) -> Result<Answer, Refusal> {
        let Some(configuration) = &self.options.configuration else {
            return Err(Refusal::conflict(
                "this mirror was started without a configuration file: there is nothing to read \
                 again",
            ));
        };
        match configuration.reload().await {
            Ok(reloaded) => Ok(document(StatusCode::OK, &reloaded)),
            Err(error @ (ReloadError::NoFile | ReloadError::NotAFile { .. })) => {
                Err(Refusal::conflict(error.to_string()))
            }
            Err(error @ ReloadError::Stopping) => Err(Refusal::unavailable(error.to_string())),
            Err(error) => Err(Refusal::invalid(error.to_string())),
        }
    }
}

/// A request whose operation is known.
struct Asked<'a> {
    request: &'a Parts,
    body: RequestBody,
    parameters: Parameters<'a>,
    place: Option<&'a str>,
}

impl Asked<'_> {
    /// The document that the request brings.
    async fn document<T: DeserializeOwned>(self) -> Result<T, Refusal> {
        question::document(self.request, self.body).await
    }

    /// The number in the path.
    fn id(&self) -> Result<u64, Refusal> {
        let place = self.place.unwrap_or_default();
        let is_number = place.bytes().all(|byte| byte.is_ascii_digit());
        let number = is_number.then(|| place.parse().ok()).flatten();
        number.ok_or_else(|| jobs::unknown(format_args!("\"{place}\"")))
    }
}

/// Whether a path is the API's to answer.
pub(super) fn is_below(path: &str) -> bool {
    path == "/api" || path.starts_with("/api/")
}

fn description() -> Answer {
    let bytes = OPENAPI.as_bytes();
    let media_type = HeaderValue::from_static("application/yaml");
    Answer::content(Payload::Bytes(bytes.into()), bytes.len() as u64, media_type)
        .lasting(Lasts::Revalidated)
}
