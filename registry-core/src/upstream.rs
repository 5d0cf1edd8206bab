//! The contract of upstreams: the registries that content is fetched from.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::{
    Caller, Descriptor, Digest, Manifest, ManifestError, RangeRequest, Reference, Referrers,
    Repository, RepositoryPattern, Tag, UpstreamId,
};

/// A registry that content is fetched from, over whatever transport.
///
/// `Ok(None)`, or the variant that says so, is the upstream's own "404"; an answer that it gives
/// nothing about is an error. Each call ends within a budget of the implementor's; a body's stream
/// yields its next bytes within one, or an error. Dropping a future or a stream abandons the
/// request, and leaves nothing behind.
///
/// Implementations send nothing of a client's on its own account: no header, no query (I12).
pub trait Upstream: Send + Sync + 'static {
    /// What a tag names now, without fetching it where that can be helped (a HEAD).
    ///
    /// `prior` is what it named when last asked, for a conditional request.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`].
    fn resolve<'a>(
        &'a self,
        repository: &'a Repository,
        tag: &'a Tag,
        prior: Option<Digest>,
        caller: &'a Caller,
    ) -> BoxFuture<'a, Result<Answered<Resolution>, UpstreamError>>;

    /// Fetches a manifest, and verifies it where the reference is a digest.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`]; [`UpstreamError::Content`] where other bytes came.
    fn manifest<'a>(
        &'a self,
        repository: &'a Repository,
        reference: &'a Reference,
        caller: &'a Caller,
    ) -> BoxFuture<'a, Result<Option<Answered<Manifest>>, UpstreamError>>;

    /// Whether a manifest is there for this caller, without fetching it (a HEAD).
    ///
    /// # Errors
    ///
    /// [`UpstreamError`].
    fn has_manifest<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        caller: &'a Caller,
    ) -> BoxFuture<'a, Result<bool, UpstreamError>>;

    /// Whether a blob is there for this caller, and its size in bytes, without fetching it
    /// (a HEAD). `Some(None)`: there, of a size it does not tell.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`].
    fn stat_blob<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        caller: &'a Caller,
    ) -> BoxFuture<'a, Result<Option<Option<u64>>, UpstreamError>>;

    /// Fetches a blob, or a range of it. The bytes are not verified: whoever stores or serves them
    /// does that.
    ///
    /// `prior` is what came with an earlier part of the blob, which this range goes on from: an
    /// upstream that has another body by now sends the whole of that one (`If-Range`). One that
    /// cannot say so ignores it.
    ///
    /// A range may always be answered by the whole, which begins at 0. One that the blob does not
    /// have is an empty stream that begins at the blob's size.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`]; also from the stream, after which it ends.
    fn blob<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        range: Option<RangeRequest>,
        prior: Option<&'a Validator>,
        caller: &'a Caller,
    ) -> BoxFuture<'a, Result<Option<UpstreamBlob>, UpstreamError>>;

    /// One page of a repository's tags: at most `limit`, beginning past `after`; fewer where the
    /// upstream has smaller pages. An implementation follows the upstream's own pagination.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`].
    fn tags<'a>(
        &'a self,
        repository: &'a Repository,
        page: TagPage<'a>,
        caller: &'a Caller,
    ) -> BoxFuture<'a, Result<Option<FetchedTags>, UpstreamError>>;

    /// All that refers to a manifest, whatever pages the upstream has, and of every type. `None`
    /// where the upstream does not list referrers: it has no such API, or no such repository. One
    /// that does lists none of a manifest that has none, or that it has never seen.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`]; also where there is more than the implementor's limit: half a list is no
    /// answer.
    fn referrers<'a>(
        &'a self,
        repository: &'a Repository,
        subject: Digest,
        caller: &'a Caller,
    ) -> BoxFuture<'a, Result<Option<Referrers>, UpstreamError>>;

    /// Whether something of a repository can be asked for now, as far as that is known without
    /// asking: what a question would come to that is asked at once. Cheap, and waits for nothing.
    fn condition(&self, repository: &Repository, asked: Asked) -> Condition;
}

/// What an upstream is asked for: registries limit each apart from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Asked {
    /// What a tag names, or whether some manifest is there.
    Tag,
    /// A manifest.
    Manifest,
    /// A blob.
    Blob,
}

/// Whether an upstream can be asked now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing speaks against it.
    #[default]
    Ready,
    /// It failed, and is not asked until it is found to be well.
    Resting {
        /// How long it has been so.
        elapsed: Duration,
        /// What happened, in words for a person, without secrets.
        what: String,
    },
    /// It limits the rate of requests, and asks to be left alone.
    Limited {
        /// For how much longer.
        wait: Duration,
    },
}

impl Condition {
    /// What asking would come to; nothing where it has to be tried.
    pub fn refusal(&self) -> Option<UpstreamError> {
        match self {
            Self::Ready => None,
            Self::Resting { what, .. } => Some(UpstreamError::Unavailable {
                what: what.clone(),
                source: None,
            }),
            Self::Limited { wait } => Some(UpstreamError::RateLimited {
                retry_after: Some(*wait),
            }),
        }
    }
}

/// What an upstream answered, and which of its endpoints did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered<T> {
    /// The answer.
    pub value: T,
    /// Who gave it, in a word that says nothing secret (a host); `None` where there is nothing to
    /// tell apart.
    pub endpoint: Option<Arc<str>>,
}

impl<T> Answered<T> {
    /// An answer of an upstream that is one endpoint.
    pub fn new(value: T) -> Self {
        Self {
            value,
            endpoint: None,
        }
    }
}

/// What an upstream said of a tag.
#[derive(Clone, Debug)]
pub enum Resolution {
    /// It names the prior digest still.
    Unchanged,
    /// It names this.
    Names(Descriptor),
    /// It names this, and finding out meant to fetch it: the upstream has no HEAD, or tells no
    /// digest in it.
    Fetched(Manifest),
    /// There is no such tag, or no such repository.
    Absent,
}

/// A blob's bytes on their way from an upstream.
pub struct UpstreamBlob {
    /// Size of the whole blob in bytes, where the upstream tells it.
    pub size: Option<u64>,
    /// Offset of the stream's first byte within the blob: 0 where the range asked for was ignored.
    pub start: u64,
    /// What tells this body from another that the upstream may have under the same name.
    pub validator: Option<Validator>,
    /// Which endpoint sends it, as in [`Answered::endpoint`].
    pub endpoint: Option<Arc<str>>,
    /// The bytes. It ends in an error where they break off.
    pub stream: BoxStream<'static, Result<Bytes, UpstreamError>>,
}

impl fmt::Debug for UpstreamBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamBlob")
            .field("size", &self.size)
            .field("start", &self.start)
            .field("validator", &self.validator)
            .finish_non_exhaustive()
    }
}

/// A strong entity tag (RFC 9110, section 8.8), and who issued it: it says nothing of the bodies
/// that others send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validator {
    source: String,
    entity_tag: String,
}

impl Validator {
    /// `entity_tag` as it is written, quotes included, which `source` sent. What names the source
    /// is the upstream's own choice; it holds nothing secret.
    pub fn new(source: impl Into<String>, entity_tag: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            entity_tag: entity_tag.into(),
        }
    }

    /// Who issued it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The entity tag, quotes included.
    pub fn entity_tag(&self) -> &str {
        &self.entity_tag
    }
}

/// Which tags are asked for.
#[derive(Clone, Copy, Debug)]
pub struct TagPage<'a> {
    /// Only those past this one, in the order of the upstream.
    pub after: Option<&'a str>,
    /// At most so many.
    pub limit: usize,
}

/// A page of tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchedTags {
    /// The tags, in the upstream's order.
    pub tags: Vec<Tag>,
    /// Whether there are more past the last.
    pub more: bool,
}

/// Why an upstream gave no answer to a question. Cloning shares the source.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// 401 or 403: the mirror, or the caller, has no access.
    #[error("the upstream grants no access (status {status})")]
    Unauthorized {
        /// 401 or 403.
        status: u16,
    },
    /// 429: too many requests.
    #[error("the upstream limits the rate of requests")]
    RateLimited {
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// It cannot be reached, or answers that it cannot serve (5xx).
    #[error("the upstream is unavailable: {what}")]
    Unavailable {
        /// What happened, in words for a person, without secrets.
        what: String,
        /// Why.
        #[source]
        source: Option<Arc<dyn Error + Send + Sync>>,
    },
    /// It did not answer, or sent nothing more, within the budget.
    #[error("the upstream did not {what} in time")]
    Timeout {
        /// What it was waited for to do.
        what: &'static str,
    },
    /// It answered what no registry may answer.
    #[error("the upstream broke the protocol: {what}")]
    Protocol {
        /// How, in words for a person, without secrets.
        what: String,
    },
    /// It sent other bytes than the digest names.
    #[error("the upstream sent wrong content")]
    Content(#[from] ManifestError),
}

impl UpstreamError {
    /// Whether the same request may succeed a moment later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::RateLimited { .. } | Self::Unavailable { .. } | Self::Timeout { .. }
        )
    }

    /// Whether what is cached may be served in place of the answer. Not where the upstream has
    /// withdrawn access.
    pub fn allows_stale(&self) -> bool {
        !matches!(self, Self::Unauthorized { .. })
    }
}

/// How one upstream's tags are kept fresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamPolicy {
    /// How long a tag is fresh after the upstream confirmed it. Zero: revalidate on every pull.
    pub tag_ttl: Duration,
    /// How long a pull waits for the upstream where something cached can answer instead.
    pub tag_budget: Duration,
    /// Whether a tag that the upstream no longer has is gone here too (`on_not_found = "forward"`);
    /// otherwise what is held is served, marked stale.
    pub forward_not_found: bool,
    /// Whether a tag that is held is never asked for again, however old it is.
    pub frozen: bool,
}

impl Default for UpstreamPolicy {
    fn default() -> Self {
        Self {
            tag_ttl: Duration::ZERO,
            tag_budget: Duration::from_secs(3),
            forward_not_found: false,
            frozen: false,
        }
    }
}

/// How the content of one upstream, or of some of its repositories, is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionRule {
    /// Bytes that all of it may take together; what was used longest ago goes first.
    pub bytes_max: Option<u64>,
    /// How long content is kept that nobody uses; [`Duration::MAX`] for as long as there is room.
    pub idle_max: Option<Duration>,
    /// Whether it is never evicted, whatever the limits.
    pub exempt: bool,
}

/// What is different for some repositories of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryRule {
    /// Which.
    pub pattern: RepositoryPattern,
    /// How their tags are kept fresh: all of it, the upstream's own where nothing else was said.
    pub policy: UpstreamPolicy,
    /// How their content is kept, in place of the upstream's `idle_max` and `exempt`; a `bytes_max`
    /// counts beside that of the upstream.
    pub retention: RetentionRule,
}

/// An upstream and how to treat it.
#[derive(Clone)]
pub struct UpstreamEntry {
    /// The registry.
    pub upstream: Arc<dyn Upstream>,
    /// How its tags are kept fresh.
    pub policy: UpstreamPolicy,
    /// How its content is kept.
    pub retention: RetentionRule,
    /// Repositories that are treated differently: the first whose pattern matches decides.
    pub repositories: Vec<RepositoryRule>,
}

impl UpstreamEntry {
    /// An upstream that is treated as others are.
    pub fn new(upstream: Arc<dyn Upstream>) -> Self {
        Self {
            upstream,
            policy: UpstreamPolicy::default(),
            retention: RetentionRule::default(),
            repositories: Vec::new(),
        }
    }

    /// How the tags of a repository are kept fresh.
    pub fn policy(&self, repository: &Repository) -> &UpstreamPolicy {
        match self.rule(repository) {
            Some(rule) => &rule.policy,
            None => &self.policy,
        }
    }

    /// What is different for a repository, if anything is.
    pub fn rule(&self, repository: &Repository) -> Option<&RepositoryRule> {
        let mut rules = self.repositories.iter();
        rules.find(|rule| rule.pattern.matches(repository))
    }
}

/// The closed list of upstreams (I12).
#[derive(Clone, Default)]
pub struct Upstreams {
    entries: BTreeMap<UpstreamId, Arc<UpstreamEntry>>,
}

impl Upstreams {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an upstream, in place of one of the same name.
    pub fn insert(&mut self, id: UpstreamId, entry: UpstreamEntry) {
        self.entries.insert(id, Arc::new(entry));
    }

    /// The upstream of this name.
    pub fn get(&self, id: &UpstreamId) -> Option<&Arc<UpstreamEntry>> {
        self.entries.get(id)
    }

    /// The names, in order.
    pub fn ids(&self) -> impl Iterator<Item = &UpstreamId> {
        self.entries.keys()
    }
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.entries.keys()).finish()
    }
}
