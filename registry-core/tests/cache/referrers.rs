//! Referrers: a list that is revalidated like a tag, filtered and paged here, and served without its
//! upstream.

use std::time::Duration;

use futures::future::join_all;
use registry_core::cache::{BypassReason, StaleReason};
use registry_core::testing::content::digest_of;
use registry_core::testing::{Act, Call, Calls, Fault, Gate, StoreCall};
use registry_core::{
    CacheError, CacheStatus, Caller, Digest, Limits, ListedReferrers, Referrer, Referrers,
    ReferrersPage, ReferrersRecord, ReferrersStore as _, Served, Timestamp, UpstreamError,
    UpstreamPolicy,
};
use tokio::time::Instant;

use crate::support::{Mirror, one, push, repository, ttl, two, unavailable};

const SIGNATURE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const SBOM: &str = "application/spdx+json";

/// A list of referrers with these types, which differ by their place.
fn list(kinds: &[&str]) -> Referrers {
    let entries: Vec<_> = kinds
        .iter()
        .enumerate()
        .map(|(n, kind)| {
            let digest = digest_of(format!("{n} {kind}").as_bytes());
            format!(r#"{{"digest":"{digest}","artifactType":"{kind}","annotations":{{}}}}"#)
        })
        .collect();
    let index = format!(r#"{{"manifests":[{}]}}"#, entries.join(","));
    Referrers::of_index(None, index.as_bytes()).unwrap()
}

const ALL: ReferrersPage<'static> = ReferrersPage {
    artifact_type: None,
    after: None,
    limit: 1_000,
};

fn of_type(kind: &str) -> ReferrersPage<'_> {
    ReferrersPage {
        artifact_type: Some(kind),
        ..ALL
    }
}

async fn ask(
    mirror: &Mirror,
    subject: Digest,
    page: ReferrersPage<'_>,
) -> Result<Served<ListedReferrers>, CacheError> {
    mirror
        .cache
        .referrers(&one(), subject, page, &Caller::Anonymous)
        .await
}

/// A mirror through which an image was pulled that has these referrers upstream.
async fn pulled(policy: UpstreamPolicy, referrers: Option<Referrers>) -> (Mirror, Digest) {
    let mirror = Mirror::with_policy(policy);
    let subject = push(&mirror.one, "image", "latest").digest();
    if let Some(referrers) = referrers {
        mirror.one.set_referrers(&repository(), subject, referrers);
    }
    mirror.get("latest").await.unwrap();
    (mirror, subject)
}

async fn recorded(mirror: &Mirror, subject: Digest) -> Option<ReferrersRecord> {
    mirror.store.referrers(&one(), subject).await.unwrap()
}

#[tokio::test]
async fn a_list_is_revalidated_like_a_tag() {
    let first = list(&[SIGNATURE]);
    let (mirror, subject) = pulled(ttl(60), Some(first.clone())).await;
    let expect = async |status, referrers: &Referrers, asked| {
        let served = ask(&mirror, subject, ALL).await.unwrap();
        assert_eq!(
            (served.status, &served.value.referrers),
            (status, referrers)
        );
        assert_eq!(mirror.one.calls().referrers, asked);
    };
    expect(CacheStatus::Miss, &first, 1).await;
    mirror.clock.advance(Duration::from_millis(59_999));
    expect(CacheStatus::Hit, &first, 1).await;
    mirror.clock.advance(Duration::from_millis(1));
    expect(CacheStatus::Revalidated, &first, 2).await;
    let second = list(&[SIGNATURE, SBOM]);
    mirror
        .one
        .set_referrers(&repository(), subject, second.clone());
    expect(CacheStatus::Hit, &first, 2).await;
    mirror.clock.advance(Duration::from_secs(60));
    expect(CacheStatus::Miss, &second, 3).await;
    let none = list(&[]);
    mirror
        .one
        .set_referrers(&repository(), subject, none.clone());
    mirror.clock.advance(Duration::from_secs(60));
    expect(CacheStatus::Miss, &none, 4).await;
    assert_eq!(
        recorded(&mirror, subject).await.unwrap().referrers,
        Some(none)
    );
}

#[tokio::test]
async fn one_question_serves_every_filter_and_everyone() {
    let (mirror, subject) = pulled(ttl(60), Some(list(&[SIGNATURE, SBOM, SIGNATURE]))).await;
    let gate = Gate::new();
    mirror.one.once(Call::Referrers, Act::Wait(gate.clone()));
    let asking = [SIGNATURE, SBOM, "application/other"].map(|kind| {
        let mirror = &mirror;
        async move {
            let served = ask(mirror, subject, of_type(kind)).await.unwrap();
            let types: Vec<_> = served.value.referrers.iter().collect();
            assert!(types.iter().all(|one| one.artifact_type() == Some(kind)));
            types.len()
        }
    });
    let (listed, ()) = tokio::join!(join_all(asking), async { gate.open() });
    assert_eq!(listed, [2, 1, 0]);
    let served = ask(&mirror, subject, of_type(SBOM)).await.unwrap();
    assert_eq!(served.status, CacheStatus::Hit);
    assert_eq!(mirror.one.calls().referrers, 1);
}

/// A signature is pushed moments after somebody saw that there is none.
#[tokio::test]
async fn that_there_is_none_is_believed_for_a_moment() {
    for before in [list(&[]), list(&[SBOM])] {
        let (mirror, subject) = pulled(ttl(3_600), Some(before)).await;
        let signatures = async || {
            let served = ask(&mirror, subject, of_type(SIGNATURE)).await.unwrap();
            (served.status, served.value.referrers.len())
        };
        assert_eq!(signatures().await, (CacheStatus::Miss, 0));
        assert_eq!(signatures().await, (CacheStatus::Hit, 0));
        mirror
            .one
            .set_referrers(&repository(), subject, list(&[SBOM, SIGNATURE]));
        mirror
            .clock
            .advance(mirror.cache.limits().negative_attached_ttl);
        assert_eq!(signatures().await, (CacheStatus::Miss, 1));
        assert_eq!(signatures().await, (CacheStatus::Hit, 1));
    }
}

#[tokio::test]
async fn a_list_is_served_stale_when_the_upstream_cannot_tell() {
    for (error, reason) in [
        (unavailable(), StaleReason::Unavailable),
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
        for referrers in [list(&[]), list(&[SIGNATURE])] {
            let (mirror, subject) =
                pulled(UpstreamPolicy::default(), Some(referrers.clone())).await;
            ask(&mirror, subject, ALL).await.unwrap();
            mirror.clock.advance(Duration::from_secs(90));
            mirror.one.set_down(Some(error.clone()));
            let served = ask(&mirror, subject, ALL).await.unwrap();
            assert_eq!(served.value.referrers, referrers);
            assert_eq!(served.status, CacheStatus::Stale(reason));
            assert_eq!(served.age, Some(Duration::from_secs(90)));
            let unseen = ask(&mirror, digest_of(b"unseen"), ALL).await;
            assert!(matches!(unseen, Err(CacheError::Upstream(_))), "{unseen:?}");
            mirror
                .one
                .set_down(Some(UpstreamError::Unauthorized { status: 403 }));
            let refused = ask(&mirror, subject, ALL).await;
            assert!(
                matches!(
                    refused,
                    Err(CacheError::Upstream(UpstreamError::Unauthorized { .. }))
                ),
                "{refused:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_hangs_costs_one_budget() {
    let (mirror, subject) = pulled(UpstreamPolicy::default(), Some(list(&[SIGNATURE]))).await;
    ask(&mirror, subject, ALL).await.unwrap();
    mirror.one.always(Call::Referrers, Act::Hang);
    mirror.one.always(Call::Resolve, Act::Hang);
    let stale = CacheStatus::Stale(StaleReason::Timeout);
    let budget = UpstreamPolicy::default().tag_budget;
    for wait in [budget, Duration::ZERO] {
        let begun = Instant::now();
        assert_eq!(ask(&mirror, subject, ALL).await.unwrap().status, stale);
        assert_eq!(begun.elapsed(), wait);
    }
    assert_eq!(mirror.one.calls().referrers, 2);

    // Nor is it asked while it leaves a tag unanswered.
    let (mirror, subject) = pulled(UpstreamPolicy::default(), Some(list(&[SIGNATURE]))).await;
    ask(&mirror, subject, ALL).await.unwrap();
    mirror.one.always(Call::Resolve, Act::Hang);
    assert_eq!(mirror.get("latest").await.unwrap().status, stale);
    assert_eq!(ask(&mirror, subject, ALL).await.unwrap().status, stale);
    assert_eq!(mirror.one.calls().referrers, 1);
}

#[tokio::test]
async fn an_upstream_without_the_api_is_not_found_and_stays_so_offline() {
    let (mirror, subject) = pulled(ttl(60), None).await;
    mirror.one.always(Call::Referrers, Act::Absent);
    let unpulled = digest_of(b"unpulled");
    let asked = |n| Calls {
        resolve: 1,
        manifest: 1,
        referrers: n,
        ..Calls::default()
    };
    for subject in [subject, unpulled] {
        for _ in 0..2 {
            let none = ask(&mirror, subject, ALL).await;
            assert!(matches!(none, Err(CacheError::NotFound)), "{none:?}");
        }
    }
    assert_eq!(mirror.one.calls(), asked(2));
    mirror
        .clock
        .advance(mirror.cache.limits().negative_attached_ttl);
    ask(&mirror, subject, ALL).await.unwrap_err();
    assert_eq!(mirror.one.calls(), asked(3));
    assert_eq!(
        recorded(&mirror, subject).await.unwrap().referrers,
        None,
        "that there are none outlives a restart"
    );
    assert_eq!(recorded(&mirror, unpulled).await, None);

    mirror.clock.advance(Duration::from_secs(3_600));
    mirror.one.set_down(Some(unavailable()));
    for subject in [subject, unpulled] {
        let none = ask(&mirror, subject, ALL).await;
        assert!(
            matches!(
                none,
                Err(CacheError::NotFoundStale {
                    reason: StaleReason::Unavailable
                })
            ),
            "{none:?}"
        );
    }
}

#[tokio::test]
async fn a_list_that_is_gone_upstream_is_kept_unless_told_otherwise() {
    for forward_not_found in [false, true] {
        let policy = UpstreamPolicy {
            forward_not_found,
            ..UpstreamPolicy::default()
        };
        let referrers = list(&[SIGNATURE]);
        let (mirror, subject) = pulled(policy, Some(referrers.clone())).await;
        ask(&mirror, subject, ALL).await.unwrap();
        mirror.one.always(Call::Referrers, Act::Absent);
        for _ in 0..2 {
            match ask(&mirror, subject, ALL).await {
                Ok(served) if !forward_not_found => {
                    assert_eq!(served.value.referrers, referrers);
                    assert_eq!(served.status, CacheStatus::Stale(StaleReason::Gone));
                }
                Err(CacheError::NotFound) if forward_not_found => {}
                other => panic!("forward_not_found: {forward_not_found}, {other:?}"),
            }
        }
        assert_eq!(mirror.one.calls().referrers, 2);
    }
}

/// I8: clients can ask for the referrers of any number of digests, and leave no row for each.
#[tokio::test]
async fn nothing_is_recorded_of_what_is_not_there() {
    let (mirror, _) = pulled(UpstreamPolicy::default(), None).await;
    for n in 0..10 {
        let served = ask(&mirror, digest_of(&[n]), ALL).await.unwrap();
        assert!(served.value.referrers.is_empty());
        assert_eq!(served.status, CacheStatus::Bypass(BypassReason::Listing));
    }
    assert_eq!(mirror.store.faults().calls(StoreCall::PutReferrers), 0);
    // A list that was there once is not left to contradict what is.
    let subject = digest_of(b"subject");
    for referrers in [list(&[SBOM]), list(&[])] {
        mirror
            .one
            .set_referrers(&repository(), subject, referrers.clone());
        ask(&mirror, subject, ALL).await.unwrap();
        let record = recorded(&mirror, subject).await.unwrap();
        assert_eq!(record.referrers, Some(referrers));
    }
}

#[tokio::test]
async fn a_store_that_fails_costs_the_memory_and_not_the_answer() {
    let (mirror, subject) = pulled(ttl(60), Some(list(&[SBOM]))).await;
    let faults = mirror.store.faults();
    faults.fail_always(StoreCall::PutReferrers, Fault::NoSpace);
    let failing = CacheStatus::Bypass(BypassReason::StoreFailing);
    assert_eq!(ask(&mirror, subject, ALL).await.unwrap().status, failing);
    faults.heal();
    let served = ask(&mirror, subject, ALL).await.unwrap();
    assert_eq!(served.status, CacheStatus::Miss);
    faults.fail_always(StoreCall::Referrers, Fault::Io);
    let served = ask(&mirror, subject, ALL).await.unwrap();
    assert_eq!(
        (served.status, served.value.referrers),
        (CacheStatus::Miss, list(&[SBOM]))
    );
    assert_eq!(mirror.one.calls().referrers, 3);
}

/// I4: upstreams of the same repository are apart, and so are repositories.
#[tokio::test]
async fn what_one_origin_lists_another_does_not() {
    let (mirror, subject) = pulled(ttl(60), Some(list(&[SIGNATURE]))).await;
    push(&mirror.two, "image", "latest");
    ask(&mirror, subject, ALL).await.unwrap();
    let caller = Caller::Anonymous;
    let elsewhere = mirror.cache.referrers(&two(), subject, ALL, &caller).await;
    assert!(elsewhere.unwrap().value.referrers.is_empty());
    assert_eq!(mirror.two.calls().referrers, 1);
}

#[tokio::test]
async fn pages_have_their_limits() {
    let entry_bytes = list(&[SBOM]).json_bytes();
    for (page_entries_max, referrers_page_bytes_max, page_len) in
        [(2, usize::MAX, 2), (100, 3 * entry_bytes, 3)]
    {
        let limits = Limits {
            page_entries_max,
            referrers_page_bytes_max,
            ..Limits::default()
        };
        let mirror = Mirror::with(ttl(60), limits);
        let subject = digest_of(b"subject");
        let whole = list(&[SBOM; 5]);
        mirror
            .one
            .set_referrers(&repository(), subject, whole.clone());
        let mut seen = Referrers::default();
        loop {
            let page = ReferrersPage {
                after: seen.iter().last().map(Referrer::digest),
                ..of_type(SBOM)
            };
            let listed = ask(&mirror, subject, page).await.unwrap().value;
            assert!(listed.referrers.len() <= page_len);
            seen.extend(listed.referrers);
            if !listed.more {
                break;
            }
        }
        assert_eq!(seen, whole);
        assert_eq!(mirror.one.calls().referrers, 1);
        let record = recorded(&mirror, subject).await.unwrap();
        assert_eq!(record.referrers, Some(whole));
        assert!(record.validated_at > Timestamp::default());
    }
}
