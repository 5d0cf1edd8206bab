//! Which redirects are followed, and with what.
//!
//! The HTTP client follows none by itself: it keeps headers that it should drop, and cannot be
//! told where not to go.

use registry_core::UpstreamError;
use url::{Origin, Url};

use super::address::Reach;

/// Where a request goes.
#[derive(Clone, Debug)]
pub(super) struct Hop {
    /// The URL. It may hold a signature that is as good as a password: it is never logged, stored
    /// or told.
    pub(super) url: Url,
    /// It has always been on the endpoint's own scheme, host and port, so that it may carry what
    /// is secret between the endpoint and us. Once lost, this does not come back.
    pub(super) trusted: bool,
}

impl Hop {
    /// The beginning of a chain: a request to an endpoint itself.
    pub(super) fn first(url: Url) -> Self {
        Self { url, trusted: true }
    }

    /// Where a redirect leads from here.
    pub(super) fn next(&self, location: &str, reach: Reach) -> Result<Self, UpstreamError> {
        let refuse = |what: &str| UpstreamError::Protocol {
            what: format!("{} redirects {what}", host_of(&self.url)),
        };
        let mut url = (self.url.join(location)).map_err(|_| refuse("to what is no URL"))?;
        url.set_fragment(None);
        let Some(host) = url.host() else {
            return Err(refuse("to what is no host"));
        };
        match url.scheme() {
            "https" => {}
            "http" if self.url.scheme() == "http" => {}
            "http" => return Err(refuse("from https to http")),
            _ => return Err(refuse("to something other than http and https")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("to a URL with credentials"));
        }
        let trusted = self.trusted && same_origin(&self.url, &url);
        if !trusted && !reach.allows_host(&host) {
            return Err(out_of_reach(&self.url, &url));
        }
        Ok(Self { url, trusted })
    }
}

/// The refusal of a redirect for the address it leads to.
pub(super) fn out_of_reach(from: &Url, to: &Url) -> UpstreamError {
    UpstreamError::Protocol {
        what: format!(
            "{} redirects to {}, an address that it may not lead to: only registries at private \
             addresses may redirect to such, and none to link-local ones",
            host_of(from),
            host_of(to)
        ),
    }
}

/// Scheme, host and port.
pub(super) fn same_origin(one: &Url, other: &Url) -> bool {
    let is_tuple = matches!(one.origin(), Origin::Tuple(..));
    is_tuple && one.origin() == other.origin()
}

/// Host and port for a message: all of a URL that may be told.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: &str = "https://registry.example.org/v2/app/blobs/x";

    fn hop(from: &str, trusted: bool) -> Hop {
        Hop {
            url: Url::parse(from).unwrap(),
            trusted,
        }
    }

    #[test]
    fn redirects_are_followed_and_lose_trust_elsewhere() {
        for (location, url, trusted) in [
            ("/blobs/x", "https://registry.example.org/blobs/x", true),
            ("y?z", "https://registry.example.org/v2/app/blobs/y?z", true),
            (
                "https://registry.example.org:443/b#c",
                "https://registry.example.org/b",
                true,
            ),
            (
                "https://registry.example.org:444/b",
                "https://registry.example.org:444/b",
                false,
            ),
            (
                "//cdn.registry.example.org/b",
                "https://cdn.registry.example.org/b",
                false,
            ),
            (
                "https://cdn.example.net/b",
                "https://cdn.example.net/b",
                false,
            ),
        ] {
            let next = hop(FROM, true).next(location, Reach::Public).unwrap();
            assert_eq!(
                (next.url.as_str(), next.trusted),
                (url, trusted),
                "{location}"
            );
        }
    }

    #[test]
    fn trust_that_was_lost_does_not_come_back() {
        let storage = hop("https://cdn.example.net/b", false);
        for location in [FROM, "/c"] {
            assert!(!storage.next(location, Reach::Public).unwrap().trusted);
        }
    }

    #[test]
    fn some_redirects_are_refused() {
        for (from, location, reach) in [
            (FROM, "http://registry.example.org/b", Reach::Private),
            (FROM, "ftp://cdn.example.net/b", Reach::Private),
            (FROM, "file:///etc/passwd", Reach::Private),
            (FROM, "data:,x", Reach::Private),
            (
                FROM,
                "https://user:secret@cdn.example.net/b",
                Reach::Private,
            ),
            (FROM, "https://", Reach::Private),
            (FROM, "https://127.0.0.1/b", Reach::Public),
            (FROM, "https://[::ffff:10.0.0.1]/b", Reach::Public),
            (FROM, "https://169.254.169.254/b", Reach::Private),
            (
                "http://10.0.0.1/v2/",
                "http://169.254.169.254/b?secret",
                Reach::Private,
            ),
        ] {
            let refused = hop(from, true).next(location, reach).unwrap_err();
            assert!(
                matches!(refused, UpstreamError::Protocol { .. }),
                "{location}"
            );
            assert!(!refused.to_string().contains("secret"), "{refused}");
        }
    }

    #[test]
    fn a_private_registry_may_redirect_to_its_own_network() {
        let registry = hop("http://10.0.0.1:5000/v2/", true);
        for location in ["http://10.0.0.2/b", "http://127.0.0.1:9000/b", "/b"] {
            registry.next(location, Reach::Private).unwrap();
        }
        // To itself it may at any rate: that is where it was asked.
        assert!(registry.next("/b", Reach::Public).unwrap().trusted);
    }
}
