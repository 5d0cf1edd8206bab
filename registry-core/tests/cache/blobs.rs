//! Blobs: one fill for many, lies and cuts, ranges, access, a failing store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt as _, TryStreamExt as _};
use registry_core::cache::BypassReason;
use registry_core::testing::{Act, BodyScript, Call, Calls, ContentScript, Gate, Piece, StoreCall};
use registry_core::{
    BlobPayload, BlobStore as _, ByteRange, CacheError, CacheStatus, Caller, Digest, Hasher,
    Limits, RangeRequest, UpstreamError, UpstreamPolicy,
};

use crate::support::{
    Mirror, bytes, hold, image, one, origin, read, read_what_comes, repository, tag, two,
    unavailable,
};

const BLOB_BYTES: usize = 1 << 20;

/// As much as has come is hashed and written at a time, and no byte waits for others to come.
#[tokio::test(start_paused = true)]
async fn what_has_come_by_then_is_written_at_once() {
    let mirror = Mirror::new();
    let batch = usize::try_from(Limits::default().batch_bytes_max).unwrap();
    let content = bytes(batch);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let gate = Gate::new();
    let script = ContentScript::held_after(10, &gate);
    mirror.one.once(Call::Blob, Act::Content(script));
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    let BlobPayload::Stream(mut stream) = served.value.payload else {
        panic!("a store in memory has no files")
    };
    let first = stream.try_next().await.unwrap().unwrap();
    assert_eq!(first, content[..10], "nobody waits for more of them");
    let writes = || mirror.store.faults().calls(StoreCall::Append);
    assert_eq!(writes(), 1);
    gate.open();
    let rest: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert_eq!(rest.concat(), content[10..]);
    assert_eq!(writes(), 2, "all of the rest was there");
}

#[tokio::test]
async fn the_first_pull_misses_and_the_second_asks_nobody() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    assert_eq!(served.status, CacheStatus::Miss);
    assert_eq!(served.value.size, BLOB_BYTES as u64);
    assert_eq!(read(served.value).await.unwrap(), content);
    mirror.idle().await;
    mirror.one.set_down(Some(unavailable()));
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    assert_eq!(served.status, CacheStatus::Hit);
    assert_eq!(read(served.value).await.unwrap(), content);
    let calls = Calls {
        blob: 1,
        blob_bytes: BLOB_BYTES as u64,
        ..Calls::default()
    };
    assert_eq!(mirror.one.calls(), calls);
}

/// 64 clients of one cold blob: one request, and bytes flow before the body has ended.
#[tokio::test]
async fn many_clients_share_one_fill_that_flows() {
    let mirror = Arc::new(Mirror::new());
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let gate = Gate::new();
    let first = content.slice(..64 << 10);
    let rest = content.slice(64 << 10..);
    let pieces = vec![
        Piece::Bytes(first.clone()),
        Piece::Wait(gate.clone()),
        Piece::Bytes(rest),
    ];
    let script = BodyScript::new(Some(content.len() as u64), pieces);
    mirror.one.once(Call::Blob, Act::Body(script));

    let begun = join_all((0..64).map(|_| async {
        let served = mirror.blob(&one(), digest, None).await.unwrap();
        let BlobPayload::Stream(mut stream) = served.value.payload else {
            panic!("a stream")
        };
        let mut received = Vec::new();
        while received.len() < first.len() {
            received.extend_from_slice(&stream.next().await.unwrap().unwrap());
        }
        (served.status, received, stream)
    }))
    .await;
    let misses = begun
        .iter()
        .filter(|(status, ..)| *status == CacheStatus::Miss)
        .count();
    assert_eq!(misses, 1, "one leads, the others follow");
    gate.open();
    for (_, mut received, mut stream) in begun {
        while let Some(chunk) = stream.next().await {
            received.extend_from_slice(&chunk.unwrap());
        }
        assert!(received == content, "a client got other bytes");
    }
    assert_eq!(
        (mirror.one.calls().blob, mirror.one.calls().blob_bytes),
        (1, BLOB_BYTES as u64)
    );
}

#[tokio::test]
async fn whoever_began_a_fill_may_leave_and_so_may_all() {
    for followers in [0, 3] {
        let mirror = Mirror::new();
        let content = bytes(BLOB_BYTES);
        let digest = mirror.one.add_blob(&repository(), content.clone());
        let gate = hold(&mirror.one, &content, 1000);
        let leader = mirror.blob(&one(), digest, None).await.unwrap();
        let mut following = Vec::new();
        for _ in 0..followers {
            following.push(mirror.blob(&one(), digest, None).await.unwrap().value);
        }
        drop(leader);
        gate.open();
        for body in following {
            assert!(read(body).await.unwrap() == content);
        }
        mirror.idle().await;
        let served = mirror.blob(&one(), digest, None).await.unwrap();
        assert_eq!(served.status, CacheStatus::Hit);
        assert!(read(served.value).await.unwrap() == content);
        assert_eq!(mirror.one.calls().blob, 1);
    }
}

/// What an upstream sends that is not the blob.
fn lies(content: &Bytes) -> Vec<(&'static str, BodyScript)> {
    let size = content.len() as u64;
    let right = |range| Piece::Bytes(content.slice(range));
    let half = content.len() / 2;
    let mut wrong = content.to_vec();
    wrong[half] ^= 1;
    let mut last = content.to_vec();
    *last.last_mut().unwrap() ^= 1;
    let whole = || right(0..content.len());
    let script = |size, pieces| BodyScript::new(size, pieces);
    vec![
        (
            "wrong bytes",
            script(Some(size), vec![Piece::Bytes(wrong.clone().into())]),
        ),
        (
            "a wrong last byte",
            script(Some(size), vec![Piece::Bytes(last.into())]),
        ),
        ("too few", script(Some(size), vec![right(0..half)])),
        (
            "all but one",
            script(Some(size), vec![right(0..content.len() - 1)]),
        ),
        ("none", script(Some(size), vec![])),
        (
            "too many",
            script(
                Some(size),
                vec![whole(), Piece::Bytes(Bytes::from_static(b"x"))],
            ),
        ),
        (
            "too many, said so",
            script(
                Some(size + 1),
                vec![whole(), Piece::Bytes(Bytes::from_static(b"x"))],
            ),
        ),
        (
            "too few, said so",
            script(Some(size - 1), vec![right(0..content.len() - 1)]),
        ),
        ("no length, too few", script(None, vec![right(0..half)])),
        (
            "no length, wrong bytes",
            script(None, vec![Piece::Bytes(wrong.into())]),
        ),
        (
            "a wrong start",
            BodyScript {
                size: Some(size),
                start: 7,
                pieces: vec![whole()],
            },
        ),
        (
            "a cut",
            script(Some(size), vec![right(0..half), Piece::Fail(unavailable())]),
        ),
    ]
}

/// No client ever ends with a whole wrong body or a clean short one, nothing wrong is stored, and
/// the next pull from a healthy upstream works (I1, I2).
#[tokio::test(start_paused = true)]
async fn lies_and_cuts_never_end_well_and_leave_nothing() {
    for len in [BLOB_BYTES, 100] {
        let content = bytes(len);
        for (name, script) in lies(&content) {
            for known_size in [false, true] {
                let mirror = Mirror::new();
                let digest = mirror.one.add_blob(&repository(), content.clone());
                if known_size {
                    let manifest = image("a", &[(digest, len)]);
                    mirror
                        .one
                        .set_tag(&repository(), &tag("latest"), manifest.digest());
                    mirror.one.add_manifest(&repository(), manifest);
                    mirror.get("latest").await.unwrap();
                }
                mirror.one.always(Call::Blob, Act::Body(script.clone()));
                let one = one();
                let clients = join_all((0..3).map(|_| mirror.blob(&one, digest, None))).await;
                for client in clients {
                    let Ok(served) = client else { continue };
                    let promised = served.value.range.len();
                    let (received, error) = read_what_comes(served.value).await;
                    assert!(error.is_some(), "{name} of {len}: a clean end");
                    assert!(
                        (received.len() as u64) < promised,
                        "{name} of {len}: a whole body"
                    );
                }
                mirror.idle().await;
                assert_eq!(
                    mirror.store.stat(digest).await.unwrap(),
                    None,
                    "{name} of {len}"
                );
                let whole = Piece::Bytes(content.clone());
                let script = BodyScript::new(Some(len as u64), vec![whole]);
                mirror.one.always(Call::Blob, Act::Body(script));
                let served = mirror.blob(&one, digest, None).await.unwrap();
                assert!(
                    read(served.value).await.unwrap() == content,
                    "{name} of {len}"
                );
            }
        }
    }
}

/// A fill that dies is begun again by who waits for it (I7); who has bytes of it already is cut.
#[tokio::test]
async fn a_fill_that_panics_is_begun_again() {
    let content = bytes(BLOB_BYTES);
    let size = Some(BLOB_BYTES as u64);
    let mirror = Mirror::new();
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let at_once = BodyScript::new(size, vec![Piece::Panic]);
    mirror.one.once(Call::Blob, Act::Body(at_once));
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    assert!(read(served.value).await.unwrap() == content);
    assert_eq!(mirror.one.calls().blob, 2);

    let mirror = Mirror::new();
    mirror.one.add_blob(&repository(), content.clone());
    let gate = Gate::new();
    let first = Piece::Bytes(content.slice(..1000));
    let pieces = vec![first, Piece::Wait(gate.clone()), Piece::Panic];
    mirror
        .one
        .once(Call::Blob, Act::Body(BodyScript::new(size, pieces)));
    let cut = mirror.blob(&one(), digest, None).await.unwrap();
    gate.open();
    let (received, error) = read_what_comes(cut.value).await;
    assert!(matches!(error, Some(CacheError::Lost)), "{error:?}");
    assert_eq!(received, content[..received.len()]);
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    assert!(read(served.value).await.unwrap() == content);
}

#[tokio::test]
async fn what_fits_into_the_held_back_tail_fails_with_a_status() {
    let mirror = Mirror::new();
    let content = bytes(100);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let script = BodyScript::new(Some(100), vec![Piece::Bytes(bytes(101).slice(1..))]);
    mirror.one.once(Call::Blob, Act::Body(script));
    let error = mirror.blob(&one(), digest, None).await.unwrap_err();
    assert!(matches!(error, CacheError::Mismatch(_)), "{error:?}");
}

#[tokio::test]
async fn a_blob_without_a_length_is_served_once_its_length_is_known() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let script = BodyScript::new(None, vec![Piece::Bytes(content.clone())]);
    mirror.one.once(Call::Blob, Act::Body(script));
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    assert_eq!(served.value.size, BLOB_BYTES as u64);
    assert!(read(served.value).await.unwrap() == content);
}

#[tokio::test]
async fn an_empty_blob_is_verified_too() {
    let mirror = Mirror::new();
    let digest = mirror.one.add_blob(&repository(), Bytes::new());
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    assert_eq!(
        (served.value.size, read(served.value).await.unwrap().len()),
        (0, 0)
    );
    let other = mirror.one.add_blob(&repository(), bytes(10));
    mirror
        .one
        .once(Call::Blob, Act::Body(BodyScript::new(Some(0), vec![])));
    mirror.blob(&one(), other, None).await.unwrap_err();
}

#[tokio::test]
async fn sha512_is_verified_by_its_own_hash() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = Hasher::digest_of(registry_core::Algorithm::Sha512, &content);
    for wrong in [true, false] {
        let sent = if wrong {
            bytes(BLOB_BYTES + 1).slice(1..)
        } else {
            content.clone()
        };
        let script = BodyScript::new(Some(sent.len() as u64), vec![Piece::Bytes(sent)]);
        mirror.one.once(Call::Blob, Act::Body(script));
        // A fill that has failed before its first byte was read answers with an error at once.
        let received = match mirror.blob(&one(), digest, None).await {
            Ok(served) => read_what_comes(served.value).await.0,
            Err(error) => {
                assert!(matches!(error, CacheError::Mismatch(_)), "{error:?}");
                Vec::new()
            }
        };
        assert_eq!(received == content, !wrong);
        mirror.idle().await;
    }
}

/// A slow client of a fill that was cut for good gets all that had come, and resumes after it.
#[tokio::test(start_paused = true)]
async fn a_cut_takes_nothing_back() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let gate = Gate::new();
    let half = BLOB_BYTES / 2;
    let first = Piece::Bytes(content.slice(..half));
    let pieces = vec![first, Piece::Wait(gate.clone()), Piece::Fail(unavailable())];
    let script = BodyScript::new(Some(BLOB_BYTES as u64), pieces);
    mirror.one.once(Call::Blob, Act::Body(script));
    mirror.one.always(Call::BlobPart, Act::Fail(unavailable()));
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    gate.open();
    mirror.over().await;
    let (received, error) = read_what_comes(served.value).await;
    assert!(matches!(error, Some(CacheError::Upstream(_))), "{error:?}");
    assert!(received == content[..half]);
    let resumes = Limits::default().resumes_max as usize;
    assert_eq!(mirror.one.calls().blob, 1 + resumes);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_ends_within_its_limit() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let stalls = ContentScript {
        before: vec![(1000, Piece::Hang)],
        ..ContentScript::default()
    };
    // Every body brings a little, and then no more.
    mirror.one.always(Call::Blob, Act::Content(stalls));
    let started = tokio::time::Instant::now();
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    let (received, error) = read_what_comes(served.value).await;
    assert!(matches!(
        error,
        Some(CacheError::Upstream(UpstreamError::Timeout { .. }))
    ));
    // The first body, and those that were begun while there was patience left.
    let limits = Limits::default();
    assert_eq!(received.len(), 3 * 1000);
    let most = limits.resume_time_max + 2 * limits.body_idle_max + limits.resume_delay_max;
    assert!(started.elapsed() < most, "{:?}", started.elapsed());
    mirror.one.once(Call::Blob, Act::Hang);
    let started = tokio::time::Instant::now();
    mirror.blob(&one(), digest, None).await.unwrap_err();
    assert_eq!(started.elapsed(), Limits::default().upstream_wait_max);
}

#[tokio::test]
async fn not_found_is_remembered_by_origin() {
    let mirror = Mirror::new();
    let digest = mirror.two.add_blob(&repository(), bytes(10));
    for _ in 0..3 {
        let missing = mirror.blob(&one(), digest, None).await;
        assert!(matches!(missing, Err(CacheError::NotFound)), "{missing:?}");
    }
    assert_eq!(mirror.one.calls().total(), 1);
    mirror.blob(&two(), digest, None).await.unwrap();
}

/// I5: what is cached from one origin is 404 in another that does not have it, and costs one HEAD
/// and no download in another that does.
#[tokio::test]
async fn a_cached_blob_is_served_only_where_the_upstream_has_it() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    read(mirror.blob(&one(), digest, None).await.unwrap().value)
        .await
        .unwrap();
    mirror.idle().await;
    for elsewhere in [two(), origin("one.example", "library/other")] {
        let denied = mirror.blob(&elsewhere, digest, None).await;
        assert!(matches!(denied, Err(CacheError::NotFound)), "{denied:?}");
        let denied = mirror
            .cache
            .stat_blob(&elsewhere, digest, &Caller::Anonymous)
            .await;
        assert!(matches!(denied, Err(CacheError::NotFound)), "{denied:?}");
    }
    assert_eq!(
        mirror.two.calls(),
        Calls {
            stat_blob: 1,
            ..Calls::default()
        }
    );
    mirror.clock.advance(Limits::default().negative_ttl);
    mirror.two.add_blob(&repository(), content.clone());
    let served = mirror.blob(&two(), digest, None).await.unwrap();
    assert_eq!(served.status, CacheStatus::Revalidated);
    assert!(read(served.value).await.unwrap() == content);
    assert_eq!(
        mirror.two.calls(),
        Calls {
            stat_blob: 2,
            ..Calls::default()
        }
    );
    assert_eq!(
        mirror.blob(&two(), digest, None).await.unwrap().status,
        CacheStatus::Hit
    );
    assert_eq!(mirror.two.calls().total(), 2);
}

#[tokio::test]
async fn joining_a_fill_of_another_origin_takes_proof_of_access() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let gate = hold(&mirror.one, &content, 1000);
    let leader = mirror.blob(&one(), digest, None).await.unwrap();

    let denied = mirror.blob(&two(), digest, None).await;
    assert!(matches!(denied, Err(CacheError::NotFound)), "{denied:?}");
    mirror.two.add_blob(&repository(), content.clone());
    mirror.clock.advance(Limits::default().negative_ttl);
    let follower = mirror.blob(&two(), digest, None).await.unwrap();
    assert_eq!(follower.status, CacheStatus::Follow);
    gate.open();
    for served in [leader, follower] {
        assert!(read(served.value).await.unwrap() == content);
    }
    assert_eq!(
        mirror.two.calls(),
        Calls {
            stat_blob: 2,
            ..Calls::default()
        }
    );
}

/// I7: one upstream's failure is not another's: who followed begins anew with its own.
#[tokio::test]
async fn a_fill_that_fails_for_another_origin_is_begun_again() {
    let content = bytes(BLOB_BYTES);
    for end in [Piece::Fail(unavailable()), Piece::Panic] {
        let mirror = Mirror::new();
        let digest = mirror.two.add_blob(&repository(), content.clone());
        let gate = Gate::new();
        let pieces = vec![Piece::Wait(gate.clone()), end.clone()];
        mirror.one.once(
            Call::Blob,
            Act::Body(BodyScript::new(Some(BLOB_BYTES as u64), pieces)),
        );
        // The follower's proof of access is the last it waits for before it joins the fill.
        let (origins, proof) = ((one(), two()), Gate::new());
        mirror.two.once(Call::StatBlob, Act::Wait(proof.clone()));
        let leader = mirror.blob(&origins.0, digest, None);
        let follower = mirror.blob(&origins.1, digest, None);
        let release = async {
            while mirror.two.calls().stat_blob == 0 {
                tokio::task::yield_now().await;
            }
            proof.open();
            gate.open();
        };
        let (led, followed, ()) = tokio::join!(leader, follower, release);
        // The leader's own upstream has failed it; after a panic it began again, and it has none.
        assert!(led.is_err(), "{end:?}");
        assert!(
            read(followed.unwrap().value).await.unwrap() == content,
            "{end:?}"
        );
        assert_eq!(mirror.two.calls().blob, 1, "{end:?}");
    }
}

#[tokio::test]
async fn a_blob_that_a_manifest_names_needs_no_proof() {
    let mirror = Mirror::new();
    let content = bytes(1000);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    mirror.blob(&one(), digest, None).await.unwrap();
    mirror.idle().await;
    let manifest = image("a", &[(digest, 1000)]);
    mirror
        .two
        .set_tag(&repository(), &tag("latest"), manifest.digest());
    mirror.two.add_manifest(&repository(), manifest);
    mirror.get_from(&two(), "latest").await.unwrap();
    let served = mirror.blob(&two(), digest, None).await.unwrap();
    assert_eq!(served.status, CacheStatus::Hit);
    assert_eq!(
        (mirror.two.calls().stat_blob, mirror.two.calls().blob),
        (0, 0)
    );
}

#[tokio::test]
async fn head_asks_upstream_and_downloads_nothing() {
    let mirror = Mirror::new();
    let digest = mirror.one.add_blob(&repository(), bytes(1000));
    let (one, caller) = (one(), Caller::Anonymous);
    let stat = || mirror.cache.stat_blob(&one, digest, &caller);
    let cold = async { stat().await.map(|served| (served.value, served.status)) };
    assert_eq!(
        cold.await.unwrap(),
        (1000, CacheStatus::Bypass(BypassReason::Head))
    );
    assert_eq!(
        mirror.one.calls(),
        Calls {
            stat_blob: 1,
            ..Calls::default()
        }
    );
    mirror.blob(&one, digest, None).await.unwrap();
    mirror.idle().await;
    mirror.one.set_down(Some(unavailable()));
    let served = stat().await.unwrap();
    assert_eq!((served.value, served.status), (1000, CacheStatus::Hit));
    // Named by a manifest is not the same as there: HEAD and GET agree.
    let absent = Digest::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
    let missing = mirror.cache.stat_blob(&one, absent, &caller).await;
    assert!(
        matches!(missing, Err(CacheError::Upstream(_))),
        "{missing:?}"
    );
}

/// What a manifest names is asked for all the same where it is not here; a fill tells its size.
#[tokio::test]
async fn head_and_get_agree_on_what_a_manifest_names() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = Hasher::digest_of(registry_core::Algorithm::Sha256, &content);
    let manifest = image("a", &[(digest, BLOB_BYTES)]);
    mirror.one.add_manifest(&repository(), manifest.clone());
    mirror.get(&manifest.digest().to_string()).await.unwrap();
    let (origin, caller) = (one(), Caller::Anonymous);
    let missing = mirror.cache.stat_blob(&origin, digest, &caller).await;
    assert!(matches!(missing, Err(CacheError::NotFound)), "{missing:?}");
    mirror.clock.advance(Limits::default().negative_ttl);
    let gate = Gate::new();
    let pieces = vec![
        Piece::Bytes(content.slice(..1000)),
        Piece::Wait(gate.clone()),
        Piece::Bytes(content.slice(1000..)),
    ];
    let script = BodyScript::new(Some(BLOB_BYTES as u64), pieces);
    mirror.one.once(Call::Blob, Act::Body(script));
    let served = mirror.blob(&origin, digest, None).await.unwrap();
    let told = mirror.cache.stat_blob(&origin, digest, &caller).await;
    let told = told.unwrap();
    assert_eq!(
        (told.value, told.status),
        (BLOB_BYTES as u64, CacheStatus::Follow)
    );
    assert_eq!(mirror.one.calls().stat_blob, 1);
    gate.open();
    assert!(read(served.value).await.unwrap() == content);
}

#[tokio::test]
async fn a_manifest_and_an_upstream_that_disagree_on_a_size_are_an_error() {
    let mirror = Mirror::new();
    let digest = mirror.one.add_blob(&repository(), bytes(100));
    let manifest = image("a", &[(digest, 99)]);
    mirror.one.add_manifest(&repository(), manifest.clone());
    mirror.get(&manifest.digest().to_string()).await.unwrap();
    let error = mirror.blob(&one(), digest, None).await.unwrap_err();
    assert!(
        matches!(
            error,
            CacheError::Length {
                expected: 99,
                received: 100
            }
        ),
        "{error:?}"
    );
}

/// Where nothing can be sent before the digest is known, the answer waits for it.
#[tokio::test]
async fn an_answer_within_the_tail_waits_for_the_verdict() {
    let mirror = Mirror::new();
    let digest = mirror.one.add_blob(&repository(), bytes(100));
    let gate = Gate::new();
    let wrong = bytes(101).slice(1..);
    let pieces = vec![
        Piece::Bytes(wrong.slice(..50)),
        Piece::Wait(gate.clone()),
        Piece::Bytes(wrong.slice(50..)),
    ];
    let script = BodyScript::new(Some(100), pieces);
    mirror.one.once(Call::Blob, Act::Body(script));
    let origin = one();
    let mut client = Box::pin(mirror.blob(&origin, digest, None));
    for _ in 0..100 {
        assert!(futures::poll!(&mut client).is_pending());
        tokio::task::yield_now().await;
    }
    gate.open();
    let error = client.await.unwrap_err();
    assert!(matches!(error, CacheError::Mismatch(_)), "{error:?}");
}

/// Fills that die again and again are not begun for ever.
#[tokio::test]
async fn after_some_fills_that_die_a_client_is_served_past_them() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let attempts = Limits::default().follow_attempts_max;
    for _ in 0..attempts {
        let script = BodyScript::new(Some(BLOB_BYTES as u64), vec![Piece::Panic]);
        mirror.one.once(Call::Blob, Act::Body(script));
    }
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    let reason = BypassReason::FillsFailing;
    assert_eq!(served.status, CacheStatus::Bypass(reason));
    assert!(read(served.value).await.unwrap() == content);
    assert_eq!(mirror.one.calls().blob, attempts as usize + 1);
}

/// Where a fill is in too many pieces for another, a range passes through. One that an upstream
/// sends more of than was asked for ends where it was asked to, and one that it sends less of is
/// cut.
#[tokio::test]
async fn a_range_that_is_passed_through_has_its_length() {
    let content = bytes(BLOB_BYTES);
    let size = Some(BLOB_BYTES as u64);
    let range = RangeRequest::FromTo {
        first: 900_000,
        last: 900_099,
    };
    for (sent, is_whole) in [(900_000..901_000, true), (900_000..900_050, false)] {
        let limits = Limits {
            pieces_max: 1,
            ..small_steps()
        };
        let mirror = Mirror::with(UpstreamPolicy::default(), limits);
        let digest = mirror.one.add_blob(&repository(), content.clone());
        let gate = Gate::new();
        let pieces = vec![
            Piece::Bytes(content.slice(..1000)),
            Piece::Wait(gate.clone()),
            Piece::Bytes(content.slice(1000..)),
        ];
        let fill = BodyScript::new(size, pieces);
        let part = BodyScript {
            start: 900_000,
            ..BodyScript::new(size, vec![Piece::Bytes(content.slice(sent.clone()))])
        };
        mirror.one.once(Call::Blob, Act::Body(fill));
        mirror.one.once(Call::Blob, Act::Body(part));
        let _begun = mirror.blob(&one(), digest, None).await.unwrap();
        let served = mirror.blob(&one(), digest, Some(range)).await.unwrap();
        assert_eq!(served.status, CacheStatus::Bypass(BypassReason::RangeAhead));
        let (received, error) = read_what_comes(served.value).await;
        assert_eq!(received, content[sent.start..sent.end.min(900_100)]);
        assert_eq!(error.is_none(), is_whole, "{error:?}");
        gate.open();
    }
}

/// Where no request may pass through, the fill gets there in the end.
#[tokio::test(start_paused = true)]
async fn a_far_range_waits_for_the_fill_where_too_many_pass_through() {
    let limits = Limits {
        bypasses_max: 0,
        ..small_steps()
    };
    let mirror = Mirror::with(UpstreamPolicy::default(), limits);
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let range = RangeRequest::FromTo {
        first: 900_000,
        last: 900_099,
    };
    let served = mirror.blob(&one(), digest, Some(range)).await.unwrap();
    assert_eq!(served.status, CacheStatus::Miss);
    assert_eq!(read(served.value).await.unwrap(), content[900_000..900_100]);
}

#[tokio::test]
async fn ranges_of_a_stored_blob() {
    let mirror = Mirror::new();
    let content = bytes(1000);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    read(mirror.blob(&one(), digest, None).await.unwrap().value)
        .await
        .unwrap();
    mirror.idle().await;
    for (range, expected) in [
        (RangeRequest::FromTo { first: 0, last: 0 }, 0..1),
        (
            RangeRequest::FromTo {
                first: 10,
                last: 19,
            },
            10..20,
        ),
        (
            RangeRequest::FromTo {
                first: 990,
                last: 5000,
            },
            990..1000,
        ),
        (RangeRequest::From { first: 999 }, 999..1000),
        (RangeRequest::Suffix { length: 7 }, 993..1000),
        (RangeRequest::Suffix { length: 5000 }, 0..1000),
    ] {
        let served = mirror.blob(&one(), digest, Some(range)).await.unwrap();
        assert_eq!(served.value.size, 1000);
        assert_eq!(
            read(served.value).await.unwrap(),
            content[expected],
            "{range:?}"
        );
    }
    for range in [
        RangeRequest::From { first: 1000 },
        RangeRequest::Suffix { length: 0 },
    ] {
        let error = mirror.blob(&one(), digest, Some(range)).await.unwrap_err();
        assert!(
            matches!(error, CacheError::RangeNotSatisfiable { size: 1000 }),
            "{error:?}"
        );
    }
    assert_eq!(mirror.one.calls().blob, 1);
}

fn small_steps() -> Limits {
    Limits {
        range_ahead_bytes_max: 10_000,
        ..Limits::default()
    }
}

#[tokio::test]
async fn a_cold_range_near_the_start_comes_from_the_spool() {
    let mirror = Mirror::with(UpstreamPolicy::default(), small_steps());
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let range = RangeRequest::FromTo {
        first: 5_000,
        last: 14_999,
    };
    let served = mirror.blob(&one(), digest, Some(range)).await.unwrap();
    assert_eq!(served.status, CacheStatus::Miss);
    assert_eq!(served.value.range, ByteRange::new(5_000, 15_000).unwrap());
    assert_eq!(read(served.value).await.unwrap(), content[5_000..15_000]);
    mirror.idle().await;
    assert_eq!(mirror.one.calls().blob, 1);
}

#[tokio::test]
async fn a_cold_range_far_ahead_is_passed_through_while_the_fill_goes_on() {
    let suffix = RangeRequest::Suffix { length: 100 };
    let far = RangeRequest::FromTo {
        first: 900_000,
        last: 900_099,
    };
    for (range, known_size) in [(far, false), (far, true), (suffix, false), (suffix, true)] {
        let mirror = Mirror::with(UpstreamPolicy::default(), small_steps());
        let content = bytes(BLOB_BYTES);
        let digest = mirror.one.add_blob(&repository(), content.clone());
        if known_size {
            let manifest = image("a", &[(digest, BLOB_BYTES)]);
            mirror
                .one
                .set_tag(&repository(), &tag("latest"), manifest.digest());
            mirror.one.add_manifest(&repository(), manifest);
            mirror.get("latest").await.unwrap();
        }
        let gate = hold(&mirror.one, &content, 1000);
        // The fill has begun before the range is asked for, or the range would use the script.
        let begun = mirror.blob(&one(), digest, None).await.unwrap();
        let served = mirror.blob(&one(), digest, Some(range)).await.unwrap();
        assert_eq!(served.status, CacheStatus::Bypass(BypassReason::RangeAhead));
        let expected = range.resolve(BLOB_BYTES as u64).unwrap();
        assert_eq!(served.value.range, expected);
        let within =
            usize::try_from(expected.start()).unwrap()..usize::try_from(expected.end()).unwrap();
        assert_eq!(read(served.value).await.unwrap(), content[within]);
        gate.open();
        assert!(read(begun.value).await.unwrap() == content);
        assert_eq!(mirror.one.calls().blob, 2);
        assert_eq!(mirror.one.calls().blob_bytes, BLOB_BYTES as u64 + 100);
    }
}

#[tokio::test]
async fn a_far_range_of_an_upstream_without_ranges_waits_for_the_fill() {
    let mirror = Mirror::with(UpstreamPolicy::default(), small_steps());
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let whole = || BodyScript::new(Some(BLOB_BYTES as u64), vec![Piece::Bytes(content.clone())]);
    mirror.one.always(Call::Blob, Act::Body(whole()));
    let range = RangeRequest::FromTo {
        first: 900_000,
        last: 900_099,
    };
    let served = mirror.blob(&one(), digest, Some(range)).await.unwrap();
    assert_eq!(served.status, CacheStatus::Miss);
    assert_eq!(read(served.value).await.unwrap(), content[900_000..900_100]);
}

#[tokio::test]
async fn a_closed_cache_serves_what_it_has_and_begins_nothing() {
    let mirror = Mirror::new();
    let kept = mirror.one.add_blob(&repository(), bytes(10));
    let other = mirror.one.add_blob(&repository(), bytes(20));
    read(mirror.blob(&one(), kept, None).await.unwrap().value)
        .await
        .unwrap();
    mirror.cache.close(Duration::from_secs(1)).await;
    mirror.blob(&one(), kept, None).await.unwrap();
    let closed = mirror.blob(&one(), other, None).await;
    assert!(matches!(closed, Err(CacheError::Closed)), "{closed:?}");
}

#[tokio::test(start_paused = true)]
async fn closing_ends_a_fill_that_does_not_end_by_itself() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let pieces = vec![Piece::Bytes(content.slice(..1000)), Piece::Hang];
    mirror.one.once(
        Call::Blob,
        Act::Body(BodyScript::new(Some(BLOB_BYTES as u64), pieces)),
    );
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    let started = tokio::time::Instant::now();
    mirror.cache.close(Duration::from_secs(5)).await;
    assert_eq!(started.elapsed(), Duration::from_secs(5));
    let (_, error) = read_what_comes(served.value).await;
    assert!(matches!(error, Some(CacheError::Lost)), "{error:?}");
    assert_eq!(mirror.cache.fills_active(), 0);
}
