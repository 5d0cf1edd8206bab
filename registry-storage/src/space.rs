//! How much may still be written: never the last of the disk.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use registry_core::{StoreError, StoreOperation};

use crate::options::Reserve;

/// What a file system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "testing"),
    expect(unreachable_pub, reason = "it is part of `testing`")
)]
pub struct DiskSpace {
    /// Its size in bytes.
    pub total: u64,
    /// How many of them this process may still write.
    pub available: u64,
}

/// Where the numbers come from: the system, or a test.
#[derive(Clone, Default)]
pub(crate) struct Probe(Option<Arc<dyn Fn() -> DiskSpace + Send + Sync>>);

impl Probe {
    #[cfg(feature = "testing")]
    pub(crate) fn of(space: impl Fn() -> DiskSpace + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(space)))
    }

    fn measure(&self, path: &Path) -> io::Result<DiskSpace> {
        if let Some(space) = &self.0 {
            return Ok(space());
        }
        let told = rustix::fs::statvfs(path)?;
        Ok(DiskSpace {
            total: told.f_blocks.saturating_mul(told.f_frsize),
            available: told.f_bavail.saturating_mul(told.f_frsize),
        })
    }
}

/// Admits what fits above the reserve, counting what was promised to blobs that are under way:
/// or else all of them would be begun where there is room for one.
pub(crate) struct Space {
    path: PathBuf,
    reserve: Reserve,
    probe: Probe,
    promised: AtomicU64,
}

impl Space {
    pub(crate) fn new(path: PathBuf, reserve: Reserve, probe: Probe) -> Self {
        let promised = AtomicU64::new(0);
        Self {
            path,
            reserve,
            probe,
            promised,
        }
    }

    /// A promise of room for `bytes` more.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSpace`] where the reserve would be touched.
    pub(crate) fn promise(self: &Arc<Self>, bytes: u64) -> Result<Promise, StoreError> {
        // Promised before it is checked, so that of two at a time one sees the other.
        self.promised.fetch_add(bytes, Ordering::Relaxed);
        let promise = Promise {
            space: Arc::clone(self),
            left: bytes,
        };
        self.check(self.promised.load(Ordering::Relaxed))?;
        Ok(promise)
    }

    /// Whether `bytes` more leave the reserve untouched.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSpace`] where they do not.
    pub(crate) fn check(&self, bytes: u64) -> Result<(), StoreError> {
        let operation = StoreOperation::Write;
        let (available, reserve) = self.measure()?;
        if available < reserve.saturating_add(bytes) {
            return Err(StoreError::NoSpace { operation });
        }
        Ok(())
    }

    /// What may still be written, and is not promised to anybody.
    pub(crate) fn free(&self) -> Result<u64, StoreError> {
        let (available, reserve) = self.measure()?;
        let taken = reserve.saturating_add(self.promised.load(Ordering::Relaxed));
        Ok(available.saturating_sub(taken))
    }

    /// What this process may write, and what is to be left of that.
    fn measure(&self) -> Result<(u64, u64), StoreError> {
        let space = self.probe.measure(&self.path);
        let space = space.map_err(|source| StoreError::io(StoreOperation::Write, source))?;
        let reserve = match self.reserve {
            Reserve::Bytes(bytes) => bytes,
            Reserve::Percent(percent) => space.total / 100 * u64::from(percent),
        };
        Ok((space.available, reserve))
    }
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space").finish_non_exhaustive()
    }
}

/// Room that is counted as taken until it is, or until this is dropped.
#[derive(Debug)]
pub(crate) struct Promise {
    space: Arc<Space>,
    left: u64,
}

impl Promise {
    /// `bytes` of it were written: the file system counts them from now on.
    pub(crate) fn kept(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        self.space.promised.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.kept(self.left);
    }
}
