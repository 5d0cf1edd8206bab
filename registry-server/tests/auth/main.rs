//! Credentials at upstreams: where they come from, what they are shown to, and above all what
//! not. Every test reads every request that left, and looks for secrets in it.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod basic;
mod bearer;
mod configuration;
mod endpoints;
#[path = "../support/errors.rs"]
mod errors;
mod limits;
mod secrecy;
mod sources;
mod support;
