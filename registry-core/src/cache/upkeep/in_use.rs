//! Which blobs are being read, so that they are not evicted.
//!
//! It is a courtesy: what was opened stays readable when it is removed. But its bytes stay on the
//! disk until then, so that evicting it would gain nothing.

use std::any::Any;
use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures::StreamExt as _;
use futures::stream::BoxStream;

use crate::cache::{CacheError, Inner};
use crate::{BlobPayload, Digest};

/// Whatever lives for as long as a body is read.
type Body = Weak<dyn Any + Send + Sync>;

/// The bodies that are read.
#[derive(Default)]
pub(super) struct InUse(Mutex<Bodies>);

#[derive(Default)]
struct Bodies {
    of: HashMap<Digest, Vec<Body>>,
    /// How many there are, those that have ended included.
    noted: usize,
    /// How many there were when those that had ended were last dropped.
    pruned: usize,
    /// How many came since.
    since: usize,
}

impl InUse {
    /// Somebody reads a blob for as long as `body` lives. Where there are more than `bodies_max`, it
    /// is not taken note of.
    fn note(&self, digest: Digest, body: Body, bodies_max: usize) {
        let mut bodies = self.lock();
        // Once for every so many that come: what each of them costs does not grow with the table.
        bodies.since += 1;
        if bodies.since > bodies.pruned / 2 {
            bodies.prune();
        }
        if bodies.noted < bodies_max {
            bodies.of.entry(digest).or_default().push(body);
            bodies.noted += 1;
        }
    }

    /// Somebody reads a blob for as long as what this gives lives.
    fn hold(&self, digest: Digest, bodies_max: usize) -> Arc<()> {
        let hold = Arc::new(());
        let body: Arc<dyn Any + Send + Sync> = Arc::clone(&hold) as _;
        self.note(digest, Arc::downgrade(&body), bodies_max);
        hold
    }

    /// Whether anybody reads a blob.
    pub(super) fn contains(&self, digest: Digest) -> bool {
        let bodies = self.lock();
        let of = bodies.of.get(&digest);
        of.is_some_and(|of| of.iter().any(is_read))
    }

    fn lock(&self) -> MutexGuard<'_, Bodies> {
        // Nothing panics while it holds this; if something did, the table is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// A blob is in use for as long as anybody reads this.
    pub(in crate::cache) fn payload_in_use(
        &self,
        digest: Digest,
        payload: BlobPayload<CacheError>,
    ) -> BlobPayload<CacheError> {
        match payload {
            BlobPayload::File(file) => BlobPayload::File(self.in_use_while(digest, file)),
            BlobPayload::Slices(slices) => BlobPayload::Slices(self.in_use_during(digest, slices)),
            BlobPayload::Stream(stream) => BlobPayload::Stream(self.in_use_during(digest, stream)),
        }
    }

    /// A blob is in use for as long as anybody has this file.
    fn in_use_while(&self, digest: Digest, file: Arc<File>) -> Arc<File> {
        if self.stores.upkeep.is_some() {
            let body: Arc<dyn Any + Send + Sync> = Arc::clone(&file) as _;
            let bodies_max = self.limits.open_bodies_max;
            let in_use = &self.upkeep.in_use;
            in_use.note(digest, Arc::downgrade(&body), bodies_max);
        }
        file
    }

    /// A blob is in use for as long as this is read.
    fn in_use_during<T: 'static>(
        &self,
        digest: Digest,
        body: BoxStream<'static, T>,
    ) -> BoxStream<'static, T> {
        if self.stores.upkeep.is_none() {
            return body;
        }
        let bodies_max = self.limits.open_bodies_max;
        let hold = self.upkeep.in_use.hold(digest, bodies_max);
        let held = body.inspect(move |_| {
            let _hold = &hold;
        });
        held.boxed()
    }
}

fn is_read(body: &Body) -> bool {
    body.strong_count() > 0
}

impl Bodies {
    fn prune(&mut self) {
        self.noted = 0;
        self.of.retain(|_, of| {
            of.retain(is_read);
            self.noted += of.len();
            !of.is_empty()
        });
        self.pruned = self.noted;
        self.since = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::content::digest_of;

    #[test]
    fn a_blob_is_in_use_until_its_last_body_ends() {
        let in_use = InUse::default();
        let (one, two) = (digest_of(b"1"), digest_of(b"2"));
        let first = in_use.hold(one, 10);
        let second = in_use.hold(one, 10);
        assert!(in_use.contains(one) && !in_use.contains(two));
        drop(first);
        assert!(in_use.contains(one));
        drop(second);
        assert!(!in_use.contains(one));
    }

    #[test]
    fn the_table_is_bounded() {
        let in_use = InUse::default();
        let digest = |n: u64| digest_of(&n.to_be_bytes());
        let held: Vec<_> = (0..10).map(|n| in_use.hold(digest(n), 8)).collect();
        assert!(in_use.contains(digest(7)) && !in_use.contains(digest(8)));
        assert_eq!(in_use.lock().noted, 8);
        drop(held);
        // What has ended makes room.
        for n in 0..1_000 {
            let _body = in_use.hold(digest(n), 8);
            assert!(n < 8 || in_use.contains(digest(n)), "{n}");
            assert!(in_use.lock().noted <= 8);
        }
    }
}
