//! What the store itself has no space for.

use registry_core::cache::BypassReason;
use registry_core::testing::{Fault, StoreCall};
use registry_core::{LinkStore as _, RemovalReason};

use super::*;
use crate::support::read_what_comes;

/// A disk without a limit of ours is one all the same.
#[tokio::test(start_paused = true)]
async fn a_full_disk_is_a_limit() {
    let setup = Setup {
        capacity: Some(10_000),
        ..Setup::default()
    };
    let keeper = setup.build();
    let images: Vec<_> = (0..8)
        .map(|n| keeper.push_own(&format!("i{n}"), 2_000))
        .collect();
    for image in &images {
        assert_eq!(keeper.pull(image).await, [CacheStatus::Miss; 2]);
    }
    let kept = keeper.kept(&images).await;
    assert_eq!(kept.last(), Some(&"i7"));
    assert_eq!(keeper.usage().await.bytes_max, Some(10_000));
    let evicted = keeper.cache.evictions();
    assert!(evicted.of(RemovalReason::Disk).count > 0);
    assert_eq!(evicted.of(RemovalReason::Size).count, 0);
    assert_eq!(keeper.cache.store_failures(), 0);
}

/// Where the store has less space than it told, something goes, and it is asked once more.
#[tokio::test(start_paused = true)]
async fn what_finds_no_space_is_tried_again_when_something_has_gone() {
    for call in [StoreCall::Stage, StoreCall::PutManifest] {
        let keeper = Setup::default().build();
        let old = keeper.push_own("old", 1_000);
        let new = keeper.push_own("new", 500);
        keeper.pull(&old).await;
        keeper.store.faults().fail_nth(call, 1, Fault::NoSpace);
        assert_eq!(keeper.pull(&new).await, [CacheStatus::Miss; 2], "{call:?}");
        assert!(!keeper.has(&old).await, "{call:?}");
        assert_eq!(keeper.kept(&[new]).await, ["new"]);
        assert_eq!(keeper.cache.evictions().of(RemovalReason::Disk).count, 1);
        assert_eq!(keeper.cache.store_failures(), 0);
    }
}

/// Space that is nobody's to give makes a proxy, and nothing goes for it but once each time.
#[tokio::test(start_paused = true)]
async fn what_finds_no_space_twice_passes_through() {
    let keeper = Setup::default().build();
    let old: Vec<_> = (0..4)
        .map(|n| keeper.push_own(&format!("i{n}"), 1_000))
        .collect();
    for image in &old {
        keeper.pull(image).await;
    }
    let new = keeper.push_own("new", 500);
    keeper
        .store
        .faults()
        .fail_always(StoreCall::Stage, Fault::NoSpace);
    let statuses = keeper.pull(&new).await;
    assert_eq!(statuses[1], CacheStatus::Bypass(BypassReason::StoreFailing));
    assert_eq!(keeper.kept(&old).await, ["i1", "i2", "i3"]);
    assert!(keeper.cache.store_failures() > 0);
    keeper.store.faults().heal();
    assert_eq!(keeper.pull(&new).await[1], CacheStatus::Miss);
}

/// A fill that runs into the end of the disk makes space for the next.
#[tokio::test(start_paused = true)]
async fn a_fill_that_runs_out_of_space_makes_some() {
    for call in [StoreCall::Append, StoreCall::Commit] {
        let keeper = Setup::default().build();
        let old = keeper.push_own("old", 300_000);
        let new = keeper.push_own("new", 300_000);
        keeper.pull(&old).await;
        keeper.store.faults().fail_nth(call, 1, Fault::NoSpace);
        keeper.get(&new).await;
        let blob = keeper.open(new.layer(0));
        let (received, error) = read_what_comes(blob.await.value).await;
        assert!(error.is_none() && received == new.layers[0], "{call:?}");
        keeper
            .until("space is made", async || !keeper.has(&old).await)
            .await;
        keeper.pull(&new).await;
        assert_eq!(keeper.kept(&[new]).await, ["new"], "{call:?}");
    }
}

/// What a crash left of an image goes first.
#[tokio::test]
async fn what_is_left_over_goes_first() {
    let keeper = Setup::default().build();
    let broken = keeper.push_own("broken", 1_000);
    let other = keeper.push_own("other", 1_000);
    keeper.pull(&other).await;
    keeper.pull(&broken).await;
    let store = keeper.store.inner();
    assert!(store.remove_manifest(broken.digest()).await.unwrap());
    let collected = keeper.collect(other.size() + 1_000).await;
    assert_eq!(targets(&collected), [LinkTarget::Blob(broken.layer(0))]);
    // A manifest without its blobs is as good as any.
    keeper.collect(0).await;
    put_past_the_cache(&keeper, &broken.manifest).await;
    let collected = keeper.collect(0).await;
    assert_eq!(targets(&collected), manifests(&[&broken]));
    // Removal that fails half-way goes on the next time.
    keeper.pull(&broken).await;
    let faults = keeper.store.faults();
    faults.fail_always(StoreCall::RemoveUnused, Fault::Io);
    let request = CollectRequest {
        bytes: Some(0),
        dry_run: false,
    };
    let failed = keeper.cache.collect(request, &Progress::new()).await;
    assert!(failed.is_err());
    assert!(!keeper.has(&broken).await && keeper.has_blob(broken.layer(0)).await);
    faults.heal();
    assert_eq!(keeper.collect(0).await.bytes, 1_000);
    assert_eq!(keeper.kept_bytes().await, 0);
}

/// A store may write down beside a manifest where it is linked, which grows what is kept: where
/// there is no room for it, it is served as ever, and linked when there is.
#[tokio::test(start_paused = true)]
async fn what_is_kept_is_linked_elsewhere_where_there_is_room_for_it() {
    let keeper = Setup {
        overhead: 100,
        ..Setup::default()
    };
    let keeper = keeper.build();
    let here = keeper.push_own("i", 1_000);
    let there = origin("two.example", "library/app");
    let there = keeper.push(&there, "i", &here.layers);
    let target = LinkTarget::Manifest(here.digest());
    keeper.pull(&here).await;
    keeper.pin("one.example/library/app:*").await;
    let kept = keeper.kept_bytes().await;
    for (room, is_linked) in [(99, false), (100, true)] {
        keeper.cache.set_retention(Retention {
            bytes_max: Some(kept + room),
            high_watermark: 100,
            low_watermark: 100,
            idle_max: None,
        });
        keeper.clock.advance(STEP);
        let served = keeper.get(&there).await;
        assert_eq!(served.value, here.manifest);
        assert_eq!(served.status, CacheStatus::Revalidated, "{room}");
        let linked = keeper.store.inner().linked(&there.origin, target).await;
        assert_eq!(linked.unwrap().is_some(), is_linked, "{room}");
        assert_eq!(keeper.kept_bytes().await, kept);
    }
}
