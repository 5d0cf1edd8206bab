//! What stands in files, in short: to see that it has changed.
//!
//! They are looked at rather than watched: that works on every file system, whatever is done to
//! them, and a look costs less than a request. What is found must be found twice before it is read,
//! so that a file is not taken while it is being written.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use registry_core::{Algorithm, Digest, Hasher};
use rustix::fs::OFlags;

/// How long from one look at files to the next. What is found at two of them is read.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Bytes of a file that are looked at.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// How a file is opened: a pipe is not waited for. It makes no difference to reading a file.
const NONBLOCK: i32 = OFlags::NONBLOCK.bits().cast_signed();

/// What stood in a file; none where it could not be read, or is no file.
pub(crate) type Stamp = Option<Digest>;

/// Whether what stands at a path can be read more than once: whether it is, or leads to, a file.
pub(crate) fn can_be_read_again(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file())
}

/// The stamp of what a file, or what it is a link to, holds now.
pub(crate) fn stamp(path: &Path) -> Stamp {
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
pub(crate) fn is_empty(path: &Path) -> bool {
    let metadata = path.metadata();
    metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0)
}

/// Tells what has changed and stays so from what is changing still.
#[derive(Default)]
pub(crate) struct Settling {
    /// As it was read last; nothing at first, so that what has changed between the start and the
    /// first look is not missed.
    read: Option<Vec<Stamp>>,
    /// As it was found last.
    seen: Option<Vec<Stamp>>,
}

impl Settling {
    /// Whether what is found is to be read now.
    pub(crate) fn settled(&mut self, found: Vec<Stamp>) -> bool {
        let found = Some(found);
        if found == self.read {
            self.seen = found;
            return false;
        }
        let is_settled = found == self.seen;
        if is_settled {
            self.read.clone_from(&found);
        }
        self.seen = found;
        is_settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_twice_is_read_once() {
        let stamp = |text: &str| Some(Hasher::digest_of(Algorithm::Sha256, text.as_bytes()));
        let (one, half, two) = (stamp("one"), stamp("tw"), stamp("two"));
        let mut settling = Settling::default();
        for (found, is_read) in [
            (one, false),
            (one, true),
            (one, false),
            // Being written.
            (half, false),
            (two, false),
            (two, true),
            (two, false),
            // Changed for a moment, and put back.
            (one, false),
            (two, false),
            (two, false),
            // Taken away.
            (None, false),
            (None, true),
            (None, false),
            (two, false),
            (two, true),
        ] {
            assert_eq!(settling.settled(vec![found]), is_read);
        }
    }
}
