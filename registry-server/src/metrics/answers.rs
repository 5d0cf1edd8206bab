//! What clients asked and were answered, counted when the answer has ended.
//!
//! Whoever asks pays for a few atomic additions: what is counted often is found once for each
//! combination of labels, and kept. All labels are from closed lists: methods and routes that are
//! known here, statuses that the mirror answers with, upstreams that are configured. A name that is
//! not, however many of them clients think of, is one value: [`UNKNOWN`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use registry_core::cache::CacheStatus;

use super::labels::{
    AGE_SECONDS, BODY_SECONDS, CacheLabels, FIRST_BYTE_SECONDS, HttpLabels, ListenerLabels,
    ListenerName, Method, Object, ReasonLabels, SideLabels, StaleLabels, UNKNOWN, Usual, Way,
    WayLabels,
};
use super::{Exposition, UpstreamLabels};
use crate::front::Came;

/// An answer that has ended.
#[derive(Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) method: &'a str,
    /// A word of those that routes have, which are few.
    pub(crate) route: &'static str,
    pub(crate) status: u16,
    /// The upstream that was asked for, where one was.
    pub(crate) upstream: Option<Named<'a>>,
    /// How it came about; `None` where the client left before there was an answer.
    pub(crate) came: Option<Came>,
    /// How long ago the upstream had confirmed what was served.
    pub(crate) age: Option<Duration>,
    /// Bytes of its body that have left.
    pub(crate) sent: u64,
    /// Time until the first byte of its body, or until its headers where it has none.
    pub(crate) first_byte: Option<Duration>,
    /// Time until the last byte, where all of a body has left.
    pub(crate) body: Option<Duration>,
    /// Who ended it before its end.
    pub(crate) cut_by: Option<Side>,
}

/// An upstream as a request named it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Named<'a> {
    /// One that there is.
    Configured(&'a str),
    /// Whatever a client thought of.
    Unknown,
}

/// Who ended an answer before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// It left.
    Client,
    /// It could not go on.
    Mirror,
}

/// What is counted of answers. Clones share the counters.
#[derive(Clone)]
pub(crate) struct Answers(Arc<Counted>);

struct Counted {
    requests: Requests,
    cache_requests: Family<CacheLabels, Counter>,
    served_bytes: Family<UpstreamLabels, Counter>,
    stale: Family<StaleLabels, Counter>,
    stale_age: Histogram,
    bypassed: Family<ReasonLabels, Counter>,
    failed: Family<ReasonLabels, Counter>,
    cut: Family<SideLabels, Counter>,
    first_byte: Latencies,
    body: Latencies,
    connections: Family<ListenerLabels, Gauge>,
    refusals: Family<ListenerLabels, Counter>,
    /// By their names, [`UNKNOWN`] among them.
    upstreams: RwLock<BTreeMap<String, Arc<OfUpstream>>>,
}

/// Where the counters of one upstream are.
struct OfUpstream {
    requests: [[OnceLock<Counter>; Way::ALL.len()]; Object::ALL.len()],
    served_bytes: Counter,
}

/// A counter for each method, route and status.
#[derive(Default)]
struct Requests {
    family: Family<HttpLabels, Counter>,
    /// Of those that ask for an upstream's content, with the usual statuses.
    found: [[[OnceLock<Counter>; Usual::ALL.len()]; Object::ALL.len()]; Method::ALL.len()],
}

/// A histogram for each object and way.
struct Latencies {
    family: Family<WayLabels, Histogram, fn() -> Histogram>,
    found: [[OnceLock<Histogram>; Way::ALL.len()]; Object::ALL.len()],
}

impl Answers {
    /// Counts an answer. Takes no time to speak of, and waits for nobody.
    pub(crate) fn ended(&self, answer: &Ended<'_>) {
        let Counted {
            requests,
            failed,
            bypassed,
            cut,
            ..
        } = &*self.0;
        requests.count(Method::of(answer.method), answer.route, answer.status);
        match answer.came {
            Some(Came::Error { reason, .. }) => {
                failed.get_or_create(&ReasonLabels { reason }).inc();
            }
            Some(Came::Cache(CacheStatus::Bypass(reason))) => {
                let reason = reason.as_str();
                bypassed.get_or_create(&ReasonLabels { reason }).inc();
            }
            _ => {}
        }
        if let Some(side) = answer.cut_by {
            let by = match side {
                Side::Client => "client",
                Side::Mirror => "mirror",
            };
            cut.get_or_create(&SideLabels { by }).inc();
        }
        if let Some(upstream) = answer.upstream {
            self.ended_of(upstream, answer);
        }
    }

    fn ended_of(&self, upstream: Named<'_>, answer: &Ended<'_>) {
        let name = match upstream {
            Named::Configured(name) => name,
            Named::Unknown => UNKNOWN,
        };
        let counters = self.upstream(name);
        counters.served_bytes.inc_by(answer.sent);
        let Some((object, came)) = Object::of(answer.route).zip(answer.came) else {
            return;
        };
        let Some(way) = Way::of(came, answer.status) else {
            return;
        };
        let counter = counters.requests[object as usize][way as usize].get_or_init(|| {
            self.0.cache_requests.get_or_create_owned(&CacheLabels {
                upstream: name.to_owned(),
                object: object.as_str(),
                status: way.as_str(),
            })
        });
        counter.inc();
        if let Some(time) = answer.first_byte {
            self.0.first_byte.observe(object, way, time);
        }
        if let Some(time) = answer.body {
            self.0.body.observe(object, way, time);
        }
        if let Came::Cache(CacheStatus::Stale(reason)) = came {
            let labels = StaleLabels {
                upstream: name.to_owned(),
                reason: reason.as_str(),
            };
            self.0.stale.get_or_create(&labels).inc();
            if let Some(age) = answer.age {
                self.0.stale_age.observe(age.as_secs_f64());
            }
        }
    }

    /// Where the counters of an upstream are: its name is one of few.
    fn upstream(&self, name: &str) -> Arc<OfUpstream> {
        let upstreams = &self.0.upstreams;
        let known = upstreams.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(upstream) = known.get(name) {
            return Arc::clone(upstream);
        }
        drop(known);
        let upstream = name.to_owned();
        let served_bytes = (self.0.served_bytes).get_or_create_owned(&UpstreamLabels { upstream });
        let mut known = upstreams.write().unwrap_or_else(PoisonError::into_inner);
        let counters = known.entry(name.to_owned()).or_insert_with(|| {
            Arc::new(OfUpstream {
                requests: Default::default(),
                served_bytes,
            })
        });
        Arc::clone(counters)
    }

    /// One more connection to a listener, until what is given is dropped.
    pub(crate) fn connected(&self, listener: ListenerName) -> Connected {
        let labels = listener.labels();
        let gauge = self.0.connections.get_or_create_owned(&labels);
        gauge.inc();
        Connected(gauge)
    }

    /// A connection for which there was no room.
    pub(crate) fn refused(&self, listener: ListenerName) {
        self.0.refusals.get_or_create(&listener.labels()).inc();
    }

    /// How many answers came about in which way, of those that had what was asked for; and bytes of
    /// bodies that were sent.
    pub(super) fn totals(&self) -> (BTreeMap<String, u64>, u64) {
        let upstreams = &self.0.upstreams;
        let upstreams = upstreams.read().unwrap_or_else(PoisonError::into_inner);
        let count = |way: Way| {
            let of_upstream = |upstream: &Arc<OfUpstream>| -> u64 {
                let objects = upstream.requests.iter();
                let counters = objects.filter_map(|ways| ways[way as usize].get());
                counters.map(Counter::get).sum()
            };
            upstreams.values().map(of_upstream).sum()
        };
        let answers = Way::SERVED.map(|way| (way.as_str().to_owned(), count(way)));
        let bytes = upstreams
            .values()
            .map(|upstream| upstream.served_bytes.get());
        (answers.into(), bytes.sum())
    }

    pub(super) fn register(&self, exposition: &mut Exposition) {
        let counted = &self.0;
        exposition.register(
            "http_requests",
            "Requests of clients that have ended, by method, route and status of the answer.",
            counted.requests.family.clone(),
        );
        exposition.register(
            "cache_requests",
            "Requests for an upstream's content that have ended, by what was asked for and how it \
             was answered.",
            counted.cache_requests.clone(),
        );
        exposition.register(
            "served_bytes",
            "Bytes of bodies that clients were sent.",
            counted.served_bytes.clone(),
        );
        exposition.register(
            "stale_answers",
            "Answers served stale, by why the upstream could not confirm them.",
            counted.stale.clone(),
        );
        exposition.register(
            "stale_age_seconds",
            "How long ago the upstream had confirmed what was served stale.",
            counted.stale_age.clone(),
        );
        exposition.register(
            "bypassed_answers",
            "Answers passed on from the upstream without being kept, by why.",
            counted.bypassed.clone(),
        );
        exposition.register(
            "failed_answers",
            "Requests answered by an error, by its reason.",
            counted.failed.clone(),
        );
        exposition.register(
            "cut_answers",
            "Answers that ended before their end, by who ended them.",
            counted.cut.clone(),
        );
        exposition.register(
            "first_byte_seconds",
            "Time from a request until the first byte of the answer's body, or until its headers \
             where it has none.",
            counted.first_byte.family.clone(),
        );
        exposition.register(
            "body_seconds",
            "Time from a request until the last byte of the answer's body, where all of it was sent.",
            counted.body.family.clone(),
        );
        exposition.register(
            "connections_active",
            "Connections of clients.",
            counted.connections.clone(),
        );
        exposition.register(
            "connections_refused",
            "Connections for which there was no room.",
            counted.refusals.clone(),
        );
    }
}

impl Default for Answers {
    fn default() -> Self {
        let counted = Counted {
            requests: Requests::default(),
            cache_requests: Family::default(),
            served_bytes: Family::default(),
            stale: Family::default(),
            stale_age: Histogram::new(AGE_SECONDS),
            bypassed: Family::default(),
            failed: Family::default(),
            cut: Family::default(),
            first_byte: Latencies::new(|| Histogram::new(FIRST_BYTE_SECONDS)),
            body: Latencies::new(|| Histogram::new(BODY_SECONDS)),
            connections: Family::default(),
            refusals: Family::default(),
            upstreams: RwLock::default(),
        };
        for listener in [ListenerName::Registry, ListenerName::Admin] {
            // A listener that has refused nobody yet says so.
            drop(counted.refusals.get_or_create(&listener.labels()));
        }
        Self(Arc::new(counted))
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

impl Requests {
    fn count(&self, method: Method, route: &'static str, status: u16) {
        let labels = HttpLabels {
            method: method.as_str(),
            route,
            status,
        };
        match Object::of(route).zip(Usual::of(status)) {
            Some((object, usual)) => {
                let found = &self.found[method as usize][object as usize][usual as usize];
                found
                    .get_or_init(|| self.family.get_or_create_owned(&labels))
                    .inc();
            }
            None => {
                self.family.get_or_create(&labels).inc();
            }
        }
    }
}

impl Latencies {
    fn new(make: fn() -> Histogram) -> Self {
        Self {
            family: Family::new_with_constructor(make),
            found: Default::default(),
        }
    }

    fn observe(&self, object: Object, way: Way, time: Duration) {
        let histogram = self.found[object as usize][way as usize].get_or_init(|| {
            self.family.get_or_create_owned(&WayLabels {
                object: object.as_str(),
                status: way.as_str(),
            })
        });
        histogram.observe(time.as_secs_f64());
    }
}

/// A connection that counts as long as this is kept.
pub(crate) struct Connected(Gauge);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}
