//! What the cache could not answer, as a status that clients make the best of.
//!
//! containerd moves to its next host on 404, 502, 503 and 504, but repeats a request at once on 429
//! and 408, so those are never sent.

use http::StatusCode;
use registry_core::{CacheError, ManifestError, UpstreamError};

use super::super::address::Target;
use super::super::limits::FrontLimits;
use super::{ApiError, Code, Hint, chain};

impl Target {
    /// The code for content of this kind that is not there.
    pub(super) fn unknown(self) -> Code {
        match self {
            Self::Manifest => Code::ManifestUnknown,
            Self::Blob => Code::BlobUnknown,
            Self::Tags | Self::Catalog => Code::NameUnknown,
            // Not NAME_UNKNOWN: clients take that for the end of the search, and do not ask for the
            // fallback tag.
            Self::Referrers => Code::Unsupported,
        }
    }

    fn missing(self) -> &'static str {
        match self {
            Self::Manifest => {
                "the upstream has no such manifest in this repository: check the tag or digest"
            }
            Self::Blob => {
                "the upstream has no such blob in this repository: check the digest, and that the \
                 image is still there"
            }
            Self::Referrers => {
                "the upstream lists no referrers: ask for the fallback tag, which is the digest \
                 with - for :"
            }
            Self::Tags | Self::Catalog => {
                "the upstream has no such repository: check its name, and the registry in ns or \
                 before the name"
            }
        }
    }
}

/// What the cache could not answer.
impl ApiError {
    pub(crate) fn of_cache(error: &CacheError, target: Target, limits: &FrontLimits) -> Self {
        let mut answer = match error {
            CacheError::UnknownUpstream => Self::unknown_upstream(),
            CacheError::NotFound => Self::new(
                StatusCode::NOT_FOUND,
                target.unknown(),
                "not-found",
                target.missing(),
            ),
            CacheError::NotFoundStale { reason } => Self::new(
                StatusCode::NOT_FOUND,
                target.unknown(),
                "not-found-stale",
                "the upstream had none of this when it was last asked, and cannot be asked now: \
                 where it is new, come back later",
            )
            .with(Hint::LastSaid { reason: *reason }),
            CacheError::RangeNotSatisfiable { size } => Self::range(*size),
            CacheError::Upstream(error) => Self::of_upstream(error, target, limits),
            CacheError::Mismatch(_) => wrong_content("content-mismatch"),
            CacheError::Length { .. } => wrong_content("content-length"),
            CacheError::Store(_) => busy(
                Code::Unavailable,
                "store",
                "the mirror's store fails",
                limits,
            ),
            CacheError::Overloaded => busy(
                Code::TooManyRequests,
                "overloaded",
                "too many downloads are under way",
                limits,
            ),
            CacheError::Closed => busy(
                Code::Unavailable,
                "closing",
                "the mirror is shutting down",
                limits,
            ),
            CacheError::Lost => busy(
                Code::Unavailable,
                "lost",
                "the mirror's work on this was cut off, which its log explains",
                limits,
            ),
            _ => Self::internal(),
        };
        // Said only where it is known: a range may be refused by what is stored.
        answer.forwarded = !matches!(
            error,
            CacheError::UnknownUpstream
                | CacheError::RangeNotSatisfiable { .. }
                | CacheError::Overloaded
                | CacheError::Closed
        );
        answer.cause = Some(chain(error));
        answer
    }

    fn of_upstream(error: &UpstreamError, target: Target, limits: &FrontLimits) -> Self {
        match error {
            // Whether private content exists is not for us to tell; and on 404 a client asks the
            // registry itself, with the credentials it has for it.
            UpstreamError::Unauthorized { .. } => Self::new(
                StatusCode::NOT_FOUND,
                target.unknown(),
                "no-access",
                "the mirror sees no such content at the upstream: check its name; where it is \
                 private, give the mirror credentials for it, or pull from the registry itself",
            ),
            UpstreamError::RateLimited { retry_after } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                Code::TooManyRequests,
                "rate-limited",
                "the upstream limits the mirror's requests, and nothing cached can answer this: \
                 come back later",
            )
            .with(Hint::retry(
                retry_after.unwrap_or(limits.retry_after),
                limits,
            )),
            // Not 503, also where we know that it will not be asked for a while: containerd 2.1 and
            // later repeat that once where we are their last host, and it would be in vain.
            UpstreamError::Unavailable { .. } => Self::new(
                StatusCode::BAD_GATEWAY,
                Code::Unavailable,
                "upstream-unavailable",
                "the upstream cannot be reached or cannot serve, and nothing cached can answer \
                 this: try again, or check the mirror's way to the upstream",
            ),
            UpstreamError::Timeout { .. } => Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                Code::Unavailable,
                "upstream-timeout",
                "the upstream did not answer in time, and nothing cached can answer this: try \
                 again, or check the mirror's way to the upstream",
            ),
            UpstreamError::Content(ManifestError::Schema1) => Self::new(
                StatusCode::BAD_GATEWAY,
                Code::Unavailable,
                "schema1",
                "the image has a manifest of Docker's schema 1, which cannot be verified: push \
                 the image again with a current tool",
            ),
            UpstreamError::Content(_) => wrong_content("content"),
            _ => Self::new(
                StatusCode::BAD_GATEWAY,
                Code::Unavailable,
                "upstream-protocol",
                "the upstream's answer makes no sense: check that its address in the mirror's \
                 configuration is that of a registry",
            ),
        }
    }
}

fn wrong_content(reason: &'static str) -> ApiError {
    ApiError::new(
        StatusCode::BAD_GATEWAY,
        Code::Unavailable,
        reason,
        "the upstream sent other content than was asked for, which is not passed on: try again, \
         and if it stays so, tell the upstream's operator",
    )
}

fn busy(code: Code, reason: &'static str, what: &'static str, limits: &FrontLimits) -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        code,
        reason,
        format!("{what}: come back later, or pull from the registry itself"),
    )
    .with(Hint::retry(limits.retry_after, limits))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use registry_core::cache::StaleReason;
    use registry_core::{StoreError, StoreOperation};

    use super::*;

    #[test]
    fn what_the_cache_cannot_answer_has_a_status_that_clients_move_on_from() {
        use StatusCode as S;
        let limits = FrontLimits::default();
        let unavailable = UpstreamError::Unavailable {
            what: "refused".to_owned(),
            source: None,
        };
        let limited = |seconds: Option<u64>| UpstreamError::RateLimited {
            retry_after: seconds.map(Duration::from_secs),
        };
        let store = StoreError::NoSpace {
            operation: StoreOperation::Write,
        };
        for (error, target, status, code, retry) in [
            (
                CacheError::UnknownUpstream,
                Target::Blob,
                S::NOT_FOUND,
                Code::NameUnknown,
                None,
            ),
            (
                CacheError::NotFound,
                Target::Blob,
                S::NOT_FOUND,
                Code::BlobUnknown,
                None,
            ),
            (
                CacheError::NotFound,
                Target::Manifest,
                S::NOT_FOUND,
                Code::ManifestUnknown,
                None,
            ),
            (
                CacheError::NotFound,
                Target::Tags,
                S::NOT_FOUND,
                Code::NameUnknown,
                None,
            ),
            (
                CacheError::NotFoundStale {
                    reason: StaleReason::Timeout,
                },
                Target::Manifest,
                S::NOT_FOUND,
                Code::ManifestUnknown,
                None,
            ),
            (
                CacheError::NotFound,
                Target::Referrers,
                S::NOT_FOUND,
                Code::Unsupported,
                None,
            ),
            (
                CacheError::RangeNotSatisfiable { size: 7 },
                Target::Blob,
                S::RANGE_NOT_SATISFIABLE,
                Code::RangeInvalid,
                None,
            ),
            (
                UpstreamError::Unauthorized { status: 401 }.into(),
                Target::Manifest,
                S::NOT_FOUND,
                Code::ManifestUnknown,
                None,
            ),
            (
                limited(None).into(),
                Target::Manifest,
                S::SERVICE_UNAVAILABLE,
                Code::TooManyRequests,
                Some(5),
            ),
            (
                limited(Some(0)).into(),
                Target::Blob,
                S::SERVICE_UNAVAILABLE,
                Code::TooManyRequests,
                Some(1),
            ),
            (
                limited(Some(u64::MAX)).into(),
                Target::Blob,
                S::SERVICE_UNAVAILABLE,
                Code::TooManyRequests,
                Some(3600),
            ),
            (
                unavailable.into(),
                Target::Blob,
                S::BAD_GATEWAY,
                Code::Unavailable,
                None,
            ),
            (
                UpstreamError::Timeout { what: "answer" }.into(),
                Target::Blob,
                S::GATEWAY_TIMEOUT,
                Code::Unavailable,
                None,
            ),
            (
                UpstreamError::Protocol {
                    what: "?".to_owned(),
                }
                .into(),
                Target::Blob,
                S::BAD_GATEWAY,
                Code::Unavailable,
                None,
            ),
            (
                UpstreamError::Content(ManifestError::Schema1).into(),
                Target::Manifest,
                S::BAD_GATEWAY,
                Code::Unavailable,
                None,
            ),
            (
                CacheError::Length {
                    expected: 2,
                    received: 1,
                },
                Target::Blob,
                S::BAD_GATEWAY,
                Code::Unavailable,
                None,
            ),
            (
                store.into(),
                Target::Blob,
                S::SERVICE_UNAVAILABLE,
                Code::Unavailable,
                Some(5),
            ),
            (
                CacheError::Overloaded,
                Target::Blob,
                S::SERVICE_UNAVAILABLE,
                Code::TooManyRequests,
                Some(5),
            ),
            (
                CacheError::Closed,
                Target::Blob,
                S::SERVICE_UNAVAILABLE,
                Code::Unavailable,
                Some(5),
            ),
        ] {
            let answer = ApiError::of_cache(&error, target, &limits);
            assert_eq!((answer.status, answer.code), (status, code), "{error:?}");
            let after = match answer.hint {
                Some(Hint::RetryAfter { seconds }) => Some(seconds),
                _ => None,
            };
            assert_eq!(after, retry, "{error:?}");
            assert!(!answer.message.is_empty());
        }
    }

    #[test]
    fn only_what_went_upstream_is_said_to_have() {
        let limits = FrontLimits::default();
        for (error, forwarded) in [
            (CacheError::NotFound, true),
            (CacheError::UnknownUpstream, false),
            (CacheError::RangeNotSatisfiable { size: 3 }, false),
            (CacheError::Overloaded, false),
            (CacheError::Closed, false),
        ] {
            let answer = ApiError::of_cache(&error, Target::Blob, &limits);
            assert_eq!(answer.forwarded, forwarded, "{error:?}");
        }
    }
}
