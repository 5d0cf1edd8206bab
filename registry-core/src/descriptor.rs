//! What is known of content without holding it (image-spec, *descriptor.md*).

use crate::{Digest, MediaType};

/// Media type, digest and size of some content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The media type to serve the content with.
    pub media_type: MediaType,
    /// The name of its bytes.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}
