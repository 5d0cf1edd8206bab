//! Blobs being written: a partial file each, which a commit gives its place, a discard removes, and
//! a drop leaves for the next sink of the digest where it has come far enough.
//!
//! What is left must not be given to anybody while a write to it may still happen: one whose future
//! was dropped runs on. So it is left, or removed, by the drop of the [`Writer`], which every write
//! holds until it is done.

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use registry_core::{BlobSink, Digest, SpoolReader, StoreError, StoreOperation, Verified};
use rustix::io::{pwritev, retry_on_intr};

use crate::disk::Shared;
use crate::folder::{Folder, Left, Partial, Staged, Written};
use crate::options::{CHECKPOINT_BYTES, SPACE_CHECK_BYTES, UNFINISHED_BYTES_MIN, WRITE_SLICES_MAX};
use crate::space::Promise;
use crate::spool::Spool;

pub(crate) struct DiskSink {
    kept: u64,
    writer: Arc<Writer>,
}

/// What may write to a partial file: the sink, and each of its calls that runs on a thread that may
/// block.
struct Writer {
    digest: Digest,
    partial: Partial,
    spool: Arc<Spool>,
    progress: Mutex<Progress>,
    /// What it takes on the disk.
    taken: Written,
    /// Every byte before it is written.
    checkpoint: AtomicU64,
    /// The checkpoint that a crash leaves.
    recorded: Mutex<u64>,
}

struct Progress {
    /// Bytes that were written. No byte is written twice, so there is no hole where they are as
    /// many as the spool is long.
    written: u64,
    /// Bytes that were begun to be written.
    begun: u64,
    /// Writes that were begun and not yet seen to end.
    under_way: usize,
    phase: Phase,
    room: Promise,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// A write was not seen to end.
    Torn,
    /// A commit was begun, and perhaps was refused.
    Sealed,
    /// Nothing of it is to be kept.
    Discarded,
    /// It has no partial file any more.
    Gone,
}

impl Phase {
    fn check_open(self, operation: StoreOperation) -> Result<(), StoreError> {
        let what = match self {
            Self::Open => return Ok(()),
            Self::Torn => "an earlier write to it was not finished",
            Self::Sealed | Self::Gone => "it was committed before",
            Self::Discarded => "it was discarded before",
        };
        Err(StoreError::Corrupt { operation, what })
    }
}

impl DiskSink {
    /// Goes on with what an earlier sink left, or makes a partial file, where there is room for it.
    pub(crate) async fn stage(
        store: Arc<Shared>,
        digest: Digest,
        size_hint: Option<u64>,
    ) -> Result<Self, StoreError> {
        let shared = Arc::clone(&store);
        // Made where it runs to its end: whoever no longer waits for it drops it.
        let make = move |folder: &Folder| {
            let Staged {
                partial,
                content,
                kept,
                room,
                written,
            } = folder.stage_blob(digest, size_hint)?;
            let spool = Spool::new(shared, Arc::new(content), kept);
            let progress = Progress {
                written: kept,
                begun: kept,
                under_way: 0,
                phase: Phase::Open,
                room,
            };
            let writer = Writer {
                digest,
                partial,
                spool: Arc::new(spool),
                progress: Mutex::new(progress),
                taken: written,
                checkpoint: AtomicU64::new(kept),
                recorded: Mutex::new(kept),
            };
            let writer = Arc::new(writer);
            Ok(Self { kept, writer })
        };
        store.blocking(StoreOperation::Write, make).await
    }
}

impl Writer {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        // Nothing panics while it holds the lock.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(self: Arc<Self>, offset: u64, chunks: Vec<Bytes>) -> Result<(), StoreError> {
        let operation = StoreOperation::Write;
        let len = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let writing = Writing::begin(&self, len)?;
        let has_to_look = writing.has_to_look;
        let writer = Arc::clone(&self);
        let write = move |folder: &Folder| {
            writer.record_checkpoint(folder);
            folder.with_room(|| {
                if has_to_look {
                    folder.space.check(0)?;
                }
                let file = writer.spool.content().file();
                let written = write_all(file, offset, &chunks);
                written.map_err(|source| StoreError::io(operation, source))
            })
        };
        self.spool.store().blocking(operation, write).await?;
        writing.end(offset, len);
        Ok(())
    }

    /// Records how far the blob has come, where that is worth it. A write does not fail for it.
    fn record_checkpoint(&self, folder: &Folder) {
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let checkpoint = self.checkpoint.load(Ordering::Acquire);
        if checkpoint >= recorded.saturating_add(CHECKPOINT_BYTES)
            && folder.record_checkpoint(&self.partial, checkpoint).is_ok()
        {
            *recorded = checkpoint;
        }
    }

    /// Ends the sink for a commit.
    fn seal(&self, verified: &Verified) -> Result<(), StoreError> {
        let operation = StoreOperation::Commit;
        let corrupt = |what| Err(StoreError::Corrupt { operation, what });
        let mut progress = self.progress();
        progress.phase.check_open(operation)?;
        progress.phase = Phase::Sealed;
        let end = self.spool.end();
        if progress.under_way > 0 {
            corrupt("it is still being written")
        } else if verified.digest() != self.digest {
            corrupt("another digest was verified than was staged")
        } else if progress.written != end || end != verified.size() {
            corrupt("other bytes were verified than were written")
        } else {
            Ok(())
        }
    }

    /// Commits what was sealed.
    fn commit(&self, folder: &Folder, verified: &Verified) -> Result<(), StoreError> {
        let synced = folder.sync_blob(self.spool.content().file(), verified.size());
        let committed = synced
            .as_ref()
            .map_err(StoreError::clone)
            .and_then(|()| folder.commit_blob(self.partial.path(), verified));
        if committed.is_ok() || synced.is_err() || !self.partial.path().exists() {
            // It has its place, or another has; or nobody knows what is in it.
            folder.remove_partial(&self.partial);
            self.taken.settle();
            self.progress().phase = Phase::Gone;
        }
        if committed.is_ok() {
            folder.forget_unfinished(self.digest);
        }
        committed
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let progress = self.progress.get_mut();
        let phase = progress.unwrap_or_else(PoisonError::into_inner).phase;
        if phase == Phase::Gone {
            return;
        }
        // Once the store is closed the folder may be another's: the next start finds the file as
        // it is.
        let Some(folder) = self.spool.store().folder() else {
            return;
        };
        let checkpoint = *self.checkpoint.get_mut();
        let partial = self.partial.clone();
        let is_left = phase != Phase::Discarded && checkpoint >= UNFINISHED_BYTES_MIN;
        self.taken.settle();
        if is_left {
            // At once: whoever stages the digest next is to find it.
            folder.leave(Left::new(
                self.digest,
                partial.clone(),
                checkpoint,
                Arc::clone(self.spool.content()),
            ));
        }
        self.spool.store().in_background(move || {
            if is_left {
                folder.settle_unfinished();
            } else {
                folder.remove_partial(&partial);
            }
            drop(folder);
        });
    }
}

/// Writes `chunks` one behind the other, in as few calls of the system as it takes.
fn write_all(file: &File, mut offset: u64, chunks: &[Bytes]) -> io::Result<()> {
    let chunks = chunks.iter().filter(|chunk| !chunk.is_empty());
    let mut slices: Vec<_> = chunks.map(|chunk| IoSlice::new(chunk)).collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        let first = &rest[..rest.len().min(WRITE_SLICES_MAX)];
        let written = retry_on_intr(|| pwritev(file, first, offset))?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut rest, written);
        offset += written as u64;
    }
    Ok(())
}

/// A write that was begun; dropping it unfinished leaves a sink that nobody knows the bytes of.
struct Writing<'a> {
    writer: &'a Writer,
    /// Whether so much was written that the free space has to be looked at again.
    has_to_look: bool,
    is_done: bool,
}

impl<'a> Writing<'a> {
    fn begin(writer: &'a Writer, len: u64) -> Result<Self, StoreError> {
        let mut progress = writer.progress();
        progress.phase.check_open(StoreOperation::Write)?;
        let former = progress.begun;
        progress.begun += len;
        writer.taken.add(len);
        progress.under_way += 1;
        let has_to_look = former / SPACE_CHECK_BYTES != progress.begun / SPACE_CHECK_BYTES;
        let is_done = false;
        Ok(Self {
            writer,
            has_to_look,
            is_done,
        })
    }

    fn end(mut self, offset: u64, len: u64) {
        let mut progress = self.writer.progress();
        progress.written += len;
        progress.room.kept(len);
        drop(progress);
        if len > 0 {
            self.writer.spool.extend(offset + len);
        }
        self.is_done = true;
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut progress = self.writer.progress();
        progress.under_way -= 1;
        if !self.is_done && progress.phase == Phase::Open {
            progress.phase = Phase::Torn;
        }
    }
}

impl BlobSink for DiskSink {
    fn kept(&self) -> u64 {
        self.kept
    }

    fn write_at(&self, offset: u64, chunk: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(Arc::clone(&self.writer).write(offset, vec![chunk]))
    }

    fn write_chunks_at(
        &self,
        offset: u64,
        chunks: Vec<Bytes>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(Arc::clone(&self.writer).write(offset, chunks))
    }

    fn checkpoint(&self, offset: u64) {
        // A write records it.
        let offset = offset.min(self.writer.spool.end());
        self.writer.checkpoint.fetch_max(offset, Ordering::Release);
    }

    fn reader(&self) -> Arc<dyn SpoolReader> {
        Arc::clone(&self.writer.spool) as _
    }

    fn commit(self: Arc<Self>, verified: Verified) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            self.writer.seal(&verified)?;
            let writer = Arc::clone(&self.writer);
            let commit = move |folder: &Folder| writer.commit(folder, &verified);
            let store = self.writer.spool.store();
            store.blocking(StoreOperation::Commit, commit).await
        })
    }

    fn discard(self: Arc<Self>) {
        let mut progress = self.writer.progress();
        if progress.phase != Phase::Gone {
            progress.phase = Phase::Discarded;
        }
    }
}
