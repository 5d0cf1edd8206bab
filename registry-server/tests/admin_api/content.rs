//! What is held: repositories and images, page by page; why; pins; removals.

use std::sync::Arc;

use http::Method;
use registry_core::testing::ManualClock;
use registry_server::testing::{FixtureRegistry, ImageSpec, Object};
use serde_json::{Value, json};

use super::support::{Question, Site, UPSTREAM, builder};

fn names(page: &Value, member: &str) -> Vec<String> {
    let items = page["items"].as_array().unwrap().iter();
    items
        .map(|item| item[member].as_str().unwrap().to_owned())
        .collect()
}

/// All pages of a listing, and how many there were.
async fn pages(site: &Site, path: &str, member: &str) -> (Vec<String>, usize) {
    let (mut all, mut after, mut count) = (Vec::new(), String::new(), 0);
    loop {
        let page = site.get(&format!("{path}{after}")).await;
        assert_eq!(page.status, 200, "{page:?}");
        let page = page.json();
        count += 1;
        all.extend(names(&page, member));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return (all, count),
        }
    }
}

#[tokio::test]
async fn an_empty_mirror_holds_nothing_and_says_so() {
    let site = Site::start().await;
    for path in [
        "repositories",
        "images",
        "images?repository=org/app",
        "pins",
        "removals",
    ] {
        assert_eq!(
            site.get(path).await.json(),
            json!({ "items": [], "next": null }),
            "{path}"
        );
    }
    let message = site
        .get("image?name=org/app:1")
        .await
        .problem(404, "not_found");
    assert!(message.contains("registry.example/org/app:1"), "{message}");
    site.delete("image?name=org/app:1")
        .await
        .problem(404, "not_found");
    let elsewhere = site.get("repositories?upstream=quay.io").await;
    assert_eq!(elsewhere.json()["items"], json!([]));
}

#[tokio::test]
async fn images_are_told_part_by_part() {
    let site = Site::start().await;
    let spec = ImageSpec::new(7)
        .platforms(&["linux/amd64", "linux/arm64"])
        .layers(&[9_000]);
    let image = site.origin.add_image("org/app", "1", &spec);
    site.pull("org/app", "1", &image).await;
    let told = site.get("image?name=org/app:1").await.json();
    assert_eq!(told["name"], format!("{UPSTREAM}/org/app:1"));
    assert_eq!(told["digest"], image.root().digest.to_string());
    assert_eq!(
        (&told["complete"], &told["pinned"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(told["validated_at"], "2023-11-14T22:13:20Z");
    assert!(
        told["own_bytes"].as_u64() >= Some(image.blob_bytes()),
        "{told:#}"
    );
    let blob = &told["manifests"].as_array().unwrap().last().unwrap()["blobs"][0];
    assert_eq!(blob["endpoint"], site.origin.host());
    // By its digest it is the same, without a tag; in another repository it is not held.
    let digest = image.root().digest;
    let by_digest = site
        .get(&format!("image?name=org/app@{digest}"))
        .await
        .json();
    assert_eq!(
        (&by_digest["tag"], &by_digest["digest"]),
        (&Value::Null, &told["digest"])
    );
    let elsewhere = site.get(&format!("image?name=org/other@{digest}")).await;
    elsewhere.problem(404, "not_found");
    let listed = site.get("images?repository=org/app").await.json();
    assert_eq!(names(&listed, "name"), [format!("{UPSTREAM}/org/app:1")]);
    assert_eq!(listed["items"][0].get("manifests"), None);
}

#[tokio::test]
async fn many_are_told_page_by_page_each_once() {
    let site = Site::start().await;
    let mut expected = Vec::new();
    for repository in ["org/a", "org/b", "org/c"] {
        for tag in ["1", "2", "3"] {
            let spec = ImageSpec::new(1).layers(&[100]);
            let image = site.origin.add_image(repository, tag, &spec);
            site.pull(repository, tag, &image).await;
            expected.push(format!("{UPSTREAM}/{repository}:{tag}"));
        }
    }
    for limit in 1..=10 {
        let (images, count) = pages(&site, &format!("images?limit={limit}"), "name").await;
        assert_eq!(images, expected, "{limit}");
        assert!(count <= 9 / limit + 1, "{count} pages of {limit}");
        let path = format!("repositories?upstream={UPSTREAM}&limit={limit}");
        let (repositories, _) = pages(&site, &path, "repository").await;
        assert_eq!(repositories, ["org/a", "org/b", "org/c"], "{limit}");
        let path = format!("images?repository=org/b&limit={limit}");
        let (images, count) = pages(&site, &path, "name").await;
        assert_eq!(images, expected[3..6], "{limit}");
        assert!(count <= 3 / limit + 1, "{count} pages of {limit}");
    }
    // What was pulled by its digest alone comes after the tags of its repository.
    let spec = ImageSpec::new(2).layers(&[100]);
    let image = site.origin.add_image("org/b", "9", &spec);
    let digest = image.root().digest;
    let pull = Question::get(&format!("/v2/org/b/manifests/{digest}"));
    assert_eq!(pull.send_to(site.mirror.addr()).await.status, 200);
    expected.insert(6, format!("{UPSTREAM}/org/b@{digest}"));
    for limit in 1..=11 {
        let (images, _) = pages(&site, &format!("images?limit={limit}"), "name").await;
        assert_eq!(images, expected, "{limit}");
        let path = format!("images?repository=org/b&limit={limit}");
        assert_eq!(
            pages(&site, &path, "name").await.0,
            expected[3..7],
            "{limit}"
        );
    }
    let repository = &site.get("repositories?limit=1").await.json()["items"][0];
    assert_eq!(repository["tags"], 3);
    let none = site.get("images?upstream=quay.io").await.json();
    assert_eq!(none["items"], json!([]));
}

#[tokio::test]
async fn what_is_deleted_is_fetched_anew_by_the_next_pull() {
    let site = Site::start().await;
    let image = site.image("org/app", "1", 1);
    site.pull("org/app", "1", &image).await;
    let blobs = image.blobs().count() as u64;
    assert_eq!(site.origin.count(Method::GET, Object::Blob), blobs);
    site.pull("org/app", "1", &image).await;
    assert_eq!(
        site.origin.count(Method::GET, Object::Blob),
        blobs,
        "it is held"
    );

    let removed = site.delete("image?name=org/app:1").await.json();
    assert_eq!(removed["name"], format!("{UPSTREAM}/org/app:1"));
    assert_eq!(removed["objects"], blobs + 1);
    assert!(
        removed["bytes"].as_u64() >= Some(image.blob_bytes()),
        "{removed}"
    );
    site.get("image?name=org/app:1")
        .await
        .problem(404, "not_found");
    site.delete("image?name=org/app:1")
        .await
        .problem(404, "not_found");
    let why = site.get("why?name=org/app:1").await.json();
    assert_eq!(
        (&why["verdict"], &why["next_pull"]),
        (&json!("removed"), &json!("fetch"))
    );
    assert_eq!(why["removal"]["reason"], "deleted");
    let removals = site.get("removals").await.json();
    assert_eq!(removals["items"][0]["reason"], "deleted");
    assert_eq!(
        removals["items"][0]["images"],
        json!([format!("{UPSTREAM}/org/app:1")])
    );

    site.pull("org/app", "1", &image).await;
    assert_eq!(site.origin.count(Method::GET, Object::Blob), 2 * blobs);
}

#[tokio::test]
async fn why_is_told_of_whatever_is_asked_about() {
    let site = Site::start().await;
    let image = site.image("org/app", "1", 1);
    site.pull("org/app", "1", &image).await;
    let asked = site.origin.total();
    for (name, verdict, next_pull) in [
        ("org/app:1", "cached", "revalidate"),
        (&format!("org/app@{}", image.root().digest), "cached", "hit"),
        ("org/app:2", "absent", "fetch"),
        ("quay.io/org/app:1", "unknown_upstream", "fail"),
    ] {
        let why = site.get(&format!("why?name={name}")).await.json();
        assert_eq!(why["verdict"], verdict, "{why:#}");
        assert_eq!(why["next_pull"], next_pull, "{why:#}");
        assert!(!why["explanation"].as_array().unwrap().is_empty());
    }
    assert_eq!(site.origin.total(), asked, "nobody was asked");
}

#[tokio::test]
async fn pins_are_set_told_and_removed() {
    let site = Site::start().await;
    let pinned = site.post("pins", &json!({ "pin": "org/app:1" })).await;
    assert_eq!(pinned.status, 201, "{pinned:?}");
    let image = json!({ "pin": format!("{UPSTREAM}/org/app:1"), "since": "2023-11-14T22:13:20Z" });
    assert_eq!(pinned.json(), image);
    site.clock.advance(std::time::Duration::from_secs(60));
    let again = site
        .post("pins", &json!({ "pin": format!("{UPSTREAM}/org/app:1") }))
        .await;
    assert_eq!((again.status, again.json()), (200, image.clone()));
    let pattern = site.post("pins", &json!({ "pin": "ghcr.io/org/**" })).await;
    assert_eq!(
        (pattern.status, &pattern.json()["pin"]),
        (201, &json!("ghcr.io/org/**"))
    );
    let listed = site.get("pins").await.json();
    assert_eq!(listed["items"], json!([image, pattern.json()]));
    assert_eq!(site.get("status").await.json()["storage"]["pins"], 2);

    let removed = site.delete("pins?pin=org/app:1").await;
    assert_eq!((removed.status, removed.json()), (200, image));
    site.delete("pins?pin=org/app:1")
        .await
        .problem(404, "not_found");
    assert_eq!(
        names(&site.get("pins").await.json(), "pin"),
        ["ghcr.io/org/**"]
    );
    for (document, says) in [
        (json!({ "pin": "" }), "write for example"),
        (json!({ "pin": "org/[" }), "cannot be pinned"),
        (json!({ "pin": "Org/App" }), "write org/app"),
        (json!({ "name": "org/app" }), "unknown field"),
    ] {
        let message = site.post("pins", &document).await.problem(400, "invalid");
        assert!(message.contains(says), "{document}: {message}");
    }
    site.delete("pins").await.problem(400, "invalid");
}

#[tokio::test]
async fn what_is_pinned_is_not_deleted() {
    let site = Site::start().await;
    let image = site.image("org/app", "1", 1);
    site.pull("org/app", "1", &image).await;
    site.post("pins", &json!({ "pin": "org/*" })).await;
    assert_eq!(
        site.get("image?name=org/app:1").await.json()["pinned"],
        true
    );
    let message = site
        .delete("image?name=org/app:1")
        .await
        .problem(409, "conflict");
    assert!(message.contains("org/*"), "{message}");
    site.delete("pins?pin=org/*").await;
    assert_eq!(site.delete("image?name=org/app:1").await.status, 200);
}

#[tokio::test]
async fn pins_outlive_a_restart() {
    let origin = FixtureRegistry::start().await;
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let start = async || {
        let builder = builder(&origin, &clock).data_dir(folder.path().join("data"));
        builder.start().await.unwrap()
    };
    let mirror = start().await;
    let pin = Question::new("POST", "/api/v1/pins").json(&json!({ "pin": "org/app:1" }));
    let pinned = pin.send_to(mirror.admin_addr().unwrap()).await;
    assert_eq!(pinned.status, 201, "{pinned:?}");
    let state = Question::get("/api/v1/status")
        .send_to(mirror.admin_addr().unwrap())
        .await;
    let path = std::path::absolute(folder.path().join("data")).unwrap();
    assert_eq!(state.json()["data_dir"], path.display().to_string());
    mirror.shutdown().await;
    clock.advance(std::time::Duration::from_secs(3600));
    let mirror = start().await;
    let told = Question::get("/api/v1/pins")
        .send_to(mirror.admin_addr().unwrap())
        .await;
    assert_eq!(told.json()["items"], json!([pinned.json()]));
    mirror.shutdown().await;
}
