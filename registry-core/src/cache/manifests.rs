//! The ways of a manifest through the cache: by tag, and by digest.

use std::sync::Arc;

use tokio::time::timeout;

use super::freshness::{Freshness, assess};
use super::negative::Absent;
use super::status::{BypassReason, CacheStatus, Served, StaleReason};
use super::{CacheError, Fetched, Inner, RegistryCache};
use crate::{
    Caller, Digest, Link, LinkTarget, Manifest, Origin, Reference, Resolution, StoreOperation, Tag,
    TagRecord, UpstreamError, UpstreamPolicy,
};

/// What a revalidation found a tag to name.
#[derive(Clone)]
pub(super) struct Resolved {
    manifest: Manifest,
    status: CacheStatus,
}

/// A tag that can be served without the upstream.
struct Held {
    record: TagRecord,
    manifest: Manifest,
}

impl Held {
    fn serve(self, status: CacheStatus, cache: &Inner) -> Served<Manifest> {
        let age = cache.now().since(self.record.validated_at);
        Served {
            value: self.manifest,
            status,
            age: Some(age),
        }
    }
}

impl RegistryCache {
    /// A manifest by tag or by digest, for a GET and a HEAD alike: a tag is never recorded as
    /// naming a manifest that is not held, so that it can be served when the upstream is gone.
    ///
    /// A tag that is not fresh is revalidated (I11); where the upstream cannot tell within its
    /// budget, what is held is served, and said to be stale.
    ///
    /// # Errors
    ///
    /// [`CacheError::NotFound`] where the upstream has no such manifest in this repository, or had
    /// none a moment ago; [`CacheError::Upstream`] where it cannot tell and nothing is held;
    /// [`CacheError::UnknownUpstream`]; [`CacheError::Overloaded`]; [`CacheError::Lost`];
    /// [`CacheError::Closed`].
    pub async fn manifest(
        &self,
        origin: &Origin,
        reference: &Reference,
        caller: &Caller,
    ) -> Result<Served<Manifest>, CacheError> {
        match reference {
            Reference::Tag(tag) => self.inner.manifest_by_tag(origin, tag, caller).await,
            Reference::Digest(digest) => {
                self.inner.manifest_by_digest(origin, *digest, caller).await
            }
        }
    }
}

impl Inner {
    async fn manifest_by_tag(
        self: &Arc<Self>,
        origin: &Origin,
        tag: &Tag,
        caller: &Caller,
    ) -> Result<Served<Manifest>, CacheError> {
        let policy = &self.entry(origin)?.policy;
        let Some(held) = self.held(origin, tag).await else {
            let resolved = self.resolve(origin, tag, None, caller).await?;
            let resolved = resolved.ok_or(CacheError::NotFound)?;
            return Ok(Served::new(resolved.manifest, resolved.status));
        };
        if assess(held.record.validated_at, policy.tag_ttl, self.now()) == Freshness::Fresh {
            return Ok(held.serve(CacheStatus::Hit, self));
        }
        let prior = Some(held.record.clone());
        let resolved = timeout(policy.tag_budget, self.resolve(origin, tag, prior, caller)).await;
        self.answer_with(held, resolved.ok(), policy)
    }

    /// Chooses between what is held and what the upstream said; `None` if it said nothing in time.
    fn answer_with(
        &self,
        held: Held,
        resolved: Option<Result<Option<Resolved>, CacheError>>,
        policy: &UpstreamPolicy,
    ) -> Result<Served<Manifest>, CacheError> {
        let reason = match resolved {
            Some(Ok(Some(Resolved { manifest, status }))) => {
                return Ok(Served::new(manifest, status));
            }
            Some(Ok(None)) if policy.forward_not_found => return Err(CacheError::NotFound),
            Some(Ok(None)) => StaleReason::Gone,
            Some(Err(CacheError::Upstream(error))) if error.allows_stale() => {
                StaleReason::of(&error)
            }
            Some(Err(CacheError::Closed | CacheError::Lost | CacheError::Overloaded)) => {
                StaleReason::Unavailable
            }
            Some(Err(error)) => return Err(error),
            None => StaleReason::Timeout,
        };
        Ok(held.serve(CacheStatus::Stale(reason), self))
    }

    async fn held(&self, origin: &Origin, tag: &Tag) -> Option<Held> {
        let record = self.stores.tags.tag(origin, tag);
        let record = self.store(StoreOperation::Index, record).await.ok()??;
        let manifest = self.stored_manifest(record.digest).await?;
        Some(Held { record, manifest })
    }

    /// A manifest that the store holds; one that it cannot read is not held.
    async fn stored_manifest(&self, digest: Digest) -> Option<Manifest> {
        let manifest = self.stores.manifests.manifest(digest);
        self.store(StoreOperation::Index, manifest).await.ok()?
    }

    /// Asks the upstream what `tag` names, and records it: one flight for all who ask.
    async fn resolve(
        self: &Arc<Self>,
        origin: &Origin,
        tag: &Tag,
        prior: Option<TagRecord>,
        caller: &Caller,
    ) -> Result<Option<Resolved>, CacheError> {
        if self.is_absent(&Absent::tag(origin, tag, caller)) {
            return Ok(None);
        }
        let key = (origin.clone(), tag.clone(), caller.clone());
        let work = || {
            let (cache, key) = (Arc::clone(self), key.clone());
            async move {
                let (origin, tag, caller) = key;
                cache.revalidate(&origin, &tag, prior, &caller).await
            }
        };
        self.resolving.fly(&self.tasks, key.clone(), work).await
    }

    async fn revalidate(
        self: &Arc<Self>,
        origin: &Origin,
        tag: &Tag,
        prior: Option<TagRecord>,
        caller: &Caller,
    ) -> Result<Option<Resolved>, CacheError> {
        let upstream = &self.entry(origin)?.upstream;
        let known = prior.as_ref().map(|record| record.digest);
        let resolution = upstream.resolve(origin.repository(), tag, known, caller);
        let (digest, fetched) = match (self.in_time(resolution).await?, known) {
            (Resolution::Unchanged, Some(known)) => (known, None),
            (Resolution::Names(descriptor), _) => {
                self.refuse_oversized(descriptor.size)?;
                (descriptor.digest, None)
            }
            (Resolution::Fetched(manifest), _) => {
                self.refuse_oversized(manifest.descriptor().size)?;
                let digest = manifest.digest();
                (digest, Some(self.keep_manifest(origin, manifest).await))
            }
            (Resolution::Absent, _) => {
                self.remember_absent(Absent::tag(origin, tag, caller));
                return Ok(None);
            }
            (Resolution::Unchanged, None) => {
                let what = "it says unchanged of a tag that it was never asked about".to_owned();
                return Err(UpstreamError::Protocol { what }.into());
            }
        };
        let resolved = match fetched {
            Some(fetched) => Resolved::fetched(fetched),
            None => self.manifest_named(origin, digest, caller).await?,
        };
        if resolved.status != CacheStatus::Bypass(BypassReason::StoreFailing) {
            self.record(origin, tag, digest, prior).await;
        }
        Ok(Some(resolved))
    }

    fn refuse_oversized(&self, size: u64) -> Result<(), CacheError> {
        let limit = self.limits.manifest_bytes_max;
        if size <= limit as u64 {
            return Ok(());
        }
        let what = format!("a manifest has {size} bytes, and {limit} is the limit");
        Err(UpstreamError::Protocol { what }.into())
    }

    /// The manifest that a tag was just said to name: the upstream has it in this origin (I5).
    async fn manifest_named(
        self: &Arc<Self>,
        origin: &Origin,
        digest: Digest,
        caller: &Caller,
    ) -> Result<Resolved, CacheError> {
        if let Some(manifest) = self.stored_manifest(digest).await {
            self.grant_manifest(origin, &manifest).await;
            return Ok(Resolved {
                manifest,
                status: CacheStatus::Revalidated,
            });
        }
        match self.fetch_manifest(origin, digest, caller).await? {
            Some(fetched) => Ok(Resolved::fetched(fetched)),
            None => {
                let what = format!("it says that a tag names {digest}, and has no such manifest");
                Err(UpstreamError::Protocol { what }.into())
            }
        }
    }

    /// Records what a tag names. The manifest is stored already, so the record promises nothing
    /// that is not there.
    async fn record(&self, origin: &Origin, tag: &Tag, digest: Digest, prior: Option<TagRecord>) {
        let now = self.now();
        let fetched_at = match prior {
            Some(prior) if prior.digest == digest => prior.fetched_at,
            _ => now,
        };
        let record = TagRecord {
            digest,
            fetched_at,
            validated_at: now,
        };
        // A tag that was not recorded is revalidated again: nobody has to know.
        let put = self.stores.tags.put_tag(origin, tag, record);
        let _ = self.store(StoreOperation::Index, put).await;
    }

    async fn manifest_by_digest(
        self: &Arc<Self>,
        origin: &Origin,
        digest: Digest,
        caller: &Caller,
    ) -> Result<Served<Manifest>, CacheError> {
        self.entry(origin)?;
        let target = LinkTarget::Manifest(digest);
        if let Some(manifest) = self.stored_manifest(digest).await {
            if self.linked(origin, target).await.is_some() {
                self.grant_named(origin, &manifest).await;
                return Ok(Served::new(manifest, CacheStatus::Hit));
            }
            self.confirm(origin, target, caller).await?;
            self.grant_manifest(origin, &manifest).await;
            return Ok(Served::new(manifest, CacheStatus::Revalidated));
        }
        if self.is_absent(&Absent::content(origin, target, caller)) {
            return Err(CacheError::NotFound);
        }
        let fetched = self.fetch_manifest(origin, digest, caller).await?;
        let resolved = Resolved::fetched(fetched.ok_or(CacheError::NotFound)?);
        Ok(Served::new(resolved.manifest, resolved.status))
    }

    /// Fetches a manifest by digest, keeps and links it: one flight for all who ask. It does not
    /// look for a remembered absence: that a tag names it is newer.
    async fn fetch_manifest(
        self: &Arc<Self>,
        origin: &Origin,
        digest: Digest,
        caller: &Caller,
    ) -> Result<Option<Fetched>, CacheError> {
        let absent = Absent::content(origin, LinkTarget::Manifest(digest), caller);
        let key = (origin.clone(), digest, caller.clone());
        let work = || {
            let cache = Arc::clone(self);
            async move {
                let Absent { origin, caller, .. } = &absent;
                let reference = Reference::Digest(digest);
                let upstream = &cache.entry(origin)?.upstream;
                let manifest = upstream.manifest(origin.repository(), &reference, caller);
                match cache.in_time(manifest).await? {
                    Some(manifest) if manifest.digest() != digest => {
                        let what = format!("asked for {digest}, it sends {}", manifest.digest());
                        Err(UpstreamError::Protocol { what }.into())
                    }
                    Some(manifest) => {
                        cache.refuse_oversized(manifest.descriptor().size)?;
                        Ok(Some(cache.keep_manifest(origin, manifest).await))
                    }
                    None => {
                        cache.remember_absent(absent);
                        Ok(None)
                    }
                }
            }
        };
        self.fetching.fly(&self.tasks, key, work).await
    }

    /// Stores a manifest that came from `origin`, and then links it there (I6).
    async fn keep_manifest(&self, origin: &Origin, manifest: Manifest) -> Fetched {
        let put = self.stores.manifests.put_manifest(manifest.clone());
        let stored = self.store(StoreOperation::Index, put).await.is_ok();
        if stored && self.grant_manifest(origin, &manifest).await {
            self.health.took();
        }
        Fetched { manifest, stored }
    }

    /// Links what a manifest names where that was not done yet: an index links its manifests, and
    /// one that another origin brought is then served without ever having been fetched here. The
    /// last that it names stands for all, which are linked together.
    async fn grant_named(&self, origin: &Origin, manifest: &Manifest) {
        if let Some(named) = manifest.links().last()
            && self.linked(origin, named.target).await.is_none()
        {
            self.grant_manifest(origin, manifest).await;
        }
    }

    /// Links a manifest in an origin, and what it names (I5); whether they are linked.
    async fn grant_manifest(&self, origin: &Origin, manifest: &Manifest) -> bool {
        let own = Link {
            target: LinkTarget::Manifest(manifest.digest()),
            size: Some(manifest.descriptor().size),
        };
        let mut links = manifest.links();
        links.push(own);
        self.grant(origin, links).await
    }
}

impl Resolved {
    fn fetched(fetched: Fetched) -> Self {
        let status = if fetched.stored {
            CacheStatus::Miss
        } else {
            CacheStatus::Bypass(BypassReason::StoreFailing)
        };
        Self {
            manifest: fetched.manifest,
            status,
        }
    }
}
