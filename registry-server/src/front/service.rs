//! From a request to its answer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use http::header::{CONTENT_LENGTH, HOST, RANGE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, StatusCode, Version};
use registry_core::{CacheError, Reference, RegistryCache, UpstreamId};
use tracing::error;

use super::access::Entry;
use super::address::{Addressing, Fault, Route, Target, route};
use super::answer::Answer;
use super::error::ApiError;
use super::limits::FrontLimits;
use super::listing::Referring;
use super::request_body::RequestBody;
use crate::metrics::ListenerName;

/// What a listener serves.
pub(crate) trait Service: Send + Sync + 'static {
    /// Which it is.
    const LISTENER: ListenerName;

    /// Whether its requests are logged.
    const LOGGED: bool;

    /// What requests are counted under that are not routed.
    const ROUTE: &'static str;

    /// Whether its requests may have a body; where not, none that announces one comes to it.
    const TAKES_BODIES: bool;

    /// Answers a request; `entry` is told what it was about.
    fn answer<'a>(
        &'a self,
        request: &'a Parts,
        body: RequestBody,
        entry: &'a mut Entry,
    ) -> impl Future<Output = Answer> + Send + 'a;

    /// Whether the kernel is to send what its answers have in files.
    fn sends_files(&self) -> bool {
        false
    }

    /// What a request is told that does not come to [`Self::answer`], or whose handler panicked.
    fn refuse(&self, request: &Parts, error: ApiError) -> Answer;
}

/// The registry's API, over a cache.
pub(crate) struct Registry {
    pub(super) cache: RegistryCache,
    pub(super) default_upstream: UpstreamId,
    pub(super) limits: Arc<FrontLimits>,
    pub(super) sendfile: bool,
}

impl Service for Registry {
    const LISTENER: ListenerName = ListenerName::Registry;
    const LOGGED: bool = true;
    const ROUTE: &'static str = "none";
    const TAKES_BODIES: bool = false;

    async fn answer<'a>(
        &'a self,
        request: &'a Parts,
        _: RequestBody,
        entry: &'a mut Entry,
    ) -> Answer {
        self.route(request, entry).await
    }

    fn sends_files(&self) -> bool {
        self.sendfile
    }

    fn refuse(&self, _: &Parts, error: ApiError) -> Answer {
        Answer::from(error).of_registry(None)
    }
}

impl Registry {
    async fn route(&self, request: &Parts, entry: &mut Entry) -> Answer {
        let upstreams = self.cache.upstreams();
        let addressing = Addressing {
            default_upstream: &self.default_upstream,
            is_known: &|upstream| upstreams.get(upstream).is_some(),
        };
        let target = &request.uri;
        let routed = route(&request.method, target.path(), target.query(), &addressing);
        let (upstream, repository) = match &routed {
            Ok(route) => (route.upstream(), route.repository()),
            Err(error) => (error.upstream.as_ref(), error.repository.as_ref()),
        };
        entry.upstream = upstream.cloned();
        entry.upstream_is_unknown =
            matches!(&routed, Err(error) if error.fault == Fault::UnknownUpstream);
        entry.repository = repository.cloned();
        let answered = match routed {
            Ok(route) => self.serve(&route, request, entry).await,
            Err(error) => Err(ApiError::from(&error.fault)),
        };
        let answer = answered.unwrap_or_else(|mut error| {
            entry.error = error.cause.take();
            error.into()
        });
        answer.of_registry(entry.upstream.as_ref())
    }

    async fn serve(
        &self,
        route: &Route,
        request: &Parts,
        entry: &mut Entry,
    ) -> Result<Answer, ApiError> {
        entry.route = route.kind();
        // In boxes, all but what is asked for most: every request would carry the room for them about.
        match route {
            Route::Ping { .. } => Ok(Answer::json(b"{}".to_vec())),
            Route::Manifest { origin, reference } => {
                entry.reference = Some(reference.clone());
                self.manifest(origin, reference, request).await
            }
            Route::Blob { origin, digest } => {
                entry.reference = Some(Reference::Digest(*digest));
                Box::pin(self.blob(origin, *digest, request)).await
            }
            Route::Tags {
                origin,
                name,
                namespace,
                page,
            } => Box::pin(self.tags(origin, name, namespace.as_ref(), page)).await,
            Route::Referrers {
                origin,
                name,
                namespace,
                subject,
                artifact_type,
                page,
            } => {
                entry.reference = Some(Reference::Digest(*subject));
                let referring = Referring {
                    origin,
                    name,
                    namespace: namespace.as_ref(),
                    subject: *subject,
                    artifact_type: artifact_type.as_deref(),
                    page,
                };
                Box::pin(self.referrers(&referring)).await
            }
            Route::Catalog { namespace, page } => {
                Box::pin(self.catalog(namespace.as_ref(), page)).await
            }
        }
    }

    pub(super) fn error(&self, error: &CacheError, target: Target) -> ApiError {
        ApiError::of_cache(error, target, &self.limits)
    }
}

/// Answers a request, whatever becomes of its handler.
pub(super) async fn answer<S: Service>(
    service: &S,
    request: &Parts,
    body: RequestBody,
    entry: &mut Entry,
    limits: &FrontLimits,
) -> Answer {
    if let Err(error) = check(request, S::TAKES_BODIES, limits) {
        let answer = service.refuse(request, error);
        note(&answer, entry);
        return answer;
    }
    // What a handler shares with others is behind locks that survive a panic, or gone with it.
    let answered = AssertUnwindSafe(service.answer(request, body, entry)).catch_unwind();
    let answer = match answered.await {
        Ok(answer) => answer,
        Err(panic) => {
            let what = panic_text(&*panic);
            error!(
                path = request.uri.path(),
                what, "a request's handler has panicked"
            );
            entry.error = Some(what.to_owned());
            service.refuse(request, ApiError::internal())
        }
    };
    note(&answer, entry);
    answer
}

fn note(answer: &Answer, entry: &mut Entry) {
    entry.came = Some(answer.came);
    entry.age = answer.age;
}

/// What a panic was raised with.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without words")
}

/// Refuses what no request to a mirror needs (I8).
fn check(request: &Parts, takes_bodies: bool, limits: &FrontLimits) -> Result<(), ApiError> {
    let target = request.uri.path().len() + request.uri.query().map_or(0, str::len);
    if target > limits.target_bytes_max {
        return Err(ApiError::target_too_long(limits.target_bytes_max));
    }
    check_headers(&request.headers, limits)?;
    // RFC 9112, section 3.2.
    if request.version == Version::HTTP_11 && request.headers.get_all(HOST).iter().count() != 1 {
        return Err(ApiError::malformed(StatusCode::BAD_REQUEST, limits));
    }
    if !takes_bodies && has_body(&request.headers) {
        return Err(if super::address::is_read(&request.method) {
            ApiError::body_refused()
        } else {
            ApiError::method().closing()
        });
    }
    Ok(())
}

fn check_headers(headers: &HeaderMap, limits: &FrontLimits) -> Result<(), ApiError> {
    let mut total = 0;
    for (name, value) in headers {
        // Many ranges are refused in words that clients meet with fewer ranges.
        if name == RANGE {
            continue;
        }
        // As on the wire, with `: ` and the line's end.
        let field = name.as_str().len() + value.len() + 4;
        if field > limits.header_field_bytes_max {
            return Err(ApiError::header_too_large(limits.header_field_bytes_max));
        }
        total += field;
    }
    if total > limits.header_bytes_max {
        return Err(ApiError::header_too_large(limits.header_bytes_max));
    }
    Ok(())
}

/// Whether a request announces a body. What follows it on the connection cannot be told from the
/// next request by all readers alike, so the connection ends with the answer.
pub(crate) fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH);
    headers.contains_key(TRANSFER_ENCODING) || length.is_some_and(|length| length != "0")
}
