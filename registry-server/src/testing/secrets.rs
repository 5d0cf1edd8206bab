//! Whether what is secret went anywhere but where it belongs: a search through an
//! [`OutgoingLog`](super::OutgoingLog).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use percent_encoding::percent_decode_str;

use super::{Outgoing, OutgoingLog};

/// Texts that only some hosts may see, in every form that they travel in: plain, percent-encoded,
/// and encoded for Basic authentication.
///
/// Hosts are given as `HOST:PORT`, also where the port is the scheme's own.
///
/// ```
/// use registry_server::testing::{OutgoingLog, Secrets};
///
/// let log = OutgoingLog::default();
/// // … pull through a mirror that writes this log, and then:
/// Secrets::account("mirror", "pa55word").token("t0ken").assert_nowhere(&log);
/// ```
#[derive(Clone, Default)]
pub struct Secrets {
    needles: Vec<String>,
}

impl Secrets {
    /// A password, and the user's name that it is sent with.
    pub fn account(username: &str, password: &str) -> Self {
        let basic = STANDARD.encode(format!("{username}:{password}"));
        let encoded = [STANDARD.encode(password), URL_SAFE_NO_PAD.encode(password)];
        let needles = [password.to_owned(), basic].into_iter().chain(encoded);
        Self {
            needles: needles.collect(),
        }
    }

    /// These, and a token.
    pub fn token(mut self, token: &str) -> Self {
        self.needles.push(token.to_owned());
        self
    }

    /// # Panics
    ///
    /// Where a request to another host carries one of these, wherever in it; and where none at all
    /// does: then the scenario has nothing to leak, and proves nothing.
    #[track_caller]
    pub fn assert_only_at(&self, log: &OutgoingLog, hosts: &[&str]) {
        let at_home = self.assert_at_most_at(log, hosts);
        assert!(at_home > 0, "no secret was sent to any of {hosts:?}");
    }

    /// How many requests to these hosts carry one of these. For one of many scenarios, some of
    /// which must have something to leak.
    ///
    /// # Panics
    ///
    /// Where a request to another host carries one.
    #[track_caller]
    pub fn assert_at_most_at(&self, log: &OutgoingLog, hosts: &[&str]) -> usize {
        let (at_home, leaked): (Vec<_>, Vec<_>) = self
            .carriers(log)
            .into_iter()
            .partition(|request| hosts.contains(&host_of(request).as_str()));
        assert!(leaked.is_empty(), "a secret left for elsewhere: {leaked:?}");
        at_home.len()
    }

    /// # Panics
    ///
    /// Where any request carries one of these.
    #[track_caller]
    pub fn assert_nowhere(&self, log: &OutgoingLog) {
        let leaked = self.carriers(log);
        assert!(leaked.is_empty(), "a secret left: {leaked:?}");
    }

    /// # Panics
    ///
    /// Where a text has one of these.
    #[track_caller]
    pub fn assert_not_in(&self, text: &str) {
        assert!(!self.needles.is_empty(), "name a secret to look for");
        assert!(!self.are_in(text), "a secret was told: {text}");
    }

    fn carriers(&self, log: &OutgoingLog) -> Vec<Outgoing> {
        assert!(!self.needles.is_empty(), "name a secret to look for");
        let mut requests = log.requests();
        requests.retain(|request| self.is_carried_by(request));
        requests
    }

    fn is_carried_by(&self, request: &Outgoing) -> bool {
        let headers = request.headers.iter();
        let texts = headers
            .flat_map(|(name, value)| [name.as_str(), value])
            .chain([request.url.as_str(), &request.body]);
        texts.into_iter().any(|text| self.are_in(text))
    }

    fn are_in(&self, text: &str) -> bool {
        // As a form writes a space, which no decoder of URLs reads as one.
        let spaced = text.replace('+', " ");
        let decoded = [text, &spaced].map(|text| percent_decode_str(text).decode_utf8_lossy());
        self.needles
            .iter()
            .any(|needle| text.contains(needle) || decoded.iter().any(|t| t.contains(needle)))
    }
}

/// `HOST:PORT` of where a request went.
fn host_of(request: &Outgoing) -> String {
    let host = request.url.host_str().unwrap_or_default();
    let port = request.url.port_or_known_default().unwrap_or_default();
    format!("{host}:{port}")
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use http::{HeaderMap, HeaderValue, Method};

    use super::*;

    const HOME: &str = "registry.example:443";

    fn account() -> Secrets {
        Secrets::account("mirror", "p&ss word+1")
    }

    fn log(url: &str, authorization: &str, body: &str) -> OutgoingLog {
        let log = OutgoingLog::default();
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_str(authorization).unwrap();
        headers.insert("authorization", value);
        let url = url.parse().unwrap();
        log.add(&Method::GET, &url, &headers, body.as_bytes());
        log
    }

    /// Everywhere that a secret can be in a request.
    fn carriers(host: &str) -> Vec<OutgoingLog> {
        let url = format!("https://{host}/v2/");
        let basic = "Basic bWlycm9yOnAmc3Mgd29yZCsx";
        vec![
            log(&url, basic, ""),
            log(&url, "Other p&ss word+1", ""),
            log(&url, "Other cCZzcyB3b3JkKzE=", ""),
            log(&url, "", "password=p%26ss+word%2B1&grant_type=password"),
            log(&url, "", r#"{"password":"p&ss word+1"}"#),
            log(&format!("{url}?password=p%26ss%20word%2B1"), "", ""),
            log(&format!("https://u:p%26ss%20word+1@{host}/"), "", ""),
        ]
    }

    #[test]
    fn a_secret_is_found_wherever_it_is() {
        for (number, log) in carriers("elsewhere.example").iter().enumerate() {
            let found = catch_unwind(|| account().assert_only_at(log, &[HOME]));
            assert!(found.is_err(), "{number}: the leak is not seen");
            let found = catch_unwind(|| account().assert_nowhere(log));
            assert!(found.is_err(), "{number}: the leak is not seen");
        }
        for log in carriers("registry.example") {
            account().assert_only_at(&log, &["other.example:1", HOME]);
        }
        let log = log("https://registry.example:444/", "Bearer abc", "");
        let token = Secrets::default().token("abc");
        token.assert_only_at(&log, &["registry.example:444"]);
        let other_port = catch_unwind(|| token.assert_only_at(&log, &[HOME]));
        assert!(other_port.is_err(), "another port is another host");
    }

    #[test]
    fn a_secret_is_found_in_a_text() {
        account().assert_not_in("a text");
        for text in [
            "is p&ss word+1",
            "p%26ss+word%2B1",
            "bWlycm9yOnAmc3Mgd29yZCsx",
        ] {
            assert!(
                catch_unwind(|| account().assert_not_in(text)).is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn a_scenario_without_a_secret_proves_nothing() {
        let log = log("https://registry.example/v2/", "", "");
        account().assert_nowhere(&log);
        assert!(catch_unwind(|| account().assert_only_at(&log, &[HOME])).is_err());
        assert!(catch_unwind(|| Secrets::default().assert_nowhere(&log)).is_err());
    }
}
