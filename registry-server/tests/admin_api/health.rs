//! How the mirror is: `/readyz` and the state say the same, and whatever is the matter, a mirror that
//! can answer stays where requests come to.

use std::sync::Arc;
use std::time::Duration;

use registry_core::testing::{Fault as StoreFault, FaultingStore, Faults, ManualClock, StoreCall};
use registry_core::{MemoryStore, Stores};
use registry_server::testing::{Fault, Match, Times};
use serde_json::json;

use super::support::{Question, Site, UPSTREAM};

/// What is the matter with a mirror that is ready, as both tell.
async fn problems(site: &Site) -> Vec<String> {
    let ready = site.ask(Question::get("/readyz")).await;
    let health = site.get("status").await.json()["health"].clone();
    assert_eq!((ready.status, &health["ready"]), (200, &json!(true)));
    let told = ready.json();
    assert_eq!(told["problems"], health["problems"]);
    let problems: Vec<String> = serde_json::from_value(told["problems"].clone()).unwrap();
    let status = match problems.is_empty() {
        true => "ready",
        false => "degraded",
    };
    assert_eq!(told["status"], status);
    problems
}

#[track_caller]
fn is_one(problems: &[String], beginning: &str) {
    assert!(
        matches!(problems, [problem] if problem.starts_with(beginning)),
        "{beginning}: {problems:?}"
    );
}

fn memory(capacity: Option<u64>) -> MemoryStore {
    MemoryStore::with(Arc::new(ManualClock::default()), capacity)
}

/// A mirror whose store fails on demand.
async fn failing() -> (Site, Faults) {
    let store = Arc::new(FaultingStore::new(memory(None)));
    let faults = store.faults();
    let stores = Stores::of(Arc::clone(&store)).kept_by(store);
    let site = Site::with(|builder, _| builder.stores(stores)).await;
    (site, faults)
}

async fn pull_manifest(site: &Site, tag: &str) {
    let pull = Question::get(&format!("/v2/org/app/manifests/{tag}"));
    let answer = pull.send_to(site.mirror.addr()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn a_store_that_fails_is_told_until_it_works_again() {
    let (site, faults) = failing().await;
    site.image("org/app", "1", 1);
    site.image("org/app", "2", 2);
    assert_eq!(problems(&site).await, [""; 0]);
    faults.fail_always(StoreCall::PutManifest, StoreFault::NoSpace);
    pull_manifest(&site, "1").await;
    is_one(&problems(&site).await, "the store is failing: ");
    faults.heal();
    pull_manifest(&site, "2").await;
    assert_eq!(problems(&site).await, [""; 0]);
}

#[tokio::test]
async fn a_store_that_does_not_answer_keeps_nobody_waiting() {
    let (site, faults) = failing().await;
    faults.stall(StoreCall::Usage);
    let ready = site.ask(Question::get("/readyz"));
    let ready = tokio::time::timeout(Duration::from_secs(30), ready).await;
    let ready = ready.unwrap();
    assert_eq!(ready.status, 200, "{ready:?}");
    let told = ready.json();
    assert_eq!(told["status"], "degraded");
    let problem = told["problems"][0].as_str().unwrap();
    assert!(
        problem.starts_with("the store does not answer"),
        "{problem}"
    );
    faults.release(StoreCall::Usage);
    assert_eq!(problems(&site).await, [""; 0]);
}

#[tokio::test]
async fn a_full_disk_is_told() {
    let store = Arc::new(memory(Some(0)));
    let stores = Stores::of(Arc::clone(&store)).kept_by(store);
    let site = Site::with(|builder, _| builder.stores(stores)).await;
    site.image("org/app", "1", 1);
    is_one(&problems(&site).await, "the disk is full");
    pull_manifest(&site, "1").await;
    is_one(&problems(&site).await, "the disk is full");
}

#[tokio::test]
async fn upstreams_that_are_down_are_told() {
    let site = Site::start().await;
    site.image("org/app", "1", 1);
    pull_manifest(&site, "1").await;
    let everything = Match::any();
    site.origin
        .fault(everything, Times::Always, Fault::status(503));
    let is_down =
        |answer: &super::support::Answer| answer.json()["items"][0]["endpoints"][0]["up"] == false;
    // It takes some failures in a row until an endpoint is rested.
    for _ in 0..5 {
        pull_manifest(&site, "1").await;
    }
    site.until("/api/v1/upstreams", is_down).await;
    is_one(
        &problems(&site).await,
        &format!("{UPSTREAM} cannot be asked"),
    );
}
