//! Partial files: the content of a blob that is being written, and how far it has come.
//!
//! How far it has come is told by a small file beside it: so many bytes of it were written. Neither
//! is ever synced before a commit, so that is true after the death of the process and may be wrong
//! after that of the machine. It does not matter: nobody takes these bytes for right before all of
//! the blob is hashed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use crate::layout::{checkpoint_of, found};

/// Length of a checkpoint's file: as many digits as a number can have, and the end of the line. It
/// is always written whole, over the former.
const CHECKPOINT_FILE_BYTES: usize = 21;

/// Where a partial file is. Dropping it leaves the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Partial(pub(super) PathBuf);

impl Partial {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The checkpoint first: what has none is swept.
    pub(super) fn remove(&self) -> io::Result<()> {
        found(fs::remove_file(checkpoint_of(&self.0)))?;
        found(fs::remove_file(&self.0))?;
        Ok(())
    }

    pub(super) fn record(&self, checkpoint: u64) -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(checkpoint_of(&self.0))?;
        let text = format!("{checkpoint:020}\n");
        file.write_all_at(text.as_bytes(), 0)
    }

    /// What was recorded; `None` where nothing was, or nothing that makes sense.
    pub(super) fn recorded(&self) -> io::Result<Option<u64>> {
        let Some(file) = found(File::open(checkpoint_of(&self.0)))? else {
            return Ok(None);
        };
        let mut text = String::new();
        let longer = CHECKPOINT_FILE_BYTES as u64 + 1;
        if file.take(longer).read_to_string(&mut text).is_err() {
            return Ok(None);
        }
        let digits = text.strip_suffix('\n');
        let digits = digits.filter(|_| text.len() == CHECKPOINT_FILE_BYTES);
        Ok(digits.and_then(|digits| digits.parse().ok()))
    }

    pub(super) fn open(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(&self.0)
    }
}

/// A partial file as a sink and its readers have it open.
#[derive(Debug)]
pub(crate) struct Content {
    file: Arc<File>,
    /// Where it was cut when its sink was gone: what is past that may be another sink's.
    cut: RwLock<Option<u64>>,
}

impl Content {
    pub(super) fn new(file: File) -> Self {
        let (file, cut) = (Arc::new(file), RwLock::default());
        Self { file, cut }
    }

    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Where it ends for its readers, if it was cut; it is not cut while this is held.
    pub(crate) fn cut(&self) -> RwLockReadGuard<'_, Option<u64>> {
        self.cut.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn cut_to(&self, len: u64) -> io::Result<()> {
        let mut cut = self.cut.write().unwrap_or_else(PoisonError::into_inner);
        *cut = Some(len);
        shorten(&self.file, len)
    }
}

/// Cuts off what is past `len`.
pub(super) fn shorten(file: &File, len: u64) -> io::Result<()> {
    if file.metadata()?.len() > len {
        file.set_len(len)?;
    }
    Ok(())
}
