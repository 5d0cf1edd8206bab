//! A configuration that is exchanged while the mirror runs: over sockets, and with the binary.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops at what it cannot do without"
)]

#[path = "../support/http.rs"]
mod http;
#[path = "../binary/process.rs"]
mod process;

mod binary;
mod handle;
mod support;
