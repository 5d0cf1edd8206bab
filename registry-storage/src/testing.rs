//! For tests of this crate and of whoever embeds it (feature `testing`): a disk that is full when
//! a test says so, a look at what a crash would leave after each durable step, rows of blobs that
//! nobody had to write, and how often the disk was asked.

pub use crate::space::DiskSpace;
pub use crate::step::Step;

use registry_core::{Digest, StoreError, StoreOperation, Timestamp};

use crate::folder::Folder;
use crate::index::keys::BlobRow;
use crate::{DiskOptions, DiskStore, space, step};

impl DiskStore {
    /// How often it was hopped to a thread that may block: the only way to the disk and to the index.
    /// What is only dropped is not counted.
    pub fn hops(&self) -> u64 {
        self.shared.hopped()
    }

    /// Records blobs as kept that have no files, each with its size and its last access: for an
    /// index that is large.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; none of them is then recorded.
    pub async fn plant_blobs(
        &self,
        blobs: Vec<(Digest, u64, Timestamp)>,
    ) -> Result<(), StoreError> {
        let row = |(digest, size, at)| {
            let is_proven = true;
            (digest, BlobRow { size, is_proven }, at)
        };
        let rows: Vec<_> = blobs.into_iter().map(row).collect();
        let plant = move |folder: &Folder| folder.index.admit_blobs(&rows);
        self.shared.blocking(StoreOperation::Index, plant).await
    }
}

impl DiskOptions {
    /// Takes the free space from `space` rather than from the system.
    #[must_use]
    pub fn with_space(mut self, space: impl Fn() -> DiskSpace + Send + Sync + 'static) -> Self {
        self.space = space::Probe::of(space);
        self
    }

    /// Calls `tell` after each step, on the thread that took it and before it goes on: a copy of
    /// the data folder made there is what a crash at that moment leaves, but for what the system
    /// itself had not written in a power cut. With `flush_index` the index is flushed before, as
    /// its own timer might have done.
    #[must_use]
    pub fn with_steps(
        mut self,
        flush_index: bool,
        tell: impl Fn(Step) + Send + Sync + 'static,
    ) -> Self {
        self.steps = step::Probe::of(flush_index, tell);
        self
    }
}
