//! One store owns a data folder at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use crate::error::OpenError;
use crate::layout::Layout;

/// The ownership of a data folder; the kernel ends it with the process, however that ends.
#[derive(Debug)]
pub(crate) struct FolderLock {
    // Held, never read: the lock is the open file's.
    _file: File,
}

impl FolderLock {
    /// Takes it at once, or tells who has it. A second store of one process is refused too.
    pub(crate) fn take(layout: &Layout) -> Result<Self, OpenError> {
        let path = layout.lock();
        let unusable = || OpenError::unusable(&path);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(unusable())?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // What cannot be read is not told: that it is in use is what matters.
                let _ = file.read_to_string(&mut owner);
                return Err(OpenError::InUse {
                    path: layout.root().to_owned(),
                    owner: owner.trim().parse().ok(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(unusable()(source)),
        }
        file.set_len(0).map_err(unusable())?;
        writeln!(file, "{}", std::process::id()).map_err(unusable())?;
        Ok(Self { _file: file })
    }
}
