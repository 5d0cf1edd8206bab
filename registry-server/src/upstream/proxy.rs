//! Which proxy a request goes through, and which go direct.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{NoProxy, Proxy};
use url::Url;

/// A proxy. Its credentials, where the URL has any, are used and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(Url);

/// Why a text is no proxy's URL: without the text, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProxyUrlError(&'static str);

impl ProxyUrl {
    /// Scheme, host and port.
    fn authority(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        match self.0.port() {
            Some(port) => format!("{}://{host}:{port}", self.0.scheme()),
            None => format!("{}://{host}", self.0.scheme()),
        }
    }
}

impl FromStr for ProxyUrl {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, ProxyUrlError> {
        let refuse = |problem| Err(ProxyUrlError(problem));
        let Ok(url) = Url::parse(text) else {
            return refuse("it is not a URL");
        };
        if !matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h") {
            return refuse("its scheme is none of http, https, socks5 and socks5h");
        }
        if url.host_str().is_none_or(str::is_empty) {
            return refuse("it has no host");
        }
        let bare = matches!(url.path(), "" | "/") && url.query().is_none();
        if !bare || url.fragment().is_some() {
            return refuse("it has something after the host and port");
        }
        // The client goes direct where it cannot make sense of a proxy.
        let matcher = Matcher::builder().all(url.as_str()).build();
        if matcher.intercept(&Uri::from_static("https://a/")).is_none() {
            return refuse("it is not one that can be used");
        }
        Ok(Self(url))
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority())
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let credentials = !self.0.username().is_empty() || self.0.password().is_some();
        let note = if credentials { " with credentials" } else { "" };
        write!(f, "{}{note}", self.authority())
    }
}

/// The proxies of an upstream: which URLs go through which, and which go direct. The default is
/// none.
///
/// Requests to `https` URLs go through a tunnel that the proxy sees no content of. A proxy that is
/// itself reached by `https` is verified as the upstream is, and is shown the same client's
/// certificate, where it asks for one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<ProxyUrl>,
    https: Option<ProxyUrl>,
    /// As [`Self::except`] takes them.
    except: Vec<String>,
}

impl Proxies {
    /// One proxy for everything.
    pub fn all(proxy: ProxyUrl) -> Self {
        Self::by_scheme(Some(proxy.clone()), Some(proxy))
    }

    /// A proxy for `http` URLs, and one for `https` URLs.
    pub fn by_scheme(http: Option<ProxyUrl>, https: Option<ProxyUrl>) -> Self {
        Self {
            http,
            https,
            except: Vec::new(),
        }
    }

    /// Goes direct to these: a domain with all below it, an address, a network as in `10.0.0.0/8`,
    /// or `*` for all. In place of those that were given before.
    pub fn except(mut self, hosts: impl IntoIterator<Item = String>) -> Self {
        let hosts = hosts.into_iter().map(|host| {
            let host = host.trim().to_ascii_lowercase();
            // How many write it, and the client does not understand.
            host.strip_prefix("*.")
                .map(ToOwned::to_owned)
                .unwrap_or(host)
        });
        self.except = hosts.filter(|host| !host.is_empty()).collect();
        self
    }

    /// Whether nothing goes through a proxy.
    pub fn is_direct(&self) -> bool {
        self.http.is_none() && self.https.is_none()
    }

    /// The same for the client.
    pub(super) fn for_client(&self) -> Result<Vec<Proxy>, reqwest::Error> {
        let except = self.except.join(",");
        let http = self.http.iter().map(|proxy| Proxy::http(proxy.0.clone()));
        let https = self.https.iter().map(|proxy| Proxy::https(proxy.0.clone()));
        let proxies = http.chain(https);
        proxies
            .map(|proxy| Ok(proxy?.no_proxy(NoProxy::from_string(&except))))
            .collect()
    }

    /// The hosts of the proxies.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &str> {
        let proxies = self.http.iter().chain(&self.https);
        proxies.filter_map(|proxy| proxy.0.host_str())
    }

    /// Which URLs go through a proxy, as the client sees it; none where none does.
    pub(super) fn matcher(&self) -> Option<ProxyMatcher> {
        if self.is_direct() {
            return None;
        }
        let text = |proxy: &Option<ProxyUrl>| match proxy {
            Some(proxy) => proxy.0.as_str().to_owned(),
            None => String::new(),
        };
        let matcher = Matcher::builder()
            .http(text(&self.http))
            .https(text(&self.https))
            .no(self.except.join(","))
            .build();
        Some(ProxyMatcher(matcher))
    }
}

/// Tells which URLs go through a proxy.
pub(super) struct ProxyMatcher(Matcher);

impl ProxyMatcher {
    pub(super) fn is_proxied(&self, url: &Url) -> bool {
        // Scheme and host decide; the rest may be no `Uri`.
        let origin = url.origin().ascii_serialization();
        let origin = origin.parse::<Uri>();
        origin.is_ok_and(|origin| self.0.intercept(&origin).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_proxies_are_told_from_others_and_never_shown_whole() {
        for (text, shown) in [
            ("http://proxy:3128", Some("http://proxy:3128")),
            (
                "http://proxy.example.org/",
                Some("http://proxy.example.org"),
            ),
            ("HTTPS://me:secret@proxy", Some("https://proxy")),
            ("socks5://10.0.0.1:1080", Some("socks5://10.0.0.1:1080")),
            ("socks5h://me:secret@proxy", Some("socks5h://proxy")),
            ("http://[::1]:3128", Some("http://[::1]:3128")),
            ("http://me:se%20cret@proxy", Some("http://proxy")),
            ("socks4://proxy", None),
            ("ftp://proxy", None),
            ("proxy:3128", None),
            ("proxy", None),
            ("", None),
            ("http://", None),
            ("socks5://", None),
            ("socks5:proxy", None),
            ("http://me:secret@proxy/path", None),
            ("http://me:secret@proxy?query", None),
            ("http://me:secret@proxy#fragment", None),
        ] {
            let parsed = text.parse::<ProxyUrl>();
            let told = match &parsed {
                Ok(proxy) => format!("{proxy} {proxy:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!told.contains("cret"), "{text}: {told}");
            let parsed = parsed.ok().map(|proxy| proxy.to_string());
            assert_eq!(parsed.as_deref(), shown, "{text}");
        }
    }

    #[test]
    fn what_goes_direct_is_known_beforehand() {
        let proxy = || Some("http://proxy:3128".parse().unwrap());
        let hosts = ["Example.org", "*.wild.test", "10.0.0.0/8", "::1", " "];
        let except = hosts.map(ToOwned::to_owned);
        let both = Proxies::by_scheme(proxy(), proxy()).except(except);
        let https = Proxies::by_scheme(None, proxy());
        for (url, by_both, by_https) in [
            ("https://ghcr.io/v2/", true, true),
            ("http://ghcr.io/v2/", true, false),
            ("https://example.org/a?b=%7b", false, true),
            ("https://sub.example.org:444/", false, true),
            ("https://notexample.org/", true, true),
            ("https://a.wild.test/", false, true),
            ("https://10.1.2.3/", false, true),
            ("https://11.1.2.3/", true, true),
            ("https://[::1]:8080/", false, true),
        ] {
            let url = Url::parse(url).unwrap();
            let is_proxied = |proxies: &Proxies| proxies.matcher().unwrap().is_proxied(&url);
            assert_eq!(is_proxied(&both), by_both, "{url}");
            assert_eq!(is_proxied(&https), by_https, "{url}");
        }
        assert!(Proxies::default().matcher().is_none());
    }
}
