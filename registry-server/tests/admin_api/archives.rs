//! Archives of images, out and in; what is in them is tried in `tests/archives`.

use serde_json::json;

use super::support::{Question, Site, UPSTREAM};

#[tokio::test]
async fn an_image_goes_out_and_in() {
    let site = Site::start().await;
    let image = site.image("org/app", "1", 1);
    site.pull("org/app", "1", &image).await;
    let request = json!({ "images": ["org/app:1"], "held_only": true, "dry_run": true });
    let planned = site.post("export", &request).await;
    assert_eq!(planned.status, 200, "{planned:?}");
    let planned = planned.json();
    assert_eq!(
        planned["images"][0]["name"],
        format!("{UPSTREAM}/org/app:1")
    );

    let request = json!({ "images": ["org/app:1"], "held_only": true });
    let archive = site.post("export", &request).await;
    assert_eq!(archive.status, 200);
    assert_eq!(archive.header("content-type"), Some("application/x-tar"));
    assert_eq!(planned["bytes"], archive.body.len());
    assert_eq!(archive.header("cache-control"), Some("no-store"));

    let import = Question::new("POST", "/api/v1/import?as=org/copy");
    let imported = site.ask(import.body(archive.body)).await;
    assert_eq!(imported.status, 200, "{imported:?}");
    let imported = imported.json();
    assert_eq!(
        imported["images"][0]["name"],
        format!("{UPSTREAM}/org/copy:1")
    );
    assert_eq!(imported["bytes"], 0, "all of it was held");
    let copy = site.get("image?name=org/copy:1").await.json();
    assert_eq!(copy["complete"], true, "{copy:#}");
}

#[tokio::test]
async fn what_is_refused_is_a_problem() {
    let site = Site::start().await;
    let request = json!({ "images": ["org/app:1"], "held_only": true });
    let missing = site.post("export", &request).await;
    missing.problem(404, "not_found");
    let nothing = site.post("export", &json!({ "images": [] })).await;
    nothing.problem(400, "invalid");
    let import = || Question::new("POST", "/api/v1/import");
    let no_tar = site.ask(import().body(vec![b'x'; 4_096])).await;
    no_tar.problem(422, "invalid");
    site.ask(import()).await.problem(422, "invalid");
    // A page in a browser may send a form to anybody.
    let browser = import().header("Origin", "http://page.example");
    let browser = site.ask(browser.body(vec![b'x'; 4_096])).await;
    browser.problem(403, "forbidden");
}

/// A cache that is too small says so, and keeps nothing.
#[tokio::test]
async fn what_finds_no_room_is_said_to() {
    let site = Site::start().await;
    let image = site.image("org/app", "1", 1);
    site.pull("org/app", "1", &image).await;
    let request = json!({ "images": ["org/app:1"] });
    let archive = site.post("export", &request).await.body;
    let small = Site::with(|builder, _| builder.max_size("20KB")).await;
    let import = Question::new("POST", "/api/v1/import").body(archive);
    let said = small.ask(import).await.problem(507, "unavailable");
    assert!(said.contains("no room"), "{said}");
    let held = small.get("repositories").await.json();
    assert_eq!(held["items"], json!([]));
}
