//! The promises of [`BlobSink`] and of [`SpoolReader`]: bytes in any order, an end that is told
//! from a break, and what an unfinished blob leaves for the next sink of its digest.
//!
//! A store may keep nothing of unfinished blobs: the cases of [`all`] hold for it too. One that
//! does keep them runs [`unfinished_blobs_are_kept`] as well.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use futures::future::join_all;

use super::drop_after;
use crate::testing::content::{digest_of, put_blob, read_body, sample, stage_anew, verified};
use crate::{Algorithm, BlobSink, BlobStat, BlobStore, SpoolReader, StoreError};

/// Size of a blob that is left unfinished: large enough for a store that finds small ones not worth
/// keeping.
const LEN: usize = (3 << 20) + 7;

/// How much of it is checkpointed.
const CHECKPOINT: usize = (2 << 20) + 5;

/// Runs every case, each on a store of its own that `make` gives: fresh and empty.
///
/// # Panics
///
/// Where the store breaks its contract.
pub async fn all<F, Fut>(make: F)
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Arc<dyn BlobStore>> + Send,
{
    parts_may_come_in_any_order(make().await).await;
    parts_may_be_written_at_the_same_time(make().await).await;
    chunks_are_written_one_behind_the_other(make().await).await;
    a_hole_is_refused(make().await).await;
    another_digest_is_refused(make().await).await;
    a_torn_write_refuses_the_commit(make().await).await;
    nothing_follows_the_end(make().await).await;
    readers_see_what_is_written(make().await).await;
    readers_outlive_a_commit(make().await).await;
    readers_outlive_a_drop(make().await).await;
    what_lasts_stays_in_the_file(make().await).await;
    reads_end_where_the_bytes_end(make().await).await;
    a_discarded_sink_leaves_nothing(make().await).await;
    a_dropped_sink_leaves_its_checkpoint_at_most(make().await).await;
    an_unfinished_blob_is_invisible(make().await).await;
    one_sink_is_given_what_is_kept(make().await).await;
    an_unfinished_blob_can_be_finished(make().await).await;
    what_is_kept_can_be_discarded(make().await).await;
    a_finished_blob_leaves_nothing_unfinished(make().await).await;
}

/// Each byte has its place, whenever it comes.
pub async fn parts_may_come_in_any_order(store: Arc<dyn BlobStore>) {
    let bytes = sample(100_000, 50);
    let sink = stage(&*store, &bytes).await;
    let reader = sink.reader();
    for (start, end) in [(60_000, 99_999), (0, 1), (20_000, 60_000)] {
        write(&*sink, &bytes, start, end).await;
        let part = read(&*reader, start as u64, end - start).await;
        assert_eq!(part, bytes.slice(start..end));
    }
    // Nothing, wherever it is, changes nothing.
    let nothing = sink.write_at(1 << 40, Bytes::new()).await;
    nothing.expect("write_at");
    write(&*sink, &bytes, 99_999, 100_000).await;
    write(&*sink, &bytes, 1, 20_000).await;
    assert_eq!(read(&*reader, 0, usize::MAX).await, bytes);
    commit(sink, &bytes).await.expect("commit");
    assert_eq!(content(&*store, &bytes).await, Some(bytes));
}

/// Writes that do not overlap need not wait for each other.
pub async fn parts_may_be_written_at_the_same_time(store: Arc<dyn BlobStore>) {
    const PARTS: usize = 16;
    let bytes = sample(PARTS * 10_000, 51);
    let sink = stage(&*store, &bytes).await;
    // 0, 7, 14, 5, …: each once, and no two neighbours in turn.
    let writes = (0..PARTS).map(|n| {
        let start = n * 7 % PARTS * 10_000;
        write(&*sink, &bytes, start, start + 10_000)
    });
    join_all(writes).await;
    commit(sink, &bytes).await.expect("commit");
    assert_eq!(content(&*store, &bytes).await, Some(bytes));
}

/// Several chunks are as one, however long each of them is, and however many they are.
pub async fn chunks_are_written_one_behind_the_other(store: Arc<dyn BlobStore>) {
    let bytes = sample(300_000, 58);
    let sink = stage(&*store, &bytes).await;
    let chunks = |start: usize, lens: &[usize]| {
        let mut at = start;
        let cut = |len: &usize| {
            at += len;
            bytes.slice(at - len..at)
        };
        lens.iter().map(cut).collect::<Vec<Bytes>>()
    };
    let many = vec![10; 5_000];
    for (start, lens) in [
        (100_000, &[0, 1, 0, 99_999, 100_000][..]),
        (0, &[][..]),
        (0, &[0, 0]),
        (0, &many),
        (50_000, &[50_000]),
    ] {
        let written = sink
            .write_chunks_at(start as u64, chunks(start, lens))
            .await;
        written.expect("write_chunks_at");
        let len = lens.iter().sum();
        let part = read(&*sink.reader(), start as u64, len).await;
        assert_eq!(part, bytes.slice(start..start + len));
    }
    commit(sink, &bytes).await.expect("commit");
    assert_eq!(content(&*store, &bytes).await, Some(bytes));
}

/// Bytes that were never written are not committed, whatever their size is proven to be (I1).
pub async fn a_hole_is_refused(store: Arc<dyn BlobStore>) {
    let bytes = sample(10_000, 52);
    for (start, end) in [(0, 1), (1, 9_999), (9_999, 10_000)] {
        let sink = stage(&*store, &bytes).await;
        write(&*sink, &bytes, 0, start).await;
        write(&*sink, &bytes, end, 10_000).await;
        let refused = commit(sink, &bytes).await;
        assert!(
            matches!(refused, Err(StoreError::Corrupt { .. })),
            "without {start}..{end}: {refused:?}"
        );
        assert_eq!(content(&*store, &bytes).await, None);
    }
}

/// A proof of other bytes than were staged commits nothing, even where it is of as many.
pub async fn another_digest_is_refused(store: Arc<dyn BlobStore>) {
    let bytes = sample(1_000, 53);
    let others = sample(1_000, 54);
    let sink = stage(&*store, &bytes).await;
    write(&*sink, &bytes, 0, 1_000).await;
    let refused = commit(sink, &others).await;
    assert!(
        matches!(refused, Err(StoreError::Corrupt { .. })),
        "{refused:?}"
    );
    assert_eq!(content(&*store, &bytes).await, None);
    assert_eq!(content(&*store, &others).await, None);
}

/// Where a write was not seen to end, nobody knows what is written (I1).
pub async fn a_torn_write_refuses_the_commit(store: Arc<dyn BlobStore>) {
    for polls in 0..4 {
        let bytes = sample(100_000, 55 + polls as u64);
        let sink = stage(&*store, &bytes).await;
        write(&*sink, &bytes, 0, 50_000).await;
        let rest = sink.write_at(50_000, bytes.slice(50_000..));
        let is_written = drop_after(rest, polls).await.is_some();
        let committed = commit(sink, &bytes).await;
        if is_written {
            committed.expect("commit");
        } else {
            assert!(
                matches!(committed, Err(StoreError::Corrupt { .. })),
                "after {polls} polls: {committed:?}"
            );
            assert_eq!(content(&*store, &bytes).await, None);
        }
    }
}

/// Once a sink was committed, or was discarded, nothing is written to it and nothing committed.
pub async fn nothing_follows_the_end(store: Arc<dyn BlobStore>) {
    let corrupt = |result| matches!(result, Err(StoreError::Corrupt { .. }));
    for is_committed in [true, false] {
        let bytes = sample(1_000, 60 + u64::from(is_committed));
        let sink = stage(&*store, &bytes).await;
        write(&*sink, &bytes, 0, 1_000).await;
        if is_committed {
            let committed = commit(Arc::clone(&sink), &bytes).await;
            committed.expect("commit");
        } else {
            Arc::clone(&sink).discard();
        }
        let more = sink.write_at(1_000, sample(10, 1)).await;
        assert!(corrupt(more), "committed: {is_committed}");
        assert!(corrupt(commit(sink, &bytes).await));
        let found = content(&*store, &bytes).await;
        assert_eq!(found, is_committed.then_some(bytes));
    }
}

/// A reader sees every byte once its write has returned, and none before.
pub async fn readers_see_what_is_written(store: Arc<dyn BlobStore>) {
    let bytes = sample(200_000, 26);
    let sink = stage(&*store, &bytes).await;
    let early = sink.reader();
    assert_eq!(read(&*early, 0, 10).await, Bytes::new());
    let mut written = 0;
    for len in [1, 0, 4_096, 100_000, 95_903] {
        write(&*sink, &bytes, written, written + len).await;
        written += len;
        let late = sink.reader();
        for reader in [&early, &late] {
            let all = read(&**reader, 0, usize::MAX).await;
            assert_eq!(all, bytes.slice(..written), "after {written} bytes");
            let last = read(&**reader, written as u64 - 1, 1).await;
            assert_eq!(last, bytes.slice(written - 1..written));
            assert_eq!(read(&**reader, written as u64, 1).await, Bytes::new());
        }
    }
    assert_eq!(written, bytes.len());
}

/// A reader made before a commit reads on after it, and after the blob's removal.
pub async fn readers_outlive_a_commit(store: Arc<dyn BlobStore>) {
    let bytes = sample(100_000, 27);
    let sink = stage(&*store, &bytes).await;
    let reader = sink.reader();
    write(&*sink, &bytes, 0, bytes.len()).await;
    commit(sink, &bytes).await.expect("commit");
    assert_eq!(read(&*reader, 0, bytes.len()).await, bytes);
    let digest = digest_of(&bytes);
    assert!(store.remove(digest).await.expect("remove"));
    assert_eq!(read(&*reader, 99_000, 5_000).await, bytes.slice(99_000..));

    // Also where the commit found the blob there already.
    put_blob(&*store, &bytes).await.expect("put");
    let sink = stage(&*store, &bytes).await;
    write(&*sink, &bytes, 0, bytes.len()).await;
    let reader = sink.reader();
    commit(sink, &bytes).await.expect("commit");
    assert_eq!(read(&*reader, 0, bytes.len()).await, bytes);
}

/// A reader reads what was checkpointed after its sink was dropped, whatever another sink makes of
/// it; and all that was written after a discard.
pub async fn readers_outlive_a_drop(store: Arc<dyn BlobStore>) {
    let bytes = sample(LEN, 28);
    let sink = stage(&*store, &bytes).await;
    let reader = sink.reader();
    write(&*sink, &bytes, 0, LEN - 1).await;
    sink.checkpoint(CHECKPOINT as u64);
    drop(sink);
    let checkpointed = bytes.slice(..CHECKPOINT);
    assert_eq!(read(&*reader, 0, CHECKPOINT).await, checkpointed);
    let next = stage_any(&*store, &bytes).await;
    let other = sample(LEN, 29);
    let kept = usize::try_from(next.kept()).expect("a test's blob fits into memory");
    write(&*next, &other, kept, LEN).await;
    assert_eq!(read(&*reader, 0, CHECKPOINT).await, checkpointed);

    let late = next.reader();
    next.discard();
    assert_eq!(read(&*reader, 0, CHECKPOINT).await, checkpointed);
    let rest = read(&*late, kept as u64, usize::MAX).await;
    assert_eq!(rest, other.slice(kept..));
    assert_eq!(read(&*late, LEN as u64, 1).await, Bytes::new());
}

/// Whoever has the file that a blob grows in finds there what was kept, checkpointed or committed,
/// whatever becomes of the sink, and whoever goes on with it. A store may have no such file.
pub async fn what_lasts_stays_in_the_file(store: Arc<dyn BlobStore>) {
    let bytes = sample(LEN, 59);
    let sink = stage(&*store, &bytes).await;
    let Some(file) = sink.reader().file() else {
        return;
    };
    let stays = |len: usize| {
        let mut found = vec![0; len];
        file.read_exact_at(&mut found, 0)
            .expect("it is in the file");
        assert!(
            found == bytes[..len],
            "the first {len} bytes are others now"
        );
    };
    write(&*sink, &bytes, 0, CHECKPOINT).await;
    sink.checkpoint(CHECKPOINT as u64);
    // With a hole before it, and not checkpointed: it does not last.
    write(&*sink, &bytes, CHECKPOINT + 100, LEN).await;
    stays(CHECKPOINT);
    drop(sink);
    stays(CHECKPOINT);
    let next = stage_any(&*store, &bytes).await;
    stays(CHECKPOINT);
    // It writes far ahead first, so that it leaves a hole where something was.
    let kept = usize::try_from(next.kept()).expect("a test's blob fits into memory");
    write(&*next, &bytes, LEN - 1, LEN).await;
    stays(CHECKPOINT);
    write(&*next, &bytes, kept, LEN - 1).await;
    next.checkpoint(LEN as u64);
    let file = next.reader().file().expect("it had one before");
    commit(next, &bytes).await.expect("commit");
    assert!(store.remove(digest_of(&bytes)).await.expect("remove"));
    stays(CHECKPOINT);
    let mut found = vec![0; LEN];
    file.read_exact_at(&mut found, 0)
        .expect("it is in the file");
    assert!(found == bytes, "what was committed stays");

    let discarded = stage(&*store, &bytes).await;
    write(&*discarded, &bytes, 0, CHECKPOINT).await;
    discarded.checkpoint(CHECKPOINT as u64);
    let file = discarded.reader().file().expect("it had one before");
    discarded.discard();
    let next = stage_any(&*store, &bytes).await;
    write(&*next, &sample(LEN, 61), 0, LEN).await;
    let mut found = vec![0; CHECKPOINT];
    file.read_exact_at(&mut found, 0)
        .expect("it is in the file");
    assert!(
        found == bytes[..CHECKPOINT],
        "what was discarded is not written over"
    );
}

/// Reads are cut where the written bytes end, and empty past it.
pub async fn reads_end_where_the_bytes_end(store: Arc<dyn BlobStore>) {
    let bytes = sample(1_000, 29);
    let sink = stage(&*store, &bytes).await;
    write(&*sink, &bytes, 0, 1_000).await;
    let reader = sink.reader();
    for (offset, len, start, end) in [
        (0, 0, 0, 0),
        (0, 1_000, 0, 1_000),
        (0, 1_001, 0, 1_000),
        (999, 1, 999, 1_000),
        (999, 2, 999, 1_000),
        (1_000, 1, 0, 0),
        (1_001, 1, 0, 0),
        (u64::MAX, 1, 0, 0),
        (u64::MAX, usize::MAX, 0, 0),
        (1, usize::MAX, 1, 1_000),
    ] {
        let read = read(&*reader, offset, len).await;
        assert_eq!(read, bytes.slice(start..end), "{len} bytes at {offset}");
    }
}

/// No later sink is given what was thrown away, however far it was checkpointed.
pub async fn a_discarded_sink_leaves_nothing(store: Arc<dyn BlobStore>) {
    let bytes = sample(LEN, 70);
    let sink = stage(&*store, &bytes).await;
    write(&*sink, &bytes, 0, LEN).await;
    sink.checkpoint(LEN as u64);
    sink.discard();
    let next = stage_any(&*store, &bytes).await;
    assert_eq!(next.kept(), 0);
    assert_eq!(read(&*next.reader(), 0, 1).await, Bytes::new());
    assert_eq!(content(&*store, &bytes).await, None);
}

/// What a later sink is given was checkpointed, and is what was written.
pub async fn a_dropped_sink_leaves_its_checkpoint_at_most(store: Arc<dyn BlobStore>) {
    for checkpoints in [
        &[][..],
        &[0],
        &[1],
        &[CHECKPOINT],
        &[CHECKPOINT, 10],
        &[LEN],
    ] {
        let bytes = sample(LEN, 71 + checkpoints.len() as u64);
        let sink = stage(&*store, &bytes).await;
        // More than is checkpointed, and with a hole.
        let checkpoint = checkpoints.iter().copied().max().unwrap_or(0);
        write(&*sink, &bytes, 0, checkpoint).await;
        write(&*sink, &bytes, (checkpoint + 1).min(LEN), LEN).await;
        for checkpoint in checkpoints {
            sink.checkpoint(*checkpoint as u64);
        }
        drop(sink);

        let next = stage_any(&*store, &bytes).await;
        let kept = usize::try_from(next.kept()).expect("a test's blob fits into memory");
        assert!(kept <= checkpoint, "{kept} of {checkpoints:?}");
        let reader = next.reader();
        assert_eq!(read(&*reader, 0, usize::MAX).await, bytes.slice(..kept));
        assert_eq!(read(&*reader, kept as u64, 1).await, Bytes::new());
        next.discard();
    }
}

/// What nobody finished cannot be seen, removed or listed (I1).
pub async fn an_unfinished_blob_is_invisible(store: Arc<dyn BlobStore>) {
    let bytes = sample(LEN, 80);
    leave_unfinished(&*store, &bytes, CHECKPOINT).await;
    let digest = digest_of(&bytes);
    assert_eq!(store.stat(digest).await.expect("stat"), None);
    assert_eq!(content(&*store, &bytes).await, None);
    let listed: Vec<BlobStat> = store.list().try_collect().await.expect("list");
    assert_eq!(listed, []);
    assert!(!store.remove(digest).await.expect("remove"));
}

/// Of sinks of one digest at the same time, one at most goes on where another left off; they keep
/// their bytes apart.
pub async fn one_sink_is_given_what_is_kept(store: Arc<dyn BlobStore>) {
    let bytes = sample(LEN, 81);
    leave_unfinished(&*store, &bytes, CHECKPOINT).await;
    let sinks = join_all((0..4).map(|_| stage_any(&*store, &bytes))).await;
    let given = sinks.iter().filter(|sink| sink.kept() > 0).count();
    assert!(given <= 1, "{given} sinks go on with the same bytes");
    let writes = sinks.iter().map(|sink| finish(&**sink, &bytes));
    join_all(writes).await;
    for sink in sinks {
        commit(sink, &bytes).await.expect("commit");
    }
    assert_eq!(content(&*store, &bytes).await, Some(bytes));
}

/// What was kept need not be written again, through as many attempts as it takes; nor is it given
/// to a sink of another digest.
pub async fn an_unfinished_blob_can_be_finished(store: Arc<dyn BlobStore>) {
    let bytes = sample(LEN, 82);
    leave_unfinished(&*store, &bytes, CHECKPOINT).await;
    let other = sample(LEN, 83);
    assert_eq!(stage_any(&*store, &other).await.kept(), 0);

    let second = stage_any(&*store, &bytes).await;
    let kept = usize::try_from(second.kept()).expect("a test's blob fits into memory");
    let checkpoint = kept.max(CHECKPOINT) + 10;
    write(&*second, &bytes, kept, checkpoint).await;
    second.checkpoint(checkpoint as u64);
    drop(second);

    let third = stage_any(&*store, &bytes).await;
    assert!(third.kept() <= checkpoint as u64);
    finish(&*third, &bytes).await;
    commit(third, &bytes).await.expect("commit");
    assert_eq!(content(&*store, &bytes).await, Some(bytes));
}

/// Kept bytes that turn out to be wrong are thrown away by the sink that was given them.
pub async fn what_is_kept_can_be_discarded(store: Arc<dyn BlobStore>) {
    let bytes = sample(LEN, 84);
    let wrong = sample(LEN, 85);
    let sink = stage(&*store, &bytes).await;
    write(&*sink, &wrong, 0, LEN - 1).await;
    sink.checkpoint(CHECKPOINT as u64);
    drop(sink);
    stage_any(&*store, &bytes).await.discard();
    let next = stage_any(&*store, &bytes).await;
    assert_eq!(next.kept(), 0);
    finish(&*next, &bytes).await;
    commit(next, &bytes).await.expect("commit");
    assert_eq!(content(&*store, &bytes).await, Some(bytes));
}

/// A committed sink leaves nothing to go on with, however far it was checkpointed.
pub async fn a_finished_blob_leaves_nothing_unfinished(store: Arc<dyn BlobStore>) {
    let bytes = sample(LEN, 86);
    let sink = stage(&*store, &bytes).await;
    write(&*sink, &bytes, 0, LEN).await;
    sink.checkpoint(LEN as u64);
    commit(sink, &bytes).await.expect("commit");
    assert_eq!(stage_any(&*store, &bytes).await.kept(), 0);
    let digest = digest_of(&bytes);
    assert!(store.remove(digest).await.expect("remove"));
    assert_eq!(stage_any(&*store, &bytes).await.kept(), 0);
}

/// For a store that keeps unfinished blobs: whoever drops a sink that is not being written to finds
/// all that was checkpointed in the next. Not one of [`all`], since a store need not.
///
/// # Panics
///
/// Where it does not.
pub async fn unfinished_blobs_are_kept(store: Arc<dyn BlobStore>) {
    let bytes = sample(LEN, 90);
    leave_unfinished(&*store, &bytes, CHECKPOINT).await;
    for (kept, checkpoint) in [(CHECKPOINT, LEN - 1), (LEN - 1, LEN - 1), (LEN - 1, LEN)] {
        let sink = stage_any(&*store, &bytes).await;
        assert_eq!(sink.kept(), kept as u64);
        write(&*sink, &bytes, kept, checkpoint).await;
        sink.checkpoint(checkpoint as u64);
        // A commit that is refused is a drop.
        let refused = commit(sink, &sample(1, 1)).await;
        assert!(refused.is_err());
    }
    let sink = stage_any(&*store, &bytes).await;
    assert_eq!(sink.kept(), LEN as u64);
    assert_eq!(read(&*sink.reader(), 0, usize::MAX).await, bytes);
    commit(sink, &bytes).await.expect("commit");
    assert_eq!(content(&*store, &bytes).await, Some(bytes));
}

/// Leaves the first `checkpoint` bytes checkpointed, and some more written.
async fn leave_unfinished(store: &dyn BlobStore, bytes: &Bytes, checkpoint: usize) {
    let sink = stage(store, bytes).await;
    write(&*sink, bytes, 0, checkpoint).await;
    sink.checkpoint(checkpoint as u64);
    write(&*sink, bytes, checkpoint + 100, checkpoint + 200).await;
}

/// Writes what is missing of a blob.
async fn finish(sink: &dyn BlobSink, bytes: &Bytes) {
    let kept = usize::try_from(sink.kept()).expect("a test's blob fits into memory");
    write(sink, bytes, kept, bytes.len()).await;
}

/// A place to write `bytes`, with nothing in it.
async fn stage(store: &dyn BlobStore, bytes: &Bytes) -> Arc<dyn BlobSink> {
    let staged = stage_anew(store, digest_of(bytes), None).await;
    staged.expect("stage")
}

/// A place to write `bytes`, with whatever was left of them.
async fn stage_any(store: &dyn BlobStore, bytes: &Bytes) -> Arc<dyn BlobSink> {
    let size = bytes.len() as u64;
    let staged = store.stage(digest_of(bytes), Some(size)).await;
    staged.expect("stage")
}

async fn write(sink: &dyn BlobSink, bytes: &Bytes, start: usize, end: usize) {
    let write = sink.write_at(start as u64, bytes.slice(start..end)).await;
    write.expect("write_at");
}

async fn commit(sink: Arc<dyn BlobSink>, bytes: &Bytes) -> Result<(), StoreError> {
    sink.commit(verified(Algorithm::Sha256, bytes)).await
}

async fn read(reader: &dyn SpoolReader, offset: u64, len: usize) -> Bytes {
    reader.read_at(offset, len).await.expect("read_at")
}

async fn content(store: &dyn BlobStore, bytes: &Bytes) -> Option<Bytes> {
    let body = store.open(digest_of(bytes), None).await.expect("open")?;
    Some(read_body(body).await)
}
