//! Which endpoints of an upstream may be shown its credentials.

use registry_core::UpstreamId;
use url::Url;

use crate::upstream::address::is_plain_public;
use crate::upstream::realm::{is_listed, same_domain};
use crate::upstream::redirect::host_of;

/// Why credentials cannot be used with an upstream's endpoints.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EligibilityError {
    /// None of several endpoints may be shown them.
    #[error(
        "none of the endpoints is known to belong to {id}, so none would be shown its credentials: \
         list those that may see them, for example credential_hosts = [\"{example}\"]"
    )]
    None {
        /// The upstream.
        id: UpstreamId,
        /// The first endpoint's host.
        example: String,
    },
    /// One that may be shown them would be in the clear.
    #[error(
        "credentials would be sent to {host} in plain HTTP, across networks that others can read; \
         write its endpoint with https"
    )]
    Plain {
        /// The endpoint's host.
        host: String,
    },
}

/// Of each endpoint, whether it may be shown the credentials of the upstream `id`.
///
/// An upstream may be asked at mirrors of others, which must not learn what opens it; so beyond
/// the only endpoint there is, these are the ones whose host is under the registrable domain of
/// the upstream's name, all where they are all under one, and those that are listed.
pub(crate) fn eligible_endpoints(
    id: &UpstreamId,
    endpoints: &[Url],
    listed: &[String],
) -> Result<Vec<bool>, EligibilityError> {
    let named = Url::parse(&format!("https://{id}")).ok();
    let alike = endpoints.iter().all(|url| is_alike(&endpoints[0], url));
    let eligible: Vec<bool> = endpoints
        .iter()
        .map(|url| {
            alike
                || named.as_ref().is_some_and(|named| is_alike(named, url))
                || is_listed(url, listed)
        })
        .collect();
    for (url, _) in endpoints.iter().zip(&eligible).filter(|(_, may)| **may) {
        if is_plain_public(url) {
            let host = host_of(url);
            return Err(EligibilityError::Plain { host });
        }
    }
    if !endpoints.is_empty() && !eligible.contains(&true) {
        return Err(EligibilityError::None {
            id: id.clone(),
            example: host_of(&endpoints[0]),
        });
    }
    Ok(eligible)
}

/// Whether two URLs are at the same host, or under the same registrable domain.
fn is_alike(one: &Url, other: &Url) -> bool {
    match (one.host(), other.host()) {
        (Some(one), Some(other)) => one == other || same_domain(&one, &other),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eligible(id: &str, endpoints: &[&str], listed: &[&str]) -> Result<Vec<bool>, String> {
        let id = UpstreamId::parse(id).unwrap();
        let endpoints: Vec<Url> = endpoints.iter().map(|url| url.parse().unwrap()).collect();
        let listed: Vec<String> = listed.iter().copied().map(str::to_owned).collect();
        eligible_endpoints(&id, &endpoints, &listed).map_err(|error| error.to_string())
    }

    #[test]
    fn credentials_are_for_the_upstreams_own_endpoints() {
        const HUB: &str = "https://registry-1.docker.io";
        const GCR: &str = "https://mirror.gcr.io";
        for (id, endpoints, listed, expected) in [
            ("docker.io", &[HUB][..], &[][..], &[true][..]),
            ("docker.io", &[GCR], &[], &[true]),
            ("docker.io", &[GCR, HUB], &[], &[false, true]),
            ("docker.io", &[GCR, HUB], &["mirror.gcr.io"], &[true, true]),
            (
                "docker.io",
                &[GCR, HUB],
                &["mirror.gcr.io:443"],
                &[true, true],
            ),
            (
                "docker.io",
                &[GCR, HUB],
                &["mirror.gcr.io:444"],
                &[false, true],
            ),
            (
                "corp",
                &["https://a.example.org", "https://b.c.example.org:5000"],
                &[],
                &[true, true],
            ),
            (
                "corp",
                &["http://10.0.0.1:5000", "http://10.0.0.1:5001"],
                &[],
                &[true, true],
            ),
            (
                "registry.example.org:5000",
                &["https://registry.example.org:5000", "https://example.net"],
                &[],
                &[true, false],
            ),
            // Under a public suffix are many.
            (
                "one.github.io",
                &["https://one.github.io", "https://two.github.io"],
                &[],
                &[true, false],
            ),
            // What is not shown anything may be asked in the clear.
            (
                "docker.io",
                &["http://mirror.example.org", HUB],
                &[],
                &[false, true],
            ),
        ] {
            assert_eq!(
                eligible(id, endpoints, listed).as_deref(),
                Ok(expected),
                "{endpoints:?}"
            );
        }
    }

    #[test]
    fn credentials_that_would_go_nowhere_or_in_the_clear_are_refused() {
        for (endpoints, listed, wanted) in [
            (
                &["https://mirror.gcr.io", "https://hub.example.org"][..],
                &[][..],
                "credential_hosts = [\"mirror.gcr.io\"]",
            ),
            (
                &["https://10.0.0.1", "https://10.0.0.2:5000"],
                &[],
                "credential_hosts = [\"10.0.0.1\"]",
            ),
            (&["http://registry.example.org"], &[], "plain HTTP"),
            (&["http://8.8.8.8:5000"], &[], "8.8.8.8:5000"),
            (
                &["https://registry-1.docker.io", "http://hub.example.org"],
                &["hub.example.org"],
                "plain HTTP",
            ),
        ] {
            let problem = eligible("docker.io", endpoints, listed).unwrap_err();
            assert!(problem.contains(wanted), "{endpoints:?}: {problem}");
        }
        for endpoint in [
            "http://127.0.0.1:5000",
            "http://registry:5000",
            "http://r.svc",
        ] {
            assert_eq!(
                eligible("corp", &[endpoint], &[]),
                Ok(vec![true]),
                "{endpoint}"
            );
        }
    }
}
