//! Every fault of the matrix: what it is, and how the fixtures commit it.

use bytes::Bytes;
use registry_server::testing::{Behaviour, Certificate, Fault, TokenAuth};

use crate::scene::TIGHT;
use crate::table::{Cell, Object, State};

/// What is wrong with an upstream.
pub(crate) struct Spec {
    /// What it is, for readers of the table.
    pub(crate) about: &'static str,
    pub(crate) strike: Strike,
    /// It is committed once, and all is well from then on.
    pub(crate) once: bool,
    /// The budget that it wears out, which is then a small one.
    pub(crate) tight: Option<Budget>,
    /// There is another endpoint, which is well.
    pub(crate) second_endpoint: bool,
    /// The upstream is reached at a public name, through a proxy.
    pub(crate) public: bool,
}

/// A budget of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Budget {
    Connect,
    Headers,
    BodyIdle,
}

impl Budget {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Headers => "headers",
            Self::BodyIdle => "idle",
        }
    }
}

/// How a fault is committed.
#[derive(Clone)]
pub(crate) enum Strike {
    /// Nothing listens where the upstream was.
    Refused,
    /// What listens there accepts nothing.
    Backlog,
    /// Its name resolves to nothing.
    Nameless,
    /// It shows another certificate.
    Certificate(Certificate),
    /// Its answers about the object are these, HEAD included.
    Answer(Fault),
    /// The same, where it depends on the right length.
    Length(fn(u64) -> Fault),
    /// The same of its token server, which it then has.
    Token(Fault),
    /// It answers 401 and a challenge, whatever token it is asked with.
    Unauthorized,
    /// It behaves otherwise.
    Behave(fn(&mut Behaviour)),
    /// The bodies that it sends go wrong at this offset; HEAD does not.
    Body(fn(u64) -> Fault),
}

impl Spec {
    fn new(about: &'static str, strike: Strike) -> Self {
        Self {
            about,
            strike,
            once: false,
            tight: None,
            second_endpoint: false,
            public: false,
        }
    }

    fn answer(about: &'static str, fault: Fault) -> Self {
        Self::new(about, Strike::Answer(fault))
    }

    fn body(about: &'static str, fault: fn(u64) -> Fault) -> Self {
        Self::new(about, Strike::Body(fault))
    }

    fn length(about: &'static str, fault: fn(u64) -> Fault) -> Self {
        Self::new(about, Strike::Length(fault))
    }

    fn token(about: &'static str, fault: Fault) -> Self {
        Self::new(about, Strike::Token(fault))
    }

    fn wears_out(mut self, budget: Budget) -> Self {
        self.tight = Some(budget);
        self
    }

    /// Why a cell of this fault cannot be.
    pub(crate) fn impossible(&self, cell: &Cell) -> Option<&'static str> {
        let under_way = matches!(cell.state, State::MidFlight | State::MidFill);
        match (&self.strike, cell.object) {
            (Strike::Nameless, _) if under_way => {
                Some("nobody can join before the name has failed")
            }
            (Strike::Body(_), Object::BlobHead) => Some("a HEAD has no body"),
            (_, Object::Blob | Object::BlobHead) if cell.fault == "huge_manifest" => {
                Some("a blob may be that long; `long_body` is one that is not")
            }
            _ => None,
        }
    }

    /// Whether the fault can only strike what is sent.
    pub(crate) fn is_of_bodies(&self) -> bool {
        matches!(self.strike, Strike::Body(_))
    }

    /// Whether it is the whole upstream that does not answer.
    pub(crate) fn is_of_all(&self) -> bool {
        match &self.strike {
            Strike::Refused | Strike::Backlog | Strike::Nameless | Strike::Certificate(_) => true,
            Strike::Answer(fault) => matches!(
                fault,
                Fault::BlackHole | Fault::SlowHead { .. } | Fault::Close | Fault::Garbage
            ),
            _ => false,
        }
    }

    /// How often a download goes on from where it broke off. So seldom that a cell has fewer
    /// failures than an endpoint is rested for that answers, and otherwise often enough for what
    /// happens once to a download that was cut.
    pub(crate) fn resumes_max(&self) -> u32 {
        if self.is_of_bodies() { 1 } else { 2 }
    }

    /// Whether the upstream may be rested for it, and then probed.
    pub(crate) fn rests(&self) -> bool {
        let silent = matches!(self.strike, Strike::Token(Fault::BlackHole));
        self.is_of_all() || silent
    }

    /// Whether the upstream may still be left alone when the fault is over.
    pub(crate) fn lingers(&self) -> bool {
        let limited = matches!(
            self.strike,
            Strike::Answer(Fault::Answer { status: 429, .. })
        );
        self.rests() || limited
    }

    /// Whether it has to be spoken to in TLS.
    pub(crate) fn is_of_tls(&self) -> bool {
        matches!(self.strike, Strike::Certificate(_))
    }
}

/// A `Location`, with the answer that sends there.
fn redirect(location: &str) -> Fault {
    Fault::Answer {
        status: 307,
        headers: vec![("Location".to_owned(), location.to_owned())],
        body: Bytes::new(),
    }
}

fn short(at: u64) -> Fault {
    Fault::Short { after: at }
}

fn reset(at: u64) -> Fault {
    Fault::Reset { after: at }
}

fn stall(at: u64) -> Fault {
    Fault::Stall { after: at }
}

fn flip(at: u64) -> Fault {
    Fault::WrongBytes { offset: at }
}

fn trickle(at: u64) -> Fault {
    Fault::Trickle {
        after: at,
        interval: TIGHT / 10,
    }
}

fn over_long(length: u64) -> Fault {
    Fault::TooMany { extra: length / 2 }
}

fn third_declared(length: u64) -> Fault {
    Fault::WrongLength {
        declared: length / 3,
    }
}

fn wrong_digest() -> Fault {
    let other = format!("sha256:{}", "0".repeat(64));
    Fault::headers(&[("docker-content-digest", &other)])
}

fn html() -> Fault {
    Fault::Answer {
        status: 200,
        headers: vec![("Content-Type".to_owned(), "text/html".to_owned())],
        body: Bytes::from_static(b"<!doctype html><title>Welcome</title><p>Please log in."),
    }
}

fn slow_head() -> Fault {
    Fault::SlowHead {
        interval: TIGHT / 10,
    }
}

fn retry_after() -> Fault {
    Fault::status_with(429, &[("Retry-After", "1")])
}

fn foreign_realm(behaviour: &mut Behaviour) {
    behaviour.token = Some(TokenAuth {
        realm: Some("https://tokens.example.net/token".to_owned()),
        ..TokenAuth::default()
    });
}

fn gone() -> Fault {
    Fault::status(404)
}

/// The fault of this name.
pub(crate) fn spec(name: &str) -> Spec {
    let plain = |name: &str| match name.strip_prefix("first_endpoint_") {
        Some(name) => spec(name),
        None => spec(name.trim_end_matches("_once")),
    };
    if name.starts_with("first_endpoint_") {
        return Spec {
            second_endpoint: true,
            about: "The same at the first of two endpoints; the second is well.",
            ..plain(name)
        };
    }
    if name.ends_with("_once") {
        return Spec {
            once: true,
            about: "The same, but only once: what is asked next is answered well.",
            ..plain(name)
        };
    }
    persistent(name)
}

fn persistent(name: &str) -> Spec {
    match name {
        "refused" => Spec::new(
            "Nothing listens at the upstream's address.",
            Strike::Refused,
        ),
        "connect_black_hole" => Spec::new(
            "Packets to the upstream's address are lost: no connection comes about, and none is refused.",
            Strike::Backlog,
        )
        .wears_out(Budget::Connect),
        "dns_failure" => Spec::new("The upstream's name does not resolve.", Strike::Nameless),
        "unknown_authority" => Spec::new(
            "The upstream shows a certificate of an authority that is not trusted.",
            Strike::Certificate(Certificate::UnknownAuthority),
        ),
        "expired_certificate" => Spec::new(
            "The upstream's certificate has expired.",
            Strike::Certificate(Certificate::Expired),
        ),
        "black_hole" => Spec::answer(
            "The upstream accepts connections, and never answers.",
            Fault::BlackHole,
        )
        .wears_out(Budget::Headers),
        "slow_headers" => Spec::answer(
            "The head of each answer comes a byte at a time, too slowly for its budget.",
            slow_head(),
        )
        .wears_out(Budget::Headers),
        "closed" => Spec::answer(
            "The connection is closed in place of an answer.",
            Fault::Close,
        ),
        "garbage" => Spec::answer("The answer is not HTTP.", Fault::Garbage),
        name => body_fault(name)
            .or_else(|| access_fault(name))
            .unwrap_or_else(|| status_fault(name)),
    }
}

fn body_fault(name: &str) -> Option<Spec> {
    Some(match name {
        "slow_body" => Spec::body(
            "From its half on, a body comes a byte at a time: always within the idle budget, and never done.",
            trickle,
        )
        .wears_out(Budget::BodyIdle),
        "stall_mid_body" => Spec::body("Half of a body comes, and then nothing.", stall)
            .wears_out(Budget::BodyIdle),
        "reset_mid_body" => Spec::body(
            "Half of a body comes, and then the connection is reset.",
            reset,
        ),
        "short_body" => Spec::body(
            "Half of a body comes, and then an orderly end, under the right Content-Length.",
            short,
        ),
        "long_body" => Spec::length(
            "A body is half as long again as it should be, and its Content-Length says so.",
            over_long,
        ),
        "wrong_bytes" => Spec::body("A byte of the body is another.", flip),
        "wrong_length" => Spec::length(
            "The Content-Length is a third of what is sent.",
            third_declared,
        ),
        "gzip_coded" => Spec::answer(
            "The body is coded by gzip, and a header says so; nobody asked for that.",
            Fault::Gzip,
        ),
        "huge_manifest" => Spec::answer(
            "The manifest has 100 MiB more than it should have, and its Content-Length says so.",
            Fault::TooMany { extra: 100 << 20 },
        ),
        _ => return None,
    })
}

fn access_fault(name: &str) -> Option<Spec> {
    Some(match name {
        "unauthorized" => Spec::new(
            "401 with a challenge, also for a token that was just issued.",
            Strike::Unauthorized,
        ),
        "token_server_down" => Spec::token(
            "The token server closes each connection without an answer.",
            Fault::Close,
        ),
        "token_server_slow" => Spec::token("The token server never answers.", Fault::BlackHole)
            .wears_out(Budget::Headers),
        "foreign_realm" => Spec::new(
            "A challenge names a token server that does not belong to the upstream.",
            Strike::Behave(foreign_realm),
        ),
        "forbidden" => Spec::answer("403.", Fault::status(403)),
        "redirect_loop" => Spec::answer(
            "Each answer is a redirect to the same place.",
            redirect("?again"),
        ),
        "redirect_link_local" => Spec::answer(
            "Each answer is a redirect to the metadata service of a cloud.",
            redirect("http://169.254.169.254/latest/meta-data/"),
        ),
        "redirect_private" => Spec {
            public: true,
            ..Spec::answer(
                "An upstream at a public name redirects to a private address.",
                redirect("http://10.0.0.1/v2/"),
            )
        },
        _ => return None,
    })
}

fn status_fault(name: &str) -> Spec {
    match name {
        "not_found" => Spec::answer("404, also of what was there before.", gone()),
        "request_timeout" => Spec::answer("408.", Fault::status(408)),
        "rate_limited" => Spec::answer("429, with `Retry-After: 1`.", retry_after()),
        "rate_limited_unsaid" => Spec::answer("429, without Retry-After.", Fault::status(429)),
        "server_error" => Spec::answer("500.", Fault::status(500)),
        "unavailable" => Spec::answer("503.", Fault::status(503)),
        "html" => Spec::answer(
            "200, and a page in HTML: what a captive portal answers to everything.",
            html(),
        ),
        "missing_digest" => Spec::new(
            "No answer has a Docker-Content-Digest.",
            Strike::Behave(|behaviour| behaviour.omit_digest = true),
        ),
        "wrong_digest" => Spec::answer(
            "The Docker-Content-Digest of each answer is another's.",
            wrong_digest(),
        ),
        _ => panic!("no fault is called {name}"),
    }
}
