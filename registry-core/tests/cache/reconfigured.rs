//! Upstreams that change while they are used, and how tags of some repositories are treated.

use std::sync::Arc;
use std::time::Duration;

use futures::poll;
use registry_core::cache::StaleReason;
use registry_core::testing::{Act, Call, Calls, ContentScript, Gate, ScriptedUpstream};
use registry_core::{
    CacheError, CacheStatus, Caller, ManifestStore as _, ReferrersPage, RepositoryPattern,
    RepositoryRule, RetentionRule, TagPage, UpstreamEntry, UpstreamError, UpstreamId,
    UpstreamPolicy, Upstreams,
};

use crate::support::{Mirror, bytes, one, origin, push, read, repository, tag, ttl, unavailable};

fn frozen() -> UpstreamPolicy {
    UpstreamPolicy {
        frozen: true,
        ..UpstreamPolicy::default()
    }
}

fn id(name: &str) -> UpstreamId {
    UpstreamId::parse(name).unwrap()
}

/// These upstreams under these names, treated as others are.
fn upstreams(entries: &[(&str, &Arc<ScriptedUpstream>)]) -> Upstreams {
    let mut upstreams = Upstreams::new();
    for (name, upstream) in entries {
        let upstream = Arc::clone(upstream) as _;
        upstreams.insert(id(name), UpstreamEntry::new(upstream));
    }
    upstreams
}

#[tokio::test]
async fn a_frozen_tag_is_fetched_once_and_never_asked_for_again() {
    let mirror = Mirror::with_policy(frozen());
    let first = push(&mirror.one, "a", "latest");
    assert_eq!(
        mirror.get("latest").await.unwrap().status,
        CacheStatus::Miss
    );
    push(&mirror.one, "b", "latest");
    let asked = mirror.one.calls();
    let day = Duration::from_secs(24 * 60 * 60);
    for days in 1..=1_000 {
        mirror.clock.advance(day);
        let served = mirror.get("latest").await.unwrap();
        assert_eq!((&served.value, served.status), (&first, CacheStatus::Hit));
        assert_eq!(served.age, Some(days * day));
    }
    mirror.one.remove_tag(&repository(), &tag("latest"));
    mirror.one.set_down(Some(unavailable()));
    assert_eq!(mirror.get("latest").await.unwrap().value, first);
    assert_eq!(mirror.one.calls(), asked);
}

#[tokio::test]
async fn a_frozen_tag_whose_manifest_was_lost_goes_on_naming_it() {
    let mirror = Mirror::with_policy(frozen());
    let first = push(&mirror.one, "a", "latest");
    mirror.get("latest").await.unwrap();
    let moved = push(&mirror.one, "b", "latest");
    mirror.store.remove_manifest(first.digest()).await.unwrap();
    let served = mirror.get("latest").await.unwrap();
    assert_eq!((&served.value, served.status), (&first, CacheStatus::Miss));
    let calls = Calls {
        resolve: 1,
        manifest: 2,
        ..Calls::default()
    };
    assert_eq!(mirror.one.calls(), calls);

    // Only where the upstream has no such manifest any more is the tag what it is there.
    mirror.store.remove_manifest(first.digest()).await.unwrap();
    mirror.one.once(Call::Manifest, Act::Absent);
    let served = mirror.get("latest").await.unwrap();
    assert_eq!((served.value, served.status), (moved, CacheStatus::Miss));
}

#[tokio::test]
async fn referrers_of_a_frozen_repository_are_asked_for_once() {
    let mirror = Mirror::with_policy(frozen());
    let subject = push(&mirror.one, "a", "latest").digest();
    mirror.get("latest").await.unwrap();
    let page = ReferrersPage {
        artifact_type: None,
        after: None,
        limit: 10,
    };
    let origin = one();
    for status in [CacheStatus::Miss, CacheStatus::Hit, CacheStatus::Hit] {
        let listed = mirror
            .cache
            .referrers(&origin, subject, page, &Caller::Anonymous);
        assert_eq!(listed.await.unwrap().status, status);
        mirror.clock.advance(Duration::from_secs(1_000_000));
    }
    assert_eq!(mirror.one.calls().referrers, 1);
}

#[tokio::test]
async fn the_first_pattern_that_matches_decides_how_a_tag_is_treated() {
    let mirror = Mirror::new();
    let rule = |pattern, policy| RepositoryRule {
        pattern: RepositoryPattern::parse(pattern).unwrap(),
        policy,
        retention: RetentionRule::default(),
    };
    let forward = UpstreamPolicy {
        forward_not_found: true,
        ..UpstreamPolicy::default()
    };
    let mut entry = UpstreamEntry::new(Arc::clone(&mirror.one) as _);
    entry.repositories = vec![
        rule("org/base", frozen()),
        rule("org/*", ttl(60)),
        rule("gone/**", forward),
    ];
    let mut upstreams = Upstreams::new();
    upstreams.insert(id("one.example"), entry);
    mirror.cache.set_upstreams(upstreams);

    let names = ["org/base", "org/app", "gone/a/b", "other"];
    let origins = names.map(|name| origin("one.example", name));
    for origin in &origins {
        let manifest = crate::support::image("a", &[]);
        mirror
            .one
            .add_manifest(origin.repository(), manifest.clone());
        let digest = manifest.digest();
        mirror.one.set_tag(origin.repository(), &tag("1"), digest);
        mirror.get_from(origin, "1").await.unwrap();
    }
    let asked = mirror.one.calls().resolve;
    mirror.clock.advance(Duration::from_secs(59));
    for origin in &origins[..2] {
        let served = mirror.get_from(origin, "1").await.unwrap();
        assert_eq!(served.status, CacheStatus::Hit, "{origin}");
    }
    assert_eq!(mirror.one.calls().resolve, asked);
    mirror.clock.advance(Duration::from_secs(1));
    for origin in &origins {
        mirror.one.remove_tag(origin.repository(), &tag("1"));
    }
    let stale = CacheStatus::Stale(StaleReason::Gone);
    for (origin, wanted) in
        origins
            .iter()
            .zip([Some(CacheStatus::Hit), Some(stale), None, Some(stale)])
    {
        let served = mirror
            .get_from(origin, "1")
            .await
            .map(|served| served.status);
        match (served, wanted) {
            (Ok(status), Some(wanted)) => assert_eq!(status, wanted, "{origin}"),
            (Err(CacheError::NotFound), None) => {}
            (served, _) => panic!("{origin}: {served:?}"),
        }
    }
    assert_eq!(mirror.one.calls().resolve, asked + 3);
}

#[tokio::test]
async fn an_upstream_that_is_gone_is_unknown_and_what_is_held_of_it_stays() {
    let mirror = Mirror::with_policy(frozen());
    let held = push(&mirror.one, "a", "latest");
    mirror.get("latest").await.unwrap();
    let before = mirror.cache.upstreams();
    mirror
        .cache
        .set_upstreams(upstreams(&[("two.example", &mirror.two)]));
    let names: Vec<_> = mirror.cache.upstreams().ids().cloned().collect();
    assert_eq!(names, [id("two.example")]);
    let caller = &Caller::Anonymous;
    let page = TagPage {
        after: None,
        limit: 1,
    };
    let digest = held.digest();
    for unknown in [
        mirror.get("latest").await.map(drop),
        mirror.get(&digest.to_string()).await.map(drop),
        mirror.blob(&one(), digest, None).await.map(drop),
        mirror
            .cache
            .stat_blob(&one(), digest, caller)
            .await
            .map(drop),
        mirror.cache.tags(&one(), page, caller).await.map(drop),
    ] {
        assert!(matches!(unknown, Err(CacheError::UnknownUpstream)));
    }
    let asked = mirror.one.calls();
    mirror.cache.set_upstreams(Upstreams::clone(&before));
    assert_eq!(mirror.get("latest").await.unwrap().status, CacheStatus::Hit);
    assert_eq!(mirror.one.calls(), asked);
}

#[tokio::test]
async fn a_fill_goes_on_through_the_upstream_that_it_began_with() {
    let mirror = Mirror::new();
    let content = bytes(3 << 20);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let gate = Gate::new();
    let mut script = ContentScript::held_after(2 << 20, &gate);
    // It breaks off as well: what is asked for again is asked of the same one.
    let cut = ContentScript::cut_after(2 << 20, unavailable()).before;
    script.before.extend(cut);
    mirror.one.once(Call::Blob, Act::Content(script));
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    let other = ScriptedUpstream::new();
    for next in [upstreams(&[]), upstreams(&[("one.example", &other)])] {
        mirror.cache.set_upstreams(next);
    }
    gate.open();
    assert_eq!(read(served.value).await.unwrap(), content);
    mirror.idle().await;
    assert_eq!(mirror.one.calls().blob, 2);
    assert_eq!(mirror.one.calls().blob_bytes, 3 << 20);
    assert_eq!(other.calls().total(), 0);
    // It is stored and linked, as the name is known.
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    assert_eq!(served.status, CacheStatus::Hit);
}

#[tokio::test]
async fn a_pull_of_a_tag_ends_with_the_upstream_that_it_began_with() {
    let mirror = Mirror::new();
    let pushed = push(&mirror.one, "a", "latest");
    let gate = Gate::new();
    mirror.one.once(Call::Resolve, Act::Wait(gate.clone()));
    let mut pull = Box::pin(mirror.get("latest"));
    assert!(poll!(&mut pull).is_pending());
    mirror.cache.set_upstreams(upstreams(&[]));
    gate.open();
    assert_eq!(pull.await.unwrap().value, pushed);
    let calls = mirror.one.calls();
    assert_eq!((calls.resolve, calls.manifest), (1, 1));
}

#[tokio::test]
async fn whoever_comes_after_a_change_asks_the_new_upstream() {
    let mirror = Mirror::new();
    let old = push(&mirror.one, "old", "latest");
    let gate = Gate::new();
    mirror.one.once(Call::Resolve, Act::Wait(gate.clone()));
    let mut before = Box::pin(mirror.get("latest"));
    assert!(poll!(&mut before).is_pending());

    let new = ScriptedUpstream::new();
    let pushed = push(&new, "new", "latest");
    mirror
        .cache
        .set_upstreams(upstreams(&[("one.example", &new)]));
    // It does not wait for what was begun before the change.
    assert_eq!(mirror.get("latest").await.unwrap().value, pushed);
    gate.open();
    assert_eq!(before.await.unwrap().value, old);
}

#[tokio::test]
async fn a_fill_that_fails_for_the_old_upstream_says_nothing_of_the_new_one() {
    let mirror = Mirror::new();
    let content = bytes(1 << 20);
    let new = ScriptedUpstream::new();
    let digest = new.add_blob(&repository(), content.clone());
    let gate = Gate::new();
    mirror.one.once(Call::Blob, Act::Wait(gate.clone()));
    let origin = one();
    let mut before = Box::pin(mirror.blob(&origin, digest, None));
    assert!(poll!(&mut before).is_pending());
    tokio::task::yield_now().await;

    mirror
        .cache
        .set_upstreams(upstreams(&[("one.example", &new)]));
    let mut after = Box::pin(mirror.blob(&origin, digest, None));
    assert!(poll!(&mut after).is_pending());
    gate.open();
    assert!(matches!(before.await, Err(CacheError::NotFound)));
    // Nor is it remembered.
    assert_eq!(read(after.await.unwrap().value).await.unwrap(), content);
    assert_eq!(new.calls().blob, 1);
}

#[tokio::test]
async fn absences_are_forgotten_of_an_upstream_that_is_another_now() {
    let mirror = Mirror::new();
    let two = origin("two.example", "library/app");
    for origin in [&one(), &two] {
        let absent = mirror.get_from(origin, "latest").await;
        assert!(matches!(absent, Err(CacheError::NotFound)), "{absent:?}");
    }
    let pushed = push(&mirror.one, "a", "latest");
    let new = ScriptedUpstream::new();
    new.add_manifest(&repository(), pushed.clone());
    new.set_tag(&repository(), &tag("latest"), pushed.digest());
    push(&mirror.two, "a", "latest");
    let pairs = [("one.example", &new), ("two.example", &mirror.two)];
    mirror.cache.set_upstreams(upstreams(&pairs));
    assert_eq!(mirror.get("latest").await.unwrap().value, pushed);
    let still = mirror.get_from(&two, "latest").await;
    assert!(matches!(still, Err(CacheError::NotFound)), "{still:?}");
    assert_eq!((new.calls().resolve, mirror.two.calls().resolve), (1, 1));
}

#[tokio::test]
async fn what_the_old_upstream_says_after_the_change_is_not_remembered() {
    let mirror = Mirror::new();
    let gate = Gate::new();
    mirror.one.once(Call::Resolve, Act::Wait(gate.clone()));
    let mut before = Box::pin(mirror.get("latest"));
    assert!(poll!(&mut before).is_pending());
    let new = ScriptedUpstream::new();
    push(&new, "a", "latest");
    mirror
        .cache
        .set_upstreams(upstreams(&[("one.example", &new)]));
    gate.open();
    assert!(matches!(before.await, Err(CacheError::NotFound)));
    assert_eq!(
        mirror.get("latest").await.unwrap().status,
        CacheStatus::Miss
    );
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_was_silent_is_asked_where_it_is_another_now() {
    let mirror = Mirror::new();
    push(&mirror.one, "a", "latest");
    mirror.get("latest").await.unwrap();
    mirror.one.always(Call::Resolve, Act::Hang);
    let timeout = CacheStatus::Stale(StaleReason::Timeout);
    assert_eq!(mirror.get("latest").await.unwrap().status, timeout);

    // Treated otherwise, it is the same one.
    let entry = UpstreamEntry {
        policy: UpstreamPolicy {
            tag_ttl: Duration::from_secs(1),
            ..UpstreamPolicy::default()
        },
        ..UpstreamEntry::new(Arc::clone(&mirror.one) as _)
    };
    let mut same = Upstreams::new();
    same.insert(id("one.example"), entry);
    mirror.cache.set_upstreams(same);
    mirror.clock.advance(Duration::from_secs(1));
    let begun = tokio::time::Instant::now();
    assert_eq!(mirror.get("latest").await.unwrap().status, timeout);
    assert_eq!(begun.elapsed(), Duration::ZERO);

    let new = ScriptedUpstream::new();
    let moved = push(&new, "b", "latest");
    mirror
        .cache
        .set_upstreams(upstreams(&[("one.example", &new)]));
    let served = mirror.get("latest").await.unwrap();
    assert_eq!((served.value, served.status), (moved, CacheStatus::Miss));
}

#[tokio::test]
async fn what_was_refused_is_asked_again_of_an_upstream_with_other_credentials() {
    let mirror = Mirror::new();
    let content = bytes(1000);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let refused = UpstreamError::Unauthorized { status: 401 };
    mirror.one.always(Call::Blob, Act::Fail(refused));
    assert!(mirror.blob(&one(), digest, None).await.is_err());
    let new = ScriptedUpstream::new();
    new.add_blob(&repository(), content.clone());
    mirror
        .cache
        .set_upstreams(upstreams(&[("one.example", &new)]));
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    assert_eq!(read(served.value).await.unwrap(), content);
    assert_eq!((mirror.one.calls().blob, new.calls().blob), (1, 1));
}
