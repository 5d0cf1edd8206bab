//! Who may use the API: with and without a token, from where, and through what.

use std::fs;
use std::net::{SocketAddr, UdpSocket};

use registry_core::UpstreamId;
use registry_server::config::{AdminToken, Config, UpstreamConfig};

use registry_server::{Mirror, StartError};
use tempfile::TempDir;

use super::support::{Question, Site, UPSTREAM};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";

/// A mirror that is configured as by a file.
async fn mirror(token: AdminToken, admin_listen: &str, folder: &TempDir) -> Mirror {
    started(token, admin_listen, folder).await.unwrap()
}

async fn started(
    token: AdminToken,
    admin_listen: &str,
    folder: &TempDir,
) -> Result<Mirror, StartError> {
    let upstream = UpstreamId::parse(UPSTREAM).unwrap();
    let mut config = Config::default();
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.admin_listen = Some(admin_listen.parse().unwrap());
    config.admin_token = token;
    config.data_dir = folder.path().join("data");
    let endpoint = "http://127.0.0.1:9".parse().unwrap();
    config.upstreams = [(upstream.clone(), UpstreamConfig::new([endpoint]))].into();
    config.default_upstream = upstream;
    Mirror::start(config).await
}

fn file(folder: &TempDir, token: &str) -> AdminToken {
    let path = folder.path().join("token");
    fs::write(&path, format!("{token}\n")).unwrap();
    AdminToken::File(path)
}

fn jobs() -> Question {
    Question::get("/api/v1/jobs")
}

/// An address of this machine that is not its own alone, on the port of `address`.
fn from_elsewhere(address: SocketAddr) -> SocketAddr {
    // Nothing is sent: it is only found out which address would be sent from.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket
        .connect("192.0.2.1:9")
        .expect("this machine has a network");
    SocketAddr::new(socket.local_addr().unwrap().ip(), address.port())
}

#[tokio::test]
async fn without_a_token_this_machine_alone_may() {
    let folder = tempfile::tempdir().unwrap();
    let mirror = mirror(AdminToken::None, "0.0.0.0:0", &folder).await;
    let port = mirror.admin_addr().unwrap().port();
    let local = SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(jobs().send_to(local).await.status, 200);
    // A token that nobody wants does no harm.
    assert_eq!(jobs().bearer("x").send_to(local).await.status, 200);
    let elsewhere = from_elsewhere(local);
    let refused = jobs().send_to(elsewhere).await;
    assert!(
        refused
            .problem(403, "forbidden")
            .contains("admin_token_file")
    );
    // Health is for everybody.
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(Question::get(path).send_to(elsewhere).await.status, 200);
    }
    mirror.shutdown().await;
}

#[tokio::test]
async fn with_a_token_whoever_shows_it_may_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    for token in [file(&folder, TOKEN), AdminToken::Value(TOKEN.into())] {
        let folder = tempfile::tempdir().unwrap();
        let mirror = mirror(token, "0.0.0.0:0", &folder).await;
        let port = mirror.admin_addr().unwrap().port();
        let local = SocketAddr::from(([127, 0, 0, 1], port));
        for address in [local, from_elsewhere(local)] {
            let shown = |token| jobs().bearer(token).send_to(address);
            assert_eq!(shown(TOKEN).await.status, 200);
            // Named as Kubernetes names services: what a page does not have is the token.
            let named = jobs().bearer(TOKEN).host("mirror-admin.registry.svc:5001");
            assert_eq!(named.send_to(address).await.status, 200);
            let missing = jobs().send_to(address).await;
            missing.problem(401, "unauthorized");
            assert_eq!(
                missing.header("www-authenticate"),
                Some("Bearer realm=\"registry-server\"")
            );
            for wrong in [OTHER, "", &TOKEN[1..], &format!("{TOKEN}0")] {
                let refused = shown(wrong).await;
                refused.problem(401, "unauthorized");
                let challenge = refused.header("www-authenticate").unwrap();
                assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
                assert!(!format!("{refused:?}").contains(TOKEN));
            }
            let basic = jobs().header("Authorization", &format!("Basic {TOKEN}"));
            basic.send_to(address).await.problem(401, "unauthorized");
            for path in ["/healthz", "/readyz", "/metrics"] {
                assert_eq!(Question::get(path).send_to(address).await.status, 200);
            }
            // Who may not ask does not learn what there is.
            let nothing = Question::get("/api/v1/nothing").send_to(address).await;
            nothing.problem(401, "unauthorized");
        }
        mirror.shutdown().await;
    }
}

#[tokio::test]
async fn a_token_that_is_replaced_is_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let mirror = mirror(file(&folder, TOKEN), "127.0.0.1:0", &folder).await;
    let admin = mirror.admin_addr().unwrap();
    assert_eq!(jobs().bearer(TOKEN).send_to(admin).await.status, 200);
    file(&folder, OTHER);
    // The file is looked at once a second.
    let begun = std::time::Instant::now();
    while jobs().bearer(OTHER).send_to(admin).await.status != 200 {
        assert!(
            begun.elapsed() < super::support::WAIT_MAX,
            "the old token stays"
        );
    }
    let old = jobs().bearer(TOKEN).send_to(admin).await;
    old.problem(401, "unauthorized");
    mirror.shutdown().await;
}

#[tokio::test]
async fn a_token_that_is_none_is_no_start() {
    let folder = tempfile::tempdir().unwrap();
    let missing = AdminToken::File(folder.path().join("missing"));
    let short = file(&folder, "short");
    for (token, says) in [
        (missing, "cannot be read"),
        (short, "can be guessed"),
        (
            AdminToken::Value("has a space in it".into()),
            "no header can have",
        ),
    ] {
        let error = started(token, "127.0.0.1:0", &folder).await.unwrap_err();
        assert!(matches!(error, StartError::AdminToken { .. }), "{error:?}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test]
async fn no_page_in_a_browser_may() {
    let site = Site::start().await;
    let ask = |question: Question| site.ask(question);
    for question in [
        // What a page elsewhere sends with whatever changes something.
        jobs().header("Origin", "https://evil.example"),
        jobs().header("Origin", "null"),
        jobs().header("Origin", "http://127.0.0.1:5001"),
        // And what browsers tell of themselves.
        jobs().header("Sec-Fetch-Site", "cross-site"),
        jobs().header("Sec-Fetch-Site", "same-origin"),
        // A name that was made to point here (DNS rebinding).
        jobs().host("evil.example"),
        jobs().host("evil.example:5001"),
        jobs().host("127.0.0.1.evil.example"),
        Question::get("http://evil.example/api/v1/jobs"),
        // Whoever comes through a proxy on this machine is not on it.
        jobs().header("X-Forwarded-For", "192.0.2.7"),
        jobs().header("X-Forwarded-Host", "mirror.example.org"),
        jobs().header("X-Forwarded-Proto", "https"),
        jobs().header("X-Real-IP", "192.0.2.7"),
        jobs().header("Forwarded", "for=192.0.2.7"),
        jobs().header("Via", "1.1 proxy"),
    ] {
        ask(question).await.problem(403, "forbidden");
    }
    for question in [
        jobs().host("localhost"),
        jobs().host("LOCALHOST:5001"),
        jobs().host("[::1]:5001"),
        jobs().host("192.0.2.7"),
        // Somebody has typed the address.
        jobs().header("Sec-Fetch-Site", "none"),
    ] {
        assert_eq!(ask(question).await.status, 200);
    }
    // A preflight is answered as any other method that there is none of, and allows nothing.
    let preflight = Question::new("OPTIONS", "/api/v1/jobs")
        .header("Origin", "https://evil.example")
        .header("Access-Control-Request-Method", "POST");
    let preflight = ask(preflight).await;
    preflight.problem(403, "forbidden");
    assert_eq!(preflight.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_page_may_not_even_with_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let mirror = mirror(file(&folder, TOKEN), "127.0.0.1:0", &folder).await;
    let admin = mirror.admin_addr().unwrap();
    let page = jobs()
        .bearer(TOKEN)
        .header("Origin", "https://evil.example");
    page.send_to(admin).await.problem(403, "forbidden");
    mirror.shutdown().await;
}

#[tokio::test]
async fn the_other_listener_serves_none_of_it() {
    let site = Site::start().await;
    let answer = Question::get("/api/v2/").send_to(site.mirror.addr()).await;
    assert_eq!(answer.status, 404);
    let body = site.mirror.addr();
    let answer = Question::new("POST", "/v2/org/app/blobs/uploads/")
        .body("x")
        .send_to(body)
        .await;
    assert_eq!(
        answer.status, 405,
        "a registry takes no body still: {answer:?}"
    );
}
