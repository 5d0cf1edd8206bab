//! The whole mirror, over real sockets and files, against fixture registries: what clients get,
//! and what is asked upstream for it.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod access;
mod full_disk;
mod killed;
mod lies;
mod offline;
mod one_fetch;
#[expect(dead_code, reason = "the tests of the binary itself use the rest")]
#[path = "../binary/process.rs"]
mod process;
mod ranges;
mod referrers;
mod resume;
mod support;
mod tags;
