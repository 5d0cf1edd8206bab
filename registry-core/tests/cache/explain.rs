//! `explain`: what it says of staged situations, that what it foresees is what comes, and that it
//! asks nobody and uses nothing.

use std::sync::Arc;
use std::time::Duration;

use registry_core::cache::{Explanation, NextPull, StaleReason, TagSaid, Verdict};
use registry_core::testing::content::sample;
use registry_core::testing::{Act, Call, Gate};
use registry_core::{
    Asked, BlobStore as _, CacheError, CacheStatus, Condition, InventoryStore as _,
    JournalStore as _, Limits, LinkTarget, ManifestStore as _, Removal, RemovalReason,
    UpstreamError, UpstreamPolicy,
};

use super::kept::{add_image, kept, kept_with, name_it, push_image, reference};
use super::support::{Mirror, hold, one, origin, repository, tag, ttl, unavailable};

const MINUTE: Duration = Duration::from_secs(60);

/// What is said of an image of `library/app`. Saying it costs the upstream nothing.
async fn explain(mirror: &Mirror, text: &str) -> Explanation {
    let before = mirror.one.calls();
    let explanation = mirror
        .cache
        .explain(&one(), &reference(text))
        .await
        .unwrap();
    assert_eq!(mirror.one.calls(), before, "nobody is asked");
    assert!(explanation.sentences().len() >= 2);
    explanation
}

/// Verdict and next pull in a word each.
fn words(explanation: &Explanation) -> (&'static str, &'static str) {
    (explanation.verdict.as_str(), explanation.next_pull.as_str())
}

fn said(explanation: &Explanation) -> Option<TagSaid> {
    explanation.last_answer.as_ref().map(|answer| answer.said)
}

#[tokio::test]
async fn what_is_fresh_is_a_hit() {
    let mirror = kept_with(ttl(120), Limits::default());
    mirror.one.set_endpoint("mirror.one.example");
    push_image(&mirror.one, "1", 1_000, 1);
    mirror.pull("1").await;
    mirror.clock.advance(MINUTE);
    let explanation = explain(&mirror, "1").await;
    assert_eq!(words(&explanation), ("cached", "hit"));
    assert_eq!(said(&explanation), Some(TagSaid::New));
    let until = explanation.fresh_until.unwrap();
    assert_eq!(until.since(explanation.at), MINUTE);
    let answer = explanation.last_answer.as_ref().unwrap();
    assert_eq!(answer.endpoint.as_deref(), Some("mirror.one.example"));
    assert_eq!(explanation.at.since(answer.at), MINUTE);
    let image = explanation.image.as_ref().unwrap();
    assert_eq!(
        explanation.at.since(image.summary.fetched_at.unwrap()),
        MINUTE
    );
    let layer = image.manifests[0].blobs.last().unwrap();
    assert_eq!(layer.endpoint.as_deref(), Some("mirror.one.example"));
    assert_eq!(
        explanation.sentences(),
        [
            "It is cached for linux/amd64.",
            "The next pull is served without asking one.example.",
            "It came from mirror.one.example 1 minute ago, and was last pulled 1 minute ago.",
            "The tag is fresh for 1 minute more.",
            "When it was last asked, 1 minute ago, mirror.one.example told what the tag names.",
        ]
    );
    assert_eq!(mirror.get("1").await.unwrap().status, CacheStatus::Hit);
}

#[tokio::test]
async fn what_is_not_fresh_is_revalidated() {
    let mirror = kept();
    push_image(&mirror.one, "1", 1_000, 1);
    mirror.pull("1").await;
    mirror.pull("1").await;
    let explanation = explain(&mirror, "1").await;
    assert_eq!(words(&explanation), ("cached", "revalidate"));
    assert_eq!(said(&explanation), Some(TagSaid::Unchanged));
    assert_eq!(explanation.fresh_until, None);
    assert_eq!(
        mirror.get("1").await.unwrap().status,
        CacheStatus::Revalidated
    );
}

#[tokio::test]
async fn a_tag_that_moved_is_said_to_have() {
    let mirror = kept();
    push_image(&mirror.one, "1", 1_000, 1);
    mirror.pull("1").await;
    push_image(&mirror.one, "1", 1_000, 2);
    mirror.pull("1").await;
    assert_eq!(said(&explain(&mirror, "1").await), Some(TagSaid::Moved));
}

#[tokio::test]
async fn what_is_held_is_served_stale_while_the_upstream_rests() {
    let mirror = kept();
    push_image(&mirror.one, "1", 1_000, 1);
    mirror.pull("1").await;
    mirror.one.once(Call::Resolve, Act::Fail(unavailable()));
    mirror.get("1").await.unwrap();
    for asked in [Asked::Tag, Asked::Manifest, Asked::Blob] {
        let condition = Condition::Resting {
            elapsed: MINUTE,
            what: "connection refused".to_owned(),
        };
        mirror.one.set_condition(asked, condition);
    }
    let explanation = explain(&mirror, "1").await;
    assert_eq!(words(&explanation), ("cached", "stale"));
    assert!(matches!(
        explanation.next_pull,
        NextPull::Stale(StaleReason::Unavailable)
    ));
    let answer = explanation.last_answer.clone().unwrap();
    assert_eq!(answer.said, TagSaid::Unavailable);
    assert!(answer.error.unwrap().contains("connection refused"));
    let sentences = explanation.sentences().join(" ");
    assert!(
        sentences.contains("has not been asked for 1 minute"),
        "{sentences}"
    );
    let served = mirror.get("1").await.unwrap();
    assert_eq!(served.status, CacheStatus::Stale(StaleReason::Unavailable));
    // What is not held has nothing to stand in for it.
    let explanation = explain(&mirror, "2").await;
    assert_eq!(words(&explanation), ("absent", "fail"));
    assert!(mirror.get("2").await.is_err());
}

#[tokio::test]
async fn what_is_gone_upstream_is_served_stale_while_that_is_believed() {
    let mirror = kept();
    push_image(&mirror.one, "1", 1_000, 1);
    mirror.pull("1").await;
    mirror.one.remove_tag(&repository(), &tag("1"));
    mirror.get("1").await.unwrap();
    let explanation = explain(&mirror, "1").await;
    assert_eq!(words(&explanation), ("cached", "stale"));
    assert!(matches!(
        explanation.next_pull,
        NextPull::Stale(StaleReason::Gone)
    ));
    assert!(explanation.believed_absent);
    assert_eq!(said(&explanation), Some(TagSaid::Absent));
    let served = mirror.get("1").await.unwrap();
    assert_eq!(served.status, CacheStatus::Stale(StaleReason::Gone));
    // Once it is not believed any more, it is asked about again.
    mirror.clock.advance(MINUTE);
    assert_eq!(
        words(&explain(&mirror, "1").await),
        ("cached", "revalidate")
    );
}

#[tokio::test]
async fn what_is_gone_upstream_is_gone_here_where_that_is_wanted() {
    let policy = UpstreamPolicy {
        forward_not_found: true,
        ..UpstreamPolicy::default()
    };
    let mirror = kept_with(policy, Limits::default());
    push_image(&mirror.one, "1", 1_000, 1);
    mirror.pull("1").await;
    mirror.one.remove_tag(&repository(), &tag("1"));
    assert!(mirror.get("1").await.is_err());
    let explanation = explain(&mirror, "1").await;
    assert_eq!(words(&explanation), ("cached", "fail"));
    assert!(matches!(
        explanation.next_pull,
        NextPull::Fail(CacheError::NotFound)
    ));
}

#[tokio::test]
async fn what_was_never_seen_is_fetched() {
    let mirror = kept();
    let explanation = explain(&mirror, "1").await;
    assert_eq!(words(&explanation), ("absent", "fetch"));
    assert_eq!(said(&explanation), None);
    let digest = format!("sha256:{}", "a".repeat(64));
    assert_eq!(words(&explain(&mirror, &digest).await), ("absent", "fetch"));
}

#[tokio::test]
async fn an_absence_that_is_believed_fails() {
    let mirror = kept();
    assert!(mirror.get("1").await.is_err());
    let explanation = explain(&mirror, "1").await;
    assert_eq!(words(&explanation), ("absent", "fail"));
    assert!(explanation.believed_absent);
    assert_eq!(said(&explanation), Some(TagSaid::Absent));
    assert!(matches!(mirror.get("1").await, Err(CacheError::NotFound)));
    mirror.clock.advance(MINUTE);
    assert_eq!(words(&explain(&mirror, "1").await), ("absent", "fetch"));
}

#[tokio::test]
async fn what_is_being_fetched_is_said_to_be() {
    let mirror = kept();
    let layer = sample(300_000, 1);
    let image = add_image(
        &mirror.one,
        "a",
        "linux/amd64",
        std::slice::from_ref(&layer),
    );
    name_it(&mirror.one, "1", &image.manifest);
    mirror.get("1").await.unwrap();
    mirror.blob(&one(), image.config, None).await.unwrap();
    mirror.idle().await;
    let gate = hold(&mirror.one, &layer, 100_000);
    let served = mirror.blob(&one(), image.layers[0].0, None).await.unwrap();
    let explanation = explain(&mirror, "1").await;
    assert_eq!(words(&explanation), ("filling", "fetch"));
    let [filling] = explanation.filling[..] else {
        panic!("one");
    };
    assert_eq!(filling.target, LinkTarget::Blob(image.layers[0].0));
    assert_eq!(filling.size, Some(300_000));
    gate.open();
    super::support::read(served.value).await.unwrap();
    mirror.idle().await;
    assert_eq!(explain(&mirror, "1").await.verdict, Verdict::Cached);
}

#[tokio::test]
async fn an_image_without_a_layer_is_partial() {
    let mirror = kept();
    let image = push_image(&mirror.one, "1", 1_000, 1);
    mirror.pull("1").await;
    let layer = image.layers[0].0;
    mirror.store.inner().remove(layer).await.unwrap();
    let explanation = explain(&mirror, "1").await;
    assert_eq!(words(&explanation), ("partial", "fetch"));
    assert_eq!(explanation.missing, [LinkTarget::Blob(layer)]);
    // The tag is served, and the layer fails.
    let condition = Condition::Limited { wait: MINUTE };
    mirror.one.set_condition(Asked::Blob, condition);
    let explanation = explain(&mirror, "1").await;
    assert_eq!(words(&explanation), ("partial", "fail"));
    let limited = UpstreamError::RateLimited {
        retry_after: Some(MINUTE),
    };
    let NextPull::Fail(error) = &explanation.next_pull else {
        panic!("fails");
    };
    assert_eq!(
        format!("{error:?}"),
        format!("{:?}", CacheError::from(limited))
    );
    assert!(mirror.blob(&one(), layer, None).await.is_err());
}

/// As the collector does it.
async fn evict(mirror: &Mirror, image: &super::kept::Image, reason: RemovalReason) {
    let store = mirror.store.inner();
    let target = LinkTarget::Manifest(image.digest());
    let removal = Removal {
        at: registry_core::Clock::now(&*mirror.clock),
        target,
        origins: vec![one()],
        tags: store.tagged_as(image.digest(), 8).await.unwrap(),
        bytes: 1,
        accessed_at: store.record(target).await.unwrap().unwrap().accessed_at,
        reason,
    };
    store.forget(target).await.unwrap();
    store.remove_manifest(image.digest()).await.unwrap();
    for blob in image.manifest.contents().blobs() {
        store.remove_unused(blob.digest).await.unwrap();
    }
    store.put_removal(removal).await.unwrap();
}

#[tokio::test]
async fn what_was_evicted_is_said_to_have_been() {
    let mirror = kept();
    let image = push_image(&mirror.one, "1", 1_000, 1);
    mirror.pull("1").await;
    mirror.clock.advance(MINUTE);
    evict(&mirror, &image, RemovalReason::Size).await;
    mirror.clock.advance(MINUTE);
    for text in ["1", &image.digest().to_string()] {
        let explanation = explain(&mirror, text).await;
        assert_eq!(words(&explanation), ("removed", "fetch"), "{text}");
        let removal = explanation.removal.as_ref().unwrap();
        assert_eq!(removal.reason, RemovalReason::Size);
        let sentence = "It was evicted, since the budget was used up, 1 minute ago; it had last \
                        been used 1 minute before.";
        let sentences = explanation.sentences();
        assert!(
            sentences.iter().any(|told| told == sentence),
            "{sentences:?}"
        );
    }
    // Another image of the repository was not.
    assert_eq!(words(&explain(&mirror, "2").await), ("absent", "fetch"));
    mirror.pull("1").await;
    assert_eq!(
        words(&explain(&mirror, "1").await),
        ("cached", "revalidate")
    );
}

#[tokio::test]
async fn what_a_person_deleted_is_said_to_have_been() {
    let mirror = kept();
    push_image(&mirror.one, "1", 1_000, 1);
    mirror.pull("1").await;
    mirror.cache.delete(&one(), &reference("1")).await.unwrap();
    let explanation = explain(&mirror, "1").await;
    assert_eq!(words(&explanation), ("removed", "fetch"));
    assert_eq!(explanation.removal.unwrap().reason, RemovalReason::Deleted);
}

#[tokio::test]
async fn what_is_frozen_is_a_hit_however_old() {
    let policy = UpstreamPolicy {
        frozen: true,
        ..UpstreamPolicy::default()
    };
    let mirror = kept_with(policy, Limits::default());
    push_image(&mirror.one, "1", 1_000, 1);
    mirror.pull("1").await;
    mirror.clock.advance(MINUTE * 60 * 24 * 365);
    let explanation = explain(&mirror, "1").await;
    assert_eq!(words(&explanation), ("cached", "hit"));
    assert!(explanation.policy.as_ref().unwrap().frozen);
    assert!(explanation.sentences().join(" ").contains("frozen"));
    assert_eq!(mirror.get("1").await.unwrap().status, CacheStatus::Hit);
    assert_eq!(words(&explain(&mirror, "2").await), ("absent", "fetch"));
}

#[tokio::test]
async fn what_is_held_is_served_stale_while_the_upstream_limits_us() {
    let mirror = kept();
    push_image(&mirror.one, "1", 1_000, 1);
    mirror.pull("1").await;
    let limited = UpstreamError::RateLimited {
        retry_after: Some(MINUTE),
    };
    mirror.one.once(Call::Resolve, Act::Fail(limited));
    mirror.get("1").await.unwrap();
    mirror
        .one
        .set_condition(Asked::Tag, Condition::Limited { wait: MINUTE });
    let explanation = explain(&mirror, "1").await;
    assert_eq!(words(&explanation), ("cached", "stale"));
    assert!(matches!(
        explanation.next_pull,
        NextPull::Stale(StaleReason::RateLimited)
    ));
    assert_eq!(said(&explanation), Some(TagSaid::RateLimited));
    let served = mirror.get("1").await.unwrap();
    assert_eq!(served.status, CacheStatus::Stale(StaleReason::RateLimited));
}

#[tokio::test]
async fn a_limit_on_manifests_keeps_what_is_held_fresh_and_the_rest_away() {
    let mirror = kept();
    push_image(&mirror.one, "1", 1_000, 1);
    push_image(&mirror.one, "2", 1_000, 2);
    mirror.pull("1").await;
    mirror
        .one
        .set_condition(Asked::Manifest, Condition::Limited { wait: MINUTE });
    assert_eq!(
        words(&explain(&mirror, "1").await),
        ("cached", "revalidate")
    );
    assert_eq!(
        mirror.get("1").await.unwrap().status,
        CacheStatus::Revalidated
    );
    assert_eq!(words(&explain(&mirror, "2").await), ("absent", "fail"));
    assert!(mirror.get("2").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_served_stale_while_another_question_is_overdue() {
    let mirror = kept();
    push_image(&mirror.one, "1", 1_000, 1);
    push_image(&mirror.one, "2", 1_000, 2);
    mirror.pull("1").await;
    mirror.pull("2").await;
    let gate = Gate::new();
    mirror.one.once(Call::Resolve, Act::Wait(gate.clone()));
    mirror.get("2").await.unwrap();
    let explanation = explain(&mirror, "1").await;
    assert_eq!(words(&explanation), ("cached", "stale"));
    assert!(matches!(
        explanation.next_pull,
        NextPull::Stale(StaleReason::Timeout)
    ));
    assert!(explanation.silent);
    let served = mirror.get("1").await.unwrap();
    assert_eq!(served.status, CacheStatus::Stale(StaleReason::Timeout));
    gate.open();
}

#[tokio::test]
async fn an_upstream_that_is_not_configured_is_said_not_to_be() {
    let mirror = kept();
    let origin = origin("three.example", "library/app");
    let explanation = mirror
        .cache
        .explain(&origin, &reference("1"))
        .await
        .unwrap();
    assert_eq!(words(&explanation), ("unknown_upstream", "fail"));
    assert!(matches!(
        explanation.next_pull,
        NextPull::Fail(CacheError::UnknownUpstream)
    ));
}

#[tokio::test]
async fn a_digest_is_a_hit_where_it_is_linked_and_confirmed_where_not() {
    let mirror = kept();
    let image = push_image(&mirror.one, "1", 1_000, 1);
    mirror.pull("1").await;
    mirror.clock.advance(MINUTE);
    let digest = image.digest().to_string();
    assert_eq!(words(&explain(&mirror, &digest).await), ("cached", "hit"));
    let elsewhere = origin("two.example", "library/app");
    let explanation = mirror
        .cache
        .explain(&elsewhere, &reference(&digest))
        .await
        .unwrap();
    assert_eq!(words(&explanation), ("absent", "revalidate"));
    assert_eq!(mirror.two.calls().total(), 0);
}

#[tokio::test]
async fn what_the_store_remembers_stands_in_after_a_restart() {
    let mirror = kept();
    push_image(&mirror.one, "1", 1_000, 1);
    mirror.pull("1").await;
    mirror.clock.advance(MINUTE);
    mirror.pull("1").await;
    let store = Arc::clone(&mirror.store);
    let stores = registry_core::Stores::of(Arc::clone(&store)).kept_by(store);
    let upstreams = registry_core::Upstreams::clone(&mirror.cache.upstreams());
    let limits = Limits::default();
    let clock = Arc::clone(&mirror.clock);
    let cache = registry_core::RegistryCache::with(stores, upstreams, limits, clock);
    mirror.clock.advance(MINUTE);
    let explanation = cache.explain(&one(), &reference("1")).await.unwrap();
    assert_eq!(words(&explanation), ("cached", "revalidate"));
    let answer = explanation.last_answer.unwrap();
    assert_eq!(
        (answer.said, explanation.at.since(answer.at)),
        (TagSaid::Unchanged, MINUTE)
    );
}

#[tokio::test]
async fn explaining_is_no_access() {
    let mirror = kept();
    let image = push_image(&mirror.one, "1", 1_000, 1);
    mirror.pull("1").await;
    let target = LinkTarget::Manifest(image.digest());
    let before = mirror.store.inner().record(target).await.unwrap();
    mirror.clock.advance(MINUTE);
    explain(&mirror, "1").await;
    explain(&mirror, &image.digest().to_string()).await;
    assert_eq!(mirror.store.inner().record(target).await.unwrap(), before);
}
