//! Bodies that break off are gone on with: after a cut, and after the end of a process.

use std::time::Duration;

use bytes::Bytes;
use registry_core::testing::{
    Act, BlobRequest, BodyScript, Call, Calls, ContentScript, Fault, Gate, Piece, StoreCall,
};
use registry_core::{
    BlobStore as _, CacheError, CacheStatus, Digest, Hasher, Limits, RangeRequest, UpstreamError,
    UpstreamPolicy, Validator,
};

use crate::support::{
    Mirror, bytes, image, one, read, read_what_comes, repository, tag, unavailable,
};

const BLOB_BYTES: usize = 4 << 20;

/// Numbers that differ from step to step, and are the same in every run.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, bound: u64) -> u64 {
        // Xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Lets a manifest name a blob, so that it is linked and its size is known.
async fn name(mirror: &Mirror, digest: Digest, size: usize) {
    let manifest = image("a", &[(digest, size)]);
    mirror
        .one
        .set_tag(&repository(), &tag("latest"), manifest.digest());
    mirror.one.add_manifest(&repository(), manifest);
    mirror.get("latest").await.unwrap();
}

fn from(first: u64) -> Option<RangeRequest> {
    Some(RangeRequest::From { first })
}

/// A body that a client has seen begin when the gate is opened, before it is cut.
fn cut_when_seen(gate: &Gate, after: u64, error: UpstreamError) -> ContentScript {
    ContentScript {
        before: vec![(1, Piece::Wait(gate.clone())), (after, Piece::Fail(error))],
        ..ContentScript::default()
    }
}

/// Ends the next body after `after` bytes, in one of the ways that can be gone on after.
fn cut(kind: u64, after: u64) -> ContentScript {
    let fail = |error| ContentScript::cut_after(after, error);
    match kind {
        0 => fail(unavailable()),
        1 => fail(UpstreamError::Timeout { what: "go on" }),
        2 => fail(UpstreamError::RateLimited {
            retry_after: Some(Duration::from_secs(2)),
        }),
        _ => ContentScript {
            ends_after: Some(after),
            ..ContentScript::default()
        },
    }
}

#[tokio::test(start_paused = true)]
async fn five_cuts_at_random_places_cost_the_blob_once() {
    for seed in 1..13 {
        let mut seeded = Seeded(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed));
        let mirror = Mirror::new();
        let content = bytes(BLOB_BYTES);
        let digest = mirror.one.add_blob(&repository(), content.clone());
        if seed % 2 == 0 {
            name(&mirror, digest, BLOB_BYTES).await;
        }
        let before = mirror.one.calls().blob;
        let gate = Gate::new();
        for number in 0..5 {
            // At the first byte at the earliest: before that, a failure is a client's to see.
            let after = 1 + seeded.below(BLOB_BYTES as u64 / 5);
            let call = if number == 0 {
                Call::Blob
            } else {
                Call::BlobPart
            };
            let mut script = cut(seeded.below(4), after);
            if number == 0 {
                script.before.insert(0, (1, Piece::Wait(gate.clone())));
            }
            mirror.one.once(call, Act::Content(script));
        }
        let leader = mirror.blob(&one(), digest, None).await.unwrap();
        let follower = mirror.blob(&one(), digest, None).await.unwrap();
        assert_eq!(
            (leader.status, follower.status),
            (CacheStatus::Miss, CacheStatus::Follow)
        );
        gate.open();
        for served in [leader, follower] {
            assert!(read(served.value).await.unwrap() == content, "{seed}");
        }
        mirror.idle().await;
        let calls = mirror.one.calls();
        assert_eq!(calls.blob - before, 6, "{seed}");
        let excess = calls.blob_bytes - BLOB_BYTES as u64;
        assert!(excess * 100 <= 2 * BLOB_BYTES as u64, "{seed}: {excess}");
        let served = mirror.blob(&one(), digest, None).await.unwrap();
        assert_eq!(served.status, CacheStatus::Hit, "{seed}");
    }
}

/// The rest is asked for as a part of the same body; of another, it is asked for without condition.
#[tokio::test(start_paused = true)]
async fn the_rest_is_asked_for_by_what_came_with_the_beginning() {
    let cut_at = 2_u64 << 20;
    for has_changed in [false, true] {
        let mirror = Mirror::new();
        let content = bytes(BLOB_BYTES);
        let digest = mirror.one.add_blob(&repository(), content.clone());
        let script = ContentScript {
            entity_tag: has_changed.then(|| "\"former\"".to_owned()),
            ..ContentScript::cut_after(cut_at, unavailable())
        };
        mirror.one.once(Call::Blob, Act::Content(script));
        let served = mirror.blob(&one(), digest, None).await.unwrap();
        assert!(read(served.value).await.unwrap() == content);
        let request = |range, entity_tag: Option<String>| BlobRequest {
            range,
            prior: entity_tag.map(|tag| Validator::new("scripted", tag)),
        };
        let mut expected = vec![request(None, None)];
        if has_changed {
            expected.push(request(from(cut_at), Some("\"former\"".to_owned())));
            expected.push(request(from(cut_at), None));
        } else {
            expected.push(request(from(cut_at), Some(format!("\"{digest}\""))));
        }
        assert_eq!(mirror.one.blob_requests(), expected);
        assert_eq!(mirror.one.calls().blob_bytes, BLOB_BYTES as u64);
    }
}

/// An upstream without ranges sends everything again, of which what is held is thrown away.
#[tokio::test(start_paused = true)]
async fn an_upstream_that_ignores_ranges_is_skipped_forward() {
    for tells_size in [true, false] {
        let mirror = Mirror::new();
        let content = bytes(BLOB_BYTES);
        let digest = mirror.one.add_blob(&repository(), content.clone());
        let whole = || ContentScript {
            ignores_range: true,
            hides_size: !tells_size,
            ..ContentScript::default()
        };
        let cut = ContentScript {
            before: vec![(3 << 20, Piece::Fail(unavailable()))],
            ..whole()
        };
        mirror.one.once(Call::Blob, Act::Content(cut));
        mirror.one.always(Call::BlobPart, Act::Content(whole()));
        let served = mirror.blob(&one(), digest, None).await.unwrap();
        assert!(read(served.value).await.unwrap() == content);
        let calls = mirror.one.calls();
        let sent = (BLOB_BYTES + (3 << 20)) as u64;
        assert_eq!((calls.blob, calls.blob_bytes), (2, sent));
    }
}

#[tokio::test(start_paused = true)]
async fn some_ends_are_final() {
    let content = bytes(BLOB_BYTES);
    let refused = || UpstreamError::Unauthorized { status: 401 };
    let protocol = || UpstreamError::Protocol {
        what: "nonsense".to_owned(),
    };
    let long = UpstreamError::RateLimited {
        retry_after: Some(Duration::from_secs(3600)),
    };
    for (first, part, requests) in [
        // What breaks off for these is not asked for again,
        (refused(), None, 1),
        (protocol(), None, 1),
        (long.clone(), None, 1),
        // and neither is what is refused when it is.
        (unavailable(), Some(Act::Fail(refused())), 2),
        (unavailable(), Some(Act::Fail(protocol())), 2),
        (unavailable(), Some(Act::Fail(long)), 2),
        (unavailable(), Some(Act::Absent), 2),
    ] {
        let mirror = Mirror::new();
        let digest = mirror.one.add_blob(&repository(), content.clone());
        let name = format!("{first} {part:?}");
        let gate = Gate::new();
        let script = cut_when_seen(&gate, 1 << 20, first);
        mirror.one.once(Call::Blob, Act::Content(script));
        if let Some(part) = part {
            mirror.one.once(Call::BlobPart, part);
        }
        let served = mirror.blob(&one(), digest, None).await.unwrap();
        gate.open();
        let (received, error) = read_what_comes(served.value).await;
        assert!(error.is_some(), "{name}");
        assert_eq!(received, content[..1 << 20], "{name}");
        assert_eq!(mirror.one.calls().blob, requests, "{name}");
        // What came is not fetched again.
        mirror.over().await;
        let served = mirror.blob(&one(), digest, None).await.unwrap();
        assert_eq!(served.status, CacheStatus::Miss);
        assert!(read(served.value).await.unwrap() == content, "{name}");
        assert_eq!(mirror.one.calls().blob_bytes, BLOB_BYTES as u64, "{name}");
    }
}

/// Limits are anybody's to set, also to nothing.
#[tokio::test(start_paused = true)]
async fn a_shortest_jump_of_nothing_is_no_endless_one() {
    let limits = Limits {
        jump_bytes_min: 0,
        ..Limits::default()
    };
    let mirror = Mirror::with(UpstreamPolicy::default(), limits);
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let read_it = async {
        let served = mirror.blob(&one(), digest, None).await.unwrap();
        read(served.value).await.unwrap()
    };
    let limit = Duration::from_secs(60);
    let received = tokio::time::timeout(limit, read_it).await.unwrap();
    assert!(received == content);
    assert_eq!(mirror.one.calls().blob, 1);
}

/// Nothing is asked twice while a client can still be told by a status.
#[tokio::test(start_paused = true)]
async fn before_the_first_byte_nothing_is_asked_again() {
    for act in [
        Act::Fail(unavailable()),
        Act::Content(ContentScript::cut_after(0, unavailable())),
    ] {
        let mirror = Mirror::new();
        let digest = mirror.one.add_blob(&repository(), bytes(BLOB_BYTES));
        mirror.one.once(Call::Blob, act);
        let error = mirror.blob(&one(), digest, None).await.unwrap_err();
        assert!(matches!(error, CacheError::Upstream(_)), "{error:?}");
        assert_eq!(mirror.one.calls().blob, 1);
    }
}

/// Another size on the second thought is another blob: nothing is made of both.
#[tokio::test(start_paused = true)]
async fn a_rest_of_another_size_is_an_error() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let gate = Gate::new();
    let script = cut_when_seen(&gate, 1 << 20, unavailable());
    mirror.one.once(Call::Blob, Act::Content(script));
    let other = BodyScript {
        start: 1 << 20,
        ..BodyScript::new(
            Some(BLOB_BYTES as u64 + 1),
            vec![Piece::Bytes(content.slice(1 << 20..))],
        )
    };
    mirror.one.once(Call::BlobPart, Act::Body(other));
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    gate.open();
    let (_, error) = read_what_comes(served.value).await;
    assert!(
        matches!(error, Some(CacheError::Length { .. })),
        "{error:?}"
    );
    mirror.over().await;
    assert_eq!(mirror.store.faults().calls(StoreCall::Discard), 1);
}

/// Leaves the first bytes of a blob in the store, as a process does that has ended.
async fn leave(mirror: &Mirror, digest: Digest, beginning: Bytes) {
    let sink = mirror.store.inner().stage(digest, None).await.unwrap();
    let len = beginning.len() as u64;
    sink.write_at(0, beginning).await.unwrap();
    sink.checkpoint(len);
}

#[tokio::test(start_paused = true)]
async fn what_was_left_by_a_process_that_ended_is_gone_on_with() {
    for kept in [1, 1000, BLOB_BYTES / 2, BLOB_BYTES - 1, BLOB_BYTES] {
        for is_linked in [false, true] {
            let mirror = Mirror::new();
            let content = bytes(BLOB_BYTES);
            let digest = mirror.one.add_blob(&repository(), content.clone());
            leave(&mirror, digest, content.slice(..kept)).await;
            if is_linked {
                name(&mirror, digest, BLOB_BYTES).await;
            }
            let served = mirror.blob(&one(), digest, None).await.unwrap();
            assert_eq!(served.status, CacheStatus::Miss);
            assert!(read(served.value).await.unwrap() == content, "{kept}");
            mirror.over().await;
            let calls = mirror.one.calls();
            assert_eq!(calls.blob_bytes, (BLOB_BYTES - kept) as u64, "{kept}");
            // The upstream's answer is the proof of access; where there is nothing to ask it for, a
            // link is.
            let asked = !(is_linked && kept == BLOB_BYTES);
            assert_eq!(calls.blob, usize::from(asked), "{kept} {is_linked}");
            let served = mirror.blob(&one(), digest, None).await.unwrap();
            assert_eq!(served.status, CacheStatus::Hit);
        }
    }
}

/// I5: what was left is nobody's before the upstream has answered whoever asks now.
#[tokio::test(start_paused = true)]
async fn what_was_left_is_not_served_before_the_upstream_has_answered() {
    let content = bytes(BLOB_BYTES);
    let digest = registry_core::testing::content::digest_of(&content);
    for range in [None, from(0), from(1 << 20), from(3 << 20)] {
        for kept in [3 << 20, BLOB_BYTES] {
            let limits = Limits {
                range_ahead_bytes_max: 1000,
                ..Limits::default()
            };
            let mirror = Mirror::with(UpstreamPolicy::default(), limits);
            leave(&mirror, digest, content.slice(..kept)).await;
            let missing = mirror.blob(&one(), digest, range).await;
            assert!(matches!(missing, Err(CacheError::NotFound)), "{missing:?}");
        }
    }
}

/// I5: nor is it while the upstream takes its time to refuse.
#[tokio::test(start_paused = true)]
async fn what_was_left_waits_for_the_upstreams_word() {
    let content = bytes(BLOB_BYTES);
    let digest = registry_core::testing::content::digest_of(&content);
    for range in [None, from(0), from(1 << 20), from(3 << 20)] {
        for kept in [3 << 20, BLOB_BYTES] {
            let limits = Limits {
                range_ahead_bytes_max: 1000,
                ..Limits::default()
            };
            let mirror = Mirror::with(UpstreamPolicy::default(), limits);
            leave(&mirror, digest, content.slice(..kept)).await;
            let gate = Gate::new();
            mirror.one.always(Call::BlobPart, Act::Wait(gate.clone()));
            let refuse = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                gate.open();
            };
            let origin = one();
            let (missing, ()) = tokio::join!(mirror.blob(&origin, digest, range), refuse);
            assert!(matches!(missing, Err(CacheError::NotFound)), "{missing:?}");
        }
    }
}

/// The kept bytes are served while the rest is on its way.
#[tokio::test(start_paused = true)]
async fn what_was_left_is_served_as_soon_as_the_upstream_answers() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let kept = 2 << 20;
    leave(&mirror, digest, content.slice(..kept)).await;
    let gate = Gate::new();
    let script = ContentScript::held_after(0, &gate);
    mirror.one.once(Call::BlobPart, Act::Content(script));
    let range = RangeRequest::FromTo {
        first: 0,
        last: kept as u64 - 1,
    };
    let served = mirror.blob(&one(), digest, Some(range)).await.unwrap();
    assert!(read(served.value).await.unwrap() == content[..kept]);
    gate.open();
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    assert!(read(served.value).await.unwrap() == content);
    assert_eq!(
        mirror.one.calls(),
        Calls {
            blob: 1,
            blob_bytes: (BLOB_BYTES - kept) as u64,
            ..Calls::default()
        }
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_left_and_is_wrong_is_thrown_away() {
    let content = bytes(BLOB_BYTES);
    let mut wrong = content.to_vec();
    wrong[1000] ^= 1;
    let longer = bytes(BLOB_BYTES + 1);
    // Whether the first pull fails: what is too long for the manifest is seen before it is used.
    for (name_it, left, fails) in [
        (false, Bytes::from(wrong.clone()).slice(..1 << 20), true),
        (true, Bytes::from(wrong.clone()).slice(..1 << 20), true),
        (true, Bytes::from(wrong), true),
        (false, longer.clone(), true),
        (true, longer, false),
    ] {
        let mirror = Mirror::new();
        let digest = mirror.one.add_blob(&repository(), content.clone());
        leave(&mirror, digest, left).await;
        if name_it {
            name(&mirror, digest, BLOB_BYTES).await;
        }
        let first = match mirror.blob(&one(), digest, None).await {
            Ok(served) => read_what_comes(served.value).await,
            Err(error) => (Vec::new(), Some(error)),
        };
        assert_eq!(first.1.is_some(), fails, "{:?}", first.1);
        assert!(!fails || first.0.len() < BLOB_BYTES);
        mirror.over().await;
        assert_eq!(mirror.store.faults().calls(StoreCall::Discard), 1);
        let served = mirror.blob(&one(), digest, None).await.unwrap();
        assert!(read(served.value).await.unwrap() == content);
        mirror.over().await;
        let served = mirror.blob(&one(), digest, None).await.unwrap();
        assert_eq!(served.status, CacheStatus::Hit);
    }
}

/// Some upstreams refuse ranges in ways that no registry may; what they have can be pulled still,
/// whatever is left of it here.
#[tokio::test(start_paused = true)]
async fn what_was_left_is_no_hindrance_where_ranges_are_refused() {
    let content = bytes(BLOB_BYTES);
    let refused = || {
        let what = "refuses a range without reason".to_owned();
        Act::Fail(UpstreamError::Protocol { what })
    };
    let elsewhere = || {
        let body = BodyScript {
            start: 1,
            ..BodyScript::new(
                Some(BLOB_BYTES as u64),
                vec![Piece::Bytes(content.slice(1..))],
            )
        };
        Act::Body(body)
    };
    for kept in [1000, 3 << 20, BLOB_BYTES] {
        for act in [refused(), elsewhere()] {
            let mirror = Mirror::new();
            let digest = mirror.one.add_blob(&repository(), content.clone());
            leave(&mirror, digest, content.slice(..kept)).await;
            mirror.one.always(Call::BlobPart, act);
            let served = mirror.blob(&one(), digest, None).await.unwrap();
            assert!(read(served.value).await.unwrap() == content, "{kept}");
            mirror.over().await;
            let requests = mirror.one.blob_requests();
            let ranges: Vec<_> = requests.iter().map(|request| request.range).collect();
            assert_eq!(ranges, [from(kept as u64), None]);
            let served = mirror.blob(&one(), digest, None).await.unwrap();
            assert_eq!(served.status, CacheStatus::Hit);
        }
    }
}

/// What cannot be read back would fail every further fill of the blob.
#[tokio::test(start_paused = true)]
async fn what_was_left_and_cannot_be_read_is_thrown_away() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    leave(&mirror, digest, content.slice(..1 << 20)).await;
    let faults = mirror.store.faults();
    faults.fail_always(StoreCall::ReadAt, Fault::Io);
    if let Ok(served) = mirror.blob(&one(), digest, None).await {
        read_what_comes(served.value).await;
    }
    mirror.over().await;
    faults.heal();
    assert_eq!(faults.calls(StoreCall::Discard), 1);
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    assert!(read(served.value).await.unwrap() == content);
    let last = mirror.one.blob_requests().pop().unwrap();
    assert_eq!(last.range, None);
}

/// A store that is slow says nothing of what it holds.
#[tokio::test(start_paused = true)]
async fn what_was_left_and_is_not_read_in_time_stays() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    leave(&mirror, digest, content.slice(..1 << 20)).await;
    let faults = mirror.store.faults();
    faults.stall(StoreCall::ReadAt);
    if let Ok(served) = mirror.blob(&one(), digest, None).await {
        read_what_comes(served.value).await;
    }
    mirror.over().await;
    faults.heal();
    assert_eq!(faults.calls(StoreCall::Discard), 0);
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    assert!(read(served.value).await.unwrap() == content);
    let last = mirror.one.blob_requests().pop().unwrap();
    assert_eq!(last.range, from(1 << 20));
}

/// A blob whose parts did not make up the whole is taken at once, so that an upstream whose ranges
/// are wrong is one that can be pulled from.
#[tokio::test(start_paused = true)]
async fn an_upstream_whose_ranges_are_wrong_is_taken_at_its_first_word() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let (cut_at, rest) = (1 << 20, BLOB_BYTES - (1 << 20));
    let wrong = BodyScript {
        start: cut_at as u64,
        ..BodyScript::new(
            Some(BLOB_BYTES as u64),
            vec![Piece::Bytes(content.slice(..rest))],
        )
    };
    mirror.one.always(Call::BlobPart, Act::Body(wrong));
    // Cut once more, it is not put together from parts.
    for is_first in [true, false] {
        let gate = Gate::new();
        let cut = cut_when_seen(&gate, cut_at as u64, unavailable());
        mirror.one.once(Call::Blob, Act::Content(cut));
        let served = mirror.blob(&one(), digest, None).await.unwrap();
        gate.open();
        let (_, error) = read_what_comes(served.value).await;
        assert_eq!(
            matches!(error, Some(CacheError::Mismatch(_))),
            is_first,
            "{error:?}"
        );
        assert!(error.is_some());
        mirror.over().await;
    }
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    assert!(read(served.value).await.unwrap() == content);
    let ranged = mirror.one.blob_requests();
    let ranged = ranged.iter().filter(|request| request.range.is_some());
    assert_eq!(ranged.count(), 1);
}

/// The end of the cache keeps what came.
#[tokio::test(start_paused = true)]
async fn closing_leaves_what_came_to_the_next_process() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let came = 3_000_000;
    let script = ContentScript {
        before: vec![(came, Piece::Hang)],
        ..ContentScript::default()
    };
    mirror.one.once(Call::Blob, Act::Content(script));
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    mirror.cache.close(Duration::from_secs(5)).await;
    let (received, error) = read_what_comes(served.value).await;
    assert!(matches!(error, Some(CacheError::Lost)), "{error:?}");
    assert!(received == content[..came as usize]);
    let sink = mirror.store.stage(digest, None).await.unwrap();
    assert_eq!(sink.kept(), came);
    assert!(mirror.store.faults().calls(StoreCall::Checkpoint) > 0);
    assert_eq!(mirror.store.faults().calls(StoreCall::Discard), 0);
}

/// A hasher goes with the bytes: the digest of what was left is that of the algorithm asked for.
#[tokio::test(start_paused = true)]
async fn what_was_left_is_hashed_as_it_is_asked_for() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = Hasher::digest_of(registry_core::Algorithm::Sha512, &content);
    leave(&mirror, digest, content.slice(..1000)).await;
    let rest = BodyScript {
        start: 1000,
        ..BodyScript::new(
            Some(BLOB_BYTES as u64),
            vec![Piece::Bytes(content.slice(1000..))],
        )
    };
    mirror.one.once(Call::BlobPart, Act::Body(rest));
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    assert!(read(served.value).await.unwrap() == content);
}
