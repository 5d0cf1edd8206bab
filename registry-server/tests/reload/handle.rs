//! What a reload puts in effect, what it leaves alone, and what it refuses.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use ::http::Method;
use registry_core::{MemoryStore, Stores, Timestamp, UpstreamId};
use registry_server::api::Time;
use registry_server::testing::{
    Fault, FixtureRegistry, Gate, ImageSpec, Login, Match, Object, Times, TokenAuth,
};
use registry_server::{Mirror, ReloadError};

use serde_json::Value;
use tokio::task::spawn_blocking;

use crate::http;
use crate::support::{Scene, get, manifest, registry, table};

const MISS: &str = "fwd=miss; stored";
const HIT: &str = "hit";
const REVALIDATED: &str = "fwd=stale; detail=revalidated";

/// The status of a request to the admin API that shows this token.
fn administer(address: SocketAddr, token: &str) -> u16 {
    let mut client = TcpStream::connect(address).unwrap();
    write!(
        client,
        "GET /api/v1/jobs HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
         Connection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn status(status: &str) -> (u16, String) {
    (200, status.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_come_and_go() {
    let ((one, _), (two, _)) = (registry().await, registry().await);
    let scene = Scene::start(&table("one.test", &one)).await;
    assert_eq!(scene.pull("one.test", "app:latest").await, status(MISS));
    assert_eq!(scene.pull("two.test", "app:latest").await.0, 404);

    let reloaded = scene.reload(&table("two.test", &two)).await;
    let changed = ["upstream one.test removed", "upstream two.test added"];
    assert_eq!(reloaded.changed, changed);
    // The same image is there: it has to be confirmed, and that is all (I5).
    let confirmed = scene.pull("two.test", "app:latest").await;
    assert_eq!(confirmed, status(REVALIDATED));
    assert_eq!(scene.pull("one.test", "app:latest").await.0, 404);
    let asked = one.total();

    // What is held of it was never lost.
    let both = table("one.test", &one) + &table("two.test", &two);
    scene.reload(&both).await;
    let again = scene.pull("one.test", "app:latest").await;
    assert_eq!(again, status(REVALIDATED));
    assert_eq!(one.total(), asked + 1);
    assert_eq!(one.count(Method::GET, Object::ManifestByDigest), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_the_same_keeps_its_connection_and_its_token() {
    let (one, _) = registry().await;
    one.behave(|behaviour| behaviour.token = Some(TokenAuth::default()));
    let (two, _) = registry().await;
    let scene = Scene::start(&table("one.test", &one)).await;
    scene.pull("one.test", "app:latest").await;
    let before = one.stats();
    let tokens = one.count(Method::GET, Object::Token);
    assert_eq!(tokens, 1);
    // Its rules may change, and others may.
    for rules in ["tag_budget = \"5s\"", "", "on_not_found = \"forward\""] {
        let text = table("one.test", &one) + rules + "\n" + &table("two.test", &two);
        scene.reload(&text).await;
        let again = scene.pull("one.test", "app:latest").await;
        assert_eq!(again, status(REVALIDATED));
    }
    let after = one.stats();
    assert_eq!(after.connections, before.connections);
    assert_eq!(one.count(Method::GET, Object::Token), tokens);
    assert_eq!(after.total(), before.total() + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_takes_effect_with_the_next_request() {
    let (one, _) = registry().await;
    let accept = |password: &str| {
        let login = Login::new("marvin", password);
        one.behave(|behaviour| behaviour.basic = Some(vec![login]));
    };
    let configured = |password: &str| {
        table("one.test", &one) + "username = \"marvin\"\npassword = \"" + password + "\"\n"
    };
    accept("heartofgold");
    let scene = Scene::start(&configured("forgotten")).await;
    // Refused, and for a while known to be.
    for _ in 0..2 {
        assert!(scene.pull("one.test", "app:latest").await.0 >= 400);
    }
    let reloaded = scene.reload(&configured("heartofgold")).await;
    let changed = ["upstream one.test is reached in another way"];
    assert_eq!(reloaded.changed, changed);
    assert_eq!(scene.pull("one.test", "app:latest").await, status(MISS));

    accept("infinitedoor");
    scene.reload(&configured("infinitedoor")).await;
    let again = scene.pull("one.test", "app:latest").await;
    assert_eq!(again, status(REVALIDATED));
    let logged = format!("{:?}", scene.mirror.reload_handle().state());
    assert!(!logged.contains("infinitedoor"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pull_that_is_under_way_is_cut_short() {
    for after in ["removed", "elsewhere", "another password"] {
        let (one, image) = registry().await;
        let (other, _) = registry().await;
        let scene = Scene::start(&table("one.test", &one)).await;
        let layer = image.blobs().find(|blob| blob.size > 100_000).unwrap();
        let digest = layer.digest;
        let gate = Gate::new();
        let hold = Fault::HoldAfter {
            bytes: 100_000,
            gate: gate.clone(),
        };
        // After the reload it breaks off as well, and has to be gone on with.
        let cut = Fault::Reset { after: 200_000 };
        one.fault(
            Match::blob(digest),
            Times::Once,
            Fault::Several(vec![hold, cut]),
        );
        assert_eq!(scene.pull("one.test", "app:latest").await, status(MISS));
        let path = format!("/v2/app/blobs/{digest}?ns=one.test");
        let address = scene.mirror.addr();
        let pull = spawn_blocking(move || http::get(address, &path));
        one.wait_for(|stats| stats.count(Method::GET, Object::Blob) == 1)
            .await;
        let text = match after {
            "removed" => "# nothing\n".to_owned(),
            "elsewhere" => table("one.test", &other),
            _ => table("one.test", &one) + "username = \"a\"\npassword = \"b\"\n",
        };
        assert_eq!(scene.reload(&text).await.changed.len(), 1);
        gate.open();
        let answer = pull.await.unwrap();
        assert_eq!(answer.status, 200, "{after}");
        let expected = one.bytes(&digest).unwrap();
        assert!(answer.body == expected, "{after}");
        assert_eq!(other.total(), 0, "{after}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_leaves_everything_as_it_was_and_is_told() {
    let (one, _) = registry().await;
    let right = table("one.test", &one);
    let scene = Scene::start(&right).await;
    let handle = scene.mirror.reload_handle();
    scene.pull("one.test", "app:latest").await;
    let connections = one.stats().connections;
    let garbage = "not a certificate";
    fs::write(scene.folder.path().join("ca.pem"), garbage).unwrap();
    for (text, wanted) in [
        ("tag_tll = \"1s\"", "registry.toml:1: tag_tll: unknown key"),
        ("[upstream", "registry.toml:1"),
        (
            &(right.clone() + "ca_file = \"ca.pem\"\n"),
            "the upstream one.test cannot be used: ",
        ),
    ] {
        fs::write(scene.path(), format!("{text}\n")).unwrap();
        let error = scene.mirror.reload().await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
        assert_eq!(handle.state().refused.as_ref(), Some(&error));
        assert_eq!(told(&scene).await, (Some(error), 0.0));
        let again = scene.pull("one.test", "app:latest").await;
        assert_eq!(again, status(REVALIDATED));
    }
    fs::remove_file(scene.path()).unwrap();
    let error = scene.mirror.reload().await.unwrap_err().to_string();
    assert!(error.contains("cannot read"), "{error}");
    assert_eq!(one.stats().connections, connections);

    let reloaded = scene.reload(&right).await;
    assert_eq!(reloaded.changed, [""; 0]);
    assert_eq!(handle.state().refused, None);
    assert_eq!(told(&scene).await, (None, 1.0));
}

/// Why the configuration is refused, as the admin API says, and the metric. That it is, `/readyz` says
/// as well, to everybody, and not what stands in the file.
async fn told(scene: &Scene) -> (Option<String>, f64) {
    let admin = scene.mirror.admin_addr().unwrap();
    let ready = get(admin, "/readyz").await;
    assert_eq!(ready.status, 200);
    let ready: Value = serde_json::from_slice(&ready.body).unwrap();
    let status = get(admin, "/api/v1/status").await;
    let status: Value = serde_json::from_slice(&status.body).unwrap();
    let words = "what the configuration says now is not in effect: ";
    let problem = status["health"]["problems"][0].as_str();
    let told_to_all = problem.map(|_| format!("{words}the log says why"));
    assert_eq!(ready["problems"][0].as_str(), told_to_all.as_deref());
    let refused = problem.map(|problem| problem.strip_prefix(words).unwrap().to_owned());
    assert_eq!(
        status["configuration"]["refused"].as_str(),
        refused.as_deref()
    );

    let metrics = get(admin, "/metrics").await;
    let text = String::from_utf8(metrics.body.clone()).unwrap();
    let value = |name: &str| -> f64 {
        let mut values = text.lines().filter_map(|line| line.strip_prefix(name));
        values.next().unwrap().trim().parse().unwrap()
    };
    let loaded_at = value("registry_config_last_reload_timestamp_seconds ");
    let loaded = Timestamp::from_millis(loaded_at as u64 * 1_000);
    let loaded = serde_json::to_value(Time::from(loaded)).unwrap();
    assert_eq!(status["configuration"]["loaded_at"], loaded);
    (refused, value("registry_config_reload_success "))
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_patterns_take_effect_at_once() {
    let (one, _) = registry().await;
    let scene = Scene::start(&table("one.test", &one)).await;
    scene.pull("one.test", "app:latest").await;
    let pattern = |rule: &str| {
        let head = "[upstream.\"one.test\".repository.\"a*\"]\n";
        table("one.test", &one) + head + rule + "\n"
    };
    let reloaded = scene.reload(&pattern("tag_ttl = \"1h\"")).await;
    assert_eq!(reloaded.changed, ["rules of upstream one.test"]);
    let asked = one.total();
    assert_eq!(scene.pull("one.test", "app:latest").await, status(HIT));
    assert_eq!(one.total(), asked);

    one.delete_tag("app", "latest");
    for (rule, wanted) in [
        ("frozen = true", 200),
        ("tag_ttl = \"0s\"", 200),
        ("on_not_found = \"forward\"", 404),
    ] {
        scene.reload(&pattern(rule)).await;
        assert_eq!(
            scene.pull("one.test", "app:latest").await.0,
            wanted,
            "{rule}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_flags_keep_their_precedence_and_some_need_a_restart() {
    let (one, _) = registry().await;
    let flags = ["--max-size", "1GiB"];
    let scene = Scene::start_with(&table("one.test", &one), &flags).await;
    let text = "max_size = \"2GiB\"\nmax_idle = \"1d\"\nverify_rate = \"1MiB\"\ntag_ttl = \"1h\"\n\
                listen = \"127.0.0.1:1\"\nlog = \"warn\"\nreserve = \"1%\"\n"
        .to_owned()
        + &table("one.test", &one);
    let reloaded = scene.reload(&text).await;
    // The flags say something else of `listen` and `max_size`.
    assert_eq!(reloaded.changed, ["tag_ttl", "max_idle", "verify_rate"]);
    assert_eq!(reloaded.needs_restart, ["reserve", "log"]);
    let handle = scene.mirror.reload_handle();
    assert_eq!(handle.state().needs_restart, ["reserve", "log"]);
    assert_eq!(handle.config().retention.bytes_max, Some(1 << 30));
    scene.pull("one.test", "app:latest").await;
    assert_eq!(scene.pull("one.test", "app:latest").await, status(HIT));
    // Said until it is so again.
    assert_eq!(scene.reload(&text).await.needs_restart, ["reserve", "log"]);
    let reloaded = scene.reload(&table("one.test", &one)).await;
    assert_eq!(reloaded.needs_restart, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_emptied_undoes_nothing() {
    let (one, _) = registry().await;
    let scene = Scene::start(&table("one.test", &one)).await;
    assert_eq!(scene.pull("one.test", "app:latest").await, status(MISS));
    fs::write(scene.path(), "").unwrap();
    let error = scene.mirror.reload().await.unwrap_err();
    assert!(matches!(error, ReloadError::Emptied), "{error}");
    assert_eq!(
        scene.pull("one.test", "app:latest").await,
        status(REVALIDATED)
    );
    // Where it is meant, that can be said.
    let reloaded = scene.reload("# nothing\n").await;
    assert_eq!(reloaded.changed, ["upstream one.test removed"]);
    // And where nothing was configured, nothing is undone.
    assert_eq!(scene.reload("").await.changed, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_administer_it_is_not_told_what_stands_in_the_file() {
    let (one, _) = registry().await;
    let scene = Scene::start(&table("one.test", &one)).await;
    fs::write(scene.path(), "hidden = 1\n").unwrap();
    scene.mirror.reload().await.unwrap_err();
    let admin = scene.mirror.admin_addr().unwrap();
    let ready = get(admin, "/readyz").await;
    let told = String::from_utf8(ready.body).unwrap();
    assert!(told.contains("the log says why"), "{told}");
    assert!(
        !told.contains("hidden") && !told.contains("registry.toml"),
        "{told}"
    );
    let why = scene.mirror.reload_handle().state().refused.unwrap();
    assert!(why.contains("hidden"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_that_a_reload_names_is_the_token() {
    let (one, _) = registry().await;
    let text = table("one.test", &one);
    let scene = Scene::start(&text).await;
    let (first, second) = ("first-0123456789abcdef", "second-0123456789abcdef");
    for token in [first, second, "short"] {
        fs::write(scene.folder.path().join(&token[..5]), token).unwrap();
    }
    let admin = scene.mirror.admin_addr().unwrap();
    let asked = async |token: &str| {
        let token = token.to_owned();
        let asking = spawn_blocking(move || administer(admin, &token));
        asking.await.unwrap()
    };
    assert_eq!(asked("").await, 200, "none is wanted from this machine");
    let with = |file: &str| format!("admin_token_file = \"{file}\"\n{text}");
    let reloaded = scene.reload(&with("first")).await;
    assert_eq!(reloaded.changed, ["admin token"]);
    assert_eq!((asked("").await, asked(first).await), (401, 200));
    // One that may have leaked is worth nothing from then on.
    scene.reload(&with("secon")).await;
    assert_eq!((asked(first).await, asked(second).await), (401, 200));
    // One that can be guessed is refused, with the rest of the file.
    fs::write(scene.path(), with("short")).unwrap();
    let error = scene.mirror.reload().await.unwrap_err();
    assert!(matches!(error, ReloadError::AdminToken { .. }), "{error}");
    assert!(error.to_string().contains("can be guessed"), "{error}");
    assert_eq!((asked("short").await, asked(second).await), (401, 200));
    scene.reload(&text).await;
    assert_eq!(asked("").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_was_renewed_is_used() {
    let registry = FixtureRegistry::start_https().await;
    let image = ImageSpec::new(1).layers(&[1000]);
    registry.add_image("app", "latest", &image);
    let wrong = FixtureRegistry::start_https().await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, &wrong.tls().unwrap().ca_pem).unwrap();
    let text = format!("{}ca_file = {ca:?}\n", table("one.test", &registry));
    let scene = Scene::start(&text).await;
    assert!(scene.pull("one.test", "app:latest").await.0 >= 500);
    // The configuration is the same: what it names is another.
    fs::write(&ca, &registry.tls().unwrap().ca_pem).unwrap();
    let changed = scene.reload(&text).await.changed;
    assert_eq!(changed, ["upstream one.test is reached in another way"]);
    assert_eq!(scene.pull("one.test", "app:latest").await, status(MISS));
    assert_eq!(scene.reload(&text).await.changed, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_there_is_nothing_to_read_again() {
    let (one, _) = registry().await;
    let stores = Stores::of(Arc::new(MemoryStore::new()));
    let mirror = Mirror::builder()
        .stores(stores)
        .upstream("one.test", &one.url())
        .start()
        .await
        .unwrap();
    let error = mirror.reload().await.unwrap_err();
    assert!(matches!(error, ReloadError::NoFile), "{error}");
    assert_eq!(mirror.reload_handle().state().file, None);

    // A program that embeds the mirror gives it another configuration by itself.
    let mut config = (*mirror.reload_handle().config()).clone();
    let id = UpstreamId::parse("one.test").unwrap();
    config.upstreams.get_mut(&id).unwrap().rules.frozen = Some(true);
    let reloaded = mirror.reload_handle().apply(config).await.unwrap();
    assert_eq!(reloaded.changed, ["rules of upstream one.test"]);
    let path = manifest("one.test", "app:latest");
    assert_eq!(get(mirror.addr(), &path).await.status, 200);
    one.delete_tag("app", "latest");
    let answer = get(mirror.addr(), &path).await;
    assert_eq!(answer.header("cache-status"), Some("registry-server; hit"));
}
