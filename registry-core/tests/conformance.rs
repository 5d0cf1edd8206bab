//! The conformance suites on the stores of this crate. Each store is handed over as `Arc<dyn _>`,
//! which is how the cache holds it.

use std::sync::Arc;

use registry_core::testing::{FaultingStore, conformance};
use registry_core::{Clock, MemoryStore, Stores};

macro_rules! conforms {
    ($name:ident, $make:expr, $on_clock:expr) => {
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

            #[tokio::test]
            async fn inventory() {
                conformance::inventory::all(async |clock| {
                    let store = $on_clock(clock as _);
                    Stores::of(Arc::clone(&store)).kept_by(store)
                })
                .await;
            }

            #[tokio::test]
            async fn journal() {
                conformance::journal::all(async || $make as _).await;
            }
        }
    };
}

fn on(clock: Arc<dyn Clock>) -> MemoryStore {
    MemoryStore::with(clock, None)
}

conforms!(memory, Arc::new(MemoryStore::new()), |clock| Arc::new(on(
    clock
)));
conforms!(
    faulting_without_faults,
    Arc::new(FaultingStore::new(MemoryStore::new())),
    |clock| Arc::new(FaultingStore::new(on(clock)))
);
conforms!(
    faulting_twice,
    Arc::new(FaultingStore::new(FaultingStore::new(MemoryStore::new()))),
    |clock| Arc::new(FaultingStore::new(FaultingStore::new(on(clock))))
);
