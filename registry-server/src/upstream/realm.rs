//! Whose token servers a registry may send us to, and which hosts are one organisation's.

use url::{Host, Url};

/// Whether an upstream at `endpoint` may send us to `realm` for its tokens: a registry that could
/// send us anywhere would tell our credentials to anybody (CVE-2026-33540), and learn what is in
/// our network.
///
/// To its own host, to one under the same registrable domain, and to those listed by hand; over
/// HTTPS, but for a registry that is itself spoken to in plain HTTP. That one may send us to its
/// own host and to those listed: whoever stands in between could name any other.
pub(super) fn realm_is_bound(endpoint: &Url, realm: &Url, listed: &[String]) -> bool {
    let (Some(ours), Some(theirs)) = (endpoint.host(), realm.host()) else {
        return false;
    };
    if !realm.username().is_empty() || realm.password().is_some() {
        return false;
    }
    match realm.scheme() {
        "https" => {
            let is_secure = endpoint.scheme() == "https";
            ours == theirs || is_secure && same_domain(&ours, &theirs) || is_listed(realm, listed)
        }
        "http" => endpoint.scheme() == "http" && ours == theirs,
        _ => false,
    }
}

/// Whether both hosts are names under one registrable domain, by the public suffix list. A name
/// under a suffix that is not on it, such as those within a cluster, has none: who owns it is
/// unknown.
pub(super) fn same_domain(one: &Host<&str>, other: &Host<&str>) -> bool {
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

/// Whether a URL's host is listed, as such or with its port.
pub(super) fn is_listed(url: &Url, listed: &[String]) -> bool {
    let Some(host) = url.host_str() else {
        return false;
    };
    listed.iter().any(|entry| {
        let with_port = url
            .port_or_known_default()
            .map(|port| format!("{host}:{port}"));
        entry.eq_ignore_ascii_case(host)
            || with_port.is_some_and(|with_port| entry.eq_ignore_ascii_case(&with_port))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
                "http://registry.example.com",
                "https://auth.example.com/t",
                false,
            ),
            ("http://registry.test", "https://auth.example.org/t", true),
            ("http://registry.test", "http://auth.example.org/t", false),
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
