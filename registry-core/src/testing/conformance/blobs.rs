//! The promises of [`BlobStore`]; those of its sinks and of their readers are in [`sinks`].

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt as _, TryStreamExt as _};

use super::{drop_after, sinks};
use crate::testing::content::{digest_of, put_blob, put_blob_as, read_body, sample, verified};
use crate::{Algorithm, BlobSink, BlobStat, BlobStore, Digest, RangeRequest, StoreError};

/// Sinks or calls at a time where a case is about concurrency.
const CONCURRENT: usize = 8;

/// More blobs than any case stores.
const LISTED_MAX: usize = 1_000;

/// Runs every case, those of [`sinks::all`] too, each on a store of its own that `make` gives: fresh and empty.
///
/// # Panics
///
/// Where the store breaks its contract.
pub async fn all<F, Fut>(make: F)
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Arc<dyn BlobStore>> + Send,
{
    a_blob_is_given_back(make().await).await;
    a_large_blob_is_given_back(make().await).await;
    an_empty_blob_is_a_blob(make().await).await;
    algorithms_are_apart(make().await).await;
    what_is_not_there_is_absent(make().await).await;
    nothing_is_visible_before_commit(make().await).await;
    a_dropped_sink_leaves_nothing(make().await).await;
    a_dropped_commit_is_all_or_nothing(make().await).await;
    another_size_is_refused(make().await).await;
    the_size_hint_is_a_hint(make().await).await;
    sinks_do_not_mix(make().await).await;
    commits_of_one_digest_agree(make().await).await;
    a_second_commit_changes_nothing(make().await).await;
    ranges_are_exact(make().await).await;
    an_open_blob_outlives_its_removal(make().await).await;
    a_removed_blob_can_come_back(make().await).await;
    commits_and_removals_may_race(make().await).await;
    every_blob_is_listed(make().await).await;
    a_listing_bears_changes(make().await).await;
    sinks::all(make).await;
}

/// What was committed is what `stat` and `open` give.
pub async fn a_blob_is_given_back(store: Arc<dyn BlobStore>) {
    let bytes = sample(1_000, 1);
    let digest = put(&*store, &bytes).await;
    assert_eq!(stat(&*store, digest).await, Some(1_000));
    let body = store.open(digest, None).await.expect("open");
    let body = body.expect("what was committed is there");
    assert_eq!(
        (body.size, body.range.start(), body.range.end()),
        (1_000, 0, 1_000)
    );
    assert_eq!(read_body(body).await, bytes);
}

/// A blob written in chunks of many sizes is given back whole.
pub async fn a_large_blob_is_given_back(store: Arc<dyn BlobStore>) {
    let bytes = sample((3 << 20) + 1, 2);
    let sink = stage(&*store, &bytes).await;
    let mut written = 0;
    for len in [0, 1, 4_095, 65_537, 1 << 20, bytes.len()] {
        let end = (written + len).min(bytes.len());
        let chunk = bytes.slice(written..end);
        let write = sink.write_at(written as u64, chunk).await;
        write.expect("write_at");
        written = end;
    }
    let verified = verified(Algorithm::Sha256, &bytes);
    sink.commit(verified).await.expect("commit");
    assert_eq!(content(&*store, digest_of(&bytes)).await, Some(bytes));
}

/// The blob of no bytes is there or absent as any other.
pub async fn an_empty_blob_is_a_blob(store: Arc<dyn BlobStore>) {
    let digest = digest_of(b"");
    assert_eq!(stat(&*store, digest).await, None);
    let sink = store.stage(digest, Some(0)).await.expect("stage");
    let commit = sink.commit(verified(Algorithm::Sha256, b""));
    commit.await.expect("commit without a write");
    assert_eq!(stat(&*store, digest).await, Some(0));
    assert_eq!(content(&*store, digest).await, Some(Bytes::new()));
    let unsatisfiable = RangeRequest::From { first: 0 };
    let body = store.open(digest, Some(unsatisfiable)).await.expect("open");
    let body = body.expect("it is there");
    assert!(body.range.is_empty() && body.size == 0);
    assert_eq!(read_body(body).await, Bytes::new());
    assert!(store.remove(digest).await.expect("remove"));
    assert_eq!(stat(&*store, digest).await, None);
}

/// A digest is its algorithm and its hash: the same bytes under another algorithm are another
/// blob.
pub async fn algorithms_are_apart(store: Arc<dyn BlobStore>) {
    let bytes = sample(77, 3);
    let put = put_blob_as(&*store, Algorithm::Sha512, &bytes).await;
    let sha512 = put.expect("put");
    let sha256 = digest_of(&bytes);
    assert_eq!(content(&*store, sha512).await, Some(bytes.clone()));
    assert_eq!(content(&*store, sha256).await, None);
    put_blob(&*store, &bytes).await.expect("put");
    assert!(store.remove(sha512).await.expect("remove"));
    assert_eq!(content(&*store, sha512).await, None);
    assert_eq!(content(&*store, sha256).await, Some(bytes));

    // The hash of one within the other's must not be found either.
    let prefix = Digest::from_hash(Algorithm::Sha256, &sha512.hash()[..32]);
    assert_eq!(
        stat(&*store, prefix.expect("32 bytes are a SHA-256")).await,
        None
    );
}

/// Absence is `None` or `false`, never an error.
pub async fn what_is_not_there_is_absent(store: Arc<dyn BlobStore>) {
    let digest = digest_of(b"never stored");
    assert_eq!(stat(&*store, digest).await, None);
    assert!(store.open(digest, None).await.expect("open").is_none());
    let range = Some(RangeRequest::Suffix { length: 5 });
    assert!(store.open(digest, range).await.expect("open").is_none());
    assert!(!store.remove(digest).await.expect("remove"));
    assert_eq!(listed(&*store).await, []);
}

/// What is staged cannot be seen, however much of it is written (I1).
pub async fn nothing_is_visible_before_commit(store: Arc<dyn BlobStore>) {
    let bytes = sample(100_000, 4);
    let digest = digest_of(&bytes);
    let sink = store.stage(digest, Some(100_000)).await.expect("stage");
    write(&*sink, bytes.clone()).await;
    assert_eq!(stat(&*store, digest).await, None);
    assert_eq!(content(&*store, digest).await, None);
    assert_eq!(listed(&*store).await, []);
    assert!(!store.remove(digest).await.expect("remove"));
    let commit = sink.commit(verified(Algorithm::Sha256, &bytes));
    commit.await.expect("a removal in between is of nothing");
    assert_eq!(content(&*store, digest).await, Some(bytes));
}

/// A sink that is dropped leaves nothing to be seen, and disturbs nothing.
pub async fn a_dropped_sink_leaves_nothing(store: Arc<dyn BlobStore>) {
    let bytes = sample(100_000, 5);
    let digest = digest_of(&bytes);
    let sink = stage(&*store, &bytes).await;
    write(&*sink, bytes.clone()).await;
    drop(sink);
    drop(stage(&*store, &bytes).await);
    assert_eq!(content(&*store, digest).await, None);
    assert_eq!(listed(&*store).await, []);

    // Nor does the drop of one disturb the commit of another.
    let dropped = stage(&*store, &bytes).await;
    write(&*dropped, bytes.clone()).await;
    put(&*store, &bytes).await;
    drop(dropped);
    assert_eq!(content(&*store, digest).await, Some(bytes));
}

/// A commit that is no longer waited for has happened or has not, and can be repeated.
pub async fn a_dropped_commit_is_all_or_nothing(store: Arc<dyn BlobStore>) {
    for polls in 0..4 {
        let bytes = sample(10_000, 6 + polls as u64);
        let digest = digest_of(&bytes);
        let sink = stage(&*store, &bytes).await;
        write(&*sink, bytes.clone()).await;
        drop_after(sink.commit(verified(Algorithm::Sha256, &bytes)), polls).await;
        if let Some(found) = content(&*store, digest).await {
            assert_eq!(found, bytes, "after {polls} polls");
        }
        put(&*store, &bytes).await;
        assert_eq!(content(&*store, digest).await, Some(bytes));
    }
}

/// A proof for bytes of another size than were written commits nothing (I1).
pub async fn another_size_is_refused(store: Arc<dyn BlobStore>) {
    let bytes = sample(1_000, 7);
    for written in [0, 1, 999, 1_001] {
        let sink = stage(&*store, &bytes).await;
        let other = sample(written, 7);
        write(&*sink, other).await;
        let commit = sink.commit(verified(Algorithm::Sha256, &bytes)).await;
        assert!(
            matches!(commit, Err(StoreError::Corrupt { .. })),
            "{written} bytes under a proof of 1000: {commit:?}"
        );
        assert_eq!(stat(&*store, digest_of(&bytes)).await, None);
        assert_eq!(listed(&*store).await, []);
    }
}

/// A blob may be longer or shorter than it was said to become.
pub async fn the_size_hint_is_a_hint(store: Arc<dyn BlobStore>) {
    let bytes = sample(1_000, 8);
    for hint in [0, 1, 999, 1_001, 1 << 16] {
        let sink = store
            .stage(digest_of(&bytes), Some(hint))
            .await
            .expect("stage");
        write(&*sink, bytes.clone()).await;
        let commit = sink.commit(verified(Algorithm::Sha256, &bytes));
        commit.await.expect("commit");
        assert_eq!(
            content(&*store, digest_of(&bytes)).await.as_ref(),
            Some(&bytes)
        );
        assert!(store.remove(digest_of(&bytes)).await.expect("remove"));
    }
}

/// Sinks that are written to in turn keep their bytes apart.
pub async fn sinks_do_not_mix(store: Arc<dyn BlobStore>) {
    let blobs: Vec<Bytes> = (0..CONCURRENT as u64)
        .map(|n| sample(30_000, 10 + n))
        .collect();
    let mut sinks = Vec::new();
    for blob in &blobs {
        sinks.push(stage(&*store, blob).await);
    }
    for start in (0..30_000).step_by(7_500) {
        let writes = sinks.iter().zip(&blobs).map(|(sink, blob)| {
            let part = blob.slice(start..start + 7_500);
            sink.write_at(start as u64, part)
        });
        for write in join_all(writes).await {
            write.expect("write_at");
        }
    }
    let commits = sinks.into_iter().zip(&blobs);
    let commits = commits.map(|(sink, blob)| sink.commit(verified(Algorithm::Sha256, blob)));
    for commit in join_all(commits).await {
        commit.expect("commit");
    }
    for blob in blobs {
        assert_eq!(content(&*store, digest_of(&blob)).await, Some(blob));
    }
}

/// Commits of the same content at the same time all succeed, and leave one blob.
pub async fn commits_of_one_digest_agree(store: Arc<dyn BlobStore>) {
    let bytes = sample(50_000, 20);
    let mut sinks = Vec::new();
    for _ in 0..CONCURRENT {
        let sink = stage(&*store, &bytes).await;
        write(&*sink, bytes.clone()).await;
        sinks.push(sink);
    }
    let commits = sinks.into_iter();
    let commits = commits.map(|sink| sink.commit(verified(Algorithm::Sha256, &bytes)));
    for commit in join_all(commits).await {
        commit.expect("commit");
    }
    let stat = BlobStat {
        digest: digest_of(&bytes),
        size: 50_000,
    };
    assert_eq!(listed(&*store).await, [stat]);
    assert_eq!(content(&*store, stat.digest).await, Some(bytes));
}

/// A blob that is there stays as it is, for those too who have it open.
pub async fn a_second_commit_changes_nothing(store: Arc<dyn BlobStore>) {
    let bytes = sample(200_000, 21);
    let digest = put(&*store, &bytes).await;
    let open = store.open(digest, None).await.expect("open");
    assert_eq!(put(&*store, &bytes).await, digest);
    assert_eq!(listed(&*store).await.len(), 1);
    assert_eq!(read_body(open.expect("it is there")).await, bytes);
    assert_eq!(content(&*store, digest).await, Some(bytes));
}

/// A range gives exactly its bytes; one that cannot be satisfied gives none, at the end.
pub async fn ranges_are_exact(store: Arc<dyn BlobStore>) {
    use RangeRequest::{From, FromTo, Suffix};
    const LEN: u64 = 150_000;
    let bytes = sample(150_000, 22);
    let digest = put(&*store, &bytes).await;
    for (range, start, end) in [
        (FromTo { first: 0, last: 0 }, 0, 1),
        (
            FromTo {
                first: 0,
                last: LEN - 2,
            },
            0,
            LEN - 1,
        ),
        (
            FromTo {
                first: 0,
                last: LEN - 1,
            },
            0,
            LEN,
        ),
        (
            FromTo {
                first: 0,
                last: LEN,
            },
            0,
            LEN,
        ),
        (
            FromTo {
                first: 0,
                last: u64::MAX,
            },
            0,
            LEN,
        ),
        (
            FromTo {
                first: 65_535,
                last: 65_536,
            },
            65_535,
            65_537,
        ),
        (
            FromTo {
                first: 1,
                last: LEN - 2,
            },
            1,
            LEN - 1,
        ),
        (
            FromTo {
                first: LEN - 1,
                last: LEN - 1,
            },
            LEN - 1,
            LEN,
        ),
        (
            FromTo {
                first: LEN,
                last: LEN + 1,
            },
            LEN,
            LEN,
        ),
        (
            FromTo {
                first: u64::MAX,
                last: u64::MAX,
            },
            LEN,
            LEN,
        ),
        (From { first: 0 }, 0, LEN),
        (From { first: LEN - 1 }, LEN - 1, LEN),
        (From { first: LEN }, LEN, LEN),
        (From { first: LEN + 1 }, LEN, LEN),
        (Suffix { length: 0 }, LEN, LEN),
        (Suffix { length: 1 }, LEN - 1, LEN),
        (Suffix { length: LEN }, 0, LEN),
        (Suffix { length: u64::MAX }, 0, LEN),
    ] {
        let body = store.open(digest, Some(range)).await.expect("open");
        let body = body.expect("it is there");
        assert_eq!(
            (body.size, body.range.start(), body.range.end()),
            (LEN, start, end),
            "{range:?}"
        );
        assert_eq!(read_body(body).await, part(&bytes, start, end), "{range:?}");
    }
}

/// What was opened can be read to its end after the blob is gone.
pub async fn an_open_blob_outlives_its_removal(store: Arc<dyn BlobStore>) {
    let bytes = sample(300_000, 23);
    let digest = put(&*store, &bytes).await;
    let whole = store.open(digest, None).await.expect("open");
    let tail = Some(RangeRequest::Suffix { length: 100 });
    let tail = store.open(digest, tail).await.expect("open");
    assert!(store.remove(digest).await.expect("remove"));
    assert!(!store.remove(digest).await.expect("remove again"));
    assert_eq!(stat(&*store, digest).await, None);
    assert_eq!(content(&*store, digest).await, None);
    assert_eq!(listed(&*store).await, []);
    let tail = read_body(tail.expect("it was there")).await;
    assert_eq!(tail, bytes.slice(bytes.len() - 100..));
    assert_eq!(read_body(whole.expect("it was there")).await, bytes);
}

/// Removal is not for ever.
pub async fn a_removed_blob_can_come_back(store: Arc<dyn BlobStore>) {
    let bytes = sample(1_000, 24);
    for _ in 0..3 {
        let digest = put(&*store, &bytes).await;
        assert_eq!(content(&*store, digest).await.as_ref(), Some(&bytes));
        assert!(store.remove(digest).await.expect("remove"));
        assert_eq!(content(&*store, digest).await, None);
    }
}

/// Commits and removals of one digest at the same time leave it there or not, and usable either
/// way.
pub async fn commits_and_removals_may_race(store: Arc<dyn BlobStore>) {
    let bytes = sample(5_000, 25);
    let digest = digest_of(&bytes);
    for _ in 0..CONCURRENT {
        let commits = join_all((0..2).map(|_| put_blob(&*store, &bytes)));
        let removals = join_all((0..2).map(|_| store.remove(digest)));
        let (committed, removed) = futures::join!(commits, removals);
        for committed in committed {
            committed.expect("put");
        }
        for removed in removed {
            removed.expect("remove");
        }
        match stat(&*store, digest).await {
            Some(size) => {
                assert_eq!(size, 5_000);
                let found = content(&*store, digest).await;
                assert_eq!(found.as_ref(), Some(&bytes), "what is told of is there");
            }
            None => assert_eq!(content(&*store, digest).await, None),
        }
        put(&*store, &bytes).await;
        assert_eq!(content(&*store, digest).await.as_ref(), Some(&bytes));
    }
}

/// Every blob is listed once, with its size, and nothing else is.
pub async fn every_blob_is_listed(store: Arc<dyn BlobStore>) {
    let mut expected = Vec::new();
    for n in 0..20 {
        let bytes = sample(n * 10, 30);
        let algorithm = [Algorithm::Sha256, Algorithm::Sha512][n % 2];
        let put = put_blob_as(&*store, algorithm, &bytes).await;
        let (digest, size) = (put.expect("put"), n as u64 * 10);
        expected.push(BlobStat { digest, size });
    }
    let removed = expected.swap_remove(7);
    assert!(store.remove(removed.digest).await.expect("remove"));
    expected.sort_by_key(|stat| stat.digest);
    assert_eq!(listed(&*store).await, expected);
}

/// Blobs may come and go while they are listed; those that do neither are all listed.
pub async fn a_listing_bears_changes(store: Arc<dyn BlobStore>) {
    let mut kept = Vec::new();
    let mut removed = Vec::new();
    for n in 0..20 {
        let digest = put(&*store, &sample(10, 40 + n)).await;
        [&mut kept, &mut removed][n as usize % 2].push(digest);
    }
    let mut list = store.list();
    let first = list.next().await.expect("there are 20").expect("list");
    for digest in removed {
        assert!(store.remove(digest).await.expect("remove"));
    }
    put(&*store, &sample(10, 99)).await;
    let rest: Vec<BlobStat> = list.take(LISTED_MAX).try_collect().await.expect("list");
    let found: Vec<Digest> = [first]
        .iter()
        .chain(&rest)
        .map(|stat| stat.digest)
        .collect();
    for digest in kept {
        let times = found.iter().filter(|&&found| found == digest).count();
        assert_eq!(times, 1, "{digest}");
    }
}

/// A place to write `bytes`.
async fn stage(store: &dyn BlobStore, bytes: &Bytes) -> Arc<dyn BlobSink> {
    let staged = store.stage(digest_of(bytes), None).await;
    staged.expect("stage")
}

/// Writes `bytes` from the first on.
async fn write(sink: &dyn BlobSink, bytes: Bytes) {
    sink.write_at(0, bytes).await.expect("write_at");
}

async fn put(store: &dyn BlobStore, bytes: &Bytes) -> Digest {
    put_blob(store, bytes).await.expect("put")
}

async fn stat(store: &dyn BlobStore, digest: Digest) -> Option<u64> {
    let stat = store.stat(digest).await.expect("stat")?;
    assert_eq!(stat.digest, digest);
    Some(stat.size)
}

async fn content(store: &dyn BlobStore, digest: Digest) -> Option<Bytes> {
    let body = store.open(digest, None).await.expect("open")?;
    Some(read_body(body).await)
}

async fn listed(store: &dyn BlobStore) -> Vec<BlobStat> {
    // A listing that begins again and again would otherwise never end.
    let bounded = store.list().take(LISTED_MAX);
    let mut listed: Vec<BlobStat> = bounded.try_collect().await.expect("list");
    listed.sort_by_key(|stat| stat.digest);
    listed
}

fn part(bytes: &Bytes, start: u64, end: u64) -> Bytes {
    let index = |at| usize::try_from(at).expect("a test's blob fits into memory");
    bytes.slice(index(start)..index(end))
}
