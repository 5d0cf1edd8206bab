//! Correctness under speed: bodies that the kernel sends are those that are read, to the byte,
//! whatever clients, files and fills do meanwhile. Each test runs with it on and off.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "../loopback/mod.rs"]
mod loopback;

mod filling;
mod shelf;
mod warm;

use std::sync::Arc;

use loopback::{Mirror, Setup};
use shelf::Shelf;

/// What the kernel is told to send at a time.
const WINDOW: usize = 2 << 20;

/// Some of these, and a part of one.
const SIZE: usize = 3 * WINDOW + 5;

/// More than all buffers between a file and a client that takes nothing.
const LARGE: usize = 16 << 20;

/// A mirror that has these blobs.
async fn mirror_of(shelf: &Arc<Shelf>, sendfile: bool) -> Mirror {
    Mirror::with(Setup {
        store: Some(Arc::clone(shelf) as _),
        sendfile: Some(sendfile),
        ..Setup::default()
    })
    .await
}
