//! Why a data folder cannot be opened.

use std::io;
use std::path::PathBuf;

use registry_core::StoreError;

use crate::format::FORMAT;

/// Why a data folder cannot be opened. Each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The path is something else than a folder.
    #[error("{} is not a folder: give the data folder another path", path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// The folder or something in it cannot be made, read or written.
    #[error(
        "cannot use {}: let this user read and write it, or choose another data folder",
        path.display()
    )]
    Unusable {
        /// The path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another store has the folder open.
    #[error(
        "{} is in use by {}: stop it, or choose another data folder",
        path.display(),
        owner.map_or("another process".to_owned(), |pid| format!("process {pid}"))
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Who uses it, where that can be told.
        owner: Option<u32>,
    },
    /// The folder was written by another version. Nothing in it was touched.
    #[error(
        "{} has format {found:?}, and this version reads format {FORMAT}: use the version \
         that wrote it, or choose another data folder",
        path.display()
    )]
    UnknownFormat {
        /// The folder.
        path: PathBuf,
        /// The format it has.
        found: String,
    },
    /// The index cannot be opened now, for a reason that is not its own.
    #[error(
        "cannot open the index in {}: see that the disk is not full or failing, and that the \
         process may open enough files",
        path.display()
    )]
    Index {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: StoreError,
    },
}

impl OpenError {
    /// For `map_err` of what is done to `path`.
    pub(crate) fn unusable(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::Unusable { path, source }
    }
}
