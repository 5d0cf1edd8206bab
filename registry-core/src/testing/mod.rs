//! For tests of whoever implements a store or an upstream, or embeds the cache
//! (feature `testing`).

mod clock;
mod scripted;

pub use clock::ManualClock;
pub use scripted::{Act, BodyScript, Call, Calls, Gate, Piece, ScriptedUpstream};
