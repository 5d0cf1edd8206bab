//! What an answer is made of, as hyper takes it: always of a known length, and ending in an error
//! where it breaks off (I2).
//!
//! A body that breaks off first lets everything before the break reach the client: clients resume
//! from what they got, and give up where three attempts bring nothing more.

use std::fmt;
use std::fs::File;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use hyper::body::{Body, Frame, SizeHint};
use registry_core::{BlobBody, BlobPayload, ByteRange, CacheError};
use rustix::buffer::spare_capacity;
use tokio::task::{JoinHandle, spawn_blocking};

use super::access::Access;

/// Bytes of a file that are read at a time, at most one such chunk for each connection. Together
/// with what hyper buffers, a client that reads slowly holds less than 256 KiB.
const FILE_CHUNK_BYTES: usize = 128 << 10;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The cache could not go on.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A stored file could not be read.
    #[error("cannot read a stored blob")]
    File(#[from] io::Error),
    /// An archive could not be gone on with.
    #[error("an archive broke off")]
    Archive(#[source] io::Error),
    /// There was less than the answer's length says, or more.
    #[error("the content has another length than was told: {missing} bytes were to come")]
    Length {
        /// Bytes that were to come.
        missing: u64,
    },
}

/// Bytes on their way.
pub(crate) type Bytestream = BoxStream<'static, Result<Bytes, BodyError>>;

/// The bytes of an answer.
pub(crate) enum Payload {
    /// None: an answer without content, or one to a HEAD.
    Empty,
    /// In memory.
    Bytes(Bytes),
    /// In an open file, read by position. A type of its own, so that the kernel can be told to
    /// send it.
    File(FileRange),
    /// Arriving.
    Stream(Bytestream),
}

impl Payload {
    /// A blob's bytes.
    pub(crate) fn of(body: BlobBody<CacheError>) -> Self {
        match body.payload {
            BlobPayload::File(file) => Self::File(FileRange::new(file, body.range)),
            BlobPayload::Stream(stream) => Self::Stream(stream.map(|chunk| Ok(chunk?)).boxed()),
            // A further kind, which is not known here: the body breaks off.
            _ => Self::Empty,
        }
    }

    /// The same as a stream.
    pub(crate) fn into_stream(self) -> Bytestream {
        match self {
            Self::Empty => stream::empty().boxed(),
            Self::Bytes(bytes) => stream::iter([Ok(bytes)]).boxed(),
            Self::File(file) => file.boxed(),
            Self::Stream(stream) => stream,
        }
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Bytes(bytes) => Poll::Ready(Some(Ok(std::mem::take(bytes)))),
            Self::File(file) => Pin::new(file).poll_next(cx),
            Self::Stream(stream) => stream.poll_next_unpin(cx),
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Bytes(_) => "Bytes",
            Self::File(_) => "File",
            Self::Stream(_) => "Stream",
        })
    }
}

/// A range of an open file that others may read too.
#[derive(Debug)]
pub(crate) struct FileRange {
    file: Arc<File>,
    range: ByteRange,
    /// Offset of the next chunk.
    next: u64,
    /// The chunk that is being read.
    reading: Option<JoinHandle<io::Result<Vec<u8>>>>,
}

impl FileRange {
    pub(crate) fn new(file: Arc<File>, range: ByteRange) -> Self {
        Self {
            file,
            range,
            next: range.start(),
            reading: None,
        }
    }
}

impl Stream for FileRange {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let missing = this.range.end() - this.next;
        if missing == 0 {
            return Poll::Ready(None);
        }
        let reading = this.reading.get_or_insert_with(|| {
            let len = usize::try_from(missing).unwrap_or(usize::MAX);
            let (file, offset) = (Arc::clone(&this.file), this.next);
            spawn_blocking(move || read_at(&file, offset, len.min(FILE_CHUNK_BYTES)))
        });
        let read = ready!(Pin::new(reading).poll(cx));
        this.reading = None;
        let chunk = read.map_err(io::Error::other).flatten()?;
        if chunk.is_empty() {
            // Cut short under our feet.
            this.next = this.range.end();
            return Poll::Ready(Some(Err(BodyError::Length { missing })));
        }
        this.next += chunk.len() as u64;
        Poll::Ready(Some(Ok(chunk.into())))
    }
}

/// Up to `len` bytes at `offset`; none at the end.
fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut chunk = Vec::with_capacity(len);
    rustix::io::retry_on_intr(|| rustix::io::pread(file, spare_capacity(&mut chunk), offset))?;
    // The allocator may give more than was asked for.
    chunk.truncate(len);
    Ok(chunk)
}

/// An answer's body: its bytes, how many are still to come, and the log entry that ends with it.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    payload: Payload,
    remaining: u64,
    broken: Option<Broken>,
    access: Access,
}

/// A body's end before its end, told to hyper once what came before it has left.
#[derive(Debug)]
struct Broken {
    error: BodyError,
    /// How often everything had left by then.
    flushes: u64,
}

impl AnswerBody {
    /// A body of `length` bytes.
    pub(super) fn new(payload: Payload, length: u64, access: Access) -> Self {
        Self {
            payload,
            remaining: length,
            broken: None,
            access,
        }
    }

    fn poll_broken(
        &mut self,
        broken: Broken,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let marks = self.access.marks();
        // First, so that a flush between the two is not slept through.
        marks.wake_at_flush(cx);
        if marks.flushes() == broken.flushes {
            self.broken = Some(broken);
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(broken.error)))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        this.access.note_flushed();
        if let Some(broken) = this.broken.take() {
            return this.poll_broken(broken, cx);
        }
        let missing = this.remaining;
        let error = match ready!(this.payload.poll_chunk(cx)) {
            Some(Ok(chunk)) if chunk.len() as u64 <= missing => {
                this.remaining -= chunk.len() as u64;
                this.access.handed(chunk.len() as u64);
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            None if missing == 0 => return Poll::Ready(None),
            Some(Err(error)) => error,
            Some(Ok(_)) | None => BodyError::Length { missing },
        };
        this.access.failed(&error);
        let flushes = this.access.marks().flushes();
        this.poll_broken(Broken { error, flushes }, cx)
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0 && self.broken.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use futures::TryStreamExt as _;

    use super::*;

    fn file(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    #[tokio::test]
    async fn a_range_of_a_file_is_read_in_bounded_chunks() {
        let bytes: Vec<u8> = (0..3 * FILE_CHUNK_BYTES).map(|i| (i % 251) as u8).collect();
        let file = file(&bytes);
        for (start, end) in [
            (0, bytes.len()),
            (0, 0),
            (1, 2),
            (FILE_CHUNK_BYTES - 1, FILE_CHUNK_BYTES + 1),
            (5, 2 * FILE_CHUNK_BYTES + 5),
        ] {
            let range = ByteRange::new(start as u64, end as u64).unwrap();
            let range = FileRange::new(Arc::clone(&file), range);
            let chunks: Vec<Bytes> = range.try_collect().await.unwrap();
            assert!(chunks.iter().all(|chunk| chunk.len() <= FILE_CHUNK_BYTES));
            assert!(chunks.concat() == bytes[start..end], "{start}..{end}");
        }
    }

    #[tokio::test]
    async fn a_file_that_ends_too_soon_is_an_error_once() {
        let range = ByteRange::new(2, 10).unwrap();
        let mut range = FileRange::new(file(b"12345"), range);
        assert_eq!(range.try_next().await.unwrap().unwrap(), "345");
        let error = range.try_next().await.unwrap_err();
        assert!(matches!(error, BodyError::Length { missing: 5 }));
        assert!(range.try_next().await.unwrap().is_none());
    }
}
