//! The proxies of an upstream: its own keys, and the environment's variables for those without.

use std::ffi::OsString;
use std::net::IpAddr;

use super::document::Table;
use super::place::{Place, Problems, Written};
use crate::upstream::{Proxies, ProxyUrl, ProxyUrlError};

/// What one layer says of an upstream's proxies; also what the environment says of all of them.
#[derive(Debug, Default)]
pub(super) struct ProxyLayer {
    proxies: Option<Proxies>,
    /// Whom to go direct to.
    except: Option<Vec<String>>,
}

impl ProxyLayer {
    pub(super) fn read(table: &mut Table<'_>, problems: &mut Problems) -> Self {
        Self {
            proxies: table.parsed("proxy", problems, proxy),
            except: table.list("no_proxy", problems, exception),
        }
    }

    pub(super) fn or(self, below: Self) -> Self {
        Self {
            proxies: self.proxies.or(below.proxies),
            except: self.except.or(below.except),
        }
    }

    /// The proxies in effect: the environment's, exceptions included, where an upstream has no
    /// `proxy` of its own.
    pub(super) fn over(self, environment: &Self) -> Proxies {
        let (proxies, except) = match self.proxies {
            Some(proxies) => (proxies, None),
            None => (
                environment.proxies.clone().unwrap_or_default(),
                environment.except.clone(),
            ),
        };
        proxies.except(self.except.or(except).unwrap_or_default())
    }
}

/// Reads the variables that most programs understand. Those in upper case go before those in lower
/// case; one that is empty counts as not set.
pub(super) fn environment(
    lookup: impl Fn(&'static str) -> Option<OsString>,
    problems: &mut Problems,
) -> ProxyLayer {
    let mut text = |names: [&'static str; 2]| {
        let mut set = names
            .into_iter()
            .filter_map(|name| Some((name, lookup(name)?)));
        let (name, value) = set.find(|(_, value)| !value.is_empty())?;
        let place = Place::Variable(name);
        match value.into_string() {
            Ok(value) => Some(Written::new(value, place)),
            Err(_) => {
                problems.add(place, "is not UTF-8 text");
                None
            }
        }
    };
    let all = text(["ALL_PROXY", "all_proxy"]);
    let http = text(["HTTP_PROXY", "http_proxy"]);
    let https = text(["HTTPS_PROXY", "https_proxy"]);
    let except = text(["NO_PROXY", "no_proxy"]);
    let mut proxy = |text: Option<Written<String>>| Some(text?.parse(problems, variable)?.value);
    let (all, http, https) = (proxy(all), proxy(http), proxy(https));
    ProxyLayer {
        proxies: Some(Proxies::by_scheme(
            http.or_else(|| all.clone()),
            https.or(all),
        )),
        // Others write into it what is of no use here: that is no reason not to start.
        except: except.map(|except| except.value.split(',').map(ToOwned::to_owned).collect()),
    }
}

const EXAMPLE: &str =
    "write for example http://proxy.example.org:3128 or socks5h://proxy.example.org:1080";

fn proxy(text: &str) -> Result<Proxies, String> {
    if text == "direct" {
        return Ok(Proxies::default());
    }
    let proxy = text.parse().map(Proxies::all);
    // Without the text, which may hold a password.
    proxy.map_err(|problem| format!("no proxy: {problem}; {EXAMPLE}, or direct to use none"))
}

/// As most programs do, takes a host and port for those of an HTTP proxy.
fn variable(text: &str) -> Result<ProxyUrl, String> {
    let parsed = if text.contains("://") {
        text.parse()
    } else {
        format!("http://{text}").parse()
    };
    parsed.map_err(|problem: ProxyUrlError| {
        format!("no proxy: {problem}; {EXAMPLE}, or set the upstream's `proxy`")
    })
}

/// One that would match nothing is a mistake.
fn exception(text: &str) -> Result<String, String> {
    let strange = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    let name = text.strip_prefix("*.").or(text.strip_prefix('.'));
    let name = name.unwrap_or(text);
    let is_domain = !name.is_empty() && !name.contains(strange);
    if text == "*" || is_domain || is_network(text) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is neither a domain nor an address nor a network; write for example \
         example.org, 10.0.0.1 or 10.0.0.0/8, without scheme and port"
    ))
}

/// An address, or a network as in `10.0.0.0/8`.
fn is_network(text: &str) -> bool {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, length.parse::<u8>().ok()),
        None => (text, Some(0)),
    };
    match address.parse() {
        Ok(IpAddr::V4(_)) => length.is_some_and(|length| length <= 32),
        Ok(IpAddr::V6(_)) => length.is_some_and(|length| length <= 128),
        Err(_) => false,
    }
}
