//! The index: sled, and all that has to be known to trust it.
//!
//! What sled 0.34 does that this module deals with:
//! - It panics on some damage: every call into it is caught, and a panic is taken for damage.
//! - It drops what it cannot read at the end of its log and says nothing: see
//!   [`FormatFile`](crate::format::FormatFile).
//! - Its flush ends in `sync_file_range`, which does not outlive a power cut: [`Index::flush`]
//!   syncs the file itself.
//! - Once a write has failed (a full disk), every later one fails until it is opened anew: a write
//!   does that here, at most every [`INDEX_REVIVE_AFTER`].
//!
//! Every method blocks: about 30 µs for a row that is not in memory.

pub(crate) mod keys;

use std::fs::{self, File, TryLockError};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use registry_core::{
    BlobStat, Digest, Link, LinkTarget, Origin, StoreError, StoreOperation, Tag, TagRecord,
    Timestamp, UpstreamId,
};

use self::keys::{BlobRow, Intent};
use crate::format::FORMAT;
use crate::layout::{Layout, found};
use crate::options::{DiskOptions, INDEX_FREE_POLL, INDEX_FREE_WAIT_MAX, INDEX_REVIVE_AFTER};

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
    blobs: sled::Tree,
    intents: sled::Tree,
    accessed: sled::Tree,
    tags: sled::Tree,
    links: sled::Tree,
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
            Ok(Self {
                blobs: db.open_tree("blobs")?,
                intents: db.open_tree("intents")?,
                accessed: db.open_tree("accessed")?,
                tags: db.open_tree("tags")?,
                links: db.open_tree("links")?,
                db,
            })
        };
        caught(open).map_err(|error| store_error(operation, error))
    }
}

/// What an index that was just opened says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) format: Option<u32>,
    pub(crate) epoch: u64,
}

pub(crate) struct Index {
    config: Config,
    suspect: PathBuf,
    /// `None` where it could not be opened anew after a failure; the next write tries again.
    trees: RwLock<Option<Trees>>,
    failed_at: Mutex<Option<Instant>>,
    /// The number of the last flush that succeeded.
    flushed: Mutex<u64>,
    flushes_begun: AtomicU64,
    /// Held over the reads and writes that one update of links is made of.
    linking: Mutex<()>,
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
            failed_at: Mutex::default(),
            flushed: Mutex::default(),
            flushes_begun: AtomicU64::new(0),
            linking: Mutex::default(),
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
        self.write(|trees| {
            trees.db.insert(EPOCH_KEY, &epoch.to_be_bytes())?;
            trees.db.insert(FORMAT_KEY, &FORMAT.to_be_bytes())?;
            Ok(())
        })?;
        self.flush()
    }

    /// Makes all that was recorded before the call durable. Of calls at the same time one works
    /// for all.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        let begun_before = self.flushes_begun.load(Ordering::SeqCst);
        let mut flushed = lock(&self.flushed);
        if *flushed > begun_before {
            // It was begun after this call, by someone who waited for the lock before us.
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

    pub(crate) fn blob(&self, digest: Digest) -> Result<Option<BlobRow>, StoreError> {
        let row = self.read(|trees| trees.blobs.get(keys::digest_key(digest)))?;
        Ok(row.and_then(|value| BlobRow::decode(&value)))
    }

    pub(crate) fn put_blob(&self, digest: Digest, row: BlobRow) -> Result<(), StoreError> {
        self.write(|trees| trees.blobs.insert(keys::digest_key(digest), &row.encode()))?;
        Ok(())
    }

    pub(crate) fn put_blobs(&self, rows: &[(Digest, BlobRow)]) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (digest, row) in rows {
            batch.insert(keys::digest_key(*digest), &row.encode());
        }
        self.write(|trees| trees.blobs.apply_batch(batch))
    }

    /// Removes a row; whether there was one.
    pub(crate) fn remove_blob(&self, digest: Digest) -> Result<bool, StoreError> {
        let removed = self.write(|trees| trees.blobs.remove(keys::digest_key(digest)))?;
        Ok(removed.is_some())
    }

    /// Up to `limit` blobs in the order of their keys, past `after`.
    pub(crate) fn blobs(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<BlobStat>, StoreError> {
        // No key is a prefix of another's, so the first past it is the one with a byte more.
        let start = after.map_or(Vec::new(), |after| {
            let mut key = keys::digest_key(after);
            key.push(0);
            key
        });
        self.read(|trees| {
            let mut stats = Vec::new();
            for row in trees.blobs.range(start..) {
                let (key, value) = row?;
                if stats.len() == limit {
                    break;
                }
                if let (Some(digest), Some(row)) = (keys::digest_of(&key), BlobRow::decode(&value))
                {
                    let size = row.size;
                    stats.push(BlobStat { digest, size });
                }
            }
            Ok(stats)
        })
    }

    pub(crate) fn put_intent(&self, digest: Digest, intent: Intent) -> Result<(), StoreError> {
        self.write(|trees| {
            trees
                .intents
                .insert(keys::digest_key(digest), &intent.encode())
        })?;
        Ok(())
    }

    pub(crate) fn remove_intent(&self, digest: Digest) -> Result<(), StoreError> {
        self.write(|trees| trees.intents.remove(keys::digest_key(digest)))?;
        Ok(())
    }

    /// What a crash interrupted: as many as there were calls at a time, and those of the last
    /// moments before it.
    pub(crate) fn intents(&self) -> Result<Vec<(Digest, Intent)>, StoreError> {
        self.read(|trees| {
            let mut intents = Vec::new();
            for row in trees.intents.iter() {
                let (key, value) = row?;
                if let (Some(digest), Some(intent)) =
                    (keys::digest_of(&key), Intent::decode(&value))
                {
                    intents.push((digest, intent));
                }
            }
            Ok(intents)
        })
    }

    pub(crate) fn accessed(&self, target: LinkTarget) -> Result<Option<Timestamp>, StoreError> {
        let value = self.read(|trees| trees.accessed.get(keys::target_key(target)))?;
        let millis = value.and_then(|value| keys::u64_of(&value));
        Ok(millis.map(Timestamp::from_millis))
    }

    pub(crate) fn put_accessed(
        &self,
        accesses: impl IntoIterator<Item = (LinkTarget, Timestamp)>,
    ) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (target, at) in accesses {
            batch.insert(keys::target_key(target), &at.as_millis().to_be_bytes());
        }
        self.write(|trees| trees.accessed.apply_batch(batch))
    }

    pub(crate) fn remove_accessed(&self, target: LinkTarget) -> Result<(), StoreError> {
        self.write(|trees| trees.accessed.remove(keys::target_key(target)))?;
        Ok(())
    }

    pub(crate) fn tag(&self, origin: &Origin, tag: &Tag) -> Result<Option<TagRecord>, StoreError> {
        let value = self.read(|trees| trees.tags.get(keys::tag_key(origin, tag.as_str())))?;
        Ok(value.and_then(|value| keys::decode_tag(&value)))
    }

    pub(crate) fn put_tag(
        &self,
        origin: &Origin,
        tag: &Tag,
        record: &TagRecord,
    ) -> Result<(), StoreError> {
        let key = keys::tag_key(origin, tag.as_str());
        self.write(|trees| trees.tags.insert(key, keys::encode_tag(record)))?;
        Ok(())
    }

    pub(crate) fn remove_tag(&self, origin: &Origin, tag: &Tag) -> Result<bool, StoreError> {
        let key = keys::tag_key(origin, tag.as_str());
        let removed = self.write(|trees| trees.tags.remove(key))?;
        Ok(removed.is_some())
    }

    pub(crate) fn tags(
        &self,
        origin: &Origin,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Tag>, StoreError> {
        let prefix = keys::origin_prefix(origin);
        let start = match after {
            None => prefix.clone(),
            // The first text past `after` is the one with a NUL more.
            Some(after) => [keys::tag_key(origin, after), vec![0]].concat(),
        };
        self.read(|trees| {
            let mut tags = Vec::new();
            for row in trees.tags.range(start..keys::past(prefix.clone())) {
                let (key, _) = row?;
                if tags.len() == limit {
                    break;
                }
                let text = std::str::from_utf8(&key[prefix.len()..]).ok();
                tags.extend(text.and_then(|text| Tag::parse(text).ok()));
            }
            Ok(tags)
        })
    }

    pub(crate) fn linked(
        &self,
        origin: &Origin,
        target: LinkTarget,
    ) -> Result<Option<Link>, StoreError> {
        let value = self.read(|trees| trees.links.get(keys::link_key(origin, target)))?;
        Ok(value.map(|value| {
            let size = keys::u64_of(&value);
            Link { target, size }
        }))
    }

    pub(crate) fn link(&self, origin: &Origin, links: &[Link]) -> Result<(), StoreError> {
        let _linking = lock(&self.linking);
        let mut batch = sled::Batch::default();
        // Of two in one batch the last stands: those without a size first, so that none of them
        // undoes a size.
        for Link { target, .. } in links.iter().filter(|link| link.size.is_none()) {
            if self.linked(origin, *target)?.is_none() {
                batch.insert(keys::link_key(origin, *target), &[]);
            }
        }
        for Link { target, size } in links {
            if let Some(size) = size {
                batch.insert(keys::link_key(origin, *target), &size.to_be_bytes());
            }
        }
        self.write(|trees| trees.links.apply_batch(batch))
    }

    pub(crate) fn unlink(&self, origin: &Origin, target: LinkTarget) -> Result<bool, StoreError> {
        let _linking = lock(&self.linking);
        let removed = self.write(|trees| trees.links.remove(keys::link_key(origin, target)))?;
        Ok(removed.is_some())
    }

    /// Leaps from the first link of an origin to the first of the next: one lookup an origin.
    pub(crate) fn origins(
        &self,
        upstream: Option<&UpstreamId>,
        after: Option<&Origin>,
        limit: usize,
    ) -> Result<Vec<Origin>, StoreError> {
        let first = upstream.map(keys::upstream_prefix).unwrap_or_default();
        let past_after = after.map(|after| keys::past(keys::origin_prefix(after)));
        let mut start = first.clone().max(past_after.unwrap_or_default());
        self.read(|trees| {
            let mut origins = Vec::new();
            while origins.len() < limit {
                let Some((key, _)) = trees.links.range(start..).next().transpose()? else {
                    break;
                };
                let Some((len, origin)) = keys::origin_of(&key) else {
                    // Not a key of ours: the next one.
                    start = [&key[..], &[0]].concat();
                    continue;
                };
                if !key.starts_with(&first) {
                    break;
                }
                start = keys::past(key[..len].to_vec());
                origins.push(origin);
            }
            Ok(origins)
        })
    }

    fn read<T>(&self, read: impl FnOnce(&Trees) -> sled::Result<T>) -> Result<T, StoreError> {
        let trees = self.trees();
        let trees = trees.as_ref().ok_or_else(unavailable)?;
        caught(|| read(trees)).map_err(|error| self.fault(error))
    }

    fn write<T>(&self, write: impl FnOnce(&Trees) -> sled::Result<T>) -> Result<T, StoreError> {
        self.revive();
        let written = {
            let trees = self.trees();
            let trees = trees.as_ref().ok_or_else(unavailable)?;
            caught(|| write(trees))
        };
        // Not under the lock of the trees: `revive` takes the two in the other order.
        written.map_err(|error| {
            *lock(&self.failed_at) = Some(Instant::now());
            self.fault(error)
        })
    }

    /// Opens the index anew where a write failed a while ago. Rows that were not on the disk are
    /// lost by that; the files they stood for are found again when they are asked for.
    fn revive(&self) {
        let mut failed_at = lock(&self.failed_at);
        if failed_at.is_none_or(|at| at.elapsed() < INDEX_REVIVE_AFTER) {
            return;
        }
        let mut trees: RwLockWriteGuard<'_, _> =
            self.trees.write().unwrap_or_else(PoisonError::into_inner);
        // Closed before it is opened again: sled locks its file.
        *trees = None;
        match Trees::open(&self.config) {
            Ok(revived) => {
                *trees = Some(revived);
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

    /// Closes it, and waits until the file is let go of. Every later call fails.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where the file is not let go of.
    pub(crate) fn close(&self) -> Result<(), StoreError> {
        *self.trees.write().unwrap_or_else(PoisonError::into_inner) = None;
        let freed = self.config.wait_until_free();
        freed.map_err(|source| StoreError::io(StoreOperation::Index, source))
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
