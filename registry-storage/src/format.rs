//! The version of a data folder, in a file of its own that is read before anything is opened: so
//! that a folder of another version is refused untouched, whatever its index has become.

use std::fs;
use std::io::{self, Write as _};

use crate::error::OpenError;
use crate::layout::{Layout, found, sync_folder};

/// The version of everything in a data folder: paths, keys and rows. It rises with whatever an
/// earlier version of this program would not keep right, though it might read it.
///
/// - 1: without rows of what is kept, and all that is derived from them.
pub(crate) const FORMAT: u32 = 2;
/// The versions that can be read: one before [`FORMAT`] is made that when it is opened.
pub(crate) const READABLE: [u32; 2] = [1, FORMAT];

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FormatFile {
    /// Counts openings and closings. The index records it before this file does, so an index that
    /// knows only an earlier one has lost its last records: sled drops what it cannot read from
    /// the end of its log, and says nothing.
    pub(crate) epoch: u64,
}

impl FormatFile {
    /// Reads it; `None` where there is none yet.
    ///
    /// # Errors
    ///
    /// [`OpenError::UnknownFormat`] for any but those that are [`READABLE`].
    pub(crate) fn read(layout: &Layout) -> Result<Option<Self>, OpenError> {
        let path = layout.format();
        let bytes = found(fs::read(&path)).map_err(OpenError::unusable(&path))?;
        let Some(bytes) = bytes else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&bytes);
        let value = |key: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            lines.find_map(|(found, value)| (found == key).then_some(value.trim()))
        };
        let found = value("format").unwrap_or_default();
        let epoch = value("epoch").and_then(|text| text.parse().ok());
        match epoch {
            Some(epoch) if READABLE.iter().any(|format| found == format.to_string()) => {
                Ok(Some(Self { epoch }))
            }
            _ => Err(OpenError::UnknownFormat {
                path: layout.root().to_owned(),
                found: found.chars().take(32).collect(),
            }),
        }
    }

    /// Puts it in place of the former, durably: after a crash it is one of the two.
    pub(crate) fn write(self, layout: &Layout) -> io::Result<()> {
        let mut file = layout.new_temporary()?;
        write!(file, "format {FORMAT}\nepoch {}\n", self.epoch)?;
        file.as_file().sync_all()?;
        file.persist(layout.format())?;
        sync_folder(layout.root())
    }
}
