//! Text into values. Each error says what the text is not, and shows one that is.

use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use registry_core::{RepositoryPattern, UpstreamId};
use registry_storage::Reserve;
use url::{Position, Url};

use super::{LogFilter, LogFormat};

pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "{text:?} is not an IP address and a port; write for example 127.0.0.1:5000, or \
             0.0.0.0:5000 to listen on every interface"
        )
    })
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| {
        format!("{text:?} is not a duration ({error}); write for example 0s, 30s, 5m or 1h 30m")
    })
}

/// A duration to wait at most for something: zero would never wait.
pub(super) fn budget(text: &str) -> Result<Duration, String> {
    let budget = duration(text)?;
    if budget.is_zero() {
        return Err(format!(
            "{text:?} leaves no time for an answer; write for example 3s"
        ));
    }
    Ok(budget)
}

pub(crate) fn upstream_id(text: &str) -> Result<UpstreamId, String> {
    UpstreamId::parse(text).map_err(|error| format!("{text:?} is {error}, for example ghcr.io"))
}

/// What is said in place of a text that may hold a secret.
const CREDENTIALS: &str = "the URL holds a username or password, which would end up in logs; \
                           remove it (an upstream's are written as username and password_file, in \
                           its table)";

/// `NS=URL[,URL…]`, the command line's form of an upstream.
pub(super) fn upstream(text: &str) -> Result<(UpstreamId, Vec<Url>), String> {
    // A password with a comma or an equals sign would be taken apart, and half of it quoted.
    parts_of_upstream(text).map_err(|problem| without_credentials(text, problem))
}

fn parts_of_upstream(text: &str) -> Result<(UpstreamId, Vec<Url>), String> {
    let Some((id, urls)) = text.split_once('=') else {
        return Err(format!(
            "{text:?} is not of the form NS=URL[,URL...]; write for example \
             registry.example.org=https://registry.example.org"
        ));
    };
    let id = upstream_id(id)?;
    let endpoints = urls.split(',').map(endpoint).collect::<Result<_, _>>()?;
    Ok((id, endpoints))
}

/// A problem with a text, which may quote it only where it is without credentials; also where it
/// is too wrong to tell what they are.
fn without_credentials(text: &str, problem: String) -> String {
    match text.contains('@') {
        true => CREDENTIALS.to_owned(),
        false => problem,
    }
}

/// The address of a registry, or of a mirror of it.
pub(crate) fn endpoint(text: &str) -> Result<Url, String> {
    http_url(text, "https://ghcr.io")
}

/// A URL that something answers at; a path may be part of it.
pub(crate) fn http_url(text: &str, example: &str) -> Result<Url, String> {
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
        _ => {
            let problem =
                format!("{text:?} is not an http or https URL; write for example {example}");
            return Err(without_credentials(text, problem));
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(CREDENTIALS.to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        // Without that part, which may be a key.
        let before = &url[..Position::AfterPath];
        return Err(format!(
            "{before:?} has a part after ? or #, which has no meaning here; write for example \
             {example}"
        ));
    }
    Ok(url)
}

/// A host that an upstream's tokens may come from.
pub(super) fn realm(text: &str) -> Result<String, String> {
    match UpstreamId::parse(text) {
        Ok(_) => Ok(text.to_ascii_lowercase()),
        Err(_) => Err(format!(
            "{text:?} is not a host name; write for example auth.example.org"
        )),
    }
}

/// The text that stands for an endless time.
const NEVER: &str = "never";

/// Bytes, always with a unit: a number alone is more often a mistake than meant.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let refused = |what: &str| {
        format!(
            "{text:?} is {what}; write for example 50GiB (powers of two: KiB, MiB, GiB, TiB) or \
             50GB (powers of ten: kB, MB, GB, TB)"
        )
    };
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refused("a size without a unit"));
    }
    match text.parse::<ByteSize>() {
        Ok(ByteSize(0)) => Err(refused("no room at all")),
        Ok(ByteSize(bytes)) => Ok(bytes),
        Err(_) => Err(refused("not a size")),
    }
}

/// A part of the disk, or bytes of it; 0 for nothing.
pub(crate) fn reserve(text: &str) -> Result<Reserve, String> {
    let refused =
        || format!("{text:?} is no part of a disk; write for example 5%, 20GiB, or 0% for nothing");
    if let Some(number) = text.strip_suffix('%') {
        let percent = number.trim_end().parse().ok();
        let percent = percent.filter(|percent| *percent < 100);
        return percent.map(Reserve::Percent).ok_or_else(refused);
    }
    size(text).map(Reserve::Bytes).map_err(|_| refused())
}

/// A whole number of percent, from 1 to 100.
pub(super) fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').map(str::trim_end);
    let percent = number.and_then(|number| number.parse().ok());
    percent
        .filter(|percent| (1..=100).contains(percent))
        .ok_or_else(|| format!("{text:?} is no part of max_size; write for example 95%"))
}

/// How long content is kept that nobody uses; as good as endless where it is `never`.
pub(super) fn idle(text: &str) -> Result<Duration, String> {
    Ok(idle_or_never(text)?.unwrap_or(Duration::MAX))
}

/// As [`idle`]; none where it is `never`.
pub(super) fn idle_or_never(text: &str) -> Result<Option<Duration>, String> {
    positive_or_never(text, "keeps nothing", "90d")
}

/// How long after one pass the next begins.
pub(super) fn every(text: &str) -> Result<Option<Duration>, String> {
    positive_or_never(text, "never ends", "30d")
}

fn positive_or_never(text: &str, zero: &str, example: &str) -> Result<Option<Duration>, String> {
    if text == NEVER {
        return Ok(None);
    }
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err(format!(
            "{text:?} {zero}; write for example {example}, or {NEVER}"
        )),
        Ok(duration) => Ok(Some(duration)),
        Err(error) => Err(format!(
            "{text:?} is not a duration ({error}); write for example {example}, or {NEVER}"
        )),
    }
}

/// A pattern of repositories of the upstream `id`, which must be able to match one.
pub(super) fn pattern(id: &UpstreamId, text: &str) -> Result<RepositoryPattern, String> {
    const EXAMPLE: &str = "write for example org/app, org/* or org/**";
    let refused = |what: &str| format!("{text:?} {what}; {EXAMPLE}");
    let pattern = RepositoryPattern::parse(text).map_err(|error| refused(&error.to_string()))?;
    match pattern.impossible() {
        Some(what) => Err(refused(&format!("can match no repository: {what}"))),
        None => Ok(pattern.at(id)),
    }
}

/// What is on or off, where the file would have a boolean.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is neither true nor false"))
}

/// Where traces are sent to.
pub(super) fn otlp_endpoint(text: &str) -> Result<Url, String> {
    if cfg!(not(feature = "otlp")) {
        let problem = "this build sends no traces: build it with --features otlp, or remove this";
        return Err(problem.to_owned());
    }
    http_url(text, "http://127.0.0.1:4318")
}

/// Whether an upstream's "not found" is passed on for a tag that is held here.
pub(super) fn on_not_found(text: &str) -> Result<bool, String> {
    match text {
        "stale" => Ok(false),
        "forward" => Ok(true),
        _ => Err(format!(
            "{text:?} is neither \"stale\" (serve what is held) nor \"forward\" (pass it on)"
        )),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{text:?} is not a log format; write text or json")),
    }
}

pub(super) fn log_filter(text: &str) -> Result<LogFilter, String> {
    LogFilter::parse(text).map_err(|error| {
        format!(
            "{error}; write off, error, warn, info, debug or trace, or for example info,access=off"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_may_have_several_endpoints() {
        let (id, endpoints) =
            upstream("Docker.IO=https://a.example,http://10.0.0.1:5000/hub").unwrap();
        assert_eq!(id.as_str(), "docker.io");
        let endpoints: Vec<_> = endpoints.iter().map(Url::as_str).collect();
        assert_eq!(
            endpoints,
            ["https://a.example/", "http://10.0.0.1:5000/hub"]
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let upstream = |text| upstream(text).map(drop);
        let endpoint = |text| endpoint(text).map(drop);
        let duration = |text| duration(text).map(drop);
        let budget = |text| budget(text).map(drop);
        let address = |text| address(text).map(drop);
        for (result, wanted) in [
            (upstream("ghcr.io"), "NS=URL"),
            (upstream("=https://ghcr.io"), "not the name of a registry"),
            (
                upstream("gh/cr=https://ghcr.io"),
                "not the name of a registry",
            ),
            (upstream("ghcr.io="), "\"\" is not an http or https URL"),
            (
                upstream("ghcr.io=https://a,"),
                "\"\" is not an http or https URL",
            ),
            (
                upstream("ghcr.io=ghcr.io"),
                "\"ghcr.io\" is not an http or https URL",
            ),
            (
                endpoint("ftp://x"),
                "\"ftp://x\" is not an http or https URL",
            ),
            (endpoint("ghcr.io:443"), "is not an http or https URL"),
            (endpoint("https://"), "is not an http or https URL"),
            (endpoint("https://a?b"), "after ? or #"),
            (endpoint("https://a#b"), "after ? or #"),
            (endpoint("https://me:secret@a"), "holds a username"),
            (endpoint("https://me@a"), "holds a username"),
            (endpoint("me:secret@a"), "holds a username"),
            (endpoint("https://me:secret@a:99999"), "holds a username"),
            (endpoint("https//me:secret@a"), "holds a username"),
            (endpoint("https://a?key=secret"), "after ? or #"),
            (upstream("https://me:secret@a"), "holds a username"),
            (upstream("a=https://me:secret,@a"), "holds a username"),
            (upstream("https://me:secret=@a"), "holds a username"),
            (duration("5"), "is not a duration"),
            (duration(""), "is not a duration"),
            (duration("-5s"), "is not a duration"),
            (duration("5 parsecs"), "is not a duration"),
            (budget("0s"), "no time for an answer"),
            (address(":5000"), "is not an IP address and a port"),
            (address("127.0.0.1"), "is not an IP address and a port"),
            (address("localhost:5000"), "is not an IP address and a port"),
            (
                address("127.0.0.1:65536"),
                "is not an IP address and a port",
            ),
        ] {
            let problem = result.unwrap_err();
            assert!(problem.contains(wanted), "{problem}");
            assert!(!problem.contains("secret"), "{problem}");
        }
    }
}
