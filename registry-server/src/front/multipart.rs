//! Several ranges in one answer (RFC 9110, section 14.6): `multipart/byteranges`, of a length that
//! is known before the first byte is sent.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use http::HeaderValue;
use registry_core::{BlobBody, BlobPayload, ByteRange, CacheError, Digest, Origin, RegistryCache};

use super::body::{BodyError, Parts, Payload};
use super::content::{BLOB_TYPE, CALLER, content_range, exactly};
use super::file_range::FileRange;

/// Longest boundary, in bytes (RFC 2046, section 5.1.1: 70).
const BOUNDARY_BYTES_MAX: usize = 64;

/// The frame around the parts.
#[derive(Clone, Debug)]
pub(super) struct Multipart {
    digest: Digest,
    size: u64,
    parts: Vec<ByteRange>,
    boundary: String,
}

impl Multipart {
    /// The frame around `parts` of the blob `digest`, which has `size` bytes.
    pub(super) fn new(digest: Digest, size: u64, parts: Vec<ByteRange>) -> Self {
        // No blob can hold its own digest, so none can hold a line that ends a part of it.
        let mut boundary = digest.encoded();
        boundary.truncate(BOUNDARY_BYTES_MAX);
        Self {
            digest,
            size,
            parts,
            boundary,
        }
    }

    pub(super) fn content_type(&self) -> HeaderValue {
        let boundary = &self.boundary;
        HeaderValue::try_from(format!("multipart/byteranges; boundary={boundary}"))
            .expect("hexadecimal digits are a header value")
    }

    /// Bytes of the whole answer.
    pub(super) fn length(&self) -> u64 {
        let parts = self.parts.iter().enumerate();
        let parts = parts.map(|(index, part)| self.head(index, *part).len() as u64 + part.len());
        parts.sum::<u64>() + self.end().len() as u64
    }

    fn head(&self, index: usize, part: ByteRange) -> String {
        format!(
            "{}--{}\r\nContent-Type: {}\r\nContent-Range: {}\r\n\r\n",
            if index == 0 { "" } else { "\r\n" },
            self.boundary,
            BLOB_TYPE.to_str().unwrap_or_default(),
            content_range(part, self.size),
        )
    }

    fn end(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }

    /// The parts in their frame. They are opened one after another, when the one before has been
    /// sent; `opened` is a body of this blob, which is made use of where it can be.
    pub(super) fn payload(
        self,
        opened: BlobBody<CacheError>,
        cache: RegistryCache,
        origin: Origin,
    ) -> Payload {
        let end = Bytes::from(self.end());
        let source = Source {
            opened: Some(opened),
            cache,
            origin,
            digest: self.digest,
            size: self.size,
        };
        let heads: Vec<_> = self.parts.iter().copied().enumerate().collect();
        let parts = stream::unfold(
            (source, heads.into_iter()),
            move |(mut source, mut heads)| {
                let next = heads.next().map(|(at, part)| (self.head(at, part), part));
                async move {
                    let (head, part) = next?;
                    let content = source.open(part).await;
                    let both = content.map(|content| {
                        let head = Payload::Bytes(Bytes::from(head));
                        stream::iter([Ok(head), Ok(content)])
                    });
                    Some((both, (source, heads)))
                }
            },
        );
        let end = stream::iter([Ok(Payload::Bytes(end))]);
        Payload::Parts(Parts::new(parts.try_flatten().chain(end)))
    }
}

/// Where the parts come from.
struct Source {
    opened: Option<BlobBody<CacheError>>,
    cache: RegistryCache,
    origin: Origin,
    digest: Digest,
    size: u64,
}

impl Source {
    async fn open(&mut self, part: ByteRange) -> Result<Payload, BodyError> {
        let body = match self.opened.take() {
            Some(BlobBody {
                payload: BlobPayload::File(file),
                size,
                range,
            }) => {
                // The file holds the whole blob, so it will do for every part.
                self.opened = Some(BlobBody {
                    payload: BlobPayload::File(Arc::clone(&file)),
                    size,
                    range,
                });
                return Ok(Payload::File(FileRange::new(file, part)));
            }
            Some(body) if body.range == part => body,
            _ => {
                let range = Some(exactly(part));
                let served = self.cache.blob(&self.origin, self.digest, range, &CALLER);
                served.await?.value
            }
        };
        if (body.size, body.range) != (self.size, part) {
            // The upstream has changed its mind on the blob's size.
            let missing = part.len();
            return Err(BodyError::Length { missing });
        }
        Ok(Payload::of(body))
    }
}
