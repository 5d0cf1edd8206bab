//! What people want kept is kept, with all that it needs.

use registry_core::CacheError;

use super::*;

/// Pulls images, pins, evicts all that may go; which of them are left.
async fn left<'a>(keeper: &Keeper, images: &'a [Image], pins: &[&str]) -> Vec<&'a str> {
    for image in images {
        keeper.pull(image).await;
    }
    for pin in pins {
        keeper.pin(pin).await;
    }
    keeper.collect(0).await;
    keeper.kept(images).await
}

#[tokio::test]
async fn a_pin_by_tag_holds_what_the_tag_names() {
    let keeper = Setup::default().build();
    let images = [keeper.push_own("a", 1_000), keeper.push_own("b", 1_000)];
    let pins = ["one.example/library/app:a"];
    assert_eq!(left(&keeper, &images, &pins).await, ["a"]);
    // The tag moves: the pin goes with it.
    let moved = keeper.push(&app(), "a", &[sample(1_000, 77)]);
    keeper.pull(&moved).await;
    assert!(keeper.has(&images[0]).await);
    keeper.clock.advance(STEP);
    keeper.collect(0).await;
    assert!(!keeper.has(&images[0]).await);
    assert_eq!(keeper.kept(&[moved]).await, ["a"]);
}

#[tokio::test]
async fn a_pin_by_digest_holds_it_whatever_its_tags() {
    let keeper = Setup::default().build();
    let images = [keeper.push_own("a", 1_000), keeper.push_own("b", 1_000)];
    let pin = format!("one.example/library/app@{}", images[0].digest());
    assert_eq!(left(&keeper, &images, &[&pin]).await, ["a"]);
    let moved = keeper.push(&app(), "a", &[]);
    keeper.pull(&moved).await;
    keeper.clock.advance(STEP);
    keeper.collect(0).await;
    assert_eq!(keeper.kept(&images).await, ["a"]);
    assert!(!keeper.has(&moved).await);
}

#[tokio::test]
async fn a_pattern_holds_all_that_it_stands_for() {
    for (pin, expected) in [
        ("one.example/library/*", vec!["v1", "v2", "w1"]),
        ("one.example/library/app:v*", vec!["v1", "v2"]),
        ("one.example/**:?1", vec!["v1", "w1"]),
        ("two.example/**", vec![]),
        ("one.example/*", vec![]),
    ] {
        let keeper = Setup::default().build();
        let images: Vec<_> = ["v1", "v2", "w1"]
            .iter()
            .map(|name| keeper.push_own(name, 1_000))
            .collect();
        assert_eq!(left(&keeper, &images, &[pin]).await, expected, "{pin}");
    }
}

#[tokio::test]
async fn a_pin_holds_the_manifests_that_an_index_lists() {
    let keeper = Setup::default().build();
    let one = keeper.push_own("one", 1_000);
    let two = keeper.push_own("two", 1_000);
    let other = keeper.push_own("other", 1_000);
    let index = push_index(&keeper, "index", &[&one, &two]);
    let outer = push_index(&keeper, "outer", &[&index]);
    for child in [&one, &two, &index] {
        pull_child(&keeper, child).await;
    }
    let images = [outer, other];
    let pins = ["one.example/library/app:outer"];
    assert_eq!(left(&keeper, &images, &pins).await, ["outer"]);
    assert_eq!(
        keeper.kept(&[one, two, index]).await,
        ["one", "two", "index"]
    );
}

#[tokio::test]
async fn a_pin_holds_what_is_attached_to_its_image() {
    let keeper = Setup::default().build();
    let image = keeper.push_own("image", 1_000);
    let other = keeper.push_own("other", 1_000);
    let index = push_index(&keeper, "index", &[&image]);
    let mut attached = Vec::new();
    for subject in [&image, &index] {
        let hash = subject.digest().encoded();
        for suffix in [".sig", ".att", ".sbom"] {
            let name = format!("sha256-{hash}{suffix}");
            let layer = sample(100, hash.len() as u64 + attached.len() as u64);
            attached.push(keeper.push(&app(), &name, &[layer]));
        }
        let digest = subject.digest();
        let json = format!(r#"{{"layers":[],"subject":{{"digest":"{digest}","size":7}}}}"#);
        let name = format!("referrer-{}", attached.len());
        attached.push(push_manifest(&keeper, &name, json));
    }
    let hash = other.digest().encoded();
    let loose = keeper.push(&app(), &format!("sha256-{hash}.sig"), &[]);
    pull_child(&keeper, &image).await;
    for image in &attached {
        keeper.pull(image).await;
    }
    let images = [index, other, loose];
    let pins = ["one.example/library/app:index"];
    assert_eq!(left(&keeper, &images, &pins).await, ["index"]);
    assert_eq!(keeper.kept(&attached).await.len(), attached.len());
    assert_eq!(keeper.kept(&[image]).await, ["image"]);
}

/// A pin may be there before its image, and what is unpinned goes like everything else.
#[tokio::test]
async fn pins_come_and_go() {
    let keeper = Setup::default().build();
    let image = keeper.push_own("a", 1_000);
    let pin = Pin::parse("one.example/library/app:a").unwrap();
    assert!(keeper.cache.pin(pin.clone()).await.unwrap());
    let since = keeper.cache.pins().await.unwrap();
    keeper.clock.advance(STEP);
    assert!(!keeper.cache.pin(pin.clone()).await.unwrap());
    assert_eq!(keeper.cache.pins().await.unwrap(), since, "since the first");
    keeper.pull(&image).await;
    assert!(keeper.collect(0).await.is_short);
    assert!(keeper.has(&image).await);
    assert!(keeper.cache.unpin(&pin).await.unwrap());
    assert!(!keeper.cache.unpin(&pin).await.unwrap());
    assert_eq!(keeper.cache.pins().await.unwrap(), []);
    assert_eq!(keeper.collect(0).await.count, 1);
}

#[tokio::test]
async fn pins_are_bounded() {
    let setup = Setup {
        limits: Limits {
            pins_max: 2,
            ..Limits::default()
        },
        ..Setup::default()
    };
    let keeper = setup.build();
    keeper.pin("one.example/library/app:a").await;
    keeper.pin("one.example/library/app:b").await;
    let pin = |tag| Pin::parse(&format!("one.example/library/app:{tag}")).unwrap();
    let refused = keeper.cache.pin(pin("c")).await;
    let is_refused = matches!(refused, Err(CacheError::TooManyPins { limit: 2 }));
    assert!(is_refused, "{refused:?}");
    assert!(!keeper.cache.pin(pin("a")).await.unwrap());
    keeper.cache.unpin(&pin("a")).await.unwrap();
    assert!(keeper.cache.pin(pin("c")).await.unwrap());
}
