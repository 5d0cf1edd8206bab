//! A store that holds blobs in files of which a test may do anything, and in slices as it likes.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use registry_core::testing::Gate;
use registry_core::{
    BlobBody, BlobPayload, BlobSink, BlobStat, BlobStore, ByteRange, Digest, FileSlice,
    MemoryStore, RangeRequest, StoreError, StoreOperation,
};
use tempfile::TempDir;

/// A step of a body in slices.
#[derive(Clone)]
pub(crate) enum Step {
    /// These bytes of the file.
    Slice(Arc<File>, std::ops::Range<usize>),
    Wait(Gate),
    Fail,
}

enum Kept {
    File(PathBuf),
    Steps(Vec<Step>),
}

pub(crate) struct Shelf {
    folder: TempDir,
    kept: Mutex<HashMap<Digest, (u64, Kept)>>,
    memory: MemoryStore,
}

impl Shelf {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            folder: tempfile::tempdir().unwrap(),
            kept: Mutex::default(),
            memory: MemoryStore::new(),
        })
    }

    /// Keeps a blob in a file; gives its path.
    pub(crate) fn keep(&self, digest: Digest, bytes: &Bytes) -> PathBuf {
        let path = self.folder.path().join(digest.encoded());
        fs::write(&path, bytes).unwrap();
        self.keep_at(digest, &path, bytes.len());
        path
    }

    /// Keeps what is there already.
    pub(crate) fn keep_at(&self, digest: Digest, path: &Path, size: usize) {
        let kept = (size as u64, Kept::File(path.to_owned()));
        self.kept.lock().unwrap().insert(digest, kept);
    }

    /// Keeps a blob that is given in these steps.
    pub(crate) fn script(&self, digest: Digest, size: usize, steps: Vec<Step>) {
        let kept = (size as u64, Kept::Steps(steps));
        self.kept.lock().unwrap().insert(digest, kept);
    }

    fn body(&self, digest: Digest, range: Option<RangeRequest>) -> Option<BlobBody> {
        let kept = self.kept.lock().unwrap();
        let (size, kept) = kept.get(&digest)?;
        let size = *size;
        let end = ByteRange::new(size, size).unwrap();
        let range = match range {
            Some(range) => range.resolve(size).unwrap_or(end),
            None => ByteRange::whole(size),
        };
        let payload = match kept {
            Kept::File(path) => BlobPayload::File(Arc::new(File::open(path).unwrap())),
            Kept::Steps(steps) => BlobPayload::Slices(slices(steps.clone())),
        };
        Some(BlobBody {
            size,
            range,
            payload,
        })
    }
}

fn slices(steps: Vec<Step>) -> BoxStream<'static, Result<FileSlice, StoreError>> {
    let slices = stream::iter(steps).filter_map(async |step| match step {
        Step::Slice(file, range) => {
            let range = ByteRange::new(range.start as u64, range.end as u64).unwrap();
            Some(Ok(FileSlice { file, range }))
        }
        Step::Wait(gate) => {
            gate.opened().await;
            None
        }
        Step::Fail => Some(Err(StoreError::Corrupt {
            operation: StoreOperation::Read,
            what: "scripted",
        })),
    });
    slices.boxed()
}

impl BlobStore for Shelf {
    fn stat(&self, digest: Digest) -> BoxFuture<'_, Result<Option<BlobStat>, StoreError>> {
        let size = self.kept.lock().unwrap().get(&digest).map(|kept| kept.0);
        Box::pin(async move { Ok(size.map(|size| BlobStat { digest, size })) })
    }

    fn open(
        &self,
        digest: Digest,
        range: Option<RangeRequest>,
    ) -> BoxFuture<'_, Result<Option<BlobBody>, StoreError>> {
        Box::pin(async move { Ok(self.body(digest, range)) })
    }

    fn stage(
        &self,
        digest: Digest,
        size_hint: Option<u64>,
    ) -> BoxFuture<'_, Result<Arc<dyn BlobSink>, StoreError>> {
        BlobStore::stage(&self.memory, digest, size_hint)
    }

    fn remove(&self, digest: Digest) -> BoxFuture<'_, Result<bool, StoreError>> {
        BlobStore::remove(&self.memory, digest)
    }

    fn list(&self) -> BoxStream<'_, Result<BlobStat, StoreError>> {
        BlobStore::list(&self.memory)
    }
}
