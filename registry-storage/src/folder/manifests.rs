//! Manifests: a file each, and a row that says what it takes and what it names.
//!
//! A manifest is small enough to be hashed whenever it is read, so its file proves itself: it is
//! there and whole, or it is absent. Hence nothing has to be synced while an image is being
//! pulled, and losing the index loses no manifest (I10). Its row is made what its files are: see
//! `marks`. The first line of the file is the media type and, for no digest of the manifest tells
//! whether that is damaged, a digest of its own; the rest are the manifest's bytes (I9).

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use bytes::Bytes;
use registry_core::{
    Algorithm, Digest, Hasher, LinkTarget, Manifest, MediaType, StoreError, StoreOperation,
};

use super::{Folder, sidecar};
use crate::layout::{Entry, Kind, Layout, found, open_content, remove_content};
use crate::step::Step;

impl Folder {
    /// The manifest, from memory or from its file. Counts as an access.
    pub(crate) fn manifest(&self, digest: Digest) -> Result<Option<Manifest>, StoreError> {
        let manifest = self.peek_manifest(digest)?;
        if manifest.is_some() {
            self.touch_blocking(LinkTarget::Manifest(digest));
        }
        Ok(manifest)
    }

    /// The same, without counting as an access.
    pub(crate) fn peek_manifest(&self, digest: Digest) -> Result<Option<Manifest>, StoreError> {
        let _turn = self.turn(digest);
        match self.hot.manifests.get(&digest) {
            Some(manifest) => Ok(Some(manifest)),
            None => self.load_manifest(digest),
        }
    }

    /// Keeps a manifest, unless it is kept already.
    pub(crate) fn put_manifest(&self, manifest: &Manifest) -> Result<(), StoreError> {
        self.bound_unsettled();
        let digest = manifest.digest();
        let _turn = self.turn(digest);
        if self.load_manifest(digest)?.is_some() {
            self.touch_blocking(LinkTarget::Manifest(digest));
            return Ok(());
        }
        self.with_room(|| {
            self.space.check(manifest.bytes().len() as u64)?;
            self.mark(digest)
                .and_then(|()| self.write_manifest(manifest))
                .map_err(|source| StoreError::io(StoreOperation::Commit, source))
        })?;
        self.step(Step::ManifestRenamed);
        if let Err(error) = self.record_manifest(manifest) {
            // As if it had not begun.
            let _ = fs::remove_file(self.layout.content(Kind::Manifest, digest));
            return Err(error);
        }
        self.hot.manifests.insert(digest, manifest.clone());
        self.list_origins(manifest)?;
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

    /// Records a manifest that has its file, in its turn: accessed now, where it is new.
    fn record_manifest(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let failed = |source| StoreError::io(StoreOperation::Index, source);
        let digest = manifest.digest();
        self.mark(digest).map_err(failed)?;
        let bytes = manifest_bytes(&self.layout, digest).map_err(failed)?;
        let children = children_of(manifest);
        let now = self.hot.now();
        self.index.admit_manifest(digest, bytes, &children, now)?;
        self.step(Step::ManifestRecorded);
        Ok(())
    }

    /// Records what the files of a manifest take now, in its turn.
    pub(super) fn measure_manifest(&self, digest: Digest) -> Result<(), StoreError> {
        let bytes = manifest_bytes(&self.layout, digest)
            .map_err(|source| StoreError::io(StoreOperation::Index, source))?;
        self.index.resize(LinkTarget::Manifest(digest), bytes)?;
        self.step(Step::ManifestRecorded);
        Ok(())
    }

    /// Removes a manifest; whether it was there.
    pub(crate) fn remove_manifest(&self, digest: Digest) -> Result<bool, StoreError> {
        let failed = |source| StoreError::io(StoreOperation::Remove, source);
        self.bound_unsettled();
        // What was accessed before is not to be moved by that from where its removal puts it.
        self.write_accesses();
        let _turn = self.turn(digest);
        let has_files = manifest_bytes(&self.layout, digest).map_err(failed)? > 0;
        if !has_files && self.index.content(LinkTarget::Manifest(digest))?.is_none() {
            return Ok(false);
        }
        self.discard_manifest(digest)
    }

    /// Removes row and files of a manifest, in its turn; whether there was a file.
    fn discard_manifest(&self, digest: Digest) -> Result<bool, StoreError> {
        self.hot.manifests.remove(&digest);
        let since = self.index.opening();
        // On a full disk there may be no room for the mark, and the removal is all the more wanted.
        let is_marked = self.mark(digest).is_ok();
        self.index.dismiss_manifest(digest)?;
        self.hot.accesses.forget(LinkTarget::Manifest(digest));
        self.step(Step::ManifestDismissed);
        let removed = self.remove_manifest_files(digest);
        if removed.is_err() {
            // As if it had not begun.
            self.agree_manifest(digest)?;
        }
        // What was removed may have made room for it.
        if !is_marked && self.mark(digest).is_err() {
            self.index.flush(since)?;
        }
        removed.map_err(|source| StoreError::io(StoreOperation::Remove, source))
    }

    /// What lists origins never outlives a manifest that was removed: it goes first.
    fn remove_manifest_files(&self, digest: Digest) -> io::Result<bool> {
        if sidecar::remove(&self.layout.origins(digest))? {
            self.step(Step::OriginsRemoved);
        }
        let removed = remove_content(&self.layout.content(Kind::Manifest, digest))?;
        self.step(Step::ManifestRemoved);
        Ok(removed)
    }

    /// Reads a manifest's file, in its turn, and removes one that does not prove itself. Its
    /// links stand, and when it is kept again so does the list of its origins.
    pub(super) fn load_manifest(&self, digest: Digest) -> Result<Option<Manifest>, StoreError> {
        let path = self.layout.content(Kind::Manifest, digest);
        let bytes = read(&path).map_err(|source| StoreError::io(StoreOperation::Read, source))?;
        let has_row = self.index.content(LinkTarget::Manifest(digest))?.is_some();
        let Some(bytes) = bytes else {
            if has_row {
                self.forget_manifest(digest, "its file is missing")?;
            }
            return Ok(None);
        };
        let Some(manifest) = parse(&bytes.into(), digest) else {
            self.forget_manifest(digest, "its file is damaged")?;
            return Ok(None);
        };
        if !has_row {
            self.record_manifest(&manifest)?;
        }
        self.hot.manifests.insert(digest, manifest.clone());
        Ok(Some(manifest))
    }

    fn forget_manifest(&self, digest: Digest, why: &'static str) -> Result<(), StoreError> {
        tracing::warn!(%digest, why, "a stored manifest is forgotten, and will be fetched anew");
        self.count_forgotten();
        self.discard_manifest(digest)?;
        Ok(())
    }

    /// Makes the row of a manifest what its files are, in its turn; whether it was not. Files that
    /// are no manifest go.
    pub(super) fn agree_manifest(&self, digest: Digest) -> Result<bool, StoreError> {
        let failed = |source| StoreError::io(StoreOperation::Read, source);
        let row = self.index.content(LinkTarget::Manifest(digest))?;
        let file = read(&self.layout.content(Kind::Manifest, digest)).map_err(failed)?;
        if let Some(manifest) = file.and_then(|file| parse(&file.into(), digest)) {
            let bytes = manifest_bytes(&self.layout, digest).map_err(failed)?;
            let agrees = row.is_some_and(|row| row.bytes == bytes);
            if !agrees {
                self.record_manifest(&manifest)?;
            }
            return Ok(!agrees);
        }
        let had_row = self.index.dismiss_manifest(digest)?;
        let had_files = manifest_bytes(&self.layout, digest).map_err(failed)? > 0;
        self.remove_manifest_files(digest).map_err(failed)?;
        Ok(had_row || had_files)
    }
}

/// What a manifest's file holds; of something that is no file, nothing. `None` where there is none.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match open_content(path)? {
        None => Ok(None),
        Some(Entry::Other) => Ok(Some(Vec::new())),
        Some(Entry::File(mut file, _)) => {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        }
    }
}

/// What the files of a manifest take: its own, and the list of its origins.
pub(super) fn manifest_bytes(layout: &Layout, digest: Digest) -> io::Result<u64> {
    let len = |path: &Path| -> io::Result<u64> {
        Ok(found(fs::symlink_metadata(path))?.map_or(0, |meta| meta.len()))
    };
    let own = len(&layout.content(Kind::Manifest, digest))?;
    Ok(own + len(&layout.origins(digest))?)
}

/// What a manifest names.
pub(super) fn children_of(manifest: &Manifest) -> BTreeSet<LinkTarget> {
    manifest.links().iter().map(|link| link.target).collect()
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
