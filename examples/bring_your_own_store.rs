//! A blob store of your own, held against the suite that every store has to pass.
//!
//! This one keeps each blob in an unnamed temporary file, so it forgets everything at exit. What
//! matters is the shape: a sink that writes where nobody sees it, a reader of what it has written
//! so far, and a commit that takes a `Verified`, which only the hasher can make.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _, ready};
use futures::stream::{self, BoxStream, StreamExt as _};
use registry_core::testing::conformance;
use registry_core::{
    BlobBody, BlobPayload, BlobSink, BlobStat, BlobStore, ByteRange, Digest, RangeRequest,
    SpoolReader, StoreError, StoreOperation, Verified,
};

type Blobs = Arc<Mutex<HashMap<Digest, (u64, Arc<File>)>>>;

#[derive(Default)]
struct UnnamedFiles {
    blobs: Blobs,
}

impl UnnamedFiles {
    fn blob(&self, digest: Digest) -> Option<(u64, Arc<File>)> {
        let blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        blobs.get(&digest).cloned()
    }
}

impl BlobStore for UnnamedFiles {
    fn stat(&self, digest: Digest) -> BoxFuture<'_, Result<Option<BlobStat>, StoreError>> {
        let stat = self.blob(digest).map(|(size, _)| BlobStat { digest, size });
        ready(Ok(stat)).boxed()
    }

    fn open(
        &self,
        digest: Digest,
        range: Option<RangeRequest>,
    ) -> BoxFuture<'_, Result<Option<BlobBody>, StoreError>> {
        let body = self.blob(digest).map(|(size, file)| {
            let whole = ByteRange::whole(size);
            let nothing = ByteRange::new(size, size).unwrap_or(whole);
            let range = range.map_or(whole, |range| range.resolve(size).unwrap_or(nothing));
            BlobBody {
                size,
                range,
                payload: BlobPayload::File(file),
            }
        });
        ready(Ok(body)).boxed()
    }

    fn stage(&self, _: Option<u64>) -> BoxFuture<'_, Result<Box<dyn BlobSink>, StoreError>> {
        let sink = tempfile::tempfile()
            .map(|file| {
                let spool = Arc::new(Spool {
                    file: Arc::new(file),
                    written: AtomicU64::new(0),
                });
                Box::new(Sink {
                    spool,
                    blobs: Arc::clone(&self.blobs),
                }) as Box<dyn BlobSink>
            })
            .map_err(|error| StoreError::io(StoreOperation::Write, error));
        ready(sink).boxed()
    }

    fn remove(&self, digest: Digest) -> BoxFuture<'_, Result<bool, StoreError>> {
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        ready(Ok(blobs.remove(&digest).is_some())).boxed()
    }

    fn list(&self) -> BoxStream<'_, Result<BlobStat, StoreError>> {
        let blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let stats: Vec<_> = blobs
            .iter()
            .map(|(&digest, &(size, _))| Ok(BlobStat { digest, size }))
            .collect();
        stream::iter(stats).boxed()
    }
}

struct Sink {
    spool: Arc<Spool>,
    blobs: Blobs,
}

struct Spool {
    file: Arc<File>,
    written: AtomicU64,
}

impl BlobSink for Sink {
    fn append(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        // A store for production would hop to a blocking thread here.
        let at = self.spool.written.load(Ordering::Acquire);
        let written = self.spool.file.write_all_at(&chunk, at);
        if written.is_ok() {
            self.spool
                .written
                .store(at + chunk.len() as u64, Ordering::Release);
        }
        ready(written.map_err(|error| StoreError::io(StoreOperation::Write, error))).boxed()
    }

    fn reader(&self) -> Arc<dyn SpoolReader> {
        Arc::clone(&self.spool) as _
    }

    fn commit(self: Box<Self>, verified: Verified) -> BoxFuture<'static, Result<(), StoreError>> {
        let size = self.spool.written.load(Ordering::Acquire);
        if verified.size() != size {
            let what = "other bytes were verified than were written";
            let operation = StoreOperation::Commit;
            return ready(Err(StoreError::Corrupt { operation, what })).boxed();
        }
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let file = &self.spool.file;
        blobs
            .entry(verified.digest())
            .or_insert_with(|| (size, Arc::clone(file)));
        ready(Ok(())).boxed()
    }
}

impl SpoolReader for Spool {
    fn read_at(&self, offset: u64, len: usize) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        let there = self.written.load(Ordering::Acquire).saturating_sub(offset);
        let mut bytes = vec![0; len.min(usize::try_from(there).unwrap_or(usize::MAX))];
        let read = self
            .file
            .read_exact_at(&mut bytes, offset)
            .map(|()| Bytes::from(bytes));
        ready(read.map_err(|error| StoreError::io(StoreOperation::Read, error))).boxed()
    }
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example tells what it does")]
async fn main() {
    conformance::blobs::all(async || Arc::new(UnnamedFiles::default()) as Arc<dyn BlobStore>).await;
    println!("UnnamedFiles keeps every promise of BlobStore");
}
