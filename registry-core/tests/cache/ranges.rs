//! Ranges of blobs that are not here: fetched ahead of the fill, into its spool, once.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::join_all;
use registry_core::cache::BypassReason;
use registry_core::testing::{Act, BodyScript, Call, ContentScript, Fault, Gate, Piece, StoreCall};
use registry_core::{
    BlobBody, BlobPayload, CacheError, CacheStatus, Digest, Limits, RangeRequest, Served,
    UpstreamError, UpstreamPolicy,
};

use crate::support::{
    Mirror, bytes, image, one, read, read_what_comes, repository, tag, two, unavailable,
};

const BLOB_BYTES: usize = 1 << 20;
const AHEAD: CacheStatus = CacheStatus::Bypass(BypassReason::RangeAhead);

/// Steps that are small beside a blob.
fn limits() -> Limits {
    Limits {
        range_ahead_bytes_max: 10_000,
        segment_bytes_min: 10_000,
        segment_bytes_max: 40_000,
        jump_bytes_min: 10_000,
        held_back_bytes: 1_000,
        chunk_bytes: 4_000,
        ..Limits::default()
    }
}

fn part(first: u64, len: u64) -> Option<RangeRequest> {
    let last = first + len - 1;
    Some(RangeRequest::FromTo { first, last })
}

fn from(first: u64) -> Option<RangeRequest> {
    Some(RangeRequest::From { first })
}

/// A mirror, a blob upstream, and a fill of it that stands still after its first 1000 bytes.
struct Scene {
    mirror: Mirror,
    content: Bytes,
    digest: Digest,
    gate: Gate,
    /// In a lock, since a body is nothing to be shared.
    leader: Mutex<Option<BlobBody<CacheError>>>,
}

impl Scene {
    async fn new() -> Self {
        Self::with(limits()).await
    }

    async fn with(limits: Limits) -> Self {
        let mirror = Mirror::with(UpstreamPolicy::default(), limits);
        let content = bytes(BLOB_BYTES);
        let digest = mirror.one.add_blob(&repository(), content.clone());
        let gate = Gate::new();
        let script = ContentScript::held_after(1000, &gate);
        mirror.one.once(Call::Blob, Act::Content(script));
        let leader = mirror.blob(&one(), digest, None).await.unwrap();
        assert_eq!(leader.status, CacheStatus::Miss);
        Self {
            mirror,
            content,
            digest,
            gate,
            leader: Mutex::new(Some(leader.value)),
        }
    }

    /// The body of whoever began the fill; once.
    fn leader(&self) -> BlobBody<CacheError> {
        self.leader.lock().unwrap().take().unwrap()
    }

    async fn ask(&self, range: Option<RangeRequest>) -> Served<BlobBody<CacheError>> {
        self.mirror.blob(&one(), self.digest, range).await.unwrap()
    }

    fn expected(&self, range: Option<RangeRequest>) -> &[u8] {
        let range = range.unwrap().resolve(BLOB_BYTES as u64).unwrap();
        &self.content[range.start() as usize..range.end() as usize]
    }

    /// Lets the fill go on, and checks that it got everything right, and how much that has cost:
    /// so much, and at the most a piece of a body each time that it let go of one.
    async fn finish(self, sent: usize, jumps: usize) {
        const PIECE_BYTES: usize = 64 << 10;
        self.gate.open();
        assert!(read(self.leader()).await.unwrap() == self.content);
        self.mirror.over().await;
        let calls = self.mirror.one.calls();
        let excess = calls.blob_bytes.checked_sub(sent as u64);
        assert!(
            excess.is_some_and(|excess| excess <= (jumps * PIECE_BYTES) as u64),
            "{} bytes for {sent}",
            calls.blob_bytes
        );
        let served = self.mirror.blob(&one(), self.digest, None).await.unwrap();
        assert_eq!(served.status, CacheStatus::Hit);
        assert!(read(served.value).await.unwrap() == self.content);
    }
}

/// Reads so much of a body, and gives it and what is left.
async fn take(
    body: BlobBody<CacheError>,
    len: usize,
) -> (
    Vec<u8>,
    impl futures::Stream<Item = Result<Bytes, CacheError>> + Unpin,
) {
    let BlobPayload::Stream(mut stream) = body.payload else {
        panic!("a store in memory has no files")
    };
    let mut received = Vec::new();
    while received.len() < len {
        received.extend_from_slice(&stream.next().await.unwrap().unwrap());
    }
    (received, stream)
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_read_ahead_is_not_fetched_again() {
    for (first, len) in [(900_000, 30_000), (500_000, 40_000), (11_001, 100_000)] {
        let scene = Scene::new().await;
        let range = part(first, len);
        let served = scene.ask(range).await;
        assert_eq!(served.status, AHEAD);
        assert_eq!(served.value.size, BLOB_BYTES as u64);
        assert!(read(served.value).await.unwrap() == scene.expected(range));
        // Exactly what was wanted was asked for, in parts no longer than the limit.
        let requests = scene.mirror.one.blob_requests();
        assert_eq!(
            requests.len() as u64,
            1 + len.div_ceil(40_000),
            "{requests:?}"
        );
        assert_eq!(requests[1].range, part(first, len.min(40_000)));
        let again = scene.ask(range).await;
        assert_eq!(again.status, CacheStatus::Follow, "it is here already");
        assert!(read(again.value).await.unwrap() == scene.expected(range));
        scene.finish(BLOB_BYTES, 1).await;
    }
}

/// Too little to be worth a request: the fill's own goes on over it.
#[tokio::test(start_paused = true)]
async fn small_parts_do_not_make_the_fill_jump() {
    let scene = Scene::new().await;
    let ranges: Vec<_> = (1..30).map(|at| part(at * 30_000, 100)).collect();
    for range in &ranges {
        let served = scene.ask(*range).await;
        assert_eq!(served.status, AHEAD);
        assert_eq!(read(served.value).await.unwrap(), scene.expected(*range));
    }
    assert_eq!(scene.mirror.one.calls().blob, 1 + ranges.len());
    scene.finish(BLOB_BYTES + ranges.len() * 100, 0).await;
}

/// containerd's parallel fetch: from the beginning, and open-ended from each chunk on, every
/// client leaving after its chunk.
#[tokio::test(start_paused = true)]
async fn a_pull_in_parallel_chunks_costs_the_blob_once() {
    for (chunk, at_a_time) in [(100_000, 4), (200_000, 16), (33_333, 3), (524_288, 2)] {
        for named in [false, true] {
            let mirror = Mirror::with(UpstreamPolicy::default(), limits());
            let content = bytes(BLOB_BYTES);
            let digest = mirror.one.add_blob(&repository(), content.clone());
            if named {
                let manifest = image("a", &[(digest, BLOB_BYTES)]);
                mirror.one.add_manifest(&repository(), manifest.clone());
                mirror
                    .one
                    .set_tag(&repository(), &tag("latest"), manifest.digest());
                mirror.get("latest").await.unwrap();
            }
            let read_chunk = async |start: usize| {
                let range = from(start as u64);
                let served = mirror.blob(&one(), digest, range).await.unwrap();
                let range = served.value.range;
                assert_eq!(
                    (range.start(), range.end()),
                    (start as u64, BLOB_BYTES as u64)
                );
                let len = chunk.min(BLOB_BYTES - start);
                let (mut received, _) = take(served.value, len).await;
                received.truncate(len);
                received
            };
            let chunks = futures::stream::iter((0..BLOB_BYTES).step_by(chunk))
                .map(read_chunk)
                .buffered(at_a_time);
            let received: Vec<Vec<u8>> = chunks.collect().await;
            assert!(received.concat() == content);
            mirror.over().await;
            let sent = mirror.one.calls().blob_bytes as usize;
            // What a body under way has brought when it is let go of is a piece of it.
            assert!(
                sent * 10 <= BLOB_BYTES * 11 + (1 << 20),
                "{chunk} {at_a_time}: {sent}"
            );
            let served = mirror.blob(&one(), digest, None).await.unwrap();
            assert_eq!(served.status, CacheStatus::Hit);
            assert!(read(served.value).await.unwrap() == content);
        }
    }
}

/// A reader goes on past what was fetched for it, with parts that become longer; one that stops
/// reading has no more fetched.
#[tokio::test(start_paused = true)]
async fn an_open_range_is_fetched_as_it_is_read() {
    let scene = Scene::new().await;
    let served = scene.ask(from(100_000)).await;
    let (received, stream) = take(served.value, 12_000).await;
    assert_eq!(received, scene.content[100_000..100_000 + received.len()]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = |scene: &Scene| -> Vec<_> {
        let requests = scene.mirror.one.blob_requests();
        requests[1..].iter().map(|request| request.range).collect()
    };
    let expected = [part(100_000, 10_000), part(110_000, 20_000)];
    assert_eq!(asked(&scene), expected);
    let rest: Vec<Bytes> = stream
        .take_while(|piece| futures::future::ready(piece.is_ok()))
        .take(20)
        .map(Result::unwrap)
        .collect()
        .await;
    let rest = rest.concat();
    let at = 100_000 + received.len();
    assert_eq!(rest, scene.content[at..at + rest.len()]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(asked(&scene)[2], part(130_000, 40_000));
    let fetched: usize = scene.mirror.one.calls().blob_bytes as usize;
    assert!(fetched < 1000 + 200_000, "{fetched}");
    scene.finish(BLOB_BYTES, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_wastes_nothing() {
    let scene = Scene::new().await;
    let gate = Gate::new();
    let script = ContentScript::held_after(5_000, &gate);
    scene.mirror.one.once(Call::BlobPart, Act::Content(script));
    let range = part(500_000, 30_000);
    drop(scene.ask(range).await);
    // Whoever comes meanwhile waits for what is on its way.
    let (follower, ()) = tokio::join!(scene.ask(part(510_000, 10_000)), async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        gate.open();
    });
    assert_eq!(follower.status, CacheStatus::Follow);
    let received = read(follower.value).await.unwrap();
    assert_eq!(received, scene.content[510_000..520_000]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let served = scene.ask(range).await;
    assert_eq!(served.status, CacheStatus::Follow);
    assert_eq!(read(served.value).await.unwrap(), scene.expected(range));
    scene.finish(BLOB_BYTES, 1).await;
}

/// The fill gets to a part that is still on its way, and waits for it; where it does not come, it
/// fetches that itself.
#[tokio::test(start_paused = true)]
async fn the_fill_waits_for_a_part_and_fetches_it_itself_where_it_dies() {
    for end in [
        None,
        Some(Piece::Fail(UpstreamError::Unauthorized { status: 403 })),
        Some(Piece::Panic),
    ] {
        let scene = Scene::new().await;
        let gate = Gate::new();
        let mut script = ContentScript::held_after(5_000, &gate);
        script.before.extend(end.clone().map(|end| (6_000, end)));
        scene.mirror.one.once(Call::BlobPart, Act::Content(script));
        let range = part(500_000, 30_000);
        let reader = scene.ask(range).await;
        scene.gate.open();
        // It cannot go on past the part that has stopped.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(scene.mirror.cache.fills_active(), 1);
        gate.open();
        assert!(
            read(reader.value).await.unwrap() == scene.expected(range),
            "{end:?}"
        );
        scene.finish(BLOB_BYTES, 1).await;
    }
}

/// A part that is not to be had ends nothing but itself: the fill gets there.
#[tokio::test(start_paused = true)]
async fn a_part_that_is_refused_is_waited_for() {
    for act in [
        Act::Absent,
        Act::Fail(UpstreamError::Unauthorized { status: 401 }),
        Act::Fail(unavailable()),
        Act::Panic,
        Act::Hang,
        // It is of another size than the fill was told.
        Act::Body(BodyScript {
            start: 500_000,
            ..BodyScript::new(Some(BLOB_BYTES as u64 + 1), vec![])
        }),
        // It is another part.
        Act::Body(BodyScript {
            start: 500_001,
            ..BodyScript::new(Some(BLOB_BYTES as u64), vec![Piece::Bytes(bytes(100))])
        }),
        // It is nothing.
        Act::Body(BodyScript {
            start: 500_000,
            ..BodyScript::new(Some(BLOB_BYTES as u64), vec![])
        }),
    ] {
        let name = format!("{act:?}");
        let scene = Scene::new().await;
        scene.mirror.one.once(Call::BlobPart, act);
        scene
            .mirror
            .one
            .once(Call::BlobPart, Act::Fail(unavailable()));
        let range = part(500_000, 30_000);
        let begun = tokio::time::Instant::now();
        let served = scene.ask(range).await;
        assert!(begun.elapsed() <= limits().upstream_wait_max, "{name}");
        scene.gate.open();
        assert!(
            read(served.value).await.unwrap() == scene.expected(range),
            "{name}"
        );
        scene.finish(BLOB_BYTES, 1).await;
    }
}

/// One that ignores ranges is asked for one once, and not again.
#[tokio::test(start_paused = true)]
async fn an_upstream_without_ranges_is_not_asked_for_more() {
    for hides_size in [false, true] {
        let scene = Scene::new().await;
        let script = ContentScript {
            ignores_range: !hides_size,
            hides_size,
            ..ContentScript::default()
        };
        scene
            .mirror
            .one
            .always(Call::BlobPart, Act::Content(script));
        let mut readers = Vec::new();
        for first in [500_000, 600_000, 700_000] {
            readers.push((part(first, 100), scene.ask(part(first, 100)).await));
        }
        assert_eq!(scene.mirror.one.calls().blob, 2);
        scene.gate.open();
        for (range, reader) in readers {
            assert_eq!(read(reader.value).await.unwrap(), scene.expected(range));
        }
        scene.finish(BLOB_BYTES, 1).await;
    }
}

/// The first byte comes after one round trip, also where nothing is known and nothing is here.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_blob_is_read_while_nothing_is_here() {
    let tail = BLOB_BYTES as u64 - 500;
    for range in [part(tail, 500), from(tail), part(tail, 5000)] {
        let mirror = Mirror::with(UpstreamPolicy::default(), limits());
        let content = bytes(BLOB_BYTES);
        let digest = mirror.one.add_blob(&repository(), content.clone());
        // The fill gets no answer for as long as it takes.
        let gate = Gate::new();
        mirror.one.once(Call::Blob, Act::Wait(gate.clone()));
        let script = Act::Content(ContentScript::default());
        mirror.one.once(Call::BlobPart, script);
        let begun = tokio::time::Instant::now();
        let served = mirror.blob(&one(), digest, range).await.unwrap();
        assert_eq!(served.status, AHEAD);
        assert_eq!(
            (served.value.size, served.value.range.end()),
            (1 << 20, 1 << 20)
        );
        assert!(read(served.value).await.unwrap() == content[tail as usize..]);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(mirror.one.calls().blob, 2);
        gate.open();
        mirror.over().await;
        assert_eq!(mirror.one.calls().blob_bytes, BLOB_BYTES as u64 + 500);
    }
}

#[tokio::test(start_paused = true)]
async fn a_range_past_the_end_of_a_blob_of_unknown_size_is_refused() {
    let mirror = Mirror::with(UpstreamPolicy::default(), limits());
    let digest = mirror.one.add_blob(&repository(), bytes(BLOB_BYTES));
    let gate = Gate::new();
    mirror.one.once(Call::Blob, Act::Wait(gate.clone()));
    for range in [from(BLOB_BYTES as u64), part(BLOB_BYTES as u64 + 5, 10)] {
        let script = Act::Content(ContentScript::default());
        mirror.one.once(Call::BlobPart, script);
        let error = mirror.blob(&one(), digest, range).await.unwrap_err();
        let expected = BLOB_BYTES as u64;
        assert!(
            matches!(error, CacheError::RangeNotSatisfiable { size } if size == expected),
            "{error:?}"
        );
    }
    gate.open();
    mirror.over().await;
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    assert_eq!(served.status, CacheStatus::Hit);
}

/// Where the end is cannot be told before the size is known; then it takes one more request.
#[tokio::test(start_paused = true)]
async fn the_last_bytes_of_a_blob_of_unknown_size() {
    let scene = Scene::new().await;
    let range = Some(RangeRequest::Suffix { length: 5_000 });
    let served = scene.ask(range).await;
    assert_eq!(served.status, AHEAD);
    assert!(read(served.value).await.unwrap() == scene.expected(range));
    scene.finish(BLOB_BYTES + 5_000, 0).await;

    // An upstream that tells no size is one to wait for.
    let mirror = Mirror::with(UpstreamPolicy::default(), limits());
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let script = ContentScript {
        hides_size: true,
        ..ContentScript::default()
    };
    mirror.one.always(Call::Blob, Act::Content(script));
    for range in [range, part(900_000, 100), from(900_000)] {
        let served = mirror.blob(&one(), digest, range).await.unwrap();
        let expected = range.unwrap().resolve(BLOB_BYTES as u64).unwrap();
        assert_eq!(served.value.range, expected);
        let start = expected.start() as usize;
        let received = read(served.value).await.unwrap();
        assert_eq!(received, content[start..start + received.len()]);
    }
}

/// I8: a spool has so many pieces, and no more; past that, ranges pass through.
#[tokio::test(start_paused = true)]
async fn a_spool_in_many_pieces_takes_no_more() {
    let limits = Limits {
        pieces_max: 4,
        ..limits()
    };
    let scene = Scene::with(limits).await;
    let ranges: Vec<_> = (1..10).map(|at| part(at * 90_000, 100)).collect();
    for range in &ranges {
        let served = scene.ask(*range).await;
        assert_eq!(served.status, AHEAD);
        assert_eq!(read(served.value).await.unwrap(), scene.expected(*range));
    }
    assert_eq!(scene.mirror.one.calls().blob, 1 + ranges.len());
    // What was passed through is not here.
    let served = scene.ask(ranges[8]).await;
    assert_eq!(served.status, AHEAD);
    assert_eq!(scene.mirror.one.calls().blob, 2 + ranges.len());
    let sent = BLOB_BYTES + (ranges.len() + 1) * 100;
    drop(read(served.value).await.unwrap());
    scene.finish(sent, 0).await;
}

/// Where too many requests are under way, the fill is what there is to wait for, at once.
#[tokio::test(start_paused = true)]
async fn a_far_range_is_answered_at_once_where_no_more_requests_may_be_made() {
    for pieces_max in [1, 1000] {
        let limits = Limits {
            bypasses_max: 0,
            pieces_max,
            ..limits()
        };
        let scene = Scene::with(limits).await;
        let begun = tokio::time::Instant::now();
        let range = part(900_000, 100);
        let served = scene.ask(range).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(served.status, CacheStatus::Follow);
        scene.gate.open();
        assert_eq!(read(served.value).await.unwrap(), scene.expected(range));
        assert_eq!(scene.mirror.one.calls().blob, 1);
        scene.finish(BLOB_BYTES, 1).await;
    }
}

/// Where a fill has to wait for its turn, a far range does not.
#[tokio::test(start_paused = true)]
async fn a_far_range_does_not_wait_for_the_turn_of_its_fill() {
    let limits = Limits {
        fills_max: 1,
        ..limits()
    };
    let scene = Scene::with(limits).await;
    let other = bytes(BLOB_BYTES + 1).slice(1..);
    let digest = scene.mirror.one.add_blob(&repository(), other.clone());
    let begun = tokio::time::Instant::now();
    let range = part(900_000, 100);
    let served = scene.mirror.blob(&one(), digest, range).await.unwrap();
    assert_eq!(served.status, AHEAD);
    assert_eq!(read(served.value).await.unwrap(), other[900_000..900_100]);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    scene.gate.open();
    scene.mirror.over().await;
    let served = scene.mirror.blob(&one(), digest, None).await.unwrap();
    assert_eq!(served.status, CacheStatus::Hit);
}

/// I5: a part that was fetched ahead for one is for another only with proof of access, and what is
/// fetched ahead comes from where the fill does.
#[tokio::test(start_paused = true)]
async fn parts_of_another_origin_take_proof_of_access() {
    let scene = Scene::new().await;
    let range = part(500_000, 30_000);
    read(scene.ask(range).await.value).await.unwrap();
    for range in [range, part(700_000, 100)] {
        let denied = scene.mirror.blob(&two(), scene.digest, range).await;
        assert!(matches!(denied, Err(CacheError::NotFound)), "{denied:?}");
    }
    scene.mirror.clock.advance(limits().negative_ttl);
    scene
        .mirror
        .two
        .add_blob(&repository(), scene.content.clone());
    for (range, status) in [(range, CacheStatus::Follow), (part(700_000, 100), AHEAD)] {
        let served = scene.mirror.blob(&two(), scene.digest, range).await;
        let served = served.unwrap();
        assert_eq!(served.status, status);
        assert!(read(served.value).await.unwrap() == scene.expected(range));
    }
    let calls = scene.mirror.two.calls();
    assert_eq!((calls.blob, calls.stat_blob), (0, 2));
    scene.finish(BLOB_BYTES + 100, 1).await;
}

/// I1: what cannot be written ends the fill, and nothing of it is taken for what it is not.
#[tokio::test(start_paused = true)]
async fn a_store_that_fails_under_a_part_ends_the_fill() {
    for stalls in [false, true] {
        let scene = Scene::new().await;
        let faults = scene.mirror.store.faults();
        if stalls {
            faults.stall(StoreCall::Append);
        } else {
            faults.fail_nth(StoreCall::Append, 1, Fault::NoSpace);
        }
        let range = part(500_000, 30_000);
        let served = scene.ask(range).await;
        // Nothing had come: it is passed through.
        let failing = CacheStatus::Bypass(BypassReason::StoreFailing);
        assert_eq!(served.status, failing);
        assert!(read(served.value).await.unwrap() == scene.expected(range));
        let (received, error) = read_what_comes(scene.leader()).await;
        assert!(matches!(error, Some(CacheError::Store(_))), "{error:?}");
        assert_eq!(received, scene.content[..received.len()]);
        faults.heal();
        scene.mirror.over().await;
        let served = scene.mirror.blob(&one(), scene.digest, None).await.unwrap();
        assert!(read(served.value).await.unwrap() == scene.content);
    }
}

/// I2: a body that is the whole is never whole before the digest matches, whoever fetched its
/// parts; what is wrong is not stored.
#[tokio::test(start_paused = true)]
async fn wrong_parts_are_found_out() {
    let scene = Scene::new().await;
    let wrong = bytes(BLOB_BYTES + 1).slice(1..);
    let tail = BLOB_BYTES - 40_000;
    let lie = BodyScript {
        start: tail as u64,
        ..BodyScript::new(
            Some(BLOB_BYTES as u64),
            vec![Piece::Bytes(wrong.slice(tail..))],
        )
    };
    scene.mirror.one.once(Call::BlobPart, Act::Body(lie));
    let range = part(tail as u64, 40_000);
    let served = scene.ask(range).await;
    // A part is what the upstream says it is (ADR 3).
    assert!(read(served.value).await.unwrap() == wrong[tail..]);
    let whole = scene.ask(from(0)).await;
    scene.gate.open();
    for body in [scene.leader(), whole.value] {
        let (received, error) = read_what_comes(body).await;
        assert!(matches!(error, Some(CacheError::Mismatch(_))), "{error:?}");
        assert!(received.len() < BLOB_BYTES);
    }
    scene.mirror.over().await;
    assert_eq!(scene.mirror.store.faults().calls(StoreCall::Discard), 1);
    // The next fill takes no parts, of whomever they are asked.
    let mirror = scene.mirror;
    let served = mirror.blob(&one(), scene.digest, range).await.unwrap();
    assert_eq!(served.status, CacheStatus::Miss);
    assert!(read(served.value).await.unwrap() == scene.content[tail..]);
    mirror.over().await;
    let served = mirror.blob(&one(), scene.digest, None).await.unwrap();
    assert_eq!(served.status, CacheStatus::Hit);
}

/// The end of the cache ends what is fetched ahead, too.
#[tokio::test(start_paused = true)]
async fn closing_ends_what_is_fetched_ahead() {
    let scene = Scene::new().await;
    let script = ContentScript {
        before: vec![(5_000, Piece::Hang)],
        ..ContentScript::default()
    };
    scene.mirror.one.once(Call::BlobPart, Act::Content(script));
    let served = scene.ask(part(500_000, 30_000)).await;
    let begun = tokio::time::Instant::now();
    scene.mirror.cache.close(Duration::from_secs(5)).await;
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
    let (_, error) = read_what_comes(served.value).await;
    assert!(matches!(error, Some(CacheError::Lost)), "{error:?}");
    assert_eq!(scene.mirror.cache.fills_active(), 0);
}

/// Many readers here and there, some of whom leave, while everything that can break off does: all
/// bytes are right, and hardly any is fetched twice.
#[tokio::test(start_paused = true)]
async fn many_readers_here_and_there() {
    for seed in 0..20_u64 {
        let mirror = Mirror::with(UpstreamPolicy::default(), limits());
        let content = bytes(BLOB_BYTES);
        let digest = mirror.one.add_blob(&repository(), content.clone());
        for at in 0..20 {
            let after = 1 + (at * 7919 + seed * 104_729) % 40_000;
            let script = ContentScript::cut_after(after, unavailable());
            mirror.one.once(Call::BlobPart, Act::Content(script));
        }
        let readers = (0..40_u64).map(|number| {
            let (mirror, content) = (&mirror, &content);
            async move {
                let mix = (number * 0x9E37_79B9 + seed * 0x85EB_CA6B) % 0x7FFF_FFFF;
                tokio::time::sleep(Duration::from_millis(mix % 50)).await;
                let first = mix * 13 % (BLOB_BYTES as u64 - 1);
                let range = match number % 4 {
                    0 => None,
                    1 => from(first),
                    2 => part(first, 1 + mix % 100_000),
                    _ => Some(RangeRequest::Suffix { length: 1 + first }),
                };
                let served = mirror.blob(&one(), digest, range).await.unwrap();
                let start = served.value.range.start() as usize;
                let len = served.value.range.len() as usize;
                let len = if mix % 3 == 0 { len / 2 } else { len };
                let (received, _) = take(served.value, len).await;
                assert!(
                    received == content[start..start + received.len()],
                    "{number}"
                );
            }
        });
        join_all(readers).await;
        mirror.over().await;
        let served = mirror.blob(&one(), digest, None).await.unwrap();
        assert_eq!(served.status, CacheStatus::Hit);
        assert!(read(served.value).await.unwrap() == content, "{seed}");
        let sent = mirror.one.calls().blob_bytes as usize;
        assert!(sent < BLOB_BYTES * 3 / 2, "{seed}: {sent}");
    }
}
