//! Telling others what is asked of an upstream, and what comes: for metrics.

use std::fmt;
use std::time::Duration;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestKind {
    /// A manifest, or what a tag names.
    Manifest,
    /// A blob.
    Blob,
    /// A list of tags.
    Tags,
    /// A list of referrers.
    Referrers,
    /// A token, of the upstream's token server.
    Token,
    /// Whether an endpoint is well again.
    Probe,
}

impl RequestKind {
    /// Its name: a word in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::Token => "token",
            Self::Probe => "probe",
        }
    }
}

/// Someone who is told what is asked of one upstream, and what comes.
///
/// It is called on the way of every request, so it must neither wait nor call back. Endpoints are
/// told by their host, with the port and path where they have any.
pub trait UpstreamObserver: fmt::Debug + Send + Sync + 'static {
    /// A request has left, and the headers of its answer came with this status after `elapsed`; no
    /// status where no answer came, or nobody waited for it. Each hop of a redirect is a request.
    fn answered(&self, kind: RequestKind, status: Option<u16>, elapsed: Duration);

    /// Bytes of a body that answers a question have come.
    fn received(&self, bytes: u64);

    /// An endpoint is no longer asked but probed, or asked again.
    fn endpoint_turned(&self, endpoint: &str, is_well: bool);
}
