//! A part of an open file on its way to a client: read by position, a chunk at a time, or named to
//! the kernel, a window at a time.
//!
//! Nothing here waits for a disk on a thread that others wait for: chunks are read where that may
//! block, and a window is named only when it lies in memory, or was brought there.

use std::fs::File;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use registry_core::ByteRange;
use rustix::buffer::spare_capacity;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, spawn_blocking};

use super::body::BodyError;
use super::sendfile::{Outbox, Placeholder};

/// Bytes of a file that are read at a time where a disk may have to be waited for, at most one such
/// chunk for each connection. Together with what hyper buffers, a client that reads slowly holds
/// less than 256 KiB.
pub(super) const FILE_CHUNK_BYTES: usize = 128 << 10;

/// Bytes that are read at a time where they lie in memory: four records of TLS, which leave in one
/// write. More would be out of the processor's nearest cache by the time that they are sealed.
const READY_CHUNK_BYTES: usize = 64 << 10;

/// Bytes of a file that the kernel is told to send at a time: so many that naming them costs
/// nothing beside sending them, and so few that a disk reads them in one go.
pub(super) const WINDOW_BYTES: usize = 2 << 20;

/// No page is smaller, so that a byte read of each brings all of them into memory.
const PAGE_BYTES: usize = 4 << 10;

/// What is next of a body.
#[derive(Debug)]
pub(super) enum Piece {
    /// Bytes.
    Bytes(Bytes),
    /// Bytes of a file that lie in memory.
    Window(Window),
}

/// At most [`WINDOW_BYTES`] of a file, and not none, that an outbox has room for.
#[derive(Debug)]
pub(super) struct Window {
    outbox: Arc<Outbox>,
    file: SharedFile,
    range: ByteRange,
}

impl Window {
    pub(super) fn len(&self) -> u64 {
        self.range.len()
    }

    /// Puts it into the outbox.
    pub(super) fn put(self) -> Placeholder {
        self.outbox.put(self.file, self.range)
    }
}

impl Piece {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Window(window) => window.len(),
        }
    }
}

/// A range of an open file that others may read too.
#[derive(Debug)]
pub(crate) struct FileRange {
    file: SharedFile,
    /// What is still to come of it.
    next: u64,
    end: u64,
    /// The chunk that is being read.
    reading: Option<JoinHandle<io::Result<Vec<u8>>>>,
    /// The window that is being brought into memory.
    warming: Option<JoinHandle<io::Result<()>>>,
}

impl FileRange {
    pub(super) fn new(file: Arc<File>, range: ByteRange) -> Self {
        Self {
            file: SharedFile::new(file),
            next: range.start(),
            end: range.end(),
            reading: None,
            warming: None,
        }
    }

    /// What comes next of it: a window where there is an outbox, else bytes; `None` at its end.
    pub(super) fn poll_piece(
        &mut self,
        outbox: Option<&Arc<Outbox>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Piece, BodyError>>> {
        let missing = self.end - self.next;
        if missing == 0 {
            return Poll::Ready(None);
        }
        let missing = usize::try_from(missing).unwrap_or(usize::MAX);
        match outbox {
            Some(outbox) => self.poll_window(outbox, missing.min(WINDOW_BYTES), cx),
            None => self.poll_chunk(missing.min(FILE_CHUNK_BYTES), cx),
        }
    }

    fn poll_chunk(
        &mut self,
        len: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Piece, BodyError>>> {
        let (file, offset) = (&self.file, self.next);
        if self.reading.is_none()
            && let Some(chunk) = read_ready(file.get(), offset, len.min(READY_CHUNK_BYTES))
        {
            self.next += chunk.len() as u64;
            return Poll::Ready(Some(Ok(Piece::Bytes(chunk.into()))));
        }
        let reading = self.reading.get_or_insert_with(|| {
            let file = file.clone();
            spawn_blocking(move || read_at(file.get(), offset, len))
        });
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        let chunk = read.map_err(io::Error::other).flatten()?;
        if chunk.is_empty() {
            // Cut short under our feet.
            let missing = self.end - self.next;
            self.next = self.end;
            return Poll::Ready(Some(Err(BodyError::Length { missing })));
        }
        self.next += chunk.len() as u64;
        Poll::Ready(Some(Ok(Piece::Bytes(chunk.into()))))
    }

    fn poll_window(
        &mut self,
        outbox: &Arc<Outbox>,
        len: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Piece, BodyError>>> {
        let (start, end) = (self.next, self.next + len as u64);
        if self.warming.is_none() && !is_resident(self.file.get(), start, end) {
            let file = self.file.clone();
            self.warming = Some(spawn_blocking(move || warm(file.get(), start, end)));
        }
        if let Some(warming) = &mut self.warming {
            let warmed = ready!(Pin::new(warming).poll(cx));
            self.warming = None;
            warmed.map_err(io::Error::other).flatten()?;
        }
        self.next = end;
        Poll::Ready(Some(Ok(Piece::Window(Window {
            outbox: Arc::clone(outbox),
            file: self.file.clone(),
            range: ByteRange::new(start, end).expect("it begins before it ends"),
        }))))
    }
}

/// Up to `len` bytes at `offset`; none at the end.
pub(super) fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut chunk = Vec::with_capacity(len);
    rustix::io::retry_on_intr(|| rustix::io::pread(file, spare_capacity(&mut chunk), offset))?;
    // The allocator may give more than was asked for.
    chunk.truncate(len);
    Ok(chunk)
}

/// Up to `len` bytes at `offset`, as far as they lie in memory; none where the first does not, or is
/// past the end.
#[cfg(target_os = "linux")]
fn read_ready(file: &File, offset: u64, len: usize) -> Option<Vec<u8>> {
    use rustix::io::{ReadWriteFlags, preadv2, retry_on_intr};

    let mut chunk = vec![0; len];
    let mut buffers = [io::IoSliceMut::new(&mut chunk)];
    let read = || preadv2(file, &mut buffers, offset, ReadWriteFlags::NOWAIT);
    let count = retry_on_intr(read).ok().filter(|count| *count > 0)?;
    chunk.truncate(count);
    Some(chunk)
}

#[cfg(not(target_os = "linux"))]
fn read_ready(_: &File, _: u64, _: usize) -> Option<Vec<u8>> {
    None
}

/// Whether these bytes, which are not none, can be had without waiting for a disk: judged by the
/// first and the last of them, as asking for each page would cost more than it spares. Where the
/// file's end comes before, whoever reads will see it; where nothing can be told, they cannot.
#[cfg(target_os = "linux")]
fn is_resident(file: &File, start: u64, end: u64) -> bool {
    use rustix::io::{ReadWriteFlags, preadv2, retry_on_intr};

    [start, end - 1].into_iter().all(|offset| {
        let mut byte = [0];
        let mut buffers = [io::IoSliceMut::new(&mut byte)];
        let read = || preadv2(file, &mut buffers, offset, ReadWriteFlags::NOWAIT);
        retry_on_intr(read).is_ok()
    })
}

#[cfg(not(target_os = "linux"))]
fn is_resident(_: &File, _: u64, _: u64) -> bool {
    false
}

/// Brings these bytes into memory, and asks for as many after them.
fn warm(file: &File, start: u64, end: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{Advice, fadvise};
        // Where this is not heard, the reads below do it all.
        let _ = fadvise(
            file,
            start,
            ((end - start) * 2).try_into().ok(),
            Advice::WillNeed,
        );
    }
    let last = end - 1;
    for offset in (start..last).step_by(PAGE_BYTES).chain([last]) {
        let mut byte = [0];
        if rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut byte, offset))? == 0 {
            break;
        }
    }
    Ok(())
}

/// An open file. The last to close one that has no name any more frees its blocks, which takes a
/// while, so that is done where it may.
#[derive(Clone, Debug)]
pub(super) struct SharedFile(Option<Arc<File>>);

impl SharedFile {
    pub(super) fn new(file: Arc<File>) -> Self {
        Self(Some(file))
    }

    pub(super) fn get(&self) -> &File {
        self.0.as_ref().expect("it is taken only by drop")
    }
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        let Some(file) = self.0.take().and_then(Arc::into_inner) else {
            return;
        };
        let is_nameless = rustix::fs::fstat(&file).is_ok_and(|stat| stat.st_nlink == 0);
        if is_nameless && let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(move || drop(file));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write as _;

    use super::*;

    fn file(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    async fn next(
        range: &mut FileRange,
        outbox: Option<&Arc<Outbox>>,
    ) -> Option<Result<Piece, BodyError>> {
        poll_fn(|cx| range.poll_piece(outbox, cx)).await
    }

    /// All of it, and the longest piece.
    async fn drain(mut range: FileRange, outbox: Option<&Arc<Outbox>>) -> (Vec<u8>, usize) {
        let (mut bytes, mut longest) = (Vec::new(), 0);
        while let Some(piece) = next(&mut range, outbox).await {
            let piece = match piece.unwrap() {
                Piece::Bytes(bytes) => bytes.to_vec(),
                Piece::Window(Window { file, range, .. }) => {
                    let len = usize::try_from(range.len()).unwrap();
                    read_at(file.get(), range.start(), len).unwrap()
                }
            };
            longest = longest.max(piece.len());
            bytes.extend(piece);
        }
        (bytes, longest)
    }

    #[tokio::test]
    async fn a_range_of_a_file_is_handed_on_in_bounded_pieces() {
        let outbox = Arc::new(Outbox::default());
        for (outbox, most) in [(None, FILE_CHUNK_BYTES), (Some(&outbox), WINDOW_BYTES)] {
            let bytes: Vec<u8> = (0..3 * most).map(|i| (i % 251) as u8).collect();
            let file = file(&bytes);
            for (start, end) in [
                (0, bytes.len()),
                (0, 0),
                (1, 2),
                (most - 1, most + 1),
                (5, 2 * most + 5),
            ] {
                let range = ByteRange::new(start as u64, end as u64).unwrap();
                let range = FileRange::new(Arc::clone(&file), range);
                let (drained, longest) = drain(range, outbox).await;
                assert!(longest <= most);
                assert!(drained == bytes[start..end], "{start}..{end}");
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_ends_too_soon_is_an_error_once() {
        let range = ByteRange::new(2, 10).unwrap();
        let mut range = FileRange::new(file(b"12345"), range);
        let first = next(&mut range, None).await.unwrap().unwrap();
        assert!(matches!(first, Piece::Bytes(bytes) if bytes == "345"));
        let error = next(&mut range, None).await.unwrap().unwrap_err();
        assert!(matches!(error, BodyError::Length { missing: 5 }));
        assert!(next(&mut range, None).await.is_none());
    }

    #[test]
    fn warming_ends_where_the_file_does() {
        let file = file(&[7; 10_000]);
        for (start, end) in [(0, 1), (0, 10_000), (9_999, 20_000), (10_000, 30_000)] {
            warm(&file, start, end).unwrap();
        }
    }
}
