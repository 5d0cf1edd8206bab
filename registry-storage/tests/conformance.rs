//! The conformance suites on the disk.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::sync::{Arc, Mutex};

use registry_core::Stores;
use registry_core::testing::{FaultingStore, ManualClock, conformance};
use registry_storage::{DiskOptions, DiskStore};
use tempfile::TempDir;

/// Gives stores in folders of their own, which are there as long as this is.
#[derive(Default)]
struct Folders(Mutex<Vec<TempDir>>);

impl Folders {
    async fn store(&self) -> Arc<DiskStore> {
        let dir = TempDir::new().unwrap();
        let store = DiskStore::open(dir.path()).await.unwrap();
        self.0.lock().unwrap().push(dir);
        Arc::new(store)
    }

    /// Stores with upkeep, that tell by `clock` when something is used.
    async fn kept(&self, clock: Arc<ManualClock>) -> Stores {
        let dir = TempDir::new().unwrap();
        let mut options = DiskOptions::default();
        options.clock = clock;
        let store = DiskStore::open_with(dir.path(), options).await.unwrap();
        self.0.lock().unwrap().push(dir);
        let store = Arc::new(store);
        Stores::of(Arc::clone(&store)).kept_by(store)
    }
}

#[tokio::test]
async fn blobs() {
    let folders = Folders::default();
    conformance::blobs::all(async || folders.store().await as _).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_on_several_threads() {
    let folders = Folders::default();
    conformance::blobs::all(async || folders.store().await as _).await;
}

#[tokio::test]
async fn unfinished_blobs() {
    let folders = Folders::default();
    conformance::sinks::unfinished_blobs_are_kept(folders.store().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_blobs_on_several_threads() {
    let folders = Folders::default();
    for _ in 0..10 {
        conformance::sinks::unfinished_blobs_are_kept(folders.store().await).await;
    }
}

#[tokio::test]
async fn manifests() {
    let folders = Folders::default();
    conformance::manifests::all(async || folders.store().await as _).await;
}

#[tokio::test]
async fn tags() {
    let folders = Folders::default();
    conformance::tags::all(async || folders.store().await as _).await;
}

#[tokio::test]
async fn links() {
    let folders = Folders::default();
    conformance::links::all(async || folders.store().await as _).await;
}

#[tokio::test]
async fn referrers() {
    let folders = Folders::default();
    conformance::referrers::all(async || folders.store().await as _).await;
}

#[tokio::test]
async fn inventory() {
    let folders = Folders::default();
    let make = async |clock: Arc<ManualClock>| folders.kept(clock).await;
    conformance::inventory::all(make).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inventory_on_several_threads() {
    let folders = Folders::default();
    let make = async |clock: Arc<ManualClock>| folders.kept(clock).await;
    conformance::inventory::all(make).await;
}

#[tokio::test]
async fn journal() {
    let folders = Folders::default();
    conformance::journal::all(async || folders.store().await as _).await;
}

#[tokio::test]
async fn together() {
    let folders = Folders::default();
    conformance::together::all(async || Stores::of(folders.store().await)).await;
}

#[tokio::test]
async fn within_another() {
    let folders = Folders::default();
    let make = async || FaultingStore::new((*folders.store().await).clone());
    conformance::blobs::all(async || Arc::new(make().await) as _).await;
    conformance::together::all(async || Stores::of(Arc::new(make().await))).await;
}
