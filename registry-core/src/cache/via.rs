//! The upstream that a request is answered through: as it was configured when the request came.
//!
//! A request that asks several questions, and a fill that resumes, ask all of them here. So a change
//! of the configuration cuts nothing short; and whoever comes after it neither joins what was begun
//! through another upstream of the same name, nor believes what that said was not there.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::mem;
use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLockReadGuard};

use super::{CacheError, Inner, RegistryCache};
use crate::{Origin, UpstreamEntry, UpstreamId, Upstreams};

/// An upstream, and how it was treated when a request came. Two are equal if they are the same
/// upstream, however it is treated.
#[derive(Clone)]
pub(super) struct Via(Arc<UpstreamEntry>);

impl Via {
    fn address(&self) -> *const () {
        Arc::as_ptr(&self.0.upstream).cast()
    }
}

impl Deref for Via {
    type Target = UpstreamEntry;

    fn deref(&self) -> &UpstreamEntry {
        &self.0
    }
}

impl PartialEq for Via {
    fn eq(&self, other: &Self) -> bool {
        self.address() == other.address()
    }
}

impl Eq for Via {}

impl Hash for Via {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address().hash(state);
    }
}

impl fmt::Debug for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Via").field(&self.address()).finish()
    }
}

impl RegistryCache {
    /// The upstreams that this cache fetches from, as they are now.
    pub fn upstreams(&self) -> Arc<Upstreams> {
        self.inner.upstreams()
    }

    /// Fetches from these upstreams from now on. What is under way ends as it began, through the
    /// upstream that it began with. Of one that is gone nothing is served any more; what is held of
    /// it stays, and is served when it is there again.
    ///
    /// An upstream is the same as before if it is the same value: of any other, what was said not to
    /// be there, and that it kept everybody waiting, is forgotten. How it is treated may change all
    /// the same, and what is kept is looked at anew under its limits.
    ///
    /// Has to be called within a Tokio runtime.
    pub fn set_upstreams(&self, upstreams: Upstreams) {
        let upstreams = Arc::new(upstreams);
        let before = {
            let current = self.inner.upstreams.write();
            let mut current = current.unwrap_or_else(PoisonError::into_inner);
            mem::replace(&mut *current, Arc::clone(&upstreams))
        };
        let changed = |id: &UpstreamId| {
            let same =
                |(one, other): (&Arc<_>, &Arc<_>)| Via(Arc::clone(one)) == Via(Arc::clone(other));
            !before.get(id).zip(upstreams.get(id)).is_some_and(same)
        };
        // After the swap: what is remembered from now on is of the new ones.
        self.inner.negative().forget_upstreams(changed);
        for id in before.ids().filter(|id| changed(id)) {
            self.inner.outages.forget(id);
        }
        self.inner.reconsider();
    }
}

impl Inner {
    pub(super) fn upstreams(&self) -> Arc<Upstreams> {
        Arc::clone(&self.current())
    }

    fn current(&self) -> RwLockReadGuard<'_, Arc<Upstreams>> {
        // Nothing panics while it holds the lock.
        self.upstreams
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The upstream of a request that comes now.
    pub(super) fn via(&self, origin: &Origin) -> Result<Via, CacheError> {
        let upstreams = self.current();
        let entry = upstreams.get(origin.upstream());
        entry
            .map(|entry| Via(Arc::clone(entry)))
            .ok_or(CacheError::UnknownUpstream)
    }

    /// Whether a request that comes now would be answered through the same upstream.
    pub(super) fn is_current(&self, via: &Via, origin: &Origin) -> bool {
        self.via(origin).is_ok_and(|current| current == *via)
    }
}
