//! The contracts of upkeep: what a store tells of what it keeps, so that a cache can be kept within
//! bounds, inspected and repaired; and where decisions about that are written down.
//!
//! They are apart from the five contracts that serve content: a store without them serves as well,
//! only that its content is never evicted, and nobody can ask what is in it.
//!
//! Reading through these contracts is no access: it changes nothing of what is used when.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::{
    Digest, LinkTarget, Manifest, Origin, Pin, SpoolReader, StoreError, Tag, Timestamp, UpstreamId,
};

/// What is kept, when it was last used, and what needs it.
///
/// # Units
///
/// What can be evicted by itself is a *unit*: a manifest, or a blob that no kept manifest names. A
/// blob that one names is part of an image, and is kept as long as any manifest that is kept names
/// it. Whether a manifest is kept is all that counts, not where it is linked.
///
/// - A unit's place in the order is the time of its last access, or what [`Self::postpone`] said,
///   whichever is later.
/// - Keeping a manifest takes the blobs that it names out of the order.
/// - Removing a manifest puts each blob that it named, that is kept, and that no other kept
///   manifest names, at the very beginning of the order: nothing needs it any more.
/// - A blob that is committed while no kept manifest names it is a unit, accessed at that time.
///
/// # Consistency
///
/// After a crash it agrees with what is kept, or finds out when it is asked: a unit that is listed
/// may have become none, and then [`Self::remove_unused`] says so and takes it out of the order.
pub trait InventoryStore: Send + Sync + 'static {
    /// How often, since it was opened, the store itself has found content missing or damaged, and
    /// has forgotten it. What it was told to remove is not among these.
    fn forgotten(&self) -> u64;

    /// What is kept in all. Its cost does not grow with what is kept.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where it cannot be told.
    fn usage(&self) -> BoxFuture<'_, Result<Usage, StoreError>>;

    /// What is charged to each origin, up to `limit` of them in the order of (upstream,
    /// repository), beginning past `after`; only those of `upstream` where one is given. Content
    /// is charged to the origin that brought it ([`Self::note`]), whoever uses it later.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where it cannot be told.
    fn charges<'a>(
        &'a self,
        upstream: Option<&'a UpstreamId>,
        after: Option<&'a Origin>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Charge>, StoreError>>;

    /// Up to `limit` units from the coldest on, beginning past `after`; only those that are charged
    /// to `origin` where one is given. Its cost grows with `limit`, not with what is kept.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where they cannot be told.
    fn coldest<'a>(
        &'a self,
        origin: Option<&'a Origin>,
        after: Option<Position>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Unit>, StoreError>>;

    /// Moves a unit to `until` in the order, unless it is further already, and leaves its last
    /// access as it is: for one that is found in use, or pinned, so that it is not looked at again
    /// and again. Nothing happens to what is no unit.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; it then stays where it is.
    fn postpone(
        &self,
        target: LinkTarget,
        until: Timestamp,
    ) -> BoxFuture<'_, Result<(), StoreError>>;

    /// What is known of some content that is kept.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where it cannot be told.
    fn record(
        &self,
        target: LinkTarget,
    ) -> BoxFuture<'_, Result<Option<ContentRecord>, StoreError>>;

    /// Notes where some content that is kept came from, and charges it to that origin. The first
    /// note stands until the content is removed. Nothing happens where it is not kept.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; nothing is then noted.
    fn note(
        &self,
        target: LinkTarget,
        provenance: Provenance,
    ) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Up to `limit` manifests that are kept and name `target`, in no order that says anything.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where they cannot be told.
    fn named_by(
        &self,
        target: LinkTarget,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Digest>, StoreError>>;

    /// Up to `limit` origins that `target` is linked in, in their order, beginning past `after`.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where they cannot be told.
    fn linked_in<'a>(
        &'a self,
        target: LinkTarget,
        after: Option<&'a Origin>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Origin>, StoreError>>;

    /// Up to `limit` tags that are recorded as naming a manifest, in the order of their origins.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where they cannot be told.
    fn tagged_as(
        &self,
        manifest: Digest,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(Origin, Tag)>, StoreError>>;

    /// Up to `limit` manifests that are kept, in the order of their digests, beginning past
    /// `after`.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where they cannot be told.
    fn manifests(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Digest>, StoreError>>;

    /// Up to `limit` blobs that are kept, in the order of their digests, beginning past `after`.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where they cannot be told.
    fn blobs(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Digest>, StoreError>>;

    /// Up to `limit` manifests that are linked in an origin, whether they are kept or not, in the
    /// order of their digests, beginning past `after`.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where they cannot be told.
    fn linked_manifests<'a>(
        &'a self,
        origin: &'a Origin,
        after: Option<Digest>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Digest>, StoreError>>;

    /// A manifest, without counting as an access to it.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where it cannot be told.
    fn peek_manifest(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Manifest>, StoreError>>;

    /// A blob, without counting as an access to it. What was opened stays
    /// readable after the blob was removed.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where it cannot be read.
    fn peek_blob(&self, digest: Digest) -> BoxFuture<'_, Result<Option<PeekedBlob>, StoreError>>;

    /// Forgets everything that names `target`: its links in every origin, and, of a manifest, the
    /// tags that name it and the lists of its referrers; how many tags that were. The content
    /// stays, until it is removed.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where some of it may still be known.
    fn forget(&self, target: LinkTarget) -> BoxFuture<'_, Result<usize, StoreError>>;

    /// Removes a blob that no kept manifest names. Between the look and the removal, none that
    /// names it is kept.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where it may still be there.
    fn remove_unused(&self, blob: Digest) -> BoxFuture<'_, Result<RemovedUnused, StoreError>>;
}

/// A blob that is looked at.
#[derive(Clone)]
pub struct PeekedBlob {
    /// Its size in bytes.
    pub size: u64,
    /// Its bytes.
    pub reader: Arc<dyn SpoolReader>,
}

/// What is kept in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of committed content: blobs and manifests, with what the store needs for each beside
    /// it, the index excepted.
    pub bytes: u64,
    /// Committed blobs.
    pub blobs: u64,
    /// Manifests.
    pub manifests: u64,
    /// Bytes that unfinished fills have left, and those that are being written.
    pub unfinished_bytes: u64,
    /// Bytes that may still be written before the store's own reserve is touched; `None` where
    /// there is no such limit.
    pub free_bytes: Option<u64>,
}

/// What is charged to one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The origin that brought it.
    pub origin: Origin,
    /// Bytes, counted as in [`Usage::bytes`].
    pub bytes: u64,
}

/// A place in the order of units: by time, and of the same time by target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// When it was last used, or until when it was postponed.
    pub at: Timestamp,
    /// The unit.
    pub target: LinkTarget,
}

/// What can be evicted by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// What it is, and where in the order.
    pub position: Position,
    /// Its own bytes, counted as in [`Usage::bytes`]: of a manifest, without what it names.
    pub bytes: u64,
    /// Whom it is charged to, where that is known.
    pub origin: Option<Origin>,
}

/// What is known of some content that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentRecord {
    /// Its bytes, counted as in [`Usage::bytes`].
    pub bytes: u64,
    /// When it was last accessed, as far as that was recorded.
    pub accessed_at: Option<Timestamp>,
    /// Where it came from, where that was noted.
    pub provenance: Option<Provenance>,
}

/// Where some content came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The origin that it was fetched for.
    pub origin: Origin,
    /// The endpoint that sent it ([`Answered::endpoint`](crate::Answered::endpoint)).
    pub endpoint: Option<Arc<str>>,
    /// When it was there as a whole.
    pub at: Timestamp,
}

/// What became of a blob that was to be removed if nothing needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovedUnused {
    /// It was removed, and this many bytes with it.
    Removed(u64),
    /// A kept manifest names it: it stays, and is no unit.
    Needed,
    /// It was not there.
    Absent,
}

/// Decisions that outlive the process: what people want kept, and what was removed when and why.
pub trait JournalStore: Send + Sync + 'static {
    /// Records a pin, in place of one that is equal; whether it is new.
    ///
    /// # Durability
    ///
    /// It outlives a crash once this returns.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; it is then not recorded.
    fn put_pin(&self, pin: Pin, since: Timestamp) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Removes a pin; whether it was there.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where it may still be there.
    fn remove_pin<'a>(&'a self, pin: &'a Pin) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// All pins, in their order, and since when each is there. The caller limits their number.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where they cannot be told.
    fn pins(&self) -> BoxFuture<'_, Result<Vec<(Pin, Timestamp)>, StoreError>>;

    /// Writes down a removal. A store keeps the latest of them, as many as it has room for: at
    /// least a thousand.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; it is then not written down.
    fn put_removal(&self, removal: Removal) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Up to `limit` removals, the latest first.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where they cannot be told.
    fn removals(&self, limit: usize) -> BoxFuture<'_, Result<Vec<Removal>, StoreError>>;
}

/// That something was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// When.
    pub at: Timestamp,
    /// What.
    pub target: LinkTarget,
    /// Where it was linked: the first few of these origins.
    pub origins: Vec<Origin>,
    /// Under which tags it was recorded: the first few of them.
    pub tags: Vec<(Origin, Tag)>,
    /// Bytes that it gave free.
    pub bytes: u64,
    /// When it had last been accessed.
    pub accessed_at: Option<Timestamp>,
    /// Why.
    pub reason: RemovalReason,
}

/// Why something was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RemovalReason {
    /// The budget for all content was used up.
    Size,
    /// So was the file system, but for its reserve.
    Disk,
    /// So was the budget of its upstream or of some repositories.
    Quota,
    /// Nobody used it for too long.
    Idle,
    /// A person asked for it.
    Deleted,
    /// What was stored was not what its digest names.
    Damaged,
}

impl RemovalReason {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Size,
        Self::Disk,
        Self::Quota,
        Self::Idle,
        Self::Deleted,
        Self::Damaged,
    ];

    /// A token for it, for logs, metrics and stores.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Disk => "disk",
            Self::Quota => "quota",
            Self::Idle => "idle",
            Self::Deleted => "deleted",
            Self::Damaged => "damaged",
        }
    }
}

/// The contracts of upkeep, of one store.
#[derive(Clone)]
pub struct Upkeep {
    /// What is kept.
    pub inventory: Arc<dyn InventoryStore>,
    /// What was decided about it.
    pub journal: Arc<dyn JournalStore>,
}
