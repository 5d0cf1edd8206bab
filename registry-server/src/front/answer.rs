//! What is answered, before it becomes hyper's response: the headers that say what it is, where it
//! came from, and how fresh it is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    AGE, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, WARNING,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use registry_core::cache::{CacheStatus, StaleReason};
use registry_core::{Digest, UpstreamId};

use super::access::Access;
use super::body::{AnswerBody, Payload};
use super::conditional::etag;
use super::error::{ApiError, Hint};
use super::sendfile::Outbox;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const DOCKER_API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Content by digest never changes (I3), and is served to anybody who asks.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// What may have changed is asked for again: how fresh it must be is the mirror's to decide.
const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");
const KEEP_NOTHING: HeaderValue = HeaderValue::from_static("no-store");

/// Header fields that an answer with content has room for: more than nearly all have.
const HEADERS: usize = 12;

/// How long an answer is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lasts {
    /// It is what a digest names.
    Forever,
    /// It is true until the upstream says otherwise.
    Revalidated,
    /// It is true for the moment only.
    Never,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    payload: Payload,
    /// Bytes of the content, whether or not the payload is sent.
    length: u64,
    pub(crate) came: Came,
    /// How long ago the upstream confirmed it, where that is known.
    pub(super) age: Option<Duration>,
}

/// How an answer came about, for `Cache-Status` and the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// From the cache.
    Cache(CacheStatus),
    /// From the mirror itself.
    Local,
    /// Not at all.
    Error {
        /// Why.
        reason: &'static str,
        /// Whether the cache was asked, so that the upstream may have been.
        forwarded: bool,
    },
}

impl Answer {
    /// Content of `length` bytes.
    pub(crate) fn content(payload: Payload, length: u64, content_type: HeaderValue) -> Self {
        let mut headers = HeaderMap::with_capacity(HEADERS);
        headers.insert(CONTENT_TYPE, content_type);
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Self {
            status: StatusCode::OK,
            headers,
            payload,
            length,
            came: Came::Local,
            age: None,
        }
    }

    /// A small JSON document.
    pub(crate) fn json(body: Vec<u8>) -> Self {
        let length = body.len() as u64;
        Self::content(Payload::Bytes(Bytes::from(body)), length, JSON)
    }

    /// That the client has it already.
    pub(crate) fn not_modified() -> Self {
        Self {
            status: StatusCode::NOT_MODIFIED,
            headers: HeaderMap::new(),
            payload: Payload::Empty,
            length: 0,
            came: Came::Local,
            age: None,
        }
    }

    /// The content is what `digest` names.
    pub(crate) fn named(mut self, digest: Digest) -> Self {
        let text = digest.text();
        let name = HeaderValue::from_str(text.as_str()).expect("a digest is a header value");
        self.headers.insert(DOCKER_CONTENT_DIGEST, name);
        self.headers.insert(ETAG, etag(&text));
        self
    }

    /// For how long it may be kept.
    pub(crate) fn lasting(mut self, lasts: Lasts) -> Self {
        let control = match lasts {
            Lasts::Forever => IMMUTABLE,
            Lasts::Revalidated => REVALIDATE,
            Lasts::Never => KEEP_NOTHING,
        };
        self.headers.insert(CACHE_CONTROL, control);
        self
    }

    /// It came from the cache; `age` ago, the upstream last confirmed it.
    pub(crate) fn served(
        mut self,
        status: CacheStatus,
        age: Option<Duration>,
        upstream: &UpstreamId,
    ) -> Self {
        self.came = Came::Cache(status);
        self.age = age;
        if let Some(age) = age {
            self.headers.insert(AGE, age.as_secs().into());
        }
        if let CacheStatus::Stale(reason) = status {
            self.headers.insert(WARNING, warning(reason, age, upstream));
        }
        self
    }

    /// What every answer of the registry's API says.
    pub(crate) fn of_registry(mut self, upstream: Option<&UpstreamId>) -> Self {
        self.headers
            .insert(DOCKER_API_VERSION, HeaderValue::from_static("registry/2.0"));
        self.headers.insert(CACHE_STATUS, self.came.header());
        if let Some(upstream) = upstream {
            let name = HeaderValue::from_str(upstream.as_str());
            self.headers
                .insert(OCI_NAMESPACE, name.expect("a host is a header value"));
        }
        self
    }

    /// hyper's response to a request of this method; `access` ends with its body. With an `outbox`,
    /// what of the body stands in files is left to the connection that the outbox is of.
    pub(super) fn respond(
        mut self,
        method: &Method,
        mut access: Box<Access>,
        outbox: Option<Arc<Outbox>>,
    ) -> Response<AnswerBody> {
        // A 304 has no content, and says nothing of the length that a 200 would have.
        let has_content = self.status != StatusCode::NOT_MODIFIED;
        let (payload, length) = if has_content && *method != Method::HEAD {
            (self.payload, self.length)
        } else {
            (Payload::Empty, 0)
        };
        // Of a body that it sends, hyper tells the length itself, and at less cost.
        if has_content && length == 0 {
            self.headers.insert(CONTENT_LENGTH, self.length.into());
        }
        access.answered(self.status, length);
        let mut response = Response::new(AnswerBody::new(payload, length, access, outbox));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }

    /// The response's first bytes, whole, for a connection that hyper has given up.
    pub(super) fn to_bytes(&self, date: &str) -> Vec<u8> {
        let mut bytes = format!(
            "HTTP/1.1 {}\r\ndate: {date}\r\ncontent-length: {}\r\n",
            self.status, self.length
        )
        .into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        if let Payload::Bytes(body) = &self.payload {
            bytes.extend_from_slice(body);
        }
        bytes
    }
}

impl From<ApiError> for Answer {
    fn from(error: ApiError) -> Self {
        let mut answer = Self::json(error.body()).lasting(Lasts::Never);
        answer.status = error.status;
        answer.headers.extend(error.hint.map(Hint::header));
        if error.closes {
            let close = HeaderValue::from_static("close");
            answer.headers.insert(CONNECTION, close);
        }
        answer.came = Came::Error {
            reason: error.reason,
            forwarded: error.forwarded,
        };
        answer
    }
}

impl Came {
    /// `Cache-Status` (RFC 9211).
    ///
    /// `fwd-status` is left out: what the cache asked the upstream is not always the request that
    /// was made of it.
    fn header(self) -> HeaderValue {
        let with = |what: &str, detail: &'static str| {
            let value = format!("registry-server; {what}detail={detail}");
            HeaderValue::try_from(value).expect("tokens are a header value")
        };
        match self {
            Self::Cache(CacheStatus::Hit) => HeaderValue::from_static("registry-server; hit"),
            Self::Cache(CacheStatus::Miss) => {
                HeaderValue::from_static("registry-server; fwd=miss; stored")
            }
            Self::Cache(CacheStatus::Revalidated) => with("fwd=stale; ", "revalidated"),
            Self::Cache(CacheStatus::Stale(reason)) => with("fwd=stale; ", reason.as_str()),
            Self::Cache(CacheStatus::Follow) => with("fwd=miss; collapsed; ", "follow"),
            Self::Cache(CacheStatus::Bypass(reason)) => with("fwd=bypass; ", reason.as_str()),
            Self::Local => with("hit; ", "local"),
            Self::Error { reason, forwarded } => {
                with(if forwarded { "fwd=miss; " } else { "" }, reason)
            }
        }
    }

    /// The same for the log: a word, and a detail where it has one.
    pub(crate) fn words(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Cache(CacheStatus::Hit) => ("hit", None),
            Self::Cache(CacheStatus::Miss) => ("miss", None),
            Self::Cache(CacheStatus::Revalidated) => ("revalidated", None),
            Self::Cache(CacheStatus::Stale(reason)) => ("stale", Some(reason.as_str())),
            Self::Cache(CacheStatus::Follow) => ("follow", None),
            Self::Cache(CacheStatus::Bypass(reason)) => ("bypass", Some(reason.as_str())),
            Self::Local => ("local", None),
            Self::Error { reason, .. } => ("error", Some(reason)),
        }
    }
}

/// A `Warning` of the form that distribution-spec gives it; clients show it to people.
fn warning(reason: StaleReason, age: Option<Duration>, upstream: &UpstreamId) -> HeaderValue {
    let why = match reason {
        StaleReason::Timeout => "did not answer in time",
        StaleReason::RateLimited => "limits the rate of requests",
        StaleReason::Unavailable => "cannot be reached",
        StaleReason::Protocol => "answers what makes no sense",
        StaleReason::Gone => "no longer has it",
        _ => "could not confirm it",
    };
    let since = match age {
        Some(age) => format!(", last confirmed {} s ago", age.as_secs()),
        None => String::new(),
    };
    HeaderValue::try_from(format!(
        "299 - \"served from the mirror's cache{since}: {upstream} {why}\""
    ))
    .expect("a host and plain words are a header value")
}

#[cfg(test)]
mod tests {
    use registry_core::cache::BypassReason;

    use super::*;

    #[test]
    fn cache_status_is_as_rfc_9211_says() {
        for (came, header) in [
            (Came::Cache(CacheStatus::Hit), "registry-server; hit"),
            (
                Came::Cache(CacheStatus::Miss),
                "registry-server; fwd=miss; stored",
            ),
            (
                Came::Cache(CacheStatus::Revalidated),
                "registry-server; fwd=stale; detail=revalidated",
            ),
            (
                Came::Cache(CacheStatus::Stale(StaleReason::RateLimited)),
                "registry-server; fwd=stale; detail=rate-limited",
            ),
            (
                Came::Cache(CacheStatus::Follow),
                "registry-server; fwd=miss; collapsed; detail=follow",
            ),
            (
                Came::Cache(CacheStatus::Bypass(BypassReason::Listing)),
                "registry-server; fwd=bypass; detail=listing",
            ),
            (Came::Local, "registry-server; hit; detail=local"),
            (
                Came::Error {
                    reason: "not-found",
                    forwarded: true,
                },
                "registry-server; fwd=miss; detail=not-found",
            ),
            (
                Came::Error {
                    reason: "method",
                    forwarded: false,
                },
                "registry-server; detail=method",
            ),
        ] {
            assert_eq!(came.header(), header);
        }
    }

    #[test]
    fn stale_answers_say_so_to_people() {
        let upstream = UpstreamId::parse("quay.io").unwrap();
        let age = Some(Duration::from_millis(3_661_900));
        assert_eq!(
            warning(StaleReason::Gone, age, &upstream),
            "299 - \"served from the mirror's cache, last confirmed 3661 s ago: quay.io no longer \
             has it\""
        );
        let answer = Answer::json(Vec::new())
            .served(CacheStatus::Stale(StaleReason::Timeout), age, &upstream)
            .of_registry(Some(&upstream));
        assert_eq!(answer.headers["age"], "3661");
        assert_eq!(answer.headers["oci-namespace"], "quay.io");
        assert!(answer.headers.contains_key(WARNING));
        let fresh = Answer::json(Vec::new()).served(CacheStatus::Hit, age, &upstream);
        assert!(!fresh.headers.contains_key(WARNING));
    }
}
