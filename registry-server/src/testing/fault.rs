//! Faults that a fixture registry commits on request, and the gates it waits at.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use registry_core::Digest;
use tokio::sync::watch;

use super::stats::Object;

/// Which requests a fault befalls.
#[derive(Clone, Debug, Default)]
pub struct Match {
    target: Target,
    method: Option<Method>,
    /// Whether a part is asked for.
    part: Option<bool>,
}

#[derive(Clone, Debug, Default)]
enum Target {
    #[default]
    Any,
    Object(Object),
    /// A last path component: a tag or a digest.
    Reference(Object, String),
}

impl Match {
    /// Every request.
    pub fn any() -> Self {
        Self::default()
    }

    /// Every request for this kind of thing.
    pub fn object(object: Object) -> Self {
        Self {
            target: Target::Object(object),
            ..Self::default()
        }
    }

    /// The registry's answers for this blob; not those of its storage, to which it may redirect.
    pub fn blob(digest: Digest) -> Self {
        Self::reference(Object::Blob, digest.to_string())
    }

    /// The storage's answers for this blob, where the registry redirects to it.
    pub fn storage(digest: Digest) -> Self {
        Self::reference(Object::Storage, digest.to_string())
    }

    /// This manifest, asked for by digest.
    pub fn manifest(digest: Digest) -> Self {
        Self::reference(Object::ManifestByDigest, digest.to_string())
    }

    /// Any manifest that is asked for by this tag.
    pub fn tag(tag: &str) -> Self {
        Self::reference(Object::ManifestByTag, tag.to_owned())
    }

    /// Only requests of this method.
    pub fn with_method(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }

    /// Only requests for a part, by `Range`.
    pub fn parts(mut self) -> Self {
        self.part = Some(true);
        self
    }

    /// Only requests for the whole of it.
    pub fn wholes(mut self) -> Self {
        self.part = Some(false);
        self
    }

    fn reference(object: Object, reference: String) -> Self {
        Self {
            target: Target::Reference(object, reference),
            ..Self::default()
        }
    }

    fn fits(&self, method: &Method, object: Object, path: &str, part: bool) -> bool {
        let method_fits = self.method.as_ref().is_none_or(|wanted| wanted == method);
        method_fits
            && self.part.is_none_or(|wanted| wanted == part)
            && match &self.target {
                Target::Any => true,
                Target::Object(wanted) => *wanted == object,
                Target::Reference(wanted, reference) => {
                    *wanted == object && path.rsplit('/').next() == Some(reference)
                }
            }
    }
}

/// How often a fault is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// For the next request that fits.
    Once,
    /// For the next so many.
    Next(u32),
    /// Until [`clear_faults`](super::FixtureRegistry::clear_faults).
    Always,
}

/// What goes wrong. Offsets and counts of bytes are those of the body that is sent: of the part,
/// where a range was asked for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// Another answer, whole and well-formed, in place of the right one. A `Content-Length` is
    /// added where the headers have none.
    Answer {
        /// Status code.
        status: u16,
        /// Headers.
        headers: Vec<(String, String)>,
        /// Body; not sent to a HEAD.
        body: Bytes,
    },
    /// The right answer with these headers in place of, or besides, its own.
    Headers(Vec<(String, String)>),
    /// The right length, with one byte flipped.
    WrongBytes {
        /// Which one.
        offset: u64,
    },
    /// An orderly end (FIN) after so many bytes, under the right `Content-Length`.
    Short {
        /// Bytes sent before.
        after: u64,
    },
    /// A connection reset (RST) after so many bytes. What the client has not read by then may be
    /// lost to it, as TCP has it.
    Reset {
        /// Bytes sent before.
        after: u64,
    },
    /// More bytes than there are, under a `Content-Length` that counts them.
    TooMany {
        /// How many more.
        extra: u64,
    },
    /// A `Content-Length` that is not the length of what follows: all of the right bytes, then
    /// an orderly end.
    WrongLength {
        /// The length declared.
        declared: u64,
    },
    /// Nothing more after so many bytes, on a connection that stays open.
    Stall {
        /// Bytes sent before.
        after: u64,
    },
    /// The body is held after its first bytes until the gate is opened; then it goes on.
    HoldAfter {
        /// Bytes sent before.
        bytes: u64,
        /// Opened by the test.
        gate: Gate,
    },
    /// The whole answer is held until the gate is opened.
    Hold {
        /// Opened by the test.
        gate: Gate,
    },
    /// After so many bytes, one at a time: always alive, and never done.
    Trickle {
        /// Bytes sent before.
        after: u64,
        /// Time before each further byte.
        interval: Duration,
    },
    /// The right body in a coding that nobody asked for (gzip), and a header that says so.
    Gzip,
    /// No answer at all, on a connection that stays open.
    BlackHole,
    /// The head of the answer comes a byte at a time.
    SlowHead {
        /// Time before each byte.
        interval: Duration,
    },
    /// An orderly end in place of an answer.
    Close,
    /// Something that is not HTTP in place of an answer, then an orderly end.
    Garbage,
    /// All of these of one answer: a body that is held at a gate and then cut, a 503 that is long
    /// in coming. One that ends the matter without an answer ends it before those after it.
    Several(Vec<Fault>),
}

impl Fault {
    /// An answer with this status, and the error document of the specification.
    pub fn status(status: u16) -> Self {
        Self::status_with(status, &[])
    }

    /// The same with headers: `Fault::status_with(429, &[("retry-after", "7")])`.
    pub fn status_with(status: u16, headers: &[(&str, &str)]) -> Self {
        let body = super::answer::error_document("UNKNOWN", "scripted by the test");
        Self::Answer {
            status,
            headers: owned(headers),
            body,
        }
    }

    /// The right answer with these headers in place of, or besides, its own.
    pub fn headers(headers: &[(&str, &str)]) -> Self {
        Self::Headers(owned(headers))
    }

    /// What is to go wrong with one answer, one by one.
    pub(crate) fn parts(self) -> Vec<Self> {
        match self {
            Self::Several(faults) => faults.into_iter().flat_map(Self::parts).collect(),
            fault => vec![fault],
        }
    }
}

fn owned(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = headers.iter();
    pairs
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The faults that are still to be committed, in the order they were given.
#[derive(Default)]
pub(crate) struct FaultQueue {
    entries: Vec<(Match, Times, Fault)>,
}

impl FaultQueue {
    pub(crate) fn push(&mut self, when: Match, times: Times, fault: Fault) {
        if times != Times::Next(0) {
            self.entries.push((when, times, fault));
        }
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// How many are left that were not to be committed for ever.
    pub(crate) fn left(&self) -> u64 {
        let times = self.entries.iter().map(|(_, times, _)| match times {
            Times::Once => 1,
            Times::Next(times) => u64::from(*times),
            Times::Always => 0,
        });
        times.sum()
    }

    /// The first fault that fits, taken out where this was its last time.
    pub(crate) fn take(
        &mut self,
        method: &Method,
        object: Object,
        path: &str,
        part: bool,
    ) -> Option<Fault> {
        let mut entries = self.entries.iter();
        let index = entries.position(|(when, _, _)| when.fits(method, object, path, part))?;
        let (_, times, fault) = &mut self.entries[index];
        match times {
            Times::Always => return Some(fault.clone()),
            Times::Next(left @ 2..) => {
                *left -= 1;
                return Some(fault.clone());
            }
            Times::Once | Times::Next(_) => {}
        }
        Some(self.entries.remove(index).2)
    }
}

/// Where a fixture waits until a test lets it go on. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Opens it, for all who wait and all who come.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub(crate) async fn opened(&self) {
        let mut receiver = self.0.subscribe();
        // The sender lives in `self`, so the only end of this wait is the gate's opening.
        let _ = receiver.wait_for(|open| *open).await;
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_befall_what_fits_and_as_often_as_they_say() {
        let digest = Digest::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
        let blob = format!("/v2/a/blobs/{digest}");
        let mut queue = FaultQueue::default();
        queue.push(
            Match::blob(digest).with_method(Method::GET),
            Times::Next(2),
            Fault::BlackHole,
        );
        queue.push(Match::any().parts(), Times::Once, Fault::BlackHole);
        queue.push(Match::tag("latest").wholes(), Times::Once, Fault::Close);
        queue.push(Match::object(Object::Blob), Times::Always, Fault::Garbage);
        assert_eq!(queue.left(), 4);
        let mut take = |method: Method, object, path: &str| {
            let fault = queue.take(&method, object, path, false)?;
            Some(format!("{fault:?}"))
        };
        let tag = "/v2/a/manifests/latest";
        for (method, object, path, fault) in [
            (
                Method::HEAD,
                Object::Blob,
                blob.as_str(),
                Some(Fault::Garbage),
            ),
            (Method::GET, Object::Blob, &blob, Some(Fault::BlackHole)),
            (Method::GET, Object::Storage, &blob, None),
            (Method::GET, Object::Blob, &blob, Some(Fault::BlackHole)),
            (Method::GET, Object::Blob, &blob, Some(Fault::Garbage)),
            (Method::GET, Object::ManifestByTag, tag, Some(Fault::Close)),
            (Method::GET, Object::ManifestByTag, tag, None),
        ] {
            let expected = fault.map(|fault| format!("{fault:?}"));
            assert_eq!(
                take(method.clone(), object, path),
                expected,
                "{method} {path}"
            );
        }
        assert_eq!(queue.left(), 1);
        let part = queue.take(&Method::GET, Object::Blob, &blob, true);
        assert!(matches!(part, Some(Fault::BlackHole)), "{part:?}");
        assert_eq!(queue.left(), 0);
        queue.clear();
        assert!(
            queue
                .take(&Method::GET, Object::Blob, &blob, false)
                .is_none()
        );
    }
}
