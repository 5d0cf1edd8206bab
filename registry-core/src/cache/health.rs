//! Whether the store works: a broken one makes the mirror a plain proxy, said once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::StoreError;

/// What is known of the store's health.
#[derive(Default)]
pub(super) struct StoreHealth {
    failing: AtomicBool,
    failures: AtomicU64,
}

impl StoreHealth {
    /// Takes note of a failure, and passes the outcome on. It is counted always, and logged when
    /// it is the first since the store last took something.
    pub(super) fn note<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &outcome {
            self.failures.fetch_add(1, Ordering::Relaxed);
            if !self.failing.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    error = error as &dyn std::error::Error,
                    "the store is failing: content passes through without being kept"
                );
            }
        }
        outcome
    }

    /// Takes note that the store has taken something durably. Only that ends a failure: a store
    /// that cannot write may still read.
    pub(super) fn took(&self) {
        if self.failing.load(Ordering::Relaxed) && self.failing.swap(false, Ordering::Relaxed) {
            tracing::info!(failures = self.failures(), "the store works again");
        }
    }

    /// Whether it has failed, and has taken nothing since.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// How often the store has failed.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}
