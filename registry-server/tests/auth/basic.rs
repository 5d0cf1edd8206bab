//! Registries that want a user name and a password.

use registry_server::testing::{BlobRedirect, FixtureRegistry, Login, TokenAuth};
use registry_server::upstream::CredentialsConfig;

use crate::support::{
    Asked, Folder, PASSWORD, TOKEN, asked, fill, login, logs, own, password, password_of, registry,
};

async fn basic() -> FixtureRegistry {
    let registry = registry().await;
    registry.behave(|behaviour| behaviour.basic = Some(vec![login()]));
    registry
}

#[tokio::test]
async fn a_password_is_shown_once_it_is_asked_for_and_at_once_from_then_on() {
    let registry = basic().await;
    let upstream = Asked::new(&registry, own(password()));
    assert_eq!(upstream.pull("app").await, "ok");
    assert_eq!(registry.requests()[0].header("authorization"), None);
    assert_eq!(asked(&registry), "GET 401, GET 200");
    assert_eq!(upstream.pull("app").await, "ok");
    assert_eq!(upstream.pull("org/app").await, "ok");
    assert_eq!(asked(&registry), "GET 200, GET 200");
    upstream.assert_only(&[(PASSWORD, &registry.host())]);
}

#[tokio::test]
async fn nothing_is_shown_to_who_does_not_ask() {
    let registry = registry().await;
    let upstream = Asked::new(&registry, own(password()));
    assert_eq!(upstream.pull("app").await, "ok");
    assert_eq!(asked(&registry), "GET 200");
    upstream.assert_only(&[(PASSWORD, "")]);
}

#[tokio::test]
async fn a_password_is_shown_over_https() {
    let registry = fill(FixtureRegistry::start_https().await);
    registry.behave(|behaviour| behaviour.basic = Some(vec![login()]));
    let folder = Folder::new();
    let ca = folder.write("ca.pem", &registry.tls().unwrap().ca_pem);
    let upstream = Asked::with(&[registry.url()], |config| {
        config.ca_file = Some(ca);
        config.credentials = own(password());
    });
    assert_eq!(upstream.pull("app").await, "ok");
    assert_eq!(asked(&registry), "GET 401, GET 200");
    upstream.assert_only(&[(PASSWORD, &registry.host())]);
}

#[tokio::test]
async fn without_a_credential_there_is_no_access() {
    let registry = basic().await;
    let upstream = Asked::new(&registry, CredentialsConfig::default());
    assert_eq!(upstream.pull("app").await, "unauthorized");
    assert_eq!(asked(&registry), "GET 401");
    upstream.assert_only(&[(PASSWORD, "")]);
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_remembered() {
    logs();
    let registry = basic().await;
    // Others log meanwhile.
    let host = format!("endpoint=\"{}\"", registry.host());
    let said = || {
        let logged = logs();
        let lines = logged.lines().filter(|line| line.contains(&host));
        lines
            .filter(|line| line.contains("the credentials are refused"))
            .count()
    };
    let upstream = Asked::new(&registry, own(password_of("marvin", "wrongpassword")));
    for _ in 0..2 {
        assert_eq!(upstream.pull("app").await, "unauthorized");
        assert_eq!(asked(&registry), "GET 401, GET 401");
    }
    assert_eq!(said(), 1, "said once, and not for each pull");
    registry
        .behave(|behaviour| behaviour.basic = Some(vec![Login::new("marvin", "wrongpassword")]));
    assert_eq!(upstream.pull("app").await, "ok");
    registry.reset_counters();
    // A password that was good, and is no more, is not shown twice.
    registry.behave(|behaviour| behaviour.basic = Some(vec![login()]));
    assert_eq!(upstream.pull("app").await, "unauthorized");
    assert_eq!(asked(&registry), "GET 401");
    assert_eq!(said(), 2, "it is news again");
    upstream.assert_only(&[("wrongpassword", &registry.host())]);
}

#[tokio::test]
async fn a_token_is_preferred_where_both_are_offered() {
    let registry = registry().await;
    registry.behave(|behaviour| {
        behaviour.token = Some(TokenAuth {
            basic_first: true,
            logins: vec![login()],
            ..TokenAuth::default()
        });
    });
    let upstream = Asked::new(&registry, own(password()));
    assert_eq!(upstream.pull("app").await, "ok");
    assert_eq!(asked(&registry), "GET 401, GET 200, GET 200");
    let requests = upstream.log().requests();
    let to_token_server = requests
        .iter()
        .filter(|it| it.url.path() == "/token")
        .count();
    let with_password = requests.iter().filter(|request| {
        let mut headers = request.headers.iter();
        headers.any(|(_, value)| value.starts_with("Basic "))
    });
    assert_eq!((to_token_server, with_password.count()), (1, 1));
    upstream.assert_only(&[(PASSWORD, &registry.host()), (TOKEN, &registry.host())]);
}

#[tokio::test]
async fn storage_gets_no_password_even_if_it_asks() {
    let registry = basic().await;
    let storage = registry.start_storage().await;
    storage.behave(|behaviour| behaviour.refuse_storage_authorization = true);
    registry.behave(|behaviour| {
        behaviour.redirect_blobs = Some(BlobRedirect {
            base: Some(storage.url()),
            ..BlobRedirect::default()
        });
    });
    let blob = registry.add_blob("app", 7, 5000);
    let upstream = Asked::new(&registry, own(password()));
    assert_eq!(upstream.blob("app", blob.digest).await, "ok");
    assert_eq!(asked(&registry), "GET 401, GET 307");
    assert_eq!(asked(&storage), "GET 200");

    use registry_server::testing::{Fault, Match, Object, Times};
    let challenge = [("WWW-Authenticate", "Basic realm=\"give it to me\"")];
    let fault = Fault::status_with(401, &challenge);
    storage.fault(Match::object(Object::Storage), Times::Always, fault);
    assert_eq!(upstream.blob("app", blob.digest).await, "unavailable");
    assert_eq!(asked(&registry), "GET 307");
    assert_eq!(asked(&storage), "GET 401");
    upstream.assert_only(&[(PASSWORD, &registry.host())]);
}

#[tokio::test]
async fn the_longest_prefix_counts() {
    let registry = registry().await;
    let upstream = {
        let mut credentials = own(password_of("all", "passall"));
        let mut at = |prefix: &str, password: &str| {
            let prefix = registry_core::Repository::parse(prefix).unwrap();
            credentials
                .by_prefix
                .insert(prefix, password_of("part", password));
        };
        at("org", "passorg");
        at("org/team", "passteam");
        Asked::new(&registry, credentials)
    };
    for (repository, username, password) in [
        ("app", "all", "passall"),
        ("org/app", "part", "passorg"),
        ("org/team/app", "part", "passteam"),
    ] {
        let right = Login::new(username, password);
        registry.behave(|behaviour| behaviour.basic = Some(vec![right]));
        assert_eq!(upstream.pull(repository).await, "ok", "{repository}");
        assert_eq!(asked(&registry), "GET 401, GET 200", "{repository}");
        assert_eq!(upstream.pull(repository).await, "ok", "{repository}");
        assert_eq!(asked(&registry), "GET 200", "{repository}");
    }
    let host = registry.host();
    upstream.assert_only(&[("passall", &host), ("passorg", &host), ("passteam", &host)]);
}
