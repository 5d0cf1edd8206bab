//! The access log: one event for each request, when its answer has ended or the client has left.
//! What ends is counted there too.
//!
//! It tells no credentials, no header but `User-Agent` and `Range`, and of a query only `ns`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{RANGE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use registry_core::{Reference, Repository, UpstreamId};
use tracing::{Span, info};

use super::answer::Came;
use super::body::BodyError;
use super::error::chain;
use super::wire::Marks;
use crate::metrics::{Answers, Ended, Named, Side};
use crate::trace::RequestTrace;

/// Longest text of a client's that is logged, in bytes.
const CLIENT_TEXT_BYTES_MAX: usize = 128;

/// Status of a request whose client left before there was an answer, as other servers log it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// What is told of one request. Dropping it tells it.
#[derive(Debug)]
pub(super) struct Access {
    marks: Arc<Marks>,
    told: Arc<Told>,
    trace: RequestTrace,
    entry: Entry,
    progress: Progress,
}

/// To whom the requests of a connection are told, and how.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) client: SocketAddr,
    pub(super) answers: Answers,
    /// Whether they are logged.
    pub(super) logged: bool,
    /// What those are counted under that are not routed.
    pub(super) route: &'static str,
}

/// What a request asked, and what was made of it. As it is: it becomes text where somebody wants to
/// read it.
#[derive(Debug)]
pub(crate) struct Entry {
    started: Instant,
    client: SocketAddr,
    method: Method,
    user_agent: Option<HeaderValue>,
    range: Option<HeaderValue>,
    pub(super) route: &'static str,
    pub(super) upstream: Option<UpstreamId>,
    /// Whether it named one that is not configured.
    pub(super) upstream_is_unknown: bool,
    pub(super) repository: Option<Repository>,
    pub(super) reference: Option<Reference>,
    pub(super) came: Option<Came>,
    /// How long ago the upstream had confirmed what is served.
    pub(super) age: Option<Duration>,
    pub(super) error: Option<String>,
    status: u16,
}

/// How much of an answer has left.
#[derive(Debug, Default)]
struct Progress {
    /// Bytes that the body is to have; `None` until there is one.
    expected: Option<u64>,
    /// Bytes of it that hyper was given.
    handed: u64,
    /// How long it took until it was given the first of them, or the headers where there are none.
    first_byte: Option<Duration>,
    /// Those of them that had left when the socket was last seen flushed, and the socket's count
    /// of bytes then.
    left: Option<u64>,
    flushed: u64,
    /// The socket's count of bytes from files, when the request came.
    of_files: u64,
    /// Whether the connection ended before the last of what was handed had left.
    is_cut: bool,
}

impl Entry {
    /// Who asks: the address at the other end of the connection.
    pub(crate) fn client(&self) -> SocketAddr {
        self.client
    }

    fn method_text(&self) -> String {
        printable(self.method.as_str().as_bytes())
    }

    fn reference_text(&self) -> Option<String> {
        self.reference.as_ref().map(ToString::to_string)
    }

    fn range_text(&self) -> Option<String> {
        self.range.as_ref().map(header_text)
    }
}

impl Access {
    /// In a box: it goes from hand to hand, from the handler to the last of the body.
    pub(super) fn begin(
        method: &Method,
        headers: &HeaderMap,
        marks: Arc<Marks>,
        told: Arc<Told>,
    ) -> Box<Self> {
        marks.begin_answer();
        let (flushed, of_files) = (marks.flushed(), marks.of_files());
        Box::new(Self {
            marks,
            trace: match told.logged {
                true => RequestTrace::begin(headers),
                false => RequestTrace::none(),
            },
            entry: Entry {
                started: Instant::now(),
                client: told.client,
                method: method.clone(),
                user_agent: headers.get(USER_AGENT).cloned(),
                range: headers.get(RANGE).cloned(),
                route: told.route,
                upstream: None,
                upstream_is_unknown: false,
                repository: None,
                reference: None,
                came: None,
                age: None,
                error: None,
                status: CLIENT_CLOSED_REQUEST,
            },
            progress: Progress {
                flushed,
                of_files,
                ..Progress::default()
            },
            told,
        })
    }

    pub(super) fn entry(&mut self) -> &mut Entry {
        &mut self.entry
    }

    /// The span of the request, where it is traced.
    pub(super) fn span(&self) -> &Span {
        self.trace.span()
    }

    pub(super) fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The answer begins, with a body of `length` bytes.
    pub(super) fn answered(&mut self, status: StatusCode, length: u64) {
        self.entry.status = status.as_u16();
        self.progress.expected = Some(length);
        if length == 0 {
            self.progress.first_byte = Some(self.entry.started.elapsed());
        }
    }

    /// hyper was given `count` bytes of the body.
    pub(super) fn handed(&mut self, count: u64) {
        self.progress.handed += count;
        let started = self.entry.started;
        let first_byte = &mut self.progress.first_byte;
        first_byte.get_or_insert_with(|| started.elapsed());
    }

    /// The body broke off.
    pub(super) fn failed(&mut self, error: &BodyError) {
        self.entry.error = Some(chain(error));
    }

    /// The connection ended before the last of what hyper was given had left.
    pub(super) fn cut(&mut self) {
        self.progress.is_cut = true;
    }

    /// Notes what has left, before hyper is given more.
    pub(super) fn note_flushed(&mut self) {
        self.progress.note(self.marks.flushed());
    }
}

impl Progress {
    /// A flush since the last note was of the head and of everything handed so far.
    fn note(&mut self, flushed: u64) {
        if flushed != self.flushed {
            self.flushed = flushed;
            self.left = Some(self.handed);
        }
    }

    /// Whether all of the body has left, or is certain to.
    fn is_whole(&self) -> bool {
        self.expected == Some(self.handed) && !self.is_cut
    }

    /// Bytes of the body that have left, where the socket counts `written`, and `of_files` from
    /// files. Before the first flush the head's share of the others is not known, so they count as
    /// none.
    fn sent(&self, written: u64, of_files: u64) -> u64 {
        if self.is_whole() {
            return self.handed;
        }
        let left = match self.left {
            Some(left) => left + written.saturating_sub(self.flushed),
            None => of_files.saturating_sub(self.of_files),
        };
        left.min(self.handed)
    }
}

impl Access {
    /// Who ended the answer before its end.
    fn cut_by(&self) -> Option<Side> {
        match (self.progress.is_whole(), &self.entry.error) {
            (true, _) => None,
            // A body that broke off is the mirror's doing, not the client's.
            (false, Some(_)) => Some(Side::Mirror),
            (false, None) => Some(Side::Client),
        }
    }

    fn count(&self, sent: u64, elapsed: Duration, cut_by: Option<Side>) {
        let Self {
            entry, progress, ..
        } = self;
        let upstream = match &entry.upstream {
            _ if entry.upstream_is_unknown => Some(Named::Unknown),
            upstream => upstream
                .as_ref()
                .map(|upstream| Named::Configured(upstream.as_str())),
        };
        self.told.answers.ended(&Ended {
            method: entry.method.as_str(),
            route: entry.route,
            status: entry.status,
            upstream,
            came: entry.came,
            age: entry.age,
            sent,
            first_byte: progress.first_byte,
            body: (cut_by.is_none() && progress.handed > 0).then_some(elapsed),
            cut_by,
        });
    }

    fn log(&self, sent: u64, elapsed: Duration, cut_by: Option<Side>) {
        let entry = &self.entry;
        let (cache_status, cache_detail) = entry.came.map(Came::words).unzip();
        info!(
            target: "access",
            client = %entry.client,
            method = entry.method_text(),
            route = entry.route,
            upstream = entry.upstream.as_ref().map(UpstreamId::as_str),
            repository = entry.repository.as_ref().map(Repository::as_str),
            reference = entry.reference_text(),
            range = entry.range_text(),
            status = entry.status,
            cache_status,
            cache_detail = cache_detail.flatten(),
            bytes = sent,
            duration_ms = millis(elapsed),
            user_agent = entry.user_agent.as_ref().map(header_text),
            aborted = (cut_by == Some(Side::Client)).then_some(true),
            error = entry.error,
            trace_id = self.trace.id().map(display),
            "request"
        );
    }

    fn end_trace(&self, sent: u64) {
        let entry = &self.entry;
        self.trace.end(|span| {
            let (cache_status, cache_detail) = entry.came.map(Came::words).unzip();
            span.record("method", entry.method_text());
            span.record("route", entry.route);
            span.record("upstream", entry.upstream.as_ref().map(UpstreamId::as_str));
            span.record(
                "repository",
                entry.repository.as_ref().map(Repository::as_str),
            );
            span.record("reference", entry.reference_text());
            span.record("range", entry.range_text());
            span.record("status", entry.status);
            span.record("cache_status", cache_status);
            span.record("cache_detail", cache_detail.flatten());
            span.record("bytes", sent);
            span.record("error", &entry.error);
            if entry.status >= 500 || entry.error.is_some() {
                span.record("otel.status_code", "ERROR");
            }
        });
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.note_flushed();
        self.marks.end_answer();
        let elapsed = self.entry.started.elapsed();
        let sent = self
            .progress
            .sent(self.marks.written(), self.marks.of_files());
        if !self.progress.is_whole() && self.entry.error.is_none() {
            self.entry.error = self.marks.broken().map(str::to_owned);
        }
        let cut_by = self.cut_by();
        self.count(sent, elapsed, cut_by);
        if self.told.logged {
            self.log(sent, elapsed, cut_by);
        }
        self.end_trace(sent);
    }
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}

fn header_text(value: &HeaderValue) -> String {
    printable(value.as_bytes())
}

/// A client's text, as far as it can do no harm in a log.
fn printable(text: &[u8]) -> String {
    let text = &text[..text.len().min(CLIENT_TEXT_BYTES_MAX)];
    let harmless = |&byte: &u8| match byte {
        b' '..=b'~' => char::from(byte),
        _ => '?',
    };
    text.iter().map(harmless).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_text_is_bounded_and_printable() {
        assert_eq!(printable(b"containerd/2.1 \"x\""), "containerd/2.1 \"x\"");
        assert_eq!(printable(b"a\x1b[31m\tb\xff"), "a?[31m?b?");
        assert_eq!(printable(&[b'a'; 1000]).len(), CLIENT_TEXT_BYTES_MAX);
    }

    #[test]
    fn bytes_of_files_are_told_from_a_head_at_once() {
        let mut progress = Progress {
            expected: Some(100),
            of_files: 1000,
            ..Progress::default()
        };
        progress.handed = 40;
        assert_eq!(progress.sent(330, 1030), 30);
        progress.note(340);
        progress.handed = 90;
        assert_eq!(progress.sent(345, 1045), 45);
    }

    #[test]
    fn sent_bytes_are_those_that_left_the_socket() {
        let mut progress = Progress {
            expected: Some(100),
            ..Progress::default()
        };
        progress.handed = 40;
        // Some of the head and the first bytes, in one write: not told apart.
        assert_eq!(progress.sent(250, 0), 0);
        // Flushed: 300 bytes of head, and all that was handed.
        progress.note(340);
        progress.handed = 90;
        assert_eq!(progress.sent(340, 0), 40);
        assert_eq!(progress.sent(360, 0), 60);
        assert_eq!(progress.sent(999, 0), 90);
        progress.handed = 100;
        assert_eq!(progress.sent(400, 0), 100);
        // All of it was handed, and the connection ended over the last.
        progress.is_cut = true;
        assert_eq!(progress.sent(395, 0), 95);
    }
}
