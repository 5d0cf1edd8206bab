//! The state: what is told is so.

use registry_server::testing::{Fault, Match, Times};
use serde_json::json;

use super::support::{Question, Site, UPSTREAM};

#[tokio::test]
async fn the_state_is_what_has_happened() {
    let site = Site::start().await;
    let before = site.get("status").await.json();
    assert_eq!(before["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(before["listen"], site.mirror.addr().to_string());
    assert_eq!(before["admin_listen"], site.admin().to_string());
    assert_eq!(before["started_at"], "2023-11-14T22:13:20Z");
    assert_eq!(before["health"], json!({ "ready": true, "problems": [] }));
    assert_eq!(
        (&before["storage"]["blobs"], &before["storage"]["bytes"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(before["traffic"]["served_bytes"], 0);
    assert_eq!(
        before["data_dir"],
        json!(null),
        "the stores are the program's own"
    );

    let image = site.image("org/app", "1", 1);
    site.pull("org/app", "1", &image).await;
    site.pull("org/app", "1", &image).await;
    let after = site.get("status").await.json();
    let storage = &after["storage"];
    assert_eq!(
        (&storage["blobs"], &storage["manifests"]),
        (&json!(3), &json!(1))
    );
    let content = image.blob_bytes() + image.root().size;
    assert!(storage["bytes"].as_u64() >= Some(content), "{storage}");
    let traffic = &after["traffic"];
    // The manifest was asked for by its tag and by its digest.
    assert_eq!(traffic["served_bytes"], 2 * (content + image.root().size));
    assert_eq!(traffic["upstream_bytes"], content);
    assert_eq!(traffic["answers"]["miss"], 4);
    assert_eq!(traffic["answers"]["hit"], 5);
    assert_eq!(traffic["answers"]["revalidated"], 1);
    let upstreams = after["upstreams"].as_array().unwrap();
    assert_eq!(upstreams.len(), 1);
    assert_eq!(upstreams[0]["name"], UPSTREAM);
    assert_eq!(upstreams[0]["endpoints"][0]["endpoint"], site.origin.host());
    assert_eq!(upstreams[0]["endpoints"][0]["up"], true);
    assert!(
        upstreams[0]["bytes"].as_u64() >= Some(content),
        "{upstreams:#?}"
    );
}

#[tokio::test]
async fn an_upstream_that_fails_is_told_with_why_and_its_quota() {
    let site = Site::start().await;
    let quota = [
        ("ratelimit-limit", "100;w=21600"),
        ("ratelimit-remaining", "76;w=21600"),
    ];
    site.origin
        .fault(Match::any(), Times::Always, Fault::headers(&quota));
    let image = site.image("org/app", "1", 1);
    site.pull("org/app", "1", &image).await;
    let told = site.get("upstreams").await.json();
    let quota = &told["items"][0]["endpoints"][0]["quotas"][0];
    assert_eq!(
        (&quota["limit"], &quota["remaining"]),
        (&json!(100), &json!(76))
    );
    assert_eq!(
        (&quota["credential"], &quota["window_seconds"]),
        (&json!("anonymous"), &json!(21600))
    );

    site.origin.stop().await;
    let pull = Question::get("/v2/org/app/manifests/1")
        .send_to(site.mirror.addr())
        .await;
    assert_eq!(pull.status, 200, "what is held is served");
    let is_down =
        |answer: &super::support::Answer| answer.json()["items"][0]["endpoints"][0]["up"] == false;
    let told = site.until("/api/v1/upstreams", is_down).await.json();
    let endpoint = &told["items"][0]["endpoints"][0];
    assert!(endpoint["last_error"]["what"].is_string(), "{endpoint:#}");
    assert!(endpoint["since"].is_string(), "{endpoint:#}");
    let health = site.get("status").await.json()["health"].clone();
    assert_eq!(health["ready"], true);
    let problem = health["problems"][0].as_str().unwrap();
    assert!(
        problem.starts_with(&format!("{UPSTREAM} cannot be asked")),
        "{problem}"
    );
}

#[tokio::test]
async fn without_a_file_there_is_nothing_to_reload() {
    let site = Site::start().await;
    let state = site.get("status").await.json();
    let configuration = &state["configuration"];
    assert_eq!(
        (&configuration["file"], &configuration["refused"]),
        (&json!(null), &json!(null))
    );
    let reload = site.ask(Question::new("POST", "/api/v1/reload")).await;
    reload.problem(409, "conflict");
}
