//! What an upstream says of itself without asking anybody: whether it can be asked, and how its
//! endpoints are.

use std::time::Duration;

use http::Method;
use registry_core::{Asked as Kind, Condition, Repository, Upstream as _};
use registry_server::testing::{Fault, Match, Object, Times};

use crate::support::{Asked, registry};

fn condition(upstream: &Asked, asked: Kind) -> Condition {
    let repository = Repository::parse("app").unwrap();
    upstream.upstream.condition(&repository, asked)
}

#[tokio::test]
async fn an_upstream_is_ready_while_one_endpoint_can_be_asked() {
    let (first, image) = registry().await;
    let second = first.start_storage().await;
    let digest = image.root().digest;
    let alone = Asked::impatiently(&[&first]);
    let both = Asked::impatiently(&[&first, &second]);
    for upstream in [&alone, &both] {
        for asked in [Kind::Tag, Kind::Manifest, Kind::Blob] {
            assert_eq!(condition(upstream, asked), Condition::Ready);
        }
        assert_eq!(upstream.upstream.endpoints()[0].last_error, None);
    }
    first.fault(Match::any(), Times::Always, Fault::BlackHole);
    alone.has_manifest(digest).await.unwrap_err();
    assert!(both.has_manifest(digest).await.unwrap());
    let asked_for = first.total() - first.count(Method::GET, Object::Ping);

    let Condition::Resting { what, .. } = condition(&alone, Kind::Blob) else {
        panic!("it rests");
    };
    assert!(
        what.contains(&first.host()) && what.contains("did not answer in time"),
        "{what}"
    );
    let refusal = condition(&alone, Kind::Blob).refusal().unwrap();
    let told = alone.blob(digest).await.unwrap_err();
    assert_eq!(refusal.to_string(), told.to_string());
    assert_eq!(condition(&both, Kind::Blob), Condition::Ready);

    let [state] = &alone.upstream.endpoints()[..] else {
        panic!("one");
    };
    assert_eq!(
        (state.endpoint.as_str(), state.up),
        (first.host().as_str(), false)
    );
    assert!(state.since.is_some());
    assert!(state.last_error.as_ref().unwrap().what.contains("in time"));
    let states = both.upstream.endpoints();
    assert_eq!(
        states.iter().map(|state| state.up).collect::<Vec<_>>(),
        [false, true]
    );
    // Nobody was asked for any of it.
    assert_eq!(
        first.total() - first.count(Method::GET, Object::Ping),
        asked_for
    );

    first.clear_faults();
    let well = format!("well {}", first.host());
    alone.events.wait_for(&well, 1).await;
    assert_eq!(condition(&alone, Kind::Blob), Condition::Ready);
    assert!(alone.upstream.endpoints()[0].up);
}

#[tokio::test]
async fn what_is_limited_is_told_apart() {
    let (registry, image) = registry().await;
    let manifest = image.root().digest;
    let upstream = Asked::of(&[&registry]);
    let limited = Fault::status_with(429, &[("Retry-After", "100")]);
    registry.fault(Match::any(), Times::Once, limited);
    upstream.manifest(manifest).await.unwrap_err();
    // Docker Hub counts what is fetched, and nothing else.
    let Condition::Limited { wait } = condition(&upstream, Kind::Manifest) else {
        panic!("it is limited");
    };
    let second = Duration::from_secs(1);
    assert!((90 * second..=100 * second).contains(&wait), "{wait:?}");
    assert_eq!(condition(&upstream, Kind::Tag), Condition::Ready);
    assert_eq!(condition(&upstream, Kind::Blob), Condition::Ready);
    assert_eq!(registry.total(), 1);
    let state = &upstream.upstream.endpoints()[0];
    assert!(state.up && state.last_error.is_some());
}
