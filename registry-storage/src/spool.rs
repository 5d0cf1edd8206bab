//! Blobs being written: a partial file each, read by position while it grows.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use registry_core::{BlobSink, Digest, SpoolReader, StoreError, StoreOperation, Verified};
use tempfile::TempPath;

use crate::disk::Shared;
use crate::folder::Folder;
use crate::options::SPACE_CHECK_BYTES;
use crate::space::Promise;
use crate::step::Step;

/// The partial file, as a sink and its readers share it. It stays readable when its name is gone,
/// or is another.
struct Spool {
    store: Arc<Shared>,
    /// `None` only while it is dropped.
    file: Option<Arc<File>>,
    /// Where the last byte written ends; what is past it is not to be read.
    end: AtomicU64,
}

impl Spool {
    fn file(&self) -> Arc<File> {
        Arc::clone(self.file.as_ref().expect("it is taken only by drop"))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // The last to close a file without a name frees its blocks, which takes a while.
        self.store.drop_blocking(self.file.take());
    }
}

impl SpoolReader for Spool {
    fn read_at(&self, offset: u64, len: usize) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let left = self.end.load(Ordering::Acquire).saturating_sub(offset);
            let len = usize::try_from(left).map_or(len, |left| len.min(left));
            if len == 0 {
                return Ok(Bytes::new());
            }
            let (operation, file) = (StoreOperation::Read, self.file());
            let read = move |_: &Folder| {
                let mut bytes = vec![0; len];
                let read = file.read_exact_at(&mut bytes, offset);
                read.map_err(|source| StoreError::io(operation, source))?;
                Ok(bytes.into())
            };
            self.store.blocking(operation, read).await
        })
    }
}

/// The name of a partial file; dropping it removes the file.
struct Partial {
    store: Arc<Shared>,
    path: Option<TempPath>,
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            self.store.drop_blocking(path);
        }
    }
}

pub(crate) struct DiskSink {
    digest: Digest,
    spool: Arc<Spool>,
    progress: Mutex<Progress>,
}

/// What was written, and what may still be done.
struct Progress {
    /// Bytes written. No byte is written twice, so there is no hole where they are as many as the
    /// spool is long.
    bytes: u64,
    /// Writes that were begun and not yet seen to end.
    under_way: usize,
    /// Why nothing can be written or committed any more.
    ended: Option<&'static str>,
    room: Promise,
    /// Taken by what ends the sink.
    partial: Option<Partial>,
}

impl DiskSink {
    /// Makes a partial file, where there is room for it.
    pub(crate) async fn stage(
        store: Arc<Shared>,
        digest: Digest,
        size_hint: Option<u64>,
    ) -> Result<Self, StoreError> {
        let operation = StoreOperation::Write;
        let make = move |folder: &Folder| {
            let room = folder.space.promise(size_hint.unwrap_or(0))?;
            let partial = folder.layout.new_partial();
            let partial = partial.map_err(|source| StoreError::io(operation, source))?;
            folder.step(Step::Staged);
            Ok((partial.into_parts(), room))
        };
        let ((file, path), room) = store.blocking(operation, make).await?;
        let spool = Arc::new(Spool {
            store: Arc::clone(&store),
            file: Some(Arc::new(file)),
            end: AtomicU64::new(0),
        });
        let path = Some(path);
        let progress = Progress {
            bytes: 0,
            under_way: 0,
            ended: None,
            room,
            partial: Some(Partial { store, path }),
        };
        Ok(Self {
            digest,
            spool,
            progress: Mutex::new(progress),
        })
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // Nothing panics while it holds the lock.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, offset: u64, chunk: Bytes) -> Result<(), StoreError> {
        let operation = StoreOperation::Write;
        let len = chunk.len() as u64;
        let writing = Writing::begin(self)?;
        let bytes = self.progress().bytes;
        let file = self.spool.file();
        let write = move |folder: &Folder| {
            if bytes / SPACE_CHECK_BYTES != (bytes + len) / SPACE_CHECK_BYTES {
                folder.space.check(0)?;
            }
            let written = file.write_all_at(&chunk, offset);
            written.map_err(|source| StoreError::io(operation, source))
        };
        self.spool.store.blocking(operation, write).await?;
        writing.end(offset, len);
        Ok(())
    }

    /// Ends the sink for a commit.
    fn seal(&self, verified: &Verified) -> Result<Option<Partial>, StoreError> {
        let corrupt = |what| StoreError::Corrupt {
            operation: StoreOperation::Commit,
            what,
        };
        let mut progress = self.progress();
        if let Some(what) = progress.ended {
            return Err(corrupt(what));
        }
        progress.ended = Some("it was committed before");
        let end = self.spool.end.load(Ordering::Acquire);
        if progress.under_way > 0 {
            Err(corrupt("it is still being written"))
        } else if verified.digest() != self.digest {
            Err(corrupt("another digest was verified than was staged"))
        } else if progress.bytes != end || end != verified.size() {
            Err(corrupt("other bytes were verified than were written"))
        } else {
            Ok(progress.partial.take())
        }
    }
}

/// A write that was begun; dropping it unfinished leaves a sink that nobody knows the bytes of.
struct Writing<'a> {
    sink: &'a DiskSink,
    is_done: bool,
}

impl<'a> Writing<'a> {
    fn begin(sink: &'a DiskSink) -> Result<Self, StoreError> {
        let mut progress = sink.progress();
        if let Some(what) = progress.ended {
            let operation = StoreOperation::Write;
            return Err(StoreError::Corrupt { operation, what });
        }
        progress.under_way += 1;
        let is_done = false;
        Ok(Self { sink, is_done })
    }

    fn end(mut self, offset: u64, len: u64) {
        let mut progress = self.sink.progress();
        progress.bytes += len;
        progress.room.kept(len);
        drop(progress);
        if len > 0 {
            self.sink
                .spool
                .end
                .fetch_max(offset + len, Ordering::Release);
        }
        self.is_done = true;
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut progress = self.sink.progress();
        progress.under_way -= 1;
        if !self.is_done {
            let torn = "an earlier write to it was not finished";
            progress.ended.get_or_insert(torn);
        }
    }
}

impl BlobSink for DiskSink {
    fn kept(&self) -> u64 {
        0
    }

    fn write_at(&self, offset: u64, chunk: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.write(offset, chunk))
    }

    fn checkpoint(&self, _: u64) {}

    fn reader(&self) -> Arc<dyn SpoolReader> {
        Arc::clone(&self.spool) as _
    }

    fn commit(self: Arc<Self>, verified: Verified) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            let operation = StoreOperation::Commit;
            let partial = self.seal(&verified)?;
            let file = self.spool.file();
            let commit = move |folder: &Folder| {
                let path = partial.and_then(|mut partial| partial.path.take());
                let path = path.expect("only one seals it");
                folder.commit_blob(&file, path, &verified)
            };
            self.spool.store.blocking(operation, commit).await
        })
    }

    fn discard(self: Arc<Self>) {
        let mut progress = self.progress();
        progress.ended = Some("it was discarded before");
        drop(progress.partial.take());
    }
}
