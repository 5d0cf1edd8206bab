//! Blobs, whole or in part: whether what comes is what was asked for (RFC 9110, section 14).

use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use http::header::{CONTENT_RANGE, ETAG, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use registry_core::{Digest, RangeRequest, Repository, UpstreamBlob, UpstreamError, Validator};

use super::HttpUpstream;
use super::failover::Visit;
use super::observer::RequestKind;
use super::reply::Reply;
use super::transport::Question;

/// Longest entity tag that is sent back; a longer one is none (I8).
const ENTITY_TAG_BYTES_MAX: usize = 1024;

/// The range that tells a blob's size where HEAD does not: its first byte.
const FIRST_BYTE: RangeRequest = RangeRequest::FromTo { first: 0, last: 0 };

impl HttpUpstream {
    pub(super) async fn fetch_blob(
        &self,
        repository: &Repository,
        digest: Digest,
        range: Option<RangeRequest>,
        prior: Option<&Validator>,
    ) -> Result<Option<UpstreamBlob>, UpstreamError> {
        let question = Question {
            prior,
            ..question(Method::GET, repository, digest, range)
        };
        let idle_max = self.transport.budgets().body_idle;
        let attempt = |visit| fetch_at(visit, &question, digest, range, idle_max);
        let blob = self.transport.ask_for_blob(digest, attempt).await?;
        Ok(blob.map(|blob| UpstreamBlob {
            endpoint: blob.endpoint,
            ..blob.value
        }))
    }

    pub(super) async fn ask_blob(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Result<Option<Option<u64>>, UpstreamError> {
        let attempt = |visit| weigh_at(visit, repository, digest);
        let size = self.transport.ask(attempt).await?;
        Ok(size.map(|size| size.value))
    }
}

async fn fetch_at(
    visit: Visit,
    question: &Question<'_>,
    digest: Digest,
    range: Option<RangeRequest>,
    idle_max: Duration,
) -> Result<Option<UpstreamBlob>, UpstreamError> {
    let reply = visit.ask(question).await?;
    if reply.is_absent() {
        return Ok(None);
    }
    let extent = Extent::of(&reply, range)?;
    let validator = validator(&reply);
    let stream = match extent.length {
        // The body of a 416 is an error's.
        Some(0) => stream::empty().boxed(),
        length => reply.into_stream(length, idle_max, visit.watch(digest)),
    };
    Ok(Some(UpstreamBlob {
        size: extent.size,
        start: extent.start,
        validator,
        endpoint: None,
        stream,
    }))
}

/// A blob's size, where it is told, of a blob that is there.
async fn weigh_at(
    visit: Visit,
    repository: &Repository,
    digest: Digest,
) -> Result<Option<Option<u64>>, UpstreamError> {
    let head = &visit.endpoint().blob_head;
    let asked_by_head = head.is_usable();
    if asked_by_head {
        let question = question(Method::HEAD, repository, digest, None);
        let reply = visit.ask(&question).await?;
        match reply.status() {
            StatusCode::OK => return Ok(Some(reply.content_length())),
            _ if reply.is_absent() => return Ok(None),
            _ if may_work_by_get(&reply) => {}
            _ => return Err(reply.failure()),
        }
    }
    let question = question(Method::GET, repository, digest, Some(FIRST_BYTE));
    let reply = visit.ask(&question).await?;
    if reply.is_absent() {
        return Ok(None);
    }
    let extent = Extent::of(&reply, Some(FIRST_BYTE))?;
    if asked_by_head {
        head.note_fails();
    }
    Ok(Some(extent.size))
}

fn question(
    method: Method,
    repository: &Repository,
    digest: Digest,
    range: Option<RangeRequest>,
) -> Question<'_> {
    let mut headers = HeaderMap::new();
    if let Some(range) = range {
        let value = HeaderValue::from_str(&range_header(range));
        headers.insert(RANGE, value.expect("a range is text"));
    }
    Question {
        kind: RequestKind::Blob,
        method,
        repository,
        path: format!("blobs/{digest}"),
        query: None,
        headers,
        prior: None,
    }
}

/// The entity tag of an answer that has a body of a blob, where it is a strong one: a weak one
/// says nothing of bytes (RFC 9110, section 13.1.5).
fn validator(reply: &Reply) -> Option<Validator> {
    let entity_tag = reply.text(ETAG)?;
    let is_strong = entity_tag.len() > 2
        && entity_tag.len() <= ENTITY_TAG_BYTES_MAX
        && entity_tag.starts_with('"')
        && entity_tag.ends_with('"');
    let has_body = matches!(reply.status().as_u16(), 200 | 206);
    (is_strong && has_body).then(|| Validator::new(reply.host(), entity_tag))
}

/// Whether GET may do what this answer to HEAD did not: URLs of storage are often signed for GET
/// only, also when they are given in answer to a HEAD.
fn may_work_by_get(reply: &Reply) -> bool {
    match reply.status().as_u16() {
        405 | 501 => true,
        400 | 401 | 403 => !reply.is_trusted(),
        _ => false,
    }
}

fn range_header(range: RangeRequest) -> String {
    match range {
        RangeRequest::FromTo { first, last } => format!("bytes={first}-{last}"),
        RangeRequest::From { first } => format!("bytes={first}-"),
        RangeRequest::Suffix { length } => format!("bytes=-{length}"),
    }
}

/// Which part of a blob an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    /// Size of the whole blob.
    size: Option<u64>,
    /// Offset of the first byte.
    start: u64,
    /// How many bytes.
    length: Option<u64>,
}

impl Extent {
    fn of(reply: &Reply, asked: Option<RangeRequest>) -> Result<Self, UpstreamError> {
        let wrong = || reply.protocol("sends another range than it was asked for");
        let content_range = || reply.text(CONTENT_RANGE).and_then(ContentRange::parse);
        let extent = match (reply.status(), asked) {
            (StatusCode::OK, _) => {
                let size = reply.content_length();
                Self {
                    size,
                    start: 0,
                    length: size,
                }
            }
            (StatusCode::PARTIAL_CONTENT, Some(asked)) => {
                let content_range = content_range().ok_or_else(wrong)?;
                let extent = content_range.answer(asked).ok_or_else(wrong)?;
                if reply
                    .content_length()
                    .is_some_and(|length| Some(length) != extent.length)
                {
                    return Err(wrong());
                }
                extent
            }
            (StatusCode::PARTIAL_CONTENT, None) => {
                return Err(reply.protocol("sends a part of a blob, though no part was asked for"));
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(asked)) => {
                return content_range()
                    .and_then(|content_range| content_range.refusal(asked))
                    .ok_or_else(|| reply.protocol("refuses a range without reason"));
            }
            _ => return Err(reply.failure()),
        };
        reply.check_coding()?;
        Ok(extent)
    }
}

/// A `Content-Range` (RFC 9110, section 14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ContentRange {
    /// `bytes first-last/size`, or `/*`.
    Part {
        first: u64,
        last: u64,
        size: Option<u64>,
    },
    /// `bytes */size`.
    Unsatisfied { size: u64 },
}

impl ContentRange {
    fn parse(text: &str) -> Option<Self> {
        let (unit, range) = text.split_once(' ')?;
        let (part, size) = range.trim().split_once('/')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let size = match size {
            "*" => None,
            size => Some(number(size)?),
        };
        if part == "*" {
            return size.map(|size| Self::Unsatisfied { size });
        }
        let (first, last) = part.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        let sound = first <= last && size.is_none_or(|size| last < size);
        sound.then_some(Self::Part { first, last, size })
    }

    /// The part of a 206, where it is the one that was asked for: all of it, as far as the blob
    /// goes.
    fn answer(self, asked: RangeRequest) -> Option<Extent> {
        let Self::Part { first, last, size } = self else {
            return None;
        };
        let fits = match (size, asked) {
            (Some(size), _) => {
                let resolved = asked.resolve(size)?;
                (first, last) == (resolved.start(), resolved.end() - 1)
            }
            (
                None,
                RangeRequest::FromTo {
                    first: from,
                    last: to,
                },
            ) => first == from && last <= to,
            (None, RangeRequest::From { first: from }) => first == from,
            // Where the end of the blob is cannot be known.
            (None, RangeRequest::Suffix { .. }) => false,
        };
        fits.then_some(Extent {
            size,
            start: first,
            length: Some(last - first + 1),
        })
    }

    /// What a 416 tells, where the range is one that the blob does not have: its size, past which
    /// there is nothing to send.
    fn refusal(self, asked: RangeRequest) -> Option<Extent> {
        match self {
            Self::Unsatisfied { size } if asked.resolve(size).is_none() => Some(Extent {
                size: Some(size),
                start: size,
                length: Some(0),
            }),
            _ => None,
        }
    }
}

/// Digits only: `parse` alone takes a sign.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM_TO: RangeRequest = RangeRequest::FromTo { first: 2, last: 5 };
    const FROM: RangeRequest = RangeRequest::From { first: 2 };
    const SUFFIX: RangeRequest = RangeRequest::Suffix { length: 3 };

    #[test]
    fn ranges_are_written_as_they_are_read() {
        for (range, text) in [
            (FROM_TO, "bytes=2-5"),
            (FROM, "bytes=2-"),
            (SUFFIX, "bytes=-3"),
        ] {
            assert_eq!(range_header(range), text);
        }
    }

    #[test]
    fn only_the_part_that_was_asked_for_is_taken() {
        let extent = |start, length, size| {
            Some(Extent {
                size,
                start,
                length: Some(length),
            })
        };
        for (asked, header, expected) in [
            (FROM_TO, "bytes 2-5/10", extent(2, 4, Some(10))),
            (FROM_TO, "bytes 2-3/4", extent(2, 2, Some(4))),
            (FROM_TO, "Bytes 2-5/*", extent(2, 4, None)),
            (FROM_TO, "bytes 2-4/*", extent(2, 3, None)),
            (FROM, "bytes 2-9/10", extent(2, 8, Some(10))),
            (FROM, "bytes 2-9/*", extent(2, 8, None)),
            (SUFFIX, "bytes 7-9/10", extent(7, 3, Some(10))),
            (SUFFIX, "bytes 0-1/2", extent(0, 2, Some(2))),
            (FROM_TO, "bytes 1-5/10", None),
            (FROM_TO, "bytes 2-6/10", None),
            (FROM_TO, "bytes 2-4/10", None),
            (FROM_TO, "bytes 2-6/*", None),
            (FROM_TO, "bytes 2-5/5", None),
            (FROM_TO, "bytes 5-2/10", None),
            (FROM_TO, "bytes +2-5/10", None),
            (FROM_TO, "bytes 2-5", None),
            (FROM_TO, "bytes */10", None),
            (FROM_TO, "items 2-5/10", None),
            (FROM_TO, "bytes=2-5/10", None),
            (FROM_TO, "", None),
            (FROM, "bytes 2-8/10", None),
            (FROM, "bytes 0-9/10", None),
            (SUFFIX, "bytes 7-9/*", None),
            (SUFFIX, "bytes 0-9/10", None),
        ] {
            let parsed = ContentRange::parse(header);
            let answer = parsed.and_then(|content_range| content_range.answer(asked));
            assert_eq!(answer, expected, "{asked:?} {header:?}");
        }
    }

    #[test]
    fn a_refusal_tells_the_size_where_it_has_reason() {
        for (asked, header, size) in [
            (FROM, "bytes */2", Some(2)),
            (FROM, "bytes */0", Some(0)),
            (SUFFIX, "bytes */0", Some(0)),
            (FROM, "bytes */3", None),
            (FROM, "bytes */*", None),
            (FROM, "bytes 2-2/3", None),
        ] {
            let parsed = ContentRange::parse(header);
            let refusal = parsed.and_then(|content_range| content_range.refusal(asked));
            let expected = size.map(|size| (Some(size), size, Some(0)));
            let told = refusal.map(|extent| (extent.size, extent.start, extent.length));
            assert_eq!(told, expected, "{asked:?} {header:?}");
        }
    }
}
