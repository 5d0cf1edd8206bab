//! Blobs: a row that says so, and the file it speaks of. The crash table is in the crate's
//! documentation; the names of the steps are those of [`Step`].

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use registry_core::{
    BlobStat, Digest, Hasher, LinkTarget, RemovedUnused, StoreError, StoreOperation, Verified,
};

use super::Folder;
use crate::index::keys::{BlobRow, Intent};
use crate::index::{Opening, Unused};
use crate::layout::{Entry, Kind, found, open_content, remove_content, sync_folder};
use crate::step::Step;

/// Bytes that are hashed at a time where a file is proven.
const PROVE_BYTES: usize = 1 << 20;

impl Folder {
    /// Makes the bytes of a partial file durable.
    ///
    /// # Errors
    ///
    /// After one, nobody can tell any more what is on the disk: the system takes pages that it
    /// could not write for written, and gives them out as long as they are in memory. Such a file
    /// must not be kept, nor synced again.
    pub(crate) fn sync_blob(&self, file: &File, size: u64) -> Result<(), StoreError> {
        let operation = StoreOperation::Commit;
        let failed = |source| StoreError::io(operation, source);
        if file.metadata().map_err(failed)?.len() != size {
            return Err(StoreError::Corrupt {
                operation,
                what: "other bytes were verified than were written",
            });
        }
        file.sync_all().map_err(failed)?;
        self.step(Step::FileSynced);
        Ok(())
    }

    /// Gives a verified and synced file its place, durably; where the blob is there already, leaves
    /// the file where it is.
    pub(crate) fn commit_blob(
        &self,
        partial: &Path,
        verified: &Verified,
    ) -> Result<(), StoreError> {
        let (digest, size) = (verified.digest(), verified.size());
        let _turn = self.turn(digest);
        if self.agreeing(digest)?.is_some() {
            // Whoever committed it had this turn until it was durable.
            return Ok(());
        }
        let since = self.index.opening();
        self.index.put_intent(digest, Intent::Commit { size })?;
        self.index.flush(since)?;
        self.step(Step::IntentFlushed);
        let placed = self.place_blob(partial, digest, size);
        // As if it had not begun; where that fails too, the intent stays.
        if placed.is_ok() || self.remove_file(digest).is_ok() {
            // One that stays is settled at the next start, by what is there then.
            let _ = self.index.remove_intent(digest, since);
            self.step(Step::IntentRemoved);
        }
        placed
    }

    /// Records a blob whose file is there and was verified: accessed now, where it is new.
    fn admit_blob(&self, digest: Digest, size: u64) -> Result<(), StoreError> {
        let is_proven = true;
        let row = BlobRow { size, is_proven };
        self.index.admit_blob(digest, row, self.hot.now())
    }

    fn place_blob(&self, partial: &Path, digest: Digest, size: u64) -> Result<(), StoreError> {
        let failed = |source| StoreError::io(StoreOperation::Commit, source);
        if let Some(Entry::Other) = self.open_file(digest)? {
            // No file can be put in place of a folder.
            self.remove_file(digest).map_err(failed)?;
        }
        self.with_room(|| self.place(partial, Kind::Blob, digest).map_err(failed))?;
        self.step(Step::Renamed);
        let path = self.layout.content(Kind::Blob, digest);
        let folder = path.parent().expect("it is in a folder");
        sync_folder(folder).map_err(failed)?;
        self.step(Step::FolderSynced);
        self.admit_blob(digest, size)?;
        self.step(Step::RowWritten);
        Ok(())
    }

    /// Moves a partial file to the place of some content.
    pub(super) fn place(&self, partial: &Path, kind: Kind, digest: Digest) -> io::Result<()> {
        let path = self.layout.content(kind, digest);
        if found(fs::rename(partial, &path))?.is_some() {
            return Ok(());
        }
        // The first of its folder.
        self.layout.make_place(kind, digest)?;
        fs::rename(partial, &path)
    }

    /// Removes a blob; whether it was there.
    pub(crate) fn remove_blob(&self, digest: Digest) -> Result<bool, StoreError> {
        let failed = |source| StoreError::io(StoreOperation::Remove, source);
        let _turn = self.turn(digest);
        let path = self.layout.content(Kind::Blob, digest);
        let has_file = found(fs::symlink_metadata(&path))
            .map_err(failed)?
            .is_some();
        if self.index.blob(digest)?.is_none() && !has_file {
            return Ok(false);
        }
        self.discard_blob(digest)?;
        Ok(has_file)
    }

    /// Removes row and file of a blob, in its turn.
    fn discard_blob(&self, digest: Digest) -> Result<(), StoreError> {
        let since = self.index.opening();
        self.index.dismiss_blob(digest)?;
        self.remove_dismissed(digest, since)
    }

    /// Removes the file of a blob whose row was just removed, in its turn.
    fn remove_dismissed(&self, digest: Digest, since: Opening) -> Result<(), StoreError> {
        self.hot.accesses.forget(LinkTarget::Blob(digest));
        // The row is gone for good before the file goes (I6).
        self.index.flush(since)?;
        self.step(Step::RowRemoved);
        let removed = self.remove_file(digest);
        removed.map_err(|source| StoreError::io(StoreOperation::Remove, source))?;
        self.step(Step::FileRemoved);
        self.index.remove_intent(digest, since)?;
        self.step(Step::IntentRemoved);
        Ok(())
    }

    fn remove_file(&self, digest: Digest) -> io::Result<()> {
        let path = self.layout.content(Kind::Blob, digest);
        if remove_content(&path)? {
            sync_folder(path.parent().expect("it is in a folder"))?;
        }
        Ok(())
    }

    /// What is told of a blob without opening it.
    pub(crate) fn stat_blob(&self, digest: Digest) -> Result<Option<BlobStat>, StoreError> {
        let failed = |source| StoreError::io(StoreOperation::Stat, source);
        let row = self.index.blob(digest)?;
        let path = self.layout.content(Kind::Blob, digest);
        let file = found(fs::symlink_metadata(path)).map_err(failed)?;
        match (row, file) {
            (None, None) => Ok(None),
            (Some(row), Some(file)) if file.is_file() && row.size == file.len() => {
                let size = row.size;
                Ok(Some(BlobStat { digest, size }))
            }
            _ => {
                let settled = self.settle_blob(digest)?;
                Ok(settled.map(|(_, size)| BlobStat { digest, size }))
            }
        }
    }

    /// Removes a blob that no kept manifest names. The row goes while nobody can keep one that
    /// does; whoever keeps one then finds the blob absent.
    pub(crate) fn remove_unused(&self, digest: Digest) -> Result<RemovedUnused, StoreError> {
        let failed = |source| StoreError::io(StoreOperation::Remove, source);
        let _turn = self.turn(digest);
        let path = self.layout.content(Kind::Blob, digest);
        let file = found(fs::symlink_metadata(&path)).map_err(failed)?;
        let since = self.index.opening();
        match self.index.dismiss_unused(digest)? {
            Unused::Needed => return Ok(RemovedUnused::Needed),
            Unused::Absent if file.is_none() => return Ok(RemovedUnused::Absent),
            // A file without a row: it goes as one with a row does.
            Unused::Absent => self.index.put_intent(digest, Intent::Remove)?,
            Unused::Dismissed => {}
        }
        self.remove_dismissed(digest, since)?;
        Ok(match file {
            None => RemovedUnused::Absent,
            Some(file) => RemovedUnused::Removed(file.len()),
        })
    }

    /// A blob's file and size. Counts as an access.
    pub(crate) fn find_blob(&self, digest: Digest) -> Result<Option<(File, u64)>, StoreError> {
        let blob = self.peek_blob(digest)?;
        if blob.is_some() {
            self.touch_blocking(LinkTarget::Blob(digest));
        }
        Ok(blob)
    }

    /// The same, without counting as an access.
    pub(crate) fn peek_blob(&self, digest: Digest) -> Result<Option<(File, u64)>, StoreError> {
        match self.agreeing(digest)? {
            Some(blob) => Ok(Some(blob)),
            None => self.settle_blob(digest),
        }
    }

    /// The blob, where its row is proven and its file is of the row's size.
    fn agreeing(&self, digest: Digest) -> Result<Option<(File, u64)>, StoreError> {
        let Some(row) = self.index.blob(digest)?.filter(|row| row.is_proven) else {
            return Ok(None);
        };
        match self.open_file(digest)? {
            Some(Entry::File(file, len)) if len == row.size => Ok(Some((file, len))),
            _ => Ok(None),
        }
    }

    fn open_file(&self, digest: Digest) -> Result<Option<Entry>, StoreError> {
        let opened = open_content(&self.layout.content(Kind::Blob, digest));
        opened.map_err(|source| StoreError::io(StoreOperation::Read, source))
    }

    /// Makes row and file agree, in their turn, by what the file is:
    /// - none: the row is forgotten;
    /// - not of the size of a proven row: both are forgotten;
    /// - without a row, or with one that is not proven: it is hashed, and then both are kept or
    ///   both forgotten. Only a rebuild, and an index that lost its last records, leave such.
    fn settle_blob(&self, digest: Digest) -> Result<Option<(File, u64)>, StoreError> {
        let _turn = self.turn(digest);
        let row = self.index.blob(digest)?;
        let (file, size) = match self.open_file(digest)? {
            Some(Entry::File(file, size)) => (file, size),
            Some(Entry::Other) => {
                self.forget_blob(digest, "something that is no file has its place")?;
                return Ok(None);
            }
            None if row.is_some() => {
                self.forget_blob(digest, "its file is missing")?;
                return Ok(None);
            }
            None => return Ok(None),
        };
        match row {
            Some(row) if row.size != size => {
                self.forget_blob(digest, "its file is not of the size that was recorded")?;
                Ok(None)
            }
            Some(row) if row.is_proven => Ok(Some((file, size))),
            _ if is_content(&file, digest)? => {
                self.admit_blob(digest, size)?;
                Ok(Some((file, size)))
            }
            _ => {
                self.forget_blob(digest, "its file does not match its digest")?;
                Ok(None)
            }
        }
    }

    /// Removes a damaged blob, in its turn, and says so.
    fn forget_blob(&self, digest: Digest, why: &'static str) -> Result<(), StoreError> {
        tracing::warn!(%digest, why, "a stored blob is forgotten, and will be fetched anew");
        self.count_forgotten();
        self.discard_blob(digest)
    }

    /// Brings to its end what was interrupted: a row that stands keeps its file; a file that
    /// was about to be committed, and is whole, was verified and synced before the intent was
    /// recorded, so it gets its row; any other file goes.
    pub(super) fn settle_intent(&self, digest: Digest, intent: Intent) -> Result<(), StoreError> {
        let _turn = self.turn(digest);
        let since = self.index.opening();
        let row = self.index.blob(digest)?;
        let file = self.open_file(digest)?;
        match (row, file, intent) {
            (Some(_), ..) | (None, None, _) => {}
            (None, Some(Entry::File(_, len)), Intent::Commit { size }) if len == size => {
                self.admit_blob(digest, size)?;
            }
            (None, Some(_), _) => {
                let removed = self.remove_file(digest);
                removed.map_err(|source| StoreError::io(StoreOperation::Remove, source))?;
            }
        }
        self.index.remove_intent(digest, since)
    }
}

/// Whether a file's bytes have this digest.
fn is_content(mut file: &File, digest: Digest) -> Result<bool, StoreError> {
    let mut hasher = Hasher::new(digest.algorithm());
    let mut buffer = vec![0; PROVE_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.verify(digest).is_ok()),
            Ok(len) => hasher.update(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(StoreError::io(StoreOperation::Read, error)),
        }
    }
}
