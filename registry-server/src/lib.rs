//! The mirror as an HTTP server: hyper in front, an HTTP client behind.

#[cfg(feature = "testing")]
pub mod testing;
