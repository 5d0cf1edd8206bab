//! Every request that leaves for an upstream, as it leaves: for tests that ask what went where.

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, Method};
use url::Url;

/// A log of all that is sent to upstreams, to their token servers, and to whom they redirect:
/// secrets included, which is what it is for. Clones share the log.
#[derive(Clone, Debug, Default)]
pub struct OutgoingLog(Arc<Mutex<Vec<Outgoing>>>);

/// A request that left.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Its method.
    pub method: Method,
    /// Where it went.
    pub url: Url,
    /// Its headers, with names in lower case, without those that the HTTP client adds.
    pub headers: Vec<(String, String)>,
    /// Its body, where it has one.
    pub body: String,
}

impl OutgoingLog {
    /// The requests so far, in the order in which they left.
    pub fn requests(&self) -> Vec<Outgoing> {
        self.lock().clone()
    }

    pub(crate) fn add(&self, method: &Method, url: &Url, headers: &HeaderMap, body: &[u8]) {
        let headers = headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.as_str().to_owned(), value.into_owned())
        });
        self.lock().push(Outgoing {
            method: method.clone(),
            url: url.clone(),
            headers: headers.collect(),
            body: String::from_utf8_lossy(body).into_owned(),
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Outgoing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
