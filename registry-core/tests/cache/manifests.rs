//! Manifests: freshness, staleness, access.

use std::sync::Arc;
use std::time::Duration;

use registry_core::cache::{BypassReason, StaleReason};
use registry_core::testing::{Act, Call, Calls, Gate};
use registry_core::{
    CacheError, CacheStatus, Caller, FetchedTags, Manifest, ManifestStore as _, TagPage,
    TagStore as _, UpstreamError, UpstreamPolicy,
};

use crate::support::{
    Mirror, bytes, image, one, origin, push, repository, tag, ttl, two, unavailable,
};

#[tokio::test]
async fn a_tag_costs_one_head_and_one_get_and_then_one_head() {
    let mirror = Mirror::new();
    let pushed = push(&mirror.one, "a", "latest");
    let served = mirror.get("latest").await.unwrap();
    assert_eq!(
        (served.value, served.status),
        (pushed.clone(), CacheStatus::Miss)
    );
    assert_eq!(
        mirror.one.calls(),
        Calls {
            resolve: 1,
            manifest: 1,
            ..Calls::default()
        }
    );

    // containerd asks for the digest next: nothing is asked of the upstream (I11).
    let served = mirror.get(&pushed.digest().to_string()).await.unwrap();
    assert_eq!(
        (served.value, served.status),
        (pushed.clone(), CacheStatus::Hit)
    );
    assert_eq!(mirror.one.calls().total(), 2);

    let served = mirror.get("latest").await.unwrap();
    assert_eq!(
        (served.value, served.status),
        (pushed, CacheStatus::Revalidated)
    );
    assert_eq!(
        mirror.one.calls(),
        Calls {
            resolve: 2,
            manifest: 1,
            ..Calls::default()
        }
    );
}

#[tokio::test]
async fn a_tag_that_moves_is_seen_on_the_next_pull() {
    let mirror = Mirror::new();
    push(&mirror.one, "a", "latest");
    mirror.get("latest").await.unwrap();
    let moved = push(&mirror.one, "b", "latest");
    let before = mirror.one.calls();
    let served = mirror.get("latest").await.unwrap();
    assert_eq!((served.value, served.status), (moved, CacheStatus::Miss));
    let after = mirror.one.calls();
    assert_eq!(
        (
            after.resolve - before.resolve,
            after.manifest - before.manifest
        ),
        (1, 1)
    );
}

#[tokio::test]
async fn a_tag_that_moves_to_what_is_held_costs_one_head() {
    let mirror = Mirror::new();
    let first = push(&mirror.one, "a", "latest");
    mirror.get("latest").await.unwrap();
    push(&mirror.one, "b", "latest");
    mirror.get("latest").await.unwrap();
    mirror
        .one
        .set_tag(&repository(), &tag("latest"), first.digest());
    let served = mirror.get("latest").await.unwrap();
    assert_eq!(
        (served.value, served.status),
        (first.clone(), CacheStatus::Revalidated)
    );
    assert_eq!(
        mirror.one.calls(),
        Calls {
            resolve: 3,
            manifest: 2,
            ..Calls::default()
        }
    );
    // The move was recorded: with the upstream gone, it holds.
    mirror.one.set_down(Some(unavailable()));
    assert_eq!(mirror.get("latest").await.unwrap().value, first);
}

#[tokio::test]
async fn with_a_ttl_a_move_is_seen_when_it_ends_and_not_before() {
    let mirror = Mirror::with_policy(ttl(60));
    let first = push(&mirror.one, "a", "latest");
    mirror.get("latest").await.unwrap();
    let moved = push(&mirror.one, "b", "latest");
    mirror.clock.advance(Duration::from_millis(59_999));
    let served = mirror.get("latest").await.unwrap();
    assert_eq!((served.value, served.status), (first, CacheStatus::Hit));
    assert_eq!(served.age, Some(Duration::from_millis(59_999)));
    assert_eq!(mirror.one.calls().total(), 2);
    mirror.clock.advance(Duration::from_millis(1));
    let served = mirror.get("latest").await.unwrap();
    assert_eq!((served.value, served.status), (moved, CacheStatus::Miss));
}

#[tokio::test]
async fn a_record_tells_when_a_tag_moved_and_when_it_was_last_confirmed() {
    let mirror = Mirror::new();
    let record = async || {
        mirror.get("latest").await.unwrap();
        let record = mirror.store.tag(&one(), &tag("latest")).await.unwrap();
        let record = record.unwrap();
        (
            record.fetched_at.as_millis(),
            record.validated_at.as_millis(),
        )
    };
    push(&mirror.one, "a", "latest");
    let (begun, validated) = record().await;
    assert_eq!(begun, validated);
    mirror.clock.advance(Duration::from_secs(1));
    assert_eq!(record().await, (begun, begun + 1_000));
    mirror.clock.advance(Duration::from_secs(1));
    push(&mirror.one, "b", "latest");
    assert_eq!(record().await, (begun + 2_000, begun + 2_000));
}

#[tokio::test]
async fn a_page_has_its_limit() {
    let limits = registry_core::Limits {
        page_entries_max: 1,
        ..Default::default()
    };
    let mirror = Mirror::with(UpstreamPolicy::default(), limits);
    for name in ["a", "b"] {
        push(&mirror.one, name, name);
        push(&mirror.two, name, name);
        mirror.get_from(&one(), name).await.unwrap();
        mirror.get_from(&two(), name).await.unwrap();
    }
    let page = TagPage {
        after: None,
        limit: 10,
    };
    for down in [None, Some(unavailable())] {
        mirror.one.set_down(down);
        let listed = mirror.cache.tags(&one(), page, &Caller::Anonymous).await;
        let expected = FetchedTags {
            tags: vec![tag("a")],
            more: true,
        };
        assert_eq!(listed.unwrap().value, expected);
    }
    let listed = mirror.cache.catalog(None, None, 10).await.unwrap();
    assert_eq!(listed, [one()]);
}

#[tokio::test]
async fn a_listing_that_is_refused_or_gone_is_not_papered_over() {
    for forward_not_found in [false, true] {
        let mirror = Mirror::with_policy(UpstreamPolicy {
            forward_not_found,
            ..UpstreamPolicy::default()
        });
        push(&mirror.one, "a", "a");
        mirror.get("a").await.unwrap();
        let page = TagPage {
            after: None,
            limit: 10,
        };
        mirror.one.once(Call::Tags, Act::Absent);
        match mirror.cache.tags(&one(), page, &Caller::Anonymous).await {
            Ok(listed) if !forward_not_found => {
                assert_eq!(listed.status, CacheStatus::Stale(StaleReason::Gone));
            }
            Err(CacheError::NotFound) if forward_not_found => {}
            other => panic!("forward_not_found: {forward_not_found}, {other:?}"),
        }
        let refusal = UpstreamError::Unauthorized { status: 401 };
        mirror.one.once(Call::Tags, Act::Fail(refusal));
        let listed = mirror.cache.tags(&one(), page, &Caller::Anonymous).await;
        assert!(
            matches!(
                listed,
                Err(CacheError::Upstream(UpstreamError::Unauthorized { .. }))
            ),
            "{listed:?}"
        );
    }
}

#[tokio::test]
async fn a_revalidation_begins_the_ttl_anew() {
    let mirror = Mirror::with_policy(ttl(60));
    push(&mirror.one, "a", "latest");
    mirror.get("latest").await.unwrap();
    mirror.clock.advance(Duration::from_secs(60));
    assert_eq!(
        mirror.get("latest").await.unwrap().status,
        CacheStatus::Revalidated
    );
    mirror.clock.advance(Duration::from_secs(59));
    assert_eq!(mirror.get("latest").await.unwrap().status, CacheStatus::Hit);
}

#[tokio::test]
async fn what_is_held_is_served_stale_when_the_upstream_cannot_tell() {
    for (error, reason) in [
        (unavailable(), StaleReason::Unavailable),
        (
            UpstreamError::Timeout { what: "answer" },
            StaleReason::Timeout,
        ),
        (
            UpstreamError::RateLimited { retry_after: None },
            StaleReason::RateLimited,
        ),
        (
            UpstreamError::Protocol {
                what: "nonsense".to_owned(),
            },
            StaleReason::Protocol,
        ),
    ] {
        let mirror = Mirror::new();
        let pushed = push(&mirror.one, "a", "latest");
        mirror.get("latest").await.unwrap();
        mirror.one.set_down(Some(error.clone()));
        mirror.clock.advance(Duration::from_secs(90));
        let served = mirror.get("latest").await.unwrap();
        assert_eq!(
            (served.value, served.status),
            (pushed.clone(), CacheStatus::Stale(reason))
        );
        assert_eq!(served.age, Some(Duration::from_secs(90)));
        // By digest nothing is stale (I3), and never seen is never served.
        let served = mirror.get(&pushed.digest().to_string()).await.unwrap();
        assert_eq!(served.status, CacheStatus::Hit);
        let error = mirror.get("other").await.unwrap_err();
        assert!(matches!(error, CacheError::Upstream(_)), "{error:?}");
    }
}

#[tokio::test]
async fn withdrawn_access_is_not_papered_over() {
    let mirror = Mirror::new();
    push(&mirror.one, "a", "latest");
    mirror.get("latest").await.unwrap();
    mirror
        .one
        .set_down(Some(UpstreamError::Unauthorized { status: 403 }));
    let error = mirror.get("latest").await.unwrap_err();
    assert!(
        matches!(
            error,
            CacheError::Upstream(UpstreamError::Unauthorized { status: 403 })
        ),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_hangs_costs_its_budget_and_no_more() {
    let mirror = Mirror::new();
    let pushed = push(&mirror.one, "a", "latest");
    mirror.get("latest").await.unwrap();
    mirror.one.always(Call::Resolve, Act::Hang);
    let started = tokio::time::Instant::now();
    let served = mirror.get("latest").await.unwrap();
    assert_eq!(
        (served.value, served.status),
        (pushed, CacheStatus::Stale(StaleReason::Timeout))
    );
    assert_eq!(started.elapsed(), UpstreamPolicy::default().tag_budget);
    // What was never seen has the whole wait, and then an error.
    let started = tokio::time::Instant::now();
    let error = mirror.get("unseen").await.unwrap_err();
    assert!(
        matches!(error, CacheError::Upstream(UpstreamError::Timeout { .. })),
        "{error:?}"
    );
    assert_eq!(started.elapsed(), mirror.cache.limits().upstream_wait_max);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_after_the_budget_is_kept_for_the_next_pull() {
    let mirror = Mirror::with_policy(ttl(60));
    push(&mirror.one, "a", "latest");
    mirror.get("latest").await.unwrap();
    mirror.clock.advance(Duration::from_secs(60));
    let moved = push(&mirror.one, "b", "latest");
    let gate = Gate::new();
    mirror.one.once(Call::Resolve, Act::Wait(gate.clone()));
    let served = mirror.get("latest").await.unwrap();
    assert_eq!(served.status, CacheStatus::Stale(StaleReason::Timeout));
    gate.open();
    mirror.cache.close(Duration::from_secs(1)).await;
    let served = mirror.get("latest").await.unwrap();
    assert_eq!((served.value, served.status), (moved, CacheStatus::Hit));
}

#[tokio::test]
async fn a_tag_that_is_gone_upstream_is_kept_unless_told_otherwise() {
    for forward_not_found in [false, true] {
        let policy = UpstreamPolicy {
            forward_not_found,
            ..UpstreamPolicy::default()
        };
        let mirror = Mirror::with_policy(policy);
        let pushed = push(&mirror.one, "a", "latest");
        mirror.get("latest").await.unwrap();
        mirror.one.remove_tag(&repository(), &tag("latest"));
        match mirror.get("latest").await {
            Ok(served) if !forward_not_found => {
                assert_eq!(served.value, pushed);
                assert_eq!(served.status, CacheStatus::Stale(StaleReason::Gone));
            }
            Err(CacheError::NotFound) if forward_not_found => {}
            other => panic!("forward_not_found: {forward_not_found}, {other:?}"),
        }
    }
}

#[tokio::test]
async fn absence_is_remembered_for_moments_and_signatures_for_less() {
    let mirror = Mirror::new();
    let signature = format!("sha256-{}.sig", "ab".repeat(32));
    for name in ["latest", &signature] {
        assert!(matches!(mirror.get(name).await, Err(CacheError::NotFound)));
        assert!(matches!(mirror.get(name).await, Err(CacheError::NotFound)));
    }
    assert_eq!(mirror.one.calls().resolve, 2);
    push(&mirror.one, "signature", &signature);
    push(&mirror.one, "image", "latest");
    mirror
        .clock
        .advance(mirror.cache.limits().negative_attached_ttl);
    mirror.get(&signature).await.unwrap();
    assert!(matches!(
        mirror.get("latest").await,
        Err(CacheError::NotFound)
    ));
    mirror.clock.advance(mirror.cache.limits().negative_ttl);
    mirror.get("latest").await.unwrap();
}

#[tokio::test]
async fn errors_are_not_remembered() {
    let mirror = Mirror::new();
    push(&mirror.one, "a", "latest");
    mirror.one.once(Call::Resolve, Act::Fail(unavailable()));
    mirror.get("latest").await.unwrap_err();
    mirror.get("latest").await.unwrap();
}

#[tokio::test]
async fn many_who_wait_share_one_head_and_one_get() {
    let mirror = Arc::new(Mirror::new());
    let pushed = push(&mirror.one, "a", "latest");
    let gate = Gate::new();
    mirror.one.once(Call::Resolve, Act::Wait(gate.clone()));
    let waiting: Vec<_> = (0..64)
        .map(|_| {
            let mirror = Arc::clone(&mirror);
            async move { mirror.get("latest").await.unwrap().value }
        })
        .collect();
    let (served, ()) = tokio::join!(futures::future::join_all(waiting), async { gate.open() });
    assert!(served.iter().all(|manifest| *manifest == pushed));
    assert_eq!(
        mirror.one.calls(),
        Calls {
            resolve: 1,
            manifest: 1,
            ..Calls::default()
        }
    );
}

#[tokio::test]
async fn a_waiter_that_leaves_takes_nothing_from_the_others() {
    let mirror = Arc::new(Mirror::new());
    let pushed = push(&mirror.one, "a", "latest");
    let gate = Gate::new();
    mirror.one.once(Call::Resolve, Act::Wait(gate.clone()));
    let first = futures::poll!(Box::pin(mirror.get("latest")));
    assert!(first.is_pending(), "and it is dropped here");
    let (served, ()) = tokio::join!(mirror.get("latest"), async { gate.open() });
    assert_eq!(served.unwrap().value, pushed);
    assert_eq!(mirror.one.calls().resolve, 1);
}

#[tokio::test]
async fn upstreams_of_the_same_repository_are_apart() {
    let mirror = Mirror::new();
    let (a, b) = (
        push(&mirror.one, "a", "latest"),
        push(&mirror.two, "b", "latest"),
    );
    for _ in 0..2 {
        assert_eq!(mirror.get_from(&one(), "latest").await.unwrap().value, a);
        assert_eq!(mirror.get_from(&two(), "latest").await.unwrap().value, b);
    }
    let unknown = mirror
        .get_from(&origin("three.example", "library/app"), "latest")
        .await;
    assert!(matches!(unknown, Err(CacheError::UnknownUpstream)));
}

/// I5, for manifests: what is cached from one origin is not there in another, unless that has it.
#[tokio::test]
async fn a_cached_digest_is_served_only_where_the_upstream_has_it() {
    let mirror = Mirror::new();
    let pushed = push(&mirror.one, "a", "latest");
    mirror.get("latest").await.unwrap();
    let digest = pushed.digest().to_string();
    for elsewhere in [two(), origin("one.example", "library/other")] {
        let denied = mirror.get_from(&elsewhere, &digest).await;
        assert!(matches!(denied, Err(CacheError::NotFound)), "{denied:?}");
    }
    assert_eq!(
        mirror.two.calls(),
        Calls {
            has_manifest: 1,
            ..Calls::default()
        }
    );

    push(&mirror.two, "a", "other");
    mirror.clock.advance(mirror.cache.limits().negative_ttl);
    let served = mirror.get_from(&two(), &digest).await.unwrap();
    assert_eq!(
        (served.value, served.status),
        (pushed, CacheStatus::Revalidated)
    );
    assert_eq!(
        mirror.two.calls(),
        Calls {
            has_manifest: 2,
            ..Calls::default()
        }
    );
    assert_eq!(
        mirror.get_from(&two(), &digest).await.unwrap().status,
        CacheStatus::Hit
    );
    assert_eq!(mirror.two.calls().total(), 2);
}

#[tokio::test]
async fn what_an_index_names_may_be_read_where_the_index_may() {
    let mirror = Mirror::new();
    let child = push(&mirror.one, "child", "child");
    mirror.get("child").await.unwrap();
    let json = format!(
        r#"{{"manifests":[{{"mediaType":"{}","digest":"{}","size":1}}]}}"#,
        child.media_type(),
        child.digest()
    );
    let index = Manifest::of_bytes(None, json.into()).unwrap();
    mirror.two.add_manifest(&repository(), index.clone());
    mirror
        .two
        .set_tag(&repository(), &tag("latest"), index.digest());
    mirror.get_from(&two(), "latest").await.unwrap();
    let served = mirror
        .get_from(&two(), &child.digest().to_string())
        .await
        .unwrap();
    assert_eq!((served.value, served.status), (child, CacheStatus::Hit));
    assert_eq!(
        mirror.two.calls(),
        Calls {
            resolve: 1,
            manifest: 1,
            ..Calls::default()
        }
    );
}

/// I5: so do the layers of a manifest that an index names, also where another origin brought it.
#[tokio::test]
async fn what_a_manifest_of_an_index_names_needs_no_proof() {
    let mirror = Mirror::new();
    let layer = mirror.one.add_blob(&repository(), bytes(1000));
    let child = image("child", &[(layer, 1000)]);
    mirror.one.add_manifest(&repository(), child.clone());
    let child = child.digest().to_string();
    mirror.get(&child).await.unwrap();
    mirror.blob(&one(), layer, None).await.unwrap();
    mirror.idle().await;
    let json = format!(r#"{{"manifests":[{{"digest":"{child}","size":1}}]}}"#);
    let index = Manifest::of_bytes(None, json.into()).unwrap();
    mirror.two.add_manifest(&repository(), index.clone());
    let index = index.digest().to_string();
    mirror.get_from(&two(), &index).await.unwrap();
    mirror.two.set_down(Some(unavailable()));
    let served = mirror.get_from(&two(), &child).await.unwrap();
    assert_eq!(served.status, CacheStatus::Hit);
    let served = mirror.blob(&two(), layer, None).await.unwrap();
    assert_eq!(served.status, CacheStatus::Hit);
    assert_eq!(mirror.two.calls().total(), 1);
}

#[tokio::test]
async fn a_manifest_that_the_store_lost_is_a_miss_that_repairs_itself() {
    let mirror = Mirror::with_policy(ttl(60));
    let pushed = push(&mirror.one, "a", "latest");
    mirror.get("latest").await.unwrap();
    mirror.store.remove_manifest(pushed.digest()).await.unwrap();
    let served = mirror.get("latest").await.unwrap();
    assert_eq!((served.value, served.status), (pushed, CacheStatus::Miss));
    assert_eq!(mirror.get("latest").await.unwrap().status, CacheStatus::Hit);
}

#[tokio::test]
async fn an_upstream_that_contradicts_itself_is_an_error_and_stores_nothing() {
    let mirror = Mirror::new();
    push(&mirror.one, "a", "latest");
    for _ in 0..2 {
        mirror.one.once(Call::Manifest, Act::Absent);
    }
    let error = mirror.get("latest").await.unwrap_err();
    assert!(
        matches!(error, CacheError::Upstream(UpstreamError::Protocol { .. })),
        "{error:?}"
    );
    // By digest, and by the tag.
    assert_eq!(mirror.one.calls().manifest, 2);
}

#[tokio::test]
async fn a_tag_whose_digest_is_told_wrong_is_fetched_by_its_name() {
    let mirror = Mirror::new();
    let pushed = push(&mirror.one, "a", "latest");
    mirror.one.once(Call::Manifest, Act::Absent);
    let served = mirror.get("latest").await.unwrap();
    assert_eq!((served.value, served.status), (pushed, CacheStatus::Miss));
    assert_eq!(mirror.one.calls().manifest, 2);
    let served = mirror.get("latest").await.unwrap();
    assert_eq!(served.status, CacheStatus::Revalidated);
    assert_eq!(mirror.one.calls().manifest, 2);
}

#[tokio::test]
async fn oversized_manifests_are_refused_before_they_are_fetched() {
    let limits = registry_core::Limits {
        manifest_bytes_max: 64,
        ..Default::default()
    };
    let mirror = Mirror::with(UpstreamPolicy::default(), limits);
    push(&mirror.one, "longer than the limit", "latest");
    let error = mirror.get("latest").await.unwrap_err();
    assert!(
        matches!(error, CacheError::Upstream(UpstreamError::Protocol { .. })),
        "{error:?}"
    );
    assert_eq!(
        mirror.one.calls(),
        Calls {
            resolve: 1,
            ..Calls::default()
        }
    );
}

/// I1: the cache does not take an upstream's word for what it sends.
#[tokio::test]
async fn another_manifest_than_was_asked_for_is_refused() {
    for reference in ["tag", "digest"] {
        let mirror = Mirror::new();
        let pushed = push(&mirror.one, "a", "latest");
        let other = image("b", &[]);
        mirror
            .one
            .once(Call::Manifest, Act::Manifest(other.clone()));
        let digest = pushed.digest().to_string();
        let error = match reference {
            "tag" => mirror.get("latest").await.unwrap_err(),
            _ => mirror.get(&digest).await.unwrap_err(),
        };
        assert!(
            matches!(error, CacheError::Upstream(UpstreamError::Protocol { .. })),
            "{error:?}"
        );
        assert_eq!(mirror.store.manifest(other.digest()).await.unwrap(), None);
        assert_eq!(mirror.get("latest").await.unwrap().value, pushed);
    }
}

#[tokio::test]
async fn an_oversized_manifest_is_refused_by_digest_too() {
    let limits = registry_core::Limits {
        manifest_bytes_max: 64,
        ..Default::default()
    };
    let mirror = Mirror::with(UpstreamPolicy::default(), limits);
    let pushed = push(&mirror.one, "longer than the limit", "latest");
    let error = mirror.get(&pushed.digest().to_string()).await.unwrap_err();
    assert!(
        matches!(error, CacheError::Upstream(UpstreamError::Protocol { .. })),
        "{error:?}"
    );
    assert_eq!(mirror.store.manifest(pushed.digest()).await.unwrap(), None);
}

/// A push is seen at once where the upstream itself says so, whatever was asked for just before.
#[tokio::test]
async fn that_a_tag_names_a_digest_is_newer_than_its_remembered_absence() {
    let mirror = Mirror::new();
    let digest = image("a", &[]).digest().to_string();
    assert!(matches!(
        mirror.get(&digest).await,
        Err(CacheError::NotFound)
    ));
    let pushed = push(&mirror.one, "a", "latest");
    assert!(matches!(
        mirror.get(&digest).await,
        Err(CacheError::NotFound)
    ));
    assert_eq!(mirror.one.calls().manifest, 1, "it is remembered");
    assert_eq!(mirror.get("latest").await.unwrap().value, pushed);
    assert_eq!(mirror.get(&digest).await.unwrap().status, CacheStatus::Hit);
}

/// An empty last page would end a listing as if it were complete.
#[tokio::test]
async fn a_later_page_of_tags_is_an_error_where_none_is_recorded() {
    let mirror = Mirror::new();
    mirror.one.set_down(Some(unavailable()));
    let page = TagPage {
        after: Some("b"),
        limit: 10,
    };
    let listed = mirror.cache.tags(&one(), page, &Caller::Anonymous).await;
    assert!(matches!(listed, Err(CacheError::Upstream(_))), "{listed:?}");
    mirror.one.set_down(None);
    push(&mirror.one, "a", "a");
    mirror.get("a").await.unwrap();
    mirror.one.set_down(Some(unavailable()));
    let listed = mirror.cache.tags(&one(), page, &Caller::Anonymous).await;
    assert_eq!(listed.unwrap().value, FetchedTags::default());
}

#[tokio::test]
async fn a_panic_in_a_flight_reaches_nobody_else() {
    let mirror = Mirror::new();
    push(&mirror.one, "a", "latest");
    mirror.one.once(Call::Resolve, Act::Panic);
    mirror.get("latest").await.unwrap_err();
    mirror.get("latest").await.unwrap();
}

#[tokio::test]
async fn tags_are_the_upstreams_and_ours_when_it_cannot_tell() {
    let mirror = Mirror::new();
    let page = |after, limit| TagPage { after, limit };
    let caller = Caller::Anonymous;
    for name in ["a", "b", "c"] {
        push(&mirror.one, name, name);
    }
    let served = mirror
        .cache
        .tags(&one(), page(Some("a"), 1), &caller)
        .await
        .unwrap();
    assert_eq!(
        served.value,
        FetchedTags {
            tags: vec![tag("b")],
            more: true
        }
    );
    assert_eq!(served.status, CacheStatus::Bypass(BypassReason::Listing));

    mirror.one.set_down(Some(unavailable()));
    let error = mirror
        .cache
        .tags(&one(), page(None, 10), &caller)
        .await
        .unwrap_err();
    assert!(
        matches!(error, CacheError::Upstream(_)),
        "nothing was pulled: {error:?}"
    );

    mirror.one.set_down(None);
    for name in ["a", "c"] {
        mirror.get(name).await.unwrap();
    }
    mirror.one.set_down(Some(unavailable()));
    let served = mirror
        .cache
        .tags(&one(), page(None, 1), &caller)
        .await
        .unwrap();
    assert_eq!(
        served.value,
        FetchedTags {
            tags: vec![tag("a")],
            more: true
        }
    );
    assert_eq!(served.status, CacheStatus::Stale(StaleReason::Unavailable));
    let served = mirror
        .cache
        .tags(&one(), page(Some("a"), 10), &caller)
        .await
        .unwrap();
    assert_eq!(
        served.value,
        FetchedTags {
            tags: vec![tag("c")],
            more: false
        }
    );
}

#[tokio::test]
async fn repositories_are_what_was_pulled() {
    let mirror = Mirror::new();
    mirror.one.add_manifest(&repository(), image("a", &[]));
    push(&mirror.one, "a", "latest");
    push(&mirror.two, "b", "latest");
    mirror.get_from(&one(), "latest").await.unwrap();
    mirror.get_from(&two(), "latest").await.unwrap();
    let all = mirror.cache.catalog(None, None, 10).await.unwrap();
    assert_eq!(all, [one(), two()]);
    let past = mirror.cache.catalog(None, Some(&one()), 10).await.unwrap();
    assert_eq!(past, [two()]);
    let of_one = mirror
        .cache
        .catalog(Some(one().upstream()), None, 10)
        .await
        .unwrap();
    assert_eq!(of_one, [one()]);
}
