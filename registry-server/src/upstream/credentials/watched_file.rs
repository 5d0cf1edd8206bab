//! A small file that may change while it is used: read again where it has, and kept as it was
//! where what stands in it now makes no sense.

use std::fs::{Metadata, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use secrecy::zeroize::Zeroizing;
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout};

/// How long a file is taken for unchanged without a look at it.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a look at a file is waited for: it may be on a network that has gone away.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// How a file is opened: without waiting for anybody. It makes no difference to reading one.
const NONBLOCK: i32 = OFlags::NONBLOCK.bits().cast_signed();

/// Makes sense of a file's content; the error says what it is not, without quoting it.
type Parse<T> = fn(&[u8]) -> Result<T, String>;

/// A file, parsed.
pub(crate) struct WatchedFile<T> {
    path: Arc<Path>,
    bytes_max: u64,
    parse: Parse<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    /// Of the file that `value` was read from.
    stamp: Stamp,
    looked: Instant,
    /// A look under way. It is kept where its reader leaves, so that there is never more than one.
    look: Option<JoinHandle<Result<Option<Content>, String>>>,
    /// What was last logged, and is not logged again.
    complaint: Option<String>,
}

/// What tells a file that was written or replaced, links to it included, from the one before.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

struct Content {
    stamp: Stamp,
    bytes: Zeroizing<Vec<u8>>,
}

impl<T: Send + Sync> WatchedFile<T> {
    /// Reads a file for the first time.
    ///
    /// # Errors
    ///
    /// Why it cannot be used, to be put after its name.
    pub(crate) fn open(path: &Path, bytes_max: u64, parse: Parse<T>) -> Result<Self, String> {
        let content = look(path, None, bytes_max)?.expect("without a stamp, everything is new");
        Ok(Self {
            state: Mutex::new(State {
                value: Arc::new(parse(&content.bytes)?),
                stamp: content.stamp,
                looked: Instant::now(),
                look: None,
                complaint: None,
            }),
            path: path.into(),
            bytes_max,
            parse,
        })
    }

    /// What stands in the file; in doubt, what stood in it when it last made sense. `anew`: read
    /// it although it seems unchanged.
    pub(crate) async fn current(&self, anew: bool) -> Arc<T> {
        let mut state = self.state.lock().await;
        if anew || state.looked.elapsed() >= LOOK_INTERVAL {
            self.refresh(&mut state, anew).await;
        }
        Arc::clone(&state.value)
    }

    async fn refresh(&self, state: &mut State<T>, anew: bool) {
        let known = (!anew).then_some(state.stamp);
        let looking = state.look.get_or_insert_with(|| {
            let (path, bytes_max) = (Arc::clone(&self.path), self.bytes_max);
            spawn_blocking(move || look(&path, known, bytes_max))
        });
        let looked = timeout(LOOK_MAX, looking).await;
        state.looked = Instant::now();
        let outcome = match looked {
            Err(_) => Err("does not answer".to_owned()),
            Ok(looked) => {
                state.look = None;
                looked.unwrap_or_else(|_| Err("cannot be looked at".to_owned()))
            }
        };
        let outcome = outcome.and_then(|content| {
            let Some(content) = content else {
                return Ok(());
            };
            // Also where it makes no sense: that is said once, and not each second.
            state.stamp = content.stamp;
            state.value = Arc::new((self.parse)(&content.bytes)?);
            state.complaint = None;
            Ok(())
        });
        if let Err(problem) = outcome
            && state.complaint.as_ref() != Some(&problem)
        {
            tracing::warn!(
                path = %self.path.display(),
                problem,
                "a file with credentials cannot be used as it is now: what it held before is used"
            );
            state.complaint = Some(problem);
        }
    }
}

/// Reads a file, unless it is the one with this stamp.
fn look(path: &Path, known: Option<Stamp>, bytes_max: u64) -> Result<Option<Content>, String> {
    let failed = |error: std::io::Error| format!("cannot be read: {error}");
    let metadata = path.metadata().map_err(failed)?;
    if known == Some(Stamp::of(&metadata)) {
        return Ok(None);
    }
    // Opening a pipe would take until somebody writes to it, and it may have become one just now.
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(NONBLOCK);
    let file = options.open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err("is not a file".to_owned());
    }
    let stamp = Stamp::of(&metadata);
    let mut bytes = Zeroizing::new(Vec::new());
    let mut bounded = file.take(bytes_max + 1);
    bounded.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("is larger than {bytes_max} bytes"));
    }
    Ok(Some(Content { stamp, bytes }))
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl<T> std::fmt::Debug for WatchedFile<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchedFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn text(bytes: &[u8]) -> Result<String, String> {
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.starts_with('!') => Ok(text.to_owned()),
            _ => Err("makes no sense".to_owned()),
        }
    }

    /// Lets the next look be due. The clock runs, as files are read on other threads.
    async fn due(file: &WatchedFile<String>) {
        let mut state = file.state.lock().await;
        state.looked = state.looked.checked_sub(LOOK_INTERVAL).unwrap();
    }

    #[tokio::test]
    async fn a_file_is_read_again_when_it_has_changed_and_not_at_every_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, "one").unwrap();
        let file = WatchedFile::open(&path, 100, text).unwrap();
        fs::write(&path, "two").unwrap();
        assert_eq!(*file.current(false).await, "one", "looked at a moment ago");
        due(&file).await;
        assert_eq!(*file.current(false).await, "two");
        fs::write(&path, "three").unwrap();
        assert_eq!(*file.current(true).await, "three", "asked for anew");
    }

    #[tokio::test]
    async fn links_are_followed_where_they_lead_now() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        // As Kubernetes lays secrets out: the key is a link through a link that is replaced.
        for (version, content) in [("..1", "old"), ("..2", "new")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("password"), content).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/password", at("password")).unwrap();
        let file = WatchedFile::open(&at("password"), 100, text).unwrap();
        assert_eq!(*file.current(false).await, "old");
        symlink("..2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        due(&file).await;
        assert_eq!(*file.current(false).await, "new");
    }

    #[tokio::test]
    async fn what_makes_no_sense_leaves_what_did() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, "good").unwrap();
        let file = WatchedFile::open(&path, 8, text).unwrap();
        for damage in [&b"!"[..], b"\xff", b"far too long"] {
            fs::write(&path, damage).unwrap();
            due(&file).await;
            assert_eq!(*file.current(false).await, "good");
            assert!(file.state.lock().await.complaint.is_some());
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(*file.current(true).await, "good");
        fs::write(&path, "better").unwrap();
        due(&file).await;
        assert_eq!(*file.current(false).await, "better");
        assert!(file.state.lock().await.complaint.is_none());
    }

    #[test]
    fn what_cannot_be_read_is_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let problem = |bytes_max| WatchedFile::open(&path, bytes_max, text).unwrap_err();
        assert!(problem(8).starts_with("cannot be read: "));
        fs::write(&path, "123456789").unwrap();
        assert_eq!(problem(8), "is larger than 8 bytes");
        fs::write(&path, "!").unwrap();
        assert_eq!(problem(8), "makes no sense");
        let pipe = folder.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        for other in [folder.path(), &pipe] {
            let problem = WatchedFile::open(other, 8, text).unwrap_err();
            assert_eq!(problem, "is not a file");
        }
    }
}
