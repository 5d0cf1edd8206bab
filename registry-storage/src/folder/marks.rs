//! Marks: which manifests have files and rows that may not agree, should the process die now.
//!
//! Neither the files of a manifest nor its row are synced while an image is being pulled. So before
//! any of them is changed an empty file is made that names the manifest, and it is removed when all
//! of them are on the disk. A start makes the row of every manifest that is marked what its files
//! are. Since a file system keeps the order in which names are made, there is a mark wherever
//! there may be a need for it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use registry_core::{Digest, StoreError, StoreOperation};

use super::Folder;
use crate::layout::{Entry, Kind, found, manifest_of_mark, open_content, sync_folder};
use crate::options::{UNSETTLED_DUE, UNSETTLED_MAX};
use crate::step::Step;

/// The manifests that are marked.
#[derive(Default)]
pub(super) struct Marks {
    /// With the number of the last change to each.
    changes: Mutex<HashMap<Digest, u64>>,
    /// Held by whoever settles.
    settling: Mutex<()>,
}

impl Marks {
    fn changes(&self) -> MutexGuard<'_, HashMap<Digest, u64>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> usize {
        self.changes().len()
    }
}

impl Folder {
    /// Marks a manifest before its files or its row change, in its turn.
    pub(super) fn mark(&self, digest: Digest) -> io::Result<()> {
        let is_marked = {
            let mut changes = self.marks.changes();
            let change = changes.get_mut(&digest);
            change.map(|change| *change += 1).is_some()
        };
        if !is_marked {
            // Before it is known to be made: in this turn nobody else asks.
            File::create(self.layout.mark(digest))?;
            self.marks.changes().insert(digest, 0);
            self.step(Step::ManifestMarked);
        }
        Ok(())
    }

    /// Whether it is time for [`Self::settle_manifests`], and nobody is at it.
    pub(crate) fn has_to_settle(&self) -> bool {
        self.marks.count() >= UNSETTLED_DUE
            && !matches!(
                self.marks.settling.try_lock(),
                Err(TryLockError::WouldBlock)
            )
    }

    /// Settles where there are too many to be left to others. Not in any turn.
    pub(crate) fn bound_unsettled(&self) {
        if self.marks.count() >= UNSETTLED_MAX {
            self.settle_manifests();
        }
    }

    /// Makes durable whatever is marked, and removes the marks. What cannot be made durable stays
    /// marked.
    pub(crate) fn settle_manifests(&self) {
        let settling = &self.marks.settling;
        let _settling = settling.lock().unwrap_or_else(PoisonError::into_inner);
        // Of rows that were lost since, the mark would be gone.
        let Some(opening) = self.settle_reopened() else {
            return;
        };
        let changes: Vec<(Digest, u64)> = {
            let changes = self.marks.changes();
            changes.iter().map(|(digest, n)| (*digest, *n)).collect()
        };
        if changes.is_empty() {
            return;
        }
        let synced = changes
            .iter()
            .try_for_each(|(digest, _)| self.sync_manifest(*digest))
            .map_err(|source| StoreError::io(StoreOperation::Commit, source));
        if let Err(error) = synced.and_then(|()| self.index.flush(opening)) {
            tracing::debug!(%error, "manifests cannot be made durable yet");
            return;
        }
        self.step(Step::ManifestsSettled);
        for (digest, change) in changes {
            let _turn = self.turn(digest);
            let mut marked = self.marks.changes();
            // One that was changed meanwhile is settled the next time.
            if marked.get(&digest) == Some(&change)
                && found(fs::remove_file(self.layout.mark(digest))).is_ok()
            {
                marked.remove(&digest);
                drop(marked);
                self.step(Step::MarkRemoved);
            }
        }
    }

    fn sync_manifest(&self, digest: Digest) -> io::Result<()> {
        let file = self.layout.content(Kind::Manifest, digest);
        for path in [&file, &self.layout.origins(digest)] {
            if let Some(Entry::File(file, _)) = open_content(path)? {
                file.sync_all()?;
            }
        }
        let folder = file.parent().unwrap_or(Path::new("."));
        found(sync_folder(folder))?;
        Ok(())
    }

    /// Makes the row of every manifest that a crash left marked what its files are; how many of
    /// them did not agree.
    pub(super) fn settle_marks(&self) -> Result<u64, StoreError> {
        let failed = |source| StoreError::io(StoreOperation::Index, source);
        let entries = fs::read_dir(self.layout.unsettled()).map_err(failed)?;
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some(digest) = name.to_str().and_then(manifest_of_mark) else {
                continue;
            };
            self.marks.changes().insert(digest, 0);
        }
        let settled = self.agree_marked()?;
        self.settle_manifests();
        Ok(settled)
    }

    /// Makes the row of every manifest that is marked what its files are; how many of them did not
    /// agree. Not in any turn.
    pub(super) fn agree_marked(&self) -> Result<u64, StoreError> {
        let marked: Vec<Digest> = self.marks.changes().keys().copied().collect();
        let mut settled = 0;
        for digest in marked {
            let _turn = self.turn(digest);
            settled += u64::from(self.agree_manifest(digest)?);
        }
        Ok(settled)
    }
}
