//! Manifests and blobs: what is asked of the cache for them, and how it is answered.

use http::header::{ACCEPT_RANGES, CONTENT_RANGE};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use registry_core::{
    BlobBody, ByteRange, CacheError, CacheStatus, Caller, Digest, Origin, RangeRequest, Reference,
    Served,
};

use super::address::Target;
use super::answer::{Answer, Lasts};
use super::body::Payload;
use super::conditional::{Verdict, judge, range_counts};
use super::error::ApiError;
use super::multipart::Multipart;
use super::range::{Ranges, resolve};
use super::service::Registry;

pub(super) const BLOB_TYPE: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Clients' credentials are neither read nor forwarded (I5).
pub(super) const CALLER: Caller = Caller::Anonymous;

type Blob = Served<BlobBody<CacheError>>;

impl Registry {
    /// A manifest, for a GET and a HEAD alike. `Accept` is not weighed: there is one manifest of
    /// that name, and nothing is converted (I9).
    pub(super) async fn manifest(
        &self,
        origin: &Origin,
        reference: &Reference,
        request: &Parts,
    ) -> Result<Answer, ApiError> {
        let served = self.cache.manifest(origin, reference, &CALLER).await;
        let served = served.map_err(|error| self.error(&error, Target::Manifest))?;
        let manifest = served.value;
        let answer = match judge(&request.headers, manifest.digest()) {
            Verdict::Serve => {
                let bytes = manifest.bytes().clone();
                let length = bytes.len() as u64;
                let media_type = HeaderValue::from_str(manifest.media_type().as_str())
                    .expect("a media type is a header value");
                Answer::content(Payload::Bytes(bytes), length, media_type)
            }
            Verdict::NotModified => Answer::not_modified(),
            Verdict::Failed => return Err(ApiError::precondition()),
        };
        let lasts = match reference {
            Reference::Digest(_) => Lasts::Forever,
            Reference::Tag(_) => Lasts::Revalidated,
        };
        Ok(answer.named(manifest.digest()).lasting(lasts).served(
            served.status,
            served.age,
            origin.upstream(),
        ))
    }

    /// A blob, a part of it, or several.
    pub(super) async fn blob(
        &self,
        origin: &Origin,
        digest: Digest,
        request: &Parts,
    ) -> Result<Answer, ApiError> {
        let verdict = judge(&request.headers, digest);
        if request.method == Method::HEAD || verdict != Verdict::Serve {
            return self.blob_stat(origin, digest, verdict).await;
        }
        let ranges = if range_counts(&request.headers, digest) {
            Ranges::of(&request.headers, self.limits.ranges_max)
        } else {
            Ranges::Whole
        };
        match ranges {
            Ranges::Whole => self.blob_whole(origin, digest).await,
            Ranges::One(range) => match self.open(origin, digest, Some(range)).await {
                Ok(served) => Ok(part(origin, digest, served)),
                // No range of nothing is satisfiable, and the whole of it does no harm.
                Err(CacheError::RangeNotSatisfiable { size: 0 }) => {
                    self.blob_whole(origin, digest).await
                }
                Err(error) => Err(self.error(&error, Target::Blob)),
            },
            Ranges::Many(ranges) => self.blob_parts(origin, digest, &ranges).await,
            Ranges::TooMany => Err(ApiError::too_many_ranges(self.limits.ranges_max)),
        }
    }

    /// Whether a blob is there, and how large it is: nothing is downloaded for that.
    async fn blob_stat(
        &self,
        origin: &Origin,
        digest: Digest,
        verdict: Verdict,
    ) -> Result<Answer, ApiError> {
        let served = self.cache.stat_blob(origin, digest, &CALLER).await;
        let served = served.map_err(|error| self.error(&error, Target::Blob))?;
        let answer = match verdict {
            Verdict::Serve => Answer::content(Payload::Empty, served.value, BLOB_TYPE),
            Verdict::NotModified => Answer::not_modified(),
            Verdict::Failed => return Err(ApiError::precondition()),
        };
        Ok(describe(answer, origin, digest, served.status))
    }

    async fn blob_whole(&self, origin: &Origin, digest: Digest) -> Result<Answer, ApiError> {
        let served = self.open(origin, digest, None).await;
        let Served { value, status, .. } =
            served.map_err(|error| self.error(&error, Target::Blob))?;
        let length = value.range.len();
        let answer = Answer::content(Payload::of(value), length, BLOB_TYPE);
        Ok(describe(answer, origin, digest, status))
    }

    async fn blob_parts(
        &self,
        origin: &Origin,
        digest: Digest,
        ranges: &[RangeRequest],
    ) -> Result<Answer, ApiError> {
        let fail = |error: CacheError| self.error(&error, Target::Blob);
        let first = self
            .open_first(origin, digest, ranges)
            .await
            .map_err(fail)?;
        let size = first.value.size;
        let parts = resolve(ranges, size);
        match parts[..] {
            // As for one range of nothing.
            [] if size == 0 => self.blob_whole(origin, digest).await,
            [] => Err(fail(CacheError::RangeNotSatisfiable { size })),
            [range] if range == first.value.range => Ok(part(origin, digest, first)),
            [range] => {
                drop(first);
                let served = self.open(origin, digest, Some(exactly(range))).await;
                Ok(part(origin, digest, served.map_err(fail)?))
            }
            _ => {
                let status = first.status;
                let multipart = Multipart::new(digest, size, parts);
                let (length, content_type) = (multipart.length(), multipart.content_type());
                let (cache, origin) = (self.cache.clone(), origin.clone());
                let payload = multipart.payload(first.value, cache, origin.clone());
                let mut answer = Answer::content(payload, length, content_type);
                answer.status = StatusCode::PARTIAL_CONTENT;
                Ok(describe(answer, &origin, digest, status))
            }
        }
    }

    /// The first of the ranges that lies within the blob: it tells the blob's size.
    async fn open_first(
        &self,
        origin: &Origin,
        digest: Digest,
        ranges: &[RangeRequest],
    ) -> Result<Blob, CacheError> {
        let mut known = None;
        for range in ranges {
            if known.is_some_and(|size| range.resolve(size).is_none()) {
                continue;
            }
            match self.open(origin, digest, Some(*range)).await {
                Err(CacheError::RangeNotSatisfiable { size }) => known = Some(size),
                opened => return opened,
            }
        }
        match known {
            Some(0) => self.open(origin, digest, None).await,
            size => Err(CacheError::RangeNotSatisfiable {
                size: size.unwrap_or_default(),
            }),
        }
    }

    async fn open(
        &self,
        origin: &Origin,
        digest: Digest,
        range: Option<RangeRequest>,
    ) -> Result<Blob, CacheError> {
        self.cache.blob(origin, digest, range, &CALLER).await
    }
}

/// The request that means these bytes, which are not none.
pub(super) fn exactly(range: ByteRange) -> RangeRequest {
    RangeRequest::FromTo {
        first: range.start(),
        last: range.end().saturating_sub(1),
    }
}

/// `Content-Range` of some bytes of a content of `size`.
pub(super) fn content_range(range: ByteRange, size: u64) -> String {
    let last = range.end().saturating_sub(1);
    format!("bytes {}-{last}/{size}", range.start())
}

/// A 206 of one part.
fn part(origin: &Origin, digest: Digest, served: Blob) -> Answer {
    let Served { value, status, .. } = served;
    let (range, size) = (value.range, value.size);
    let mut answer = Answer::content(Payload::of(value), range.len(), BLOB_TYPE);
    answer.status = StatusCode::PARTIAL_CONTENT;
    let range = HeaderValue::try_from(content_range(range, size));
    answer
        .headers
        .insert(CONTENT_RANGE, range.expect("digits are a header value"));
    describe(answer, origin, digest, status)
}

/// What all answers about a blob say.
fn describe(answer: Answer, origin: &Origin, digest: Digest, status: CacheStatus) -> Answer {
    let mut answer =
        answer
            .named(digest)
            .lasting(Lasts::Forever)
            .served(status, None, origin.upstream());
    answer
        .headers
        .insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    answer
}
