//! What a pull-through mirror of container registries is, without sockets, paths or databases.
//!
//! - **Names**, parsed once at the edge: [`Digest`], [`Repository`], [`Tag`], [`Reference`],
//!   [`UpstreamId`], [`Origin`], [`MediaType`], [`Descriptor`], [`RangeRequest`]. No unparsed form
//!   exists further in.
//! - **Contracts**: the stores ([`BlobStore`], [`ManifestStore`], [`TagStore`], [`LinkStore`],
//!   [`ReferrersStore`]) and the [`Upstream`] they are filled from. [`MemoryStore`] is their executable specification, and
//!   `testing::conformance` (feature `testing`) the suite that every implementation runs.
//! - **Upkeep**: what a store tells of what it keeps ([`InventoryStore`]), and where decisions about
//!   that are written down ([`JournalStore`]).
//! - **The caching itself**: [`RegistryCache`], all that a server calls.
//!
//! The invariants I1 to I12 that the comments cite are numbered in `ARCHITECTURE.md`.

mod caller;
mod clock;
mod descriptor;
mod digest;
mod inventory;
mod limits;
mod manifest;
mod media_type;
mod memory;
mod name;
mod pattern;
mod pin;
mod platform;
mod progress;
mod range;
mod referrers;
mod retention;
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
pub use digest::{Algorithm, Digest, DigestError, DigestText};
pub use inventory::{
    Charge, ContentRecord, InventoryStore, JournalStore, PeekedBlob, Position, Provenance, Removal,
    RemovalReason, RemovedUnused, Unit, Upkeep, Usage,
};
pub use limits::Limits;
pub use manifest::{Manifest, ManifestContents, ManifestError, Named};
pub use media_type::{MediaType, MediaTypeError};
pub use memory::MemoryStore;
pub use name::{NameError, Origin, Reference, Repository, Tag, UpstreamId};
pub use pattern::{PatternError, RepositoryPattern, Specificity};
pub use pin::{Pin, PinError};
pub use platform::{Platform, PlatformError};
pub use progress::{Progress, ProgressMade};
pub use range::{ByteRange, RangeRequest};
pub use referrers::{ListedReferrers, NotAnIndex, Referrer, Referrers, ReferrersPage};
pub use retention::{Retention, Verification};
pub use store::{
    BlobBody, BlobPayload, BlobSink, BlobStat, BlobStore, FileSlice, Link, LinkStore, LinkTarget,
    ManifestStore, ReferrersRecord, ReferrersStore, SpoolReader, StoreError, StoreOperation,
    Stores, TagRecord, TagStore,
};
pub use upstream::{
    Answered, Asked, Condition, FetchedTags, RepositoryRule, Resolution, RetentionRule, TagPage,
    Upstream, UpstreamBlob, UpstreamEntry, UpstreamError, UpstreamPolicy, Upstreams, Validator,
};
pub use verify::{DigestMismatch, Hasher, Verified};
