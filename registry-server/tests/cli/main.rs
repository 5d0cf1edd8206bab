//! Every command of the command line, run as a person or a script runs it, against a mirror of a
//! fixture registry.
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at what it cannot do without"
)]

mod archives;
mod change;
#[path = "../support/http.rs"]
mod http;
mod look;
mod manners;
mod readme;
mod shells;
mod support;
mod why;
mod work;
