//! A blob store of your own, held against the suite that every store has to pass.
//!
//! This one keeps each blob in an unnamed temporary file, so it forgets everything at exit. What
//! matters is the shape: a sink that writes where nobody sees it, a reader of what it has written
//! so far, and a commit that takes a `Verified`, which only the hasher can make.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

    fn stage(
        &self,
        digest: Digest,
        _: Option<u64>,
    ) -> BoxFuture<'_, Result<Arc<dyn BlobSink>, StoreError>> {
        let sink = tempfile::tempfile()
            .map(|file| {
                let spool = Arc::new(Spool {
                    file: Arc::new(file),
                    written: Mutex::default(),
                });
                Arc::new(Sink {
                    digest,
                    spool,
                    blobs: Arc::clone(&self.blobs),
                }) as Arc<dyn BlobSink>
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
    digest: Digest,
    spool: Arc<Spool>,
    blobs: Blobs,
}

struct Spool {
    file: Arc<File>,
    written: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    /// How many bytes were written, and where the last of them ends. No byte is written twice, so
    /// where the two are equal there is no hole.
    bytes: u64,
    end: u64,
    /// A write failed, or the sink was committed or discarded.
    is_closed: bool,
}

impl Spool {
    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, offset: u64, chunk: &[u8]) -> Result<(), StoreError> {
        let operation = StoreOperation::Write;
        // A store for production would hold no lock here, and hop to a blocking thread: then the
        // future can be dropped while it writes, and a commit has to be refused that comes before
        // the end of a write.
        let mut written = self.written();
        if written.is_closed {
            let what = "nothing can be written to it any more";
            return Err(StoreError::Corrupt { operation, what });
        }
        if let Err(error) = self.file.write_all_at(chunk, offset) {
            written.is_closed = true;
            return Err(StoreError::io(operation, error));
        }
        if !chunk.is_empty() {
            written.bytes += chunk.len() as u64;
            written.end = written.end.max(offset + chunk.len() as u64);
        }
        Ok(())
    }
}

impl BlobSink for Sink {
    // This store keeps nothing of what nobody finished: it has nothing to tell of, and need not
    // remember how far a sink has come.
    fn kept(&self) -> u64 {
        0
    }

    fn checkpoint(&self, _: u64) {}

    fn write_at(&self, offset: u64, chunk: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        async move { self.spool.write(offset, &chunk) }.boxed()
    }

    fn reader(&self) -> Arc<dyn SpoolReader> {
        Arc::clone(&self.spool) as _
    }

    fn commit(self: Arc<Self>, verified: Verified) -> BoxFuture<'static, Result<(), StoreError>> {
        let mut written = self.spool.written();
        let is_whole = written.bytes == written.end && written.end == verified.size();
        if std::mem::replace(&mut written.is_closed, true)
            || !is_whole
            || verified.digest() != self.digest
        {
            let what = "other bytes were verified than were written";
            let operation = StoreOperation::Commit;
            return ready(Err(StoreError::Corrupt { operation, what })).boxed();
        }
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let file = &self.spool.file;
        blobs
            .entry(self.digest)
            .or_insert_with(|| (verified.size(), Arc::clone(file)));
        ready(Ok(())).boxed()
    }

    fn discard(self: Arc<Self>) {
        self.spool.written().is_closed = true;
    }
}

impl SpoolReader for Spool {
    fn read_at(&self, offset: u64, len: usize) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        let there = self.written().end.saturating_sub(offset);
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
