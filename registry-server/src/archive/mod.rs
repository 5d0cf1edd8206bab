//! Archives of images: an OCI image layout (image-spec, *image-layout.md*) as one tar stream, for
//! places that no network reaches.
//!
//! - `tar`, `unzip`: the container; streaming, with all limits.
//! - `layout`: the files of a layout; `names`: what its images are called.
//! - `write`: a plan of the cache as a tar of known length, the same bytes for the same images.
//! - `read`: the other way, for archives of other programs, too.
//!
//! What belongs to an image, and when it is whole, the cache knows
//! ([`RegistryCache::plan_export`](registry_core::RegistryCache::plan_export),
//! [`RegistryCache::begin_import`](registry_core::RegistryCache::begin_import)).

mod layout;
mod names;
mod read;
mod tar;
mod unzip;
mod write;

use std::io;

use bytes::Bytes;
use futures::stream::BoxStream;
use registry_core::cache::ImportError;

pub use names::ImportName;
pub use read::import_archive;
pub use write::{ExportedArchive, export_archive};

/// Entries of a tar, of whatever kind.
const TAR_ENTRIES_MAX: u64 = 200_000;
/// Bytes of one record of a tar that says more about the next entry: its long name, for example.
const TAR_RECORD_BYTES_MAX: u64 = 64 << 10;
/// Bytes that may follow the end of a tar: it is filled up to a multiple of the size of a tape's
/// block.
const TAR_TRAILER_BYTES_MAX: u64 = 4 << 20;
/// Bytes of the path of an entry.
const PATH_BYTES_MAX: usize = 1 << 10;
/// Bytes of `oci-layout` and of `index.json`.
const INDEX_BYTES_MAX: u64 = 4 << 20;
/// Compressed bytes that are decompressed at a time; what comes of them is a thousand times as much
/// at the most.
const COMPRESSED_CHUNK_BYTES: usize = 4 << 10;

/// The bytes of an archive as they arrive.
pub type ArchiveBytes = BoxStream<'static, io::Result<Bytes>>;

/// Why an archive is not imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// It is no OCI image layout in a tar, or is damaged.
    #[error("this is not an archive that can be imported: {0}")]
    Malformed(String),
    /// It ends before its end.
    #[error("the archive ends in the middle: it was cut short")]
    Truncated,
    /// None of its images has a name that says where it is from.
    #[error("{0}")]
    Unnamed(String),
    /// Its bytes do not arrive.
    #[error("the archive could not be read")]
    Read(#[from] io::Error),
    /// The cache does not take it.
    #[error(transparent)]
    Import(#[from] ImportError),
}

impl ArchiveError {
    fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }
}
