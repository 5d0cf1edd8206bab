//! When the next endpoint is asked, and what is told where none has the answer.

use bytes::Bytes;
use http::Method;
use registry_server::testing::{
    Behaviour, Fault, FixtureRegistry, Match, Object, Times, TokenAuth,
};

use crate::errors::kind;
use crate::support::{Asked, SOON, config, impatient, registry};

fn html() -> Fault {
    Fault::Answer {
        status: 200,
        headers: vec![("Content-Type".to_owned(), "text/html".to_owned())],
        body: Bytes::from_static(b"<html>a portal of some network</html>"),
    }
}

#[tokio::test]
async fn every_failure_moves_on_to_the_next_endpoint() {
    let (first, image) = registry().await;
    let second = first.start_storage().await;
    let (manifest, blob) = (image.root().digest, image.layers[0].digest);
    for (fault, requests) in [
        (Fault::BlackHole, 1),
        (Fault::SlowHead { interval: SOON }, 1),
        (Fault::status(500), 1),
        (Fault::status(502), 1),
        (Fault::status(503), 1),
        (Fault::status(408), 1),
        (Fault::status(429), 1),
        (Fault::status(400), 1),
        (Fault::status(401), 1),
        (Fault::status(403), 1),
        (Fault::status(302), 1),
        // Once more, on a fresh connection.
        (Fault::Close, 2),
        (Fault::Garbage, 2),
        (html(), 1),
        (Fault::headers(&[("Content-Encoding", "gzip")]), 1),
        (Fault::WrongBytes { offset: 5 }, 1),
        (Fault::Short { after: 5 }, 1),
        (Fault::Stall { after: 5 }, 1),
    ] {
        let name = format!("{fault:?}");
        // What is wrong with the body of a blob, whoever reads it finds.
        let is_late = ["WrongBytes", "Short", "Stall", "<html>"];
        let is_late = is_late.iter().any(|late| name.contains(late));
        let is_silent = ["BlackHole", "SlowHead", "Stall"];
        let config = match is_silent.iter().any(|silent| name.contains(silent)) {
            true => impatient,
            false => config,
        };
        first.fault(Match::any(), Times::Always, fault);
        let upstream = Asked::with(config(&[&first, &second]));
        let fetched = upstream.manifest(manifest).await.unwrap();
        assert_eq!(fetched, second.bytes(&manifest), "{name}");
        let asked = (Method::GET, Object::ManifestByDigest);
        assert_eq!(first.count(asked.0.clone(), asked.1), requests, "{name}");
        assert_eq!(second.count(asked.0, asked.1), 1, "{name}");
        if !is_late {
            let upstream = Asked::with(config(&[&first, &second]));
            assert_eq!(upstream.blob(blob).await.unwrap(), Some(200_000), "{name}");
            assert_eq!(first.count(Method::GET, Object::Blob), requests, "{name}");
            assert_eq!(second.count(Method::GET, Object::Blob), 1, "{name}");
        }
        first.clear_faults();
        first.reset_counters();
        second.reset_counters();
    }
    first.stop().await;
    let upstream = Asked::of(&[&first, &second]);
    assert!(upstream.has_manifest(manifest).await.unwrap());
    assert_eq!(second.total(), 1);
}

#[tokio::test]
async fn a_token_server_that_fails_moves_on_too() {
    let (first, image) = registry().await;
    let second = first.start_storage().await;
    first.behave(|behaviour| behaviour.token = Some(TokenAuth::default()));
    for fault in [
        Fault::status(401),
        Fault::status(429),
        Fault::status(500),
        Fault::BlackHole,
        html(),
    ] {
        let name = format!("{fault:?}");
        first.fault(Match::object(Object::Token), Times::Always, fault);
        let upstream = Asked::impatiently(&[&first, &second]);
        let fetched = upstream.manifest(image.root().digest).await;
        assert!(fetched.unwrap().is_some(), "{name}");
        assert_eq!(first.count(Method::GET, Object::Token), 1, "{name}");
        assert_eq!(second.total(), 1, "{name}");
        first.clear_faults();
        first.reset_counters();
        second.reset_counters();
    }
}

#[tokio::test]
async fn not_found_is_an_answer_unless_endpoints_hold_a_part() {
    let (first, image) = registry().await;
    let second = first.start_storage().await;
    let digest = image.root().digest;
    // What each endpoint answers; whether all must say so; what is told, and how often each is asked.
    for (answers, all, told, asked) in [
        ([200, 404], false, "found", [1, 0]),
        ([404, 200], false, "absent", [1, 0]),
        ([503, 404], false, "absent", [1, 1]),
        ([404, 200], true, "found", [1, 1]),
        ([404, 404], true, "absent", [1, 1]),
        ([410, 404], true, "absent", [1, 1]),
        ([404, 503], true, "unavailable", [1, 1]),
        ([503, 404], true, "unavailable", [1, 1]),
        ([404, 403], true, "unauthorized", [1, 1]),
        ([404, 429], true, "rate-limited", [1, 1]),
        ([403, 503], false, "unavailable", [1, 1]),
        ([403, 401], false, "unauthorized", [1, 1]),
        ([503, 429], false, "unavailable", [1, 1]),
        ([400, 403], false, "protocol", [1, 1]),
    ] {
        let name = format!("{answers:?} {all}");
        for (registry, status) in [&first, &second].into_iter().zip(answers) {
            if status != 200 {
                registry.fault(Match::any(), Times::Always, Fault::status(status));
            }
        }
        let mut config = config(&[&first, &second]);
        config.next_endpoint_on_not_found = all;
        let outcome = match Asked::with(config).manifest(digest).await {
            Ok(Some(_)) => "found",
            Ok(None) => "absent",
            Err(error) => kind(&error),
        };
        assert_eq!(outcome, told, "{name}");
        assert_eq!([first.total(), second.total()], asked, "{name}");
        for registry in [&first, &second] {
            registry.clear_faults();
            registry.reset_counters();
        }
    }
}

#[tokio::test]
async fn each_endpoint_is_asked_in_the_way_that_works_with_it() {
    let (first, image) = registry().await;
    let second = first.start_storage().await;
    first.behave(|behaviour| behaviour.refuse_head = Some(405));
    let digest = image.root().digest;
    let upstream = Asked::of(&[&first, &second]);
    assert!(upstream.has_manifest(digest).await.unwrap());
    assert!(upstream.has_manifest(digest).await.unwrap());
    let by_digest = |method| first.count(method, Object::ManifestByDigest);
    assert_eq!((by_digest(Method::HEAD), by_digest(Method::GET)), (1, 2));
    // That HEAD is no good there says nothing of the other.
    first.stop().await;
    assert!(upstream.has_manifest(digest).await.unwrap());
    assert_eq!(second.count(Method::HEAD, Object::ManifestByDigest), 1);
    assert_eq!(second.total(), 1);
}

#[tokio::test]
async fn a_list_is_of_one_endpoint() {
    let (first, _) = registry().await;
    let second = first.start_storage().await;
    first.add_image("app", "other", &registry_server::testing::ImageSpec::new(2));
    let pages = |behaviour: &mut Behaviour| behaviour.tags_page_max = Some(1);
    first.behave(pages);
    second.behave(pages);
    let upstream = Asked::of(&[&first, &second]);
    assert_eq!(upstream.tags().await.unwrap().unwrap().tags.len(), 2);
    assert_eq!((first.total(), second.total()), (2, 0));
    // Where the second page does not come, the other is asked from the beginning.
    first.fault(Match::any(), Times::Next(2), Fault::status(503));
    first.reset_counters();
    assert_eq!(upstream.tags().await.unwrap().unwrap().tags.len(), 2);
    assert_eq!((first.total(), second.total()), (1, 2));
}

#[tokio::test]
async fn connections_are_used_again() {
    let (registry, image) = registry().await;
    let upstream = Asked::of(&[&registry]);
    for _ in 0..10 {
        assert!(upstream.has_manifest(image.root().digest).await.unwrap());
        upstream.blob(image.layers[0].digest).await.unwrap();
    }
    assert_eq!(registry.stats().connections, 1);
    assert_eq!(registry.total(), 20);
}

#[tokio::test]
async fn an_observer_is_told_of_every_request() {
    let (registry, image) = registry().await;
    registry.behave(|behaviour| behaviour.token = Some(TokenAuth::default()));
    let upstream = Asked::of(&[&registry]);
    upstream.manifest(image.root().digest).await.unwrap();
    let bytes = registry.bytes(&image.root().digest).unwrap().len();
    let received = format!("received {bytes}");
    assert_eq!(
        upstream.events.all(),
        ["manifest 401", "token 200", "manifest 200", &received]
    );
    upstream.tags().await.unwrap();
    registry.stop().await;
    upstream.stat_blob(image.root().digest).await.unwrap_err();
    let events = upstream.events.all();
    assert!(events.contains(&"tags 200".to_owned()), "{events:?}");
    assert!(events.contains(&"blob none".to_owned()), "{events:?}");
}

#[tokio::test]
async fn the_rest_of_a_body_that_broke_off_is_asked_of_the_next_endpoint() {
    let (first, image) = registry().await;
    let second = first.start_storage().await;
    let blob = &image.layers[0];
    for fault in [Fault::Short { after: 5 }, Fault::Stall { after: 5 }] {
        let upstream = Asked::impatiently(&[&first, &second]);
        first.fault(Match::blob(blob.digest), Times::Always, fault.clone());
        upstream.blob(blob.digest).await.unwrap_err();
        let size = usize::try_from(blob.size).unwrap();
        assert_eq!(upstream.blob(blob.digest).await.unwrap(), Some(size));
        let asked = |registry: &FixtureRegistry| registry.count(Method::GET, Object::Blob);
        assert_eq!((asked(&first), asked(&second)), (1, 1), "{fault:?}");
        // It came whole: from now on, the first is asked first again.
        first.clear_faults();
        assert_eq!(upstream.blob(blob.digest).await.unwrap(), Some(size));
        assert_eq!((asked(&first), asked(&second)), (2, 1), "{fault:?}");
        first.reset_counters();
        second.reset_counters();
    }
}
