//! The store as its users hold it: async in front of a [`Folder`].

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use futures::future::{BoxFuture, ready};
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use registry_core::{
    BlobBody, BlobPayload, BlobSink, BlobStat, BlobStore, ByteRange, Digest, Link, LinkStore,
    LinkTarget, Manifest, ManifestStore, Origin, RangeRequest, ReferrersRecord, ReferrersStore,
    StoreError, StoreOperation, Tag, TagRecord, TagStore, UpstreamId,
};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::task::TaskTracker;

use crate::error::OpenError;
use crate::folder::{Folder, Recovery};
use crate::hot::Hot;
use crate::options::{DiskOptions, LIST_PAGE_ENTRIES};
use crate::sink::DiskSink;

/// The embedded store: all five contracts over one data folder. Cloning gives another handle to
/// the same store.
///
/// Every call that touches the disk or the index hops to a thread that may block. A manifest, a link
/// or a tag that was asked for lately is in memory and costs no hop.
///
/// Dropping the last handle loses access times and what the index holds in memory for at most
/// [`DiskOptions::index_flush_every`]; [`Self::close`] loses nothing.
#[derive(Clone)]
pub struct DiskStore {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    /// `None` once the store is closed.
    folder: RwLock<Option<Arc<Folder>>>,
    /// Closed with the store.
    turns: Arc<Semaphore>,
    hops: TaskTracker,
    /// How many there were.
    #[cfg(feature = "testing")]
    hopped: std::sync::atomic::AtomicU64,
    hot: Arc<Hot>,
    recovery: Recovery,
}

impl DiskStore {
    /// Opens a data folder, and makes it if it is not there.
    ///
    /// The time it takes does not grow with what is stored, except where the index has to be made
    /// anew: then it grows with the number of blobs, manifests and their links.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    ///
    /// # Cancellation
    ///
    /// The folder is opened nevertheless, and closed at once.
    pub async fn open(dir: impl Into<PathBuf>) -> Result<Self, OpenError> {
        Self::open_with(dir, DiskOptions::default()).await
    }

    /// The same, with other limits.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    ///
    /// # Cancellation
    ///
    /// The folder is opened nevertheless, and closed at once.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn open_with(
        dir: impl Into<PathBuf>,
        options: DiskOptions,
    ) -> Result<Self, OpenError> {
        let dir = dir.into();
        let turns = Arc::new(Semaphore::new(options.blocking_calls_max));
        let opened = tokio::task::spawn_blocking(move || Folder::open(dir, &options));
        let (folder, recovery) = match opened.await {
            Ok(opened) => opened?,
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        };
        let shared = Shared {
            hot: Arc::clone(&folder.hot),
            folder: RwLock::new(Some(Arc::new(folder))),
            turns,
            hops: TaskTracker::new(),
            #[cfg(feature = "testing")]
            hopped: std::sync::atomic::AtomicU64::default(),
            recovery,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// What opening had to put right.
    pub fn recovery(&self) -> &Recovery {
        &self.shared.recovery
    }

    /// How often since opening content was found missing or damaged, and was forgotten.
    pub fn forgotten(&self) -> u64 {
        self.shared.folder().map_or(0, |folder| folder.forgotten())
    }

    /// Waits for the calls that are under way, makes everything durable and gives the folder free.
    /// Every later call, also of a sink or a reader, is [`StoreError::Closed`]. Closing twice is
    /// fine.
    ///
    /// # Errors
    ///
    /// [`StoreError`], where not everything could be made durable: what a crash would have left
    /// is then there.
    pub async fn close(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        shared.turns.close();
        shared.hops.close();
        shared.hops.wait().await;
        let Some(folder) = shared.take_folder() else {
            return Ok(());
        };
        // Dropped where it may block: sled flushes once more.
        let closing = tokio::task::spawn_blocking(move || folder.close());
        joined(StoreOperation::Index, closing.await)
    }
}

impl fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskStore")
            .field("recovery", &self.shared.recovery)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Runs `work` where it may block: the only way from here into the folder.
    ///
    /// # Cancellation
    ///
    /// Before its turn it does not run; once it runs, it runs to its end.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        operation: StoreOperation,
        work: impl FnOnce(&Folder) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let closed = StoreError::Closed { operation };
        let Ok(turn) = Arc::clone(&self.turns).acquire_owned().await else {
            return Err(closed);
        };
        let Some(folder) = self.folder() else {
            return Err(closed);
        };
        let hop = self.hop(move || {
            folder.settle_reopened();
            let result = work(&folder);
            // In this order: whoever waits for all turns finds nobody in the folder.
            drop(folder);
            drop(turn);
            result
        });
        joined(operation, hop.await)
    }

    fn hop<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        #[cfg(feature = "testing")]
        self.hopped
            .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        self.hops.spawn_blocking(work)
    }

    #[cfg(feature = "testing")]
    pub(crate) fn hopped(&self) -> u64 {
        self.hopped.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Runs `work`, which nobody waits for but [`DiskStore::close`], where it may block; for what
    /// is dropped.
    pub(crate) fn in_background(&self, work: impl FnOnce() + Send + 'static) {
        match Handle::try_current() {
            Ok(runtime) => drop(self.hops.spawn_blocking_on(work, &runtime)),
            // Not on a runtime's thread, so it may block here.
            Err(_) => work(),
        }
    }

    fn take_folder(&self) -> Option<Arc<Folder>> {
        let mut folder = self.folder.write().unwrap_or_else(PoisonError::into_inner);
        folder.take()
    }

    /// The folder, until the store is closed. Whoever holds it keeps other processes out, and must
    /// drop it where it may block.
    pub(crate) fn folder(&self) -> Option<Arc<Folder>> {
        let folder = self.folder.read().unwrap_or_else(PoisonError::into_inner);
        folder.clone()
    }

    /// What is in memory, and may be told without a hop; nothing once the store is closed.
    fn hot(&self) -> Option<&Hot> {
        (!self.turns.is_closed()).then_some(&*self.hot)
    }

    /// A manifest that is in memory.
    fn hot_manifest(&self, digest: Digest) -> Option<Manifest> {
        let hot = self.hot()?;
        let manifest = hot.manifests.get(&digest)?;
        if hot.touch(LinkTarget::Manifest(digest)) {
            self.write_accesses();
        }
        Some(manifest)
    }

    /// Settles manifests in the background, where it is time to, unless there is no turn free: then
    /// whoever comes next does.
    fn settle_manifests(&self) {
        let Some(folder) = self.folder().filter(|folder| folder.has_to_settle()) else {
            return;
        };
        if let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() {
            self.hop(move || {
                folder.settle_manifests();
                drop(folder);
                drop(turn);
            });
        }
    }

    /// Runs `work`, which changes manifests, as [`Self::blocking`] does.
    pub(crate) async fn changing_manifests<T: Send + 'static>(
        &self,
        operation: StoreOperation,
        work: impl FnOnce(&Folder) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let changed = self.blocking(operation, work).await;
        self.settle_manifests();
        changed
    }

    /// Writes access times in the background, unless there is no turn free: then they are still
    /// due.
    fn write_accesses(&self) {
        let turn = Arc::clone(&self.turns).try_acquire_owned();
        if let (Ok(turn), Some(folder)) = (turn, self.folder()) {
            self.hop(move || {
                folder.write_accesses();
                drop(folder);
                drop(turn);
            });
        }
    }
}

/// What a blocking call gave. A panic in it goes on here; one that the runtime did not begin
/// because it is shutting down found the store closed.
fn joined<T>(
    operation: StoreOperation,
    joined: Result<Result<T, StoreError>, JoinError>,
) -> Result<T, StoreError> {
    match joined.map_err(JoinError::try_into_panic) {
        Ok(result) => result,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => Err(StoreError::Closed { operation }),
    }
}

impl BlobStore for DiskStore {
    fn stat(&self, digest: Digest) -> BoxFuture<'_, Result<Option<BlobStat>, StoreError>> {
        let stat = move |folder: &Folder| folder.stat_blob(digest);
        Box::pin(self.shared.blocking(StoreOperation::Stat, stat))
    }

    fn open(
        &self,
        digest: Digest,
        range: Option<RangeRequest>,
    ) -> BoxFuture<'_, Result<Option<BlobBody>, StoreError>> {
        let open = move |folder: &Folder| {
            let blob = folder.find_blob(digest)?;
            Ok(blob.map(|(file, size)| BlobBody {
                size,
                range: bytes_of(range, size),
                payload: BlobPayload::File(Arc::new(file)),
            }))
        };
        Box::pin(self.shared.blocking(StoreOperation::Read, open))
    }

    fn stage(
        &self,
        digest: Digest,
        size_hint: Option<u64>,
    ) -> BoxFuture<'_, Result<Arc<dyn BlobSink>, StoreError>> {
        Box::pin(async move {
            let sink = DiskSink::stage(Arc::clone(&self.shared), digest, size_hint).await?;
            Ok(Arc::new(sink) as Arc<dyn BlobSink>)
        })
    }

    fn remove(&self, digest: Digest) -> BoxFuture<'_, Result<bool, StoreError>> {
        let remove = move |folder: &Folder| folder.remove_blob(digest);
        Box::pin(self.shared.blocking(StoreOperation::Remove, remove))
    }

    fn list(&self) -> BoxStream<'_, Result<BlobStat, StoreError>> {
        let next_page = async |after: Option<Digest>| {
            let page = move |folder: &Folder| folder.index.blobs(after, LIST_PAGE_ENTRIES);
            let page = self.shared.blocking(StoreOperation::List, page).await?;
            let last = page.last().map(|stat| stat.digest);
            Ok(last.map(|last| (stream::iter(page).map(Ok), Some(last))))
        };
        stream::try_unfold(None, next_page).try_flatten().boxed()
    }
}

fn bytes_of(range: Option<RangeRequest>, size: u64) -> ByteRange {
    let nothing = ByteRange::new(size, size).expect("its end is its start");
    range.map_or(ByteRange::whole(size), |range| {
        range.resolve(size).unwrap_or(nothing)
    })
}

impl ManifestStore for DiskStore {
    fn manifest_at_hand(&self, digest: Digest) -> Option<Manifest> {
        self.shared.hot_manifest(digest)
    }

    fn manifest(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Manifest>, StoreError>> {
        if let Some(manifest) = self.manifest_at_hand(digest) {
            return Box::pin(ready(Ok(Some(manifest))));
        }
        let load = move |folder: &Folder| folder.manifest(digest);
        Box::pin(self.shared.blocking(StoreOperation::Read, load))
    }

    fn put_manifest(&self, manifest: Manifest) -> BoxFuture<'_, Result<(), StoreError>> {
        let put = move |folder: &Folder| folder.put_manifest(&manifest);
        Box::pin(self.shared.changing_manifests(StoreOperation::Commit, put))
    }

    fn remove_manifest(&self, digest: Digest) -> BoxFuture<'_, Result<bool, StoreError>> {
        let remove = move |folder: &Folder| folder.remove_manifest(digest);
        Box::pin(
            self.shared
                .changing_manifests(StoreOperation::Remove, remove),
        )
    }
}

impl TagStore for DiskStore {
    fn tag_at_hand(&self, origin: &Origin, tag: &Tag) -> Option<TagRecord> {
        self.shared.hot()?.rows.tag(origin, tag)
    }

    fn tag<'a>(
        &'a self,
        origin: &'a Origin,
        tag: &'a Tag,
    ) -> BoxFuture<'a, Result<Option<TagRecord>, StoreError>> {
        if let Some(record) = self.tag_at_hand(origin, tag) {
            return Box::pin(ready(Ok(Some(record))));
        }
        let (origin, tag) = (origin.clone(), tag.clone());
        let get = move |folder: &Folder| folder.index.load_tag(&origin, &tag);
        Box::pin(self.shared.blocking(StoreOperation::Index, get))
    }

    fn put_tag<'a>(
        &'a self,
        origin: &'a Origin,
        tag: &'a Tag,
        record: TagRecord,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let (origin, tag) = (origin.clone(), tag.clone());
        let put = move |folder: &Folder| folder.index.put_tag(&origin, &tag, &record);
        Box::pin(self.shared.blocking(StoreOperation::Index, put))
    }

    fn remove_tag<'a>(
        &'a self,
        origin: &'a Origin,
        tag: &'a Tag,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        let (origin, tag) = (origin.clone(), tag.clone());
        let remove = move |folder: &Folder| folder.index.remove_tag(&origin, &tag);
        Box::pin(self.shared.blocking(StoreOperation::Index, remove))
    }

    fn tags<'a>(
        &'a self,
        origin: &'a Origin,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Tag>, StoreError>> {
        let (origin, after) = (origin.clone(), after.map(str::to_owned));
        let page = move |folder: &Folder| folder.index.tags(&origin, after.as_deref(), limit);
        Box::pin(self.shared.blocking(StoreOperation::List, page))
    }
}

impl LinkStore for DiskStore {
    fn link_at_hand(&self, origin: &Origin, target: LinkTarget) -> Option<Link> {
        self.shared.hot()?.rows.link(origin, target)
    }

    fn has_at_hand(&self, origin: &Origin, links: &[Link]) -> bool {
        let hot = self.shared.hot();
        hot.is_some_and(|hot| hot.rows.has_links(origin, links))
    }

    fn linked<'a>(
        &'a self,
        origin: &'a Origin,
        target: LinkTarget,
    ) -> BoxFuture<'a, Result<Option<Link>, StoreError>> {
        if let Some(link) = self.link_at_hand(origin, target) {
            return Box::pin(ready(Ok(Some(link))));
        }
        let origin = origin.clone();
        let get = move |folder: &Folder| folder.index.load_link(&origin, target);
        Box::pin(self.shared.blocking(StoreOperation::Index, get))
    }

    fn link<'a>(
        &'a self,
        origin: &'a Origin,
        links: Vec<Link>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let origin = origin.clone();
        let link = move |folder: &Folder| folder.link(&origin, &links);
        Box::pin(self.shared.changing_manifests(StoreOperation::Index, link))
    }

    fn unlink<'a>(
        &'a self,
        origin: &'a Origin,
        target: LinkTarget,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        let origin = origin.clone();
        let unlink = move |folder: &Folder| folder.unlink(&origin, target);
        Box::pin(
            self.shared
                .changing_manifests(StoreOperation::Index, unlink),
        )
    }

    fn origins<'a>(
        &'a self,
        upstream: Option<&'a UpstreamId>,
        after: Option<&'a Origin>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Origin>, StoreError>> {
        let (upstream, after) = (upstream.cloned(), after.cloned());
        let page = move |folder: &Folder| {
            folder
                .index
                .origins(upstream.as_ref(), after.as_ref(), limit)
        };
        Box::pin(self.shared.blocking(StoreOperation::List, page))
    }
}

impl ReferrersStore for DiskStore {
    fn referrers<'a>(
        &'a self,
        origin: &'a Origin,
        subject: Digest,
    ) -> BoxFuture<'a, Result<Option<ReferrersRecord>, StoreError>> {
        let origin = origin.clone();
        let get = move |folder: &Folder| folder.index.referrers(&origin, subject);
        Box::pin(self.shared.blocking(StoreOperation::Index, get))
    }

    fn put_referrers<'a>(
        &'a self,
        origin: &'a Origin,
        subject: Digest,
        record: ReferrersRecord,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let origin = origin.clone();
        let put = move |folder: &Folder| folder.index.put_referrers(&origin, subject, &record);
        Box::pin(self.shared.blocking(StoreOperation::Index, put))
    }

    fn remove_referrers<'a>(
        &'a self,
        origin: &'a Origin,
        subject: Digest,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        let origin = origin.clone();
        let remove = move |folder: &Folder| folder.index.remove_referrers(&origin, subject);
        Box::pin(self.shared.blocking(StoreOperation::Index, remove))
    }
}
