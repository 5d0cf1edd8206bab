//! An upstream under test, and the registries behind its endpoints.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use registry_core::{
    Caller, Digest, FetchedTags, Reference, Repository, Resolution, Tag, TagPage, Upstream,
    UpstreamError, UpstreamId,
};
use registry_server::testing::{FixtureImage, FixtureRegistry, ImageSpec};
use registry_server::upstream::{HttpUpstream, HttpUpstreamConfig, RequestKind, UpstreamObserver};
use tokio::sync::watch;

/// A budget that is soon over, and long enough for what is answered at once on a busy machine.
pub(crate) const SOON: Duration = Duration::from_millis(700);

/// How long anything is waited for before the test fails.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// An upstream at these endpoints, whose silence is soon noticed, and soon forgiven.
pub(crate) fn impatient(endpoints: &[&FixtureRegistry]) -> HttpUpstreamConfig {
    let mut config = config(endpoints);
    config.budgets.headers = SOON;
    config.budgets.body_idle = SOON;
    config
}

/// An upstream at these endpoints that is waited for, and soon forgiven.
pub(crate) fn config(endpoints: &[&FixtureRegistry]) -> HttpUpstreamConfig {
    let urls = endpoints.iter().map(|registry| registry.url());
    let id = UpstreamId::parse("registry.test").unwrap();
    let mut config = HttpUpstreamConfig::new(id, urls.map(|url| url.parse().unwrap()));
    config.probes.first = Duration::from_millis(20);
    config.probes.max = Duration::from_millis(50);
    config
}

/// A registry with one image, at `app:latest`, and that image.
pub(crate) async fn registry() -> (FixtureRegistry, FixtureImage) {
    let registry = FixtureRegistry::start().await;
    let image = registry.add_image("app", "latest", &ImageSpec::new(1).layers(&[200_000]));
    (registry, image)
}

/// An upstream, asked about one repository by nobody in particular.
pub(crate) struct Asked {
    pub(crate) upstream: HttpUpstream,
    pub(crate) events: Arc<Events>,
    repository: Repository,
}

impl Asked {
    pub(crate) fn with(mut config: HttpUpstreamConfig) -> Self {
        let events = Arc::new(Events::default());
        let observer: Arc<Events> = Arc::clone(&events);
        config.observer = Some(observer);
        Self {
            upstream: HttpUpstream::new(config).unwrap(),
            events,
            repository: Repository::parse("app").unwrap(),
        }
    }

    pub(crate) fn of(endpoints: &[&FixtureRegistry]) -> Self {
        Self::with(config(endpoints))
    }

    pub(crate) fn impatiently(endpoints: &[&FixtureRegistry]) -> Self {
        Self::with(impatient(endpoints))
    }

    pub(crate) async fn resolve(&self, tag: &str) -> Result<Resolution, UpstreamError> {
        let (tag, caller) = (Tag::parse(tag).unwrap(), Caller::Anonymous);
        let resolving = self.upstream.resolve(&self.repository, &tag, None, &caller);
        Ok(resolving.await?.value)
    }

    pub(crate) async fn manifest(&self, digest: Digest) -> Result<Option<Bytes>, UpstreamError> {
        let (reference, caller) = (Reference::Digest(digest), Caller::Anonymous);
        let fetching = self
            .upstream
            .manifest(&self.repository, &reference, &caller);
        Ok(fetching
            .await?
            .map(|manifest| manifest.value.bytes().clone()))
    }

    pub(crate) async fn has_manifest(&self, digest: Digest) -> Result<bool, UpstreamError> {
        let caller = Caller::Anonymous;
        let asking = self
            .upstream
            .has_manifest(&self.repository, digest, &caller);
        asking.await
    }

    pub(crate) async fn stat_blob(&self, digest: Digest) -> Result<bool, UpstreamError> {
        let caller = Caller::Anonymous;
        let asking = self.upstream.stat_blob(&self.repository, digest, &caller);
        Ok(asking.await?.is_some())
    }

    /// How much came of a blob until its end; none where there is no such blob.
    pub(crate) async fn blob(&self, digest: Digest) -> Result<Option<usize>, UpstreamError> {
        let caller = Caller::Anonymous;
        let asking = self
            .upstream
            .blob(&self.repository, digest, None, None, &caller);
        let Some(mut blob) = asking.await? else {
            return Ok(None);
        };
        let mut count = 0;
        while let Some(chunk) = blob.stream.next().await {
            count += chunk?.len();
        }
        Ok(Some(count))
    }

    pub(crate) async fn tags(&self) -> Result<Option<FetchedTags>, UpstreamError> {
        let page = TagPage {
            after: None,
            limit: 100,
        };
        let caller = Caller::Anonymous;
        let listing = self.upstream.tags(&self.repository, page, &caller);
        listing.await
    }
}

/// What an upstream told its observer, a line each.
#[derive(Debug)]
pub(crate) struct Events(watch::Sender<Vec<String>>);

impl Default for Events {
    fn default() -> Self {
        Self(watch::Sender::new(Vec::new()))
    }
}

impl Events {
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    /// How many lines begin like this.
    pub(crate) fn count(&self, prefix: &str) -> usize {
        let events = self.0.borrow();
        let found = events.iter().filter(|event| event.starts_with(prefix));
        found.count()
    }

    /// Waits until so many lines begin like this.
    pub(crate) async fn wait_for(&self, prefix: &str, count: usize) {
        let mut receiver = self.0.subscribe();
        let enough = |events: &Vec<String>| {
            let found = events.iter().filter(|event| event.starts_with(prefix));
            found.count() >= count
        };
        let waiting = tokio::time::timeout(WAIT_MAX, receiver.wait_for(enough));
        if waiting.await.is_err() {
            panic!("waited in vain for {count} {prefix:?}: {:#?}", self.all());
        }
    }

    fn add(&self, event: String) {
        self.0.send_modify(|events| events.push(event));
    }
}

impl UpstreamObserver for Events {
    fn answered(&self, kind: RequestKind, status: Option<u16>, _: Duration) {
        let status = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        self.add(format!("{} {status}", kind.as_str()));
    }

    fn received(&self, bytes: u64) {
        self.add(format!("received {bytes}"));
    }

    fn endpoint_turned(&self, endpoint: &str, is_well: bool) {
        let turn = if is_well { "well" } else { "ill" };
        self.add(format!("{turn} {endpoint}"));
    }
}
