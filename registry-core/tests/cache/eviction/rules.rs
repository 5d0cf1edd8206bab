//! Limits of upstreams and repositories, exemptions, and age.

use registry_core::{RemovalReason, RepositoryPattern, RepositoryRule, RetentionRule};

use super::*;

/// A rule for the repositories of a pattern.
fn rule(pattern: &str, retention: RetentionRule) -> RepositoryRule {
    RepositoryRule {
        pattern: RepositoryPattern::parse(pattern).unwrap(),
        policy: Default::default(),
        retention,
    }
}

/// Images of 1,000 bytes in these places, pulled in turn.
async fn pulled(keeper: &Keeper, places: &[(&str, &str, &str)]) -> Vec<Image> {
    let mut images = Vec::new();
    for (seed, (upstream, repository, name)) in (100..).zip(places) {
        let place = origin(upstream, repository);
        let image = keeper.push(&place, name, &[sample(1_000, seed)]);
        keeper.pull(&image).await;
        images.push(image);
    }
    images
}

#[tokio::test]
async fn an_upstream_has_a_limit_of_its_own() {
    let setup = Setup {
        entry: Some(|entry| entry.retention.bytes_max = Some(3_600)),
        ..Setup::default()
    };
    let keeper = setup.build();
    let images = pulled(
        &keeper,
        &[
            ("two.example", "library/x", "old"),
            ("one.example", "library/x", "a"),
            ("one.example", "library/y", "b"),
            ("one.example", "library/x", "c"),
            ("one.example", "library/z", "d"),
            ("two.example", "library/y", "young"),
        ],
    )
    .await;
    keeper
        .until("it is within its limit", async || {
            let charges = keeper
                .store
                .inner()
                .charges(Some(images[1].origin.upstream()), None, 9);
            let bytes: u64 = charges
                .await
                .unwrap()
                .iter()
                .map(|charge| charge.bytes)
                .sum();
            bytes <= 3_600
        })
        .await;
    keeper.collect_what_is_over().await;
    assert_eq!(keeper.kept(&images).await, ["old", "c", "d", "young"]);
    let evicted = keeper.cache.evictions();
    assert_eq!(evicted.of(RemovalReason::Quota).count, 2);
    assert_eq!(evicted.of(RemovalReason::Size).count, 0);
}

#[tokio::test]
async fn so_have_the_repositories_of_a_pattern() {
    let setup = Setup {
        entry: Some(|entry| {
            let limit = |bytes_max| RetentionRule {
                bytes_max: Some(bytes_max),
                ..RetentionRule::default()
            };
            // The first that matches decides.
            entry
                .repositories
                .push(rule("ci/keep", RetentionRule::default()));
            entry.repositories.push(rule("ci/*", limit(2_300)));
        }),
        ..Setup::default()
    };
    let keeper = setup.build();
    let images = pulled(
        &keeper,
        &[
            ("one.example", "ci/a", "a1"),
            ("one.example", "ci/keep", "k1"),
            ("one.example", "ci/b", "b1"),
            ("one.example", "ci/b", "b2"),
            ("one.example", "ci/keep", "k2"),
            ("one.example", "prod/b", "p1"),
        ],
    )
    .await;
    keeper.collect_what_is_over().await;
    assert_eq!(keeper.kept(&images).await, ["k1", "b2", "k2", "p1"]);
}

#[tokio::test]
async fn what_is_exempt_never_goes() {
    let setup = Setup {
        retention: Retention {
            idle_max: Some(Duration::from_secs(1)),
            ..Retention::default()
        },
        entry: Some(|entry| {
            entry.retention.exempt = true;
            entry
                .repositories
                .push(rule("scratch/**", RetentionRule::default()));
        }),
        ..Setup::default()
    };
    let keeper = setup.build();
    let images = pulled(
        &keeper,
        &[
            ("one.example", "library/x", "exempt"),
            ("one.example", "scratch/a/b", "scratch"),
            ("two.example", "library/x", "other"),
        ],
    )
    .await;
    // What another origin brought is exempt as well, where it may be served in one that is.
    let shared = keeper.push(
        &origin("two.example", "library/s"),
        "shared",
        &[sample(1_000, 9)],
    );
    keeper.pull(&shared).await;
    let link = registry_core::Link {
        target: LinkTarget::Manifest(shared.digest()),
        size: None,
    };
    use registry_core::LinkStore as _;
    keeper.store.inner().link(&app(), vec![link]).await.unwrap();
    keeper.clock.advance(Duration::from_secs(1_000_000));
    assert!(keeper.collect(0).await.is_short);
    assert_eq!(keeper.kept(&images).await, ["exempt"]);
    assert_eq!(keeper.kept(&[shared]).await, ["shared"]);
}

#[tokio::test]
async fn what_is_unused_for_exactly_the_limit_goes() {
    let day = Duration::from_secs(24 * 60 * 60);
    let keeper = Setup::idle(day).build();
    let images = [keeper.push_own("a", 1_000), keeper.push_own("b", 1_000)];
    keeper.pull(&images[0]).await;
    keeper.pull(&images[1]).await;
    keeper.clock.advance(day - STEP - Duration::from_millis(1));
    assert_eq!(keeper.collect_what_is_over().await.count, 0);
    keeper.clock.advance(Duration::from_millis(1));
    let collected = keeper.collect_what_is_over().await;
    assert_eq!(targets(&collected), manifests(&[&images[0]]));
    assert_eq!(keeper.kept(&images).await, ["b"]);
    let removal = &keeper.cache.removals(1).await.unwrap()[0];
    assert_eq!(removal.reason, RemovalReason::Idle);
    // An access keeps it for as long again.
    keeper.pull(&images[1]).await;
    keeper.clock.advance(day - Duration::from_millis(1));
    assert_eq!(keeper.collect_what_is_over().await.count, 0);
    keeper.clock.advance(Duration::from_millis(1));
    assert_eq!(keeper.collect_what_is_over().await.count, 1);
}

/// I3: what a digest names never goes stale.
#[tokio::test]
async fn nothing_goes_by_age_unless_asked() {
    let keeper = Setup::default().build();
    let image = keeper.push_own("a", 1_000);
    keeper.pull(&image).await;
    keeper
        .clock
        .advance(Duration::from_secs(10 * 365 * 24 * 60 * 60));
    assert_eq!(keeper.collect_what_is_over().await.count, 0);
    assert!(keeper.has(&image).await);
}

#[tokio::test(start_paused = true)]
async fn age_is_looked_for_once_in_a_while() {
    let keeper = Setup::idle(Duration::from_secs(3_600)).build();
    let image = keeper.push_own("a", 1_000);
    keeper.pull(&image).await;
    keeper.clock.advance(Duration::from_secs(3_600));
    tokio::time::sleep(keeper.cache.limits().upkeep_every * 2).await;
    assert!(!keeper.has(&image).await);
    assert_eq!(keeper.kept_bytes().await, 0);
}

#[tokio::test]
async fn ages_differ_by_repository() {
    let hour = Duration::from_secs(3_600);
    let setup = Setup {
        retention: Retention {
            idle_max: Some(Duration::from_secs(10 * 3_600)),
            ..Retention::default()
        },
        entry: Some(|entry| {
            let age = |hours: u64| RetentionRule {
                idle_max: Some(Duration::from_secs(hours * 3_600)),
                ..RetentionRule::default()
            };
            entry.retention = age(5);
            entry.repositories.push(rule("ci/*", age(1)));
            entry.repositories.push(rule("prod/*", age(100)));
        }),
        ..Setup::default()
    };
    let keeper = setup.build();
    let images = pulled(
        &keeper,
        &[
            ("one.example", "prod/a", "hundred"),
            ("two.example", "library/a", "ten"),
            ("one.example", "library/a", "five"),
            ("one.example", "ci/a", "one"),
        ],
    )
    .await;
    let mut left = vec!["hundred", "ten", "five", "one"];
    for (hours, gone) in [(1, "one"), (4, "five"), (5, "ten"), (90, "hundred")] {
        keeper.clock.advance(hour * hours - STEP * 4);
        keeper.collect_what_is_over().await;
        assert_eq!(keeper.kept(&images).await, left, "before {gone}");
        keeper.clock.advance(STEP * 4);
        keeper.collect_what_is_over().await;
        left.retain(|name| *name != gone);
        assert_eq!(keeper.kept(&images).await, left, "after {gone}");
    }
}

/// What stays although it is old is looked at once, not each time.
#[tokio::test]
async fn what_is_old_and_stays_is_looked_at_once() {
    let setup = Setup {
        retention: Retention {
            idle_max: Some(Duration::from_secs(3_600)),
            ..Retention::default()
        },
        entry: Some(|entry| entry.retention.exempt = true),
        ..Setup::default()
    };
    let keeper = setup.build();
    for n in 0..50 {
        let image = keeper.push_own(&format!("i{n}"), 10);
        keeper.pull(&image).await;
    }
    keeper.clock.advance(Duration::from_secs(1_000_000));
    let calls = || {
        keeper
            .store
            .faults()
            .calls(registry_core::testing::StoreCall::Record)
    };
    let before = calls();
    keeper.collect_what_is_over().await;
    let first = calls() - before;
    assert!(first >= 50);
    keeper.clock.advance(STEP);
    keeper.collect_what_is_over().await;
    assert_eq!(calls() - before, first);
}

/// That much stays in a row for its age keeps no limit from being kept.
#[tokio::test]
async fn what_stays_for_one_limit_does_not_suspend_another() {
    let hour = Duration::from_secs(3_600);
    let mut setup = Setup::idle(hour);
    setup.limits.postponed_max = 1;
    setup.entry = Some(|entry| entry.retention.bytes_max = Some(2_000));
    let keeper = setup.build();
    keeper.pin("two.example/**").await;
    let place = origin("two.example", "library/x");
    let pinned = [keeper.push(&place, "pinned", &[sample(1_000, 9)])];
    keeper.pull(&pinned[0]).await;
    keeper.clock.advance(hour);
    let places = [
        ("one.example", "library/x", "a"),
        ("one.example", "library/x", "b"),
    ];
    let images = pulled(&keeper, &places).await;
    keeper.collect_what_is_over().await;
    assert_eq!(keeper.kept(&images).await, ["b"]);
    assert_eq!(keeper.kept(&pinned).await, ["pinned"]);
}
