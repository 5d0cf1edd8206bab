//! Manifests: a file each, which needs no row.
//!
//! A manifest is small enough to be hashed whenever it is read, so its file proves itself: it is
//! there and whole, or it is absent. Hence nothing has to be synced while an image is being
//! pulled, no crash leaves a file that nobody knows of, and losing the index loses no manifest
//! (I10). The first line of the file is the media type and, for no digest of the manifest tells
//! whether that is damaged, a digest of its own; the rest are the manifest's bytes (I9).

use std::fs;
use std::io::{self, Write as _};

use bytes::Bytes;
use quick_cache::Weighter;
use registry_core::{
    Algorithm, Digest, Hasher, LinkTarget, Manifest, MediaType, StoreError, StoreOperation,
};

use super::{Folder, sidecar};
use crate::layout::{Kind, found};
use crate::step::Step;

/// Manifests that were asked for lately; at most so many bytes of them.
pub(super) type Hot = quick_cache::sync::Cache<Digest, Manifest, Weigh>;

/// How many manifests the cache makes room for at first.
const HOT_ENTRIES: usize = 1_024;
/// What a manifest takes beside its bytes.
const HOT_ENTRY_BYTES: u64 = 512;

#[derive(Clone)]
pub(super) struct Weigh;

impl Weighter<Digest, Manifest> for Weigh {
    fn weight(&self, _: &Digest, manifest: &Manifest) -> u64 {
        manifest.bytes().len() as u64 + HOT_ENTRY_BYTES
    }
}

pub(super) fn hot(bytes_max: u64) -> Hot {
    Hot::with_weighter(HOT_ENTRIES, bytes_max, Weigh)
}

impl Folder {
    /// The manifest, from memory or from its file. Counts as an access.
    pub(crate) fn manifest(&self, digest: Digest) -> Result<Option<Manifest>, StoreError> {
        let _turn = self.turn(digest);
        let manifest = match self.manifests.get(&digest) {
            Some(manifest) => Some(manifest),
            None => self.load_manifest(digest)?,
        };
        if manifest.is_some() {
            self.touch_blocking(LinkTarget::Manifest(digest));
        }
        Ok(manifest)
    }

    /// Keeps a manifest, unless it is kept already.
    pub(crate) fn put_manifest(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let digest = manifest.digest();
        let _turn = self.turn(digest);
        if self.load_manifest(digest)?.is_some() {
            return Ok(());
        }
        self.with_room(|| {
            self.space.check(manifest.bytes().len() as u64)?;
            self.write_manifest(manifest)
                .map_err(|source| StoreError::io(StoreOperation::Commit, source))
        })?;
        self.step(Step::ManifestRenamed);
        self.manifests.insert(digest, manifest.clone());
        self.touch_blocking(LinkTarget::Manifest(digest));
        Ok(())
    }

    fn write_manifest(&self, manifest: &Manifest) -> io::Result<()> {
        let mut file = self.layout.new_temporary()?;
        writeln!(file, "{}", header(manifest.media_type()))?;
        file.write_all(manifest.bytes())?;
        self.step(Step::ManifestWritten);
        let mut path = file.into_temp_path();
        self.place(&path, Kind::Manifest, manifest.digest())?;
        // There is nothing left of that name.
        path.disable_cleanup(true);
        Ok(())
    }

    /// Removes a manifest; whether it was there.
    pub(crate) fn remove_manifest(&self, digest: Digest) -> Result<bool, StoreError> {
        let failed = |source| StoreError::io(StoreOperation::Remove, source);
        let _turn = self.turn(digest);
        self.manifests.remove(&digest);
        // First: what lists origins never outlives a manifest that was removed.
        if sidecar::remove(&self.layout.origins(digest)).map_err(failed)? {
            self.step(Step::OriginsRemoved);
        }
        let removed = found(fs::remove_file(self.layout.content(Kind::Manifest, digest)));
        let removed = removed.map_err(failed)?;
        self.step(Step::ManifestRemoved);
        if removed.is_none() {
            return Ok(false);
        }
        self.accesses.forget(LinkTarget::Manifest(digest));
        self.index.remove_accessed(LinkTarget::Manifest(digest))?;
        Ok(true)
    }

    /// Reads a manifest's file, in its turn, and removes one that does not prove itself. Its
    /// origins stay listed: its links stand, and the next fetch of it heals what they are worth.
    pub(super) fn load_manifest(&self, digest: Digest) -> Result<Option<Manifest>, StoreError> {
        let path = self.layout.content(Kind::Manifest, digest);
        let bytes = found(fs::read(&path))
            .map_err(|source| StoreError::io(StoreOperation::Read, source))?;
        let Some(bytes) = bytes else {
            return Ok(None);
        };
        let Some(manifest) = parse(&bytes.into(), digest) else {
            tracing::warn!(%digest, "a stored manifest is damaged and forgotten");
            self.count_forgotten();
            fs::remove_file(&path)
                .map_err(|source| StoreError::io(StoreOperation::Remove, source))?;
            return Ok(None);
        };
        self.manifests.insert(digest, manifest.clone());
        Ok(Some(manifest))
    }
}

/// The first line of the file of a manifest of this type.
fn header(media_type: &MediaType) -> String {
    let proof = Hasher::digest_of(Algorithm::Sha256, media_type.as_str().as_bytes());
    format!("{media_type} {proof}")
}

/// What a manifest's file holds, if it is what its name says.
pub(super) fn parse(file: &Bytes, digest: Digest) -> Option<Manifest> {
    let end = file.iter().position(|&byte| byte == b'\n')?;
    let line = std::str::from_utf8(&file[..end]).ok()?;
    let (media_type, _) = line.split_once(' ')?;
    let media_type = MediaType::parse(media_type).ok()?;
    if line != header(&media_type) {
        return None;
    }
    Manifest::verify(Some(&media_type), file.slice(end + 1..), digest).ok()
}
