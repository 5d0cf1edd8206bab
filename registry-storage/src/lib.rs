//! The embedded store: a sled index and content-addressed files.

mod accesses;
mod disk;
mod error;
mod folder;
mod format;
mod index;
mod layout;
mod lock;
mod options;
mod space;
mod spool;
mod step;
#[cfg(feature = "testing")]
pub mod testing;

pub use disk::DiskStore;
pub use error::OpenError;
pub use folder::{Rebuilt, Recovery};
pub use options::{DiskOptions, Reserve};
