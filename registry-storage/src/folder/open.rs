//! Opening a data folder: who owns it, whether this version can read it, and what a crash left.
//!
//! Nothing here takes longer where more is stored; see `repair` for the one case that does.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use registry_core::StoreError;

use super::repair::{Rebuilt, index_error, open_index};
use super::{Folder, manifests, turns};
use crate::accesses::Accesses;
use crate::error::OpenError;
use crate::format::FormatFile;
use crate::layout::{Layout, PARTIAL_PREFIX, found, make_folder};
use crate::lock::FolderLock;
use crate::options::DiskOptions;
use crate::space::Space;

/// What opening a data folder had to put right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Partial files that a crash left; they are gone.
    pub partial_swept: u64,
    /// Commits and removals that a crash interrupted; they were brought to their end.
    pub intents_settled: u64,
    /// That the index was made anew from the files, if it was.
    pub rebuilt: Option<Rebuilt>,
}

impl Folder {
    /// Opens a data folder, and makes it if it is not there.
    pub(crate) fn open(
        root: PathBuf,
        options: &DiskOptions,
    ) -> Result<(Self, Recovery), OpenError> {
        let layout = Layout::new(root);
        if found(fs::metadata(layout.root()))
            .map_err(OpenError::unusable(layout.root()))?
            .is_some_and(|meta| !meta.is_dir())
        {
            let path = layout.root().to_owned();
            return Err(OpenError::NotAFolder { path });
        }
        // Before anything is made or locked: a folder of another version is not touched.
        FormatFile::read(&layout)?;
        make_folder(layout.root()).map_err(OpenError::unusable(layout.root()))?;
        let lock = FolderLock::take(&layout)?;
        // Again, now that nobody else writes it.
        let format = FormatFile::read(&layout)?;
        make_folder(&layout.partial()).map_err(OpenError::unusable(layout.partial()))?;
        let partial_swept = sweep(&layout).map_err(OpenError::unusable(layout.partial()))?;
        let (index, epoch, rebuilt) = open_index(&layout, format, options)?;

        let folder = Self {
            space: Arc::new(Space::new(
                layout.root().to_owned(),
                options.reserve,
                options.space.clone(),
            )),
            accesses: Accesses::new(options),
            clock: Arc::clone(&options.clock),
            turns: turns(),
            manifests: manifests::hot(options.manifest_cache_bytes),
            forgotten: AtomicU64::new(0),
            steps: options.steps.clone(),
            layout,
            index,
            epoch,
            _lock: lock,
        };
        let settled = folder.settle_intents().and_then(|settled| {
            folder.mark(epoch)?;
            Ok(settled)
        });
        let intents_settled = settled.map_err(index_error(&folder.layout))?;
        let recovery = Recovery {
            partial_swept,
            intents_settled,
            rebuilt,
        };
        Ok((folder, recovery))
    }

    fn settle_intents(&self) -> Result<u64, StoreError> {
        let intents = self.index.intents()?;
        for (digest, intent) in &intents {
            self.settle_intent(*digest, *intent)?;
        }
        Ok(intents.len() as u64)
    }
}

/// Removes the partial files that a crash left. Whatever else is in their folder is not ours.
fn sweep(layout: &Layout) -> io::Result<u64> {
    let mut swept = 0;
    for entry in fs::read_dir(layout.partial())? {
        let entry = entry?;
        let is_ours = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PARTIAL_PREFIX.as_bytes());
        if is_ours && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
            swept += 1;
        }
    }
    Ok(swept)
}
