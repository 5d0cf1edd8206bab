//! The order, and what hangs together in it.

use registry_core::cache::CollectRequest;
use registry_core::testing::StoreCall;
use registry_core::testing::content::sample;
use registry_core::{
    BlobPayload, CacheStatus, InventoryStore as _, LinkStore as _, LinkTarget, Progress,
    RemovalReason, TagStore as _,
};

use super::*;

#[tokio::test]
async fn what_was_used_longest_ago_goes_first() {
    let keeper = Setup::default().build();
    let images: Vec<_> = ["a", "b", "c", "d"]
        .iter()
        .map(|name| keeper.push_own(name, 1_000))
        .collect();
    for image in &images {
        keeper.pull(image).await;
    }
    // Used again: by its manifest, and by its layer alone.
    keeper.pull(&images[0]).await;
    keeper.clock.advance(STEP);
    keeper.pull_layer(&images[1], 0, &images[1].layers[0]).await;
    let each = images[0].size() + 1_000;
    for (bytes, left) in [
        (each * 4, vec!["a", "b", "c", "d"]),
        (each * 4 - 1, vec!["a", "b", "d"]),
        (each * 3, vec!["a", "b", "d"]),
        (each * 2, vec!["a", "b"]),
        (each * 2 - 1, vec!["b"]),
        (1, vec![]),
    ] {
        keeper.collect(bytes).await;
        assert_eq!(keeper.kept(&images).await, left, "{bytes}");
    }
    assert_eq!(keeper.kept_bytes().await, 0, "with all their layers");
    let removals = keeper.cache.removals(10).await.unwrap();
    let order: Vec<_> = removals
        .iter()
        .rev()
        .map(|removal| removal.target)
        .collect();
    let [a, b, c, d] = &images[..] else {
        unreachable!()
    };
    assert_eq!(order, manifests(&[c, d, a, b]));
    for removal in &removals {
        assert_eq!(removal.bytes, each);
        assert_eq!(removal.origins, [app()]);
        assert_eq!(removal.tags.len(), 1);
        assert!(removal.accessed_at.is_some());
    }
    let evicted = keeper.cache.evictions().of(RemovalReason::Size);
    assert_eq!((evicted.count, evicted.bytes), (4, each * 4));
    assert_eq!(keeper.cache.evictions().of(RemovalReason::Idle).count, 0);
}

#[tokio::test]
async fn a_removed_image_leaves_nothing_and_comes_again() {
    let keeper = Setup::default().build();
    let image = keeper.push_own("a", 1_000);
    let first = keeper.pull(&image).await;
    assert_eq!(first, [CacheStatus::Miss; 2]);
    keeper.collect(0).await;
    let store = keeper.store.inner();
    assert_eq!(store.origins(None, None, 10).await.unwrap(), []);
    assert_eq!(store.tag(&app(), &tag("a")).await.unwrap(), None);
    assert_eq!(store.coldest(None, None, 10).await.unwrap(), []);
    assert_eq!(keeper.pull(&image).await, first);
    assert_eq!(keeper.kept(&[image]).await, ["a"]);
}

#[tokio::test]
async fn shared_layers_stay_for_as_long_as_an_image_needs_them() {
    let keeper = Setup::default().build();
    let (base, x, y) = (sample(500, 1), sample(1_000, 2), sample(1_000, 3));
    let one = keeper.push(&app(), "one", &[base.clone(), x]);
    let two = keeper.push(&app(), "two", &[base, y]);
    keeper.pull(&one).await;
    keeper.pull(&two).await;
    let collected = keeper.collect(two.size() + 1_500).await;
    assert_eq!(targets(&collected), manifests(&[&one]));
    assert_eq!(collected.bytes, one.size() + 1_000);
    let both = [one, two];
    assert_eq!(keeper.kept(&both).await, ["two"]);
    let collected = keeper.collect(0).await;
    assert_eq!(collected.bytes, both[1].size() + 1_500);
    assert_eq!(keeper.kept_bytes().await, 0);
}

#[tokio::test]
async fn what_belongs_to_no_image_has_its_place_in_the_order() {
    let keeper = Setup::default().build();
    let image = keeper.push_own("a", 1_000);
    let loose = sample(700, 9);
    let digest = keeper.upstream.add_blob(app().repository(), loose.clone());
    let get = async || {
        keeper.clock.advance(STEP);
        let blob = keeper.open(digest);
        assert!(read(blob.await.value).await.unwrap() == loose);
        keeper.idle().await;
    };
    get().await;
    keeper.pull(&image).await;
    let collected = keeper.collect(image.size() + 1_000).await;
    assert_eq!(targets(&collected), [LinkTarget::Blob(digest)]);
    get().await;
    let collected = keeper.collect(700).await;
    assert_eq!(targets(&collected), manifests(&[&image]));
    assert!(keeper.has_blob(digest).await);
}

/// An index that is looked at again and again stands for the image that is run from it.
#[tokio::test]
async fn the_image_that_is_used_of_a_fresh_index_is_spared() {
    let keeper = Setup::default().build();
    let used = keeper.push_own("used", 1_000);
    let other = keeper.push_own("other", 1_000);
    let index = push_index(&keeper, "index", &[&other, &used]);
    let young = keeper.push_own("young", 1_000);
    keeper.pull(&index).await;
    pull_child(&keeper, &other).await;
    pull_child(&keeper, &used).await;
    keeper.pull(&young).await;
    // A client that has it asks whether the tag still stands, and for nothing else.
    keeper.pull(&index).await;
    let images = [used, other, young, index];
    let [used, other, young, index] = &images;
    let all = keeper.kept_bytes().await;
    let collected = keeper.collect(all - 1).await;
    assert_eq!(targets(&collected), manifests(&[other]), "nobody uses it");
    let collected = keeper.collect(all - collected.bytes - 1).await;
    assert_eq!(targets(&collected), manifests(&[young]));
    assert_eq!(keeper.kept(&images).await, ["used", "index"]);
    // When it is the turn of the index, it is that of its image.
    let last = keeper.push_own("last", 1_000);
    keeper.pull(&last).await;
    let collected = keeper.collect(last.size() + 1_000).await;
    let mut gone = targets(&collected);
    gone.sort();
    let mut expected = manifests(&[used, index]);
    expected.sort();
    assert_eq!(gone, expected);
    keeper.collect(0).await;
    assert_eq!(keeper.kept_bytes().await, 0);
}

#[tokio::test]
async fn what_is_being_read_is_not_evicted() {
    let keeper = Setup::default().build();
    let images = [keeper.push_own("a", 300_000), keeper.push_own("b", 1_000)];
    for image in &images {
        keeper.pull(image).await;
    }
    let served = keeper.open(images[0].layer(0)).await;
    assert_eq!(served.status, CacheStatus::Hit);
    let collected = keeper.collect(0).await;
    assert!(collected.is_short);
    assert_eq!(keeper.kept(&images).await, ["a"]);
    // Half of it is read, and it is in use still.
    let BlobPayload::Stream(mut stream) = served.value.payload else {
        panic!("a store in memory has no files")
    };
    let first = futures::StreamExt::next(&mut stream)
        .await
        .unwrap()
        .unwrap();
    keeper.collect(0).await;
    assert_eq!(keeper.kept(&images).await, ["a"]);
    let mut received = first.to_vec();
    while let Some(piece) = futures::StreamExt::next(&mut stream).await {
        received.extend_from_slice(&piece.unwrap());
    }
    assert!(received == images[0].layers[0]);
    drop(stream);
    keeper.clock.advance(STEP);
    assert!(!keeper.collect(0).await.is_short);
    assert_eq!(keeper.kept_bytes().await, 0);
}

/// Whoever reads while it is removed by other means reads on.
#[tokio::test]
async fn a_body_outlives_its_image() {
    let keeper = Setup::default().build();
    let image = keeper.push_own("a", 300_000);
    keeper.pull(&image).await;
    let served = keeper.open(image.layer(0)).await;
    keeper.store.inner().remove(image.layer(0)).await.unwrap();
    assert!(read(served.value).await.unwrap() == image.layers[0]);
    assert_eq!(keeper.pull(&image).await[1], CacheStatus::Miss);
}

#[tokio::test]
async fn what_is_being_filled_is_not_evicted() {
    let keeper = Setup::default().build();
    let image = keeper.push(&app(), "a", &[sample(1_000, 1), sample(200_000, 2)]);
    let gate = crate::support::hold(&keeper.upstream, &image.layers[1], 100_000);
    keeper.get(&image).await;
    let large = keeper.open(image.layer(1)).await;
    let collected = keeper.collect(0).await;
    assert_eq!((collected.count, collected.is_short), (0, true));
    assert!(keeper.has(&image).await);
    gate.open();
    assert!(read(large.value).await.unwrap() == image.layers[1]);
    keeper.idle().await;
    keeper.clock.advance(STEP);
    keeper.collect(0).await;
    assert_eq!(keeper.kept_bytes().await, 0);
}

/// What is protected is looked at once, and then when everything else was.
#[tokio::test]
async fn what_stays_is_not_looked_at_again_and_again() {
    let mut calls = Vec::new();
    for pinned in [20, 200] {
        let setup = Setup {
            limits: Limits {
                eviction_batch: 4,
                ..Limits::default()
            },
            ..Setup::default()
        };
        let keeper = setup.build();
        keeper.pin("one.example/library/pinned*").await;
        let place = origin("one.example", "library/pinned");
        for n in 0..pinned {
            let image = keeper.push(&place, &format!("p{n}"), &[]);
            keeper.pull(&image).await;
        }
        let loose: Vec<_> = (0..40)
            .map(|n| keeper.push_own(&format!("loose{n}"), 1_000))
            .collect();
        for image in &loose {
            keeper.pull(image).await;
        }
        // The first time, all that is pinned is moved on.
        let bytes = keeper.kept_bytes().await;
        keeper.collect(bytes - 1).await;
        let faults = keeper.store.faults();
        let count = || {
            let of = [
                StoreCall::Coldest,
                StoreCall::Record,
                StoreCall::NamedBy,
                StoreCall::TaggedAs,
                StoreCall::LinkedIn,
                StoreCall::PeekManifest,
                StoreCall::Usage,
                StoreCall::Postpone,
            ];
            of.iter().map(|call| faults.calls(*call)).sum::<u64>()
        };
        let before = count();
        for _ in 0..20 {
            let bytes = keeper.kept_bytes().await;
            assert_eq!(keeper.collect(bytes - 1).await.count, 1);
        }
        calls.push(count() - before);
    }
    let [few, many] = calls[..] else {
        unreachable!()
    };
    assert_eq!(few, many, "it does not depend on how much is kept");
    assert!(few / 20 < 40, "{} calls for each", few / 20);
}

/// Where nothing may go, it is given up after so many, and the next time begins with others.
#[tokio::test]
async fn a_pass_over_what_stays_is_bounded() {
    let setup = Setup {
        limits: Limits {
            postponed_max: 10,
            ..Limits::default()
        },
        ..Setup::default()
    };
    let keeper = setup.build();
    keeper.pin("one.example/library/*:p*").await;
    for n in 0..25 {
        let image = keeper.push_own(&format!("p{n}"), 10);
        keeper.pull(&image).await;
    }
    let loose = keeper.push_own("loose", 1_000);
    keeper.pull(&loose).await;
    let mut looked_at = Vec::new();
    for _ in 0..3 {
        keeper.clock.advance(STEP);
        let before = keeper.store.faults().calls(StoreCall::Postpone);
        let collected = keeper.collect(0).await;
        looked_at.push((
            keeper.store.faults().calls(StoreCall::Postpone) - before,
            collected.count,
        ));
    }
    assert_eq!(looked_at[..2], [(10, 0), (10, 0)]);
    assert_eq!(looked_at[2].1, 1, "behind the 25th");
    assert!(looked_at[2].0 <= 15);
}

#[tokio::test]
async fn a_dry_run_tells_what_would_go() {
    let keeper = Setup::default().build();
    let base = sample(500, 1);
    let images = [
        keeper.push(&app(), "a", &[base.clone(), sample(1_000, 2)]),
        keeper.push(&app(), "b", &[base, sample(1_000, 3)]),
        keeper.push_own("c", 1_000),
    ];
    keeper.pin("one.example/library/app:c").await;
    for image in [&images[2], &images[0], &images[1]] {
        keeper.pull(image).await;
    }
    let before = keeper.store.inner().coldest(None, None, 10).await.unwrap();
    let ask = async |dry_run| {
        let request = CollectRequest {
            bytes: Some(0),
            dry_run,
        };
        let progress = Progress::new();
        let collected = keeper.cache.collect(request, &progress).await.unwrap();
        let made = progress.made();
        assert_eq!((made.items, made.bytes), (collected.count, collected.bytes));
        collected
    };
    let told = ask(true).await;
    assert_eq!(keeper.kept(&images).await, ["a", "b", "c"]);
    let after = keeper.store.inner().coldest(None, None, 10).await.unwrap();
    assert_eq!(after, before, "looking moves nothing");
    assert_eq!(keeper.cache.removals(10).await.unwrap(), []);
    assert_eq!(keeper.cache.evictions(), Default::default());
    let done = ask(false).await;
    assert_eq!(targets(&told), targets(&done));
    assert_eq!((told.count, told.bytes), (done.count, done.bytes));
    assert!(told.is_short && done.is_short);
    assert_eq!(keeper.kept(&images).await, ["c"]);
}

#[tokio::test]
async fn a_collection_that_is_cancelled_ends() {
    let keeper = Setup::default().build();
    let image = keeper.push_own("a", 1_000);
    keeper.pull(&image).await;
    let progress = Progress::new();
    progress.cancel();
    let request = CollectRequest {
        bytes: Some(0),
        dry_run: false,
    };
    let collected = keeper.cache.collect(request, &progress).await.unwrap();
    assert_eq!(collected.count, 0);
    assert!(keeper.has(&image).await);
}
