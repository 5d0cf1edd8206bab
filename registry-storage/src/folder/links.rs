//! Links: rows, and for those that come with a manifest a line beside its file, so that a rebuild
//! can make the rows anew (I10).
//!
//! A line stands for rows: for that of the manifest and for all that the manifest names. It is
//! written after them, and only where all of them are there: so it never grants what was not
//! granted (I5). It is taken back before the row of the manifest is: so a rebuild never brings
//! back what was removed.

use std::fs;

use registry_core::{Digest, Link, LinkTarget, Manifest, Origin, StoreError, StoreOperation};

use super::Folder;
use super::sidecar::{self, Sidecar};
use crate::layout::{found, sync_folder};
use crate::options::RELISTED_MAX;
use crate::step::Step;

impl Folder {
    /// Links all of `links`, or none.
    pub(crate) fn link(&self, origin: &Origin, links: &[Link]) -> Result<(), StoreError> {
        self.bound_unsettled();
        self.index.link(origin, links)?;
        self.step(Step::LinksRecorded);
        for link in links {
            let LinkTarget::Manifest(digest) = link.target else {
                continue;
            };
            // The links stand; without the line, a rebuild loses them and they cost a HEAD each.
            if let Err(error) = self.list_origin(origin, digest) {
                tracing::debug!(%digest, %error, "a link would not outlive a loss of the index");
            }
        }
        Ok(())
    }

    /// Lists an origin beside a manifest that is kept, once all that the line stands for is linked
    /// there. A manifest that an index names is linked by that alone, and what it names is not:
    /// that follows when it is pulled itself, and until then the line of the index restores it.
    fn list_origin(&self, origin: &Origin, digest: Digest) -> Result<(), StoreError> {
        let _turn = self.turn(digest);
        let manifest = match self.hot.manifests.get(&digest) {
            Some(manifest) => Some(manifest),
            None => self.load_manifest(digest)?,
        };
        manifest.map_or(Ok(()), |manifest| self.list_origin_of(origin, &manifest))?;
        self.index.hot.note_listed(origin, digest);
        Ok(())
    }

    /// Lists the origins that a manifest, just kept, is linked in from before, in its turn.
    pub(super) fn list_origins(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let target = LinkTarget::Manifest(manifest.digest());
        for origin in self.index.linked_in(target, None, RELISTED_MAX)? {
            self.list_origin_of(&origin, manifest)?;
        }
        Ok(())
    }

    fn list_origin_of(&self, origin: &Origin, manifest: &Manifest) -> Result<(), StoreError> {
        let failed = |source| StoreError::io(StoreOperation::Index, source);
        let digest = manifest.digest();
        let sidecar = Sidecar::read(&self.layout, digest).map_err(failed)?;
        if sidecar.lists(origin) {
            return Ok(());
        }
        // Read again, in the turn: somebody may have removed them meanwhile.
        for link in links_of(manifest) {
            if self.index.linked(origin, link.target)?.is_none() {
                return Ok(());
            }
        }
        self.space.check(0)?;
        self.mark(digest).map_err(failed)?;
        let appended = sidecar.append(origin).map_err(failed);
        if let Ok(true) = appended {
            self.step(Step::OriginListed);
        }
        // Also where it failed: some of the line may be there.
        self.measure_manifest(digest)?;
        appended.map(drop)
    }

    /// Removes a link, durably; whether it was there.
    pub(crate) fn unlink(&self, origin: &Origin, target: LinkTarget) -> Result<bool, StoreError> {
        let failed = |source| StoreError::io(StoreOperation::Index, source);
        let _turn = self.turn(target.digest());
        if let LinkTarget::Manifest(digest) = target {
            // Also where there is no row: a crash may have lost it, and not the line.
            let sidecar = Sidecar::read(&self.layout, digest).map_err(failed)?;
            if sidecar.lists(origin) {
                self.mark(digest).map_err(failed)?;
                sidecar.withdraw(&self.layout, origin).map_err(failed)?;
                self.step(Step::OriginWithdrawn);
                self.measure_manifest(digest)?;
            }
        }
        let since = self.index.opening();
        let removed = self.index.unlink(origin, target)?;
        // Also where there was none: then it may be a second try, after this had failed.
        self.index.flush(since)?;
        self.step(Step::LinkRemoved);
        Ok(removed)
    }

    /// Forgets everything that names `target`, durably; how many tags that were.
    pub(crate) fn forget(&self, target: LinkTarget) -> Result<usize, StoreError> {
        let failed = |source| StoreError::io(StoreOperation::Index, source);
        let _turn = self.turn(target.digest());
        if let LinkTarget::Manifest(digest) = target {
            // The lines before the rows, as where one link is removed.
            let path = self.layout.origins(digest);
            if found(fs::symlink_metadata(&path))
                .map_err(failed)?
                .is_some()
            {
                self.mark(digest).map_err(failed)?;
                sidecar::remove(&path).map_err(failed)?;
                sync_folder(path.parent().unwrap_or(self.layout.root())).map_err(failed)?;
                self.step(Step::OriginsRemoved);
                self.measure_manifest(digest)?;
            }
        }
        let since = self.index.opening();
        let tags = self.index.forget(target)?;
        // Also where nothing was removed: then it may be a second try, after this had failed.
        self.index.flush(since)?;
        self.step(Step::Forgotten);
        Ok(tags)
    }
}

/// What is linked with a manifest: itself, and what it names.
pub(super) fn links_of(manifest: &Manifest) -> Vec<Link> {
    let mut links = manifest.links().to_vec();
    links.push(Link {
        target: LinkTarget::Manifest(manifest.digest()),
        size: Some(manifest.descriptor().size),
    });
    links
}
