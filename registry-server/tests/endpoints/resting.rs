//! Endpoints that fail are rested and probed: what that costs, and how it ends.

use std::time::Duration;

use futures::StreamExt as _;
use http::Method;
use registry_core::{Caller, Repository, Upstream as _, UpstreamError};
use registry_server::testing::{
    BlobRedirect, Fault, FixtureRegistry, Gate, Match, Object, Times, TokenAuth,
};

use crate::errors::kind;
use crate::support::{Asked, SOON, config, impatient, registry};

/// Longer than any test runs.
const NEVER: Duration = Duration::from_secs(3600);

/// Requests that were not probes.
fn questions(registry: &FixtureRegistry) -> u64 {
    registry.total() - registry.count(Method::GET, Object::Ping)
}

#[tokio::test]
async fn a_black_hole_costs_one_budget_and_then_nothing() {
    let (first, image) = registry().await;
    let second = first.start_storage().await;
    let digest = image.root().digest;
    first.fault(Match::any(), Times::Always, Fault::BlackHole);
    let upstream = Asked::impatiently(&[&first, &second]);
    let alone = Asked::impatiently(&[&first]);
    for _ in 0..50 {
        assert!(upstream.has_manifest(digest).await.unwrap());
    }
    assert_eq!((questions(&first), questions(&second)), (1, 50));

    // Where nobody else can be asked, the failure that is known is told at once.
    let error = alone.has_manifest(digest).await.unwrap_err();
    assert_eq!(kind(&error), "timeout", "{error}");
    for _ in 0..50 {
        let errors = [
            alone.resolve("latest").await.unwrap_err(),
            alone.manifest(digest).await.unwrap_err(),
            alone.stat_blob(digest).await.unwrap_err(),
            alone.blob(digest).await.unwrap_err(),
            alone.tags().await.unwrap_err(),
        ];
        for error in errors {
            let UpstreamError::Unavailable { what, .. } = &error else {
                panic!("{error}");
            };
            assert!(what.contains(&first.host()), "{what}");
            assert!(what.contains("did not answer in time"), "{what}");
        }
    }
    assert_eq!(questions(&first), 2);
}

#[tokio::test]
async fn recovery_is_noticed_without_a_question() {
    let (registry, image) = registry().await;
    let digest = image.root().digest;
    let upstream = Asked::impatiently(&[&registry]);
    let ill = format!("ill {}", registry.host());
    let well = format!("well {}", registry.host());
    for (round, faulty) in [true, false].into_iter().enumerate() {
        // Silent, and gone.
        if faulty {
            registry.fault(Match::any(), Times::Always, Fault::BlackHole);
        } else {
            registry.stop().await;
        }
        upstream.has_manifest(digest).await.unwrap_err();
        assert_eq!(upstream.events.count(&ill), round + 1);
        // It is probed again and again …
        let probes = upstream.events.count("probe none");
        upstream.events.wait_for("probe none", probes + 3).await;
        assert_eq!(upstream.events.count(&well), round);
        registry.reset_counters();
        if faulty {
            registry.clear_faults();
        } else {
            registry.restart().await;
        }
        // … and well as soon as it answers, before anyone asks.
        upstream.events.wait_for(&well, round + 1).await;
        assert_eq!(questions(&registry), 0);
        assert!(upstream.has_manifest(digest).await.unwrap());
        assert_eq!(questions(&registry), 1);
    }
}

#[tokio::test]
async fn one_slow_image_does_not_rest_a_registry() {
    let (registry, image) = registry().await;
    let (manifest, blob) = (image.root().digest, image.layers[0].digest);
    let hold = Fault::Hold { gate: Gate::new() };
    registry.fault(Match::blob(blob), Times::Always, hold);
    let mut config = impatient(&[&registry]);
    config.probes.first = NEVER;
    config.probes.max = NEVER;
    let upstream = Asked::with(config);
    for round in 1..=3 {
        let error = upstream.blob(blob).await.unwrap_err();
        assert_eq!(kind(&error), "timeout", "{error}");
        // The probe, which goes out at once, finds it well.
        upstream.events.wait_for("well", round).await;
        assert!(upstream.has_manifest(manifest).await.unwrap());
    }
    assert_eq!(registry.count(Method::GET, Object::Ping), 3);
    // Without a real answer in between, the next probe waits: whoever answers probes only is not
    // asked over and over.
    upstream.blob(blob).await.unwrap_err();
    upstream.events.wait_for("well", 4).await;
    upstream.blob(blob).await.unwrap_err();
    upstream.events.wait_for("ill", 5).await;
    registry.reset_counters();
    for _ in 0..5 {
        let error = upstream.has_manifest(manifest).await.unwrap_err();
        assert_eq!(kind(&error), "unavailable", "{error}");
    }
    assert_eq!(registry.total(), 0);
    assert_eq!(upstream.events.count("well"), 4);
}

#[tokio::test]
async fn one_failure_is_not_taken_for_all() {
    let (registry, image) = registry().await;
    let (manifest, blob) = (image.root().digest, image.layers[0].digest);
    let silent = Match::object(Object::Ping);
    registry.fault(silent, Times::Always, Fault::status(503));
    for fault in [
        Fault::status(500),
        Fault::status(408),
        Fault::Short { after: 1000 },
        Fault::Stall { after: 1000 },
    ] {
        let name = format!("{fault:?}");
        let of_blob = Match::blob(blob);
        registry.fault(of_blob, Times::Next(9), fault);
        let mut config = config(&[&registry]);
        config.budgets.body_idle = SOON / 4;
        let upstream = Asked::with(config);
        for _ in 0..4 {
            upstream.blob(blob).await.unwrap_err();
        }
        // One that is answered, and all is forgotten.
        assert!(upstream.has_manifest(manifest).await.unwrap(), "{name}");
        for _ in 0..5 {
            assert_eq!(upstream.events.count("ill"), 0, "{name}");
            upstream.blob(blob).await.unwrap_err();
        }
        upstream.events.wait_for("ill", 1).await;
        registry.reset_counters();
        upstream.has_manifest(manifest).await.unwrap_err();
        assert_eq!(questions(&registry), 0, "{name}");
    }
}

#[tokio::test]
async fn a_probe_wants_an_answer_and_not_a_welcome() {
    let (registry, image) = registry().await;
    let digest = image.root().digest;
    let ping = Match::object(Object::Ping);
    for status in [200, 301, 401, 403, 404] {
        let upstream = Asked::impatiently(&[&registry]);
        for status in [500, 429, status] {
            registry.fault(ping.clone(), Times::Once, Fault::status(status));
        }
        registry.fault(Match::manifest(digest), Times::Once, Fault::BlackHole);
        upstream.has_manifest(digest).await.unwrap_err();
        upstream.events.wait_for("well", 1).await;
        let probes = upstream.events.all();
        let probes = probes.iter().filter(|event| event.starts_with("probe"));
        let told = format!("probe {status}");
        let expected = ["probe 500", "probe 429", &told];
        assert_eq!(probes.collect::<Vec<_>>(), expected);
        assert!(upstream.has_manifest(digest).await.unwrap());
    }
    let requests = registry.requests();
    let mut probes = requests.iter().filter(|it| it.object == Object::Ping);
    assert!(probes.all(|probe| probe.path == "/v2/" && probe.header("authorization").is_none()));
}

#[tokio::test]
async fn a_token_server_that_is_silent_rests_its_registry() {
    let (registry, image) = registry().await;
    registry.behave(|behaviour| behaviour.token = Some(TokenAuth::default()));
    registry.fault(
        Match::object(Object::Token),
        Times::Always,
        Fault::BlackHole,
    );
    let mut config = impatient(&[&registry]);
    config.probes.first = NEVER;
    config.probes.max = NEVER;
    let upstream = Asked::with(config);
    for _ in 0..2 {
        upstream
            .has_manifest(image.root().digest)
            .await
            .unwrap_err();
        upstream.events.wait_for("ill", 1).await;
        if upstream.events.count("ill") == 1 {
            upstream.events.wait_for("well", 1).await;
        }
    }
    registry.reset_counters();
    upstream
        .has_manifest(image.root().digest)
        .await
        .unwrap_err();
    assert_eq!(registry.total(), 0);
}

#[tokio::test]
async fn what_a_registry_leads_to_says_nothing_of_the_registry() {
    let (registry, image) = registry().await;
    let storage = registry.start_storage().await;
    let redirect = BlobRedirect {
        base: Some(storage.url()),
        ..BlobRedirect::default()
    };
    registry.behave(|behaviour| behaviour.redirect_blobs = Some(redirect));
    let blob = image.layers[0].digest;
    let upstream = Asked::of(&[&registry]);
    storage.fault(Match::any(), Times::Next(6), Fault::status(503));
    for _ in 0..6 {
        upstream.blob(blob).await.unwrap_err();
    }
    storage.fault(Match::any(), Times::Next(6), Fault::Short { after: 10 });
    for _ in 0..6 {
        upstream.blob(blob).await.unwrap_err();
    }
    storage.stop().await;
    upstream.blob(blob).await.unwrap_err();
    assert!(upstream.has_manifest(image.root().digest).await.unwrap());
    assert_eq!(upstream.events.count("ill"), 0);
}

#[tokio::test]
async fn a_storage_that_cannot_be_reached_does_not_cost_every_blob() {
    let (first, image) = registry().await;
    let (second, storage) = (first.start_storage().await, first.start_storage().await);
    let redirect = BlobRedirect {
        base: Some(storage.url()),
        ..BlobRedirect::default()
    };
    first.behave(|behaviour| behaviour.redirect_blobs = Some(redirect));
    let blob = image.layers[0].digest;
    storage.stop().await;
    let upstream = Asked::of(&[&first, &second]);
    for _ in 0..5 {
        assert_eq!(upstream.blob(blob).await.unwrap(), Some(200_000));
    }
    // The registry was asked each time, and its storage once.
    assert_eq!(upstream.events.count("blob 307"), 5);
    assert_eq!(upstream.events.count("blob none"), 1);
    storage.restart().await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    assert_eq!(upstream.blob(blob).await.unwrap(), Some(200_000));
    assert_eq!(storage.count(Method::GET, Object::Storage), 1);
    assert_eq!(second.count(Method::GET, Object::Blob), 5);
}

#[tokio::test]
async fn a_question_that_is_dropped_says_nothing() {
    let (registry, image) = registry().await;
    let digest = image.root().digest;
    let upstream = Asked::of(&[&registry]);
    let hold = Fault::Hold { gate: Gate::new() };
    registry.fault(Match::any(), Times::Once, hold);
    tokio::select! {
        _ = upstream.has_manifest(digest) => panic!("nothing answers it"),
        _ = registry.wait_for(|stats| stats.in_flight == 1) => {}
    }
    // Nor does a body that nobody reads to its end.
    for _ in 0..6 {
        let repository = Repository::parse("app").unwrap();
        let layer = image.layers[0].digest;
        let caller = Caller::Anonymous;
        let asking = upstream
            .upstream
            .blob(&repository, layer, None, None, &caller);
        let mut blob = asking.await.unwrap().unwrap();
        blob.stream.next().await.unwrap().unwrap();
    }
    assert!(upstream.has_manifest(digest).await.unwrap());
    assert_eq!(upstream.events.count("ill"), 0);
}

#[tokio::test]
async fn probes_end_with_their_upstream() {
    let (registry, image) = registry().await;
    registry.fault(Match::any(), Times::Always, Fault::BlackHole);
    let mut config = impatient(&[&registry]);
    config.probes.first = Duration::ZERO;
    let upstream = Asked::with(config);
    upstream
        .has_manifest(image.root().digest)
        .await
        .unwrap_err();
    let probing = registry
        .wait_for(|stats| stats.count(Method::GET, Object::Ping) > 0 && stats.in_flight > 0);
    probing.await;
    drop(upstream);
    registry.wait_for(|stats| stats.in_flight == 0).await;
    registry.reset_counters();
    // A probe that went on would come within this time.
    tokio::time::sleep(SOON).await;
    assert_eq!(registry.total(), 0);
}

#[tokio::test]
async fn a_registry_whose_front_page_is_an_error_is_not_rested_for_ever() {
    let (registry, image) = registry().await;
    let blob = image.layers[0].digest;
    let front_page = Match::object(Object::Ping);
    registry.fault(front_page, Times::Always, Fault::status(500));
    let upstream = Asked::of(&[&registry]);
    registry.fault(Match::blob(blob), Times::Next(5), Fault::status(500));
    for _ in 0..5 {
        upstream.blob(blob).await.unwrap_err();
    }
    let error = upstream.blob(blob).await.unwrap_err();
    assert_eq!(kind(&error), "unavailable", "{error}");
    assert_eq!(questions(&registry), 5, "it is rested");
    upstream.events.wait_for("well", 1).await;
    assert_eq!(registry.count(Method::GET, Object::Ping), 8);
    assert!(upstream.blob(blob).await.unwrap().is_some());
}
