//! What every store has to do, as tests that any implementor runs.
//!
//! A suite is a module: [`blobs`] (with [`sinks`]), [`manifests`], [`tags`], [`links`],
//! [`referrers`], and [`together`] for a store that is all five; [`inventory`] and [`journal`] for
//! one that has upkeep. Its `all` takes a function that
//! makes a fresh, empty store, and runs every case on one of its own; a case is also a public
//! function, to be run alone while one works on it. A case panics where the store breaks a promise
//! of its contract, and says which.
//!
//! ```
//! use std::sync::Arc;
//! use registry_core::{BlobStore, MemoryStore, testing::conformance};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! conformance::blobs::all(async || Arc::new(MemoryStore::new()) as Arc<dyn BlobStore>).await;
//! # });
//! ```

pub mod blobs;
pub mod inventory;
pub mod journal;
pub mod links;
pub mod manifests;
pub mod referrers;
pub mod sinks;
pub mod tags;
pub mod together;

use std::task::Poll;

use futures::poll;

use crate::{Origin, Repository, Tag, UpstreamId};

/// Polls a future up to `polls` times, then drops it; what it gave, if it did.
async fn drop_after<F: Future + Unpin + Send>(mut future: F, polls: usize) -> Option<F::Output> {
    for _ in 0..polls {
        if let Poll::Ready(output) = poll!(&mut future) {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}

fn origin(upstream: &str, repository: &str) -> Origin {
    Origin::new(
        UpstreamId::parse(upstream).expect("a test's upstream is well-formed"),
        Repository::parse(repository).expect("a test's repository is well-formed"),
    )
}

fn tag(text: &str) -> Tag {
    Tag::parse(text).expect("a test's tag is well-formed")
}

/// Origins whose names begin alike, so that careless keys run into each other; in the order of
/// their bytes. No two of them may share anything (I4, I5).
fn confusable_origins() -> Vec<Origin> {
    let long = "a/".repeat(127) + "a";
    let names: [(&str, &str); 14] = [
        ("docker.io", "library/a"),
        ("docker.io", "library/a/b"),
        ("x", "a"),
        ("x", "a-b"),
        ("x", "a.b"),
        ("x", &long),
        ("x", "a/b"),
        ("x", "a/b/c"),
        ("x", "ab"),
        ("x", "b"),
        ("x.y", "a"),
        ("x:5000", "a"),
        ("x:5000", "a/b"),
        ("xa", "b"),
    ];
    names
        .iter()
        .map(|(upstream, repository)| origin(upstream, repository))
        .collect()
}
