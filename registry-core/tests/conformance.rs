//! The conformance suites on the stores of this crate. Each store is handed over as `Arc<dyn _>`,
//! which is how the cache holds it.

use std::sync::Arc;

use registry_core::testing::{FaultingStore, conformance};
use registry_core::{MemoryStore, Stores};

macro_rules! conforms {
    ($name:ident, $make:expr) => {
        mod $name {
            use super::*;

            #[tokio::test]
            async fn blobs() {
                conformance::blobs::all(async || $make as _).await;
            }

            #[tokio::test]
            async fn unfinished_blobs() {
                conformance::sinks::unfinished_blobs_are_kept($make).await;
            }

            #[tokio::test]
            async fn manifests() {
                conformance::manifests::all(async || $make as _).await;
            }

            #[tokio::test]
            async fn tags() {
                conformance::tags::all(async || $make as _).await;
            }

            #[tokio::test]
            async fn links() {
                conformance::links::all(async || $make as _).await;
            }

            #[tokio::test]
            async fn referrers() {
                conformance::referrers::all(async || $make as _).await;
            }

            #[tokio::test]
            async fn together() {
                conformance::together::all(async || Stores::of($make)).await;
            }
        }
    };
}

conforms!(memory, Arc::new(MemoryStore::new()));
conforms!(
    faulting_without_faults,
    Arc::new(FaultingStore::new(MemoryStore::new()))
);
conforms!(
    faulting_twice,
    Arc::new(FaultingStore::new(FaultingStore::new(MemoryStore::new())))
);
