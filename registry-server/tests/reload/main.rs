//! A configuration that is exchanged while the mirror runs: over sockets, and with the binary.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops at what it cannot do without"
)]

#[path = "../support/http.rs"]
mod http;
#[expect(dead_code, reason = "what is said at the start is looked at elsewhere")]
#[path = "../binary/process.rs"]
mod process;

mod binary;
mod handle;
mod support;
