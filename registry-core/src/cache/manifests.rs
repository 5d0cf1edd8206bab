//! The ways of a manifest through the cache: by digest here, by tag in `tags`.

use std::sync::Arc;

use super::negative::Absent;
use super::status::{BypassReason, CacheStatus, Served};
use super::upkeep::Promise;
use super::via::Via;
use super::{CacheError, Fetched, Inner, RegistryCache};
use crate::{
    Answered, Caller, Digest, Link, LinkTarget, Manifest, Origin, Reference, StoreOperation,
    UpstreamError,
};

/// A manifest that was found or fetched, and how.
#[derive(Clone)]
pub(super) struct Resolved {
    pub(super) manifest: Manifest,
    pub(super) status: CacheStatus,
}

impl RegistryCache {
    /// A manifest by tag or by digest, for a GET and a HEAD alike: a tag is never recorded as
    /// naming a manifest that is not held, so that it can be served when the upstream is gone.
    ///
    /// A tag that is not fresh is revalidated (I11); where the upstream cannot tell within its
    /// budget, what is held is served, and said to be stale. Until the question that it left
    /// unanswered has ended, so is every tag of that upstream, at once.
    ///
    /// # Errors
    ///
    /// [`CacheError::NotFound`] where the upstream has no such manifest in this repository, or had
    /// none a moment ago; [`CacheError::NotFoundStale`] where the tag is that of a signature or the
    /// like, and it had none when it was last asked; [`CacheError::Upstream`] where it cannot tell
    /// and nothing is held;
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
    /// A manifest that the store holds; one that it cannot read is not held.
    pub(super) async fn stored_manifest(&self, digest: Digest) -> Option<Manifest> {
        let manifests = &self.stores.manifests;
        if let Some(manifest) = manifests.manifest_at_hand(digest) {
            return Some(manifest);
        }
        let manifest = manifests.manifest(digest);
        self.store(StoreOperation::Index, manifest).await.ok()?
    }

    pub(super) fn refuse_oversized(&self, size: u64) -> Result<(), CacheError> {
        let limit = self.limits.manifest_bytes_max;
        if size <= limit as u64 {
            return Ok(());
        }
        let what = format!("a manifest has {size} bytes, and {limit} is the limit");
        Err(UpstreamError::Protocol { what }.into())
    }

    async fn manifest_by_digest(
        self: &Arc<Self>,
        origin: &Origin,
        digest: Digest,
        caller: &Caller,
    ) -> Result<Served<Manifest>, CacheError> {
        let via = &self.via(origin)?;
        let target = LinkTarget::Manifest(digest);
        let stored = self.stored_manifest(digest).await;
        let is_linked = stored.is_some() && self.linked(origin, target).await.is_some();
        let stored = match stored {
            Some(manifest) if is_linked => {
                self.grant_named(origin, &manifest).await;
                return Ok(Served::new(manifest, CacheStatus::Hit));
            }
            stored => stored,
        };
        // In a box: a hit would carry the room for all of it about.
        Box::pin(self.manifest_not_served(via, origin, digest, stored, caller)).await
    }

    /// A manifest that is not held, or not linked in that origin.
    async fn manifest_not_served(
        self: &Arc<Self>,
        via: &Via,
        origin: &Origin,
        digest: Digest,
        stored: Option<Manifest>,
        caller: &Caller,
    ) -> Result<Served<Manifest>, CacheError> {
        let target = LinkTarget::Manifest(digest);
        if let Some(manifest) = stored {
            self.confirm(via, origin, target, caller).await?;
            self.grant_manifest(origin, &manifest).await;
            return Ok(Served::new(manifest, CacheStatus::Revalidated));
        }
        if self.is_absent(&Absent::content(origin, target, caller)) {
            return Err(CacheError::NotFound);
        }
        let fetched = self.fetch_manifest(via, origin, digest, caller).await?;
        let resolved = Resolved::fetched(fetched.ok_or(CacheError::NotFound)?);
        Ok(Served::new(resolved.manifest, resolved.status))
    }

    /// Fetches a manifest by digest, keeps and links it: one flight for all who ask. It does not
    /// look for a remembered absence: that a tag names it is newer.
    pub(super) async fn fetch_manifest(
        self: &Arc<Self>,
        via: &Via,
        origin: &Origin,
        digest: Digest,
        caller: &Caller,
    ) -> Result<Option<Fetched>, CacheError> {
        let absent = Absent::content(origin, LinkTarget::Manifest(digest), caller);
        let key = (via.clone(), origin.clone(), digest, caller.clone());
        let work = || {
            let (cache, via) = (Arc::clone(self), via.clone());
            async move {
                let (origin, caller) = (&absent.place.origin, &absent.caller);
                let reference = Reference::Digest(digest);
                let manifest = via
                    .upstream
                    .manifest(origin.repository(), &reference, caller);
                match cache.in_time(manifest).await? {
                    Some(fetched) if fetched.value.digest() != digest => {
                        let sent = fetched.value.digest();
                        let what = format!("asked for {digest}, it sends {sent}");
                        Err(UpstreamError::Protocol { what }.into())
                    }
                    Some(fetched) => {
                        cache.refuse_oversized(fetched.value.descriptor().size)?;
                        Ok(Some(cache.keep_manifest(origin, fetched).await))
                    }
                    None => {
                        cache.remember_absent(&via, absent);
                        Ok(None)
                    }
                }
            }
        };
        self.fetching.fly(&self.tasks, key, work).await
    }

    /// Stores a manifest that came from `origin`, and then links it there (I6).
    pub(super) async fn keep_manifest(
        self: &Arc<Self>,
        origin: &Origin,
        fetched: Answered<Manifest>,
    ) -> Fetched {
        let manifest = fetched.value;
        let put = self.put_manifest(&manifest).await;
        let bypass = match put {
            Ok(_) => None,
            Err(CacheError::NoRoom) => Some(BypassReason::NoRoom),
            Err(_) => Some(BypassReason::StoreFailing),
        };
        // What it was promised is for what linking adds, too.
        if let Ok(_promise) = put {
            let target = LinkTarget::Manifest(manifest.digest());
            self.note(target, origin, fetched.endpoint).await;
            if self.link_all(origin, links_with(&manifest)).await {
                self.health.took();
            }
            self.kept_more(origin).await;
        }
        Fetched { manifest, bypass }
    }

    /// Keeps a manifest; gives what room it was promised.
    async fn put_manifest(
        self: &Arc<Self>,
        manifest: &Manifest,
    ) -> Result<Option<Promise>, CacheError> {
        let size = manifest.descriptor().size;
        let promise = self.room(size).await?;
        let put = || self.stores.manifests.put_manifest(manifest.clone());
        self.store_making_room(StoreOperation::Index, size, put)
            .await?;
        Ok(promise)
    }

    /// Links what a manifest names where that was not done yet: an index links its manifests, and
    /// one that another origin brought is then served without ever having been fetched here. The
    /// last that it names stands for all, which are linked together.
    async fn grant_named(self: &Arc<Self>, origin: &Origin, manifest: &Manifest) {
        if let Some(named) = manifest.links().last()
            && self.linked(origin, named.target).await.is_none()
        {
            Box::pin(self.grant_manifest(origin, manifest)).await;
        }
    }

    /// Links a manifest that is kept in one more origin, and what it names (I5). A store may write
    /// down beside it that it is linked there: where there is no room for that now, it is linked when
    /// it is asked for again.
    pub(super) async fn grant_manifest(self: &Arc<Self>, origin: &Origin, manifest: &Manifest) {
        let links = links_with(manifest);
        // As where a tag still names what it named: then there is nothing to find room for.
        if self.stores.links.has_at_hand(origin, &links) {
            self.forget_absent(origin, &links);
            return;
        }
        match self.room_to_link().await {
            Ok(_promise) => drop(self.link_all(origin, links).await),
            Err(_) => self.forget_absent(origin, &links),
        }
    }

    /// Links a manifest and what it names in an origin; whether they are linked. None of it is
    /// remembered as absent any more: what was pushed is there as soon as its manifest is.
    async fn link_all(&self, origin: &Origin, links: Vec<Link>) -> bool {
        self.forget_absent(origin, &links);
        self.grant(origin, links).await
    }
}

impl Resolved {
    pub(super) fn fetched(fetched: Fetched) -> Self {
        let status = fetched
            .bypass
            .map_or(CacheStatus::Miss, CacheStatus::Bypass);
        Self {
            manifest: fetched.manifest,
            status,
        }
    }
}

/// The links of what a manifest names, and its own.
fn links_with(manifest: &Manifest) -> Vec<Link> {
    let own = Link {
        target: LinkTarget::Manifest(manifest.digest()),
        size: Some(manifest.descriptor().size),
    };
    let mut links = manifest.links().to_vec();
    links.push(own);
    links
}
