//! Bringing to its end what was interrupted: by a crash, which the next start does, and where the
//! index was opened anew after a write to it had failed, which loses what a crash would have lost.

use std::sync::TryLockError;
use std::time::Instant;

use registry_core::StoreError;

use super::Folder;
use crate::index::Opening;
use crate::options::INDEX_REVIVE_AFTER;

/// Up to which opening of the index everything is settled.
pub(super) struct Settled {
    opening: Opening,
    /// When settling a later one failed.
    failed_at: Option<Instant>,
}

impl Settled {
    pub(super) fn at(opening: Opening) -> Self {
        let failed_at = None;
        Self { opening, failed_at }
    }
}

impl Folder {
    /// Settles intents and marks where the index was opened anew; the opening in which all of them
    /// are settled, or `None` where they are not yet, or somebody else is at it. Not in any turn.
    pub(crate) fn settle_reopened(&self) -> Option<Opening> {
        let mut settled = match self.settled.try_lock() {
            Ok(settled) => settled,
            Err(TryLockError::Poisoned(settled)) => settled.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let opening = self.index.opening();
        if settled.opening == opening {
            return Some(opening);
        }
        let failed_at = settled.failed_at;
        if failed_at.is_some_and(|at| at.elapsed() < INDEX_REVIVE_AFTER) {
            return None;
        }
        let done = self.settle_intents().and_then(|intents| {
            let manifests = self.agree_marked()?;
            Ok((intents, manifests))
        });
        match done {
            Ok((intents, manifests)) => {
                *settled = Settled::at(opening);
                tracing::info!(intents, manifests, "what the index had lost is put right");
                Some(opening)
            }
            Err(error) => {
                settled.failed_at = Some(Instant::now());
                tracing::warn!(%error, "what the index has lost cannot be put right yet");
                None
            }
        }
    }

    /// Settles all intents; how many there were. Not in any turn.
    pub(super) fn settle_intents(&self) -> Result<u64, StoreError> {
        let intents = self.index.intents()?;
        for (digest, intent) in &intents {
            self.settle_intent(*digest, *intent)?;
        }
        Ok(intents.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, OnceLock, Weak};
    use std::time::Duration;

    use bytes::Bytes;
    use registry_core::testing::content::{digest_of, sample, verified};
    use registry_core::{Algorithm, Digest, LinkTarget, Manifest, Origin, Repository, UpstreamId};
    use tempfile::TempDir;

    use super::super::links::links_of;
    use super::super::open::Recovery;
    use super::*;
    use crate::options::DiskOptions;
    use crate::step::Probe;

    fn copy(from: &Path, to: &Path) {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &to);
            } else {
                fs::copy(entry.path(), to).unwrap();
            }
        }
    }

    /// A folder whose index loses after some step what it had not flushed then, and is opened anew
    /// at the next write, whoever makes it.
    struct Failing {
        folder: Arc<Folder>,
        /// Steps until then; none is counted at 0.
        left: Arc<AtomicUsize>,
        dir: TempDir,
    }

    impl Failing {
        fn open() -> Self {
            let dir = TempDir::new().unwrap();
            let (root, live) = (dir.path().join("data"), dir.path().join("live"));
            fs::create_dir(&root).unwrap();
            fs::create_dir(&live).unwrap();
            symlink(&live, root.join("index")).unwrap();
            let failing: Arc<OnceLock<Weak<Folder>>> = Arc::default();
            let left = Arc::new(AtomicUsize::new(0));
            let told = {
                let (failing, left, root) = (Arc::clone(&failing), Arc::clone(&left), root.clone());
                move |_| {
                    let count = |left: usize| left.checked_sub(1);
                    let counted = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count);
                    let folder = failing.get().and_then(Weak::upgrade);
                    if let (Ok(1), Some(folder)) = (counted, folder) {
                        lose_unflushed(&root);
                        folder.index.fail_write();
                    }
                }
            };
            let options = DiskOptions {
                steps: Probe::of(false, told),
                // Never in the time of a test.
                index_flush_every: Duration::from_secs(3_600),
                ..DiskOptions::default()
            };
            let (folder, _) = Folder::open(root, &options).unwrap();
            let folder = Arc::new(folder);
            failing.set(Arc::downgrade(&folder)).unwrap();
            Self { folder, left, dir }
        }

        fn root(&self) -> PathBuf {
            self.dir.path().join("data")
        }
    }

    /// Puts what the index has on the disk in its place.
    fn lose_unflushed(root: &Path) {
        let lost = root.with_file_name("lost");
        copy(&root.join("index"), &lost);
        let link = root.join("link");
        symlink(lost, &link).unwrap();
        fs::rename(link, root.join("index")).unwrap();
    }

    fn origin(repository: &str) -> Origin {
        Origin::new(
            UpstreamId::parse("ghcr.io").unwrap(),
            Repository::parse(repository).unwrap(),
        )
    }

    fn manifest(blob: Digest) -> Manifest {
        let text = format!(r#"{{"layers":[{{"digest":"{blob}","size":1}}]}}"#);
        Manifest::of_bytes(None, text.into()).unwrap()
    }

    fn commit(folder: &Folder, bytes: &Bytes) -> Result<(), StoreError> {
        let (mut file, partial) = folder.layout.new_partial(digest_of(bytes)).unwrap();
        file.write_all(bytes).unwrap();
        let committed = folder.commit_blob(&partial, &verified(Algorithm::Sha256, bytes));
        // As a sink does.
        let _ = fs::remove_file(partial);
        committed
    }

    /// What is kept, by the files, and what all of them take.
    fn files(folder: &Folder, digests: &[Digest]) -> (u64, BTreeSet<LinkTarget>) {
        use crate::layout::Kind;
        let (mut bytes, mut kept) = (0, BTreeSet::new());
        for &digest in digests {
            let blob = folder.layout.content(Kind::Blob, digest);
            let manifest = folder.layout.content(Kind::Manifest, digest);
            for (path, target) in [
                (blob, LinkTarget::Blob(digest)),
                (folder.layout.origins(digest), LinkTarget::Manifest(digest)),
                (manifest, LinkTarget::Manifest(digest)),
            ] {
                if let Ok(meta) = fs::metadata(path) {
                    bytes += meta.len();
                    kept.insert(target);
                }
            }
        }
        (bytes, kept)
    }

    fn rows(folder: &Folder) -> (u64, BTreeSet<LinkTarget>) {
        let blobs = folder.index.blobs(None, usize::MAX).unwrap();
        let blobs = blobs.into_iter().map(|stat| LinkTarget::Blob(stat.digest));
        let manifests = folder.index.manifests(None, usize::MAX).unwrap();
        let manifests = manifests.into_iter().map(LinkTarget::Manifest);
        let bytes = folder.index.total().unwrap().bytes;
        (bytes, blobs.chain(manifests).collect())
    }

    /// Whichever step of whichever change the index fails after, and loses what it had not flushed:
    /// what is counted is what there is, to the byte, without a start.
    #[test]
    fn what_an_index_opened_anew_has_lost_is_put_right() {
        type Attempt = fn(&Folder, &[Bytes], &[Manifest]) -> bool;
        let changes: [(&str, Attempt); 9] = [
            ("commit", |folder, blobs, _| {
                commit(folder, &blobs[2]).is_ok()
            }),
            ("remove", |folder, blobs, _| {
                folder.remove_blob(digest_of(&blobs[0])).is_ok()
            }),
            ("remove unused", |folder, blobs, _| {
                folder.remove_unused(digest_of(&blobs[1])).is_ok()
            }),
            ("put", |folder, _, manifests| {
                folder.put_manifest(&manifests[2]).is_ok()
            }),
            ("link", |folder, _, manifests| {
                let links = links_of(&manifests[0]);
                folder.link(&origin("there"), &links).is_ok()
            }),
            ("unlink", |folder, _, manifests| {
                let target = LinkTarget::Manifest(manifests[0].digest());
                folder.unlink(&origin("here"), target).is_ok()
            }),
            ("forget", |folder, _, manifests| {
                let target = LinkTarget::Manifest(manifests[0].digest());
                folder.forget(target).is_ok()
            }),
            ("remove a manifest", |folder, _, manifests| {
                folder.remove_manifest(manifests[0].digest()).is_ok()
            }),
            ("settle", |folder, _, _| {
                folder.settle_manifests();
                true
            }),
        ];
        let blobs: Vec<Bytes> = (0..3).map(|n| sample(1_000, n)).collect();
        let named = [&blobs[0][..], &blobs[2], b"absent"];
        let manifests = named.map(|named| manifest(digest_of(named)));
        let digests = blobs.iter().map(|bytes| digest_of(bytes));
        let digests = digests.chain(manifests.iter().map(Manifest::digest));
        let digests: Vec<Digest> = digests.collect();
        for (name, change) in changes {
            for step in 1.. {
                let failing = Failing::open();
                let folder = &failing.folder;
                for bytes in &blobs[..2] {
                    commit(folder, bytes).unwrap();
                }
                folder.put_manifest(&manifests[0]).unwrap();
                folder
                    .link(&origin("here"), &links_of(&manifests[0]))
                    .unwrap();
                folder.settle_manifests();
                // Marked, and neither settled nor flushed.
                folder.put_manifest(&manifests[1]).unwrap();

                failing.left.store(step, Ordering::SeqCst);
                let before = folder.index.opening();
                let is_done = change(folder, &blobs, &manifests);
                let at = format!("{name}, step {step}, done: {is_done}");
                if failing.left.swap(0, Ordering::SeqCst) > 0 {
                    assert!(step > 1, "{at}: it has no steps");
                    break;
                }
                // The next write, where there was none after the step.
                let _ = folder.index.flush(before);
                assert_ne!(folder.index.opening(), before, "{at}");
                assert_eq!(folder.settle_reopened(), Some(folder.index.opening()));
                assert_eq!(rows(folder), files(folder, &digests), "{at}");
                // So it stays, whatever else is done, and after a start.
                assert!(change(folder, &blobs, &manifests), "{at}");
                assert_eq!(rows(folder), files(folder, &digests), "{at}, again");
                folder.close().unwrap();
                let root = failing.root();
                drop(failing.folder);
                let (folder, recovery) = Folder::open(root, &DiskOptions::default()).unwrap();
                assert_eq!(recovery, Recovery::default(), "{at}");
                assert_eq!(rows(&folder), files(&folder, &digests), "{at}, started");
            }
        }
    }
}
