//! For tests of whoever implements a store or an upstream, or embeds the cache
//! (feature `testing`).

mod clock;
pub mod conformance;
pub mod content;
mod faulting;
mod scripted;

pub use clock::ManualClock;
pub use faulting::{Fault, FaultingStore, Faults, StoreCall};
pub use scripted::{
    Act, BlobRequest, BodyScript, Call, Calls, ContentScript, Gate, Piece, ScriptedUpstream,
};
