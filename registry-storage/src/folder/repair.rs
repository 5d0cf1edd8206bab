//! Whether the index that is there can be trusted, and making it anew from the files where it
//! cannot (I10).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use registry_core::{Algorithm, Digest, StoreError};
use rustix::io::Errno;

use super::links::links_of;
use super::sidecar::Sidecar;
use super::{manifests, sidecar};
use crate::error::OpenError;
use crate::format::{FORMAT, FormatFile};
use crate::index::Index;
use crate::index::keys::BlobRow;
use crate::layout::{Kind, Layout, digest_of_name, found, manifest_of_origins, sync_folder};
use crate::options::{DAMAGED_KEPT_MAX, DiskOptions, REBUILD_BATCH_ENTRIES};

/// How the index was made anew. What only the index knows is lost: tags, access times, and links
/// that came without a manifest, which cost one HEAD upstream each (I5).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rebuilt {
    /// What was wrong with the former.
    pub cause: String,
    /// Blobs that were found. Each is hashed before it is first opened.
    pub blobs: u64,
    /// Links that were restored: those of the manifests that are kept, and of all that they name,
    /// each in the origins that it was linked in before.
    pub links: u64,
    /// Where the former index is now, if there was one.
    pub set_aside: Option<PathBuf>,
}

/// The index and the epoch that begins, after a rebuild where one is needed.
pub(super) fn open_index(
    layout: &Layout,
    format: Option<FormatFile>,
    options: &DiskOptions,
) -> Result<(Index, u64, Option<Rebuilt>), OpenError> {
    let epoch = format.map_or(0, |format| format.epoch) + 1;
    let is_there = layout.index().exists();
    let (index, cause, set_aside) = match examine(layout, format, options)? {
        Examined::Whole(index, last) => return Ok((index, epoch.max(last + 1), None)),
        Examined::New(index) => (index, "there was none".to_owned(), None),
        Examined::Damaged(cause) => {
            let set_aside = is_there.then(|| set_aside(layout, options)).transpose();
            let set_aside = set_aside.map_err(OpenError::unusable(layout.index()))?;
            let index = Index::open(layout, options).map_err(index_error(layout))?;
            (index, cause, set_aside)
        }
    };
    let blobs = rebuild(layout, &index)?;
    let links = restore_links(layout, &index)?;
    // Only now: until it is rebuilt, the next start has to do it.
    found(fs::remove_file(layout.index_suspect()))
        .map_err(OpenError::unusable(layout.index_suspect()))?;
    if format.is_none() && blobs == 0 && links == 0 {
        // A new folder.
        return Ok((index, epoch, None));
    }
    tracing::warn!(
        cause,
        blobs,
        links,
        set_aside = set_aside
            .as_ref()
            .map(|path| tracing::field::display(path.display())),
        "the index was made anew from the files: tags, access times and links that came without a \
         manifest are lost"
    );
    let rebuilt = Rebuilt {
        cause,
        blobs,
        links,
        set_aside,
    };
    Ok((index, epoch, Some(rebuilt)))
}

/// What is known of the index that is there.
enum Examined {
    /// It can be used, and this is its last epoch.
    Whole(Index, u64),
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
        (Some(FORMAT), Some(format)) if identity.epoch < format.epoch => {
            damaged("it has lost its last records")
        }
        (Some(FORMAT), _) => Ok(Examined::Whole(index, identity.epoch)),
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
fn is_passing(error: &io::Error) -> bool {
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

/// Records every blob that has a file, as one to be hashed before it is opened: a file gets its
/// place only when it is verified, but what damaged the index may have damaged files too, and
/// hashing all of them here could take hours. Gives their number.
fn rebuild(layout: &Layout, index: &Index) -> Result<u64, OpenError> {
    let mut blobs = 0;
    let mut batch = Vec::new();
    for &algorithm in Algorithm::ALL {
        for folder in entries(&layout.shelf(Kind::Blob, algorithm))? {
            for file in entries(&folder)? {
                batch.extend(row_of(algorithm, &file)?);
                if batch.len() == REBUILD_BATCH_ENTRIES {
                    index.put_blobs(&batch).map_err(index_error(layout))?;
                    blobs += batch.len() as u64;
                    batch.clear();
                }
            }
        }
    }
    index.put_blobs(&batch).map_err(index_error(layout))?;
    Ok(blobs + batch.len() as u64)
}

/// The row for a file that was found; `None` for what is not named as a blob is.
fn row_of(algorithm: Algorithm, file: &Path) -> Result<Option<(Digest, BlobRow)>, OpenError> {
    let name = file.file_name().and_then(|name| name.to_str());
    let Some(digest) = name.and_then(|name| digest_of_name(algorithm, name)) else {
        return Ok(None);
    };
    let meta = fs::symlink_metadata(file).map_err(OpenError::unusable(file))?;
    let row = BlobRow {
        size: meta.len(),
        is_proven: false,
    };
    Ok(meta.is_file().then_some((digest, row)))
}

/// Links every manifest that is kept, and all that it names, in the origins that are listed beside
/// it. Gives the number of links. One manifest's are in memory at a time.
fn restore_links(layout: &Layout, index: &Index) -> Result<u64, OpenError> {
    let mut restored = 0;
    for &algorithm in Algorithm::ALL {
        for folder in entries(&layout.shelf(Kind::Manifest, algorithm))? {
            for file in entries(&folder)? {
                let name = file.file_name().and_then(|name| name.to_str());
                let digest = name.and_then(|name| manifest_of_origins(algorithm, name));
                if let Some(digest) = digest.filter(|digest| layout.origins(*digest) == file) {
                    restored += restore_manifest(layout, index, digest)?;
                }
            }
        }
    }
    Ok(restored)
}

/// The same for one manifest. A list beside none, or beside one that is damaged, is removed: what
/// it stood for is unknown.
fn restore_manifest(layout: &Layout, index: &Index, digest: Digest) -> Result<u64, OpenError> {
    let path = layout.origins(digest);
    let read = || -> io::Result<_> {
        let file = found(fs::read(layout.content(Kind::Manifest, digest)))?;
        let manifest = file.and_then(|file| manifests::parse(&file.into(), digest));
        let Some(manifest) = manifest else {
            sidecar::remove(&path)?;
            return Ok(None);
        };
        Ok(Some((manifest, Sidecar::read(layout, digest)?.origins())))
    };
    let (manifest, origins) = match read() {
        Ok(Some(read)) => read,
        Ok(None) => return Ok(0),
        Err(error) if is_passing(&error) => return Err(OpenError::unusable(path)(error)),
        Err(error) => {
            tracing::warn!(%digest, %error, "the links of a manifest are lost");
            return Ok(0);
        }
    };
    let links = links_of(&manifest);
    let mut restored = 0;
    for origin in origins {
        restored += index.link(&origin, &links).map_err(index_error(layout))?;
    }
    Ok(restored)
}

/// What is in a folder; nothing where there is no such folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let read = || -> io::Result<Vec<PathBuf>> {
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    read().map_err(OpenError::unusable(folder))
}
