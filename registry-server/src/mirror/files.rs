//! What stands in files, in short: to see that it has changed.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use registry_core::{Algorithm, Digest, Hasher};
use rustix::fs::OFlags;

/// Bytes of a file that are looked at.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// How a file is opened: a pipe is not waited for. It makes no difference to reading a file.
const NONBLOCK: i32 = OFlags::NONBLOCK.bits().cast_signed();

/// What stood in a file; none where it could not be read, or is no file.
pub(super) type Stamp = Option<Digest>;

/// Whether what stands at a path can be read more than once: whether it is, or leads to, a file.
pub(super) fn can_be_read_again(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file())
}

/// The stamp of what a file, or what it is a link to, holds now.
pub(super) fn stamp(path: &Path) -> Stamp {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(NONBLOCK).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(Hasher::digest_of(Algorithm::Sha256, &bytes))
}

/// Whether a file, or what it is a link to, is there and holds nothing.
pub(super) fn is_empty(path: &Path) -> bool {
    let metadata = path.metadata();
    metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0)
}
