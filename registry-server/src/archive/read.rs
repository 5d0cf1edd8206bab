//! An archive into the cache, in whatever order its entries come.

use registry_core::cache::{Import, ImportError};
use registry_core::{Digest, Origin, Pin, Progress, Reference, Referrers, RegistryCache};

use super::layout::{File, INDEX_FILE, Index, Named, check_layout};
use super::names::{ImportName, NamedImages, name_images, tag_of};
use super::tar::{Entry, TarReader};
use super::unzip::unzipped;
use super::{ArchiveBytes, ArchiveError, INDEX_BYTES_MAX};
use crate::api::{ArchivedImage, ImportFailure, ImportReport};

/// Imports an archive: an OCI image layout in a tar, as it is or with gzip, by this program or
/// another. Images are recorded as soon as all of the archive was read; those that are not whole, or
/// have no name, are told of and left out.
///
/// # Errors
///
/// [`ArchiveError`]; nothing is recorded then, unless the store failed in the middle of it.
///
/// # Cancellation
///
/// As [`Import`].
pub async fn import_archive(
    cache: &RegistryCache,
    archive: ArchiveBytes,
    name: Option<&ImportName>,
    progress: &Progress,
) -> Result<ImportReport, ArchiveError> {
    let mut import = cache.begin_import()?;
    let mut tar = TarReader::new(unzipped(archive).await?);
    let mut found = Layout::default();
    while let Some(entry) = tar.next().await? {
        found.take(&entry, &mut tar, &mut import, progress).await?;
        if let (INDEX_FILE, Some(index)) = (&*entry.path, &found.index) {
            // As soon as it is known, for who is about to send gigabytes.
            name_images(cache, index, name)?;
        }
    }
    let index = found.finish()?;
    let named = name_images(cache, &index, name)?;
    record(import, named, index.attached()).await
}

/// What an archive has besides content.
#[derive(Default)]
struct Layout {
    is_layout: bool,
    is_dockers: bool,
    index: Option<Index>,
}

impl Layout {
    async fn take(
        &mut self,
        entry: &Entry,
        tar: &mut TarReader,
        import: &mut Import,
        progress: &Progress,
    ) -> Result<(), ArchiveError> {
        let twice = || ArchiveError::Malformed(format!("it has {} twice", entry.path));
        if !entry.is_file {
            return Ok(());
        }
        match File::at(&entry.path)? {
            File::Layout => {
                if std::mem::replace(&mut self.is_layout, true) {
                    return Err(twice());
                }
                check_layout(&tar.whole(INDEX_BYTES_MAX).await?)?;
            }
            File::Index => {
                let index = Index::parse(&tar.whole(INDEX_BYTES_MAX).await?)?;
                if self.index.replace(index).is_some() {
                    return Err(twice());
                }
            }
            File::DockerIndex => self.is_dockers = true,
            File::Blob(digest) => {
                let mut incoming = import.content(digest, entry.size).await?;
                progress.update(|made| made.current = Some(digest.to_string()));
                while let Some(chunk) = tar.chunk().await? {
                    let bytes = chunk.len() as u64;
                    incoming.write(chunk).await?;
                    progress.update(|made| made.bytes += bytes);
                }
                incoming.finish().await?;
                progress.update(|made| made.items += 1);
            }
            File::Other => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<Index, ArchiveError> {
        match self.index {
            Some(index) if self.is_layout => Ok(index),
            Some(_) => Err(ArchiveError::malformed(
                "it has no file oci-layout, so it is no OCI image layout",
            )),
            None if self.is_dockers => Err(ArchiveError::malformed(
                "it is an archive of docker, of the kind before version 25; convert it with \
                 `skopeo copy docker-archive:FILE oci-archive:NEW:NAME`",
            )),
            None => Err(ArchiveError::malformed(
                "it has no index.json, so it is no OCI image layout",
            )),
        }
    }
}

/// Records images, and what is attached to them.
async fn record(
    mut import: Import,
    named: NamedImages,
    attached: Option<Digest>,
) -> Result<ImportReport, ArchiveError> {
    let NamedImages {
        images,
        mut failures,
        moved,
    } = named;
    let mut recorded = Vec::new();
    for image in images {
        let outcome = import.record(&image.origin, image.tag.as_ref(), image.digest);
        match outcome.await {
            Ok(imported) => recorded.push(ArchivedImage {
                name: image.name,
                digest: imported.digest.to_string(),
                platforms: imported.platforms.iter().map(ToString::to_string).collect(),
            }),
            Err(error @ (ImportError::Incomplete { .. } | ImportError::Manifest { .. })) => {
                failures.push(ImportFailure {
                    name: image.name,
                    reason: error.to_string(),
                });
            }
            Err(error) => return Err(error.into()),
        }
    }
    let attached = match attached {
        Some(digest) => record_attached(&mut import, digest, moved.as_ref(), &mut failures).await?,
        None => 0,
    };
    let imported = import.finish().await;
    Ok(ImportReport {
        images: recorded,
        attached,
        contents: imported.contents,
        bytes: imported.bytes,
        contents_held: imported.contents_held,
        bytes_held: imported.bytes_held,
        contents_unused: imported.contents_unused,
        failures,
    })
}

/// Records what one of our archives says is attached; how much that is.
async fn record_attached(
    import: &mut Import,
    list: Digest,
    moved: Option<&(Origin, Origin)>,
    failures: &mut Vec<ImportFailure>,
) -> Result<u64, ArchiveError> {
    let Some(bytes) = import.document(list) else {
        let what = format!("what is attached to its images is missing: {list}");
        return Err(ArchiveError::Malformed(what));
    };
    let mut recorded = 0;
    for named in Index::parse(&bytes)?.manifests {
        let name = named.referrers_of().or_else(|| named.name());
        let name = name.ok_or_else(|| ArchiveError::malformed("something attached has no name"))?;
        let pin = Pin::parse(name);
        let Ok(Pin::Image(origin, reference)) = pin else {
            let what = format!("{name:?}, under which something is attached, is no name");
            return Err(ArchiveError::Malformed(what));
        };
        let origin = match moved {
            Some((from, to)) if *from == origin => to.clone(),
            _ => origin,
        };
        let outcome = match reference {
            Reference::Digest(subject) if named.referrers_of().is_some() => {
                let referrers = match named.is_list() {
                    true => Some(list_of(import, &named)?),
                    false => None,
                };
                let brought = referrers.as_ref().map_or(0, Referrers::len) as u64;
                let outcome = import.record_referrers(&origin, subject, referrers).await;
                outcome.map(|()| brought)
            }
            reference => {
                let tag = tag_of(reference);
                let outcome = import.record(&origin, tag.as_ref(), named.digest()?).await;
                outcome.map(|_| 1)
            }
        };
        match outcome {
            Ok(brought) => recorded += brought,
            Err(
                error @ (ImportError::Incomplete { .. }
                | ImportError::Manifest { .. }
                | ImportError::UnknownUpstream { .. }),
            ) => failures.push(ImportFailure {
                name: name.to_owned(),
                reason: error.to_string(),
            }),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(recorded)
}

fn list_of(import: &mut Import, named: &Named) -> Result<Referrers, ArchiveError> {
    let digest = named.digest()?;
    let list = import.document(digest);
    let list = list.and_then(|bytes| Referrers::of_index(None, &bytes).ok());
    list.ok_or_else(|| ArchiveError::Malformed(format!("{digest} is no list of referrers")))
}
