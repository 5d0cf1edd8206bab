//! Where credentials come from, and that they are what they are by now.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use registry_core::Repository;
use registry_server::testing::{FixtureRegistry, Login};
use registry_server::upstream::{
    CredentialConfig, HttpUpstream, HttpUpstreamConfig, HttpUpstreamConfigError,
};

use crate::support::{
    Asked, Folder, TOKEN, answering, asked, later, own, registry, serve_tokens, with_token_server,
};

async fn wanting(password: &str) -> FixtureRegistry {
    let registry = registry().await;
    want(&registry, password);
    registry
}

fn want(registry: &FixtureRegistry, password: &str) {
    let logins = vec![Login::new("marvin", password)];
    registry.behave(|behaviour| behaviour.basic = Some(logins));
}

fn password_file(path: std::path::PathBuf) -> CredentialConfig {
    CredentialConfig::PasswordFile {
        username: "marvin".to_owned(),
        path,
    }
}

fn docker_config(folder: &Folder, text: &str) -> CredentialConfig {
    CredentialConfig::DockerConfig {
        path: folder.write("config.json", text),
        helper_folder: Some(folder.path().to_owned()),
    }
}

#[tokio::test]
async fn a_password_file_that_is_corrected_works_on_the_next_pull() {
    let registry = wanting("rightpassword").await;
    let folder = Folder::new();
    let path = folder.write("password", "wrongpassword\n");
    let upstream = Asked::new(&registry, own(password_file(path)));
    assert_eq!(upstream.pull("app").await, "unauthorized");
    assert_eq!(asked(&registry), "GET 401, GET 401");
    folder.write("password", "rightpassword\r\n");
    assert_eq!(upstream.pull("app").await, "ok");
    upstream.assert_only(&[
        ("wrongpassword", &registry.host()),
        ("rightpassword", &registry.host()),
    ]);
}

#[tokio::test]
async fn a_secret_that_kubernetes_replaces_is_noticed_by_the_refusal_of_the_old_one() {
    let registry = wanting("oldpassword").await;
    let folder = Folder::new();
    let at = |name: &str| folder.path().join(name);
    for (version, password) in [("..1", "oldpassword"), ("..2", "newpassword")] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("password"), password).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/password", at("password")).unwrap();
    let upstream = Asked::new(&registry, own(password_file(at("password"))));
    assert_eq!(upstream.pull("app").await, "ok");
    registry.reset_counters();
    symlink("..2", at("..new")).unwrap();
    fs::rename(at("..new"), at("..data")).unwrap();
    want(&registry, "newpassword");
    assert_eq!(upstream.pull("app").await, "ok");
    assert_eq!(asked(&registry), "GET 401, GET 200");
    assert_eq!(upstream.pull("app").await, "ok");
    assert_eq!(asked(&registry), "GET 200");
}

#[tokio::test]
async fn a_password_file_that_is_corrected_serves_token_servers_too() {
    let (registry, server) = with_token_server(vec![Login::new("marvin", "rightpassword")]).await;
    let folder = Folder::new();
    let path = folder.write("password", "wrongpassword");
    let upstream = Asked::new(&registry, own(password_file(path)));
    assert_eq!(upstream.pull("app").await, "unauthorized");
    assert_eq!(asked(&server), "GET 401");
    folder.write("password", "rightpassword");
    // In the moment in which the file is not looked at, the refusal is what makes it be.
    assert_eq!(upstream.pull("app").await, "ok");
    let seen = asked(&server);
    assert!(["GET 200", "GET 401, GET 200"].contains(&&*seen), "{seen}");
    upstream.assert_only(&[
        ("wrongpassword", &server.host()),
        ("rightpassword", &server.host()),
        (TOKEN, &registry.host()),
    ]);
}

#[tokio::test]
async fn a_docker_config_is_read_by_host_and_read_again() {
    let registry = wanting("heartofgold").await;
    let folder = Folder::new();
    let logins = |password: &str| {
        format!(
            r#"{{"auths":{{
                "https://index.docker.io/v1/":{{"username":"marvin","password":"ofthehub"}},
                "127.0.0.1":{{"username":"marvin","password":"ofanotherport"}},
                "http://{}/v2/":{{"username":"marvin","password":"{password}"}}}}}}"#,
            registry.host()
        )
    };
    let upstream = Asked::new(
        &registry,
        own(docker_config(&folder, &logins("heartofgold"))),
    );
    assert_eq!(upstream.pull("app").await, "ok");
    assert_eq!(asked(&registry), "GET 401, GET 200");
    // Half a file is not what counts, however it came about.
    folder.write("config.json", "{\"auths\":");
    later(Duration::from_secs(2)).await;
    assert_eq!(upstream.pull("app").await, "ok");
    assert_eq!(asked(&registry), "GET 200");
    folder.write("config.json", logins("improbability"));
    want(&registry, "improbability");
    assert_eq!(upstream.pull("app").await, "ok");
    folder.write("config.json", "{}");
    later(Duration::from_secs(2)).await;
    assert_eq!(upstream.pull("app").await, "unauthorized", "logged out");
    let host = registry.host();
    upstream.assert_only(&[
        ("heartofgold", &host),
        ("improbability", &host),
        ("ofthehub", ""),
        ("ofanotherport", ""),
    ]);
}

#[tokio::test]
async fn a_docker_config_names_helpers() {
    for key in ["credHelpers", "credsStore"] {
        let registry = wanting("fromthehelper").await;
        let folder = Folder::new();
        folder.helper(&answering("marvin", "fromthehelper"));
        let helper = match key {
            "credHelpers" => format!(r#"{{"{}":"fixture"}}"#, registry.host()),
            _ => r#""fixture""#.to_owned(),
        };
        let text = format!(
            r#"{{"auths":{{"{}":{{}}}},"{key}":{helper}}}"#,
            registry.host()
        );
        let upstream = Asked::new(&registry, own(docker_config(&folder, &text)));
        assert_eq!(upstream.pull("app").await, "ok", "{key}");
        assert_eq!(upstream.pull("org/app").await, "ok", "{key}");
        assert_eq!(folder.read("runs"), format!("get {}\n", registry.host()));
        upstream.assert_only(&[("fromthehelper", &registry.host())]);
    }
}

/// Private ECR: Basic, with a password of a few hours, which is refused by 401 or 403 then.
#[tokio::test]
async fn a_helpers_password_that_has_expired_is_renewed() {
    for refuse in [None, Some(403)] {
        let registry = wanting("morningpassword").await;
        let folder = Folder::new();
        let upstream = Asked::new(
            &registry,
            own(folder.helper(&answering("marvin", "morningpassword"))),
        );
        assert_eq!(upstream.pull("app").await, "ok");
        assert_eq!(asked(&registry), "GET 401, GET 200");
        folder.write("behaviour", answering("marvin", "eveningpassword"));
        want(&registry, "eveningpassword");
        registry.behave(|behaviour| behaviour.refuse_login = refuse);
        later(Duration::from_secs(6)).await;
        assert_eq!(upstream.pull("app").await, "ok");
        let refused = refuse.unwrap_or(401);
        assert_eq!(asked(&registry), format!("GET {refused}, GET 200"));
        assert_eq!(folder.read("runs").lines().count(), 2);
        upstream.assert_only(&[
            ("morningpassword", &registry.host()),
            ("eveningpassword", &registry.host()),
        ]);
    }
}

#[tokio::test]
async fn a_helpers_identity_token_goes_to_the_token_server() {
    let (registry, server) = with_token_server(vec![Login::new("nobody", "nothing")]).await;
    serve_tokens(&registry, &server, |auth| {
        auth.logins = vec![Login::new("nobody", "nothing")];
        auth.refresh_tokens = vec!["acrtoken".to_owned()];
    });
    let folder = Folder::new();
    let upstream = Asked::new(
        &registry,
        own(folder.helper(&answering("<token>", "acrtoken"))),
    );
    assert_eq!(upstream.pull("app").await, "ok");
    assert_eq!(asked(&server), "POST 200");
    upstream.assert_only(&[("acrtoken", &server.host()), (TOKEN, &registry.host())]);
}

#[tokio::test]
async fn a_helper_that_fails_is_named_and_one_that_knows_nothing_is_no_failure() {
    let registry = wanting("x").await;
    let folder = Folder::new();
    let helper = folder.helper("echo hunter2 hunter2; exit 7");
    let upstream = Asked::new(&registry, own(helper));
    let error = upstream.manifest("app").await.unwrap_err();
    let told = format!("{error} {error:?}");
    assert!(
        told.contains("docker-credential-fixture failed (exit status: 7)"),
        "{told}"
    );
    assert!(!told.contains("hunter2"), "{told}");
    assert_eq!(asked(&registry), "GET 401");
    // However often: the endpoint is well, and not rested for it.
    for _ in 0..8 {
        later(Duration::from_secs(6)).await;
        assert_eq!(upstream.pull("app").await, "unavailable");
        assert_eq!(asked(&registry), "GET 401");
    }
    folder.write(
        "behaviour",
        "echo 'credentials not found in native keychain'; exit 1",
    );
    later(Duration::from_secs(6)).await;
    assert_eq!(upstream.pull("app").await, "unauthorized");
    upstream.assert_only(&[("hunter2", "")]);
}

#[tokio::test]
async fn a_helper_that_takes_too_long_does_not_rest_the_registry() {
    const NEVER: Duration = Duration::from_secs(3600);
    let registry = wanting("x").await;
    let folder = Folder::new();
    let helper = folder.helper("sleep 3600");
    let upstream = Asked::with(&[registry.url()], |config| {
        let prefix = Repository::parse("org").unwrap();
        config.credentials.by_prefix.insert(prefix, helper);
        config.budgets.headers = Duration::from_millis(700);
        config.probes.first = NEVER;
        config.probes.max = NEVER;
    });
    for _ in 0..3 {
        assert_eq!(upstream.pull("org/app").await, "timeout");
        assert_eq!(asked(&registry), "GET 401");
    }
    assert_eq!(upstream.pull("app").await, "unauthorized");
    assert_eq!(asked(&registry), "GET 401");
}

#[test]
fn what_cannot_be_used_is_refused_at_once_without_telling_it() {
    let folder = Folder::new();
    let empty = folder.write("empty", "\n");
    let broken = folder.write(
        "broken.json",
        "{\"auths\":{\"a.example\":{\"auth\":\"hunter2\"}}}",
    );
    for (credential, wanted) in [
        (
            password_file(empty.clone()),
            "empty` cannot be used: is empty",
        ),
        (
            password_file(folder.path().join("none")),
            "none` cannot be used: cannot be read",
        ),
        (
            CredentialConfig::DockerConfig {
                path: broken,
                helper_folder: None,
            },
            "broken.json` cannot be used: holds an auth that is not",
        ),
        (
            CredentialConfig::Helper {
                name: "../bin/sh".to_owned(),
                folder: None,
            },
            "not the name of a credential helper",
        ),
    ] {
        let id = registry_core::UpstreamId::parse("registry.test").unwrap();
        let mut config = HttpUpstreamConfig::new(id, ["http://127.0.0.1:1".parse().unwrap()]);
        config.credentials = own(credential);
        let error: HttpUpstreamConfigError = HttpUpstream::new(config).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}
