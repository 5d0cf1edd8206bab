//! The index: sled, and all that has to be known to trust it.
//!
//! What sled 0.34 does that this module deals with:
//! - It panics on some damage: every call into it is caught, and a panic is taken for damage.
//! - It drops what it cannot read at the end of its log and says nothing: see
//!   [`FormatFile`](crate::format::FormatFile).
//! - Its flush ends in `sync_file_range`, which does not outlive a power cut: [`Index::flush`]
//!   syncs the file itself.
//! - It notes where its pages are when it is opened, and never else: the next opening reads all of
//!   the log that came later. [`Index::close`] opens it once more where that is much.
//! - Once a write has failed (a full disk), every later one fails until it is opened anew: a write
//!   does that here, at most every [`INDEX_REVIVE_AFTER`]. What was not flushed is lost then; see
//!   [`Opening`], and `folder/settle.rs` for how it is put right.
//!
//! Every method blocks: about 1 µs for a row that is in memory, and 30 µs for one that is not. What
//! the rows are is in [`keys`], and what is done with them in `rows`.

mod books;
mod content;
mod hot;
mod inventory;
mod journal;
pub(crate) mod keys;
mod links;
mod rows;
mod tables;
mod upgrade;

use std::fs::{self, File, TryLockError};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{
    self, Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::thread;
use std::time::{Duration, Instant};

use registry_core::{StoreError, StoreOperation};

pub(crate) use self::books::Unused;
pub(crate) use self::hot::HotRows;

use crate::format::FORMAT;
use crate::layout::{Layout, found};
use crate::options::{
    DiskOptions, INDEX_FREE_POLL, INDEX_FREE_WAIT_MAX, INDEX_REREAD_WRITES, INDEX_REVIVE_AFTER,
};
use tables::Table;

const FORMAT_KEY: &[u8] = b"format";
const EPOCH_KEY: &[u8] = b"epoch";

/// How sled is opened.
#[derive(Clone, Debug)]
struct Config {
    path: PathBuf,
    cache_bytes: u64,
    flush_every: Duration,
}

impl Config {
    fn db(&self) -> PathBuf {
        self.path.join("db")
    }

    /// Waits until sled has let go of its file: threads of its own may still write to it when the
    /// last handle is dropped.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`], where it does not within [`INDEX_FREE_WAIT_MAX`].
    fn wait_until_free(&self) -> io::Result<()> {
        let Some(file) = found(File::open(self.db()))? else {
            return Ok(());
        };
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return file.unlock(),
                Err(TryLockError::WouldBlock) if begun.elapsed() < INDEX_FREE_WAIT_MAX => {
                    thread::sleep(INDEX_FREE_POLL);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The trees, and the database that they are in.
struct Trees {
    db: sled::Db,
    /// In the order of [`Table::ALL`].
    trees: Vec<sled::Tree>,
}

impl Trees {
    fn open(config: &Config) -> Result<Self, StoreError> {
        let operation = StoreOperation::OpenStore;
        config
            .wait_until_free()
            .map_err(|source| StoreError::io(operation, source))?;
        let open = || {
            let flush_every = u64::try_from(config.flush_every.as_millis()).ok();
            let db = sled::Config::new()
                .path(&config.path)
                .cache_capacity(config.cache_bytes)
                .flush_every_ms(flush_every)
                .open()?;
            let tables = Table::ALL.into_iter();
            let trees = tables.map(|table| db.open_tree(table.name()));
            let trees = trees.collect::<sled::Result<_>>()?;
            Ok(Self { db, trees })
        };
        caught(open).map_err(|error| store_error(operation, error))
    }

    fn of(&self, table: Table) -> &sled::Tree {
        &self.trees[table as usize]
    }
}

/// What an index that was just opened says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) format: Option<u32>,
    pub(crate) epoch: u64,
}

/// Which opening of an index it was. What was recorded in an earlier one and was not flushed may be
/// lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opening(u64);

pub(crate) struct Index {
    config: Config,
    suspect: PathBuf,
    /// `None` where it could not be opened anew after a failure; the next write tries again.
    trees: RwLock<Option<Trees>>,
    /// How often it was opened anew; counted up while nobody reads or writes `trees`.
    revived: AtomicU64,
    failed_at: Mutex<Option<Instant>>,
    /// Changes that came since it was opened.
    writes: AtomicU64,
    /// The number of the last flush that succeeded.
    flushed: Mutex<u64>,
    flushes_begun: AtomicU64,
    /// Held over the reads and the writes that one change is made of.
    books: Mutex<()>,
    /// Of the trees, and of no other opening of them.
    pub(crate) hot: Arc<HotRows>,
}

impl Index {
    /// Opens it, or makes an empty one.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where it is damaged so that it cannot be opened.
    pub(crate) fn open(layout: &Layout, options: &DiskOptions) -> Result<Self, StoreError> {
        let config = Config {
            path: layout.index(),
            cache_bytes: options.index_cache_bytes,
            flush_every: options.index_flush_every,
        };
        let trees = Trees::open(&config)?;
        Ok(Self {
            config,
            suspect: layout.index_suspect(),
            trees: RwLock::new(Some(trees)),
            revived: AtomicU64::new(0),
            failed_at: Mutex::default(),
            writes: AtomicU64::new(0),
            flushed: Mutex::default(),
            flushes_begun: AtomicU64::new(0),
            books: Mutex::default(),
            hot: Arc::new(HotRows::new(options)),
        })
    }

    pub(crate) fn identity(&self) -> Result<Identity, StoreError> {
        self.read(|trees| {
            let format = trees.db.get(FORMAT_KEY)?;
            let epoch = trees.db.get(EPOCH_KEY)?;
            Ok(Identity {
                // One that cannot be read is no version of ours.
                format: format.map(|value| match value.first_chunk() {
                    Some(bytes) => u32::from_be_bytes(*bytes),
                    None => 0,
                }),
                epoch: epoch.and_then(|value| keys::u64_of(&value)).unwrap_or(0),
            })
        })
    }

    /// Marks the index as whole: all that was recorded before is in it. Durable.
    pub(crate) fn put_identity(&self, epoch: u64) -> Result<(), StoreError> {
        let since = self.opening();
        self.write(|trees| {
            trees.db.insert(EPOCH_KEY, &epoch.to_be_bytes())?;
            trees.db.insert(FORMAT_KEY, &FORMAT.to_be_bytes())?;
            Ok(())
        })?;
        self.flush(since)
    }

    /// The opening that what is recorded from now on belongs to, or one before it.
    pub(crate) fn opening(&self) -> Opening {
        Opening(self.revived.load(Ordering::SeqCst))
    }

    /// Makes all durable that was recorded since that opening was told. Of calls at the same time
    /// one works for all.
    ///
    /// # Errors
    ///
    /// Also where the index was opened anew meanwhile: some of it may be lost.
    pub(crate) fn flush(&self, since: Opening) -> Result<(), StoreError> {
        self.flush_past(self.flushes_begun.load(Ordering::SeqCst))?;
        if self.opening() == since {
            Ok(())
        } else {
            let source = io::Error::other("the index was opened anew meanwhile");
            Err(StoreError::io(StoreOperation::Index, source))
        }
    }

    /// Returns when a flush has succeeded that was begun after the first `begun` of them.
    fn flush_past(&self, begun: u64) -> Result<(), StoreError> {
        let mut flushed = lock(&self.flushed);
        if *flushed > begun {
            // By someone who waited for the lock before us.
            return Ok(());
        }
        let number = self.flushes_begun.fetch_add(1, Ordering::SeqCst) + 1;
        self.write(|trees| {
            trees.db.flush()?;
            File::open(self.config.db())?.sync_data()?;
            Ok(())
        })?;
        *flushed = number;
        Ok(())
    }

    fn read<T>(&self, read: impl FnOnce(&Trees) -> sled::Result<T>) -> Result<T, StoreError> {
        let trees = self.trees();
        let trees = trees.as_ref().ok_or_else(unavailable)?;
        caught(|| read(trees)).map_err(|error| self.fault(error))
    }

    fn write<T>(&self, write: impl FnOnce(&Trees) -> sled::Result<T>) -> Result<T, StoreError> {
        // Where somebody holds the books, this thread or another, not now: what a change is
        // computed from must be what it is written to.
        match self.books.try_lock() {
            Ok(_books) => self.revive(),
            Err(sync::TryLockError::Poisoned(_books)) => self.revive(),
            Err(sync::TryLockError::WouldBlock) => {}
        }
        self.writes.fetch_add(1, Ordering::Relaxed);
        let written = {
            let trees = self.trees();
            let trees = trees.as_ref().ok_or_else(unavailable)?;
            caught(|| write(trees))
        };
        // Not under the lock of the trees: `revive` takes the two in the other order.
        written.map_err(|error| {
            // The first of them counts: each further one would put off the end of this.
            lock(&self.failed_at).get_or_insert_with(Instant::now);
            self.fault(error)
        })
    }

    /// Whoever changes rows by what others say holds this meanwhile.
    fn hold_books(&self) -> MutexGuard<'_, ()> {
        let books = lock(&self.books);
        // Before the first of them is read.
        self.revive();
        books
    }

    /// Opens the index anew where a write failed a while ago. Rows that were not on the disk are
    /// lost by that, as in a crash, and what a start puts right has to be put right then: see
    /// [`Self::opening`]. Only while the books are held.
    fn revive(&self) {
        let mut failed_at = lock(&self.failed_at);
        if failed_at.is_none_or(|at| at.elapsed() < INDEX_REVIVE_AFTER) {
            return;
        }
        let mut trees: RwLockWriteGuard<'_, _> =
            self.trees.write().unwrap_or_else(PoisonError::into_inner);
        // Closed before it is opened again: sled locks its file.
        *trees = None;
        self.hot.clear();
        match Trees::open(&self.config) {
            Ok(revived) => {
                *trees = Some(revived);
                self.revived.fetch_add(1, Ordering::SeqCst);
                *failed_at = None;
                tracing::warn!("the index was opened anew, after a write to it had failed");
            }
            Err(error) => {
                *failed_at = Some(Instant::now());
                tracing::warn!(%error, "the index cannot be opened anew yet");
            }
        }
    }

    fn trees(&self) -> RwLockReadGuard<'_, Option<Trees>> {
        // Nothing panics while it holds this: see `caught`.
        self.trees.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error for one of sled's; leaves a mark for the next start where it tells of damage.
    fn fault(&self, error: sled::Error) -> StoreError {
        let error = store_error(StoreOperation::Index, error);
        if matches!(error, StoreError::Corrupt { .. }) {
            self.suspect();
        }
        error
    }

    /// Closes it, and waits until the file is let go of. Every later call fails. After many changes
    /// their log is read once more, so that the next start need not: there somebody waits.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where the file is not let go of.
    pub(crate) fn close(&self) -> Result<(), StoreError> {
        *self.trees.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.await_free()?;
        if self.writes.load(Ordering::Relaxed) < INDEX_REREAD_WRITES {
            return Ok(());
        }
        // What is wrong with it, the next start meets as well, and knows what to do.
        if let Err(error) = Trees::open(&self.config) {
            tracing::debug!(%error, "the index could not be read again as it was closed");
        }
        self.await_free()
    }

    fn await_free(&self) -> Result<(), StoreError> {
        let freed = self.config.wait_until_free();
        freed.map_err(|source| StoreError::io(StoreOperation::Index, source))
    }

    /// Has the next write open it anew, as a while after one that failed.
    #[cfg(test)]
    pub(crate) fn fail_write(&self) {
        *lock(&self.failed_at) = Instant::now().checked_sub(INDEX_REVIVE_AFTER);
    }

    /// Has the index rebuilt at the next start.
    pub(crate) fn suspect(&self) {
        // Where it cannot be made, the damage is met again.
        let _ = fs::write(&self.suspect, b"");
    }
}

/// Calls into sled. What a panic may leave half done is sled's, and taken for damaged from then
/// on; ours is only read.
fn caught<T>(call: impl FnOnce() -> sled::Result<T>) -> sled::Result<T> {
    panic::catch_unwind(AssertUnwindSafe(call))
        .unwrap_or(Err(sled::Error::Corruption { at: None, bt: () }))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is a number or nothing: never half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unavailable() -> StoreError {
    let source = io::Error::other("the index could not be opened anew after a write had failed");
    StoreError::io(StoreOperation::Index, source)
}

fn store_error(operation: StoreOperation, error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(source) => StoreError::io(operation, source),
        sled::Error::Corruption { .. } => StoreError::Corrupt {
            operation,
            what: "the index is damaged",
        },
        // Also what sled takes for a mistake of its own or for another's file.
        other => StoreError::io(operation, io::Error::other(other)),
    }
}

#[cfg(test)]
mod tests {
    use registry_core::testing::content::digest_of;
    use registry_core::{
        BlobStat, Link, LinkTarget, Origin, ReferrersRecord, Repository, Timestamp, UpstreamId,
    };
    use tempfile::TempDir;

    use super::keys::BlobRow;
    use super::*;

    fn index(dir: &TempDir) -> Index {
        Index::open(&Layout::new(dir.path().to_owned()), &DiskOptions::default()).unwrap()
    }

    fn put(index: &Index, n: u64) {
        let row = BlobRow {
            size: n,
            is_proven: true,
        };
        let (digest, at) = (digest_of(&n.to_le_bytes()), Timestamp::default());
        index.admit_blob(digest, row, at).unwrap();
    }

    fn sizes(index: &Index) -> Vec<u64> {
        let stats: Vec<BlobStat> = index.blobs(None, 1_000).unwrap();
        let mut sizes: Vec<u64> = stats.iter().map(|stat| stat.size).collect();
        sizes.sort_unstable();
        sizes
    }

    #[test]
    fn a_while_after_a_failed_write_the_index_is_opened_anew() {
        let dir = TempDir::new().unwrap();
        let index = index(&dir);
        put(&index, 1);
        let fail = |ago| *lock(&index.failed_at) = Instant::now().checked_sub(ago);
        fail(Duration::ZERO);
        put(&index, 2);
        assert!(lock(&index.failed_at).is_some(), "not at once");
        fail(INDEX_REVIVE_AFTER);
        put(&index, 3);
        assert_eq!(*lock(&index.failed_at), None);
        assert_eq!(sizes(&index), [1, 2, 3]);
    }

    /// A mirror that is asked for much writes much, and must come back all the same.
    #[test]
    fn further_failures_do_not_put_that_off() {
        let dir = TempDir::new().unwrap();
        let index = index(&dir);
        let fail = || {
            let full = io::Error::from(io::ErrorKind::StorageFull);
            let failed: Result<(), _> = index.write(|_| Err(sled::Error::Io(full)));
            failed.unwrap_err();
            lock(&index.failed_at).unwrap()
        };
        let first = fail();
        thread::sleep(Duration::from_millis(2));
        assert_eq!(fail(), first);
    }

    #[test]
    fn what_was_kept_in_memory_goes_when_the_index_is_opened_anew() {
        let dir = TempDir::new().unwrap();
        let index = index(&dir);
        let origin = Origin::new(
            UpstreamId::parse("ghcr.io").unwrap(),
            Repository::parse("org/app").unwrap(),
        );
        let target = LinkTarget::Blob(digest_of(b""));
        let link = Link { target, size: None };
        index.link(&origin, &[link]).unwrap();
        assert_eq!(index.hot.link(&origin, target), Some(link), "just written");
        index.fail_write();
        put(&index, 1);
        assert_eq!(index.hot.link(&origin, target), None, "it may be lost");
        assert_eq!(index.load_link(&origin, target).unwrap(), Some(link));
        assert_eq!(index.hot.link(&origin, target), Some(link));
        assert!(index.unlink(&origin, target).unwrap());
        assert_eq!(index.hot.link(&origin, target), None);
    }

    #[test]
    fn an_index_that_cannot_be_opened_anew_is_tried_again_later() {
        let dir = TempDir::new().unwrap();
        let index = index(&dir);
        put(&index, 1);
        let (conf, away) = (dir.path().join("index/conf"), dir.path().join("away"));
        fs::rename(&conf, &away).unwrap();
        fs::write(&conf, [0xff; 60]).unwrap();
        index.fail_write();
        assert!(
            index
                .remove_intent(digest_of(b""), index.opening())
                .is_err()
        );
        assert!(index.blob(digest_of(b"")).is_err());
        fs::rename(&away, &conf).unwrap();
        index.fail_write();
        put(&index, 2);
        assert_eq!(sizes(&index), [1, 2]);
    }

    #[test]
    fn flushes_at_the_same_time_share_their_work() {
        let dir = TempDir::new().unwrap();
        let index = index(&dir);
        // Two that asked before anyone had begun: the second finds it done.
        index.flush_past(0).unwrap();
        index.flush_past(0).unwrap();
        assert_eq!(index.flushes_begun.load(Ordering::SeqCst), 1);
        // One that asked when the first was under way already is not covered by it.
        index.flush(index.opening()).unwrap();
        assert_eq!(index.flushes_begun.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn what_was_recorded_before_the_index_was_opened_anew_is_not_told_to_be_durable() {
        let dir = TempDir::new().unwrap();
        let index = index(&dir);
        let since = index.opening();
        let digest = digest_of(b"");
        index.put_intent(digest, keys::Intent::Remove).unwrap();
        index.fail_write();
        index.flush(since).unwrap_err();
        // Nor is an intent dropped for a row that may be lost.
        index.remove_intent(digest, since).unwrap();
        assert_eq!(index.intents().unwrap().len(), 1);
        index.flush(index.opening()).unwrap();
        index.remove_intent(digest, index.opening()).unwrap();
        assert_eq!(index.intents().unwrap().len(), 0);
    }

    /// What a change is computed from is what it is written to, so the sums hold.
    #[test]
    fn the_index_is_not_opened_anew_while_the_books_are_held() {
        let dir = TempDir::new().unwrap();
        let index = index(&dir);
        let since = index.opening();
        let books = index.hold_books();
        index.fail_write();
        index
            .put_intent(digest_of(b""), keys::Intent::Remove)
            .unwrap();
        assert_eq!(index.opening(), since);
        drop(books);
        index.flush_past(0).unwrap();
        assert_ne!(index.opening(), since);
    }

    #[test]
    fn an_index_from_before_there_were_lists_of_referrers_opens() {
        let dir = TempDir::new().unwrap();
        let older = index(&dir);
        put(&older, 1);
        let dropped = older.write(|trees| trees.db.drop_tree("referrers"));
        assert!(dropped.unwrap());
        older.close().unwrap();
        let index = index(&dir);
        assert_eq!(sizes(&index), [1]);
        let origin = Origin::new(
            UpstreamId::parse("ghcr.io").unwrap(),
            Repository::parse("org/app").unwrap(),
        );
        let subject = digest_of(b"");
        assert_eq!(index.referrers(&origin, subject).unwrap(), None);
        let record = ReferrersRecord {
            referrers: None,
            validated_at: Timestamp::from_millis(1),
        };
        index.put_referrers(&origin, subject, &record).unwrap();
        assert_eq!(index.referrers(&origin, subject).unwrap(), Some(record));
    }

    #[test]
    fn a_panic_within_sled_is_damage() {
        let dir = TempDir::new().unwrap();
        let index = index(&dir);
        let panicked = index.read::<()>(|_| panic!("as sled does"));
        assert!(matches!(panicked, Err(StoreError::Corrupt { .. })));
        assert!(dir.path().join("index.suspect").exists());
        put(&index, 1);
    }
}
