//! `warm`: what it fetches, and how often; what it leaves; and what becomes of failures.

use std::time::Duration;

use bytes::Bytes;
use registry_core::cache::{WarmOptions, Warmed};
use registry_core::testing::content::sample;
use registry_core::testing::{Act, Call, Calls, ContentScript, Fault, Gate, StoreCall};
use registry_core::{
    CacheError, CacheStatus, Digest, Limits, Manifest, MediaType, Platform, Progress, Referrers,
    StoreError, UpstreamError,
};

use super::kept::{Image, add_image, add_index, kept, kept_with, name_it, push_image, reference};
use super::support::{Mirror, one, read, repository, tag, ttl, unavailable};

async fn warm(mirror: &Mirror, text: &str, platforms: &[&str]) -> Result<Warmed, CacheError> {
    let platforms = platforms.iter().map(|text| Platform::parse(text).unwrap());
    let options = WarmOptions {
        platforms: platforms.collect(),
        attached: false,
    };
    warm_with(mirror, text, &options, &Progress::new()).await
}

async fn warm_with(
    mirror: &Mirror,
    text: &str,
    options: &WarmOptions,
    progress: &Progress,
) -> Result<Warmed, CacheError> {
    let (origin, reference) = (one(), reference(text));
    mirror
        .cache
        .warm(&origin, &reference, options, progress)
        .await
}

/// Questions and downloads since then.
fn since(mirror: &Mirror, before: Calls) -> (usize, usize, usize) {
    let now = mirror.one.calls();
    (
        now.resolve - before.resolve,
        now.manifest - before.manifest,
        now.blob - before.blob,
    )
}

fn platforms_of(warmed: &Warmed) -> Vec<String> {
    warmed.platforms.iter().map(ToString::to_string).collect()
}

/// An index under tag `1` of one image for each platform, which share a layer.
fn push_index(mirror: &Mirror, platforms: &[&str]) -> (Manifest, Vec<Image>) {
    let shared = sample(100_000, 0);
    let images: Vec<_> = (1..)
        .zip(platforms)
        .map(|(seed, platform)| {
            add_image(
                &mirror.one,
                platform,
                platform,
                &[shared.clone(), sample(50_000, seed)],
            )
        })
        .collect();
    let listed: Vec<_> = platforms.iter().copied().zip(&images).collect();
    let index = add_index(&mirror.one, &listed);
    name_it(&mirror.one, "1", &index);
    (index, images)
}

#[tokio::test]
async fn what_was_warmed_is_pulled_without_the_upstream() {
    let mirror = kept_with(ttl(60), Limits::default());
    let (index, images) = push_index(&mirror, &["linux/amd64", "linux/arm64"]);
    let progress = Progress::new();
    let options = WarmOptions::default();
    let warmed = warm_with(&mirror, "1", &options, &progress).await.unwrap();
    // Two configurations, two layers, and one that both have.
    assert_eq!(
        (warmed.manifests, warmed.blobs, warmed.fetched_blobs),
        (3, 5, 5)
    );
    assert_eq!(warmed.digest, index.digest());
    assert_eq!(platforms_of(&warmed), ["linux/amd64", "linux/arm64"]);
    assert_eq!(since(&mirror, Calls::default()), (1, 3, 5));
    let made = progress.made();
    assert_eq!((made.items, made.items_total), (8, Some(8)));
    assert_eq!(
        (made.bytes, made.bytes_total),
        (warmed.bytes, Some(warmed.bytes))
    );
    let calls = mirror.one.calls();
    assert_eq!(calls.blob_bytes, warmed.bytes);
    for image in &images {
        let served = mirror.get(&image.digest().to_string()).await.unwrap();
        assert_eq!(served.status, CacheStatus::Hit);
        mirror.pull_blobs(&served.value).await;
    }
    assert_eq!(mirror.one.calls(), calls);
}

#[tokio::test]
async fn what_is_held_costs_the_question_for_the_tag_only() {
    let mirror = kept();
    push_index(&mirror, &["linux/amd64", "linux/arm64"]);
    warm(&mirror, "1", &[]).await.unwrap();
    let before = mirror.one.calls();
    let warmed = warm(&mirror, "1", &[]).await.unwrap();
    assert_eq!(
        (warmed.blobs, warmed.fetched_blobs, warmed.fetched_bytes),
        (5, 0, 0)
    );
    assert_eq!(since(&mirror, before), (1, 0, 0));
}

#[tokio::test]
async fn a_fresh_tag_is_not_asked_for() {
    let mirror = kept_with(ttl(60), Limits::default());
    push_image(&mirror.one, "1", 1_000, 1);
    mirror.get("1").await.unwrap();
    let before = mirror.one.calls();
    let warmed = warm(&mirror, "1", &[]).await.unwrap();
    assert_eq!(warmed.fetched_blobs, 2);
    assert_eq!(since(&mirror, before), (0, 0, 2));
}

#[tokio::test]
async fn only_the_platforms_asked_for_are_fetched() {
    let all = [
        "linux/amd64",
        "linux/arm64/v8",
        "linux/arm/v6",
        "linux/s390x",
        "windows/amd64",
    ];
    for (platforms, chosen) in [
        (&["linux/amd64"][..], &["linux/amd64"][..]),
        (&["linux/arm64"], &["linux/arm64"]),
        (&["linux/aarch64/v8"], &["linux/arm64"]),
        // A machine of a later variant runs it.
        (&["linux/arm/v7"], &["linux/arm/v6"]),
        (
            &["linux/amd64", "linux/s390x"],
            &["linux/amd64", "linux/s390x"],
        ),
        // What is not there is left out, as long as something is.
        (&["linux/riscv64", "windows/amd64"], &["windows/amd64"]),
    ] {
        let mirror = kept();
        push_index(&mirror, &all);
        let warmed = warm(&mirror, "1", platforms).await.unwrap();
        assert_eq!(platforms_of(&warmed), chosen, "{platforms:?}");
        let count = chosen.len();
        // A layer that all share, and a configuration and a layer each.
        assert_eq!(
            since(&mirror, Calls::default()),
            (1, 1 + count, 1 + 2 * count),
            "{platforms:?}"
        );
    }
}

#[tokio::test]
async fn an_index_without_the_platform_is_an_error_and_an_image_is_fetched_anyway() {
    let mirror = kept();
    push_index(&mirror, &["linux/amd64"]);
    let error = warm(&mirror, "1", &["linux/arm64"]).await;
    assert!(matches!(error, Err(CacheError::NoSuchPlatform)));
    assert_eq!(since(&mirror, Calls::default()), (1, 1, 0));
    push_image(&mirror.one, "2", 1_000, 9);
    let warmed = warm(&mirror, "2", &["linux/arm64"]).await.unwrap();
    assert_eq!(warmed.fetched_blobs, 2);
}

#[tokio::test]
async fn a_pull_and_a_warming_share_each_download() {
    let mirror = kept_with(ttl(60), Limits::default());
    let layer = sample(300_000, 1);
    let image = add_image(
        &mirror.one,
        "a",
        "linux/amd64",
        std::slice::from_ref(&layer),
    );
    name_it(&mirror.one, "1", &image.manifest);
    mirror.get("1").await.unwrap();
    let gate = Gate::new();
    let script = ContentScript::held_after(100_000, &gate);
    mirror.one.always(Call::Blob, Act::Content(script));
    let digest = image.layers[0].0;
    let pulled = async {
        let served = mirror.blob(&one(), digest, None).await.unwrap();
        gate.open();
        read(served.value).await.unwrap()
    };
    let (warmed, pulled) = tokio::join!(warm(&mirror, "1", &[]), pulled);
    assert_eq!(pulled, layer);
    assert_eq!(warmed.unwrap().blobs, 2);
    assert_eq!(since(&mirror, Calls::default()), (1, 1, 2));
    assert_eq!(
        mirror.one.calls().blob_bytes,
        image.bytes - image.manifest.descriptor().size
    );
}

#[tokio::test]
async fn no_more_blobs_are_fetched_at_a_time_than_is_set() {
    let limits = Limits {
        warm_blobs_max: 2,
        ..Limits::default()
    };
    let mirror = kept_with(ttl(60), limits);
    let layers: Vec<_> = (0..5).map(|seed| sample(1_000, seed)).collect();
    let image = add_image(&mirror.one, "a", "linux/amd64", &layers);
    name_it(&mirror.one, "1", &image.manifest);
    let gate = Gate::new();
    mirror.one.always(Call::Blob, Act::Wait(gate.clone()));
    let look = async {
        while mirror.one.calls().blob < 2 {
            tokio::task::yield_now().await;
        }
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        let (blobs, fills) = (mirror.one.calls().blob, mirror.cache.fills_active());
        assert_eq!((blobs, fills), (2, 2));
        gate.open();
    };
    let (warmed, ()) = tokio::join!(warm(&mirror, "1", &[]), look);
    assert_eq!(warmed.unwrap().fetched_blobs, 6);
}

#[tokio::test(start_paused = true)]
async fn cancelling_leaves_what_others_follow_alone() {
    let mirror = kept_with(ttl(60), Limits::default());
    let layer = sample(300_000, 1);
    let image = add_image(
        &mirror.one,
        "a",
        "linux/amd64",
        std::slice::from_ref(&layer),
    );
    name_it(&mirror.one, "1", &image.manifest);
    let gate = Gate::new();
    let script = ContentScript::held_after(100_000, &gate);
    mirror.one.always(Call::Blob, Act::Content(script));
    let progress = Progress::new();
    let options = WarmOptions::default();
    let cancel = async {
        while mirror.one.calls().blob < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let served = mirror.blob(&one(), image.layers[0].0, None).await.unwrap();
        assert_eq!(served.status, CacheStatus::Follow);
        progress.cancel();
        served
    };
    let warming = warm_with(&mirror, "1", &options, &progress);
    let (warmed, served) = tokio::join!(warming, cancel);
    assert!(warmed.unwrap().cancelled);
    gate.open();
    assert_eq!(read(served.value).await.unwrap(), layer);
    mirror.over().await;
    assert!(mirror.holds_blob(image.layers[0].0).await);
    assert_eq!(mirror.one.calls().blob, 2);
}

#[tokio::test]
async fn a_failure_is_told_and_the_rest_is_fetched() {
    let mirror = kept();
    let layers: Vec<_> = (0..5).map(|seed| sample(1_000, seed)).collect();
    let image = add_image(&mirror.one, "a", "linux/amd64", &layers);
    name_it(&mirror.one, "1", &image.manifest);
    mirror.one.once(Call::Blob, Act::Fail(unavailable()));
    let error = warm(&mirror, "1", &[]).await;
    assert!(matches!(
        error,
        Err(CacheError::Upstream(UpstreamError::Unavailable { .. }))
    ));
    assert_eq!(mirror.usage().await.blobs, 5);
    assert_eq!(warm(&mirror, "1", &[]).await.unwrap().fetched_blobs, 1);
    assert!(matches!(
        warm(&mirror, "2", &[]).await,
        Err(CacheError::NotFound)
    ));
}

#[tokio::test]
async fn what_the_store_does_not_take_is_no_success() {
    let mirror = kept();
    push_image(&mirror.one, "1", 1_000, 1);
    mirror.get("1").await.unwrap();
    mirror
        .store
        .faults()
        .fail_always(StoreCall::Commit, Fault::NoSpace);
    let error = warm(&mirror, "1", &[]).await;
    assert!(matches!(
        error,
        Err(CacheError::Store(StoreError::NoSpace { .. }))
    ));
}

/// A manifest attached to another, with one layer.
fn attach(mirror: &Mirror, subject: Digest, layer: Bytes) -> Manifest {
    let size = layer.len();
    let layer = mirror.one.add_blob(&repository(), layer);
    let json = format!(
        r#"{{"mediaType":"{}","artifactType":"application/x","layers":[{{"digest":"{layer}","size":{size}}}],"subject":{{"digest":"{subject}"}}}}"#,
        MediaType::OCI_MANIFEST,
    );
    let manifest = Manifest::of_bytes(None, Bytes::from(json)).unwrap();
    mirror.one.add_manifest(&repository(), manifest.clone());
    manifest
}

#[tokio::test]
async fn signatures_come_along_where_they_are_wanted() {
    let mirror = kept();
    let image = push_image(&mirror.one, "1", 1_000, 1);
    let listed = attach(&mirror, image.digest(), sample(100, 7));
    let tagged = attach(&mirror, image.digest(), sample(100, 8));
    let descriptor = listed.descriptor();
    let index = format!(
        r#"{{"manifests":[{{"mediaType":"{}","digest":"{}","size":{}}}]}}"#,
        descriptor.media_type, descriptor.digest, descriptor.size
    );
    let referrers = Referrers::of_index(None, index.as_bytes()).unwrap();
    mirror
        .one
        .set_referrers(&repository(), image.digest(), referrers);
    let signature = tag(&format!(
        "{}.sig",
        image.digest().to_string().replace(':', "-")
    ));
    mirror
        .one
        .set_tag(&repository(), &signature, tagged.digest());

    let plain = warm(&mirror, "1", &[]).await.unwrap();
    assert_eq!((plain.manifests, plain.blobs), (1, 2));
    assert_eq!(mirror.one.calls().referrers, 0);
    let options = WarmOptions {
        attached: true,
        ..WarmOptions::default()
    };
    let progress = Progress::new();
    let warmed = warm_with(&mirror, "1", &options, &progress).await.unwrap();
    assert_eq!(
        (warmed.manifests, warmed.blobs, warmed.fetched_blobs),
        (3, 4, 2)
    );
    // They are there when the upstream is not.
    mirror.one.set_down(Some(unavailable()));
    let served = mirror.get(signature.as_str()).await.unwrap();
    assert_eq!(served.value, tagged);
    let served = mirror.get(&listed.digest().to_string()).await.unwrap();
    assert_eq!((served.value, served.status), (listed, CacheStatus::Hit));
}
