//! What keeps the cache in order, and what people may ask it.
//!
//! - `survey`, `anatomy`: what is kept, image by image; `bonds`: what else needs it.
//! - `explain`, `words`: why an image is here or not, and what the next pull would do.
//! - `delete`, `verify`, `warm`: what people have done to it.

mod anatomy;
mod bonds;
mod delete;
mod explain;
mod survey;
mod verify;
mod warm;
mod words;

pub use delete::{Deleted, StillNeeded};
pub use explain::{Explanation, Filling, NextPull, Verdict};
pub use survey::{BlobDetail, ImageDetail, ImageSummary, ManifestDetail, RepositorySummary};
pub(super) use verify::Verifications;
pub use verify::{Finding, Flaw, VerificationState, VerifyReport, VerifyRequest, VerifyScope};
pub use warm::{WarmOptions, Warmed};

use super::{CacheError, Inner};
use crate::Upkeep;

impl Inner {
    /// What tells of the content that is kept.
    fn upkeep(&self) -> Result<&Upkeep, CacheError> {
        self.stores.upkeep.as_ref().ok_or(CacheError::NoUpkeep)
    }
}
