//! What a crash leaves: the data folder is copied after each durable step of each change, and every
//! copy is opened as the next start would open it.
//!
//! A copy holds what the process has given to the system, so it is what `kill -9` leaves at that
//! moment. Each change is made twice: with the index never flushed but where the store itself does
//! it, and with the index flushed after every step, as its timer might have done.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod audit;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use registry_core::testing::content::{digest_of, put_blob, read_body, sample, verified};
use registry_core::{
    Algorithm, BlobStore, Digest, InventoryStore as _, Link, LinkStore, LinkTarget, Manifest,
    ManifestStore, MediaType, Origin, RemovedUnused, Repository, Tag, TagRecord, TagStore as _,
    Timestamp, UpstreamId,
};
use registry_storage::testing::Step;
use registry_storage::{DiskOptions, DiskStore};
use tempfile::TempDir;

use audit::{audit, files_under};

/// A store whose folder is copied after each step, while it is armed.
struct Watched {
    store: DiskStore,
    copies: Arc<Mutex<Vec<(Step, PathBuf)>>>,
    armed: Arc<AtomicBool>,
    // The folder of the store and those of the copies.
    dir: TempDir,
}

impl Watched {
    async fn open(flush_index: bool) -> Self {
        let dir = TempDir::new().unwrap();
        let data = dir.path().join("data");
        let copies: Arc<Mutex<Vec<(Step, PathBuf)>>> = Arc::default();
        let armed = Arc::new(AtomicBool::new(false));
        let watch = {
            let (dir, data) = (dir.path().to_owned(), data.clone());
            let (copies, armed) = (Arc::clone(&copies), Arc::clone(&armed));
            move |step| {
                if armed.load(Ordering::SeqCst) {
                    let mut copies = copies.lock().unwrap();
                    let to = TempDir::new_in(&dir).unwrap().keep().join("copy");
                    copy(&data, &to);
                    copies.push((step, to));
                }
            }
        };
        let mut options = DiskOptions::default().with_steps(flush_index, watch);
        // Never in the time of a test: a copy has what the store itself has flushed.
        options.index_flush_every = Duration::from_secs(3_600);
        let store = DiskStore::open_with(&data, options).await.unwrap();
        Self {
            store,
            copies,
            armed,
            dir,
        }
    }

    /// The copies made while `change` ran, and one after it.
    async fn copies_of(&self, change: impl Future<Output = ()>) -> Vec<(Option<Step>, PathBuf)> {
        self.armed.store(true, Ordering::SeqCst);
        change.await;
        self.armed.store(false, Ordering::SeqCst);
        let taken = std::mem::take(&mut *self.copies.lock().unwrap());
        assert!(!taken.is_empty());
        let after = TempDir::new_in(self.dir.path())
            .unwrap()
            .keep()
            .join("after");
        copy(&self.dir.path().join("data"), &after);
        let steps = taken.into_iter().map(|(step, path)| (Some(step), path));
        steps.chain([(None, after)]).collect()
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else if let Err(error) = fs::copy(entry.path(), to) {
            // A snapshot of the index may come and go while its folder is read.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        }
    }
}

async fn content(store: &DiskStore, digest: Digest) -> Option<Bytes> {
    let body = store.open(digest, None).await.unwrap()?;
    Some(read_body(body).await)
}

/// Opens what a crash left. Whatever it was: it opens without a rebuild, nothing partial is left,
/// every file has its row and every row its file (I6), what is counted is what there is, all
/// content is what its digest says (I1), and a second start has nothing to put right.
async fn reopen(data: &Path, at: &str) -> DiskStore {
    let store = DiskStore::open(data).await.unwrap();
    assert_eq!(store.recovery().rebuilt, None, "{at}");
    assert!(files_under(&data.join("partial")).is_empty(), "{at}");
    assert!(files_under(&data.join("unsettled")).is_empty(), "{at}");
    audit(data, &store, at).await;
    assert_eq!(store.forgotten(), 0, "{at}: no crash is damage");
    store.close().await.unwrap();
    let store = DiskStore::open(data).await.unwrap();
    assert_eq!(*store.recovery(), Default::default(), "{at}");
    store
}

#[tokio::test]
async fn a_commit_is_whole_or_nothing_after_every_step() {
    for flush_index in [false, true] {
        let watched = Watched::open(flush_index).await;
        let (other, bytes) = (sample(1_000, 1), sample(70_000, 2));
        put_blob(&watched.store, &other).await.unwrap();
        let copies = watched.copies_of(put_blob(&watched.store, &bytes).map(|put| {
            put.unwrap();
        }));
        let copies = copies.await;
        let steps: Vec<Step> = copies.iter().filter_map(|(step, _)| *step).collect();
        assert_eq!(
            steps,
            [
                Step::Staged,
                Step::FileSynced,
                Step::IntentFlushed,
                Step::Renamed,
                Step::FolderSynced,
                Step::RowWritten,
                Step::IntentRemoved,
            ]
        );
        for (step, copy) in copies {
            let at = format!("flush_index {flush_index}, {step:?}");
            let store = reopen(&copy, &at).await;
            // Once the file has its place the blob stands, and so it does once `put` returned.
            let stands = step.is_none_or(|step| step >= Step::Renamed);
            let found = content(&store, digest_of(&bytes)).await;
            assert_eq!(found, stands.then(|| bytes.clone()), "{at}");
            assert_eq!(
                content(&store, digest_of(&other)).await.as_ref(),
                Some(&other),
                "{at}"
            );
            // And whatever it is, it can be put again.
            put_blob(&store, &bytes).await.unwrap();
            assert_eq!(
                content(&store, digest_of(&bytes)).await.as_ref(),
                Some(&bytes),
                "{at}"
            );
        }
    }
}

/// A large blob that is left, gone on with and committed: from the first record on, and until it has
/// its place, no crash costs more than what was not yet recorded.
#[tokio::test]
async fn an_unfinished_blob_can_be_finished_after_every_step() {
    const MIB: usize = 1 << 20;
    for flush_index in [false, true] {
        let watched = Watched::open(flush_index).await;
        let bytes = sample(4 * MIB, 1);
        let digest = digest_of(&bytes);
        let write = async |end: usize| {
            let sink = watched.store.stage(digest, None).await.unwrap();
            let kept = usize::try_from(sink.kept()).unwrap();
            for start in (kept..end).step_by(MIB / 2) {
                let piece = bytes.slice(start..end.min(start + MIB / 2));
                sink.checkpoint(start as u64);
                sink.write_at(start as u64, piece).await.unwrap();
            }
            sink
        };
        let change = async {
            drop(write(2 * MIB).await);
            let sink = write(4 * MIB).await;
            sink.commit(verified(Algorithm::Sha256, &bytes))
                .await
                .unwrap();
        };
        let copies = watched.copies_of(change).await;
        assert_eq!(
            steps_of(&copies),
            [
                Step::Staged,
                Step::CheckpointRecorded,
                // The drop.
                Step::CheckpointRecorded,
                Step::LeftUnfinished,
                Step::Staged,
                Step::CheckpointRecorded,
                Step::CheckpointRecorded,
                Step::FileSynced,
                Step::IntentFlushed,
                Step::Renamed,
                Step::FolderSynced,
                Step::RowWritten,
                Step::IntentRemoved,
            ]
        );
        // In half MiB; the last write was never checkpointed.
        let recorded = [0, 2, 3, 3, 3, 5, 7, 7, 7];
        for (n, (step, copy)) in copies.into_iter().enumerate() {
            let at = format!("flush_index {flush_index}, {n}: {step:?}");
            let expected = recorded.get(n).copied().unwrap_or(0) * MIB / 2;
            let store = DiskStore::open(&copy).await.unwrap();
            let recovery = store.recovery();
            assert_eq!(recovery.rebuilt, None, "{at}");
            let (kept, swept) = (recovery.partial_kept, recovery.partial_swept);
            assert_eq!(kept, u64::from(expected > 0), "{at}");
            assert_eq!(swept, u64::from(n == 0), "{at}");
            let stands = n >= recorded.len();
            let found = content(&store, digest).await;
            assert!(found == stands.then(|| bytes.clone()), "{at}");

            let sink = store.stage(digest, None).await.unwrap();
            assert_eq!(sink.kept(), expected as u64, "{at}");
            let read = sink.reader().read_at(0, usize::MAX).await.unwrap();
            assert!(read == bytes.slice(..expected), "{at}");
            let rest = sink.write_at(expected as u64, bytes.slice(expected..));
            rest.await.unwrap();
            let proof = verified(Algorithm::Sha256, &bytes);
            sink.commit(proof).await.unwrap();
            store.close().await.unwrap();
            drop(store);
            let store = reopen(&copy, &at).await;
            assert!(content(&store, digest).await == Some(bytes.clone()), "{at}");
        }
    }
}

#[tokio::test]
async fn a_removal_is_whole_or_nothing_after_every_step() {
    for flush_index in [false, true] {
        let watched = Watched::open(flush_index).await;
        let (other, bytes) = (sample(1_000, 1), sample(70_000, 2));
        put_blob(&watched.store, &other).await.unwrap();
        let digest = put_blob(&watched.store, &bytes).await.unwrap();
        let copies = watched.copies_of(watched.store.remove(digest).map(|removed| {
            assert!(removed.unwrap());
        }));
        let copies = copies.await;
        let steps: Vec<Step> = copies.iter().filter_map(|(step, _)| *step).collect();
        assert_eq!(
            steps,
            [Step::RowRemoved, Step::FileRemoved, Step::IntentRemoved]
        );
        for (step, copy) in copies {
            let at = format!("flush_index {flush_index}, {step:?}");
            let store = reopen(&copy, &at).await;
            assert_eq!(content(&store, digest).await, None, "{at}");
            assert_eq!(
                content(&store, digest_of(&other)).await.as_ref(),
                Some(&other),
                "{at}"
            );
        }
    }
}

#[tokio::test]
async fn a_manifest_is_whole_or_nothing_after_every_step() {
    let kind = MediaType::parse(MediaType::DOCKER_MANIFEST).unwrap();
    let bytes = Bytes::from_static(b"{\n  \"layers\": []}\n");
    let manifest = Manifest::of_bytes(Some(&kind), bytes).unwrap();
    let digest = manifest.digest();

    let watched = Watched::open(false).await;
    let put = watched.store.put_manifest(manifest.clone());
    let copies = watched.copies_of(put.map(|put| put.unwrap())).await;
    assert_eq!(
        steps_of(&copies),
        [
            Step::ManifestMarked,
            Step::ManifestWritten,
            Step::ManifestRenamed,
            Step::ManifestRecorded,
        ]
    );
    for (step, copy) in copies {
        let store = reopen(&copy, &format!("{step:?}")).await;
        let stands = !matches!(step, Some(Step::ManifestMarked | Step::ManifestWritten));
        let found = store.manifest(digest).await.unwrap();
        assert_eq!(found, stands.then(|| manifest.clone()), "{step:?}");
    }
    let remove = watched.store.remove_manifest(digest);
    let copies = watched.copies_of(remove.map(|removed| assert!(removed.unwrap())));
    let copies = copies.await;
    assert_eq!(
        steps_of(&copies),
        [Step::ManifestDismissed, Step::ManifestRemoved]
    );
    for (step, copy) in copies {
        let store = reopen(&copy, &format!("{step:?}")).await;
        let stands = step == Some(Step::ManifestDismissed);
        let found = store.manifest(digest).await.unwrap();
        assert_eq!(found, stands.then(|| manifest.clone()), "{step:?}");
    }
}

fn origin(repository: &str) -> Origin {
    Origin::new(
        UpstreamId::parse("ghcr.io").unwrap(),
        Repository::parse(repository).unwrap(),
    )
}

/// A manifest that names two blobs, and the three links that it comes with.
fn linked_manifest() -> (Manifest, Vec<Link>) {
    let layers = [1, 2].map(|n| format!(r#"{{"digest":"{}","size":{n}}}"#, digest_of(&[n])));
    let bytes = format!(r#"{{"layers":[{}]}}"#, layers.join(","));
    let manifest = Manifest::of_bytes(None, bytes.into()).unwrap();
    let mut links = manifest.links().to_vec();
    links.push(Link {
        target: LinkTarget::Manifest(manifest.digest()),
        size: Some(manifest.descriptor().size),
    });
    (manifest, links)
}

/// How many of `links` are there; each is as it was made.
async fn count_linked(store: &DiskStore, at: &Origin, links: &[Link]) -> usize {
    let mut count = 0;
    for link in links {
        let found = store.linked(at, link.target).await.unwrap();
        assert!(found.is_none_or(|found| found == *link));
        count += usize::from(found.is_some());
    }
    count
}

/// The same copy after a loss of its index.
async fn reopen_without_index(data: &Path) -> DiskStore {
    fs::remove_dir_all(data.join("index")).unwrap();
    let store = DiskStore::open(data).await.unwrap();
    assert!(store.recovery().rebuilt.is_some());
    store
}

fn steps_of(copies: &[(Option<Step>, PathBuf)]) -> Vec<Step> {
    copies.iter().filter_map(|(step, _)| *step).collect()
}

/// A crash while a manifest is linked costs a HEAD, whether the index is lost then or not, and
/// grants nothing anywhere else.
#[tokio::test]
async fn links_of_a_manifest_are_all_or_nothing_after_every_step() {
    for flush_index in [false, true] {
        let watched = Watched::open(flush_index).await;
        let (manifest, links) = linked_manifest();
        watched.store.put_manifest(manifest).await.unwrap();
        let (here, there) = (origin("here"), origin("there"));
        let link = watched.store.link(&here, links.clone());
        let copies = watched.copies_of(link.map(|linked| linked.unwrap())).await;
        assert_eq!(
            steps_of(&copies),
            [
                Step::LinksRecorded,
                Step::OriginListed,
                Step::ManifestRecorded
            ]
        );
        for (step, copy) in copies {
            let at = format!("flush_index {flush_index}, {step:?}");
            let store = reopen(&copy, &at).await;
            let found = count_linked(&store, &here, &links).await;
            // Unless it is asked to, the index may have written them of itself, or not.
            assert!(found == 3 || found == 0 && !flush_index, "{at}: {found}");
            assert_eq!(count_linked(&store, &there, &links).await, 0, "{at}");
            store.close().await.unwrap();

            let store = reopen_without_index(&copy).await;
            let is_listed = step != Some(Step::LinksRecorded);
            let found = count_linked(&store, &here, &links).await;
            assert_eq!(found, if is_listed { 3 } else { 0 }, "{at}");
            assert_eq!(count_linked(&store, &there, &links).await, 0, "{at}");

            // And whatever it is, it can be linked again, for good.
            store.link(&here, links.clone()).await.unwrap();
            store.close().await.unwrap();
            let store = reopen_without_index(&copy).await;
            assert_eq!(count_linked(&store, &here, &links).await, 3, "{at}");
        }
    }
}

/// No crash, and no loss of the index after it, brings back a link that was removed; one whose
/// removal was not yet told may be there, but not come and go.
#[tokio::test]
async fn a_removed_link_never_comes_back() {
    for flush_index in [false, true] {
        let watched = Watched::open(flush_index).await;
        let (manifest, links) = linked_manifest();
        let target = LinkTarget::Manifest(manifest.digest());
        watched.store.put_manifest(manifest).await.unwrap();
        let (here, kept) = (origin("here"), origin("kept"));
        for at in [&here, &kept] {
            watched.store.link(at, links.clone()).await.unwrap();
        }
        // Which flushes the index.
        put_blob(&watched.store, &sample(10, 1)).await.unwrap();
        let unlink = watched.store.unlink(&here, target);
        let copies = watched.copies_of(unlink.map(|removed| assert!(removed.unwrap())));
        let copies = copies.await;
        assert_eq!(
            steps_of(&copies),
            [
                Step::OriginWithdrawn,
                Step::ManifestRecorded,
                Step::LinkRemoved
            ]
        );
        for (step, copy) in copies {
            let at = format!("flush_index {flush_index}, {step:?}");
            let store = reopen(&copy, &at).await;
            let is_there = matches!(step, Some(Step::OriginWithdrawn | Step::ManifestRecorded));
            let found = store.linked(&here, target).await.unwrap();
            assert_eq!(found.is_some(), is_there, "{at}");
            assert_eq!(count_linked(&store, &kept, &links).await, 3, "{at}");
            store.close().await.unwrap();

            let store = reopen_without_index(&copy).await;
            assert_eq!(count_linked(&store, &here, &links).await, 0, "{at}");
            assert_eq!(count_linked(&store, &kept, &links).await, 3, "{at}");
        }
    }
}

/// What is forgotten is forgotten whole, or not yet told to be: until then its rows stand, and no
/// loss of the index brings back what was listed.
#[tokio::test]
async fn what_is_forgotten_never_comes_back() {
    for flush_index in [false, true] {
        let watched = Watched::open(flush_index).await;
        let (manifest, links) = linked_manifest();
        let (digest, target) = (manifest.digest(), LinkTarget::Manifest(manifest.digest()));
        watched.store.put_manifest(manifest.clone()).await.unwrap();
        let (here, tag) = (origin("here"), Tag::parse("latest").unwrap());
        watched.store.link(&here, links.clone()).await.unwrap();
        let record = TagRecord {
            digest,
            fetched_at: Timestamp::from_millis(1),
            validated_at: Timestamp::from_millis(2),
        };
        let put = watched.store.put_tag(&here, &tag, record.clone());
        put.await.unwrap();
        // Which flushes the index.
        put_blob(&watched.store, &sample(10, 1)).await.unwrap();
        let forget = watched.store.forget(target);
        let copies = watched.copies_of(forget.map(|tags| assert_eq!(tags.unwrap(), 1)));
        let copies = copies.await;
        assert_eq!(
            steps_of(&copies),
            [
                Step::OriginsRemoved,
                Step::ManifestRecorded,
                Step::Forgotten
            ]
        );
        for (step, copy) in copies {
            let at = format!("flush_index {flush_index}, {step:?}");
            let store = reopen(&copy, &at).await;
            let stands = matches!(step, Some(Step::OriginsRemoved | Step::ManifestRecorded));
            let linked = store.linked(&here, target).await.unwrap();
            assert_eq!(linked.is_some(), stands, "{at}");
            let tagged = store.tag(&here, &tag).await.unwrap();
            assert_eq!(tagged, stands.then(|| record.clone()), "{at}");
            // What it names is linked as before, and it is kept until it is removed.
            let others = count_linked(&store, &here, &links[..2]).await;
            assert_eq!(others, 2, "{at}");
            let kept = store.manifest(digest).await.unwrap();
            assert_eq!(kept.as_ref(), Some(&manifest), "{at}");
            store.close().await.unwrap();

            let store = reopen_without_index(&copy).await;
            assert_eq!(count_linked(&store, &here, &links).await, 0, "{at}");
        }
    }
}

#[tokio::test]
async fn what_is_unused_is_removed_whole_or_not_at_all_after_every_step() {
    for flush_index in [false, true] {
        let watched = Watched::open(flush_index).await;
        // Which the manifest names.
        let needed = put_blob(&watched.store, &Bytes::from_static(&[1])).await;
        let needed = needed.unwrap();
        let unused = put_blob(&watched.store, &sample(70_000, 2)).await.unwrap();
        let (manifest, _) = linked_manifest();
        watched.store.put_manifest(manifest).await.unwrap();
        let change = async {
            let removed = watched.store.remove_unused(needed).await.unwrap();
            assert_eq!(removed, RemovedUnused::Needed);
            let removed = watched.store.remove_unused(unused).await.unwrap();
            assert_eq!(removed, RemovedUnused::Removed(70_000));
        };
        let copies = watched.copies_of(change).await;
        assert_eq!(
            steps_of(&copies),
            [Step::RowRemoved, Step::FileRemoved, Step::IntentRemoved]
        );
        for (step, copy) in copies {
            let at = format!("flush_index {flush_index}, {step:?}");
            let store = reopen(&copy, &at).await;
            assert_eq!(content(&store, unused).await, None, "{at}");
            assert!(content(&store, needed).await.is_some(), "{at}");
            let again = store.remove_unused(unused).await.unwrap();
            assert_eq!(again, RemovedUnused::Absent, "{at}");
        }
    }
}

/// Once marked manifests are settled their files and rows agree, whichever marks are still there.
#[tokio::test]
async fn settled_manifests_agree_with_or_without_their_marks() {
    for flush_index in [false, true] {
        let watched = Watched::open(flush_index).await;
        let (manifest, links) = linked_manifest();
        watched.store.put_manifest(manifest.clone()).await.unwrap();
        watched.store.link(&origin("here"), links).await.unwrap();
        let removed = Manifest::of_bytes(None, r#"{"layers":[]}"#.into()).unwrap();
        watched.store.put_manifest(removed.clone()).await.unwrap();
        let remove = watched.store.remove_manifest(removed.digest());
        assert!(remove.await.unwrap());
        let close = watched.store.close();
        let copies = watched.copies_of(close.map(|closed| closed.unwrap()));
        let copies = copies.await;
        assert_eq!(
            steps_of(&copies),
            [Step::ManifestsSettled, Step::MarkRemoved, Step::MarkRemoved]
        );
        for (n, (step, copy)) in copies.into_iter().enumerate() {
            let at = format!("flush_index {flush_index}, {n}: {step:?}");
            let marks = files_under(&copy.join("unsettled")).len();
            assert_eq!(marks, [2, 1, 0, 0][n], "{at}");
            let store = DiskStore::open(&copy).await.unwrap();
            assert_eq!(*store.recovery(), Default::default(), "{at}");
            audit(&copy, &store, &at).await;
            let kept = store.manifest(manifest.digest()).await.unwrap();
            assert_eq!(kept.as_ref(), Some(&manifest), "{at}");
            let gone = store.manifest(removed.digest()).await.unwrap();
            assert_eq!(gone, None, "{at}");
            store.close().await.unwrap();
            drop(store);
            reopen(&copy, &at).await;
        }
    }
}

#[tokio::test]
async fn a_removed_manifest_leaves_no_origins() {
    let watched = Watched::open(false).await;
    let (manifest, links) = linked_manifest();
    let (digest, here) = (manifest.digest(), origin("here"));
    watched.store.put_manifest(manifest.clone()).await.unwrap();
    watched.store.link(&here, links.clone()).await.unwrap();
    let remove = watched.store.remove_manifest(digest);
    let copies = watched.copies_of(remove.map(|removed| assert!(removed.unwrap())));
    let copies = copies.await;
    assert_eq!(
        steps_of(&copies),
        [
            Step::ManifestDismissed,
            Step::OriginsRemoved,
            Step::ManifestRemoved
        ]
    );
    for (step, copy) in copies {
        if step == Some(Step::ManifestDismissed) {
            // As if it had not begun.
            continue;
        }
        let store = reopen_without_index(&copy).await;
        let left = files_under(&copy.join("manifests")).len();
        assert_eq!(left, usize::from(step == Some(Step::OriginsRemoved)));
        // Kept again, it is not linked by that.
        store.put_manifest(manifest.clone()).await.unwrap();
        store.close().await.unwrap();
        let store = reopen_without_index(&copy).await;
        assert_eq!(count_linked(&store, &here, &links).await, 0, "{step:?}");
    }
}

/// Many commits and removals at a time: every copy is one that a start can put right, and holds
/// what had been committed before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_at_the_same_time_are_each_whole_or_nothing() {
    let watched = Watched::open(false).await;
    let first = sample(1_000, 0);
    put_blob(&watched.store, &first).await.unwrap();
    let changes = async {
        let puts = (0..4).map(async |n| {
            let digest = put_blob(&watched.store, &sample(3_000, n % 3))
                .await
                .unwrap();
            if n == 3 {
                watched.store.remove(digest).await.unwrap();
            }
        });
        futures::future::join_all(puts).await;
    };
    let copies = watched.copies_of(changes).await;
    assert!(copies.len() > 10);
    for (step, copy) in copies {
        let at = format!("{} {step:?}", copy.display());
        let store = reopen(&copy, &at).await;
        assert_eq!(
            content(&store, digest_of(&first)).await.as_ref(),
            Some(&first),
            "{at}"
        );
    }
}
