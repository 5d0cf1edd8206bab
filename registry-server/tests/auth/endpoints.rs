//! Which of several endpoints are shown what.

use registry_server::testing::{FixtureRegistry, TokenAuth};
use registry_server::upstream::{
    CredentialsConfig, HttpUpstream, HttpUpstreamConfig, HttpUpstreamConfigError,
};

use crate::support::{Asked, PASSWORD, TOKEN, asked, fill, login, own, password, registry};

/// The same registry by another name.
fn elsewhere(registry: &FixtureRegistry) -> String {
    registry.url().replace("127.0.0.1", "localhost")
}

fn listing(host: &str) -> CredentialsConfig {
    let mut credentials = own(password());
    credentials.hosts = vec![host.to_owned()];
    credentials
}

#[tokio::test]
async fn a_mirror_of_others_is_asked_anonymously_whatever_it_asks_for() {
    for wants_token in [false, true] {
        let (mirror, registry) = (registry().await, registry().await);
        registry.behave(|behaviour| behaviour.basic = Some(vec![login()]));
        mirror.behave(|behaviour| {
            if wants_token {
                let auth = TokenAuth {
                    basic_first: true,
                    realm: Some(format!("{}/token", elsewhere(&mirror))),
                    ..TokenAuth::default()
                };
                behaviour.token = Some(auth);
            } else {
                behaviour.basic = Some(vec![login()]);
            }
        });
        let upstream = Asked::with(&[elsewhere(&mirror), registry.url()], |config| {
            config.credentials = listing("127.0.0.1");
        });
        assert_eq!(upstream.pull("app").await, "ok");
        if wants_token {
            assert_eq!(asked(&mirror), "GET 401, GET 200, GET 200");
            assert_eq!(asked(&registry), "");
            let mirror = mirror.host().replace("127.0.0.1", "localhost");
            upstream.assert_only(&[(PASSWORD, ""), (TOKEN, &mirror)]);
        } else {
            // It lets nobody in without a password, and the next one does with it.
            assert_eq!(asked(&mirror), "GET 401");
            assert_eq!(asked(&registry), "GET 401, GET 200");
            upstream.assert_only(&[(PASSWORD, &registry.host())]);
        }
    }
}

#[tokio::test]
async fn the_endpoint_that_may_be_shown_the_password_is() {
    let (mirror, registry) = (registry().await, registry().await);
    registry.behave(|behaviour| behaviour.basic = Some(vec![login()]));
    mirror.stop().await;
    let upstream = Asked::with(&[elsewhere(&mirror), registry.url()], |config| {
        config.credentials = listing(&registry.host());
    });
    assert_eq!(upstream.pull("app").await, "ok");
    assert_eq!(asked(&registry), "GET 401, GET 200");
    upstream.assert_only(&[(PASSWORD, &registry.host())]);
}

#[tokio::test]
async fn endpoints_at_one_host_are_one_registrys() {
    let (first, second) = (registry().await, registry().await);
    for registry in [&first, &second] {
        registry.behave(|behaviour| behaviour.basic = Some(vec![login()]));
    }
    let upstream = Asked::with(&[first.url(), second.url()], |config| {
        config.credentials = own(password());
    });
    assert_eq!(upstream.pull("app").await, "ok");
    upstream.assert_only(&[(PASSWORD, &first.host())]);
    first.stop().await;
    assert_eq!(upstream.pull("app").await, "ok");
    // That the first has asked for it says nothing of the second.
    assert_eq!(asked(&second), "GET 401, GET 200");
    upstream.assert_only(&[(PASSWORD, &first.host()), (PASSWORD, &second.host())]);
}

#[tokio::test]
async fn credentials_that_no_endpoint_may_see_are_a_mistake() {
    let registry = fill(FixtureRegistry::start().await);
    let problem = |endpoints: &[&str], credentials| {
        let endpoints = endpoints.iter().map(|url| url.parse().unwrap());
        let id = registry_core::UpstreamId::parse("registry.test").unwrap();
        let mut config = HttpUpstreamConfig::new(id, endpoints);
        config.credentials = credentials;
        match HttpUpstream::new(config) {
            Err(error @ HttpUpstreamConfigError::Credentials { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let two = [&*elsewhere(&registry), &*registry.url()];
    let told = problem(&two, own(password()));
    assert!(told.contains("credential_hosts = [\"localhost:"), "{told}");
    assert!(!told.contains(PASSWORD), "{told}");
    let plain = ["http://registry.example.org"];
    let told = problem(&plain, own(password()));
    assert!(told.contains("plain HTTP"), "{told}");
}
