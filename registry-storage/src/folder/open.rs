//! Opening a data folder: who owns it, whether this version can read it, and what a crash left.
//!
//! Nothing here takes longer where more is stored; see `repair` for the one case that does.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use super::derive::Upgraded;
use super::marks::Marks;
use super::repair::{Opened, Rebuilt, index_error, open_index};
use super::settle::Settled;
use super::unfinished::Unfinished;
use super::{Folder, turns};
use crate::error::OpenError;
use crate::format::FormatFile;
use crate::hot::Hot;
use crate::layout::{Layout, found, make_folder};
use crate::lock::FolderLock;
use crate::options::DiskOptions;
use crate::space::Space;

/// What opening a data folder had to put right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Blobs that nobody finished and that can be gone on with.
    pub partial_kept: u64,
    /// Partial files that are of no use any more: too small, too old or too many; they are gone.
    pub partial_swept: u64,
    /// Commits and removals that a crash interrupted; they were brought to their end.
    pub intents_settled: u64,
    /// Manifests whose files and row a crash had left apart; the row was made what the files are.
    pub manifests_settled: u64,
    /// That the index was made anew from the files, if it was.
    pub rebuilt: Option<Rebuilt>,
    /// That the folder was an earlier version's, if it was.
    pub upgraded: Option<Upgraded>,
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
        for folder in [layout.partial(), layout.unsettled()] {
            make_folder(&folder).map_err(OpenError::unusable(&folder))?;
        }
        let collected = Unfinished::collect(&layout, options.clock.now());
        let (unfinished, partial_swept) =
            collected.map_err(OpenError::unusable(layout.partial()))?;
        let partial_kept = unfinished.count();
        let Opened {
            index,
            epoch,
            rebuilt,
            upgraded,
        } = open_index(&layout, format, options)?;

        let folder = Self {
            space: Arc::new(Space::new(
                layout.root().to_owned(),
                options.reserve,
                options.space.clone(),
            )),
            unfinished,
            hot: Arc::new(Hot::new(Arc::clone(&index.hot), options)),
            turns: turns(),
            marks: Marks::default(),
            settled: Mutex::new(Settled::at(index.opening())),
            pinning: Mutex::default(),
            forgotten: AtomicU64::new(0),
            steps: options.steps.clone(),
            layout,
            index,
            epoch,
            _lock: lock,
        };
        let settled = folder.settle_intents().and_then(|intents| {
            let manifests = folder.settle_marks()?;
            folder.begin_epoch(epoch)?;
            Ok((intents, manifests))
        });
        let (intents_settled, manifests_settled) = settled.map_err(index_error(&folder.layout))?;
        let recovery = Recovery {
            partial_kept,
            partial_swept,
            intents_settled,
            manifests_settled,
            rebuilt,
            upgraded,
        };
        Ok((folder, recovery))
    }
}
