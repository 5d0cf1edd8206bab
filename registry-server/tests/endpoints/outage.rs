//! A whole mirror while its registry is silent: what that costs those who pull.

use std::time::Duration;

use http::Method;
use registry_core::Limits;
use registry_server::Mirror;
use registry_server::config::UpstreamConfig;
use registry_server::testing::{Fault, FixtureRegistry, ImageSpec, Match, Object, Times};
use tokio::time::Instant;

use crate::client::{Answer, get};
use crate::support::SOON;

const PULLS: usize = 200;

async fn pull(mirror: &Mirror, tag: &str) -> Answer {
    let path = format!("/v2/app/manifests/{tag}?ns=registry.test");
    let address = mirror.addr();
    let asking = tokio::task::spawn_blocking(move || get(address, &path));
    asking.await.unwrap()
}

fn questions(registry: &FixtureRegistry) -> u64 {
    registry.total() - registry.count(Method::GET, Object::Ping)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_costs_one_pull_a_budget_and_the_others_nothing() {
    let registry = FixtureRegistry::start().await;
    registry.add_image("app", "held", &ImageSpec::new(1));
    registry.add_image("app", "new", &ImageSpec::new(2));
    let folder = tempfile::tempdir().unwrap();
    let mut upstream = UpstreamConfig::new([registry.url().parse().unwrap()]);
    upstream.rules.tag_budget = Some(SOON);
    upstream.budgets.headers = SOON;
    let mirror = Mirror::builder()
        .data_dir(folder.path())
        .upstream_config("registry.test", upstream)
        .start()
        .await
        .unwrap();
    assert_eq!(pull(&mirror, "held").await.status, 200);

    registry.fault(Match::any(), Times::Always, Fault::BlackHole);
    registry.reset_counters();
    let begun = Instant::now();
    let answer = pull(&mirror, "held").await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("warning").is_some(), "{answer:?}");
    assert!(begun.elapsed() >= SOON);
    // From the first probe on, nobody asks but it.
    let probed =
        |count| registry.wait_for(move |stats| stats.count(Method::GET, Object::Ping) >= count);
    probed(1).await;
    for _ in 0..PULLS {
        let answer = pull(&mirror, "held").await;
        assert_eq!(answer.status, 200);
        assert!(answer.header("warning").is_some(), "{answer:?}");
    }
    // What is not held fails at once, for the client to go on.
    for _ in 0..PULLS {
        assert_eq!(pull(&mirror, "new").await.status, 502);
    }
    assert_eq!(questions(&registry), 1);

    // It is found well before anyone asks: by the next probe, and by no pull.
    let probes = registry.count(Method::GET, Object::Ping);
    registry.clear_faults();
    probed(probes + 1).await;
    assert_eq!(questions(&registry), 1);
    let is_back = async {
        while pull(&mirror, "new").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // It has only to hear of the answer to the probe.
    tokio::time::timeout(Duration::from_secs(30), is_back)
        .await
        .unwrap();
    let answer = pull(&mirror, "held").await;
    assert_eq!(answer.header("warning"), None, "{answer:?}");
    mirror.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_noticed_also_where_the_cache_waits_for_less_than_the_budgets() {
    let registry = FixtureRegistry::start().await;
    registry.add_image("app", "new", &ImageSpec::new(1));
    registry.fault(Match::any(), Times::Always, Fault::BlackHole);
    let folder = tempfile::tempdir().unwrap();
    let mut upstream = UpstreamConfig::new([registry.url().parse().unwrap()]);
    upstream.budgets.headers = Duration::from_secs(3600);
    upstream.budgets.total = Duration::from_secs(3600);
    let limits = Limits {
        upstream_wait_max: SOON,
        ..Limits::default()
    };
    let mirror = Mirror::builder()
        .data_dir(folder.path())
        .upstream_config("registry.test", upstream)
        .cache_limits(limits)
        .start()
        .await
        .unwrap();
    for status in [504, 502, 502] {
        assert_eq!(pull(&mirror, "new").await.status, status);
    }
    assert_eq!(questions(&registry), 1);
    mirror.shutdown().await;
}
