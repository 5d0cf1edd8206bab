//! Registries that want a token, and the servers that give them.

use futures::future::join_all;
use http::Method;
use registry_server::testing::{
    BlobRedirect, Fault, FixtureRegistry, Gate, Login, Match, Object, Times,
};
use registry_server::upstream::{CredentialConfig, CredentialsConfig};

use crate::support::{
    Asked, Folder, PASSWORD, TOKEN, asked, count, fill, login, one, own, password, password_of,
    serve_tokens, with_token_server,
};

#[tokio::test]
async fn a_password_gets_a_token_and_goes_nowhere_else() {
    let (registry, server) = with_token_server(vec![login()]).await;
    let upstream = Asked::new(&registry, own(password()));
    assert_eq!(upstream.pull("app").await, "ok");
    let request = one(&server, Method::GET);
    assert_eq!(
        request.query.as_deref(),
        Some("service=fixture&scope=repository%3Aapp%3Apull")
    );
    assert_eq!(
        request.header("authorization"),
        Some("Basic bWFydmluOmhlYXJ0b2Znb2xk")
    );
    assert_eq!(asked(&registry), "GET 401, GET 200");
    assert_eq!(asked(&server), "GET 200");
    assert_eq!(upstream.pull("app").await, "ok");
    assert_eq!((count(&registry), count(&server)), (1, 0));
    upstream.assert_only(&[(PASSWORD, &server.host()), (TOKEN, &registry.host())]);
}

#[tokio::test]
async fn a_server_that_knows_no_get_is_posted_to() {
    for status in [400, 404, 405] {
        let (registry, server) = with_token_server(Vec::new()).await;
        serve_tokens(&registry, &server, |auth| {
            auth.logins = vec![login()];
            auth.refuse_get = Some(status);
            auth.field = "access_token";
        });
        let upstream = Asked::new(&registry, own(password()));
        assert_eq!(upstream.pull("app").await, "ok");
        let request = one(&server, Method::POST);
        assert_eq!(
            request.body,
            format!(
                "grant_type=password&username=marvin&password={PASSWORD}&service=fixture\
                 &client_id=registry-server&scope=repository%3Aapp%3Apull"
            )
        );
        assert_eq!(
            request.header("content-type"),
            Some("application/x-www-form-urlencoded")
        );
        assert_eq!(request.header("authorization"), None);
        assert_eq!(asked(&server), format!("GET {status}, POST 200"));
        upstream.assert_only(&[(PASSWORD, &server.host()), (TOKEN, &registry.host())]);
    }
}

#[tokio::test]
async fn an_identity_token_is_posted_to_the_token_server_only() {
    let (registry, server) = with_token_server(vec![login()]).await;
    serve_tokens(&registry, &server, |auth| {
        auth.refresh_tokens = vec!["identitysecret".to_owned()];
    });
    let folder = Folder::new();
    let logins = format!(
        r#"{{"auths":{{"{}":{{"auth":"PHRva2VuPjo=","identitytoken":"identitysecret"}}}}}}"#,
        registry.host()
    );
    let upstream = Asked::new(
        &registry,
        own(CredentialConfig::DockerConfig {
            path: folder.write("config.json", logins),
            helper_folder: None,
        }),
    );
    assert_eq!(upstream.pull("app").await, "ok");
    assert_eq!(
        one(&server, Method::POST).body,
        "grant_type=refresh_token&refresh_token=identitysecret&service=fixture\
         &client_id=registry-server&scope=repository%3Aapp%3Apull"
    );
    assert_eq!(asked(&server), "POST 200");
    upstream.assert_only(&[
        ("identitysecret", &server.host()),
        (TOKEN, &registry.host()),
    ]);
    // It is no password.
    registry.behave(|behaviour| {
        behaviour.token = None;
        behaviour.basic = Some(vec![login()]);
    });
    registry.revoke_tokens();
    assert_eq!(upstream.pull("app").await, "unauthorized");
    upstream.assert_only(&[
        ("identitysecret", &server.host()),
        (TOKEN, &registry.host()),
    ]);
}

#[tokio::test]
async fn a_registry_token_is_shown_as_it_is() {
    let (registry, server) = with_token_server(vec![login()]).await;
    serve_tokens(&registry, &server, |auth| {
        auth.registry_tokens = vec!["readymade".to_owned()];
    });
    let folder = Folder::new();
    let logins = format!(
        r#"{{"auths":{{"http://{}/v2/":{{"registrytoken":"readymade"}}}}}}"#,
        registry.host()
    );
    let upstream = Asked::new(
        &registry,
        own(CredentialConfig::DockerConfig {
            path: folder.write("config.json", logins),
            helper_folder: None,
        }),
    );
    assert_eq!(upstream.pull("app").await, "ok");
    assert_eq!(upstream.pull("org/app").await, "ok");
    assert_eq!(asked(&registry), "GET 401, GET 200, GET 200");
    assert_eq!(count(&server), 0);
    upstream.assert_only(&[("readymade", &registry.host())]);
}

#[tokio::test]
async fn scopes_are_as_the_registry_calls_them() {
    type Change = fn(&mut registry_server::testing::TokenAuth);
    let pull = |name: &str| format!("scope=repository%3A{name}%3Apull");
    let cases: [(Change, String); 4] = [
        (
            |auth| auth.prefix = "hub/".to_owned(),
            pull("hub%2Forg%2Fapp"),
        ),
        (
            |auth| auth.further_scope = Some("aws".to_owned()),
            format!("{}&scope=aws", pull("org%2Fapp")),
        ),
        (
            |auth| auth.placeholder = Some("repository:user/image:pull,push".to_owned()),
            pull("org%2Fapp"),
        ),
        (
            |auth| auth.placeholder = Some(String::new()),
            pull("org%2Fapp"),
        ),
    ];
    for (change, scopes) in cases {
        let (registry, server) = with_token_server(Vec::new()).await;
        serve_tokens(&registry, &server, change);
        let upstream = Asked::new(&registry, CredentialsConfig::default());
        assert_eq!(upstream.pull("org/app").await, "ok", "{scopes}");
        let query = one(&server, Method::GET).query.unwrap();
        assert_eq!(query, format!("service=fixture&{scopes}"));
    }
}

#[tokio::test]
async fn each_repository_has_a_token_of_its_own_fetched_once_for_all() {
    let (registry, server) = with_token_server(vec![login(), Login::new("org", "passorg")]).await;
    let mut credentials = own(password());
    let prefix = registry_core::Repository::parse("org").unwrap();
    credentials
        .by_prefix
        .insert(prefix, password_of("org", "passorg"));
    let upstream = Asked::new(&registry, credentials);
    let gate = Gate::new();
    let hold = Fault::Hold { gate: gate.clone() };
    server.fault(Match::object(Object::Token), Times::Next(2), hold);
    let pulls = (0..32).map(|number| upstream.pull(["app", "org/app"][number % 2]));
    let open = async {
        let all = |stats: &registry_server::testing::Stats| {
            stats.count(Method::GET, Object::ManifestByTag) == 32
        };
        registry.wait_for(all).await;
        gate.open();
    };
    let (pulls, ()) = tokio::join!(join_all(pulls), open);
    assert_eq!(pulls, ["ok"; 32]);
    assert_eq!(server.count(Method::GET, Object::Token), 2);
    let mut shown: Vec<_> = server
        .requests()
        .iter()
        .map(|it| {
            (
                it.query.clone(),
                it.header("authorization").map(str::to_owned),
            )
        })
        .collect();
    shown.sort();
    assert_eq!(shown.len(), 2);
    assert!(shown[0].0.as_ref().unwrap().contains("repository%3Aapp%3A"));
    assert!(
        shown[1]
            .0
            .as_ref()
            .unwrap()
            .contains("repository%3Aorg%2Fapp%3A")
    );
    assert_ne!(shown[0].1, shown[1].1);
    let host = server.host();
    upstream.assert_only(&[
        (PASSWORD, &host),
        ("passorg", &host),
        (TOKEN, &registry.host()),
    ]);
}

#[tokio::test]
async fn a_token_that_was_revoked_is_replaced_once() {
    let (registry, server) = with_token_server(vec![login()]).await;
    let upstream = Asked::new(&registry, own(password()));
    assert_eq!(upstream.pull("app").await, "ok");
    registry.revoke_tokens();
    registry.reset_counters();
    server.reset_counters();
    assert_eq!(upstream.pull("app").await, "ok");
    assert_eq!(asked(&registry), "GET 401, GET 200");
    assert_eq!(asked(&server), "GET 200");
}

#[tokio::test]
async fn a_credential_that_the_token_server_refuses_is_asked_about_once_and_not_remembered() {
    let (registry, server) = with_token_server(vec![login()]).await;
    let upstream = Asked::new(&registry, own(password_of("marvin", "wrongpassword")));
    for _ in 0..2 {
        assert_eq!(upstream.pull("app").await, "unauthorized");
        assert_eq!(
            (asked(&registry), asked(&server)),
            ("GET 401".into(), "GET 401".into())
        );
    }
    serve_tokens(&registry, &server, |auth| {
        auth.logins = vec![Login::new("marvin", "wrongpassword")];
    });
    assert_eq!(upstream.pull("app").await, "ok");
    upstream.assert_only(&[("wrongpassword", &server.host()), (TOKEN, &registry.host())]);
}

#[tokio::test]
async fn a_realm_elsewhere_gets_nothing_unless_it_is_listed() {
    let registry = fill(FixtureRegistry::start_https().await);
    let server = registry.start_token_server().await;
    let realm = server.url().replace("127.0.0.1", "localhost") + "/token";
    serve_tokens(&registry, &server, |auth| {
        auth.realm = Some(realm);
        auth.logins = vec![login()];
    });
    let folder = Folder::new();
    let ca = folder.write("ca.pem", &registry.tls().unwrap().ca_pem);
    let upstream = |realms: &[&str]| {
        Asked::with(&[registry.url()], |config| {
            config.ca_file = Some(ca.clone());
            config.credentials = own(password());
            config.realms = realms.iter().copied().map(str::to_owned).collect();
        })
    };
    let unlisted = upstream(&["auth.example.org"]);
    let error = unlisted.manifest("app").await.unwrap_err();
    assert!(error.to_string().contains("`realms`"), "{error}");
    assert!(!error.to_string().contains(PASSWORD), "{error}");
    assert_eq!(server.stats().connections, 0);
    unlisted.assert_only(&[(PASSWORD, "")]);

    let listed = upstream(&["localhost"]);
    assert_eq!(listed.pull("app").await, "ok");
    let realm = server.host().replace("127.0.0.1", "localhost");
    listed.assert_only(&[(PASSWORD, &realm), (TOKEN, &registry.host())]);
}

#[tokio::test]
async fn a_token_server_that_redirects_is_not_followed() {
    let (registry, server) = with_token_server(vec![login()]).await;
    let elsewhere = FixtureRegistry::start().await;
    let location = format!("{}/token", elsewhere.url());
    for status in [301, 302, 303, 307, 308] {
        let fault = Fault::status_with(status, &[("Location", &location)]);
        server.fault(Match::object(Object::Token), Times::Once, fault);
        let upstream = Asked::new(&registry, own(password()));
        let error = upstream.manifest("app").await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("redirects a request for a token"),
            "{error}"
        );
        assert!(error.to_string().contains(&server.host()), "{error}");
        upstream.assert_only(&[(PASSWORD, &server.host())]);
    }
    assert_eq!(elsewhere.stats().connections, 0);
}

#[tokio::test]
async fn a_token_server_that_fails_is_named() {
    let (registry, server) = with_token_server(vec![login()]).await;
    let upstream = Asked::new(&registry, own(password()));
    let body = |body: &str| Fault::Answer {
        status: 200,
        headers: Vec::new(),
        body: body.to_owned().into(),
    };
    for (fault, expected) in [
        (Fault::status(500), "unavailable"),
        (Fault::status(503), "unavailable"),
        (Fault::Garbage, "unavailable"),
        (body("<html>"), "protocol"),
        (body("{}"), "protocol"),
        (Fault::status(204), "protocol"),
        (Fault::status(418), "protocol"),
    ] {
        let name = format!("{fault:?}");
        server.fault(Match::object(Object::Token), Times::Always, fault);
        let error = upstream.manifest("app").await.unwrap_err();
        assert_eq!(crate::errors::kind(&error), expected, "{name}: {error}");
        assert!(
            error.to_string().contains(&server.host()),
            "{name}: {error}"
        );
        server.clear_faults();
    }
    server.stop().await;
    let error = upstream.manifest("app").await.unwrap_err();
    assert!(error.to_string().contains(&server.host()), "{error}");
    server.restart().await;
    assert_eq!(upstream.pull("app").await, "ok");
    upstream.assert_only(&[(PASSWORD, &server.host()), (TOKEN, &registry.host())]);
}

#[tokio::test]
async fn a_token_server_that_is_silent_costs_one_budget() {
    let (registry, server) = with_token_server(vec![login()]).await;
    let upstream = Asked::with(&[registry.url()], |config| {
        config.credentials = own(password());
        config.budgets.headers = std::time::Duration::from_millis(200);
    });
    server.fault(Match::object(Object::Token), Times::Once, Fault::BlackHole);
    assert_eq!(upstream.pull("app").await, "timeout");
    assert_eq!(server.total(), 1);
    assert_eq!(registry.total(), 1);
}

#[tokio::test]
async fn storage_gets_no_token_even_if_it_asks() {
    let (registry, server) = with_token_server(vec![login()]).await;
    let storage = registry.start_storage().await;
    registry.behave(|behaviour| {
        behaviour.redirect_blobs = Some(BlobRedirect {
            base: Some(storage.url()),
            ..BlobRedirect::default()
        });
    });
    let challenge = format!("Bearer realm=\"{}/token\",service=\"x\"", storage.url());
    let fault = Fault::status_with(401, &[("WWW-Authenticate", &challenge)]);
    storage.fault(Match::object(Object::Storage), Times::Always, fault);
    let blob = registry.add_blob("app", 7, 5000);
    let upstream = Asked::new(&registry, own(password()));
    assert_eq!(upstream.blob("app", blob.digest).await, "unavailable");
    assert_eq!(asked(&storage), "GET 401");
    assert_eq!(asked(&server), "GET 200");
    upstream.assert_only(&[(PASSWORD, &server.host()), (TOKEN, &registry.host())]);
}
