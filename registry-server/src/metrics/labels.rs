//! The labels that answers are counted by, all of them from closed lists, and the bounds of the
//! histograms.

use prometheus_client::encoding::EncodeLabelSet;
use registry_core::cache::CacheStatus;

use crate::front::Came;

/// Stands for every upstream that a client names and that is not configured.
pub(super) const UNKNOWN: &str = "unknown";

/// Upper bounds of [`Answers::first_byte`]: from a hit, which takes a fraction of a millisecond,
/// over the three seconds that a pull waits for an upstream where something cached can answer, to
/// the budgets of upstreams.
pub(super) const FIRST_BYTE_SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0, 30.0,
];

/// Upper bounds of [`Answers::body`]: a manifest takes a millisecond, a large layer over a slow
/// link takes minutes.
pub(super) const BODY_SECONDS: [f64; 13] = [
    0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 30.0, 60.0, 300.0, 1800.0,
];

/// Upper bounds of [`Answers::stale_age`]: from a minute to a month.
pub(super) const AGE_SECONDS: [f64; 8] = [
    60.0,
    600.0,
    3600.0,
    21_600.0,
    86_400.0,
    259_200.0,
    604_800.0,
    2_592_000.0,
];

/// Which listener of the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ListenerName {
    /// The registry's API.
    Registry,
    /// Health, metrics and administration.
    Admin,
}

impl ListenerName {
    pub(super) fn labels(self) -> ListenerLabels {
        let listener = match self {
            Self::Registry => "registry",
            Self::Admin => "admin",
        };
        ListenerLabels { listener }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct HttpLabels {
    pub(super) method: &'static str,
    pub(super) route: &'static str,
    pub(super) status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CacheLabels {
    pub(super) upstream: String,
    pub(super) object: &'static str,
    pub(super) status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WayLabels {
    pub(super) object: &'static str,
    pub(super) status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StaleLabels {
    pub(super) upstream: String,
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabels {
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct SideLabels {
    pub(super) by: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ListenerLabels {
    pub(super) listener: &'static str,
}

/// What of an upstream was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Manifest,
    Blob,
    Tags,
    Referrers,
    /// Nothing that there is: no such path, or no such upstream.
    None,
}

impl Object {
    pub(super) const ALL: [Self; 5] = [
        Self::Manifest,
        Self::Blob,
        Self::Tags,
        Self::Referrers,
        Self::None,
    ];

    /// What a route is for; `None` for those that ask no upstream.
    pub(super) fn of(route: &str) -> Option<Self> {
        let is_route = |object: &Self| object.as_str() == route;
        Self::ALL.into_iter().find(is_route)
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::None => "none",
        }
    }
}

/// The way of a request through the cache, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Hit,
    Miss,
    Revalidated,
    Stale,
    Follow,
    Bypass,
    NotFound,
    Error,
}

impl Way {
    pub(super) const ALL: [Self; 8] = [
        Self::Hit,
        Self::Miss,
        Self::Revalidated,
        Self::Stale,
        Self::Follow,
        Self::Bypass,
        Self::NotFound,
        Self::Error,
    ];

    /// Those that end with what was asked for.
    pub(super) const SERVED: [Self; 6] = [
        Self::Hit,
        Self::Miss,
        Self::Revalidated,
        Self::Stale,
        Self::Follow,
        Self::Bypass,
    ];

    pub(super) fn of(came: Came, status: u16) -> Option<Self> {
        Some(match came {
            Came::Cache(CacheStatus::Hit) => Self::Hit,
            Came::Cache(CacheStatus::Miss) => Self::Miss,
            Came::Cache(CacheStatus::Revalidated) => Self::Revalidated,
            Came::Cache(CacheStatus::Stale(_)) => Self::Stale,
            Came::Cache(CacheStatus::Follow) => Self::Follow,
            Came::Cache(CacheStatus::Bypass(_)) => Self::Bypass,
            Came::Local => return None,
            Came::Error { .. } if status == 404 => Self::NotFound,
            Came::Error { .. } => Self::Error,
        })
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Revalidated => "revalidated",
            Self::Stale => "stale",
            Self::Follow => "follow",
            Self::Bypass => "bypass",
            Self::NotFound => "not_found",
            Self::Error => "error",
        }
    }
}

/// The methods that there are, and one word for all that a client may make up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    Other,
}

impl Method {
    pub(super) const ALL: [Self; 3] = [Self::Get, Self::Head, Self::Other];

    pub(super) fn of(method: &str) -> Self {
        match method {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            _ => Self::Other,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Other => "other",
        }
    }
}

/// The statuses that nearly all answers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usual {
    Ok,
    PartialContent,
    NotModified,
    NotFound,
}

impl Usual {
    pub(super) const ALL: [Self; 4] = [
        Self::Ok,
        Self::PartialContent,
        Self::NotModified,
        Self::NotFound,
    ];

    pub(super) fn of(status: u16) -> Option<Self> {
        Some(match status {
            200 => Self::Ok,
            206 => Self::PartialContent,
            304 => Self::NotModified,
            404 => Self::NotFound,
            _ => return None,
        })
    }
}
