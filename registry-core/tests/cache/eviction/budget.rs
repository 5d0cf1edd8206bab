//! The budget is hard: what finds no room is served, and not kept.

use futures::future::join_all;
use registry_core::cache::BypassReason;
use registry_core::testing::content::digest_of;
use registry_core::testing::{Act, BodyScript, Call, ContentScript, Fault, Piece, StoreCall};
use registry_core::{
    CacheError, RemovalReason, Repository, RepositoryPattern, RepositoryRule, RetentionRule,
};

use super::*;
use crate::support::hold;

const NO_ROOM: CacheStatus = CacheStatus::Bypass(BypassReason::NoRoom);

#[tokio::test(start_paused = true)]
async fn room_is_made_for_what_comes() {
    let probe = Setup::default().build();
    let each = probe.push_own("a", 1_000).size() + 1_000;
    let keeper = Setup::bytes(each * 3).build();
    let images: Vec<_> = ["a", "b", "c", "d", "e"]
        .iter()
        .map(|name| keeper.push_own(name, 1_000))
        .collect();
    for image in &images[..3] {
        assert_eq!(keeper.pull(image).await, [CacheStatus::Miss; 2]);
    }
    // Exactly as much as there may be.
    assert_eq!(keeper.kept_bytes().await, each * 3);
    assert_eq!(keeper.kept(&images).await, ["a", "b", "c"]);
    keeper.pull(&images[0]).await;
    assert_eq!(keeper.pull(&images[3]).await, [CacheStatus::Miss; 2]);
    assert_eq!(keeper.kept(&images).await, ["a", "c", "d"]);
    assert_eq!(keeper.pull(&images[4]).await, [CacheStatus::Miss; 2]);
    assert_eq!(keeper.kept(&images).await, ["a", "d", "e"]);
    let usage = keeper.usage().await;
    assert_eq!(
        (usage.kept.bytes, usage.bytes_max),
        (each * 3, Some(each * 3))
    );
    assert_eq!(usage.promised_bytes, 0);
    assert_eq!(keeper.cache.refused_for_room(), 0);
    assert_eq!(keeper.cache.evictions().of(RemovalReason::Size).count, 2);
}

#[tokio::test(start_paused = true)]
async fn above_the_high_watermark_it_goes_down_to_the_low_one() {
    let mut setup = Setup::bytes(100_000);
    setup.retention.high_watermark = 80;
    setup.retention.low_watermark = 50;
    let keeper = setup.build();
    let images: Vec<_> = (0..9)
        .map(|n| keeper.push_own(&format!("i{n}"), 10_000))
        .collect();
    let each = images[0].size() + 10_000;
    for image in &images[..7] {
        keeper.pull(image).await;
    }
    assert_eq!(keeper.kept_bytes().await, each * 7);
    keeper.pull(&images[7]).await;
    keeper
        .until("it is evicted", async || {
            keeper.kept_bytes().await <= 50_000
        })
        .await;
    assert_eq!(keeper.kept(&images).await, ["i4", "i5", "i6", "i7"]);
}

/// Nothing is evicted for what could never be kept.
#[tokio::test(start_paused = true)]
async fn what_is_larger_than_the_budget_passes_through() {
    let keeper = Setup::bytes(10_000).build();
    let small = keeper.push_own("small", 1_000);
    let large = keeper.push_own("large", 10_001);
    keeper.pull(&small).await;
    let started = tokio::time::Instant::now();
    for n in 1..=2 {
        let statuses = keeper.pull(&large).await;
        assert_eq!(statuses[1], NO_ROOM);
        assert_eq!(keeper.cache.refused_for_room(), n);
    }
    assert!(started.elapsed() < Duration::from_secs(1), "nobody waits");
    assert!(keeper.has(&small).await);
    assert_eq!(keeper.cache.evictions(), Default::default());
    assert_eq!(keeper.cache.store_failures(), 0, "the store is well");
    let calls = keeper.store.faults().calls(StoreCall::Stage);
    assert_eq!(calls, 1, "nothing is staged in vain");
}

/// An answer begins when there is room for all of it, whatever an earlier fill has left of it.
#[tokio::test(start_paused = true)]
async fn what_was_left_begins_no_answer_that_finds_no_room() {
    for kept in [1_000, 5_000] {
        let keeper = Setup::bytes(4_000).build();
        let content = sample(5_000, 1);
        let digest = keeper
            .upstream
            .add_blob(app().repository(), content.clone());
        let sink = keeper.store.inner().stage(digest, None).await.unwrap();
        sink.write_at(0, content.slice(..kept)).await.unwrap();
        sink.checkpoint(kept as u64);
        drop(sink);
        let served = keeper.open(digest).await;
        assert_eq!(served.status, NO_ROOM, "{kept}");
        assert_eq!(read(served.value).await.unwrap(), content, "{kept}");
        keeper.idle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn where_nothing_may_go_what_comes_passes_through() {
    let keeper = Setup::bytes(3_000).build();
    let pinned = keeper.push_own("pinned", 2_000);
    let other = keeper.push_own("other", 2_000);
    keeper.pin("one.example/library/app:pinned").await;
    keeper.pull(&pinned).await;
    let before = keeper.kept_bytes().await;
    for _ in 0..2 {
        assert_eq!(keeper.pull(&other).await[1], NO_ROOM);
    }
    // Its manifest had room.
    assert_eq!(keeper.kept_bytes().await, before + other.size());
    assert!(keeper.has(&pinned).await && keeper.has_blob(pinned.layer(0)).await);
    let pin = Pin::parse("one.example/library/app:pinned").unwrap();
    assert!(keeper.cache.unpin(&pin).await.unwrap());
    assert_eq!(keeper.pull(&other).await[1], CacheStatus::Miss);
    assert_eq!(keeper.kept(&[pinned, other]).await, ["other"]);
}

/// What finds no room beside what is pinned costs nobody else's content, however often it is pulled.
#[tokio::test(start_paused = true)]
async fn nothing_goes_in_vain() {
    let is_exempt: Option<fn(&mut UpstreamEntry)> = Some(|entry| {
        let pattern = RepositoryPattern::parse("library/app").unwrap();
        entry.repositories.push(RepositoryRule {
            pattern,
            policy: entry.policy.clone(),
            retention: RetentionRule {
                exempt: true,
                ..RetentionRule::default()
            },
        });
    });
    for entry in [None, is_exempt] {
        let mut setup = Setup::bytes(100_000);
        setup.entry = entry;
        let keeper = setup.build();
        let held = keeper.push_own("held", 60_000);
        if entry.is_none() {
            keeper.pin("one.example/library/app:held").await;
        }
        keeper.pull(&held).await;
        let other = Origin::new(
            app().upstream().clone(),
            Repository::parse("other").unwrap(),
        );
        let small: Vec<_> = (0..5_u64)
            .map(|n| keeper.push(&other, &format!("s{n}"), &[sample(5_000, 100 + n)]))
            .collect();
        for image in &small {
            keeper.pull(image).await;
        }
        let large = keeper.push(&other, "large", &[sample(50_000, 200)]);
        let fits = keeper.push(&other, "fits", &[sample(20_000, 201)]);
        for n in 1..=3 {
            let statuses = keeper.pull(&large).await;
            assert_eq!(statuses.last(), Some(&NO_ROOM), "{n}");
            for image in &small {
                assert!(keeper.has_blob(image.layer(0)).await, "{n}");
            }
            tokio::time::advance(keeper.cache.limits().room_refused_for).await;
        }
        assert_eq!(keeper.cache.evictions(), Default::default());
        // What has room is made room for, also while another is waited for in vain.
        let both = [keeper.pull(&large), keeper.pull(&fits)];
        let statuses = join_all(both).await;
        assert_eq!(statuses[0].last(), Some(&NO_ROOM));
        assert_eq!(statuses[1].last(), Some(&CacheStatus::Miss));
        assert!(keeper.has_blob(held.layer(0)).await && keeper.has_blob(fits.layer(0)).await);
    }
}

/// Nor for what finds none beside what is being fetched.
#[tokio::test(start_paused = true)]
async fn nothing_goes_for_what_finds_no_room_beside_a_fill() {
    let keeper = Setup::bytes(500_000).build();
    let old = keeper.push_own("old", 100_000);
    keeper.pull(&old).await;
    let one = keeper.push_own("one", 300_000);
    let two = keeper.push_own("two", 300_000);
    let gate = hold(&keeper.upstream, &one.layers[0], 100_000);
    for image in [&one, &two] {
        keeper.get(image).await;
    }
    let first = keeper.open(one.layer(0)).await;
    let second = keeper.open(two.layer(0)).await;
    assert_eq!((first.status, second.status), (CacheStatus::Miss, NO_ROOM));
    assert!(read(second.value).await.unwrap() == two.layers[0]);
    assert!(keeper.has(&old).await && keeper.has_blob(old.layer(0)).await);
    gate.open();
    assert!(read(first.value).await.unwrap() == one.layers[0]);
}

/// One waits for a collector that hangs, and not each that comes.
#[tokio::test(start_paused = true)]
async fn a_collector_that_hangs_delays_one_pull_and_not_each() {
    let keeper = Setup::bytes(3_000).build();
    let images: Vec<_> = (0..5)
        .map(|n| keeper.push_own(&format!("i{n}"), 2_000))
        .collect();
    keeper.pull(&images[0]).await;
    keeper.store.faults().stall(StoreCall::Coldest);
    keeper.pull(&images[1]).await;
    for image in &images[2..] {
        let started = tokio::time::Instant::now();
        assert_eq!(keeper.pull(image).await[1], NO_ROOM);
        assert!(
            started.elapsed() < Duration::from_secs(1),
            "{:?}",
            started.elapsed()
        );
    }
    keeper.store.faults().heal();
    tokio::time::sleep(keeper.cache.limits().room_refused_for).await;
    keeper
        .until("it keeps again", async || {
            keeper.pull(&images[4]).await;
            keeper.has_blob(images[4].layer(0)).await
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn manifests_count() {
    let probe = Setup::default().build();
    let size = probe.push(&app(), "pinned", &[]).size();
    let keeper = Setup::bytes(size + 10).build();
    let pinned = keeper.push(&app(), "pinned", &[]);
    let other = keeper.push(&app(), "other", &[]);
    keeper.pin("one.example/library/app:pinned").await;
    keeper.pull(&pinned).await;
    for _ in 0..2 {
        assert_eq!(keeper.pull(&other).await, [NO_ROOM]);
    }
    assert_eq!(keeper.kept_bytes().await, pinned.size());
}

/// A size that nobody knew before the headers came, or until the end.
#[tokio::test(start_paused = true)]
async fn room_is_found_as_soon_as_the_size_is_known() {
    for hides_size in [false, true] {
        let keeper = Setup::bytes(3_000).build();
        let image = keeper.push_own("a", 1_500);
        keeper.pull(&image).await;
        let get = async |bytes: &Bytes| {
            keeper.upstream.add_blob(app().repository(), bytes.clone());
            let script = ContentScript {
                hides_size,
                ..ContentScript::default()
            };
            keeper.upstream.always(Call::Blob, Act::Content(script));
            let digest = digest_of(bytes);
            let served = keeper.open(digest).await;
            assert!(read(served.value).await.unwrap() == *bytes);
            keeper.idle().await;
            (served.status, keeper.has_blob(digest).await)
        };
        let too_large = sample(3_001, 1);
        let (status, is_kept) = get(&too_large).await;
        // Whose size is not told is known to be too large when it is here.
        let expected = if hides_size {
            CacheStatus::Miss
        } else {
            NO_ROOM
        };
        assert_eq!((status, is_kept), (expected, false));
        assert!(keeper.has(&image).await);
        let kept = keeper.store.inner().usage().await.unwrap();
        assert_eq!(kept.unfinished_bytes, 0);
        let fits = sample(2_000, 2);
        assert_eq!(get(&fits).await, (CacheStatus::Miss, true));
        assert!(!keeper.has(&image).await);
    }
}

/// All who need room wait for the same eviction.
#[tokio::test(start_paused = true)]
async fn many_wait_for_room_at_once() {
    let keeper = Setup::bytes(20_000).build();
    let old: Vec<_> = (0..9)
        .map(|n| keeper.push_own(&format!("old{n}"), 1_500))
        .collect();
    for image in &old {
        keeper.pull(image).await;
    }
    let coming: Vec<_> = (0..8)
        .map(|n| keeper.push_own(&format!("new{n}"), 2_000))
        .collect();
    let statuses = join_all(coming.iter().map(|image| keeper.pull(image))).await;
    let all: Vec<_> = statuses.into_iter().flatten().collect();
    assert_eq!(all, [CacheStatus::Miss; 16]);
    assert!(keeper.kept_bytes().await <= 20_000);
    assert_eq!(keeper.cache.refused_for_room(), 0);
    // Whoever pulls it again finds it.
    for image in &coming {
        assert!(keeper.has_blob(image.layer(0)).await);
    }
}

/// Whatever is asked for at the same time, the limit is never passed, not for a moment.
#[tokio::test(start_paused = true)]
async fn the_budget_is_never_exceeded() {
    for seed in 0..6_u64 {
        let limit = 40_000;
        let mut setup = Setup::bytes(limit);
        setup.retention.high_watermark = 95;
        setup.retention.low_watermark = 90 - 10 * u8::try_from(seed).unwrap();
        let keeper = setup.build();
        let base = sample(3_000, 1_000);
        let images: Vec<_> = (0..30)
            .map(|n| {
                let own = sample(500 + n * 331, n as u64);
                keeper.push(&app(), &format!("i{n}"), &[base.clone(), own])
            })
            .collect();
        keeper.pin("one.example/library/app:i3").await;
        let mut random = fastrand_like(seed);
        let clients = (0..12).map(|_| {
            let picks: Vec<usize> = (0..15).map(|_| random() % images.len()).collect();
            let (keeper, images) = (&keeper, &images);
            async move {
                for pick in picks {
                    keeper.pull(&images[pick]).await;
                }
            }
        });
        let mut clients = std::pin::pin!(join_all(clients));
        let mut most = 0;
        loop {
            let pulled = futures::poll!(&mut clients);
            let usage = keeper.usage().await;
            let taken = usage.kept.bytes;
            assert!(taken <= limit, "{taken} bytes are kept");
            most = most.max(taken);
            if pulled.is_ready() {
                break;
            }
            // Lets the tasks of the cache do one more step.
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        assert!(most > limit / 2, "it was put to use");
        assert_eq!(keeper.usage().await.promised_bytes, 0);
        for image in &images {
            let is_kept = keeper.has(image).await;
            assert!(
                is_kept || !keeper.has_blob(image.layer(1)).await,
                "nobody needs it"
            );
        }
        assert_eq!(keeper.cache.store_failures(), 0);
    }
}

/// Numbers that are the same each time.
fn fastrand_like(seed: u64) -> impl FnMut() -> usize {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap()
    }
}

/// Who waits for room in vain waits for no longer than the limit.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_room_for_ever() {
    let keeper = Setup::bytes(3_000).build();
    let images = [keeper.push_own("a", 2_000), keeper.push_own("b", 2_000)];
    keeper.pull(&images[0]).await;
    keeper.store.faults().stall(StoreCall::Coldest);
    let started = tokio::time::Instant::now();
    assert_eq!(keeper.pull(&images[1]).await[1], NO_ROOM);
    let limits = keeper.cache.limits();
    assert!(started.elapsed() <= limits.room_wait_max + limits.store_wait_max);
}

/// A promise lasts for as long as the fill: two that fit one by one do not fit together.
#[tokio::test(start_paused = true)]
async fn a_fill_under_way_takes_its_room() {
    let keeper = Setup::bytes(500_000).build();
    let one = keeper.push_own("one", 300_000);
    let two = keeper.push_own("two", 300_000);
    let gate = hold(&keeper.upstream, &one.layers[0], 100_000);
    for image in [&one, &two] {
        keeper.get(image).await;
    }
    let blob = |image: &Image| keeper.open(image.layer(0));
    let first = blob(&one).await;
    assert_eq!(keeper.usage().await.promised_bytes, 300_000);
    let second = blob(&two).await;
    assert_eq!((first.status, second.status), (CacheStatus::Miss, NO_ROOM));
    assert!(read(second.value).await.unwrap() == two.layers[0]);
    gate.open();
    assert!(read(first.value).await.unwrap() == one.layers[0]);
    keeper.idle().await;
    assert_eq!(keeper.usage().await.promised_bytes, 0);
    // A fill that fails gives its room back.
    keeper.collect(0).await;
    let wrong = BodyScript::new(Some(300_000), vec![Piece::Bytes(sample(300_000, 5))]);
    keeper.upstream.always(Call::Blob, Act::Body(wrong));
    let origin = app();
    let digest = two.layer(0);
    let begun = keeper.cache.blob(&origin, digest, None, &Caller::Anonymous);
    // Whether the body begins before the digest is known depends on the thread that hashes.
    let failed = match begun.await {
        Ok(served) => read(served.value).await.map(drop),
        Err(error) => Err(error),
    };
    assert!(matches!(failed, Err(CacheError::Mismatch(_))), "{failed:?}");
    keeper.idle().await;
    assert_eq!(keeper.usage().await.promised_bytes, 0);
}

/// Whatever fails of the inventory or the journal, pulls work; and within the limit.
#[tokio::test(start_paused = true)]
async fn no_pull_fails_by_upkeep() {
    for call in [
        StoreCall::Usage,
        StoreCall::Charges,
        StoreCall::Coldest,
        StoreCall::Postpone,
        StoreCall::Record,
        StoreCall::Note,
        StoreCall::NamedBy,
        StoreCall::LinkedIn,
        StoreCall::TaggedAs,
        StoreCall::PeekManifest,
        StoreCall::Forget,
        StoreCall::RemoveUnused,
        StoreCall::RemoveManifest,
        StoreCall::Pins,
        StoreCall::PutRemoval,
    ] {
        for is_stalled in [false, true] {
            let mut setup = Setup::bytes(4_000);
            setup.entry = Some(|entry| entry.retention.bytes_max = Some(3_500));
            let keeper = setup.build();
            let images: Vec<_> = (0..6)
                .map(|n| keeper.push_own(&format!("i{n}"), 1_000))
                .collect();
            keeper.pin("one.example/library/*:i1").await;
            keeper.pull(&images[0]).await;
            match is_stalled {
                true => keeper.store.faults().stall(call),
                false => keeper.store.faults().fail_always(call, Fault::Io),
            }
            for image in &images {
                keeper.pull(image).await;
                keeper.pull(image).await;
                assert!(keeper.kept_bytes().await <= 4_000, "{call:?}");
            }
            // It recovers by itself.
            keeper.store.faults().heal();
            tokio::time::sleep(keeper.cache.limits().room_refused_for).await;
            for image in &images {
                keeper.pull(image).await;
            }
            keeper
                .until("it keeps again", async || {
                    keeper.pull(&images[5]).await;
                    keeper.has_blob(images[5].layer(0)).await
                })
                .await;
            assert!(keeper.kept_bytes().await <= 4_000, "{call:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_closes_waits_for_no_collector() {
    let keeper = Setup::bytes(10_000).build();
    let image = keeper.push_own("a", 1_000);
    keeper.pull(&image).await;
    let started = tokio::time::Instant::now();
    keeper.cache.close(Duration::from_secs(30)).await;
    assert!(started.elapsed() < Duration::from_secs(1));
    // What was begun before it closed is not evicted for.
    assert_eq!(
        keeper.cache.usage().await.unwrap().unwrap().promised_bytes,
        0
    );
}

/// The task that evicts does not keep a cache alive that nobody has any more.
#[tokio::test(start_paused = true)]
async fn a_dropped_cache_is_gone() {
    let keeper = Setup::bytes(10_000).build();
    let image = keeper.push_own("a", 1_000);
    keeper.pull(&image).await;
    let Keeper { cache, store, .. } = keeper;
    drop(cache);
    for _ in 0..100 {
        if Arc::strong_count(&store) == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("somebody holds on to the stores");
}

/// What a store without upkeep keeps is never evicted, and it is the same cache otherwise.
#[tokio::test]
async fn a_store_without_upkeep_keeps_everything() {
    let mirror = crate::support::Mirror::new();
    mirror.cache.set_retention(Retention {
        bytes_max: Some(1),
        ..Retention::default()
    });
    let content = sample(10_000, 1);
    let digest = mirror.one.add_blob(app().repository(), content.clone());
    for status in [CacheStatus::Miss, CacheStatus::Hit] {
        let served = mirror.blob(&app(), digest, None).await.unwrap();
        assert_eq!(served.status, status);
        assert!(read(served.value).await.unwrap() == content);
        mirror.idle().await;
    }
    assert_eq!(mirror.cache.usage().await.unwrap(), None);
    let request = CollectRequest::default();
    let refused = mirror.cache.collect(request, &Progress::new()).await;
    assert!(matches!(refused, Err(CacheError::NoUpkeep)));
    let pin = Pin::parse("one.example/library/app:a").unwrap();
    let refused = mirror.cache.pin(pin).await;
    assert!(matches!(refused, Err(CacheError::NoUpkeep)));
}
