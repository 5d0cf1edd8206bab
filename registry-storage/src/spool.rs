//! Blobs being written: a partial file each, read by position while it grows.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use registry_core::{BlobSink, SpoolReader, StoreError, StoreOperation, Verified};
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
    /// How many bytes are written; what is past them is not to be read.
    written: AtomicU64,
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
            let left = self.written.load(Ordering::Acquire).saturating_sub(offset);
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
    spool: Arc<Spool>,
    partial: Partial,
    room: Promise,
    /// An append was begun and not seen to end: nobody knows what is in the file.
    is_torn: bool,
}

impl DiskSink {
    /// Makes a partial file, where there is room for it.
    pub(crate) async fn stage(
        store: Arc<Shared>,
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
            written: AtomicU64::new(0),
        });
        let path = Some(path);
        Ok(Self {
            spool,
            partial: Partial { store, path },
            room,
            is_torn: false,
        })
    }

    fn torn(operation: StoreOperation) -> StoreError {
        StoreError::Corrupt {
            operation,
            what: "an earlier write to it was not finished",
        }
    }
}

impl BlobSink for DiskSink {
    fn append(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let operation = StoreOperation::Write;
            if std::mem::replace(&mut self.is_torn, true) {
                return Err(Self::torn(operation));
            }
            let (len, offset) = (
                chunk.len() as u64,
                self.spool.written.load(Ordering::Relaxed),
            );
            let file = self.spool.file();
            let write = move |folder: &Folder| {
                if offset / SPACE_CHECK_BYTES != (offset + len) / SPACE_CHECK_BYTES {
                    folder.space.check(0)?;
                }
                let written = file.write_all_at(&chunk, offset);
                written.map_err(|source| StoreError::io(operation, source))
            };
            self.spool.store.blocking(operation, write).await?;
            self.spool.written.store(offset + len, Ordering::Release);
            self.room.kept(len);
            self.is_torn = false;
            Ok(())
        })
    }

    fn reader(&self) -> Arc<dyn SpoolReader> {
        Arc::clone(&self.spool) as _
    }

    fn commit(self: Box<Self>, verified: Verified) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            let operation = StoreOperation::Commit;
            let Self {
                spool,
                mut partial,
                room,
                is_torn,
            } = *self;
            if is_torn {
                return Err(Self::torn(operation));
            }
            let file = spool.file();
            let commit = move |folder: &Folder| {
                let path = partial.path.take().expect("it is taken only here");
                folder.commit_blob(&file, path, &verified)
            };
            let committed = spool.store.blocking(operation, commit).await;
            drop(room);
            committed
        })
    }
}
