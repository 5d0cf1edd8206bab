//! Whatever breaks in the store, clients still get what they ask for, and never wrong bytes.

use registry_core::cache::BypassReason;
use registry_core::testing::{Act, BodyScript, Call, Fault, Piece, StoreCall};
use registry_core::{CacheError, CacheStatus, Caller, RangeRequest};

use crate::support::{Mirror, bytes, image, one, read, read_what_comes, repository, tag};

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
    let mirror = Mirror::new();
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
