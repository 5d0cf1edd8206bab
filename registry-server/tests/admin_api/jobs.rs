//! Jobs: what they do, how they are told of and ended, and how many there may be.

use http::Method;
use registry_server::testing::{Fault, Gate, ImageSpec, Match, Object, Times};
use serde_json::{Value, json};

use super::support::{Answer, Question, Site, UPSTREAM};

fn strings(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect()
}

#[tokio::test]
async fn warming_fetches_what_the_next_pull_finds() {
    let site = Site::start().await;
    let images = [("org/a", 1), ("org/b", 2)];
    let added = images.map(|(repository, seed)| site.image(repository, "1", seed));
    let request = json!({ "kind": "warm", "images": ["org/a:1", "org/b:1", "org/a:1"] });
    let begun = site.post("jobs", &request).await;
    assert_eq!(begun.status, 202, "{begun:?}");
    let id = begun.json()["id"].as_u64().unwrap();
    assert_eq!(
        begun.header("location"),
        Some(&*format!("/api/v1/jobs/{id}"))
    );
    let job = site.ended(id).await;
    assert_eq!(job["state"], "done", "{job:#}");
    assert_eq!(
        (&job["progress"]["items"], &job["progress"]["items_total"]),
        (&json!(2), &json!(2))
    );
    let bytes: u64 = added.iter().map(|image| image.blob_bytes()).sum();
    assert_eq!(job["progress"]["bytes"], bytes);
    let report = strings(&job["report"]);
    assert_eq!(report.len(), 2, "{job:#}");
    assert!(
        report[0].starts_with(&format!("{UPSTREAM}/org/a:1: 3 blobs ")),
        "{job:#}"
    );
    assert_eq!(job["failures"], json!([]));

    let asked = site.origin.count(Method::GET, Object::Blob);
    assert_eq!(asked, 6);
    for (image, (repository, _)) in added.iter().zip(images) {
        site.pull(repository, "1", image).await;
    }
    assert_eq!(
        site.origin.count(Method::GET, Object::Blob),
        asked,
        "all was there"
    );
}

#[tokio::test]
async fn only_chosen_platforms_are_warmed() {
    let site = Site::start().await;
    let spec = ImageSpec::new(3)
        .platforms(&["linux/amd64", "linux/arm64"])
        .layers(&[5_000]);
    site.origin.add_image("org/app", "1", &spec);
    let request = json!({ "kind": "warm", "images": ["org/app:1"], "platforms": ["linux/arm64"] });
    assert_eq!(site.job(&request).await["state"], "done");
    let image = site.get("image?name=org/app:1").await.json();
    assert_eq!(image["platforms"], json!(["linux/arm64"]));
    let request = json!({ "kind": "warm", "images": ["org/app:1"], "platforms": ["plan9/mips"] });
    let job = site.job(&request).await;
    assert_eq!(job["state"], "failed");
    assert!(
        strings(&job["failures"])[0].contains("platforms"),
        "{job:#}"
    );
}

#[tokio::test]
async fn one_that_cannot_be_fetched_keeps_none_of_the_others() {
    let site = Site::start().await;
    site.image("org/b", "1", 1);
    let images = ["org/a:1", "org/b:1", "quay.io/org/c:1"];
    let job = site.job(&json!({ "kind": "warm", "images": images })).await;
    assert_eq!(job["state"], "failed", "{job:#}");
    assert_eq!(strings(&job["report"]).len(), 1);
    let failures = strings(&job["failures"]);
    assert!(
        failures[0].starts_with(&format!("{UPSTREAM}/org/a:1: not found")),
        "{job:#}"
    );
    assert!(
        failures[1].starts_with("quay.io/org/c:1: no such upstream"),
        "{job:#}"
    );
    assert_eq!(job["progress"]["items"], 3);
    assert_eq!(
        site.get("image?name=org/b:1").await.json()["complete"],
        true
    );
}

#[tokio::test]
async fn verifying_finds_all_well_and_names_what_is_not_there() {
    let site = Site::start().await;
    let image = site.image("org/app", "1", 1);
    site.pull("org/app", "1", &image).await;
    let everything = site
        .job(&json!({ "kind": "verify", "rate": 1_000_000_000 }))
        .await;
    assert_eq!(
        (&everything["state"], &everything["failures"]),
        (&json!("done"), &json!([]))
    );
    assert!(everything["progress"]["bytes"].as_u64() >= Some(image.blob_bytes()));
    let report = strings(&everything["report"]).join("\n");
    assert!(report.contains("1 manifests and 3 blobs"), "{report}");
    let one = json!({ "kind": "verify", "image": "org/app:1", "rate": 1_000_000_000 });
    assert_eq!(site.job(&one).await["state"], "done");
    let absent = site
        .job(&json!({ "kind": "verify", "image": "org/app:2" }))
        .await;
    assert_eq!(absent["state"], "failed", "{absent:#}");
}

#[tokio::test]
async fn a_job_is_watched_and_cancelled_and_the_next_has_its_turn() {
    let site = Site::start().await;
    let image = site.image("org/slow", "1", 1);
    site.image("org/next", "1", 2);
    let gate = Gate::new();
    let layer = Match::blob(image.layers[0].digest);
    site.origin
        .fault(layer, Times::Once, Fault::Hold { gate: gate.clone() });
    let begin = async |name: &str| {
        let begun = site
            .post("jobs", &json!({ "kind": "warm", "images": [name] }))
            .await;
        begun.json()["id"].as_u64().unwrap()
    };
    let slow = begin("org/slow:1").await;
    let queued = begin("org/next:1").await;
    let next = begin("org/next:1").await;
    // Everything but the layer has come.
    let rest = image.blob_bytes() - image.layers[0].size;
    let path = format!("/api/v1/jobs/{slow}");
    let has_come = |answer: &Answer| answer.json()["progress"]["bytes"] == rest;
    let running = site.until(&path, has_come).await.json();
    assert_eq!(running["state"], "running");
    assert_eq!(running["progress"]["bytes_total"], image.blob_bytes());
    assert_eq!(
        running["progress"]["current"],
        format!("{UPSTREAM}/org/slow:1")
    );
    let state = site.get("status").await.json();
    assert_eq!(state["jobs"][0]["id"], slow);
    assert_eq!(state["jobs"].as_array().unwrap().len(), 1);
    assert_eq!(
        site.get(&format!("jobs/{queued}")).await.json()["state"],
        "queued"
    );

    let cancelled = site.delete(&format!("jobs/{queued}")).await.json();
    assert_eq!(cancelled["state"], "cancelled");
    assert_eq!(site.delete(&format!("jobs/{slow}")).await.status, 200);
    assert_eq!(site.ended(slow).await["state"], "cancelled");
    site.delete(&format!("jobs/{slow}"))
        .await
        .problem(409, "conflict");
    assert_eq!(site.ended(next).await["state"], "done");
    let listed = site.get("jobs").await.json();
    let ids: Vec<_> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["id"].as_u64())
        .collect();
    assert_eq!(ids, [Some(next), Some(queued), Some(slow)]);
    gate.open();
}

#[tokio::test]
async fn there_is_a_limit_to_jobs_that_wait_and_to_those_that_are_told_of() {
    let site = Site::start().await;
    let image = site.image("org/slow", "1", 1);
    let gate = Gate::new();
    let layer = Match::blob(image.layers[0].digest);
    site.origin
        .fault(layer, Times::Once, Fault::Hold { gate: gate.clone() });
    let request = json!({ "kind": "warm", "images": ["org/slow:1"] });
    let first = site.post("jobs", &request).await.json()["id"]
        .as_u64()
        .unwrap();
    site.until(&format!("/api/v1/jobs/{first}"), |answer| {
        answer.json()["state"] == "running"
    })
    .await;
    for _ in 0..32 {
        assert_eq!(site.post("jobs", &request).await.status, 202);
    }
    let busy = site.post("jobs", &request).await;
    busy.problem(503, "busy");
    assert_eq!(busy.header("retry-after"), Some("5"));
    // Another kind waits for other turns, and in the same queue.
    site.post("jobs", &json!({ "kind": "verify" }))
        .await
        .problem(503, "busy");
    gate.open();
    site.ended(first + 32).await;
    for _ in 0..40 {
        site.job(&request).await;
    }
    let told = site.get("jobs").await.json();
    assert_eq!(told["items"].as_array().unwrap().len(), 64);
    site.get(&format!("jobs/{first}"))
        .await
        .problem(404, "not_found");
}

#[tokio::test]
async fn there_is_no_job_of_any_other_number() {
    let site = Site::start().await;
    for id in ["0", "1", "-1", "x", "99999999999999999999999", "1.0", "%31"] {
        let path = format!("jobs/{id}");
        site.get(&path).await.problem(404, "not_found");
        site.delete(&path).await.problem(404, "not_found");
    }
}

#[tokio::test]
async fn jobs_end_with_the_mirror() {
    let site = Site::start().await;
    let image = site.image("org/slow", "1", 1);
    let gate = Gate::new();
    let layer = Match::blob(image.layers[0].digest);
    site.origin
        .fault(layer, Times::Once, Fault::Hold { gate: gate.clone() });
    let request = json!({ "kind": "warm", "images": ["org/slow:1"] });
    let id = site.post("jobs", &request).await.json()["id"]
        .as_u64()
        .unwrap();
    let is_running = |answer: &Answer| answer.json()["state"] == "running";
    site.until(&format!("/api/v1/jobs/{id}"), is_running).await;
    let admin = site.admin();
    let mirror = site.mirror;
    let begun = std::time::Instant::now();
    let stopping = mirror.shutdown();
    let opening = async {
        // The fill is the cache's, which waits for it longer than the job may.
        gate.open();
    };
    tokio::join!(stopping, opening);
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    assert!(std::net::TcpStream::connect(admin).is_err());
}

#[tokio::test]
async fn collecting_tells_what_goes_and_then_lets_it_go() {
    let site = Site::start().await;
    for (repository, seed) in [("org/cold", 1), ("org/warm", 2)] {
        let image = site.image(repository, "1", seed);
        site.pull(repository, "1", &image).await;
        site.clock.advance(std::time::Duration::from_secs(3600));
    }
    let held = |state: &Value| state["storage"]["bytes"].as_u64().unwrap();
    let before = held(&site.get("status").await.json());
    let request = |dry_run| json!({ "kind": "collect", "bytes": before - 1, "dry_run": dry_run });
    let dry = site.job(&request(true)).await;
    assert_eq!(dry["state"], "done", "{dry:#}");
    let report = strings(&dry["report"]);
    assert!(report[0].ends_with(", size)"), "{dry:#}");
    assert_eq!(report.len(), 2, "{dry:#}");
    assert!(report[1].contains("would be evicted"), "{dry:#}");
    assert_eq!(
        held(&site.get("status").await.json()),
        before,
        "nothing has gone"
    );

    let wet = site.job(&request(false)).await;
    assert_eq!(wet["state"], "done", "{wet:#}");
    let state = site.get("status").await.json();
    assert_eq!(
        held(&state) + state["storage"]["evicted_bytes"].as_u64().unwrap(),
        before
    );
    site.get("image?name=org/cold:1")
        .await
        .problem(404, "not_found");
    assert_eq!(
        site.get("image?name=org/warm:1").await.json()["complete"],
        true
    );
    let within = site.job(&json!({ "kind": "collect" })).await;
    assert_eq!(within["state"], "done", "{within:#}");
}

#[tokio::test]
async fn jobs_are_counted_by_what_became_of_them() {
    let site = Site::start().await;
    let counted = async |name: &str, kind: &str, state: &str| -> u64 {
        let text = site.ask(Question::get("/metrics")).await.body;
        let text = String::from_utf8(text).unwrap();
        let series = format!("{name}{{kind=\"{kind}\",state=\"{state}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&series));
        value
            .unwrap_or_else(|| panic!("{series}: {text}"))
            .parse()
            .unwrap()
    };
    let ended = async |kind, state| counted("registry_jobs_ended_total", kind, state).await;
    for (kind, state) in [
        ("warm", "done"),
        ("verify", "failed"),
        ("collect", "cancelled"),
    ] {
        assert_eq!(ended(kind, state).await, 0);
    }
    let image = site.image("org/app", "1", 1);
    let gate = Gate::new();
    let hold = Fault::HoldAfter {
        bytes: 0,
        gate: gate.clone(),
    };
    let layer = Match::blob(image.layers[0].digest);
    site.origin.fault(layer, Times::Once, hold);
    let warm = json!({ "kind": "warm", "images": ["org/app:1"] });
    let first = site.post("jobs", &warm).await.json()["id"]
        .as_u64()
        .unwrap();
    site.until(&format!("/api/v1/jobs/{first}"), |job| {
        job.json()["state"] == "running"
    })
    .await;
    let second = site.post("jobs", &warm).await.json()["id"]
        .as_u64()
        .unwrap();
    assert_eq!(counted("registry_jobs", "warm", "running").await, 1);
    assert_eq!(counted("registry_jobs", "warm", "queued").await, 1);
    assert_eq!(
        site.delete(&format!("jobs/{second}")).await.json()["state"],
        "cancelled"
    );
    gate.open();
    assert_eq!(site.ended(first).await["state"], "done");
    let missing = json!({ "kind": "warm", "images": ["org/none:1"] });
    assert_eq!(site.job(&missing).await["state"], "failed");
    for state in ["done", "failed", "cancelled"] {
        assert_eq!(ended("warm", state).await, 1, "{state}");
    }
    for state in ["running", "queued"] {
        assert_eq!(counted("registry_jobs", "warm", state).await, 0, "{state}");
    }
    assert_eq!(
        site.job(&json!({ "kind": "collect" })).await["state"],
        "done"
    );
    assert_eq!(ended("collect", "done").await, 1);
}
