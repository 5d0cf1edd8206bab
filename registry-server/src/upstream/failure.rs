//! What becomes of an upstream's failures.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use registry_core::{Clock, SystemClock, Timestamp, UpstreamError};
use rustls::{CertificateError, Error as TlsError, InvalidMessage};

use super::address::OutOfReach;
use super::breaker::Sign;
use super::config::RETRY_AFTER_MAX;
use super::redirect::Hop;

/// A request without an answer.
pub(super) struct SendFailure {
    pub(super) error: UpstreamError,
    /// No connection came about.
    pub(super) unconnected: bool,
    /// It befell someone whom the endpoint led to, and says nothing of the endpoint itself.
    pub(super) is_elsewhere: bool,
}

impl SendFailure {
    /// `host` may be behind a proxy: then that may be who cannot be reached.
    pub(super) fn new(host: &str, proxied: bool, error: reqwest::Error) -> Self {
        let unconnected = error.is_connect();
        let error = if unconnected && !error.is_timeout() {
            let way = if proxied { " through the proxy" } else { "" };
            unavailable(
                format!("cannot connect to {host}{way}: {}", cause(&error)),
                error,
            )
        } else if unconnected {
            UpstreamError::Timeout {
                what: "take a connection",
            }
        } else if error.is_timeout() {
            UpstreamError::Timeout { what: "answer" }
        } else {
            unavailable(format!("{host} did not answer: {}", cause(&error)), error)
        };
        Self {
            error,
            unconnected,
            is_elsewhere: false,
        }
    }

    /// The same, which befell `hop`.
    pub(super) fn at(self, hop: &Hop) -> Self {
        Self {
            is_elsewhere: !hop.trusted,
            ..self
        }
    }

    /// What it says of the endpoint, where that had its whole time to answer.
    pub(super) fn sign(&self, had_its_time: bool) -> Option<Sign> {
        match self.error {
            _ if self.is_elsewhere => None,
            _ if self.unconnected => Some(Sign::Dead),
            UpstreamError::Timeout { .. } => had_its_time.then_some(Sign::Dead),
            UpstreamError::Unavailable { .. } => Some(Sign::Ill),
            _ => None,
        }
    }
}

impl From<UpstreamError> for SendFailure {
    fn from(error: UpstreamError) -> Self {
        Self {
            error,
            unconnected: false,
            is_elsewhere: false,
        }
    }
}

/// A body that broke off.
pub(super) fn body_failure(host: &str, error: reqwest::Error) -> UpstreamError {
    unavailable(
        format!("a body from {host} broke off: {}", cause(&error)),
        error,
    )
}

/// Whether a request failed because of where a redirect led.
pub(super) fn is_out_of_reach(error: &reqwest::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if error.is::<OutOfReach>() {
            return true;
        }
        source = error.source();
    }
    false
}

fn unavailable(what: String, error: reqwest::Error) -> UpstreamError {
    UpstreamError::Unavailable {
        what,
        // The URL may hold a signature that is as good as a password.
        source: Some(Arc::new(error.without_url())),
    }
}

/// The innermost reason, which says most and names no URL.
fn cause(error: &reqwest::Error) -> String {
    let mut innermost: &dyn Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    match innermost.downcast_ref::<reqwest::Error>() {
        // An error of the client's own, which would print its URL.
        Some(_) => "the request failed".to_owned(),
        None => format!("{innermost}{}", advice(innermost)),
    }
}

/// What to do about a cause, where that is not what it says.
fn advice(cause: &(dyn Error + 'static)) -> &'static str {
    // An io::Error has its cause in it and not behind it, and that may be another.
    let mut cause = cause;
    while let Some(inner) = cause.downcast_ref().and_then(io::Error::get_ref) {
        cause = inner;
    }
    match cause.downcast_ref() {
        Some(TlsError::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            " (an authority of your own is named in ca_file)"
        }
        Some(TlsError::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            " (this is not TLS: an endpoint in plain HTTP is written http://)"
        }
        _ => "",
    }
}

/// The error that a status means, where it is not an answer. `trusted` as of the hop it comes
/// from: a storage's refusal says nothing of our access to the registry.
pub(super) fn status_failure(
    host: &str,
    trusted: bool,
    status: StatusCode,
    headers: &HeaderMap,
) -> UpstreamError {
    let what = || format!("{host} answered with status {}", status.as_u16());
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if trusted => {
            UpstreamError::Unauthorized {
                status: status.as_u16(),
            }
        }
        StatusCode::TOO_MANY_REQUESTS => UpstreamError::RateLimited {
            retry_after: retry_after(headers, SystemClock.now()),
        },
        StatusCode::REQUEST_TIMEOUT | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            UpstreamError::Unavailable {
                what: what(),
                source: None,
            }
        }
        status if status.is_server_error() => UpstreamError::Unavailable {
            what: what(),
            source: None,
        },
        _ => UpstreamError::Protocol { what: what() },
    }
}

/// `Retry-After`, in seconds or as a date (RFC 9110, section 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            let until = Timestamp::default().after(date.duration_since(UNIX_EPOCH).ok()?);
            until.since(now)
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_mean_errors() {
        for (status, trusted, expected) in [
            (401, true, "Unauthorized"),
            (403, true, "Unauthorized"),
            (401, false, "Unavailable"),
            (403, false, "Unavailable"),
            (408, true, "Unavailable"),
            (429, true, "RateLimited"),
            (429, false, "RateLimited"),
            (500, true, "Unavailable"),
            (502, false, "Unavailable"),
            (503, true, "Unavailable"),
            (400, true, "Protocol"),
            (405, true, "Protocol"),
            (300, true, "Protocol"),
            (204, true, "Protocol"),
        ] {
            let code = StatusCode::from_u16(status).unwrap();
            let error = status_failure("h", trusted, code, &HeaderMap::new());
            assert!(
                format!("{error:?}").starts_with(expected),
                "{status}: {error:?}"
            );
        }
    }

    #[test]
    fn a_cause_that_does_not_say_what_to_do_is_told_with_that() {
        let unknown = || TlsError::InvalidCertificate(CertificateError::UnknownIssuer);
        let plain = TlsError::InvalidMessage(InvalidMessage::InvalidContentType);
        fn within(error: impl Error + Send + Sync + 'static) -> io::Error {
            io::Error::new(io::ErrorKind::InvalidData, error)
        }
        for (cause, expected) in [
            (&unknown() as &(dyn Error + 'static), "ca_file"),
            (&within(unknown()), "ca_file"),
            (&within(within(plain)), "http://"),
        ] {
            assert!(advice(cause).contains(expected), "{cause}");
        }
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let expired = within(TlsError::InvalidCertificate(CertificateError::Expired));
        assert_eq!((advice(&refused), advice(&expired)), ("", ""));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // Sun, 06 Nov 1994 08:49:37 GMT.
        let now = Timestamp::from_millis(784_111_777_000);
        for (text, seconds) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", Some(0)),
            ("18446744073709551615", Some(3600)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(3600)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(retry_after(&headers, now), expected, "{text:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
