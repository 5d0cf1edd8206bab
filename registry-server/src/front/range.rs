//! `Range` (RFC 9110, section 14): which bytes a client asks for. Pure.
//!
//! A small parser of our own: the crates for it refuse what the RFC lets a server serve (overlapping
//! ranges, a suffix longer than the content, optional white space, units in upper case), and do not
//! tell an invalid header, which is ignored, from an unsatisfiable one, which is a 416.

use http::HeaderMap;
use http::header::RANGE;
use registry_core::{ByteRange, RangeRequest};

/// What a request's `Range` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// Everything: there is none, or none that means anything.
    Whole,
    /// One range.
    One(RangeRequest),
    /// Several.
    Many(Vec<RangeRequest>),
    /// More than are served at a time.
    TooMany,
}

impl Ranges {
    /// Reads the header; at most `limit` ranges.
    pub(crate) fn of(headers: &HeaderMap, limit: usize) -> Self {
        let mut values = headers.get_all(RANGE).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value
                .to_str()
                .map_or(Self::Whole, |value| Self::parse(value, limit)),
            // Not a list field: two of them mean nothing.
            _ => Self::Whole,
        }
    }

    fn parse(value: &str, limit: usize) -> Self {
        let Some((unit, set)) = value.split_once('=') else {
            return Self::Whole;
        };
        if !unit.eq_ignore_ascii_case("bytes") {
            return Self::Whole;
        }
        let mut ranges = Vec::new();
        // A list may have empty elements, and white space around commas (section 5.6.1.2).
        for spec in set.split(',').map(|spec| spec.trim_matches([' ', '\t'])) {
            if spec.is_empty() {
                continue;
            }
            if ranges.len() == limit {
                return Self::TooMany;
            }
            match parse_spec(spec) {
                Some(range) => ranges.push(range),
                None => return Self::Whole,
            }
        }
        match ranges[..] {
            [] => Self::Whole,
            [range] => Self::One(range),
            _ => Self::Many(ranges),
        }
    }
}

/// `first-last`, `first-` or `-length`; `None` where it is invalid.
fn parse_spec(spec: &str) -> Option<RangeRequest> {
    let (first, last) = spec.split_once('-')?;
    match (first, last) {
        ("", length) => Some(RangeRequest::Suffix {
            length: digits(length)?,
        }),
        (first, "") => Some(RangeRequest::From {
            first: digits(first)?,
        }),
        (first, last) => {
            let (first, last) = (digits(first)?, digits(last)?);
            (first <= last).then_some(RangeRequest::FromTo { first, last })
        }
    }
}

/// A position too large to count is past every end.
fn digits(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// The bytes that `requests` mean in a content of `size` bytes, in the order asked for: without
/// those that lie outside, and with those that overlap made one.
///
/// Ranges that only touch stay apart: containers/image takes as many parts as it asked for, or
/// none.
pub(crate) fn resolve(requests: &[RangeRequest], size: u64) -> Vec<ByteRange> {
    let mut parts: Vec<ByteRange> = Vec::new();
    for request in requests {
        let Some(mut part) = request.resolve(size) else {
            continue;
        };
        let mut at = parts.len();
        // What was merged may overlap one that came before it.
        while let Some(index) = parts.iter().position(|other| overlap(part, *other)) {
            part = union(part, parts.remove(index));
            at = at.min(index);
        }
        parts.insert(at.min(parts.len()), part);
    }
    parts
}

fn overlap(one: ByteRange, other: ByteRange) -> bool {
    one.start() < other.end() && other.start() < one.end()
}

fn union(one: ByteRange, other: ByteRange) -> ByteRange {
    let start = one.start().min(other.start());
    ByteRange::new(start, one.end().max(other.end())).expect("neither of the two is reversed")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use registry_core::RangeRequest::{From, FromTo, Suffix};

    use super::*;

    const LIMIT: usize = 3;

    #[test]
    fn headers_are_read_as_rfc_9110_says() {
        let whole = Ranges::Whole;
        for (value, ranges) in [
            ("bytes=0-0", Ranges::One(FromTo { first: 0, last: 0 })),
            (
                "bytes=500-1499",
                Ranges::One(FromTo {
                    first: 500,
                    last: 1499,
                }),
            ),
            ("bytes=007-08", Ranges::One(FromTo { first: 7, last: 8 })),
            ("bytes=500-", Ranges::One(From { first: 500 })),
            ("bytes=-500", Ranges::One(Suffix { length: 500 })),
            ("bytes=-0", Ranges::One(Suffix { length: 0 })),
            ("Bytes=1-2", Ranges::One(FromTo { first: 1, last: 2 })),
            ("bytes= 1-2 ,\t", Ranges::One(FromTo { first: 1, last: 2 })),
            ("bytes=,,1-2", Ranges::One(FromTo { first: 1, last: 2 })),
            (
                "bytes=0-99999999999999999999999",
                Ranges::One(FromTo {
                    first: 0,
                    last: u64::MAX,
                }),
            ),
            (
                "bytes=99999999999999999999999-",
                Ranges::One(From { first: u64::MAX }),
            ),
            (
                "bytes=0-1, 4-,-2",
                Ranges::Many(vec![
                    FromTo { first: 0, last: 1 },
                    From { first: 4 },
                    Suffix { length: 2 },
                ]),
            ),
            (
                "bytes=0-1,0-1",
                Ranges::Many(vec![FromTo { first: 0, last: 1 }; 2]),
            ),
            ("bytes=1-1,2-2,3-3,4-4", Ranges::TooMany),
            // Invalid or of another unit: as if it were not there (sections 14.1.1 and 14.2).
            ("bytes=500-0", whole.clone()),
            ("bytes=1-2,500-0", whole.clone()),
            ("bytes=", whole.clone()),
            ("bytes=,", whole.clone()),
            ("bytes=-", whole.clone()),
            ("bytes=a-b", whole.clone()),
            ("bytes=1", whole.clone()),
            ("bytes=1-2-3", whole.clone()),
            ("bytes=--1", whole.clone()),
            ("bytes=+1-2", whole.clone()),
            ("bytes=1 -2", whole.clone()),
            ("bytes=0x1-2", whole.clone()),
            ("bytes=1.5-2", whole.clone()),
            ("bytes=1-2;3-4", whole.clone()),
            ("bytes 1-2", whole.clone()),
            ("bytes:1-2", whole.clone()),
            ("lines=1-2", whole.clone()),
            ("=1-2", whole.clone()),
            ("", whole),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, HeaderValue::from_str(value).unwrap());
            assert_eq!(Ranges::of(&headers, LIMIT), ranges, "{value:?}");
        }
    }

    #[test]
    fn a_header_that_is_missing_repeated_or_not_text_asks_for_everything() {
        let mut headers = HeaderMap::new();
        assert_eq!(Ranges::of(&headers, LIMIT), Ranges::Whole);
        headers.insert(RANGE, HeaderValue::from_bytes(b"bytes=1-\xff").unwrap());
        assert_eq!(Ranges::of(&headers, LIMIT), Ranges::Whole);
        headers.insert(RANGE, HeaderValue::from_static("bytes=1-2"));
        headers.append(RANGE, HeaderValue::from_static("bytes=3-4"));
        assert_eq!(Ranges::of(&headers, LIMIT), Ranges::Whole);
    }

    #[test]
    fn ranges_that_overlap_become_one_and_those_outside_are_dropped() {
        for (value, size, parts) in [
            ("bytes=0-1,4-5", 10, &[(0, 2), (4, 6)][..]),
            ("bytes=4-5,0-1", 10, &[(4, 6), (0, 2)]),
            ("bytes=0-1,2-3", 10, &[(0, 2), (2, 4)]),
            ("bytes=0-2,2-3", 10, &[(0, 4)]),
            ("bytes=0-1,4-5,1-4", 10, &[(0, 6)]),
            ("bytes=8-9,0-1,1-2", 10, &[(8, 10), (0, 3)]),
            ("bytes=0-,5-6", 10, &[(0, 10)]),
            ("bytes=0-1,10-", 10, &[(0, 2)]),
            ("bytes=10-,-0", 10, &[]),
            ("bytes=-3,0-1", 2, &[(0, 2)]),
        ] {
            let Ranges::Many(requests) = Ranges::parse(value, LIMIT) else {
                panic!("{value} asks for several");
            };
            let resolved: Vec<_> = resolve(&requests, size)
                .into_iter()
                .map(|part| (part.start(), part.end()))
                .collect();
            assert_eq!(resolved, parts, "{value} of {size}");
        }
    }
}
