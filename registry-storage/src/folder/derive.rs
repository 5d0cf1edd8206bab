//! Making rows of what the files are, and what is derived from rows: where the index is made anew
//! (I10), and where it is an earlier version's.
//!
//! One folder of files is in memory at a time, and so many rows as are written at once.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use registry_core::{Algorithm, Digest, LinkTarget, Manifest, Origin, Provenance, Timestamp};

use super::links::links_of;
use super::manifests::{self, children_of, manifest_bytes};
use super::repair::{index_error, is_passing};
use super::sidecar::{self, Sidecar};
use crate::error::OpenError;
use crate::index::Index;
use crate::index::keys::BlobRow;
use crate::layout::{Kind, Layout, digest_of_name, found, manifest_of_origins, remove_content};
use crate::options::{DiskOptions, REBUILD_BATCH_ENTRIES};

/// That a data folder of an earlier version was made one of this: what only this version records
/// was derived from what there was. It takes a while that grows with what is stored, once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Upgraded {
    /// The version that it had.
    pub from: u32,
    /// Blobs that were found.
    pub blobs: u64,
    /// Manifests that were found.
    pub manifests: u64,
    /// Links, tags and lists of referrers that were found.
    pub names: u64,
    /// How long it took.
    pub took: Duration,
}

/// What a rebuild found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) blobs: u64,
    pub(super) manifests: u64,
    pub(super) links: u64,
}

/// Records every file there is in an index that is empty. Blobs are recorded as ones to be hashed
/// before they are opened: a file gets its place only when it is verified, but what damaged the
/// index may have damaged files too, and hashing all of them here could take hours. Manifests are
/// verified, and each is linked again where it is listed to be.
pub(super) fn rebuild(
    layout: &Layout,
    index: &Index,
    options: &DiskOptions,
) -> Result<Found, OpenError> {
    let blobs = find_blobs(layout, index, options)?;
    let mut found = Found {
        blobs,
        ..Found::default()
    };
    each_manifest(layout, |digest| {
        let Some(kept) = KeptManifest::find(layout, digest, options)? else {
            return Ok(());
        };
        kept.record(layout, index, None)?;
        found.manifests += 1;
        let links = links_of(&kept.manifest);
        for origin in &kept.origins {
            found.links += index.link(origin, &links).map_err(index_error(layout))?;
        }
        Ok(())
    })?;
    Ok(found)
}

/// Makes of an index of an earlier version one of this. It is one only when that is marked in it:
/// after a crash before, this begins again.
pub(super) fn upgrade(
    layout: &Layout,
    index: &Index,
    from: Option<u32>,
    options: &DiskOptions,
) -> Result<Upgraded, OpenError> {
    let begun = Instant::now();
    let from = from.unwrap_or_default();
    tracing::info!(
        from,
        "the data folder is an earlier version's: its index is brought up to date, which may take \
         up to 15 seconds for each 100,000 blobs and links"
    );
    index.clear_derived().map_err(index_error(layout))?;
    let blobs = derive_blobs(layout, index, options)?;
    let mut manifests = 0;
    each_manifest(layout, |digest| {
        if let Some(kept) = KeptManifest::find(layout, digest, options)? {
            let target = LinkTarget::Manifest(digest);
            let accessed = index.accessed_before(target);
            let accessed = accessed.map_err(index_error(layout))?;
            kept.record(layout, index, accessed)?;
            manifests += 1;
        }
        Ok(())
    })?;
    let names = index.derive_names().map_err(index_error(layout))?;
    let upgraded = Upgraded {
        from,
        blobs,
        manifests,
        names,
        took: begun.elapsed(),
    };
    tracing::info!(
        blobs,
        manifests,
        names,
        seconds = upgraded.took.as_secs_f64(),
        "the index is up to date"
    );
    Ok(upgraded)
}

/// Records the blobs that there are files of.
fn find_blobs(layout: &Layout, index: &Index, options: &DiskOptions) -> Result<u64, OpenError> {
    let mut blobs = 0;
    let mut batch = Vec::new();
    let mut write = |batch: &mut Vec<_>| {
        blobs += batch.len() as u64;
        let written = index.admit_blobs(batch).map_err(index_error(layout));
        batch.clear();
        written
    };
    for &algorithm in Algorithm::ALL {
        for folder in entries(&layout.shelf(Kind::Blob, algorithm))? {
            for file in entries(&folder)? {
                batch.extend(row_of(algorithm, &file, options)?);
                if batch.len() == REBUILD_BATCH_ENTRIES {
                    write(&mut batch)?;
                }
            }
        }
    }
    write(&mut batch)?;
    Ok(blobs)
}

/// The row for a file that was found; `None` for what is not named as a blob is.
fn row_of(
    algorithm: Algorithm,
    file: &Path,
    options: &DiskOptions,
) -> Result<Option<(Digest, BlobRow, Timestamp)>, OpenError> {
    let name = file.file_name().and_then(|name| name.to_str());
    let Some(digest) = name.and_then(|name| digest_of_name(algorithm, name)) else {
        return Ok(None);
    };
    let meta = fs::symlink_metadata(file).map_err(OpenError::unusable(file))?;
    let row = BlobRow {
        size: meta.len(),
        is_proven: false,
    };
    Ok(meta
        .is_file()
        .then(|| (digest, row, changed_at(&meta, options))))
}

/// Records what is kept, by the rows that an earlier version has left of blobs and of accesses.
fn derive_blobs(layout: &Layout, index: &Index, options: &DiskOptions) -> Result<u64, OpenError> {
    let failed = || index_error(layout);
    let (mut blobs, mut after) = (0, None);
    loop {
        let page = index.blob_rows(after, REBUILD_BATCH_ENTRIES);
        let page = page.map_err(failed())?;
        let Some((last, _)) = page.last() else {
            return Ok(blobs);
        };
        after = Some(*last);
        let mut rows = Vec::new();
        for (digest, row) in page {
            let accessed = index.accessed_before(LinkTarget::Blob(digest));
            let at = match accessed.map_err(failed())? {
                Some(at) => at,
                None => {
                    let path = layout.content(Kind::Blob, digest);
                    let meta = found(fs::symlink_metadata(&path));
                    let meta = meta.map_err(OpenError::unusable(&path))?;
                    meta.map_or(Timestamp::default(), |meta| changed_at(&meta, options))
                }
            };
            rows.push((digest, row, at));
        }
        index.admit_blobs(&rows).map_err(failed())?;
        blobs += rows.len() as u64;
    }
}

/// A manifest whose file is whole.
struct KeptManifest {
    manifest: Manifest,
    changed_at: Timestamp,
    /// The origins that are listed beside it.
    origins: Vec<Origin>,
}

impl KeptManifest {
    /// `None` where there is none, or one that is damaged; a list beside such is removed: what it
    /// stood for is unknown.
    fn find(
        layout: &Layout,
        digest: Digest,
        options: &DiskOptions,
    ) -> Result<Option<Self>, OpenError> {
        let path = layout.content(Kind::Manifest, digest);
        let read = || -> io::Result<_> {
            let file = manifests::read(&path)?;
            let Some(manifest) = file.and_then(|file| manifests::parse(&file.into(), digest))
            else {
                sidecar::remove(&layout.origins(digest))?;
                remove_content(&path)?;
                return Ok(None);
            };
            let changed_at = changed_at(&fs::metadata(&path)?, options);
            let origins = match Sidecar::read(layout, digest) {
                Ok(sidecar) => sidecar.origins(),
                Err(error) if is_passing(&error) => return Err(error),
                Err(error) => {
                    tracing::warn!(%digest, %error, "the links of a manifest are lost");
                    Vec::new()
                }
            };
            Ok(Some(Self {
                manifest,
                changed_at,
                origins,
            }))
        };
        match read() {
            Err(error) if !is_passing(&error) => {
                tracing::warn!(%digest, %error, "a manifest cannot be read");
                Ok(None)
            }
            read => read.map_err(OpenError::unusable(path)),
        }
    }

    /// Records it, and charges it, with all that it names and that nobody is charged for yet, to
    /// the origin that it was first linked in: as far as the files tell, that brought it.
    fn record(
        &self,
        layout: &Layout,
        index: &Index,
        accessed: Option<Timestamp>,
    ) -> Result<(), OpenError> {
        let failed = || index_error(layout);
        let digest = self.manifest.digest();
        let target = LinkTarget::Manifest(digest);
        let bytes = manifest_bytes(layout, digest);
        let bytes = bytes.map_err(OpenError::unusable(layout.content(Kind::Manifest, digest)))?;
        let children = children_of(&self.manifest);
        let at = accessed.unwrap_or(self.changed_at);
        let admitted = index.admit_manifest(digest, bytes, &children, at);
        admitted.map_err(failed())?;
        let Some(origin) = self.origins.first() else {
            return Ok(());
        };
        let blobs = children
            .into_iter()
            .filter(|child| matches!(child, LinkTarget::Blob(_)));
        for target in [target].into_iter().chain(blobs) {
            let provenance = Provenance {
                origin: origin.clone(),
                endpoint: None,
                at: self.changed_at,
            };
            index.note(target, provenance).map_err(failed())?;
        }
        Ok(())
    }
}

/// Does `work` for every manifest that has a file, or a list of origins.
fn each_manifest(
    layout: &Layout,
    mut work: impl FnMut(Digest) -> Result<(), OpenError>,
) -> Result<(), OpenError> {
    for &algorithm in Algorithm::ALL {
        for folder in entries(&layout.shelf(Kind::Manifest, algorithm))? {
            for file in entries(&folder)? {
                let Some(name) = file.file_name().and_then(|name| name.to_str()) else {
                    continue;
                };
                let own = digest_of_name(algorithm, name)
                    .filter(|digest| layout.content(Kind::Manifest, *digest) == file);
                // With the manifest itself, where that is there.
                let listed = manifest_of_origins(algorithm, name)
                    .filter(|digest| layout.origins(*digest) == file)
                    .filter(|digest| !layout.content(Kind::Manifest, *digest).exists());
                if let Some(digest) = own.or(listed) {
                    work(digest)?;
                }
            }
        }
    }
    Ok(())
}

/// When a file was last written: the nearest to its last access that it tells. Not later than now,
/// or a clock that was set back would keep it for long.
fn changed_at(meta: &Metadata, options: &DiskOptions) -> Timestamp {
    let millis = meta.mtime().saturating_mul(1_000) + meta.mtime_nsec() / 1_000_000;
    let at = Timestamp::from_millis(u64::try_from(millis).unwrap_or(0));
    at.min(options.clock.now())
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
