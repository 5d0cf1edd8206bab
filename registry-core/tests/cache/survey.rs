//! What is told of what is kept: sizes, platforms, who else needs it; and that looking uses nothing.

use std::time::Duration;

use registry_core::cache::ImageSummary;
use registry_core::testing::content::sample;
use registry_core::{
    BlobStore as _, CacheError, Digest, InventoryStore as _, JournalStore as _, Limits, LinkTarget,
    Pin, Reference, Timestamp,
};

use super::kept::{add_image, add_index, kept, kept_with, name_it, push_image, reference};
use super::support::{Mirror, one, origin, tag, ttl};

async fn summary(mirror: &Mirror, text: &str) -> ImageSummary {
    let image = mirror.cache.image(&one(), &reference(text)).await.unwrap();
    image.unwrap().summary
}

fn platforms(summary: &ImageSummary) -> Vec<String> {
    summary.platforms.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn sizes_are_what_is_held_and_what_removing_it_would_free() {
    let mirror = kept();
    let shared = sample(1_000, 1);
    let first = add_image(
        &mirror.one,
        "a",
        "linux/amd64",
        &[shared.clone(), sample(500, 2)],
    );
    let second = add_image(
        &mirror.one,
        "b",
        "linux/arm64",
        &[shared.clone(), sample(700, 3)],
    );
    name_it(&mirror.one, "1", &first.manifest);
    name_it(&mirror.one, "2", &second.manifest);
    mirror.pull("1").await;
    let alone = summary(&mirror, "1").await;
    assert_eq!((alone.bytes, alone.own_bytes), (first.bytes, first.bytes));
    mirror.pull("2").await;
    for (text, image) in [("1", &first), ("2", &second)] {
        let summary = summary(&mirror, text).await;
        assert_eq!(summary.bytes, image.bytes, "{text}");
        assert_eq!(summary.own_bytes, image.bytes - 1_000, "{text}");
        assert!(summary.complete && !summary.pinned);
    }
    // What is told would be freed is what is freed.
    let before = mirror.usage().await.bytes;
    let own_bytes = summary(&mirror, "1").await.own_bytes;
    mirror.cache.delete(&one(), &reference("1")).await.unwrap();
    assert_eq!(before - mirror.usage().await.bytes, own_bytes);
    assert_eq!(mirror.usage().await.bytes, second.bytes);
}

#[tokio::test]
async fn an_index_tells_its_platforms_and_which_of_them_are_held() {
    let mirror = kept();
    let amd = add_image(&mirror.one, "a", "linux/amd64", &[sample(500, 1)]);
    let arm = add_image(&mirror.one, "b", "linux/arm64", &[sample(700, 2)]);
    let index = add_index(
        &mirror.one,
        &[("linux/amd64", &amd), ("linux/arm64/v8", &arm)],
    );
    name_it(&mirror.one, "1", &index);
    mirror.get("1").await.unwrap();
    let nothing = summary(&mirror, "1").await;
    assert!(!nothing.complete);
    assert_eq!(nothing.bytes, index.descriptor().size);
    mirror.pull("1").await;
    let detail = mirror
        .cache
        .image(&one(), &reference("1"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(platforms(&detail.summary), ["linux/amd64"]);
    assert!(detail.summary.complete && !detail.truncated);
    assert_eq!(detail.summary.bytes, index.descriptor().size + amd.bytes);
    assert_eq!(detail.summary.own_bytes, detail.summary.bytes);
    let told: Vec<_> = detail
        .manifests
        .iter()
        .map(|of| {
            let platform = of.platform.as_ref().map(ToString::to_string);
            (of.digest, platform, of.held, of.is_index, of.blobs.len())
        })
        .collect();
    assert_eq!(
        told,
        [
            (index.digest(), None, true, true, 0),
            (amd.digest(), Some("linux/amd64".to_owned()), true, false, 2),
            (
                arm.digest(),
                Some("linux/arm64".to_owned()),
                false,
                false,
                0
            ),
        ]
    );
    let held = &detail.manifests[1];
    assert_eq!((held.bytes, held.held_bytes), (amd.bytes, amd.bytes));
    assert_eq!(detail.manifests[2].bytes, arm.manifest.descriptor().size);
    assert_eq!(detail.manifests[2].held_bytes, 0);
}

#[tokio::test]
async fn a_manifest_of_its_own_has_the_platform_of_its_configuration() {
    let mirror = kept();
    let image = add_image(&mirror.one, "a", "linux/arm/v7", &[sample(500, 1)]);
    name_it(&mirror.one, "1", &image.manifest);
    mirror.pull("1").await;
    for text in ["1", &image.digest().to_string()] {
        assert_eq!(
            platforms(&summary(&mirror, text).await),
            ["linux/arm/v7"],
            "{text}"
        );
    }
}

#[tokio::test]
async fn what_two_indexes_list_goes_with_neither() {
    let mirror = kept();
    let image = add_image(&mirror.one, "a", "linux/amd64", &[sample(500, 1)]);
    let other = add_image(&mirror.one, "b", "linux/arm64", &[sample(500, 2)]);
    let first = add_index(&mirror.one, &[("linux/amd64", &image)]);
    let second = add_index(
        &mirror.one,
        &[("linux/amd64", &image), ("linux/arm64", &other)],
    );
    name_it(&mirror.one, "1", &first);
    name_it(&mirror.one, "2", &second);
    mirror.pull("1").await;
    mirror.pull("2").await;
    let summary = summary(&mirror, "1").await;
    assert_eq!(summary.bytes, first.descriptor().size + image.bytes);
    assert_eq!(summary.own_bytes, first.descriptor().size);
}

/// A pin does not make an image's own bytes anybody else's.
#[tokio::test]
async fn what_is_pinned_has_bytes_of_its_own_still() {
    let image_pin = |text: &str| Pin::parse(&format!("one.example/library/app:{text}")).unwrap();
    let pattern = Pin::parse("one.example/library/*").unwrap();
    for pin in [image_pin("1"), pattern] {
        let mirror = kept();
        let image = add_image(&mirror.one, "a", "linux/amd64", &[sample(5_000, 1)]);
        let index = add_index(&mirror.one, &[("linux/amd64", &image)]);
        name_it(&mirror.one, "1", &index);
        mirror.pull("1").await;
        let before = summary(&mirror, "1").await;
        assert_eq!(before.own_bytes, index.descriptor().size + image.bytes);
        mirror.cache.pin(pin.clone()).await.unwrap();
        let pinned = summary(&mirror, "1").await;
        assert!(pinned.pinned);
        assert_eq!(pinned.own_bytes, before.own_bytes, "{pin}");
    }
    // What stays because of a pin of its own is not told to go with the rest.
    let mirror = kept();
    let image = add_image(&mirror.one, "a", "linux/amd64", &[sample(5_000, 1)]);
    let index = add_index(&mirror.one, &[("linux/amd64", &image)]);
    name_it(&mirror.one, "1", &index);
    mirror.pull("1").await;
    let pin = format!("one.example/library/app@{}", image.digest());
    mirror.cache.pin(Pin::parse(&pin).unwrap()).await.unwrap();
    let summary = summary(&mirror, "1").await;
    assert_eq!(summary.own_bytes, index.descriptor().size);
}

#[tokio::test]
async fn times_are_those_of_the_tag_and_of_the_last_pull() {
    let mirror = kept_with(ttl(60), Limits::default());
    push_image(&mirror.one, "1", 100, 1);
    let at = |seconds: u64| Timestamp::from_millis(1_700_000_000_000 + seconds * 1_000);
    mirror.pull("1").await;
    mirror.clock.advance(Duration::from_secs(61));
    mirror.pull("1").await;
    mirror.clock.advance(Duration::from_secs(30));
    mirror.pull("1").await;
    mirror.clock.advance(Duration::from_secs(1_000));
    let summary = summary(&mirror, "1").await;
    assert_eq!(summary.fetched_at, Some(at(0)));
    assert_eq!(summary.validated_at, Some(at(61)));
    assert_eq!(summary.accessed_at, Some(at(91)));
}

#[tokio::test]
async fn a_pin_shows_on_what_it_holds() {
    let mirror = kept();
    let image = push_image(&mirror.one, "1", 100, 1);
    let index = add_index(&mirror.one, &[("linux/amd64", &image)]);
    name_it(&mirror.one, "2", &index);
    mirror.pull("1").await;
    mirror.pull("2").await;
    let digest = image.digest().to_string();
    for (pin, expected) in [
        ("one.example/library/app:1".to_owned(), [true, false, true]),
        // An index holds what it lists.
        ("one.example/library/app:2".to_owned(), [true, true, true]),
        (
            format!("one.example/library/app@{digest}"),
            [true, false, true],
        ),
        ("one.example/library/*:2".to_owned(), [true, true, true]),
        ("one.example/other/*".to_owned(), [false, false, false]),
    ] {
        let parsed = Pin::parse(&pin).unwrap();
        let store = mirror.store.inner();
        store
            .put_pin(parsed.clone(), Timestamp::default())
            .await
            .unwrap();
        let mut pinned = Vec::new();
        for text in ["1", "2", &digest] {
            pinned.push(summary(&mirror, text).await.pinned);
        }
        assert_eq!(pinned, expected, "{pin}");
        store.remove_pin(&parsed).await.unwrap();
    }
}

#[tokio::test]
async fn images_and_repositories_come_in_pages() {
    let limits = Limits {
        page_entries_max: 3,
        ..Limits::default()
    };
    let mirror = kept_with(ttl(60), limits);
    for number in 1..=4 {
        push_image(&mirror.one, &format!("v{number}"), 100, number);
        mirror.pull(&format!("v{number}")).await;
    }
    let tags = |images: Vec<ImageSummary>| {
        let tags = images.into_iter().map(|image| match image.reference {
            Reference::Tag(tag) => tag.to_string(),
            Reference::Digest(_) => panic!("a tag"),
        });
        tags.collect::<Vec<_>>()
    };
    let first = mirror.cache.images(&one(), None, 100).await.unwrap();
    assert_eq!(tags(first), ["v1", "v2", "v3"]);
    let rest = mirror
        .cache
        .images(&one(), Some(&tag("v3")), 100)
        .await
        .unwrap();
    assert_eq!(tags(rest), ["v4"]);
    let page = mirror
        .cache
        .images(&one(), Some(&tag("v1")), 1)
        .await
        .unwrap();
    assert_eq!(tags(page), ["v2"]);

    let all = mirror.cache.repositories(None, None, 100).await.unwrap();
    let usage = mirror.usage().await;
    let [only] = &all[..] else {
        panic!("one");
    };
    assert_eq!(
        (&only.origin, only.bytes, only.tags),
        (&one(), usage.bytes, 4)
    );
    let none = mirror
        .cache
        .repositories(None, Some(&one()), 100)
        .await
        .unwrap();
    assert_eq!(none, []);
    let elsewhere = origin("two.example", "library/app");
    let of_two = mirror
        .cache
        .repositories(Some(elsewhere.upstream()), None, 100);
    assert_eq!(of_two.await.unwrap(), []);
}

#[tokio::test]
async fn what_was_pulled_by_digest_is_found_without_a_tag() {
    let mirror = kept();
    let tagged = push_image(&mirror.one, "1", 100, 1);
    mirror.pull("1").await;
    let listed = add_image(&mirror.one, "a", "linux/amd64", &[sample(100, 2)]);
    let index = add_index(&mirror.one, &[("linux/amd64", &listed)]);
    let alone = add_image(&mirror.one, "b", "linux/amd64", &[sample(100, 3)]);
    for digest in [tagged.digest(), index.digest(), alone.digest()] {
        mirror.pull(&digest.to_string()).await;
    }
    let mut expected = [index.digest(), alone.digest()];
    expected.sort();
    let page = mirror.cache.untagged(&one(), None, 10).await.unwrap();
    let found: Vec<_> = page.images.iter().map(|image| image.digest).collect();
    assert_eq!((found, page.next), (expected.to_vec(), None));
    assert!(page.images.iter().all(|image| image.complete));
    let first = mirror.cache.untagged(&one(), None, 1).await.unwrap();
    assert_eq!(first.images[0].digest, expected[0]);
    let next = first.next.unwrap();
    let second = mirror.cache.untagged(&one(), Some(next), 10).await.unwrap();
    assert_eq!(second.images[0].digest, expected[1]);
    assert_eq!((second.images.len(), second.next), (1, None));
}

#[tokio::test]
async fn what_is_not_there_is_none_and_what_cannot_be_told_is_said() {
    let mirror = kept();
    let image = push_image(&mirror.one, "1", 100, 1);
    mirror.pull("1").await;
    assert_eq!(
        mirror.cache.image(&one(), &reference("2")).await.unwrap(),
        None
    );
    // It is kept, but not linked there.
    let elsewhere = origin("one.example", "library/other");
    let digest = Reference::Digest(image.digest());
    assert_eq!(mirror.cache.image(&elsewhere, &digest).await.unwrap(), None);
    let plain = Mirror::new();
    let error = plain.cache.image(&one(), &reference("1")).await;
    assert!(matches!(error, Err(CacheError::NoUpkeep)));
}

#[tokio::test]
async fn an_image_of_too_many_parts_is_looked_at_in_part() {
    let limits = Limits {
        image_parts_max: 3,
        ..Limits::default()
    };
    let mirror = kept_with(ttl(60), limits);
    let layers: Vec<_> = (0..10).map(|seed| sample(100, seed)).collect();
    let image = add_image(&mirror.one, "a", "linux/amd64", &layers);
    name_it(&mirror.one, "1", &image.manifest);
    mirror.pull("1").await;
    let detail = mirror
        .cache
        .image(&one(), &reference("1"))
        .await
        .unwrap()
        .unwrap();
    assert!(detail.truncated);
    assert_eq!(detail.manifests[0].blobs.len(), 2);
}

#[tokio::test]
async fn looking_is_no_access_and_asks_nobody() {
    let mirror = kept();
    let image = push_image(&mirror.one, "1", 100, 1);
    mirror.pull("1").await;
    let targets = [
        LinkTarget::Manifest(image.digest()),
        LinkTarget::Blob(image.config),
        LinkTarget::Blob(image.layers[0].0),
    ];
    let records = async || {
        let mut records = Vec::new();
        for target in targets {
            records.push(mirror.store.inner().record(target).await.unwrap());
        }
        records
    };
    let (before, calls) = (records().await, mirror.one.calls());
    mirror.clock.advance(Duration::from_secs(60));
    mirror.cache.images(&one(), None, 10).await.unwrap();
    summary(&mirror, "1").await;
    mirror.cache.repositories(None, None, 10).await.unwrap();
    assert_eq!(records().await, before);
    assert_eq!(mirror.one.calls(), calls);
}

#[tokio::test]
async fn a_blob_that_is_gone_is_not_held() {
    let mirror = kept();
    let image = push_image(&mirror.one, "1", 100, 1);
    mirror.pull("1").await;
    let layer: Digest = image.layers[0].0;
    mirror.store.inner().remove(layer).await.unwrap();
    let detail = mirror
        .cache
        .image(&one(), &reference("1"))
        .await
        .unwrap()
        .unwrap();
    assert!(!detail.summary.complete);
    assert_eq!(detail.summary.platforms, []);
    assert_eq!(detail.summary.bytes, image.bytes - 100);
    let blobs: Vec<_> = detail.manifests[0]
        .blobs
        .iter()
        .map(|blob| blob.held)
        .collect();
    assert_eq!(blobs, [true, false]);
}
