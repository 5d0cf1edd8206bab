//! Challenges of registries (distribution, "Token Authentication Specification"), and which token
//! servers they may send us to.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use http_auth::parser::ChallengeParser;
use url::{Host, Url};

/// A request for a bearer token: where to get it, and for which service.
///
/// The scope that it may name is not kept: ours is always to pull from the repository at hand,
/// and some registries name placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) realm: Url,
    pub(super) service: Option<String>,
}

impl Challenge {
    /// The bearer challenge among those of a 401; there may be several, on one line or on many.
    pub(super) fn find(headers: &HeaderMap) -> Option<Self> {
        let lines = headers.get_all(WWW_AUTHENTICATE).iter();
        let lines = lines.filter_map(|line| line.to_str().ok());
        lines
            .flat_map(ChallengeParser::new)
            .filter_map(Result::ok)
            .filter(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"))
            .find_map(|challenge| {
                let parameter = |name: &str| {
                    let mut parameters = challenge.params.iter();
                    let found = parameters.find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                Some(Self {
                    realm: Url::parse(&parameter("realm")?).ok()?,
                    service: parameter("service").filter(|service| !service.is_empty()),
                })
            })
    }

    /// The URL that gives a token to pull from `repository`.
    pub(super) fn token_url(&self, repository: &str) -> Url {
        let mut url = self.realm.clone();
        url.set_fragment(None);
        let mut query = url.query_pairs_mut();
        if let Some(service) = &self.service {
            query.append_pair("service", service);
        }
        query.append_pair("scope", &format!("repository:{repository}:pull"));
        drop(query);
        url
    }
}

/// Whether an upstream at `endpoint` may send us to `realm` for its tokens: a registry that could
/// send us anywhere would be told our credentials (CVE-2026-33540) and what is in our network.
///
/// To its own host, to one under the same registrable domain, and to those listed by hand; over
/// HTTPS, but for a registry that is itself spoken to in plain HTTP, and for its own host.
pub(super) fn realm_is_bound(endpoint: &Url, realm: &Url, listed: &[String]) -> bool {
    let (Some(ours), Some(theirs)) = (endpoint.host(), realm.host()) else {
        return false;
    };
    if !realm.username().is_empty() || realm.password().is_some() {
        return false;
    }
    match realm.scheme() {
        "https" => ours == theirs || same_domain(&ours, &theirs) || is_listed(realm, listed),
        "http" => endpoint.scheme() == "http" && ours == theirs,
        _ => false,
    }
}

/// Whether both hosts are names under one registrable domain, by the public suffix list. A name
/// under a suffix that is not on it, such as those within a cluster, has none: who owns it is
/// unknown.
fn same_domain(one: &Host<&str>, other: &Host<&str>) -> bool {
    let registrable = |host: &Host<&str>| {
        let Host::Domain(name) = host else {
            return None;
        };
        let domain = psl::domain(name.as_bytes())?;
        domain
            .suffix()
            .is_known()
            .then(|| domain.as_bytes().to_vec())
    };
    registrable(one).is_some_and(|domain| registrable(other) == Some(domain))
}

/// Whether the realm's host is listed, as such or with its port.
pub(super) fn is_listed(realm: &Url, listed: &[String]) -> bool {
    let Some(host) = realm.host_str() else {
        return false;
    };
    listed.iter().any(|entry| {
        let with_port = realm
            .port_or_known_default()
            .map(|port| format!("{host}:{port}"));
        entry.eq_ignore_ascii_case(host)
            || with_port.is_some_and(|with_port| entry.eq_ignore_ascii_case(&with_port))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn find(lines: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(line).unwrap());
        }
        Challenge::find(&headers)
    }

    #[test]
    fn the_bearer_challenge_is_found_however_it_is_written() {
        let hub = ("https://auth.docker.io/token", Some("registry.docker.io"));
        for (lines, expected) in [
            (
                &[concat!(
                    r#"Bearer realm="https://auth.docker.io/token","#,
                    r#"service="registry.docker.io",scope="repository:library/app:pull""#
                )][..],
                hub,
            ),
            (
                &[r#"bearer SERVICE=registry.docker.io, Realm="https://auth.docker.io/token""#],
                hub,
            ),
            (
                &[concat!(
                    r#"Basic realm="a, Bearer realm=b", "#,
                    r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io""#
                )],
                hub,
            ),
            (
                &[
                    r#"Basic realm="x""#,
                    r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io""#,
                ],
                hub,
            ),
            (
                &[r#"Bearer realm="https://nvcr.io/proxy_auth",scope="""#],
                ("https://nvcr.io/proxy_auth", None),
            ),
            (
                &[r#"Bearer realm="https://a.example/t\"x",service="a,b=\"c""#],
                ("https://a.example/t%22x", Some("a,b=\"c")),
            ),
        ] {
            let challenge = find(lines).unwrap();
            let service = challenge.service.as_deref();
            assert_eq!((challenge.realm.as_str(), service), expected, "{lines:?}");
        }
    }

    #[test]
    fn what_is_no_bearer_challenge_is_none() {
        for lines in [
            &[][..],
            &[""],
            &["Bearer"],
            &["Basic realm=\"https://a.example/\""],
            &["Bearer service=\"a\""],
            &["Bearer realm=\"not a URL\""],
            &["Bearer realm=\"https://a.example/"],
            &["=,=,="],
        ] {
            assert_eq!(find(lines), None, "{lines:?}");
        }
    }

    #[test]
    fn the_scope_is_to_pull_from_the_repository_and_the_realm_keeps_its_query() {
        let challenge = find(&[r#"Bearer realm="https://a.example/t/?x=1",service="a b""#]);
        assert_eq!(
            challenge.unwrap().token_url("library/app").as_str(),
            "https://a.example/t/?x=1&service=a+b&scope=repository%3Alibrary%2Fapp%3Apull"
        );
    }

    #[test]
    fn realms_are_bound_to_their_registry() {
        let listed = [
            "auth.example.org".to_owned(),
            "id.example.org:8443".to_owned(),
        ];
        for (endpoint, realm, bound) in [
            (
                "https://registry-1.docker.io",
                "https://auth.docker.io/token",
                true,
            ),
            ("https://ghcr.io", "https://ghcr.io/token", true),
            (
                "https://registry.gitlab.com",
                "https://gitlab.com/jwt/auth",
                true,
            ),
            (
                "https://registry.example.com:5000",
                "https://registry.example.com/t",
                true,
            ),
            ("https://10.0.0.1:5000", "https://10.0.0.1/t", true),
            ("http://10.0.0.1:5000", "http://10.0.0.1:5001/t", true),
            ("http://10.0.0.1:5000", "https://10.0.0.1/t", true),
            ("https://registry.test", "https://auth.example.org/t", true),
            (
                "https://registry.test",
                "https://AUTH.example.org:443/t",
                true,
            ),
            (
                "https://registry.test",
                "https://id.example.org:8443/t",
                true,
            ),
            ("https://registry.test", "https://id.example.org/t", false),
            (
                "https://registry-1.docker.io",
                "https://auth.docker.io.evil.test/t",
                false,
            ),
            (
                "https://registry-1.docker.io",
                "http://auth.docker.io/token",
                false,
            ),
            (
                "https://registry-1.docker.io",
                "https://169.254.169.254/",
                false,
            ),
            (
                "https://registry.a.co.uk",
                "https://registry.b.co.uk/t",
                false,
            ),
            ("https://one.github.io", "https://two.github.io/t", false),
            ("https://10.0.0.1", "https://10.0.0.2/t", false),
            (
                "https://registry.a.svc.cluster.local",
                "https://b.svc.cluster.local/t",
                false,
            ),
            ("https://localhost", "https://auth.localhost/t", false),
            (
                "http://registry.example.com",
                "http://auth.example.com/t",
                false,
            ),
            (
                "https://registry.example.com",
                "http://registry.example.com/t",
                false,
            ),
            (
                "https://registry.example.com",
                "https://a:b@registry.example.com/t",
                false,
            ),
            (
                "https://registry.example.com",
                "ftp://registry.example.com/t",
                false,
            ),
            ("https://registry.example.com", "data:,x", false),
        ] {
            let parse = |text| Url::parse(text).unwrap();
            let answer = realm_is_bound(&parse(endpoint), &parse(realm), &listed);
            assert_eq!(answer, bound, "{endpoint} {realm}");
        }
    }
}
