//! The mirror as an HTTP server: hyper in front, an HTTP client behind.
//!
//! [`Mirror`] is all of it in one value, for a program to embed; the `registry-server` binary runs
//! the same, configured by [`config`].

mod admin;
mod announcement;
pub mod api;
pub mod archive;
pub mod config;
mod files;
pub mod front;
#[cfg(test)]
mod fuzz;
mod health;
pub mod hosts_toml;
pub mod logging;
mod metrics;
mod mirror;
#[cfg(feature = "testing")]
pub mod testing;
mod trace;
pub mod upstream;

pub use admin::AdminOptions;
pub use announcement::Announcement;
pub use metrics::Metrics;
pub use mirror::{Mirror, MirrorBuilder, ReloadError, ReloadHandle, StartError};
