//! Several endpoints of one upstream, and what becomes of those that fail: who is asked, how often,
//! and after how long.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod budgets;
#[path = "../support/http.rs"]
mod client;
mod condition;
#[path = "../support/errors.rs"]
mod errors;
mod failover;
mod limits;
mod outage;
mod proxies;
mod proxy;
mod resting;
mod support;
