//! The cache against a scripted upstream and the store in memory: what is asked of the upstream,
//! how often, and what clients get, whatever the upstream does.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod blobs;
mod chaos;
mod delete;
mod eviction;
mod explain;
mod failing_store;
mod kept;
mod manifests;
mod moments;
mod outages;
mod ranges;
mod reconfigured;
mod referrers;
mod resume;
mod support;
mod survey;
mod verify;
mod warm;
