//! Outages: what an upstream that does not answer costs those who pull what is cached, in time and
//! in questions.

use std::time::Duration;

use futures::future::join_all;
use futures::poll;
use registry_core::cache::StaleReason;
use registry_core::testing::{Act, Call, Calls, Gate};
use registry_core::{
    CacheError, CacheStatus, Caller, FetchedTags, Manifest, Served, TagPage, UpstreamError,
    UpstreamPolicy,
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::support::{Mirror, bytes, image, one, push, repository, tag, two, unavailable};

const STALE: CacheStatus = CacheStatus::Stale(StaleReason::Timeout);

/// For what is due to happen; the clock is paused.
const A_MOMENT: Duration = Duration::from_millis(1);

/// Names of signatures and the like: of `sha256:dddd…`.
fn attached() -> [String; 4] {
    let of = format!("sha256-{}", "d".repeat(64));
    ["", ".sig", ".att", ".sbom"].map(|suffix| format!("{of}{suffix}"))
}

fn budget() -> Duration {
    UpstreamPolicy::default().tag_budget
}

/// A mirror that holds `a` and `b`, whose upstream answers nothing about tags any more; and what
/// was asked of it by then.
async fn black_holed() -> (Mirror, usize) {
    let mirror = Mirror::new();
    for name in ["a", "b"] {
        push(&mirror.one, name, name);
        push(&mirror.two, name, name);
        mirror.get(name).await.unwrap();
        mirror.get_from(&two(), name).await.unwrap();
    }
    mirror.one.always(Call::Resolve, Act::Hang);
    let asked = mirror.one.calls().total();
    (mirror, asked)
}

/// Serves `name` stale, without any time going by.
async fn is_stale_at_once(mirror: &Mirror, name: &str) {
    let begun = Instant::now();
    let served = mirror.get(name).await.unwrap();
    assert_eq!(served.status, STALE, "{name}");
    assert_eq!(begun.elapsed(), Duration::ZERO, "{name}");
}

#[tokio::test(start_paused = true)]
async fn an_outage_costs_one_budget_and_then_nothing_until_the_question_has_ended() {
    let (mirror, asked) = black_holed().await;
    let begun = Instant::now();
    assert_eq!(mirror.get("a").await.unwrap().status, STALE);
    assert_eq!(begun.elapsed(), budget());
    for _ in 0..100 {
        is_stale_at_once(&mirror, "a").await;
        is_stale_at_once(&mirror, "b").await;
    }
    assert_eq!(mirror.one.calls().total(), asked + 1);

    // Another upstream is another matter.
    let other = mirror.get_from(&two(), "a").await.unwrap();
    assert_eq!(other.status, CacheStatus::Revalidated);

    // The question ends; the next pull asks again, and pays if it is not answered either.
    let left = mirror.cache.limits().upstream_wait_max - budget();
    sleep(left + A_MOMENT).await;
    let again = Instant::now();
    assert_eq!(mirror.get("b").await.unwrap().status, STALE);
    assert_eq!(again.elapsed(), budget());
    assert_eq!(mirror.one.calls().total(), asked + 2);
}

/// The budget is the question's: who comes in the middle of it waits for the rest.
#[tokio::test(start_paused = true)]
async fn all_who_wait_are_served_at_the_same_moment() {
    let (mirror, asked) = black_holed().await;
    let begun = Instant::now();
    let pull = async |after: u64| {
        sleep(Duration::from_millis(after)).await;
        let status = mirror.get("a").await.unwrap().status;
        (status, begun.elapsed())
    };
    let served = join_all([0, 1, 1_500, 2_999].map(pull)).await;
    assert_eq!(served, [(STALE, budget()); 4]);
    assert_eq!(mirror.one.calls().total(), asked + 1);
}

/// Whoever is told that the question is late and comes back at once meets it as late already,
/// whatever else is going on.
#[tokio::test(start_paused = true)]
async fn a_question_is_late_before_anyone_learns_of_it() {
    let (mirror, asked) = black_holed().await;
    let client = async || {
        for _ in 0..3 {
            assert_eq!(mirror.get("a").await.unwrap().status, STALE);
            assert_eq!(mirror.get("b").await.unwrap().status, STALE);
        }
    };
    let begun = Instant::now();
    tokio::join!(client(), client(), client());
    assert_eq!(begun.elapsed(), budget());
    assert_eq!(mirror.one.calls().total(), asked + 1);
}

#[tokio::test(start_paused = true)]
async fn who_holds_nothing_waits_for_the_answer() {
    let (mirror, asked) = black_holed().await;
    let pushed = push(&mirror.one, "new", "new");
    let gate = Gate::new();
    mirror.one.once(Call::Resolve, Act::Wait(gate.clone()));
    let mut unseen = Box::pin(mirror.get("new"));
    assert!(poll!(&mut unseen).is_pending());
    sleep(budget() + A_MOMENT).await;
    assert!(poll!(&mut unseen).is_pending());
    // What is held does not wait for what is not.
    is_stale_at_once(&mirror, "a").await;
    assert_eq!(mirror.one.calls().total(), asked + 1);
    gate.open();
    let served = unseen.await.unwrap();
    assert_eq!((served.value, served.status), (pushed, CacheStatus::Miss));

    let error = mirror.get("newer").await.unwrap_err();
    assert!(
        matches!(error, CacheError::Upstream(UpstreamError::Timeout { .. })),
        "{error:?}"
    );
}

/// A recovery is seen by the pull that comes after it, however long the outage was.
#[tokio::test(start_paused = true)]
async fn an_answer_ends_an_outage() {
    let (mirror, asked) = black_holed().await;
    let gate = Gate::new();
    mirror.one.once(Call::Resolve, Act::Wait(gate.clone()));
    assert_eq!(mirror.get("a").await.unwrap().status, STALE);
    let moved = push(&mirror.one, "moved", "a");
    mirror.one.always(Call::Resolve, Act::Wait(Gate::new()));
    is_stale_at_once(&mirror, "a").await;
    gate.open();
    // The question that is late is answered, and what it brings is recorded.
    while mirror.one.calls().manifest < 3 {
        tokio::task::yield_now().await;
    }
    sleep(A_MOMENT).await;
    mirror.one.set_down(Some(unavailable()));
    let served = mirror.get("a").await.unwrap();
    assert_eq!(served.value, moved);
    assert_eq!(
        served.status,
        CacheStatus::Stale(StaleReason::Unavailable),
        "it was asked again"
    );
    assert_eq!(mirror.one.calls().total(), asked + 3);
}

/// An upstream that is slow about one tag, and answers about the others, is not silent.
#[tokio::test(start_paused = true)]
async fn one_slow_tag_does_not_make_the_others_stale() {
    let (mirror, _) = black_holed().await;
    mirror.one.always(Call::Resolve, Act::Wait(opened()));
    mirror.one.once(Call::Resolve, Act::Hang);
    let mut slow = Box::pin(mirror.get("a"));
    assert!(poll!(&mut slow).is_pending());
    assert!(matches!(
        mirror.get("b").await.unwrap().status,
        CacheStatus::Revalidated
    ));
    assert_eq!(slow.await.unwrap().status, STALE);
    assert!(matches!(
        mirror.get("b").await.unwrap().status,
        CacheStatus::Revalidated
    ));
    is_stale_at_once(&mirror, "a").await;
}

fn opened() -> Gate {
    let gate = Gate::new();
    gate.open();
    gate
}

/// However a late question ends, it is late no longer.
#[tokio::test(start_paused = true)]
async fn a_late_question_that_dies_makes_nothing_stale() {
    for end in [Act::Panic, Act::Fail(unavailable()), Act::Absent] {
        let (mirror, asked) = black_holed().await;
        let begun = Instant::now();
        mirror.one.once(Call::Resolve, Act::Hang);
        assert_eq!(mirror.get("a").await.unwrap().status, STALE);
        let wait = mirror.cache.limits().upstream_wait_max;
        sleep_until(begun + wait + A_MOMENT).await;
        mirror.one.once(Call::Resolve, end);
        mirror.get("b").await.unwrap();
        assert_eq!(mirror.one.calls().total(), asked + 2);
        mirror.one.always(Call::Resolve, Act::Wait(opened()));
        mirror.clock.advance(mirror.cache.limits().negative_ttl);
        let served = mirror.get("b").await.unwrap();
        assert_eq!(served.status, CacheStatus::Revalidated);
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_of_tags_costs_one_budget_and_is_shared() {
    let (mirror, asked) = black_holed().await;
    mirror.one.always(Call::Tags, Act::Hang);
    let page = TagPage {
        after: None,
        limit: 10,
    };
    let caller = Caller::Anonymous;
    let list = async || {
        let origin = one();
        let listed: Served<FetchedTags> = mirror.cache.tags(&origin, page, &caller).await.unwrap();
        assert_eq!(listed.value.tags, [tag("a"), tag("b")]);
        listed.status
    };
    let begun = Instant::now();
    assert_eq!(tokio::join!(list(), list()), (STALE, STALE));
    assert_eq!(begun.elapsed(), budget());
    assert_eq!(list().await, STALE);
    assert_eq!(begun.elapsed(), budget());
    assert_eq!(mirror.one.calls().tags, 1);
    // A long list takes its time: of the upstream that says nothing.
    assert_eq!(mirror.get("a").await.unwrap().status, STALE);
    assert_eq!(begun.elapsed(), 2 * budget());
    // A silent upstream is not asked for lists either.
    let past = TagPage {
        after: Some("a"),
        limit: 10,
    };
    let listed = mirror.cache.tags(&one(), past, &caller).await.unwrap();
    assert_eq!((listed.status, listed.value.tags), (STALE, vec![tag("b")]));
    assert_eq!(begun.elapsed(), 2 * budget());
    assert_eq!(mirror.one.calls().total(), asked + 2);
}

/// That an image has no signature is an answer, which stands while the upstream cannot be asked.
#[tokio::test(start_paused = true)]
async fn that_an_image_has_no_signature_is_recalled_offline() {
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
    ] {
        let mirror = Mirror::new();
        for name in attached() {
            let online = mirror.get(&name).await;
            assert!(matches!(online, Err(CacheError::NotFound)), "{online:?}");
        }
        assert!(matches!(
            mirror.get("latest").await,
            Err(CacheError::NotFound)
        ));
        mirror.clock.advance(Duration::from_secs(3600));
        mirror.one.set_down(Some(error));
        for name in attached() {
            let offline = mirror.get(&name).await;
            assert!(
                matches!(offline, Err(CacheError::NotFoundStale { reason: told }) if told == reason),
                "{name}: {offline:?}"
            );
        }
        // Of anything else, nothing is known.
        let error = mirror.get("latest").await.unwrap_err();
        assert!(matches!(error, CacheError::Upstream(_)), "{error:?}");
        let never_asked = format!("sha256-{}.sig", "e".repeat(64));
        let error = mirror.get(&never_asked).await.unwrap_err();
        assert!(matches!(error, CacheError::Upstream(_)), "{error:?}");
        mirror
            .one
            .set_down(Some(UpstreamError::Unauthorized { status: 401 }));
        let error = mirror.get(&attached()[1]).await.unwrap_err();
        assert!(matches!(error, CacheError::Upstream(_)), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_recalled_absence_costs_a_budget_at_most() {
    let mirror = Mirror::new();
    let name = &attached()[1];
    mirror.get(name).await.unwrap_err();
    mirror.clock.advance(Duration::from_secs(60));
    mirror.one.always(Call::Resolve, Act::Hang);
    for wait in [budget(), Duration::ZERO] {
        let begun = Instant::now();
        let offline = mirror.get(name).await;
        assert!(
            matches!(
                offline,
                Err(CacheError::NotFoundStale {
                    reason: StaleReason::Timeout
                })
            ),
            "{offline:?}"
        );
        assert_eq!(begun.elapsed(), wait);
    }
    assert_eq!(mirror.one.calls().resolve, 2);
}

/// A signature that was seen is never again recalled as absent.
#[tokio::test]
async fn signatures_are_kept_like_any_tag() {
    let mirror = Mirror::new();
    for name in attached() {
        mirror.get(&name).await.unwrap_err();
        let pushed = push(&mirror.one, &name, &name);
        mirror
            .clock
            .advance(mirror.cache.limits().negative_attached_ttl);
        assert_eq!(mirror.get(&name).await.unwrap().value, pushed);
        mirror.one.set_down(Some(unavailable()));
        let served = mirror.get(&name).await.unwrap();
        assert_eq!(served.value, pushed);
        assert_eq!(served.status, CacheStatus::Stale(StaleReason::Unavailable));
        mirror.one.set_down(None);
    }
}

/// A blob that was asked for too early is there as soon as its manifest is.
#[tokio::test]
async fn a_manifest_ends_the_absence_of_what_it_names() {
    for by_tag in [true, false] {
        let mirror = Mirror::new();
        let content = bytes(1000);
        let layer = registry_core::testing::content::digest_of(&content);
        let early = mirror.blob(&one(), layer, None).await;
        assert!(matches!(early, Err(CacheError::NotFound)), "{early:?}");
        let early = mirror
            .cache
            .stat_blob(&one(), layer, &Caller::Anonymous)
            .await;
        assert!(matches!(early, Err(CacheError::NotFound)), "{early:?}");
        assert_eq!(mirror.one.calls().total(), 1, "it is remembered");

        mirror.one.add_blob(&repository(), content.clone());
        let manifest: Manifest = image("a", &[(layer, content.len())]);
        mirror.one.add_manifest(&repository(), manifest.clone());
        mirror
            .one
            .set_tag(&repository(), &tag("latest"), manifest.digest());
        let reference = manifest.digest().to_string();
        let reference = if by_tag { "latest" } else { &reference };
        mirror.get(reference).await.unwrap();
        let served = mirror.blob(&one(), layer, None).await.unwrap();
        let read = crate::support::read(served.value).await.unwrap();
        assert_eq!(read, content);
        let before = mirror.one.calls();
        assert_eq!(
            before,
            Calls {
                blob: 2,
                blob_bytes: 1000,
                ..before
            }
        );
    }
}
