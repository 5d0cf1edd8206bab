use proptest::prelude::*;
use secrecy::ExposeSecret as _;

use super::*;

fn parse(json: &str) -> Logins {
    Logins::parse(json.as_bytes()).unwrap_or_else(|problem| panic!("{json}: {problem}"))
}

/// What is found, in a form to compare: `me:secret`, `<token>`, `helper NAME`.
fn find(json: &str, host: &str) -> String {
    match parse(json).find(host) {
        Found::Here(Credential::Password { username, password }) => {
            format!("{username}:{}", password.expose_secret())
        }
        Found::Here(Credential::IdentityToken(token)) => {
            format!("identity {}", token.expose_secret())
        }
        Found::Here(Credential::RegistryToken(token)) => {
            format!("registry {}", token.expose_secret())
        }
        Found::Helper(name) => format!("helper {name}"),
        Found::Nowhere => String::new(),
    }
}

#[test]
fn logins_are_read_however_they_are_written() {
    // `me:secret` is bWU6c2VjcmV0.
    for (login, expected) in [
        (r#"{"auth":"bWU6c2VjcmV0"}"#, "me:secret"),
        (r#"{"auth":"bWU6cw"}"#, "me:s"),
        (r#"{"auth":"bWU6cw=="}"#, "me:s"),
        (r#"{"auth":"bWU6czp0AA=="}"#, "me:s:t"),
        (r#"{"auth":" bWU6c2VjcmV0\n"}"#, "me:secret"),
        (r#"{"username":"me","password":"secret"}"#, "me:secret"),
        (
            r#"{"username":"you","password":"x","auth":"bWU6c2VjcmV0"}"#,
            "me:secret",
        ),
        (r#"{"auth":"bWU6","identitytoken":"t"}"#, "identity t"),
        (
            r#"{"auth":"bWU6c2VjcmV0","registrytoken":"t"}"#,
            "registry t",
        ),
        (
            r#"{"auth":"bWU6c2VjcmV0","identitytoken":"","email":"a@b"}"#,
            "me:secret",
        ),
        (r#"{"auth":"bWU6"}"#, ""),
        (r#"{"auth":""}"#, ""),
        ("{}", ""),
        ("null", ""),
    ] {
        let json = format!(r#"{{"auths":{{"ghcr.io":{login}}}}}"#);
        assert_eq!(find(&json, "ghcr.io"), expected, "{login}");
        assert_eq!(find(&json, "quay.io"), "", "{login}");
    }
}

#[test]
fn keys_are_hosts_or_urls_at_them() {
    let auth = |key: &str| format!(r#"{{"auths":{{"{key}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#);
    for (key, host, found) in [
        ("ghcr.io", "ghcr.io", true),
        ("GHCR.io", "ghcr.io", true),
        ("https://ghcr.io", "ghcr.io", true),
        ("https://ghcr.io/v1/", "ghcr.io", true),
        ("http://ghcr.io/v2/", "ghcr.io", true),
        ("ghcr.io/org", "ghcr.io", true),
        ("ghcr.io:443", "ghcr.io", true),
        ("127.0.0.1:5000", "127.0.0.1:5000", true),
        ("http://127.0.0.1:5000/v2/", "127.0.0.1:5000", true),
        ("127.0.0.1", "127.0.0.1:5000", false),
        ("127.0.0.1:5000", "127.0.0.1", false),
        ("ghcr.io.evil.test", "ghcr.io", false),
        ("https://evil.test/ghcr.io", "ghcr.io", false),
        ("", "ghcr.io", false),
        ("://", "ghcr.io", false),
        ("https://index.docker.io/v1/", "registry-1.docker.io", true),
        ("index.docker.io", "registry-1.docker.io", true),
        ("docker.io", "registry-1.docker.io", true),
        ("https://registry-1.docker.io", "registry-1.docker.io", true),
        ("docker.io", "index.docker.io", true),
        ("auth.docker.io", "registry-1.docker.io", false),
        ("https://index.docker.io/v1/", "mirror.gcr.io", false),
    ] {
        assert_eq!(!find(&auth(key), host).is_empty(), found, "{key} {host}");
    }
    // The host itself before URLs at it, and the one that docker writes before others.
    let several = r#"{"auths":{
        "https://ghcr.io/v1/":{"username":"url","password":"p"},
        "ghcr.io":{"username":"host","password":"p"},
        "docker.io":{"username":"short","password":"p"},
        "https://index.docker.io/v1/":{"username":"docker","password":"p"}}}"#;
    assert_eq!(find(several, "ghcr.io"), "host:p");
    assert_eq!(find(several, "registry-1.docker.io"), "docker:p");
}

#[test]
fn a_helper_for_the_host_counts_before_a_login_and_that_before_the_store() {
    let json = r#"{
        "auths":{"a.example":{"username":"me","password":"p"},"b.example":{}},
        "credHelpers":{"c.example":"ecr-login","a.example":"acr-env"},
        "credsStore":"desktop.exe"}"#;
    for (host, expected) in [
        ("a.example", "helper acr-env"),
        ("b.example", "helper desktop.exe"),
        ("c.example", "helper ecr-login"),
        ("d.example", "helper desktop.exe"),
    ] {
        assert_eq!(find(json, host), expected);
    }
    let json = r#"{"auths":{"a.example":{"username":"me","password":"p"}},"credsStore":"pass"}"#;
    assert_eq!(find(json, "a.example"), "me:p");
    assert_eq!(find(r#"{"auths":null,"credsStore":""}"#, "a.example"), "");
}

#[test]
fn what_is_wrong_is_told_without_what_it_is() {
    for (json, wanted) in [
        ("", "no JSON at line 1"),
        ("{\"auths\":\n{hunter2", "no JSON at line 2, column 2"),
        (r#"["hunter2"]"#, "of the wrong type"),
        (r#"{"auths":"hunter2"}"#, "of the wrong type at line 1"),
        (r#"{"auths":{"a.example":"hunter2"}}"#, "of the wrong type"),
        (
            r#"{"auths":{"a.example":{"password":["hunter2"]}}}"#,
            "of the wrong type",
        ),
        (
            r#"{"auths":{"a.example":{"auth":"hunter2!"}}}"#,
            "in Base64 (\"a.example\")",
        ),
        (
            r#"{"auths":{"a.example":{"auth":"aHVudGVyMg=="}}}"#,
            "in Base64 (\"a.example\")",
        ),
        (
            r#"{"auths":{"a.example":{"password":"hunter2"}}}"#,
            "without a username",
        ),
        (
            r#"{"auths":{"a.example":{"username":"a:b","password":"hunter2"}}}"#,
            "with a colon",
        ),
        (r#"{"credsStore":"../hunter"}"#, "../hunter"),
        (r#"{"credHelpers":{"a.example":""}}"#, "\"\""),
    ] {
        let problem = Logins::parse(json.as_bytes()).err().unwrap();
        assert!(problem.contains(wanted), "{json}: {problem}");
        assert!(!problem.contains("hunter2"), "{json}: {problem}");
        assert!(!problem.contains("aHVudGVyMg"), "{json}: {problem}");
    }
}

proptest! {
    #[test]
    fn no_content_makes_it_panic_or_tell(
        key in "[ -~]{0,20}",
        auth in prop_oneof!["[A-Za-z0-9+/=]{0,24}", "[ -~]{0,12}"],
        cut in 0_usize..200,
    ) {
        let document = serde_json::json!({
            "auths": { &key: { "auth": &auth, "password": "hunter2" } },
            "credsStore": &key,
        });
        let text = document.to_string();
        let cut = cut.min(text.len());
        for bytes in [text.as_bytes(), &text.as_bytes()[..cut]] {
            match Logins::parse(bytes) {
                Ok(logins) => drop(logins.find(&key)),
                Err(problem) => prop_assert!(!problem.contains("hunter2")),
            }
        }
    }

    #[test]
    fn what_docker_writes_is_read(username in "[a-zA-Z0-9$_.-]{1,16}", password in "[ -~]{1,24}") {
        let auth = BASE64.encode(format!("{username}:{password}"));
        let json = serde_json::json!({ "auths": { "ghcr.io": { "auth": auth } } }).to_string();
        prop_assert_eq!(find(&json, "ghcr.io"), format!("{username}:{password}"));
    }
}
