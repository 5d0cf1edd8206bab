//! Reading a blob by position while it is written, and after its sink is gone.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use registry_core::{SpoolReader, StoreError, StoreOperation};
use rustix::buffer::spare_capacity;
use rustix::io::{pread, retry_on_intr};

use crate::disk::Shared;
use crate::folder::{Content, Folder};

/// The partial file, as a sink and its readers share it. It stays readable when its name is gone,
/// or is another.
pub(crate) struct Spool {
    store: Arc<Shared>,
    /// `None` only while it is dropped.
    content: Option<Arc<Content>>,
    /// Where the last byte written ends; what is past it is not to be read.
    end: AtomicU64,
}

impl Spool {
    pub(crate) fn new(store: Arc<Shared>, content: Arc<Content>, end: u64) -> Self {
        Self {
            store,
            content: Some(content),
            end: AtomicU64::new(end),
        }
    }

    pub(crate) fn store(&self) -> &Arc<Shared> {
        &self.store
    }

    pub(crate) fn content(&self) -> &Arc<Content> {
        self.content.as_ref().expect("it is taken only by drop")
    }

    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Shows readers the bytes before `end`.
    pub(crate) fn extend(&self, end: u64) {
        self.end.fetch_max(end, Ordering::Release);
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // The last to close a file without a name frees its blocks, which takes a while.
        let content = self.content.take();
        self.store.in_background(move || drop(content));
    }
}

impl SpoolReader for Spool {
    fn read_at(&self, offset: u64, len: usize) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let left = self.end().saturating_sub(offset);
            let len = usize::try_from(left).map_or(len, |left| len.min(left));
            if len == 0 {
                return Ok(Bytes::new());
            }
            let content = Arc::clone(self.content());
            let read = move |_: &Folder| content.read(offset, len);
            self.store.blocking(StoreOperation::Read, read).await
        })
    }

    fn file(&self) -> Option<Arc<File>> {
        Some(Arc::clone(self.content().file()))
    }
}

impl Content {
    fn read(&self, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        let operation = StoreOperation::Read;
        // Held while it reads: or else another sink could write in between.
        let cut = self.cut();
        let left = cut.map_or(u64::MAX, |cut| cut.saturating_sub(offset));
        if left == 0 {
            let what = "it was not finished, and these bytes of it were given up";
            return Err(StoreError::Corrupt { operation, what });
        }
        let len = usize::try_from(left).map_or(len, |left| len.min(left));
        let read = read_exact(self.file(), offset, len);
        let bytes = read.map_err(|source| StoreError::io(operation, source))?;
        Ok(bytes.into())
    }
}

/// `len` bytes at `offset`.
fn read_exact(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let at = offset + bytes.len() as u64;
        if retry_on_intr(|| pread(file, spare_capacity(&mut bytes), at))? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    // The allocator may give more than was asked for.
    bytes.truncate(len);
    Ok(bytes)
}
