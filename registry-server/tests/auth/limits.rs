//! How many requests a question costs at the most, whatever is answered.

use registry_server::testing::{Fault, FixtureRegistry, Match, Object, Times};
use registry_server::upstream::CredentialsConfig;

use crate::support::{Asked, Folder, answering, count, later, own, password, with_token_server};

/// What a registry answers that has enough of nothing.
async fn insatiable(challenge: &str) -> (FixtureRegistry, FixtureRegistry) {
    let (registry, server) = with_token_server(Vec::new()).await;
    let challenge = challenge.replace("REALM", &format!("{}/token", server.url()));
    let headers = [("WWW-Authenticate", &*challenge)];
    let fault = Fault::status_with(401, &headers);
    registry.fault(Match::any(), Times::Always, fault);
    (registry, server)
}

/// Answers with another password each time.
const CHANGING: &str = r#"n=$(wc -l <"$folder/runs" | tr -d ' ')
echo "{\"ServerURL\":\"$server\",\"Username\":\"u\",\"Secret\":\"secret$n\"}""#;

#[tokio::test]
async fn a_registry_that_is_never_content_is_asked_a_bounded_number_of_times() {
    const BEARER: &str = "Bearer realm=\"REALM\",service=\"s\"";
    const BASIC: &str = "Basic realm=\"x\"";
    let folder = Folder::new();
    let changing = folder.helper(CHANGING);
    let fixed = Folder::new();
    let fixed = fixed.helper(&answering("u", "p"));
    let anonymous = CredentialsConfig::default;
    for (challenge, credentials, requests, tokens) in [
        (BEARER, anonymous(), 2, 1),
        (BASIC, anonymous(), 1, 0),
        (BEARER, own(password()), 2, 1),
        (BASIC, own(password()), 2, 0),
        (BEARER, own(fixed.clone()), 2, 1),
        (BASIC, own(fixed), 2, 0),
        ("", own(password()), 1, 0),
        (
            "Bearer realm=\"REALM\", Basic realm=\"x\"",
            own(password()),
            2,
            1,
        ),
        ("Negotiate abc==, =", own(password()), 1, 0),
    ] {
        let (registry, server) = insatiable(challenge).await;
        let upstream = Asked::new(&registry, credentials);
        for _ in 0..2 {
            assert_eq!(upstream.pull("app").await, "unauthorized", "{challenge}");
            let counts = (count(&registry), count(&server));
            assert_eq!(counts, (requests, tokens), "{challenge}");
        }
    }
    // Even if there is another credential each time, it is tried once.
    for (challenge, tokens) in [(BEARER, 2), (BASIC, 0)] {
        let (registry, server) = insatiable(challenge).await;
        let upstream = Asked::new(&registry, own(changing.clone()));
        assert_eq!(upstream.pull("app").await, "unauthorized");
        let counts = (count(&registry), count(&server));
        assert_eq!(counts, (2, tokens.min(1)), "the helper ran a moment ago");
        later(std::time::Duration::from_secs(6)).await;
        assert_eq!(upstream.pull("app").await, "unauthorized");
        assert_eq!((count(&registry), count(&server)), (3, tokens));
    }
}

#[tokio::test]
async fn a_token_server_that_is_never_content_is_asked_twice_a_credential() {
    for (get, requests) in [(401, 1), (403, 1), (404, 2), (405, 2), (500, 1)] {
        let (registry, server) = with_token_server(Vec::new()).await;
        let fault = Fault::status(get);
        server.fault(Match::object(Object::Token), Times::Always, fault);
        let upstream = Asked::new(&registry, own(password()));
        assert_ne!(upstream.pull("app").await, "ok");
        assert_eq!((count(&registry), count(&server)), (1, requests), "{get}");
    }
}
