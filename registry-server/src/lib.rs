//! The mirror as an HTTP server: hyper in front, an HTTP client behind.

pub mod admin;
pub mod front;
pub mod upstream;

#[cfg(feature = "testing")]
pub mod testing;
