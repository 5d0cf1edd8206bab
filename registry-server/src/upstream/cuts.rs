//! Which endpoint last broke off the body of which blob: the rest is asked of the next one first.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use registry_core::Digest;

use super::config::CUTS_MAX;

/// Blobs whose bodies broke off, and the endpoints that they came from; the latest last.
#[derive(Debug, Default)]
pub(super) struct Cuts(Mutex<VecDeque<(Digest, usize)>>);

impl Cuts {
    /// A body of this blob broke off at an endpoint.
    pub(super) fn note(&self, digest: Digest, endpoint: usize) {
        let mut cuts = self.lock();
        cuts.retain(|(cut, _)| *cut != digest);
        if cuts.len() >= CUTS_MAX {
            cuts.pop_front();
        }
        cuts.push_back((digest, endpoint));
    }

    /// A body of this blob came to its end.
    pub(super) fn forget(&self, digest: Digest) {
        self.lock().retain(|(cut, _)| *cut != digest);
    }

    /// Which of `endpoints` endpoints to ask for this blob first.
    pub(super) fn first_for(&self, digest: Digest, endpoints: usize) -> usize {
        let cuts = self.lock();
        let cut = cuts.iter().find(|(cut, _)| *cut == digest);
        cut.map_or(0, |(_, endpoint)| (endpoint + 1) % endpoints.max(1))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Digest, usize)>> {
        // Nothing is half done in it when a thread panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use registry_core::{Algorithm, Hasher};

    use super::*;

    fn digest(number: usize) -> Digest {
        Hasher::digest_of(Algorithm::Sha256, &number.to_be_bytes())
    }

    #[test]
    fn the_endpoint_after_the_one_that_cut_comes_first() {
        let cuts = Cuts::default();
        assert_eq!(cuts.first_for(digest(0), 2), 0);
        for (endpoint, first) in [(0, 1), (1, 0), (0, 1)] {
            cuts.note(digest(0), endpoint);
            assert_eq!(cuts.first_for(digest(0), 2), first);
        }
        assert_eq!(cuts.first_for(digest(1), 2), 0);
        cuts.forget(digest(0));
        assert_eq!(cuts.first_for(digest(0), 2), 0);
    }

    #[test]
    fn the_oldest_makes_room() {
        let cuts = Cuts::default();
        for number in 0..=CUTS_MAX {
            cuts.note(digest(number), 0);
        }
        assert_eq!(cuts.lock().len(), CUTS_MAX);
        assert_eq!(cuts.first_for(digest(0), 2), 0);
        assert_eq!(cuts.first_for(digest(1), 2), 1);
    }
}
