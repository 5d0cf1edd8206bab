//! Blobs being written to memory, and what is kept of those that nobody finished.
//!
//! What the contract leaves unspecified is refused here, so that a cache that asks for it is found
//! out: a byte that is written twice, and a read from a hole.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;

use super::{Shared, lock};
use crate::{BlobSink, Digest, SpoolReader, StoreError, StoreOperation, Verified};

/// Unfinished blobs that are kept; the oldest go first.
const UNFINISHED_MAX: usize = 16;

/// What sinks left that were dropped: at most one of each digest.
#[derive(Default)]
pub(super) struct Unfinished(VecDeque<(Digest, Bytes)>);

impl Unfinished {
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    pub(super) fn bytes_of(&self, digest: Digest) -> u64 {
        let left = self.0.iter().find(|(of, _)| *of == digest);
        left.map_or(0, |(_, bytes)| bytes.len() as u64)
    }

    fn take(&mut self, digest: Digest) -> Option<Bytes> {
        let at = self.0.iter().position(|(of, _)| *of == digest)?;
        self.0.remove(at).map(|(_, bytes)| bytes)
    }

    /// Keeps the longer of two.
    fn keep(&mut self, digest: Digest, bytes: Bytes) {
        let former = self.take(digest).unwrap_or_default();
        let longer = if former.len() > bytes.len() {
            former
        } else {
            bytes
        };
        if !longer.is_empty() {
            self.0.push_back((digest, longer));
        }
        if self.0.len() > UNFINISHED_MAX {
            self.0.pop_front();
        }
    }
}

/// A blob being written: chunks of its own, which only [`BlobSink::commit`] copies from.
pub(super) struct MemorySink {
    content: Shared,
    digest: Digest,
    kept: u64,
    spool: Arc<Spool>,
}

impl MemorySink {
    pub(super) fn stage(content: &Shared, digest: Digest) -> Self {
        let mut shared = lock(content);
        let kept = shared.unfinished.take(digest).unwrap_or_default();
        shared.writing += kept.len() as u64;
        drop(shared);
        let mut written = Written {
            checkpoint: kept.len() as u64,
            counted: kept.len() as u64,
            ..Written::default()
        };
        if !kept.is_empty() {
            written.chunks.insert(0, kept);
        }
        Self {
            content: Arc::clone(content),
            digest,
            kept: written.checkpoint,
            spool: Arc::new(Spool(Mutex::new(written))),
        }
    }

    fn commit_now(&self, verified: &Verified) -> Result<(), StoreError> {
        let operation = StoreOperation::Commit;
        let mut written = lock(&self.spool.0);
        written.check_usable(operation)?;
        written.state = State::Sealed;
        let whole = written.prefix();
        if verified.digest() != self.digest
            || verified.size() != whole
            || verified.size() != written.end()
        {
            let what = "other bytes were verified than were written";
            return Err(StoreError::Corrupt { operation, what });
        }
        let blob = written.first(whole);
        written.state = State::Ended;
        let mut content = lock(&self.content);
        content.writing -= written.let_go();
        drop(written);
        content.unfinished.take(self.digest);
        if !content.blobs.contains_key(&self.digest) {
            content.kept.add_blob(self.digest, whole);
            content.blobs.insert(self.digest, blob);
        }
        Ok(())
    }

    /// Writes, where there is room for it.
    fn write_now(&self, offset: u64, chunk: Bytes) -> Result<(), StoreError> {
        let bytes = chunk.len() as u64;
        let mut written = lock(&self.spool.0);
        written.check_usable(StoreOperation::Write)?;
        let mut content = lock(&self.content);
        if let Err(error) = content.check_room(bytes, StoreOperation::Write) {
            written.state = State::Sealed;
            return Err(error);
        }
        written.write(offset, chunk)?;
        written.counted += bytes;
        content.writing += bytes;
        Ok(())
    }
}

impl BlobSink for MemorySink {
    fn kept(&self) -> u64 {
        self.kept
    }

    fn write_at(&self, offset: u64, chunk: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.write_now(offset, chunk) })
    }

    fn checkpoint(&self, offset: u64) {
        let mut written = lock(&self.spool.0);
        written.checkpoint = written.checkpoint.max(offset);
    }

    fn reader(&self) -> Arc<dyn SpoolReader> {
        Arc::clone(&self.spool) as _
    }

    fn commit(self: Arc<Self>, verified: Verified) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(async move { self.commit_now(&verified) })
    }

    fn discard(self: Arc<Self>) {
        let mut written = lock(&self.spool.0);
        written.state = State::Ended;
        lock(&self.content).writing -= written.let_go();
    }
}

impl Drop for MemorySink {
    fn drop(&mut self) {
        let mut written = lock(&self.spool.0);
        if matches!(written.state, State::Ended) {
            return;
        }
        let left = written.first(written.checkpoint.min(written.prefix()));
        let mut content = lock(&self.content);
        content.writing -= written.let_go();
        drop(written);
        if !content.blobs.contains_key(&self.digest) {
            content.unfinished.keep(self.digest, left);
        }
    }
}

/// What a sink and its readers share.
#[derive(Default)]
struct Spool(Mutex<Written>);

#[derive(Default)]
struct Written {
    /// By their offsets; none is empty, and no two overlap.
    chunks: BTreeMap<u64, Bytes>,
    checkpoint: u64,
    /// Bytes of it that the store counts as being written.
    counted: u64,
    state: State,
}

#[derive(Default)]
enum State {
    #[default]
    Open,
    /// A commit or a write was refused: nothing can be written or committed any more.
    Sealed,
    /// Committed or discarded: nothing of it is kept.
    Ended,
}

impl Written {
    fn check_usable(&self, operation: StoreOperation) -> Result<(), StoreError> {
        let what = match self.state {
            State::Open => return Ok(()),
            State::Sealed => "an earlier write or commit was refused",
            State::Ended => "it was committed or discarded before",
        };
        Err(StoreError::Corrupt { operation, what })
    }

    fn write(&mut self, offset: u64, chunk: Bytes) -> Result<(), StoreError> {
        let operation = StoreOperation::Write;
        self.check_usable(operation)?;
        if chunk.is_empty() {
            return Ok(());
        }
        let end = offset.saturating_add(chunk.len() as u64);
        let before = self.chunks.range(..end).next_back();
        if before.is_some_and(|(at, bytes)| at + bytes.len() as u64 > offset) {
            self.state = State::Sealed;
            let what = "a byte was written twice";
            return Err(StoreError::Corrupt { operation, what });
        }
        self.chunks.insert(offset, chunk);
        Ok(())
    }

    /// The bytes that the store is to count no longer.
    fn let_go(&mut self) -> u64 {
        std::mem::take(&mut self.counted)
    }

    /// Where the last chunk ends.
    fn end(&self) -> u64 {
        let last = self.chunks.last_key_value();
        last.map_or(0, |(at, bytes)| at + bytes.len() as u64)
    }

    /// Where the first hole begins.
    fn prefix(&self) -> u64 {
        let mut prefix = 0;
        for (at, bytes) in &self.chunks {
            if *at != prefix {
                break;
            }
            prefix += bytes.len() as u64;
        }
        prefix
    }

    /// The first `len` bytes, which have no hole.
    fn first(&self, len: u64) -> Bytes {
        self.read(0, len).expect("there is no hole")
    }

    /// The bytes from `start` on that come before `end`; `None` where one of them is in a hole.
    fn read(&self, start: u64, end: u64) -> Option<Bytes> {
        let end = end.min(self.end());
        let mut read = BytesMut::new();
        let mut position = start;
        while position < end {
            let (at, bytes) = self.chunks.range(..=position).next_back()?;
            let skip = usize::try_from(position - at).ok()?;
            let rest = bytes.get(skip..).filter(|rest| !rest.is_empty())?;
            let wanted = usize::try_from(end - position).unwrap_or(usize::MAX);
            let part = &rest[..rest.len().min(wanted)];
            read.extend_from_slice(part);
            position += part.len() as u64;
        }
        Some(read.freeze())
    }
}

impl SpoolReader for Spool {
    fn read_at(&self, offset: u64, len: usize) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let end = offset.saturating_add(len as u64);
            let read = lock(&self.0).read(offset, end);
            read.ok_or(StoreError::Corrupt {
                operation: StoreOperation::Read,
                what: "bytes were asked for that are not written yet",
            })
        })
    }
}
