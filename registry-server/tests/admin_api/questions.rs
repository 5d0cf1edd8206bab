//! What is asked: paths, methods, parameters, documents.

use serde_json::json;

use super::support::{Question, Site};

#[tokio::test]
async fn only_what_is_there_is_served_and_only_by_its_methods() {
    let site = Site::start().await;
    for path in [
        "/api",
        "/api/",
        "/api/v1",
        "/api/v1/",
        "/api/v1/statuses",
        "/api/v1/status/",
        "/api/v1/jobs/",
        "/api/v1/jobs/1/2",
        "/api/v2/status",
        "/api/v1//status",
    ] {
        let answer = site.ask(Question::get(path)).await;
        answer.problem(404, "unknown_path");
    }
    for (path, method, allowed) in [
        ("status", "POST", "GET, HEAD"),
        ("image", "PUT", "GET, HEAD, DELETE"),
        ("jobs", "DELETE", "GET, HEAD, POST"),
        ("jobs/1", "POST", "GET, HEAD, DELETE"),
        ("reload", "GET", "POST"),
        ("reload", "HEAD", "POST"),
        ("openapi.yaml", "PATCH", "GET, HEAD"),
    ] {
        let question = Question::new(method, &format!("/api/v1/{path}"));
        let answer = site.ask(question).await;
        assert_eq!(answer.status, 405, "{method} {path}: {answer:?}");
        assert_eq!(answer.header("allow"), Some(allowed), "{method} {path}");
    }
}

#[tokio::test]
async fn a_head_is_answered_as_a_get_without_its_content() {
    let site = Site::start().await;
    let get = site.get("upstreams").await;
    let head = site.ask(Question::new("HEAD", "/api/v1/upstreams")).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), get.header("content-length"));
    assert_eq!(get.header("cache-control"), Some("no-store"));
    assert_eq!(get.header("content-type"), Some("application/json"));
    assert_eq!(get.header("x-content-type-options"), Some("nosniff"));
}

#[tokio::test]
async fn parameters_are_read_strictly() {
    let site = Site::start().await;
    for (path, says) in [
        (
            "status?verbose=1",
            "no parameter \"verbose\" here: this request takes none",
        ),
        ("repositories?limits=1", "takes upstream, after, limit"),
        ("repositories?limit=1&limit=2", "given twice"),
        ("repositories?limit=0", "from 1 to 500"),
        ("repositories?limit=501", "from 1 to 500"),
        ("repositories?limit=x", "from 1 to 500"),
        ("repositories?upstream=a%2Fb", "not the name of a registry"),
        ("repositories?after=alpine", "\"after\""),
        ("images?repository=A", "not a repository name"),
        ("images?after=registry.example/a:-", "not a tag"),
        (
            "images?repository=org/app&after=registry.example/org/other:1",
            "another repository",
        ),
        ("image", "name=docker.io/library/alpine:3.20"),
        ("image?name=", "name=docker.io/library/alpine:3.20"),
        ("image?name=Org/App", "write org/app"),
        ("image?name=org/app%20x", "white space"),
        (
            "why?name=https://ghcr.io/org/app",
            "leave out what stands before ://",
        ),
        ("why?image=org/app", "takes name"),
    ] {
        let message = site.get(path).await.problem(400, "invalid");
        assert!(message.contains(says), "{path}: {message}");
    }
}

#[tokio::test]
async fn documents_are_read_strictly() {
    let site = Site::start().await;
    let post = || Question::new("POST", "/api/v1/jobs");
    let plain = post().header("Content-Type", "text/plain").body("{}");
    let message = site.ask(plain).await.problem(415, "invalid");
    assert!(message.contains("application/json"), "{message}");
    site.ask(post().body("{}")).await.problem(415, "invalid");
    site.ask(post()).await.problem(415, "invalid");
    let huge = post()
        .header("Content-Type", "application/json; charset=utf-8")
        .body(vec![b' '; (1 << 20) + 1]);
    site.ask(huge).await.problem(413, "invalid");
    for (document, says) in [
        (json!([]), ""),
        (json!({}), "kind"),
        (json!({ "kind": "explode" }), "explode"),
        (json!({ "kind": "warm" }), "images"),
        (json!({ "kind": "warm", "images": [] }), "1 to 1000"),
        (
            json!({ "kind": "warm", "images": vec!["a"; 1001] }),
            "1 to 1000",
        ),
        (json!({ "kind": "warm", "images": ["A"] }), "write a"),
        (
            json!({ "kind": "warm", "images": ["a"], "platforms": ["linux"] }),
            "\"linux\" is not a platform",
        ),
        (
            json!({ "kind": "warm", "images": ["a"], "platforms": vec!["linux/amd64"; 33] }),
            "at most 32",
        ),
        (
            json!({ "kind": "warm", "images": ["a"], "platform": "linux/amd64" }),
            "unknown field",
        ),
        (json!({ "kind": "verify", "rate": 0 }), "more than none"),
        (json!({ "kind": "verify", "rate": -1 }), ""),
        (json!({ "kind": "verify", "image": "a b" }), "white space"),
        (json!({ "kind": "verify", "all": true }), "unknown field"),
        (json!({ "kind": "collect", "bytes": "5GiB" }), ""),
    ] {
        let answer = site.post("jobs", &document).await;
        let message = answer.problem(400, "invalid");
        assert!(message.contains(says), "{document}: {message}");
    }
    for text in ["", "{", "{\"kind\": \"warm\", \"kind\": \"verify\"}"] {
        let answer = site.ask(post().header("Content-Type", "application/json").body(text));
        answer.await.problem(400, "invalid");
    }
    assert_eq!(
        site.get("jobs").await.json()["items"],
        json!([]),
        "nothing was begun"
    );
}

#[tokio::test]
async fn a_body_where_none_is_taken_is_refused_and_the_connection_ends() {
    let site = Site::start().await;
    for (method, path) in [
        ("GET", "/api/v1/status"),
        ("DELETE", "/api/v1/image?name=a"),
        ("POST", "/api/v1/reload"),
    ] {
        let answer = site.ask(Question::new(method, path).json(&json!({}))).await;
        answer.problem(400, "invalid");
        assert_eq!(answer.header("connection"), Some("close"));
    }
    let health = Question::get("/healthz").body("x");
    assert_eq!(site.ask(health).await.status, 400);
}

#[tokio::test]
async fn what_every_listener_refuses_is_a_problem_too() {
    let site = Site::start().await;
    let long = format!("/api/v1/image?name={}", "a".repeat(5000));
    site.ask(Question::get(&long)).await.problem(414, "invalid");
    let headers = Question::get("/api/v1/status").header("X-Long", &"a".repeat(9000));
    site.ask(headers).await.problem(431, "invalid");
}

#[tokio::test]
async fn the_description_is_served_as_it_stands() {
    let site = Site::start().await;
    let answer = site.get("openapi.yaml").await;
    assert_eq!(answer.header("content-type"), Some("application/yaml"));
    assert_eq!(answer.body, include_bytes!("../../../docs/openapi.yaml"));
}
