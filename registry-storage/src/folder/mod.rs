//! An open data folder: everything that blocks, and nothing that is async.
//!
//! Calls about one digest take turns, so that each sees what the one before it left. The fast
//! paths that take no turn ([`Folder::find_blob`] and `stat_blob`, where row and file agree) fall
//! back to one that does before they draw a conclusion from what does not agree.

mod blobs;
mod derive;
mod inventory;
mod links;
mod manifests;
mod marks;
mod open;
mod partials;
mod pins;
mod repair;
mod settle;
mod sidecar;
mod unfinished;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use registry_core::{Digest, LinkTarget, StoreError, StoreOperation};

use crate::format::FormatFile;
use crate::hot::Hot;
use crate::index::Index;
use crate::layout::Layout;
use crate::lock::FolderLock;
use crate::options::TURNS;
use crate::space::Space;
use crate::step::{Probe, Step};
use unfinished::Unfinished;

pub use self::derive::Upgraded;
pub use self::open::Recovery;
pub(crate) use self::partials::{Content, Partial};
pub use self::repair::Rebuilt;
pub(crate) use self::unfinished::{Left, Staged, Written};

pub(crate) struct Folder {
    pub(crate) layout: Layout,
    pub(crate) index: Index,
    pub(crate) space: Arc<Space>,
    unfinished: Unfinished,
    pub(crate) hot: Arc<Hot>,
    turns: Vec<Mutex<()>>,
    marks: marks::Marks,
    settled: Mutex<settle::Settled>,
    /// Held while pins are read to be changed, and written.
    pinning: Mutex<()>,
    forgotten: AtomicU64,
    epoch: u64,
    steps: Probe,
    // The last to be dropped: nobody else comes in while anything of this is open.
    _lock: FolderLock,
}

impl Folder {
    /// Waits for the turn of a digest.
    fn turn(&self, digest: Digest) -> MutexGuard<'_, ()> {
        let hash = digest.hash();
        let turn = usize::from(hash[0]) % self.turns.len();
        // A panic while it was held leaves no more behind than a crash, which is always a miss.
        self.turns[turn]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an access, and writes the batch if that is due.
    fn touch_blocking(&self, target: LinkTarget) {
        if self.hot.touch(target) {
            self.write_accesses();
        }
    }

    /// Writes the access times that are in memory. Where that fails they are lost, and whatever
    /// they were written along with goes on.
    pub(crate) fn write_accesses(&self) {
        let batch = self.hot.accesses.take();
        if batch.is_empty() {
            return;
        }
        if let Err(error) = self.index.put_accessed(batch) {
            tracing::warn!(%error, "access times are lost");
        }
    }

    /// How often content was found missing or damaged, and was forgotten.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// Leaves the folder as a start likes to find it. It must not be used afterwards.
    pub(crate) fn close(&self) -> Result<(), StoreError> {
        self.write_accesses();
        self.settle_manifests();
        let marked = self.begin_epoch(self.epoch + 1);
        let closed = self.index.close();
        marked.and(closed)
    }

    /// Begins an epoch: first in the index, then in the format file.
    fn begin_epoch(&self, epoch: u64) -> Result<(), StoreError> {
        self.index.put_identity(epoch)?;
        let written = FormatFile { epoch }.write(&self.layout);
        written.map_err(|source| StoreError::io(StoreOperation::Index, source))
    }

    fn count_forgotten(&self) {
        self.forgotten.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn step(&self, step: Step) {
        self.steps.taken(step, || {
            // A test's: what it wants to see is missing where this fails, and it says so.
            let _ = self.index.flush(self.index.opening());
        });
    }
}

fn turns() -> Vec<Mutex<()>> {
    std::iter::repeat_with(Mutex::default).take(TURNS).collect()
}
