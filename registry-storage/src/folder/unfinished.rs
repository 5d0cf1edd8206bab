//! Unfinished blobs: partial files that nobody writes, for a later sink of the digest to go on with.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use registry_core::{Digest, StoreError, StoreOperation, Timestamp};

use super::Folder;
use super::partials::{Content, Partial, shorten};
use crate::layout::{Layout, PartialName, found};
use crate::options::{
    UNFINISHED_AGE_MAX, UNFINISHED_BYTES_MIN, UNFINISHED_MAX, UNFINISHED_TOTAL_BYTES_MAX,
};
use crate::space::Promise;
use crate::step::Step;

/// A blob that nobody finished.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    digest: Digest,
    partial: Partial,
    /// How much of it is worth going on with.
    len: u64,
    since: Timestamp,
    /// The file that is yet to be cut to `len`, which is yet to be recorded.
    uncut: Option<Arc<Content>>,
}

impl Left {
    /// What a sink leaves that is gone, after `checkpoint` bytes.
    pub(crate) fn new(
        digest: Digest,
        partial: Partial,
        checkpoint: u64,
        content: Arc<Content>,
    ) -> Self {
        Self {
            digest,
            partial,
            len: checkpoint,
            // When it is left.
            since: Timestamp::default(),
            uncut: Some(content),
        }
    }

    /// Opens it to go on with it.
    fn open(&self) -> io::Result<(Content, u64)> {
        let file = self.partial.open()?;
        let len = self.len.min(file.metadata()?.len());
        shorten(&file, len)?;
        Ok((Content::new(file), len))
    }

    /// Removes what is of no use. A file that cannot be removed is met again at the next start.
    fn remove(&self) {
        if let Err(error) = self.partial.remove() {
            tracing::warn!(digest = %self.digest, %error, "an unfinished blob cannot be removed");
        }
    }

    fn is_as(&self, other: &Self) -> bool {
        self.partial == other.partial
    }
}

/// The unfinished blobs that nobody writes.
pub(super) struct Unfinished {
    /// Never locked while a file is touched: a sink that is dropped must not wait.
    left: Mutex<Vec<Left>>,
    /// Held while files of `left` are touched.
    files: Mutex<()>,
    /// Bytes of those that are being written.
    written: Arc<AtomicU64>,
}

/// What of a blob that is being written is on the disk: counted until this is dropped, or the blob
/// is counted otherwise.
#[derive(Debug)]
pub(crate) struct Written {
    total: Arc<AtomicU64>,
    bytes: AtomicU64,
}

impl Written {
    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts nothing of it any more.
    pub(crate) fn settle(&self) {
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        self.total.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        self.settle();
    }
}

impl Unfinished {
    /// Finds what was left before, and removes what is of no use; how many files that were. What is
    /// not ours in their folder stays.
    pub(super) fn collect(layout: &Layout, now: Timestamp) -> io::Result<(Self, u64)> {
        let (mut left, mut swept) = (Vec::new(), 0);
        for entry in fs::read_dir(layout.partial())? {
            let entry = entry?;
            let name = PartialName::of(&entry.file_name().to_string_lossy());
            // A checkpoint may be gone with its content by now.
            let is_file = found(entry.file_type())?.is_some_and(|kind| kind.is_file());
            if name == PartialName::Foreign || !is_file {
                continue;
            }
            let worth = match name {
                PartialName::Content(digest) => Self::examine(digest, Partial(entry.path()))?,
                PartialName::Checkpoint if has_content(&entry.path()) => continue,
                _ => None,
            };
            if let Some(worth) = worth {
                left.push(worth);
                continue;
            }
            Partial(entry.path()).remove()?;
            // A checkpoint goes with its content, and does not count.
            swept += u64::from(name != PartialName::Checkpoint);
        }
        for surplus in take_surplus(&mut left, now) {
            surplus.partial.remove()?;
            swept += 1;
        }
        let collected = Self {
            left: Mutex::new(left),
            files: Mutex::default(),
            written: Arc::default(),
        };
        Ok((collected, swept))
    }

    /// What a partial file is worth; `None` where it is worth nothing.
    fn examine(digest: Digest, partial: Partial) -> io::Result<Option<Left>> {
        let meta = fs::symlink_metadata(partial.path())?;
        let len = partial.recorded()?.unwrap_or(0).min(meta.len());
        if len < UNFINISHED_BYTES_MIN {
            return Ok(None);
        }
        let millis = meta.mtime().saturating_mul(1_000) + meta.mtime_nsec() / 1_000_000;
        let since = Timestamp::from_millis(u64::try_from(millis).unwrap_or(0));
        if meta.len() > len {
            partial.open()?.set_len(len)?;
        }
        Ok(Some(Left {
            digest,
            partial,
            len,
            since,
            uncut: None,
        }))
    }

    pub(super) fn count(&self) -> u64 {
        self.left().len() as u64
    }

    /// Bytes of those that were left, and of those that are being written.
    pub(super) fn bytes(&self) -> u64 {
        let left: u64 = self.left().iter().map(|left| left.len).sum();
        left.saturating_add(self.written.load(Ordering::Relaxed))
    }

    fn left(&self) -> MutexGuard<'_, Vec<Left>> {
        // Nothing panics while it holds the lock.
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> MutexGuard<'_, ()> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out the first that `is_wanted`.
    fn take_first(&self, is_wanted: impl Fn(&Left) -> bool) -> Option<Left> {
        let mut left = self.left();
        let at = left.iter().position(is_wanted)?;
        Some(left.remove(at))
    }

    fn take_oldest(&self) -> Option<Left> {
        let mut left = self.left();
        let oldest = left.iter().enumerate().min_by_key(|(_, left)| left.since);
        let at = oldest?.0;
        Some(left.remove(at))
    }

    fn take_longest(&self, digest: Digest) -> Option<Left> {
        let mut left = self.left();
        let of_digest = left.iter().enumerate();
        let of_digest = of_digest.filter(|(_, left)| left.digest == digest);
        let at = of_digest.max_by_key(|(_, left)| left.len)?.0;
        Some(left.remove(at))
    }

    /// Removes what is too old or too much.
    fn trim(&self, now: Timestamp) {
        let surplus = take_surplus(&mut self.left(), now);
        surplus.iter().for_each(Left::remove);
    }
}

/// Whether the file is there that a checkpoint speaks of.
fn has_content(checkpoint: &Path) -> bool {
    checkpoint.with_extension("").exists()
}

/// Takes out what is older than is kept, all but the longest of one digest, and the oldest of those
/// that are too many or too large together.
fn take_surplus(left: &mut Vec<Left>, now: Timestamp) -> Vec<Left> {
    left.sort_by_key(|left| (left.digest, left.len, left.since));
    let mut surplus = Vec::new();
    let mut kept: Vec<Left> = Vec::new();
    for left in left.drain(..) {
        if now.since(left.since) > UNFINISHED_AGE_MAX {
            surplus.push(left);
            continue;
        }
        let former = kept.pop_if(|former| former.digest == left.digest);
        surplus.extend(former);
        kept.push(left);
    }
    kept.sort_by_key(|left| left.since);
    let mut total: u128 = kept.iter().map(|left| u128::from(left.len)).sum();
    let is_too_much =
        |count, total| count > UNFINISHED_MAX || total > u128::from(UNFINISHED_TOTAL_BYTES_MAX);
    let mut first = 0;
    while kept.len() - first > 1 && is_too_much(kept.len() - first, total) {
        total -= u128::from(kept[first].len);
        first += 1;
    }
    surplus.extend(kept.drain(..first));
    *left = kept;
    surplus
}

/// A partial file for a blob: what was left of it, or a new one.
pub(crate) struct Staged {
    pub(crate) partial: Partial,
    pub(crate) content: Content,
    /// How much was left.
    pub(crate) kept: u64,
    /// The room for what is missing.
    pub(crate) room: Promise,
    pub(crate) written: Written,
}

impl Folder {
    /// A partial file for a blob, and the room for what is missing of it.
    pub(crate) fn stage_blob(
        &self,
        digest: Digest,
        size_hint: Option<u64>,
    ) -> Result<Staged, StoreError> {
        let left = self.take_unfinished(digest);
        let kept = left.as_ref().map_or(0, |(_, _, len)| *len);
        let missing = size_hint.unwrap_or(0).saturating_sub(kept);
        let room = match self.with_room(|| self.space.promise(missing)) {
            Ok(room) => room,
            Err(full) => {
                // For whoever finds room.
                let left = left.map(|(left, _, _)| left);
                self.unfinished.left().extend(left);
                return Err(full);
            }
        };
        let (partial, content) = match left {
            Some((left, content, _)) => (left.partial, content),
            None => self.with_room(|| {
                let made = self.layout.new_partial(digest);
                let failed = |source| StoreError::io(StoreOperation::Write, source);
                let (file, path) = made.map_err(failed)?;
                Ok((Partial(path), Content::new(file)))
            })?,
        };
        self.step(Step::Staged);
        let written = Written {
            total: Arc::clone(&self.unfinished.written),
            bytes: AtomicU64::new(0),
        };
        written.add(kept);
        Ok(Staged {
            partial,
            content,
            kept,
            room,
            written,
        })
    }

    /// What was left of a blob, opened, and how much that is. It is nobody else's then.
    fn take_unfinished(&self, digest: Digest) -> Option<(Left, Content, u64)> {
        let _files = self.unfinished.files();
        self.unfinished.trim(self.hot.now());
        while let Some(mut left) = self.unfinished.take_longest(digest) {
            let opened = match left.uncut.take() {
                Some(content) => self.cut(&left, &content).and_then(|()| left.open()),
                None => left.open(),
            };
            match opened {
                Ok((content, len)) if len > 0 && !self.is_stored(digest) => {
                    return Some((left, content, len));
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%digest, %error, "an unfinished blob is lost"),
            }
            left.remove();
        }
        None
    }

    /// Leaves an unfinished blob to the next sink of its digest; [`Self::settle_unfinished`] is due
    /// then. Does not block.
    pub(crate) fn leave(&self, left: Left) {
        let since = self.hot.now();
        self.unfinished.left().push(Left { since, ..left });
    }

    /// Cuts what was left to its checkpoint, for the next start to find it, and removes what is
    /// stored by now, or is too much.
    pub(crate) fn settle_unfinished(&self) {
        let _files = self.unfinished.files();
        loop {
            let uncut = self.unfinished.left().iter().find_map(|left| {
                let content = left.uncut.as_ref()?;
                Some((left.clone(), Arc::clone(content)))
            });
            let Some((left, content)) = uncut else {
                break;
            };
            if let Err(error) = self.cut(&left, &content) {
                tracing::warn!(digest = %left.digest, %error, "an unfinished blob is lost");
            } else if !self.is_stored(left.digest) {
                let mut all = self.unfinished.left();
                if let Some(settled) = all.iter_mut().find(|other| other.is_as(&left)) {
                    // `content` is another handle to the file: this one closes nothing.
                    settled.uncut = None;
                }
                continue;
            }
            self.unfinished.take_first(|other| other.is_as(&left));
            left.remove();
        }
        self.unfinished.trim(self.hot.now());
    }

    /// Whether an unfinished blob is of no use any more. Whoever stores it later forgets what is
    /// left of it.
    fn is_stored(&self, digest: Digest) -> bool {
        matches!(self.index.blob(digest), Ok(Some(_)))
    }

    fn cut(&self, left: &Left, content: &Content) -> io::Result<()> {
        left.partial.record(left.len)?;
        self.step(Step::CheckpointRecorded);
        content.cut_to(left.len)?;
        self.step(Step::LeftUnfinished);
        Ok(())
    }

    /// Records that so many bytes of a partial file are written.
    pub(crate) fn record_checkpoint(&self, partial: &Partial, checkpoint: u64) -> io::Result<()> {
        partial.record(checkpoint)?;
        self.step(Step::CheckpointRecorded);
        Ok(())
    }

    /// Removes a partial file that is of no use any more, or what is left beside one that has got
    /// its place. Where it cannot be removed, the next start meets it again.
    pub(crate) fn remove_partial(&self, partial: &Partial) {
        if let Err(error) = partial.remove() {
            tracing::warn!(%error, "a partial file cannot be removed");
        }
    }

    /// Removes what was left of a blob that is stored now.
    pub(crate) fn forget_unfinished(&self, digest: Digest) {
        let is_of = |left: &Left| left.digest == digest;
        if self.unfinished.left().iter().any(is_of) {
            let _files = self.unfinished.files();
            while let Some(left) = self.unfinished.take_first(is_of) {
                left.remove();
            }
        }
    }

    /// Does `work`; where it finds no room, removes unfinished blobs, the oldest first, and does it
    /// again, until it finds room or none of them is left.
    pub(crate) fn with_room<T>(
        &self,
        mut work: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        loop {
            match work() {
                Err(StoreError::NoSpace { .. }) if self.give_way() => {}
                done => return done,
            }
        }
    }

    /// Removes the oldest unfinished blob; whether there was one.
    fn give_way(&self) -> bool {
        let _files = self.unfinished.files();
        let Some(oldest) = self.unfinished.take_oldest() else {
            return false;
        };
        tracing::info!(
            digest = %oldest.digest,
            bytes = oldest.len,
            "an unfinished blob gives way: the disk is full"
        );
        oldest.remove();
        true
    }
}
