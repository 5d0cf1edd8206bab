//! Quotas, as registries tell them in `ratelimit-*` headers: read, kept, and said when they run low.

use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use registry_core::Timestamp;

use super::backoff::CredentialId;
use super::config::{QUOTA_LOW_PERCENT, QUOTA_SOURCE_CHARS_MAX, QUOTA_WELL_PERCENT, QUOTAS_MAX};

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
const SOURCE: HeaderName = HeaderName::from_static("docker-ratelimit-source");

/// A `ratelimit-reset` from here on is seconds since 1970; below, seconds from now. (Drafts of the
/// header say the latter; some send the former.)
const RESET_EPOCH_MIN: u64 = 1_000_000_000;

/// How much an endpoint still grants, as it told in its last answer to a question for a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quota {
    /// Requests granted in a window. Docker Hub counts fetches of manifests.
    pub limit: u64,
    /// Requests left of them.
    pub remaining: u64,
    /// The window, where it is told.
    pub window: Option<Duration>,
    /// When the count begins anew, where it is told.
    pub reset_at: Option<Timestamp>,
    /// Whom the registry counts: an address or an account's identifier. Of few and plain
    /// characters, whatever was sent.
    pub source: Option<String>,
    /// When the answer came.
    pub seen_at: Timestamp,
}

/// A quota, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointQuota {
    /// Host of the endpoint, with its port and path where it has any.
    pub endpoint: String,
    /// With whose credentials it was asked: `anonymous`, or a name that says nothing secret.
    pub credential: String,
    /// What is left.
    pub quota: Quota,
}

impl Quota {
    /// What an answer's headers tell; none where they do not tell both limit and what is left.
    pub(super) fn read(headers: &HeaderMap, now: Timestamp) -> Option<Self> {
        let text = |name: HeaderName| headers.get(name)?.to_str().ok();
        let (limit, window) = item(text(LIMIT)?)?;
        let (remaining, window_of_remaining) = item(text(REMAINING)?)?;
        let reset = text(RESET).and_then(|text| Some(item(text)?.0));
        Some(Self {
            limit,
            remaining: remaining.min(limit),
            window: window.or(window_of_remaining).map(Duration::from_secs),
            reset_at: reset.map(|seconds| match seconds {
                RESET_EPOCH_MIN.. => Timestamp::default().after(Duration::from_secs(seconds)),
                _ => now.after(Duration::from_secs(seconds)),
            }),
            source: text(SOURCE).and_then(source),
            seen_at: now,
        })
    }

    fn is_below(&self, percent: u64) -> bool {
        u128::from(self.remaining) * 100 < u128::from(self.limit) * u128::from(percent)
    }
}

/// `100;w=21600`: a number and, where it has that parameter, a window in seconds. Of a list, the
/// first.
fn item(text: &str) -> Option<(u64, Option<u64>)> {
    let mut parts = text.split(',').next()?.split(';').map(str::trim);
    let value = number(parts.next()?)?;
    let window = parts.find_map(|part| number(part.strip_prefix("w=")?));
    Some((value, window))
}

/// Digits only: `parse` alone takes a sign.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Whom the registry counts, if that is something to show.
fn source(text: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-' | '_' | '/');
    let text = text.trim();
    let fits = !text.is_empty() && text.len() <= QUOTA_SOURCE_CHARS_MAX;
    (fits && text.chars().all(plain)).then(|| text.to_owned())
}

/// What a new quota is worth a line in the log for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    RunsLow,
    Recovers,
}

/// The last quotas of one endpoint, by credential.
#[derive(Debug, Default)]
pub(super) struct Quotas(HashMap<CredentialId, Known>);

#[derive(Debug)]
struct Known {
    quota: Quota,
    /// It was said that it runs low.
    is_low: bool,
}

impl Quotas {
    pub(super) fn note(&mut self, credential: CredentialId, quota: Quota) -> Option<Turn> {
        if self.0.len() >= QUOTAS_MAX && !self.0.contains_key(&credential) {
            let oldest = self.0.iter().min_by_key(|(_, known)| known.quota.seen_at);
            if let Some(oldest) = oldest.map(|(credential, _)| credential.clone()) {
                self.0.remove(&oldest);
            }
        }
        let was_low = self.0.get(&credential).is_some_and(|known| known.is_low);
        // Around the edge, one line is enough.
        let edge = if was_low {
            QUOTA_WELL_PERCENT
        } else {
            QUOTA_LOW_PERCENT
        };
        let is_low = quota.is_below(edge);
        self.0.insert(credential, Known { quota, is_low });
        match (was_low, is_low) {
            (false, true) => Some(Turn::RunsLow),
            (true, false) => Some(Turn::Recovers),
            _ => None,
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&CredentialId, &Quota)> {
        let known = self.0.iter();
        known.map(|(credential, known)| (credential, &known.quota))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&'static str, &str)]) -> Option<Quota> {
        let pairs = pairs.iter();
        let headers =
            pairs.map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        Quota::read(
            &headers.collect(),
            Timestamp::from_millis(1_700_000_000_000),
        )
    }

    #[test]
    fn headers_are_read_with_care() {
        for (limit, remaining, expected) in [
            ("100;w=21600", "76;w=21600", Some((100, 76, Some(21_600)))),
            ("100", "76", Some((100, 76, None))),
            ("100", "76;w=60", Some((100, 76, Some(60)))),
            (" 100 ; w=60 ", " 0", Some((100, 0, Some(60)))),
            ("10, 10;w=1, 50;w=60", "3", Some((10, 3, None))),
            ("100;comment=\"x\";w=60", "3", Some((100, 3, Some(60)))),
            ("100;w=soon", "3;burst=1", Some((100, 3, None))),
            ("100", "101", Some((100, 100, None))),
            ("0", "0", Some((0, 0, None))),
            ("+100", "3", None),
            ("-1", "3", None),
            ("", "3", None),
            (";w=60", "3", None),
            ("unlimited", "3", None),
            ("18446744073709551616", "3", None),
            ("100", "x", None),
        ] {
            let quota = read(&[
                ("ratelimit-limit", limit),
                ("ratelimit-remaining", remaining),
            ]);
            let window = |quota: &Quota| quota.window.map(|window| window.as_secs());
            let read = quota.map(|quota| (quota.limit, quota.remaining, window(&quota)));
            assert_eq!(read, expected, "{limit:?} {remaining:?}");
        }
        assert_eq!(read(&[("ratelimit-limit", "100")]), None);
        assert_eq!(read(&[("ratelimit-remaining", "100")]), None);
    }

    #[test]
    fn the_reset_is_a_time_or_a_wait() {
        for (reset, seconds) in [
            ("60", Some(1_700_000_060)),
            ("60;w=1", Some(1_700_000_060)),
            ("0", Some(1_700_000_000)),
            ("1700000900", Some(1_700_000_900)),
            ("tomorrow", None),
        ] {
            let pairs = [
                ("ratelimit-limit", "1"),
                ("ratelimit-remaining", "1"),
                ("ratelimit-reset", reset),
            ];
            let reset_at = read(&pairs).unwrap().reset_at;
            let expected = seconds.map(|seconds| Timestamp::from_millis(seconds * 1000));
            assert_eq!(reset_at, expected, "{reset}");
        }
    }

    #[test]
    fn a_source_is_short_and_plain_or_not_shown() {
        let long = "a".repeat(QUOTA_SOURCE_CHARS_MAX + 1);
        for (source, shown) in [
            ("192.0.2.7", true),
            ("2001:db8::/64", true),
            ("8f2c0a4e-5b0c-4e63-9d3c-1a2b3c4d5e6f", true),
            ("", false),
            ("<script>", false),
            ("a b", false),
            (long.as_str(), false),
        ] {
            let pairs = [
                ("ratelimit-limit", "1"),
                ("ratelimit-remaining", "1"),
                ("docker-ratelimit-source", source),
            ];
            let expected = shown.then(|| source.to_owned());
            assert_eq!(read(&pairs).unwrap().source, expected, "{source}");
        }
    }

    #[test]
    fn running_low_is_said_once() {
        let mut quotas = Quotas::default();
        let mut note = |remaining: &str| {
            let pairs = [
                ("ratelimit-limit", "100"),
                ("ratelimit-remaining", remaining),
            ];
            quotas.note(CredentialId::ANONYMOUS, read(&pairs).unwrap())
        };
        for (remaining, turn) in [
            ("11", None),
            ("10", None),
            ("9", Some(Turn::RunsLow)),
            ("8", None),
            ("10", None),
            ("19", None),
            ("20", Some(Turn::Recovers)),
            ("10", None),
            ("0", Some(Turn::RunsLow)),
            ("100", Some(Turn::Recovers)),
        ] {
            assert_eq!(note(remaining), turn, "{remaining}");
        }
    }
}
