//! The admin API over sockets: who may use it, what it is asked, what it answers. Every answer that
//! any of these tests sees is held against `docs/openapi.yaml`.
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at what it cannot do without"
)]

mod access;
mod archives;
mod content;
mod description;
mod health;
mod jobs;
mod questions;
mod readme;
mod state;
mod support;
