//! What a request asks for, read from its method, path and query alone. Pure: no I/O, no headers.
//!
//! A repository's upstream is told in one of three ways:
//!
//! 1. `?ns=HOST` (containerd, dockerd). It decides, whatever the path says. Where the path begins
//!    with the same registry's name too (k3s rewrites may put it there), that name is dropped.
//! 2. A first path component that names a configured upstream (podman, CRI-O, skopeo, crane):
//!    `/v2/quay.io/org/app/…`, and with a port `/v2/localhost:5001/app/…`.
//! 3. Neither: the default upstream.
//!
//! A name is a key into the configured upstreams, and never anything that is dialled (I12).
//!
//! The path is decoded once and then held against the grammars of `registry-core`, so what reaches
//! the cache holds no dots that climb, no encoded slash, nothing outside of ASCII.

mod path;
mod query;

use http::Method;
use registry_core::{
    Digest, DigestError, NameError, Origin, Reference, Repository, Tag, UpstreamId,
};

use path::decode;
use query::Query;

/// What names are looked up in.
pub(crate) struct Addressing<'a> {
    /// The upstream of requests that name none.
    pub(crate) default_upstream: &'a UpstreamId,
    /// Whether an upstream is configured.
    pub(crate) is_known: &'a (dyn Fn(&UpstreamId) -> bool + Send + Sync),
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/v2/`: whether this is a registry.
    Ping {
        /// The upstream in `ns`, where one is named.
        upstream: Option<UpstreamId>,
    },
    /// A manifest.
    Manifest {
        origin: Origin,
        reference: Reference,
    },
    /// A blob.
    Blob { origin: Origin, digest: Digest },
    /// A repository's tags.
    Tags {
        origin: Origin,
        /// The repository's name, as it stands in the path.
        name: String,
        /// The upstream, where `ns` names it: links to further pages must, too.
        namespace: Option<UpstreamId>,
        page: Page<Tag>,
    },
    /// What refers to a manifest.
    Referrers {
        origin: Origin,
        /// As for [`Self::Tags`].
        name: String,
        /// As for [`Self::Tags`].
        namespace: Option<UpstreamId>,
        subject: Digest,
        /// Only what is of this type.
        artifact_type: Option<String>,
        page: Page<Digest>,
    },
    /// The repositories that something is cached of.
    Catalog {
        /// Those of this upstream, in `ns`, by their bare names. Otherwise those of all, with the
        /// upstream's name before theirs.
        namespace: Option<UpstreamId>,
        page: Page<Origin>,
    },
}

impl Route {
    /// The upstream that answers, where there is only one.
    pub(crate) fn upstream(&self) -> Option<&UpstreamId> {
        match self {
            Self::Manifest { origin, .. }
            | Self::Blob { origin, .. }
            | Self::Tags { origin, .. }
            | Self::Referrers { origin, .. } => Some(origin.upstream()),
            Self::Ping { upstream } => upstream.as_ref(),
            Self::Catalog { namespace, .. } => namespace.as_ref(),
        }
    }

    /// The repository asked for.
    pub(crate) fn repository(&self) -> Option<&Repository> {
        match self {
            Self::Manifest { origin, .. }
            | Self::Blob { origin, .. }
            | Self::Tags { origin, .. }
            | Self::Referrers { origin, .. } => Some(origin.repository()),
            Self::Ping { .. } | Self::Catalog { .. } => None,
        }
    }

    /// A word for the kind of route, for the log.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Ping { .. } => "ping",
            Self::Manifest { .. } => "manifest",
            Self::Blob { .. } => "blob",
            Self::Tags { .. } => "tags",
            Self::Referrers { .. } => "referrers",
            Self::Catalog { .. } => "catalog",
        }
    }
}

/// Which part of a listing is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page<T> {
    /// At most so many.
    pub(crate) size: Option<u64>,
    /// Only those past this one.
    pub(crate) after: Option<T>,
}

/// What a path points at, for the code of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Manifest,
    Blob,
    Tags,
    Referrers,
    Catalog,
}

/// Why a request asks for nothing that there is, and what it was routed to as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteError {
    pub(crate) upstream: Option<UpstreamId>,
    pub(crate) repository: Option<Repository>,
    pub(crate) fault: Fault,
}

impl From<Fault> for RouteError {
    fn from(fault: Fault) -> Self {
        Self {
            upstream: None,
            repository: None,
            fault,
        }
    }
}

/// What is wrong with a request's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Neither GET nor HEAD.
    Method,
    /// No path of a registry.
    Path,
    /// A path that may mean different things to different readers.
    Encoding(&'static str),
    /// Not a repository's name.
    Repository(NameError),
    /// An upstream's name, and no repository's.
    NoRepository(UpstreamId),
    /// An `ns` that is no registry's name, or given twice.
    Namespace(NameError),
    /// An upstream that is not configured.
    UnknownUpstream,
    /// Not a digest, or not one that can be verified.
    Digest(Target, DigestError),
    /// Not a tag.
    Tag(NameError),
    /// An upload, which a mirror does not take.
    Upload,
    /// An `n` that is not a number.
    PageSize,
    /// A `last` that is not what the listing lists.
    PageStart(Target, NameError),
    /// An `artifactType` that is given twice.
    ArtifactType,
}

/// Reads what a request asks for.
pub(crate) fn route(
    method: &Method,
    path: &str,
    query: Option<&str>,
    addressing: &Addressing<'_>,
) -> Result<Route, RouteError> {
    let path = decode(path).map_err(Fault::Encoding)?;
    let Some(rest) = path
        .strip_prefix("/v2")
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
    else {
        return Err(Fault::Path.into());
    };
    if !is_read(method) {
        return Err(Fault::Method.into());
    }
    let query = Query::parse(query)?;
    let namespace = query.namespace(addressing)?;
    match rest {
        "" | "/" => {
            let upstream = namespace;
            return Ok(Route::Ping { upstream });
        }
        "/_catalog" => return catalog(namespace, &query),
        _ => {}
    }
    let (name, place) = split(rest).ok_or(Fault::Path)?;
    let origin = locate(name, namespace.as_ref(), addressing)?;
    let route = match place {
        Place::Manifest(reference) => manifest(&origin, reference),
        Place::Blob(digest) => match Digest::parse(digest) {
            Ok(digest) => Ok(Route::Blob {
                origin: origin.clone(),
                digest,
            }),
            Err(error) => Err(Fault::Digest(Target::Blob, error)),
        },
        Place::Tags => tags(&origin, name, namespace, &query),
        Place::Referrers(subject) => referrers(&origin, name, namespace, subject, &query),
        Place::Upload => Err(Fault::Upload),
    };
    route.map_err(|fault| RouteError {
        upstream: Some(origin.upstream().clone()),
        repository: Some(origin.repository().clone()),
        fault,
    })
}

/// Whether a method only reads: a mirror knows no other.
pub(crate) fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn manifest(origin: &Origin, reference: &str) -> Result<Route, Fault> {
    match Reference::parse(reference) {
        Ok(reference) => Ok(Route::Manifest {
            origin: origin.clone(),
            reference,
        }),
        Err(NameError::Digest(error)) => Err(Fault::Digest(Target::Manifest, error)),
        Err(error) => Err(Fault::Tag(error)),
    }
}

fn tags(
    origin: &Origin,
    name: &str,
    namespace: Option<UpstreamId>,
    query: &Query<'_>,
) -> Result<Route, Fault> {
    let after = query.last.as_deref().map(Tag::parse).transpose();
    Ok(Route::Tags {
        origin: origin.clone(),
        name: name.to_owned(),
        namespace,
        page: Page {
            size: query.size,
            after: after.map_err(|error| Fault::PageStart(Target::Tags, error))?,
        },
    })
}

fn referrers(
    origin: &Origin,
    name: &str,
    namespace: Option<UpstreamId>,
    subject: &str,
    query: &Query<'_>,
) -> Result<Route, Fault> {
    let target = Target::Referrers;
    let after = query.last.as_deref().map(Digest::parse).transpose();
    Ok(Route::Referrers {
        origin: origin.clone(),
        name: name.to_owned(),
        namespace,
        subject: Digest::parse(subject).map_err(|error| Fault::Digest(target, error))?,
        artifact_type: query.artifact_type.as_deref().map(ToOwned::to_owned),
        page: Page {
            size: query.size,
            after: after.map_err(|error| Fault::PageStart(target, NameError::Digest(error)))?,
        },
    })
}

fn catalog(namespace: Option<UpstreamId>, query: &Query<'_>) -> Result<Route, RouteError> {
    let parse = |last: &str| match &namespace {
        Some(upstream) => Ok(Origin::new(upstream.clone(), Repository::parse(last)?)),
        None => {
            let (upstream, repository) = last.split_once('/').ok_or(NameError::Repository)?;
            Ok(Origin::new(
                UpstreamId::parse(upstream)?,
                Repository::parse(repository)?,
            ))
        }
    };
    match query.last.as_deref().map(parse).transpose() {
        Ok(after) => Ok(Route::Catalog {
            namespace,
            page: Page {
                size: query.size,
                after,
            },
        }),
        Err(error) => Err(RouteError {
            upstream: namespace,
            repository: None,
            fault: Fault::PageStart(Target::Catalog, error),
        }),
    }
}

/// What stands behind a repository's name.
enum Place<'a> {
    Manifest(&'a str),
    Blob(&'a str),
    Tags,
    Referrers(&'a str),
    Upload,
}

/// Divides `/<name>/<place>`. A repository's name may hold components like `manifests` itself, so
/// it is the last of them that counts.
fn split(rest: &str) -> Option<(&str, Place<'_>)> {
    let (name, place) = if let Some(name) = rest.strip_suffix("/tags/list") {
        (name, Place::Tags)
    } else {
        let mut end = rest.rfind('/')?;
        loop {
            let at = rest[..end].rfind('/')?;
            let object = &rest[end + 1..];
            let place = match &rest[at + 1..end] {
                "manifests" => Place::Manifest(object),
                "blobs" if object.starts_with("uploads/") => Place::Upload,
                "blobs" => Place::Blob(object),
                "referrers" => Place::Referrers(object),
                _ => {
                    end = at;
                    continue;
                }
            };
            break (&rest[..at], place);
        }
    };
    // The slash behind `/v2` is the name's where a name stands there, and the place's where not.
    Some((name.strip_prefix('/').unwrap_or(name), place))
}

/// Which repository of which upstream a name means.
fn locate(
    name: &str,
    namespace: Option<&UpstreamId>,
    addressing: &Addressing<'_>,
) -> Result<Origin, RouteError> {
    let (first, rest) = match name.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (name, None),
    };
    // Where `ns` decides, a word without a dot or a port is the name that it gives, or none.
    let is_other = |namespace: &UpstreamId| {
        !first.contains(['.', ':']) && !namespace.as_str().eq_ignore_ascii_case(first)
    };
    let named = match namespace {
        Some(namespace) if is_other(namespace) => None,
        _ => UpstreamId::parse(first).ok(),
    };
    let (upstream, repository) = match (namespace, named) {
        (Some(namespace), Some(named)) if *namespace == named => {
            (namespace.clone(), rest.unwrap_or(name))
        }
        (Some(namespace), _) => (namespace.clone(), name),
        (None, Some(named)) if (addressing.is_known)(&named) => match rest {
            Some(rest) => (named, rest),
            None => return Err(Fault::NoRepository(named).into()),
        },
        // Only a registry's name has a colon: this one is not configured.
        (None, Some(_)) if first.contains(':') => return Err(Fault::UnknownUpstream.into()),
        (None, _) => (addressing.default_upstream.clone(), name),
    };
    match Repository::parse(repository) {
        Ok(repository) => Ok(Origin::new(upstream, repository)),
        Err(error) => Err(RouteError {
            upstream: Some(upstream),
            repository: None,
            fault: Fault::Repository(error),
        }),
    }
}

#[cfg(test)]
mod tests;
