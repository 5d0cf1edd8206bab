//! What a fixture registry was asked and what it sent.

use std::collections::HashMap;

use http::Method;
use registry_core::Digest;

/// Requests kept in full; further ones are counted only (I8).
pub(crate) const REQUESTS_KEPT_MAX: usize = 65_536;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Object {
    /// `/v2/`.
    Ping,
    /// A manifest by tag.
    ManifestByTag,
    /// A manifest by digest.
    ManifestByDigest,
    /// A blob, asked of the registry.
    Blob,
    /// A blob, asked of the storage that the registry redirects to.
    Storage,
    /// A list of tags.
    Tags,
    /// A list of referrers.
    Referrers,
    /// A token.
    Token,
    /// Anything else.
    Other,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// What it is for.
    pub object: Object,
    /// Its method.
    pub method: Method,
    /// Its path, without the query.
    pub path: String,
    /// Its query, where it has one.
    pub query: Option<String>,
    /// Its headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body, where it has one.
    pub body: String,
    /// Whether the client has shown the certificate that it may show over HTTPS.
    pub client_certificate: bool,
    /// The status it was answered with; none yet, or never.
    pub status: Option<u16>,
}

impl Recorded {
    /// The value of a header, its name in lower case; the first of several.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(candidate, _)| candidate == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Its `Range` header.
    pub fn range(&self) -> Option<&str> {
        self.header("range")
    }
}

/// Counters of a fixture registry at one moment.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Requests that came, by method and object.
    pub(crate) counts: HashMap<(Method, Object), u64>,
    /// Bytes of each blob that were sent, by the registry or its storage.
    pub(crate) blob_bytes: HashMap<Digest, u64>,
    /// Bytes of bodies that were sent, errors included.
    pub body_bytes_sent: u64,
    /// Requests that are being answered now.
    pub in_flight: u64,
    /// The highest [`Self::in_flight`] there was.
    pub in_flight_max: u64,
    /// Connections that were accepted.
    pub connections: u64,
}

impl Stats {
    /// How many requests of this kind came.
    pub fn count(&self, method: Method, object: Object) -> u64 {
        let count = self.counts.get(&(method, object));
        count.copied().unwrap_or_default()
    }

    /// How many requests came.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// How many bytes of this blob were sent, by the registry or its storage.
    pub fn blob_bytes_sent(&self, digest: &Digest) -> u64 {
        self.blob_bytes.get(digest).copied().unwrap_or_default()
    }

    /// Begins anew, with what is still under way.
    pub(crate) fn reset(&mut self) {
        *self = Self {
            in_flight: self.in_flight,
            in_flight_max: self.in_flight,
            ..Self::default()
        };
    }
}
