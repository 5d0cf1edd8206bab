//! Whatever breaks in the store, clients still get what they ask for, and never wrong bytes.

use registry_core::cache::BypassReason;
use registry_core::testing::{Act, BodyScript, Call, Fault, Piece, StoreCall};
use registry_core::{
    CacheError, CacheStatus, Caller, Limits, RangeRequest, TagStore as _, UpstreamPolicy,
};

use crate::support::{
    Mirror, bytes, image, one, push, read, read_what_comes, repository, tag, unavailable,
};

const BLOB_BYTES: usize = 1 << 20;

const FAILING: CacheStatus = CacheStatus::Bypass(BypassReason::StoreFailing);

#[tokio::test]
async fn every_pull_works_whichever_call_of_the_store_fails() {
    for call in [
        StoreCall::Stat,
        StoreCall::Open,
        StoreCall::Stage,
        StoreCall::Commit,
        StoreCall::Manifest,
        StoreCall::PutManifest,
        StoreCall::Tag,
        StoreCall::PutTag,
        StoreCall::Linked,
        StoreCall::Link,
    ] {
        for fault in [Fault::NoSpace, Fault::Io] {
            let mirror = Mirror::new();
            let content = bytes(BLOB_BYTES);
            let digest = mirror.one.add_blob(&repository(), content.clone());
            let manifest = image("a", &[(digest, BLOB_BYTES)]);
            mirror.one.add_manifest(&repository(), manifest.clone());
            mirror
                .one
                .set_tag(&repository(), &tag("latest"), manifest.digest());
            mirror.store.faults().fail_always(call, fault);
            for _ in 0..2 {
                let served = mirror.get("latest").await.unwrap();
                assert_eq!(served.value, manifest, "{call:?}");
                let served = mirror.get(&manifest.digest().to_string()).await.unwrap();
                assert_eq!(served.value, manifest, "{call:?}");
                let size = mirror
                    .cache
                    .stat_blob(&one(), digest, &Caller::Anonymous)
                    .await;
                assert_eq!(size.unwrap().value, BLOB_BYTES as u64, "{call:?}");
                let served = mirror.blob(&one(), digest, None).await.unwrap();
                assert!(read(served.value).await.unwrap() == content, "{call:?}");
                let range = Some(RangeRequest::FromTo {
                    first: 10,
                    last: 19,
                });
                let served = mirror.blob(&one(), digest, range).await.unwrap();
                assert_eq!(
                    read(served.value).await.unwrap(),
                    content[10..20],
                    "{call:?}"
                );
                mirror.idle().await;
            }
            assert!(
                mirror.cache.store_failures() > 0,
                "{call:?} was never called"
            );
        }
    }
}

/// I8: a store that never answers costs its limit, and then is one that fails.
#[tokio::test(start_paused = true)]
async fn every_pull_works_whichever_call_of_the_store_never_returns() {
    for call in [
        StoreCall::Stat,
        StoreCall::Open,
        StoreCall::Stage,
        StoreCall::Append,
        StoreCall::Commit,
        StoreCall::Manifest,
        StoreCall::PutManifest,
        StoreCall::Tag,
        StoreCall::PutTag,
        StoreCall::Linked,
        StoreCall::Link,
    ] {
        let mirror = Mirror::new();
        let content = bytes(BLOB_BYTES);
        let digest = mirror.one.add_blob(&repository(), content.clone());
        let manifest = image("a", &[(digest, BLOB_BYTES)]);
        mirror.one.add_manifest(&repository(), manifest.clone());
        mirror
            .one
            .set_tag(&repository(), &tag("latest"), manifest.digest());
        mirror.store.faults().stall(call);
        let started = tokio::time::Instant::now();
        for _ in 0..2 {
            let served = mirror.get("latest").await.unwrap();
            assert_eq!(served.value, manifest, "{call:?}");
            let size = mirror
                .cache
                .stat_blob(&one(), digest, &Caller::Anonymous)
                .await;
            assert_eq!(size.unwrap().value, BLOB_BYTES as u64, "{call:?}");
            let served = mirror.blob(&one(), digest, None).await.unwrap();
            assert!(read(served.value).await.unwrap() == content, "{call:?}");
        }
        // Each way asks the store a few times.
        let limit = mirror.cache.limits().store_wait_max * 20;
        assert!(started.elapsed() < limit, "{call:?}");
        while mirror.cache.fills_active() > 0 {
            tokio::time::sleep(mirror.cache.limits().store_wait_max).await;
        }
        assert!(mirror.cache.store_failures() > 0, "{call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_spool_that_cannot_be_read_ends_a_body_within_a_limit() {
    let mirror = Mirror::new();
    let digest = mirror.one.add_blob(&repository(), bytes(BLOB_BYTES));
    mirror.store.faults().stall(StoreCall::ReadAt);
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    let (received, error) = read_what_comes(served.value).await;
    assert!(matches!(error, Some(CacheError::Store(_))), "{error:?}");
    assert_eq!(received.len(), 0);
}

#[tokio::test]
async fn a_tag_is_not_recorded_without_its_manifest() {
    let mirror = Mirror::new();
    push(&mirror.one, "a", "latest");
    mirror
        .store
        .faults()
        .fail_always(StoreCall::PutManifest, Fault::NoSpace);
    assert_eq!(mirror.get("latest").await.unwrap().status, FAILING);
    let recorded = mirror.store.tag(&one(), &tag("latest")).await.unwrap();
    assert_eq!(recorded, None);
}

/// What passes through is bounded, held to the size that is known, and its absence remembered.
#[tokio::test(start_paused = true)]
async fn passing_through_keeps_the_rules() {
    let limits = Limits {
        bypasses_max: 0,
        ..Limits::default()
    };
    let mirror = Mirror::with(UpstreamPolicy::default(), limits);
    let faults = mirror.store.faults();
    faults.fail_always(StoreCall::Stage, Fault::NoSpace);
    let digest = mirror.one.add_blob(&repository(), bytes(100));
    let refused = mirror.blob(&one(), digest, None).await;
    assert!(
        matches!(refused, Err(CacheError::Overloaded)),
        "{refused:?}"
    );

    let mirror = Mirror::new();
    let faults = mirror.store.faults();
    faults.fail_always(StoreCall::Open, Fault::Io);
    mirror.one.add_blob(&repository(), bytes(100));
    let manifest = image("a", &[(digest, 99)]);
    mirror.one.add_manifest(&repository(), manifest.clone());
    mirror.get(&manifest.digest().to_string()).await.unwrap();
    let refused = mirror.blob(&one(), digest, None).await;
    assert!(
        matches!(refused, Err(CacheError::Length { .. })),
        "{refused:?}"
    );

    let mirror = Mirror::new();
    let faults = mirror.store.faults();
    faults.fail_always(StoreCall::Stage, Fault::NoSpace);
    for _ in 0..2 {
        let missing = mirror.blob(&one(), digest, None).await;
        assert!(matches!(missing, Err(CacheError::NotFound)), "{missing:?}");
    }
    assert_eq!(mirror.one.calls().blob, 1);
}

/// The client has its bytes before the store is done with them, and whoever comes meanwhile reads
/// the spool.
#[tokio::test]
async fn a_commit_keeps_nobody_waiting() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    mirror.store.faults().stall(StoreCall::Commit);
    for status in [CacheStatus::Miss, CacheStatus::Follow] {
        let served = mirror.blob(&one(), digest, None).await.unwrap();
        assert_eq!(served.status, status);
        assert!(read(served.value).await.unwrap() == content);
    }
    mirror.store.faults().release(StoreCall::Commit);
    mirror.idle().await;
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    assert_eq!(served.status, CacheStatus::Hit);
    assert_eq!(mirror.one.calls().blob, 1);
}

#[tokio::test]
async fn empty_pieces_are_no_bytes() {
    let content = bytes(100);
    let mut pieces = vec![Piece::Bytes(content.clone())];
    pieces.extend((0..200_000).map(|_| Piece::Bytes(bytes(0))));
    let mirror = Mirror::new();
    let digest = mirror.one.add_blob(&repository(), content.clone());
    mirror
        .store
        .faults()
        .fail_always(StoreCall::Stage, Fault::NoSpace);
    let script = BodyScript::new(Some(100), pieces);
    mirror.one.always(Call::Blob, Act::Body(script));
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    assert!(read(served.value).await.unwrap() == content);

    // An upstream that fails before its first byte is an error with a status.
    let mirror = Mirror::new();
    let pieces = vec![Piece::Bytes(bytes(0)), Piece::Fail(unavailable())];
    let script = BodyScript::new(Some(BLOB_BYTES as u64), pieces);
    mirror.one.always(Call::Blob, Act::Body(script));
    let error = mirror.blob(&one(), digest, None).await.unwrap_err();
    assert!(matches!(error, CacheError::Upstream(_)), "{error:?}");
}

#[tokio::test]
async fn a_full_disk_makes_a_proxy_and_room_makes_a_cache_again() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    mirror
        .store
        .faults()
        .fail_always(StoreCall::Stage, Fault::NoSpace);
    for _ in 0..2 {
        let served = mirror.blob(&one(), digest, None).await.unwrap();
        assert_eq!(served.status, FAILING);
        assert!(read(served.value).await.unwrap() == content);
    }
    assert_eq!(
        mirror.one.calls().blob,
        2,
        "one request for each client, and none in vain"
    );
    mirror.store.faults().heal();
    for status in [CacheStatus::Miss, CacheStatus::Hit] {
        let served = mirror.blob(&one(), digest, None).await.unwrap();
        assert_eq!(served.status, status);
        assert!(read(served.value).await.unwrap() == content);
        mirror.idle().await;
    }
}

/// What is not stored is verified all the same (I2).
#[tokio::test]
async fn passing_through_never_ends_well_with_wrong_bytes() {
    for len in [BLOB_BYTES, 100, 1, 0] {
        let content = bytes(len);
        let mut wrong = content.to_vec();
        match wrong.last_mut() {
            Some(last) => *last ^= 1,
            None => wrong.push(7),
        }
        let short = content.slice(..len.saturating_sub(1));
        let mut long = content.to_vec();
        long.push(7);
        let size = Some(len as u64);
        for (name, sent) in [
            ("wrong", wrong.into()),
            ("short", short),
            ("long", long.into()),
        ] {
            if sent == content {
                continue;
            }
            let mirror = Mirror::new();
            let digest = mirror.one.add_blob(&repository(), content.clone());
            mirror
                .store
                .faults()
                .fail_always(StoreCall::Stage, Fault::NoSpace);
            let script = BodyScript::new(size, vec![Piece::Bytes(sent)]);
            mirror.one.always(Call::Blob, Act::Body(script));
            let Ok(served) = mirror.blob(&one(), digest, None).await else {
                continue;
            };
            let (received, error) = read_what_comes(served.value).await;
            assert!(error.is_some(), "{name} of {len}: a clean end");
            assert!(
                received.len() < len || len == 0,
                "{name} of {len}: a whole body"
            );
        }
    }
}

#[tokio::test]
async fn a_store_that_fails_under_a_fill_ends_it_short_and_the_next_pull_works() {
    let limits = Limits {
        batch_pieces_max: 1,
        ..Limits::default()
    };
    let mirror = Mirror::with(UpstreamPolicy::default(), limits);
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    mirror
        .store
        .faults()
        .fail_nth(StoreCall::Append, 4, Fault::NoSpace);
    match mirror.blob(&one(), digest, None).await {
        Ok(served) if served.status == FAILING => {
            assert!(read(served.value).await.unwrap() == content);
        }
        Ok(served) => {
            let (received, error) = read_what_comes(served.value).await;
            assert!(matches!(error, Some(CacheError::Store(_))), "{error:?}");
            assert_eq!(received, content[..received.len()]);
            assert!(received.len() < BLOB_BYTES);
        }
        Err(error) => panic!("{error}"),
    }
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    assert!(read(served.value).await.unwrap() == content);
}

#[tokio::test]
async fn a_commit_that_fails_costs_the_client_nothing() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    mirror
        .store
        .faults()
        .fail_nth(StoreCall::Commit, 1, Fault::Io);
    for status in [CacheStatus::Miss, CacheStatus::Miss, CacheStatus::Hit] {
        let served = mirror.blob(&one(), digest, None).await.unwrap();
        assert_eq!(served.status, status);
        assert!(read(served.value).await.unwrap() == content);
        mirror.idle().await;
    }
}
