//! Hashing what comes from an upstream, where it keeps nobody waiting who is answered.

use std::sync::Arc;

use bytes::Bytes;

use super::{CacheError, Inner};
use crate::{Digest, Hasher, Verified};

/// The hasher of one body.
pub(super) struct Digesting {
    cache: Arc<Inner>,
    /// `None` while another thread has it, and for good where that did not give it back.
    hasher: Option<Hasher>,
    bytes: u64,
    /// It runs where nobody is answered.
    runs_apart: bool,
}

impl Digesting {
    /// For one of the cache's own tasks.
    pub(super) fn in_task(cache: &Arc<Inner>, digest: Digest) -> Self {
        Self {
            runs_apart: cache.tasks.run_apart(),
            ..Self::in_answer(cache, digest)
        }
    }

    /// For the task that answers a client.
    pub(super) fn in_answer(cache: &Arc<Inner>, digest: Digest) -> Self {
        Self {
            cache: Arc::clone(cache),
            hasher: Some(Hasher::new(digest.algorithm())),
            bytes: 0,
            runs_apart: false,
        }
    }

    /// How many bytes were hashed.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Hashes the next bytes: at once where they are few, or where that keeps nobody waiting, and
    /// otherwise on a thread that may be kept busy.
    ///
    /// # Cancellation
    ///
    /// Nothing more can be hashed then, and nothing is verified.
    pub(super) async fn take(&mut self, pieces: Vec<Bytes>) -> Result<(), CacheError> {
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        let mut hasher = self.hasher.take().ok_or(CacheError::Lost)?;
        let hash = move || {
            pieces.iter().for_each(|piece| hasher.update(piece));
            hasher
        };
        let at_once = self.runs_apart || bytes <= self.cache.limits.hashed_inline_bytes_max;
        let hasher = if at_once {
            hash()
        } else {
            let hashed = self.cache.tasks.blocking(hash).await;
            hashed.ok_or(CacheError::Closed)?
        };
        self.hasher = Some(hasher);
        self.bytes += bytes;
        Ok(())
    }

    /// Holds what was hashed against the digest it should have.
    pub(super) fn verify(&self, expected: Digest) -> Result<Verified, CacheError> {
        let hasher = self.hasher.clone().ok_or(CacheError::Lost)?;
        Ok(hasher.verify(expected)?)
    }
}
