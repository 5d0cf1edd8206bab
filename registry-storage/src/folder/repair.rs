//! Whether the index that is there can be trusted, and making it anew from the files where it
//! cannot (I10).

use std::fs;
use std::io;
use std::path::PathBuf;

use registry_core::StoreError;
use rustix::io::Errno;

use super::derive::{self, Found, Upgraded};
use crate::error::OpenError;
use crate::format::{FORMAT, FormatFile, READABLE};
use crate::index::{Identity, Index};
use crate::layout::{self, Layout, sync_folder};
use crate::options::{DAMAGED_KEPT_MAX, DiskOptions};

/// How the index was made anew. What only the index knows is lost: tags, access times (those of
/// the files stand for them), and links
/// that came without a manifest, which cost one HEAD upstream each (I5).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rebuilt {
    /// What was wrong with the former.
    pub cause: String,
    /// Blobs that were found. Each is hashed before it is first opened.
    pub blobs: u64,
    /// Manifests that were found.
    pub manifests: u64,
    /// Links that were restored: those of the manifests that are kept, and of all that they name,
    /// each in the origins that it was linked in before.
    pub links: u64,
    /// Where the former index is now, if there was one.
    pub set_aside: Option<PathBuf>,
}

/// The index, and what had to be done for it to be one.
pub(super) struct Opened {
    pub(super) index: Index,
    /// The epoch that begins.
    pub(super) epoch: u64,
    pub(super) rebuilt: Option<Rebuilt>,
    pub(super) upgraded: Option<Upgraded>,
}

impl Opened {
    fn as_it_is(index: Index, epoch: u64) -> Self {
        Self {
            index,
            epoch,
            rebuilt: None,
            upgraded: None,
        }
    }
}

/// Opens the index, after a rebuild where one is needed, or an upgrade.
pub(super) fn open_index(
    layout: &Layout,
    format: Option<FormatFile>,
    options: &DiskOptions,
) -> Result<Opened, OpenError> {
    let epoch = format.map_or(0, |format| format.epoch) + 1;
    let is_there = layout.index().exists();
    let (index, cause, set_aside) = match examine(layout, format, options)? {
        Examined::Whole(index, identity) => {
            let upgraded = match identity.format {
                Some(FORMAT) => {
                    index.drop_former().map_err(index_error(layout))?;
                    None
                }
                earlier => Some(derive::upgrade(layout, &index, earlier, options)?),
            };
            return Ok(Opened {
                upgraded,
                ..Opened::as_it_is(index, epoch.max(identity.epoch + 1))
            });
        }
        Examined::New(index) => (index, "there was none".to_owned(), None),
        Examined::Damaged(cause) => {
            let set_aside = is_there.then(|| set_aside(layout, options)).transpose();
            let set_aside = set_aside.map_err(OpenError::unusable(layout.index()))?;
            let index = Index::open(layout, options).map_err(index_error(layout))?;
            (index, cause, set_aside)
        }
    };
    let found = derive::rebuild(layout, &index, options)?;
    // Only now: until it is rebuilt, the next start has to do it.
    layout::found(fs::remove_file(layout.index_suspect()))
        .map_err(OpenError::unusable(layout.index_suspect()))?;
    if format.is_none() && found == Found::default() {
        // A new folder.
        return Ok(Opened::as_it_is(index, epoch));
    }
    let Found {
        blobs,
        manifests,
        links,
    } = found;
    tracing::warn!(
        cause,
        blobs,
        manifests,
        links,
        set_aside = set_aside
            .as_ref()
            .map(|path| tracing::field::display(path.display())),
        "the index was made anew from the files: tags and links that came without a manifest are \
         lost"
    );
    let rebuilt = Rebuilt {
        cause,
        blobs,
        manifests,
        links,
        set_aside,
    };
    Ok(Opened {
        rebuilt: Some(rebuilt),
        ..Opened::as_it_is(index, epoch)
    })
}

/// What is known of the index that is there.
enum Examined {
    /// It can be used.
    Whole(Index, Identity),
    /// There was none, and this one is empty.
    New(Index),
    /// This is wrong with it.
    Damaged(String),
}

fn examine(
    layout: &Layout,
    format: Option<FormatFile>,
    options: &DiskOptions,
) -> Result<Examined, OpenError> {
    let damaged = |cause: &str| Ok(Examined::Damaged(cause.to_owned()));
    if layout.index_suspect().exists() {
        return damaged("it was found damaged while it was in use");
    }
    if format.is_some() && !layout.index().join("db").exists() {
        return damaged("it is missing");
    }
    let opened = Index::open(layout, options).and_then(|index| {
        let identity = index.identity()?;
        // Read here, so that damage to them is met here.
        index.intents()?;
        Ok((index, identity))
    });
    let (index, identity) = match opened {
        Ok(opened) => opened,
        Err(error) if is_no_fault_of_index(&error) => return Err(index_error(layout)(error)),
        Err(error) => return damaged(&chain(&error)),
    };
    match (identity.format, format) {
        (Some(found), format) if READABLE.contains(&found) => match format {
            Some(format) if identity.epoch < format.epoch => {
                damaged("it has lost its last records")
            }
            _ => Ok(Examined::Whole(index, identity)),
        },
        (Some(found), _) => Err(OpenError::UnknownFormat {
            path: layout.root().to_owned(),
            found: found.to_string(),
        }),
        (None, Some(_)) => damaged("it has lost its first records"),
        (None, None) => Ok(Examined::New(index)),
    }
}

fn is_no_fault_of_index(error: &StoreError) -> bool {
    match error {
        StoreError::NoSpace { .. } => true,
        StoreError::Io { source, .. } => is_passing(source),
        _ => false,
    }
}

/// Whether an error is of the moment or of the machine, rather than of what was read: then nothing
/// is thrown away for it.
pub(super) fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    const NO_MORE_FILES: [Errno; 2] = [Errno::MFILE, Errno::NFILE];
    matches!(
        error.kind(),
        Kind::WouldBlock
            | Kind::PermissionDenied
            | Kind::ReadOnlyFilesystem
            | Kind::OutOfMemory
            | Kind::ResourceBusy
            | Kind::TimedOut
    ) || NO_MORE_FILES
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// An error and its sources in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

pub(super) fn index_error(layout: &Layout) -> impl FnOnce(StoreError) -> OpenError {
    let path = layout.root().to_owned();
    |source| OpenError::Index { path, source }
}

/// Moves the index out of the way, and removes the oldest of those moved before.
fn set_aside(layout: &Layout, options: &DiskOptions) -> io::Result<PathBuf> {
    const PREFIX: &str = "index.damaged-";
    let mut former: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(layout.root())? {
        let entry = entry?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes())
        {
            former.push(entry.path());
        }
    }
    // The names end in a time of as many digits each: their order is that of the times.
    former.sort();
    let too_many = (former.len() + 1).saturating_sub(DAMAGED_KEPT_MAX);
    for path in &former[..too_many] {
        fs::remove_dir_all(path)?;
    }
    let mut at = options.clock.now().as_millis();
    loop {
        let aside = layout.root().join(format!("{PREFIX}{at:015}"));
        if aside.exists() {
            // Two within a millisecond, or a clock that was set back.
            at += 1;
            continue;
        }
        fs::rename(layout.index(), &aside)?;
        sync_folder(layout.root())?;
        return Ok(aside);
    }
}
