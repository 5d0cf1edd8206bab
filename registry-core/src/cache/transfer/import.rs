//! The other way: what an archive has is kept, and an image is served once all of it is there.
//!
//! Blobs are written as they come, verified (I1) and linked nowhere, so that nobody is served them;
//! manifests wait in memory. Only what is then recorded as an image is linked and named by a tag,
//! in the order in which a pull does it (ADR 1, I6). What nothing names in the end is removed.
//! Wherever an import ends, what is there is whole.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::mem;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Span;

use super::parts::is_versioned;
use crate::cache::upkeep::Promise;
use crate::cache::{CacheError, Inner, RegistryCache};
use crate::{
    BlobSink, Digest, DigestMismatch, Hasher, ManifestError, Origin, Platform, Referrers,
    StoreError, StoreOperation, Tag, UpstreamId, Verified,
};

/// Why something cannot be imported.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// Content is not what its name says.
    #[error("the archive has wrong content: {0}")]
    Mismatch(#[from] DigestMismatch),
    /// Content is there twice.
    #[error("the archive has {digest} twice")]
    Duplicate {
        /// Which.
        digest: Digest,
    },
    /// A manifest is none.
    #[error("{digest} is no manifest")]
    Manifest {
        /// Which.
        digest: Digest,
        /// Why not.
        #[source]
        source: ManifestError,
    },
    /// An image is not whole.
    #[error("it is not whole: {what} is neither in the archive nor held")]
    Incomplete {
        /// What of it is missing.
        what: String,
    },
    /// Its upstream is none of those that are configured: nobody could pull it.
    #[error("its registry {upstream} is not configured, so nobody could pull it")]
    UnknownUpstream {
        /// The upstream.
        upstream: UpstreamId,
    },
    /// A limit of the cache is reached.
    #[error("the archive has more than {limit} {what}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// There is no room for it within the limits, and none can be made.
    #[error("there is no room for it within max_size")]
    NoRoom,
    /// The store cannot take it.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// Too many exports and imports are under way.
    #[error("too many exports and imports are under way")]
    Busy,
    /// The cache is shutting down.
    #[error("the cache is shutting down")]
    Closed,
}

/// What an import has brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Manifests and blobs that were kept.
    pub contents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Manifests and blobs that were held already.
    pub contents_held: u64,
    /// Their bytes.
    pub bytes_held: u64,
    /// Those that no image needs, and that were not kept.
    pub contents_unused: u64,
}

/// One image that was imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedImage {
    /// What it names.
    pub digest: Digest,
    /// Its platforms that are here, where it has several.
    pub platforms: Vec<Platform>,
    /// Its manifests that an index names and that are not here.
    pub absent: usize,
}

/// An import under way.
///
/// # Cancellation
///
/// Dropping it leaves the images that were recorded, and removes, on a task of the cache, what was
/// written for others.
pub struct Import {
    state: State,
    /// Documents that were asked for.
    read: HashSet<Digest>,
    _permit: OwnedSemaphorePermit,
}

/// What an import knows.
pub(super) struct State {
    pub(super) cache: Arc<Inner>,
    seen: HashSet<Digest>,
    /// Documents that may be manifests, until somebody says that they are.
    pub(super) documents: HashMap<Digest, Bytes>,
    documents_bytes: usize,
    /// Blobs that were committed by this import and that no image is known to need.
    pub(super) unclaimed: HashSet<Digest>,
    pub(super) imported: Imported,
}

impl RegistryCache {
    /// Begins an import.
    ///
    /// # Errors
    ///
    /// [`ImportError::Busy`]; [`ImportError::Closed`].
    pub fn begin_import(&self) -> Result<Import, ImportError> {
        let cache = &self.inner;
        if cache.tasks.is_closed() {
            return Err(ImportError::Closed);
        }
        let permit = Arc::clone(&cache.transfer_permits).try_acquire_owned();
        Ok(Import {
            _permit: permit.map_err(|_| ImportError::Busy)?,
            read: HashSet::new(),
            state: State {
                cache: Arc::clone(cache),
                seen: HashSet::new(),
                documents: HashMap::new(),
                documents_bytes: 0,
                unclaimed: HashSet::new(),
                imported: Imported::default(),
            },
        })
    }
}

impl Import {
    /// Takes content of the archive, whose bytes are then written to what this gives.
    ///
    /// # Errors
    ///
    /// [`ImportError`]. The import can go on only after [`ImportError::Store`], and only where the
    /// content is not needed.
    pub async fn content(
        &mut self,
        digest: Digest,
        size: u64,
    ) -> Result<Incoming<'_>, ImportError> {
        self.state.content(digest, size).await
    }

    /// A document of the archive that may be a manifest, as it came. One that is read is not
    /// counted as unused.
    pub fn document(&mut self, digest: Digest) -> Option<Bytes> {
        let document = self.state.documents.get(&digest).cloned();
        self.read.extend(document.is_some().then_some(digest));
        document
    }

    /// Records an image, where all of it is there: of an index, all of at least one of its
    /// manifests. Its tag is then served as one that the upstream never confirmed: a pull asks,
    /// where that can be helped.
    ///
    /// # Errors
    ///
    /// [`ImportError`]; of this image, nothing is served then that was not before.
    pub async fn record(
        &mut self,
        origin: &Origin,
        tag: Option<&Tag>,
        digest: Digest,
    ) -> Result<ImportedImage, ImportError> {
        self.state.record(origin, tag, digest).await
    }

    /// Records what refers to a manifest, and those of the referrers that are whole; not where the
    /// upstream has told of it here.
    ///
    /// # Errors
    ///
    /// [`ImportError::Store`].
    pub async fn record_referrers(
        &mut self,
        origin: &Origin,
        subject: Digest,
        referrers: Option<Referrers>,
    ) -> Result<(), ImportError> {
        self.state
            .record_referrers(origin, subject, referrers)
            .await
    }

    /// Ends the import: what no recorded image needs is removed.
    pub async fn finish(mut self) -> Imported {
        let unclaimed = mem::take(&mut self.state.unclaimed);
        let mut imported = self.state.imported;
        let documents = self.state.documents.keys();
        let unread = documents.filter(|digest| !self.read.contains(digest));
        imported.contents_unused += unread.count() as u64;
        let cache = Arc::clone(&self.state.cache);
        for bytes in cache.remove_unclaimed(unclaimed).await {
            imported.contents -= 1;
            imported.bytes -= bytes;
            imported.contents_unused += 1;
        }
        imported
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        let unclaimed = mem::take(&mut self.state.unclaimed);
        if unclaimed.is_empty() || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let cache = Arc::clone(&self.state.cache);
        let tasks = Arc::clone(&cache);
        tasks.tasks.spawn(Span::current(), async move |_| {
            cache.remove_unclaimed(unclaimed).await;
        });
    }
}

impl fmt::Debug for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Import")
            .field("imported", &self.state.imported)
            .finish_non_exhaustive()
    }
}

/// Where one content of an archive goes.
pub struct Incoming<'a> {
    import: &'a mut State,
    digest: Digest,
    size: u64,
    hasher: Hasher,
    place: Place,
}

enum Place {
    /// Small enough to be a manifest, and nothing says yet that it is none.
    Unknown,
    /// Begins as a document does.
    Document(BytesMut),
    /// With the room for it, which lasts until it is kept.
    Blob(Arc<dyn BlobSink>, Option<Promise>),
    /// It is held: only made sure that the archive has the same.
    Held,
}

impl Incoming<'_> {
    /// Takes the next bytes, which come in order.
    ///
    /// # Errors
    ///
    /// [`ImportError::Store`]; [`ImportError::Mismatch`] where there are more than were announced.
    ///
    /// # Cancellation
    ///
    /// The content cannot be finished any more.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), ImportError> {
        let Some(first) = chunk.first() else {
            return Ok(());
        };
        let at = self.hasher.size();
        self.hasher.update(&chunk);
        if self.hasher.size() > self.size {
            return Err(self.refuse());
        }
        if matches!(self.place, Place::Unknown) {
            self.place = if *first == b'{' {
                Place::Document(BytesMut::new())
            } else {
                self.import.place_of_blob(self.digest, self.size).await?
            };
        }
        match &mut self.place {
            Place::Document(bytes) => bytes.extend_from_slice(&chunk),
            Place::Blob(sink, _) => {
                let write = sink.write_at(at, chunk);
                self.import
                    .cache
                    .store(StoreOperation::Write, write)
                    .await?;
            }
            Place::Held | Place::Unknown => {}
        }
        Ok(())
    }

    /// Keeps it, where it is what its name says.
    ///
    /// # Errors
    ///
    /// [`ImportError`]; it is then as if it had never been there.
    pub async fn finish(mut self) -> Result<(), ImportError> {
        let hasher = mem::replace(&mut self.hasher, Hasher::new(self.digest.algorithm()));
        let verified = match hasher.verify(self.digest) {
            Ok(verified) => verified,
            Err(mismatch) => {
                self.discard();
                return Err(mismatch.into());
            }
        };
        let place = mem::replace(&mut self.place, Place::Held);
        match place {
            Place::Held => {
                self.import.imported.contents_held += 1;
                self.import.imported.bytes_held += self.size;
                Ok(())
            }
            Place::Blob(sink, _promise) => self.import.commit(sink, verified).await,
            Place::Document(bytes) if is_versioned(&bytes) => {
                self.import.wait(self.digest, bytes.freeze())
            }
            Place::Document(bytes) => self.import.keep_small(verified, bytes.freeze()).await,
            // Empty.
            Place::Unknown => self.import.keep_small(verified, Bytes::new()).await,
        }
    }

    fn refuse(&mut self) -> ImportError {
        self.discard();
        let hasher = self.hasher.clone();
        match hasher.verify(self.digest) {
            Err(mismatch) => mismatch.into(),
            Ok(_) => StoreError::Corrupt {
                operation: StoreOperation::Write,
                what: "content is longer than was announced",
            }
            .into(),
        }
    }

    fn discard(&mut self) {
        if let Place::Blob(sink, _) = mem::replace(&mut self.place, Place::Held) {
            sink.discard();
        }
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        // What an archive that breaks off has left is not for a fill to go on with: nobody may ever
        // want it again.
        self.discard();
    }
}

impl fmt::Debug for Incoming<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl State {
    async fn content(&mut self, digest: Digest, size: u64) -> Result<Incoming<'_>, ImportError> {
        let limits = &self.cache.limits;
        if !self.seen.insert(digest) {
            return Err(ImportError::Duplicate { digest });
        }
        if self.seen.len() > limits.transfer_entries_max {
            return Err(ImportError::TooMuch {
                what: "manifests and blobs",
                limit: limits.transfer_entries_max,
            });
        }
        let place = if size <= limits.manifest_bytes_max as u64 {
            Place::Unknown
        } else {
            self.place_of_blob(digest, size).await?
        };
        Ok(Incoming {
            hasher: Hasher::new(digest.algorithm()),
            import: self,
            digest,
            size,
            place,
        })
    }

    async fn place_of_blob(&self, digest: Digest, size: u64) -> Result<Place, ImportError> {
        if self.cache.held_size(digest).await? == Some(size) {
            return Ok(Place::Held);
        }
        let promise = self.room(size).await?;
        loop {
            let stage = || self.cache.stores.blobs.stage(digest, Some(size));
            let operation = StoreOperation::Write;
            let sink = self.cache.store_making_room(operation, size, stage).await?;
            // What a fill has left would have to be read back to be hashed; the archive has it all.
            if sink.kept() == 0 {
                return Ok(Place::Blob(sink, promise));
            }
            sink.discard();
        }
    }

    /// Room for so many bytes, made by eviction where there is none.
    pub(super) async fn room(&self, bytes: u64) -> Result<Option<Promise>, ImportError> {
        match self.cache.room(bytes).await {
            Ok(promise) => Ok(promise),
            Err(CacheError::Store(error)) => Err(error.into()),
            Err(_) => Err(ImportError::NoRoom),
        }
    }

    async fn commit(
        &mut self,
        sink: Arc<dyn BlobSink>,
        verified: Verified,
    ) -> Result<(), ImportError> {
        let (digest, size) = (verified.digest(), verified.size());
        let commit = sink.commit(verified);
        self.cache.store(StoreOperation::Commit, commit).await?;
        self.cache.health.took();
        self.unclaimed.insert(digest);
        self.imported.contents += 1;
        self.imported.bytes += size;
        Ok(())
    }

    pub(super) async fn keep_small(
        &mut self,
        verified: Verified,
        bytes: Bytes,
    ) -> Result<(), ImportError> {
        let (digest, size) = (verified.digest(), verified.size());
        match self.place_of_blob(digest, size).await? {
            Place::Blob(sink, _promise) => {
                if !bytes.is_empty() {
                    let write = sink.write_at(0, bytes);
                    self.cache.store(StoreOperation::Write, write).await?;
                }
                self.commit(sink, verified).await
            }
            _ => {
                self.imported.contents_held += 1;
                self.imported.bytes_held += size;
                Ok(())
            }
        }
    }

    fn wait(&mut self, digest: Digest, bytes: Bytes) -> Result<(), ImportError> {
        self.documents_bytes = self.documents_bytes.saturating_add(bytes.len());
        let limit = self.cache.limits.transfer_manifest_bytes_max;
        if self.documents_bytes > limit {
            let what = "bytes of manifests";
            return Err(ImportError::TooMuch { what, limit });
        }
        self.documents.insert(digest, bytes);
        Ok(())
    }
}
