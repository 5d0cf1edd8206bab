//! How long an upstream is waited for, with several endpoints and slow bodies.

use std::time::Duration;

use http::Method;
use registry_server::testing::{Fault, FixtureRegistry, Match, Object, Times};
use tokio::time::Instant;

use crate::errors::kind;
use crate::support::{Asked, SOON, impatient, registry};

fn questions(registry: &FixtureRegistry) -> u64 {
    registry.count(Method::GET, Object::ManifestByDigest)
}

#[tokio::test]
async fn a_silent_endpoint_leaves_time_for_the_next() {
    let (first, image) = registry().await;
    let second = first.start_storage().await;
    let digest = image.root().digest;
    for silent in [&first, &second] {
        silent.fault(Match::any(), Times::Always, Fault::BlackHole);
    }
    let mut config = impatient(&[&first, &second]);
    config.budgets.total = SOON + SOON / 2;
    config.probes.first = Duration::from_secs(3600);
    let upstream = Asked::with(config);
    let begun = Instant::now();
    let error = upstream.manifest(digest).await.unwrap_err();
    assert_eq!(kind(&error), "timeout", "{error}");
    assert!(begun.elapsed() >= SOON + SOON / 2);
    assert_eq!((questions(&first), questions(&second)), (1, 1));
    // The first had its time, and is rested; the second had not.
    assert_eq!(upstream.events.count("ill"), 1);
    let error = upstream.manifest(digest).await.unwrap_err();
    assert_eq!(kind(&error), "timeout", "{error}");
    assert_eq!((questions(&first), questions(&second)), (1, 2));
    assert_eq!(upstream.events.count("ill"), 2);
}

#[tokio::test]
async fn silence_counts_also_where_one_endpoint_may_take_all_the_time() {
    let (registry, image) = registry().await;
    registry.fault(Match::any(), Times::Always, Fault::BlackHole);
    let mut config = impatient(&[&registry]);
    config.budgets.total = config.budgets.headers;
    let upstream = Asked::with(config);
    for expected in ["timeout", "unavailable", "unavailable"] {
        let error = upstream.manifest(image.root().digest).await.unwrap_err();
        assert_eq!(kind(&error), expected, "{error}");
    }
    assert_eq!(questions(&registry), 1);
}

#[tokio::test]
async fn what_is_read_as_a_whole_ends_within_the_budget_for_all_of_it() {
    let (first, image) = registry().await;
    let second = first.start_storage().await;
    first.fault(Match::any(), Times::Always, Fault::Stall { after: 10 });
    let mut config = impatient(&[&first]);
    // Its headers come at once.
    config.budgets.total = SOON;
    config.budgets.body_idle = Duration::from_secs(3600);
    let upstream = Asked::with(config.clone());
    let error = upstream.manifest(image.root().digest).await.unwrap_err();
    assert_eq!(kind(&error), "timeout", "{error}");
    let error = upstream.tags().await.unwrap_err();
    assert_eq!(kind(&error), "timeout", "{error}");
    // A budget that is used up is no reason to wait for another endpoint.
    config.endpoints.push(second.url().parse().unwrap());
    let upstream = Asked::with(config);
    let error = upstream.manifest(image.root().digest).await.unwrap_err();
    assert_eq!(kind(&error), "timeout", "{error}");
    assert_eq!(second.total(), 0);
}

#[tokio::test]
async fn a_body_that_trickles_is_as_good_as_none() {
    let (registry, image) = registry().await;
    let digest = image.layers[0].digest;
    let upstream = Asked::impatiently(&[&registry]);
    registry.behave(|behaviour| behaviour.bytes_per_second = Some(1000));
    let error = upstream.blob(digest).await.unwrap_err();
    assert_eq!(kind(&error), "timeout", "{error}");
    let came = registry.blob_bytes_sent(&digest);
    assert!(came > 0 && came < 16 << 10, "{came}");
    // Little is enough where little is left.
    let small = registry.add_blob("app", 7, 100).digest;
    assert_eq!(upstream.blob(small).await.unwrap(), Some(100));
}
