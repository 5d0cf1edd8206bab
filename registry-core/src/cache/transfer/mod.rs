//! Images carried from one cache to another: what belongs to an image, read without the network
//! where it is held, and kept again elsewhere only once all of it is there.
//!
//! - `parts`: what a manifest is made of; pure.
//! - `export`, `plan`, `attached`: what has to be in an archive for an image to be whole, and its bytes.
//! - `import`, `record`: the other way; nothing of an archive is served before its image is whole.
//!
//! How an archive is written (tar, the OCI image layout, names in annotations) is not known here.

mod attached;
mod export;
mod import;
mod parts;
mod plan;
mod record;

pub use export::{
    AttachedContent, ExportContent, ExportError, ExportPlan, ExportRequest, ExportedImage, LeftOut,
    PlatformChoice,
};
pub use import::{Import, ImportError, Imported, ImportedImage, Incoming};
