//! The contracts of stores: what an implementor promises, and nothing about how.
//!
//! Five small traits, because they differ in what they must bear: blobs are large and immutable,
//! manifests small and hot, tags and lists of referrers mutable, links what grants access. One type
//! may implement all five. `testing::conformance` (feature `testing`) holds an implementation against
//! every promise made here.
//!
//! What a store has in memory it may tell at once, without a future (`…_at_hand`): that is what a hit
//! costs. One that has nothing there leaves these methods as they are.
//!
//! Absence is data (`Ok(None)`), never an error. Every method may be called from many tasks at
//! once. Dropping a future leaves the store as if the call had either not begun or completed.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::{
    ByteRange, Digest, InventoryStore, JournalStore, Manifest, Origin, RangeRequest, Referrers,
    Tag, Timestamp, Upkeep, UpstreamId, Verified,
};

/// Content by digest: large, immutable.
pub trait BlobStore: Send + Sync + 'static {
    /// Size of a committed blob, without opening it and without counting as an access to it.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where it cannot be told.
    fn stat(&self, digest: Digest) -> BoxFuture<'_, Result<Option<BlobStat>, StoreError>>;

    /// Opens a committed blob, and counts as an access to it. `None` stands for the whole.
    ///
    /// A range that is unsatisfiable gives a body with an empty [`BlobBody::range`] at its end.
    /// A blob whose content is missing or not of its recorded size is absent (`Ok(None)`), and the
    /// implementation forgets it. What was opened stays readable after [`Self::remove`].
    ///
    /// # Errors
    ///
    /// [`StoreError`], where it cannot be read.
    fn open(
        &self,
        digest: Digest,
        range: Option<RangeRequest>,
    ) -> BoxFuture<'_, Result<Option<BlobBody>, StoreError>>;

    /// A place to write a blob that is not yet verified, invisible to every other method here.
    /// `digest` is the name that it is expected to have: what an earlier sink of it left unfinished
    /// may be given to this one ([`BlobSink::kept`]). `size_hint` is its expected size in bytes,
    /// where that is known: a store may refuse at once what it has no room for.
    ///
    /// Any number may be staged at a time, also of the same digest: at most one of them is given
    /// what was left.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSpace`], or another where nothing can be written.
    ///
    /// # Cancellation
    ///
    /// What an earlier sink left stays for a later one, or is lost.
    fn stage(
        &self,
        digest: Digest,
        size_hint: Option<u64>,
    ) -> BoxFuture<'_, Result<Arc<dyn BlobSink>, StoreError>>;

    /// Removes a blob; whether it was there. The record goes before the content (I6).
    ///
    /// # Errors
    ///
    /// [`StoreError`], where it may still be there.
    fn remove(&self, digest: Digest) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Every committed blob, in no order. What is committed or removed meanwhile may be listed or
    /// not. Memory used does not grow with the number of blobs.
    fn list(&self) -> BoxStream<'_, Result<BlobStat, StoreError>>;
}

/// What a store knows of a blob without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobStat {
    /// Its name.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// A blob, opened: a range of it that is ready to be sent.
///
/// `E` is why its bytes can break off: [`StoreError`] from a store, and
/// [`CacheError`](crate::CacheError) from the cache, whose bytes may still be on their way.
#[derive(Debug)]
pub struct BlobBody<E = StoreError> {
    /// Size of the whole blob in bytes.
    pub size: u64,
    /// The bytes of it that [`Self::payload`] holds.
    pub range: ByteRange,
    /// The bytes.
    pub payload: BlobPayload<E>,
}

/// Where a [`BlobBody`]'s bytes are.
#[non_exhaustive]
pub enum BlobPayload<E = StoreError> {
    /// In an open file, at the offsets that [`BlobBody::range`] tells: a server may hand it to the
    /// kernel. It must be read by position only: the file may be shared. The blob is in use for as
    /// long as anybody holds the `Arc`, so a store keeps none of its own.
    File(Arc<std::fs::File>),
    /// In open files, a slice at a time as they are written: exactly the bytes of
    /// [`BlobBody::range`] in their order, no slice empty, or an end in an error. What holds for the
    /// file above holds for each of them.
    Slices(BoxStream<'static, Result<FileSlice, E>>),
    /// In a stream that gives exactly the bytes of [`BlobBody::range`], or ends in an error.
    Stream(BoxStream<'static, Result<Bytes, E>>),
}

impl<E> fmt::Debug for BlobPayload<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File(_) => "File",
            Self::Slices(_) => "Slices",
            Self::Stream(_) => "Stream",
        })
    }
}

/// Bytes that stand in an open file.
#[derive(Clone, Debug)]
pub struct FileSlice {
    /// The file, to be read by position only: it may be shared, and may still grow.
    pub file: Arc<std::fs::File>,
    /// Where in it they stand.
    pub range: ByteRange,
}

/// A blob being written, in parts and in any order.
///
/// It ends in one of three ways: [`Self::commit`] makes it visible, [`Self::discard`] throws it
/// away, and dropping it, with the last of its `Arc`s, leaves it unfinished. What was checkpointed
/// until then a store may keep, also across a restart of the process, for a later sink of the same
/// digest; everything else is gone. So whoever finds the bytes to be wrong has to discard them, and
/// whoever merely could not get all of them, or is being shut down, drops the sink.
pub trait BlobSink: Send + Sync + 'static {
    /// How many bytes from the beginning an earlier sink of the same digest left behind: readable
    /// as if they had been written here, and as little to be written again. Nobody has verified
    /// them, and a power cut may have spoilt them: hash them. 0 where there are none.
    fn kept(&self) -> u64;

    /// Writes `chunk` at `offset`; once this returns, readers see it.
    ///
    /// Parts may be written at the same time and in any order, and leave holes between them. No
    /// byte may be written twice, whether by this sink or by the one that left what was kept: what
    /// comes of that is unspecified.
    ///
    /// # Cancellation
    ///
    /// Dropping the future may leave any part of `chunk` written, or still being written for a
    /// while: the sink cannot be committed any more. What was checkpointed stays as good as it was.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] where the sink was committed or discarded before, or cannot be
    /// committed any more; any other where the bytes could not be written, after which it cannot.
    fn write_at(&self, offset: u64, chunk: Bytes) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Writes `chunks` one behind the other from `offset` on: [`Self::write_at`] in one go, where the
    /// store can do that.
    ///
    /// # Cancellation
    ///
    /// As [`Self::write_at`]; any part of any of them may be written.
    ///
    /// # Errors
    ///
    /// As [`Self::write_at`].
    fn write_chunks_at(
        &self,
        offset: u64,
        chunks: Vec<Bytes>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let mut at = offset;
            for chunk in chunks {
                let len = chunk.len() as u64;
                self.write_at(at, chunk).await?;
                at += len;
            }
            Ok(())
        })
    }

    /// Says that every byte before `offset` is written, kept ones included: a later sink of the
    /// digest may go on from there. Lower offsets than before are ignored.
    ///
    /// It is cheap and waits for nothing, so it may follow every write. A store may ignore it, or
    /// after a crash know an earlier one only.
    fn checkpoint(&self, offset: u64);

    /// A reader of what was written so far, and of what will be. It outlives the sink: after a
    /// commit or a discard it reads all that was written; after a drop all that was checkpointed,
    /// and of the rest some or nothing.
    fn reader(&self) -> Arc<dyn SpoolReader>;

    /// Makes the blob visible under the digest that was verified. Where another sink has committed
    /// it already, this one changes nothing. Afterwards nothing can be written to it.
    ///
    /// # Durability
    ///
    /// Once this returns, the blob outlives a crash; until then, a crash leaves the whole of it or
    /// nothing (I6).
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the blob committed, or the sink as if it was dropped.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] where `verified` is of another digest than was staged, or the bytes
    /// written are not exactly as many as were verified, from the first on: where there are too
    /// few, too many or a hole, or where a write was not seen to end. Any other where it could not
    /// be made durable. Nothing is committed then, and the sink is as if it was dropped.
    fn commit(self: Arc<Self>, verified: Verified) -> BoxFuture<'static, Result<(), StoreError>>;

    /// Throws away what was written, kept bytes included, so that no later sink is given any of
    /// it: for bytes that were found to be wrong. Waits for nothing; a crash soon after may undo
    /// it. Afterwards nothing can be written or committed.
    fn discard(self: Arc<Self>);
}

/// Reads a blob that may still be growing.
pub trait SpoolReader: Send + Sync + 'static {
    /// Up to `len` bytes at `offset`: all of them where they are written already, fewer where the
    /// last byte written comes before, none past it.
    ///
    /// Bytes of a hole, not yet written but followed by some that are, must not be asked for: what
    /// comes of that is unspecified.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where written bytes cannot be read back.
    fn read_at(&self, offset: u64, len: usize) -> BoxFuture<'_, Result<Bytes, StoreError>>;

    /// The file that the bytes stand in, each at its offset in the blob, where there is such a
    /// file: so that whoever sends them may leave it to the kernel. Only what may be asked of
    /// [`Self::read_at`] may be read there, by position.
    ///
    /// What is read there is read late, and nobody learns when. So the sink's end matters: what was
    /// kept or checkpointed, and what was committed, stays as it is for as long as anybody has the
    /// file, whatever becomes of the sink. The rest may be cut off there after a drop, or be
    /// another's bytes of the same digest, or zeros between those: it is not to be read there.
    fn file(&self) -> Option<Arc<std::fs::File>> {
        None
    }
}

/// Manifests by digest: small, hot, immutable.
pub trait ManifestStore: Send + Sync + 'static {
    /// The manifest. One whose kept bytes are not what its digest names is absent, and forgotten.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where it cannot be told.
    fn manifest(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Manifest>, StoreError>>;

    /// The same, where it can be told at once. `None` tells nothing: it has to be asked for.
    fn manifest_at_hand(&self, digest: Digest) -> Option<Manifest> {
        let _ = digest;
        None
    }

    /// Keeps a manifest. One that is kept already keeps its media type.
    ///
    /// # Durability
    ///
    /// It outlives a crash soon after this returns; a crash before that leaves none.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; nothing is kept then.
    fn put_manifest(&self, manifest: Manifest) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Removes a manifest; whether it was there.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where it may still be there.
    fn remove_manifest(&self, digest: Digest) -> BoxFuture<'_, Result<bool, StoreError>>;
}

/// What an upstream said a tag names, and when it last said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRecord {
    /// The manifest that the tag names.
    pub digest: Digest,
    /// When the tag was first seen to name it.
    pub fetched_at: Timestamp,
    /// When the upstream last confirmed that it does; [`Timestamp::NEVER`] where it was imported.
    pub validated_at: Timestamp,
}

/// Tags: the names that change what they name, keyed by upstream and repository (I4).
pub trait TagStore: Send + Sync + 'static {
    /// What is recorded of a tag.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where it cannot be told.
    fn tag<'a>(
        &'a self,
        origin: &'a Origin,
        tag: &'a Tag,
    ) -> BoxFuture<'a, Result<Option<TagRecord>, StoreError>>;

    /// The same, where it can be told at once. `None` tells nothing: it has to be asked for.
    fn tag_at_hand(&self, origin: &Origin, tag: &Tag) -> Option<TagRecord> {
        let _ = (origin, tag);
        None
    }

    /// Records a tag, in place of what was recorded of it: who asks once this has returned is told of
    /// nothing else.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the former record then stays.
    fn put_tag<'a>(
        &'a self,
        origin: &'a Origin,
        tag: &'a Tag,
        record: TagRecord,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Forgets a tag; whether it was recorded. Who asks once this has returned is told of none.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where it may still be recorded.
    fn remove_tag<'a>(
        &'a self,
        origin: &'a Origin,
        tag: &'a Tag,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Up to `limit` tags of a repository in the order of their bytes, beginning past `after`.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where they cannot be told.
    fn tags<'a>(
        &'a self,
        origin: &'a Origin,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Tag>, StoreError>>;
}

/// What a link grants access to. Blobs and manifests are apart, so that a layer cannot be served
/// as a manifest with a type of somebody's choosing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LinkTarget {
    /// A blob.
    Blob(Digest),
    /// A manifest.
    Manifest(Digest),
}

impl LinkTarget {
    /// The digest, of whichever it is.
    pub fn digest(self) -> Digest {
        match self {
            Self::Blob(digest) | Self::Manifest(digest) => digest,
        }
    }
}

/// That some content may be served in a repository (I5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The content.
    pub target: LinkTarget,
    /// Its size in bytes, as the manifest that names it tells.
    pub size: Option<u64>,
}

/// Which content may be served in which repository (I5). Says nothing of whether it is stored.
pub trait LinkStore: Send + Sync + 'static {
    /// The link, where there is one.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where it cannot be told.
    fn linked<'a>(
        &'a self,
        origin: &'a Origin,
        target: LinkTarget,
    ) -> BoxFuture<'a, Result<Option<Link>, StoreError>>;

    /// The same, where it can be told at once. `None` tells nothing: it has to be asked for.
    fn link_at_hand(&self, origin: &Origin, target: LinkTarget) -> Option<Link> {
        let _ = (origin, target);
        None
    }

    /// Links all of `links`, or none. A link that exists keeps its size where the new one has none.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; none is then linked that was not before.
    fn link<'a>(
        &'a self,
        origin: &'a Origin,
        links: Vec<Link>,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Whether all of `links` are made, so that [`Self::link`] would change nothing, where that can be
    /// told at once. `false` tells nothing.
    fn has_at_hand(&self, origin: &Origin, links: &[Link]) -> bool {
        let _ = (origin, links);
        false
    }

    /// Removes a link; whether it was there. Who asks once this has returned is told of none (I5),
    /// whatever was told before and to whom.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where it may still be there.
    fn unlink<'a>(
        &'a self,
        origin: &'a Origin,
        target: LinkTarget,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Up to `limit` origins that have a link, in the order of (upstream, repository), beginning
    /// past `after`; only those of `upstream` where one is given. Its cost grows with `limit`, not
    /// with the number of links.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where they cannot be told.
    fn origins<'a>(
        &'a self,
        upstream: Option<&'a UpstreamId>,
        after: Option<&'a Origin>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Origin>, StoreError>>;
}

/// What an upstream said refers to a manifest, and when it last said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferrersRecord {
    /// The referrers; `None` where it lists none for anybody: it has no such API, or no such
    /// repository.
    pub referrers: Option<Referrers>,
    /// When it last said so; [`Timestamp::NEVER`] where it was imported.
    pub validated_at: Timestamp,
}

/// Lists of referrers, keyed by upstream and repository (I4) and by their subject, which need not be
/// stored.
pub trait ReferrersStore: Send + Sync + 'static {
    /// What is recorded of a subject's referrers.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where it cannot be told.
    fn referrers<'a>(
        &'a self,
        origin: &'a Origin,
        subject: Digest,
    ) -> BoxFuture<'a, Result<Option<ReferrersRecord>, StoreError>>;

    /// Records a subject's referrers, in place of what was recorded of them.
    ///
    /// # Limits
    ///
    /// A store may have a largest record. One that is larger is not kept, nor is the one before it:
    /// nothing is recorded then, and that is no error.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the former record then stays.
    fn put_referrers<'a>(
        &'a self,
        origin: &'a Origin,
        subject: Digest,
        record: ReferrersRecord,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Forgets a subject's referrers; whether any record was there.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where it may still be recorded.
    fn remove_referrers<'a>(
        &'a self,
        origin: &'a Origin,
        subject: Digest,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;
}

/// The stores that a cache keeps its content in.
#[derive(Clone)]
pub struct Stores {
    /// Blobs.
    pub blobs: Arc<dyn BlobStore>,
    /// Manifests.
    pub manifests: Arc<dyn ManifestStore>,
    /// Tags.
    pub tags: Arc<dyn TagStore>,
    /// Links.
    pub links: Arc<dyn LinkStore>,
    /// Lists of referrers.
    pub referrers: Arc<dyn ReferrersStore>,
    /// What is kept; without it, nothing is ever evicted, and nobody can ask what there is.
    pub upkeep: Option<Upkeep>,
}

impl Stores {
    /// All five in one, without upkeep.
    pub fn of<S>(store: Arc<S>) -> Self
    where
        S: BlobStore + ManifestStore + TagStore + LinkStore + ReferrersStore,
    {
        Self {
            blobs: Arc::clone(&store) as _,
            manifests: Arc::clone(&store) as _,
            tags: Arc::clone(&store) as _,
            links: Arc::clone(&store) as _,
            referrers: store,
            upkeep: None,
        }
    }

    /// The same, with upkeep by `store`, which keeps their content.
    pub fn kept_by<S: InventoryStore + JournalStore>(self, store: Arc<S>) -> Self {
        let upkeep = Upkeep {
            inventory: Arc::clone(&store) as _,
            journal: store,
        };
        Self {
            upkeep: Some(upkeep),
            ..self
        }
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").finish_non_exhaustive()
    }
}

/// Why a store could not do what was asked. Cloning shares the source.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No room: the disk, or the limit set for it, is full.
    #[error("no space left to {operation}")]
    NoSpace {
        /// What was being done.
        operation: StoreOperation,
    },
    /// What is stored is not what was stored.
    #[error("cannot {operation}: {what}")]
    Corrupt {
        /// What was being done.
        operation: StoreOperation,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The store has been closed.
    #[error("cannot {operation}: the store is closed")]
    Closed {
        /// What was being done.
        operation: StoreOperation,
    },
    /// It did not answer in time.
    #[error("cannot {operation}: the store did not answer in time")]
    Timeout {
        /// What was being done.
        operation: StoreOperation,
    },
    /// The device or the system refused.
    #[error("cannot {operation}")]
    Io {
        /// What was being done.
        operation: StoreOperation,
        /// Why not.
        #[source]
        source: Arc<io::Error>,
    },
}

impl StoreError {
    /// The error for a failed system call: [`Self::NoSpace`] where the disk or a quota is full.
    pub fn io(operation: StoreOperation, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { operation }
            }
            _ => Self::Io {
                operation,
                source: Arc::new(source),
            },
        }
    }

    /// Whether what is stored cannot be read, and not only was not read in time.
    pub(crate) fn is_unreadable(&self) -> bool {
        matches!(
            self,
            Self::Corrupt { operation, .. } | Self::Io { operation, .. }
                if *operation == StoreOperation::Read
        )
    }
}

/// What a store was asked to do, for its errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreOperation {
    /// Open the store itself.
    OpenStore,
    /// Tell what is known of something.
    Stat,
    /// Open or read content.
    Read,
    /// Begin or go on writing content.
    Write,
    /// Make content visible.
    Commit,
    /// Remove something.
    Remove,
    /// List what there is.
    List,
    /// Read or write a record of the index.
    Index,
}

impl fmt::Display for StoreOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenStore => "open the store",
            Self::Stat => "look up content",
            Self::Read => "read content",
            Self::Write => "write content",
            Self::Commit => "commit content",
            Self::Remove => "remove content",
            Self::List => "list content",
            Self::Index => "use the index",
        })
    }
}
