//! Every answer that is not what was asked for: status, code of the specification, and a message
//! that says what to do next.
//!
//! Here, the errors of a request as such; those of its address in `fault`, those of the cache and of
//! upstreams in `cache`.

mod cache;
mod fault;

use std::borrow::Cow;
use std::time::Duration;

use http::header::{ALLOW, CONTENT_RANGE, HeaderName, RETRY_AFTER, WARNING};
use http::{HeaderValue, StatusCode};
use registry_core::cache::StaleReason;
use serde::Serialize;

use super::limits::FrontLimits;

/// An error's code. Those of distribution-spec where one fits; otherwise those of the reference
/// registry, which clients know too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    BlobUnknown,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    TooManyRequests,
    Unsupported,
    // Of the reference registry.
    PaginationNumberInvalid,
    RangeInvalid,
    TagInvalid,
    Unavailable,
    Unknown,
}

impl Code {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unsupported => "UNSUPPORTED",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// A header that tells a client how to do better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// `Allow`: the methods that are served.
    Allow,
    /// `Retry-After`: in so many seconds.
    RetryAfter {
        /// How many.
        seconds: u64,
    },
    /// `Content-Range`: the size that no range may exceed.
    Size {
        /// In bytes.
        bytes: u64,
    },
    /// `Warning`: it is what the upstream said when it was last asked.
    LastSaid {
        /// Why it is not asked now.
        reason: StaleReason,
    },
}

impl Hint {
    /// Come back after so long: at least a second, for zero asks a client to come back at once.
    fn retry(after: Duration, limits: &FrontLimits) -> Self {
        let seconds = after.min(limits.retry_after_max).as_secs().max(1);
        Self::RetryAfter { seconds }
    }

    pub(crate) fn header(self) -> (HeaderName, HeaderValue) {
        match self {
            Self::Allow => (ALLOW, HeaderValue::from_static("GET, HEAD")),
            Self::RetryAfter { seconds } => (RETRY_AFTER, seconds.into()),
            Self::Size { bytes } => {
                let range = HeaderValue::try_from(format!("bytes */{bytes}"));
                (CONTENT_RANGE, range.expect("digits are a header value"))
            }
            Self::LastSaid { reason } => {
                let reason = reason.as_str();
                let text = format!("299 - \"as the upstream last said, not confirmed: {reason}\"");
                let warning = HeaderValue::try_from(text);
                (WARNING, warning.expect("plain words are a header value"))
            }
        }
    }
}

/// An error as a client sees it.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) code: Code,
    pub(crate) message: Cow<'static, str>,
    /// A token for `Cache-Status` and the log.
    pub(crate) reason: &'static str,
    /// Whether the cache was asked, so that the upstream may have been.
    pub(crate) forwarded: bool,
    /// A header that goes with the status.
    pub(crate) hint: Option<Hint>,
    /// Whether the connection is closed after this answer, because what the client still sends is
    /// not understood.
    pub(crate) closes: bool,
    /// The whole cause, for the log alone.
    pub(crate) cause: Option<String>,
}

impl ApiError {
    /// An error of the request itself: the cache is not asked.
    pub(crate) fn new(
        status: StatusCode,
        code: Code,
        reason: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            reason,
            forwarded: false,
            hint: None,
            closes: false,
            cause: None,
        }
    }

    pub(crate) fn closing(self) -> Self {
        Self {
            closes: true,
            ..self
        }
    }

    pub(super) fn with(self, hint: Hint) -> Self {
        Self {
            hint: Some(hint),
            ..self
        }
    }

    /// The body that the specification gives errors.
    pub(crate) fn body(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Errors<'a> {
            errors: [Entry<'a>; 1],
        }
        #[derive(Serialize)]
        struct Entry<'a> {
            code: &'static str,
            message: &'a str,
            detail: Detail,
        }
        #[derive(Serialize)]
        struct Detail {
            reason: &'static str,
        }
        let entry = Entry {
            code: self.code.as_str(),
            message: &self.message,
            detail: Detail {
                reason: self.reason,
            },
        };
        serde_json::to_vec(&Errors { errors: [entry] }).expect("strings are always JSON")
    }
}

/// Errors of a request that never reaches the cache.
impl ApiError {
    pub(crate) fn method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            Code::Unsupported,
            "method",
            "this is a mirror, and takes GET and HEAD only: push to the registry itself",
        )
        .with(Hint::Allow)
    }

    pub(crate) fn unknown_path() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            Code::Unsupported,
            "path",
            "nothing is served at this path: a registry's paths are /v2/, \
             /v2/<name>/manifests/<tag or digest>, /v2/<name>/blobs/<digest>, \
             /v2/<name>/referrers/<digest>, /v2/<name>/tags/list and /v2/_catalog",
        )
    }

    pub(super) fn unknown_upstream() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            Code::NameUnknown,
            "unknown-upstream",
            "no such registry is configured here: configure it as an upstream of the mirror, or \
             pull from it directly",
        )
    }

    pub(crate) fn body_refused() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            Code::Unsupported,
            "request-body",
            "a request to a mirror has no body: send it without Content-Length and \
             Transfer-Encoding",
        )
        .closing()
    }

    pub(crate) fn header_too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Code::Unsupported,
            "header-size",
            format!("the header fields are too large: send no more than {limit} bytes of them"),
        )
        .closing()
    }

    pub(crate) fn target_too_long(limit: usize) -> Self {
        Self::new(
            StatusCode::URI_TOO_LONG,
            Code::Unsupported,
            "target-length",
            format!("the path and query are too long: send no more than {limit} bytes"),
        )
        .closing()
    }

    /// What hyper could not read as a request.
    pub(crate) fn malformed(status: StatusCode, limits: &FrontLimits) -> Self {
        match status {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE | StatusCode::URI_TOO_LONG => {
                Self::header_too_large(limits.header_bytes_max)
            }
            _ => Self::new(
                StatusCode::BAD_REQUEST,
                Code::Unsupported,
                "malformed-request",
                "this is not an HTTP/1.1 request: speak plain HTTP/1.1 to this port, without TLS, \
                 with one Host, one header field a line, and one way of telling a body's length",
            )
            .closing(),
        }
    }

    /// A request that came in the clear where TLS is spoken.
    pub(crate) fn plain() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            Code::Unsupported,
            "plain-http",
            "this port speaks TLS: ask it by https://, and let the client trust its certificate",
        )
        .closing()
    }

    pub(crate) fn connections(limits: &FrontLimits) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            Code::TooManyRequests,
            "connections",
            "the mirror serves as many connections as it may: come back later, or pull from the \
             registry itself",
        )
        .with(Hint::retry(limits.retry_after, limits))
        .closing()
    }

    /// A handler has panicked.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            Code::Unknown,
            "internal",
            "the mirror has a defect: pull from the registry itself, and report what the mirror's \
             log says",
        )
        .closing()
    }

    pub(crate) fn precondition() -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            Code::Unsupported,
            "precondition",
            "the content has none of the entity tags in If-Match: ask without it, or by the \
             digest wanted",
        )
    }

    pub(crate) fn too_many_ranges(limit: usize) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            Code::RangeInvalid,
            "range-count",
            format!("too many ranges: ask for no more than {limit} at a time"),
        )
    }

    pub(super) fn range(size: u64) -> Self {
        Self::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            Code::RangeInvalid,
            "range",
            format!("the range lies outside the content: ask for one within its {size} bytes"),
        )
        .with(Hint::Size { bytes: size })
    }
}

/// An error and all its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        // Some say the innermost cause first, for those who are told no other.
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_the_specifications() {
        let body: serde_json::Value = serde_json::from_slice(&ApiError::method().body()).unwrap();
        assert_eq!(body["errors"][0]["code"], "UNSUPPORTED");
        assert_eq!(body["errors"][0]["detail"]["reason"], "method");
        assert!(
            body["errors"][0]["message"]
                .as_str()
                .unwrap()
                .contains("push")
        );
        assert_eq!(body["errors"].as_array().unwrap().len(), 1);
    }
}
