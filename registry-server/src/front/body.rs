//! What an answer is made of, as hyper takes it: always of a known length, and ending in an error
//! where it breaks off (I2).
//!
//! A body that breaks off first lets everything before the break reach the client: clients resume
//! from what they got, and give up where three attempts bring nothing more.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use hyper::body::{Body, Frame, SizeHint};
use registry_core::{BlobBody, BlobPayload, CacheError};

use super::access::Access;
use super::file_range::{FileRange, Piece};
use super::sendfile::{Outbox, Placeholder};

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
    /// In an open file. A type of its own, so that the kernel can be told to send it.
    File(FileRange),
    /// Arriving.
    Stream(Bytestream),
    /// Arriving, some of it in open files.
    Parts(Parts),
}

impl Payload {
    /// A blob's bytes.
    pub(crate) fn of(body: BlobBody<CacheError>) -> Self {
        match body.payload {
            BlobPayload::File(file) => Self::File(FileRange::new(file, body.range)),
            BlobPayload::Slices(slices) => Self::Parts(Parts::new(slices.map(|slice| {
                let slice = slice?;
                Ok(Self::File(FileRange::new(slice.file, slice.range)))
            }))),
            BlobPayload::Stream(stream) => Self::Stream(stream.map(|chunk| Ok(chunk?)).boxed()),
            // A further kind, which is not known here: the body breaks off.
            _ => Self::Empty,
        }
    }

    /// The same as a stream.
    pub(crate) fn into_stream(self) -> Bytestream {
        match self {
            Self::Stream(stream) => stream,
            mut payload => stream::poll_fn(move |cx| {
                let piece = ready!(payload.poll_piece(None, cx));
                Poll::Ready(piece.map(|piece| match piece? {
                    Piece::Bytes(bytes) => Ok(bytes),
                    // There is no window without an outbox.
                    Piece::Window(window) => Err(BodyError::Length {
                        missing: window.len(),
                    }),
                }))
            })
            .boxed(),
        }
    }

    /// What comes next of it, read unless there is an outbox; `None` at its end.
    fn poll_piece(
        &mut self,
        outbox: Option<&Arc<Outbox>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Piece, BodyError>>> {
        let bytes = match self {
            Self::Empty => None,
            Self::Bytes(bytes) if bytes.is_empty() => None,
            Self::Bytes(bytes) => Some(Ok(std::mem::take(bytes))),
            Self::File(file) => return file.poll_piece(outbox, cx),
            Self::Stream(stream) => ready!(stream.poll_next_unpin(cx)),
            Self::Parts(parts) => return parts.poll_piece(outbox, cx),
        };
        Poll::Ready(bytes.map(|bytes| Ok(Piece::Bytes(bytes?))))
    }
}

/// Payloads that follow one another.
pub(crate) struct Parts {
    parts: BoxStream<'static, Result<Payload, BodyError>>,
    /// The one that is being given.
    current: Box<Payload>,
}

impl Parts {
    pub(super) fn new(
        parts: impl Stream<Item = Result<Payload, BodyError>> + Send + 'static,
    ) -> Self {
        Self {
            parts: parts.boxed(),
            current: Box::new(Payload::Empty),
        }
    }

    fn poll_piece(
        &mut self,
        outbox: Option<&Arc<Outbox>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Piece, BodyError>>> {
        loop {
            if let Some(piece) = ready!(self.current.poll_piece(outbox, cx)) {
                return Poll::Ready(Some(piece));
            }
            match ready!(self.parts.poll_next_unpin(cx)) {
                Some(Ok(next)) => *self.current = next,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
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
            Self::Parts(_) => "Parts",
        })
    }
}

/// What hyper is given to write.
#[derive(Debug)]
pub(crate) enum Chunk {
    /// Bytes.
    Bytes(Bytes),
    /// Bytes of a file, which the connection's socket sends in its place.
    File(Placeholder),
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.remaining(),
            Self::File(placeholder) => placeholder.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes.chunk(),
            Self::File(placeholder) => placeholder.chunk(),
        }
    }

    fn chunks_vectored<'a>(&'a self, buffers: &mut [io::IoSlice<'a>]) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.chunks_vectored(buffers),
            Self::File(placeholder) => placeholder.chunks_vectored(buffers),
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Bytes(bytes) => bytes.advance(count),
            Self::File(placeholder) => placeholder.advance(count),
        }
    }
}

/// An answer's body: its bytes, how many are still to come, and the log entry that ends with it.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    payload: Payload,
    remaining: u64,
    broken: Option<Broken>,
    /// Gone with the last of the body, where a file stands there.
    access: Option<Box<Access>>,
    /// Where the kernel is to send what stands in files.
    outbox: Option<Arc<Outbox>>,
}

/// A body's end before its end, told to hyper once what came before it has left.
#[derive(Debug)]
struct Broken {
    error: BodyError,
    /// How often everything had left by then.
    flushes: u64,
}

impl AnswerBody {
    /// A body of `length` bytes. With an `outbox`, it may be written to no socket but that which the
    /// outbox is of.
    pub(super) fn new(
        payload: Payload,
        length: u64,
        access: Box<Access>,
        outbox: Option<Arc<Outbox>>,
    ) -> Self {
        Self {
            payload,
            remaining: length,
            broken: None,
            access: Some(access),
            outbox,
        }
    }

    /// What hyper is given for a piece.
    fn hand(&mut self, piece: Piece) -> Chunk {
        let len = piece.len();
        self.remaining -= len;
        if let Some(access) = &mut self.access {
            access.handed(len);
        }
        match piece {
            Piece::Bytes(bytes) => Chunk::Bytes(bytes),
            Piece::Window(window) => {
                let mut placeholder = window.put();
                if self.remaining == 0
                    && let Some(access) = self.access.take()
                {
                    placeholder.end(access);
                }
                Chunk::File(placeholder)
            }
        }
    }

    fn poll_broken(
        &mut self,
        broken: Broken,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, BodyError>>> {
        if let Some(access) = &self.access {
            let marks = access.marks();
            // First, so that a flush between the two is not slept through.
            marks.wake_at_flush(cx);
            if marks.flushes() == broken.flushes {
                self.broken = Some(broken);
                return Poll::Pending;
            }
        }
        Poll::Ready(Some(Err(broken.error)))
    }
}

impl Body for AnswerBody {
    type Data = Chunk;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, BodyError>>> {
        let this = &mut *self;
        let Some(access) = &mut this.access else {
            return Poll::Ready(None);
        };
        access.note_flushed();
        if let Some(broken) = this.broken.take() {
            return this.poll_broken(broken, cx);
        }
        let missing = this.remaining;
        let outbox = this.outbox.as_ref().filter(|outbox| outbox.is_open());
        let error = match ready!(this.payload.poll_piece(outbox, cx)) {
            Some(Ok(piece)) if piece.len() <= missing => {
                return Poll::Ready(Some(Ok(Frame::data(this.hand(piece)))));
            }
            None if missing == 0 => return Poll::Ready(None),
            Some(Err(error)) => error,
            Some(Ok(_)) | None => BodyError::Length { missing },
        };
        access.failed(&error);
        let flushes = access.marks().flushes();
        this.poll_broken(Broken { error, flushes }, cx)
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0 && self.broken.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}
