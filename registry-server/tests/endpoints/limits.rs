//! Registries that limit requests (429), and tell how many are left.

use std::time::Duration;

use http::Method;
use registry_core::UpstreamError;
use registry_server::testing::{Fault, Gate, Match, Object, Times};

use crate::support::{Asked, registry};

fn limited(retry_after: Option<&str>) -> Fault {
    match retry_after {
        Some(text) => Fault::status_with(429, &[("Retry-After", text)]),
        None => Fault::status(429),
    }
}

#[track_caller]
fn wait(error: &UpstreamError) -> Duration {
    match error {
        UpstreamError::RateLimited { retry_after } => retry_after.unwrap(),
        error => panic!("{error}"),
    }
}

/// Lets time pass for the upstream: nothing is under way that it could be too long for.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_limit_is_kept_to_for_as_long_as_it_says() {
    let (registry, image) = registry().await;
    let (manifest, blob) = (image.root().digest, image.layers[0].digest);
    let upstream = Asked::of(&[&registry]);
    registry.fault(Match::any(), Times::Once, limited(Some("100")));
    let second = Duration::from_secs(1);
    assert_eq!(
        wait(&upstream.manifest(manifest).await.unwrap_err()),
        100 * second
    );
    for _ in 0..10 {
        let wait = wait(&upstream.manifest(manifest).await.unwrap_err());
        assert!((90 * second..=100 * second).contains(&wait), "{wait:?}");
    }
    assert_eq!(registry.total(), 1);
    // Docker Hub counts what is fetched, and nothing else.
    assert!(upstream.has_manifest(manifest).await.unwrap());
    assert!(upstream.resolve("latest").await.is_ok());
    assert_eq!(upstream.blob(blob).await.unwrap(), Some(200_000));
    assert_eq!(upstream.tags().await.unwrap().unwrap().tags.len(), 1);
    assert_eq!(registry.total(), 5);

    pass(99 * second - SLACK).await;
    upstream.manifest(manifest).await.unwrap_err();
    assert_eq!(registry.total(), 5);
    pass(second + SLACK).await;
    assert!(upstream.manifest(manifest).await.unwrap().is_some());
    assert_eq!(registry.total(), 6);
}

/// What the test itself may take.
const SLACK: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_limit_without_an_end_is_tried_out_by_one_question_at_a_time() {
    let (registry, image) = registry().await;
    let digest = image.layers[0].digest;
    let upstream = Asked::of(&[&registry]);
    let stat = || upstream.stat_blob(digest);
    registry.fault(Match::any(), Times::Next(3), limited(None));
    for round in 0..3 {
        let wait = wait(&stat().await.unwrap_err());
        let expected = Duration::from_secs(1 << round);
        let spread = expected.mul_f64(0.8)..=expected.mul_f64(1.2);
        assert!(spread.contains(&wait), "{wait:?}");
        stat().await.unwrap_err();
        assert_eq!(registry.total(), round + 1);
        pass(wait).await;
    }
    // The time is up, and one question finds out; the others wait for what becomes of it.
    let gate = Gate::new();
    let hold = Fault::Hold { gate: gate.clone() };
    registry.fault(Match::any(), Times::Once, hold);
    registry.reset_counters();
    let others = async {
        registry.wait_for(|stats| stats.in_flight == 1).await;
        for _ in 0..5 {
            assert_eq!(wait(&stat().await.unwrap_err()), Duration::from_secs(1));
        }
        gate.open();
    };
    let (trial, ()) = tokio::join!(stat(), others);
    assert!(trial.unwrap());
    assert_eq!(registry.total(), 1);
    for _ in 0..5 {
        assert!(stat().await.unwrap());
    }
    assert_eq!(registry.total(), 6);
}

#[tokio::test]
async fn a_trial_that_is_dropped_is_followed_by_another() {
    let (registry, image) = registry().await;
    let digest = image.layers[0].digest;
    let upstream = Asked::of(&[&registry]);
    registry.fault(Match::any(), Times::Once, limited(Some("5")));
    upstream.stat_blob(digest).await.unwrap_err();
    pass(Duration::from_secs(5)).await;
    let hold = Fault::Hold { gate: Gate::new() };
    registry.fault(Match::any(), Times::Once, hold);
    tokio::select! {
        _ = upstream.stat_blob(digest) => panic!("nothing answers it"),
        _ = registry.wait_for(|stats| stats.in_flight == 1) => {}
    }
    assert!(upstream.stat_blob(digest).await.unwrap());
}

#[tokio::test]
async fn meanwhile_the_next_endpoint_is_asked() {
    let (first, image) = registry().await;
    let second = first.start_storage().await;
    let digest = image.root().digest;
    let upstream = Asked::of(&[&first, &second]);
    first.fault(Match::any(), Times::Always, limited(Some("100")));
    for _ in 0..10 {
        assert!(upstream.manifest(digest).await.unwrap().is_some());
    }
    assert_eq!((first.total(), second.total()), (1, 10));
    // Where both are limited, the shorter wait is told.
    second.fault(Match::any(), Times::Always, limited(Some("7")));
    let wait = wait(&upstream.manifest(digest).await.unwrap_err());
    assert_eq!(wait, Duration::from_secs(7));
    assert_eq!((first.total(), second.total()), (1, 11));
}

#[tokio::test]
async fn a_storage_that_limits_is_left_alone_as_well() {
    let (registry, image) = registry().await;
    registry.behave(|behaviour| behaviour.redirect_blobs = Some(Default::default()));
    let digest = image.layers[0].digest;
    registry.fault(Match::storage(digest), Times::Once, limited(Some("100")));
    let upstream = Asked::of(&[&registry]);
    for _ in 0..5 {
        let wait = wait(&upstream.blob(digest).await.unwrap_err());
        assert!(wait > Duration::from_secs(80), "{wait:?}");
    }
    assert_eq!(registry.count(Method::GET, Object::Blob), 1);
    assert_eq!(registry.count(Method::GET, Object::Storage), 1);
}

#[tokio::test]
async fn quotas_are_read_from_answers_about_manifests() {
    let (registry, image) = registry().await;
    let manifest = image.root().digest;
    let upstream = Asked::of(&[&registry]);
    assert!(upstream.upstream.quotas().is_empty());
    let headers = |remaining: &'static str| {
        [
            ("ratelimit-limit", "100;w=21600"),
            ("ratelimit-remaining", remaining),
            ("docker-ratelimit-source", "192.0.2.7"),
        ]
    };
    let told = || {
        let [quota] = &upstream.upstream.quotas()[..] else {
            panic!("one");
        };
        assert_eq!(
            (quota.endpoint.as_str(), quota.credential.as_str()),
            (registry.host().as_str(), "anonymous")
        );
        let quota = &quota.quota;
        assert_eq!(quota.window, Some(Duration::from_secs(21_600)));
        assert_eq!(quota.source.as_deref(), Some("192.0.2.7"));
        (quota.limit, quota.remaining)
    };
    let fault = Fault::headers(&headers("76;w=21600"));
    registry.fault(Match::any(), Times::Once, fault);
    upstream.resolve("latest").await.unwrap();
    assert_eq!(told(), (100, 76));
    // Others say nothing of manifests.
    let fault = Fault::headers(&headers("1"));
    registry.fault(Match::any(), Times::Once, fault);
    upstream.stat_blob(image.layers[0].digest).await.unwrap();
    assert_eq!(told(), (100, 76));
    let fault = Fault::status_with(429, &headers("0;w=21600"));
    registry.fault(Match::any(), Times::Once, fault);
    upstream.manifest(manifest).await.unwrap_err();
    assert_eq!(told(), (100, 0));
}
