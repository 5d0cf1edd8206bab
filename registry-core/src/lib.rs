//! What a pull-through mirror of container registries is, without sockets, paths or databases.
//!
//! - **Names**, parsed once at the edge: [`Digest`], [`Repository`], [`Tag`], [`Reference`],
//!   [`UpstreamId`], [`Origin`], [`MediaType`], [`Descriptor`], [`RangeRequest`]. No unparsed form
//!   exists further in.
//! - **Contracts**: the stores ([`BlobStore`], [`ManifestStore`], [`TagStore`], [`LinkStore`],
//!   [`ReferrersStore`]) and the [`Upstream`] they are filled from. [`MemoryStore`] is their executable specification, and
//!   `testing::conformance` (feature `testing`) the suite that every implementation runs.
//! - **The caching itself**: [`RegistryCache`], all that a server calls.
//!
//! The invariants I1 to I12 that the comments cite are numbered in `ARCHITECTURE.md`.

mod caller;
mod clock;
mod descriptor;
mod digest;
mod limits;
mod manifest;
mod media_type;
mod memory;
mod name;
mod range;
mod referrers;
mod store;
mod upstream;
mod verify;

pub mod cache;
#[cfg(feature = "testing")]
pub mod testing;

pub use cache::{CacheError, CacheStatus, RegistryCache, Served};
pub use caller::{Caller, CallerId};
pub use clock::{Clock, SystemClock, Timestamp};
pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest, DigestError};
pub use limits::Limits;
pub use manifest::{Manifest, ManifestError};
pub use media_type::{MediaType, MediaTypeError};
pub use memory::MemoryStore;
pub use name::{NameError, Origin, Reference, Repository, Tag, UpstreamId};
pub use range::{ByteRange, RangeRequest};
pub use referrers::{ListedReferrers, NotAnIndex, Referrer, Referrers, ReferrersPage};
pub use store::{
    BlobBody, BlobPayload, BlobSink, BlobStat, BlobStore, Link, LinkStore, LinkTarget,
    ManifestStore, ReferrersRecord, ReferrersStore, SpoolReader, StoreError, StoreOperation,
    Stores, TagRecord, TagStore,
};
pub use upstream::{
    FetchedTags, Resolution, TagPage, Upstream, UpstreamBlob, UpstreamEntry, UpstreamError,
    UpstreamPolicy, Upstreams, Validator,
};
pub use verify::{DigestMismatch, Hasher, Verified};
