//! The script of a [`FaultingStore`](super::FaultingStore): which calls fail, which are held.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use tokio::sync::watch;

use crate::{StoreError, StoreOperation};

/// A method of the store contracts, of a sink or of a spool reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[expect(
    missing_docs,
    reason = "each is the method of its name, but where it says so"
)]
pub enum StoreCall {
    Stat,
    Open,
    Stage,
    /// [`BlobSink::write_at`](crate::BlobSink::write_at).
    Append,
    /// Counted only: it can neither fail nor stand still.
    Checkpoint,
    ReadAt,
    Commit,
    /// Counted only: it can neither fail nor stand still.
    Discard,
    Remove,
    List,
    Manifest,
    PutManifest,
    RemoveManifest,
    Tag,
    PutTag,
    RemoveTag,
    Tags,
    Linked,
    Link,
    Unlink,
    Origins,
    Referrers,
    PutReferrers,
    RemoveReferrers,
    Usage,
    Charges,
    Coldest,
    Postpone,
    Record,
    Note,
    NamedBy,
    LinkedIn,
    TaggedAs,
    Manifests,
    Blobs,
    LinkedManifests,
    PeekManifest,
    PeekBlob,
    Forget,
    RemoveUnused,
    PutPin,
    RemovePin,
    Pins,
    PutRemoval,
    Removals,
}

impl StoreCall {
    fn operation(self) -> StoreOperation {
        match self {
            Self::Stat => StoreOperation::Stat,
            Self::Open | Self::ReadAt | Self::PeekBlob => StoreOperation::Read,
            Self::Stage | Self::Append | Self::Checkpoint => StoreOperation::Write,
            Self::Commit => StoreOperation::Commit,
            Self::Discard
            | Self::Remove
            | Self::RemoveManifest
            | Self::RemoveTag
            | Self::Unlink
            | Self::RemoveReferrers
            | Self::Forget
            | Self::RemoveUnused
            | Self::RemovePin => StoreOperation::Remove,
            Self::List => StoreOperation::List,
            Self::Manifest
            | Self::PutManifest
            | Self::Tag
            | Self::PutTag
            | Self::Tags
            | Self::Linked
            | Self::Link
            | Self::Origins
            | Self::Referrers
            | Self::PutReferrers
            | Self::Usage
            | Self::Charges
            | Self::Coldest
            | Self::Postpone
            | Self::Record
            | Self::Note
            | Self::NamedBy
            | Self::LinkedIn
            | Self::TaggedAs
            | Self::Manifests
            | Self::Blobs
            | Self::LinkedManifests
            | Self::PeekManifest
            | Self::PutPin
            | Self::Pins
            | Self::PutRemoval
            | Self::Removals => StoreOperation::Index,
        }
    }
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// As where the disk is full.
    NoSpace,
    /// As where the device does not answer.
    Io,
}

impl Fault {
    fn error(self, call: StoreCall) -> StoreError {
        let operation = call.operation();
        match self {
            Self::NoSpace => StoreError::NoSpace { operation },
            Self::Io => StoreError::io(operation, io::Error::other("scripted fault")),
        }
    }
}

/// The script of a [`FaultingStore`](super::FaultingStore): told by a test while the store is in use. Cloning gives
/// another handle to the same script.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    script: Arc<watch::Sender<BTreeMap<StoreCall, Scripted>>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Scripted {
    calls: u64,
    stalled: bool,
    waiting: usize,
    failing: Failing,
}

#[derive(Clone, Copy, Debug, Default)]
enum Failing {
    #[default]
    Never,
    Nth(u64, Fault),
    Always(Fault),
}

impl Faults {
    /// Fails one call: the next one where `nth` is 1. A call that failed has changed nothing.
    pub fn fail_nth(&self, call: StoreCall, nth: u64, fault: Fault) {
        self.edit(call, |entry| {
            entry.failing = Failing::Nth(entry.calls + nth, fault);
        });
    }

    /// Fails every call from now on.
    pub fn fail_always(&self, call: StoreCall, fault: Fault) {
        self.edit(call, |entry| entry.failing = Failing::Always(fault));
    }

    /// Ends [`Self::fail_nth`], [`Self::fail_always`] and [`Self::stall`] for every call.
    pub fn heal(&self) {
        self.script.send_modify(|script| {
            for entry in script.values_mut() {
                entry.failing = Failing::Never;
                entry.stalled = false;
            }
        });
    }

    /// Holds every call from now on, before it does anything, until [`Self::release`].
    pub fn stall(&self, call: StoreCall) {
        self.edit(call, |entry| entry.stalled = true);
    }

    /// Lets the calls that are held go on, and holds no more.
    pub fn release(&self, call: StoreCall) {
        self.edit(call, |entry| entry.stalled = false);
    }

    /// Returns when `count` calls at least are held by [`Self::stall`].
    pub async fn stalled(&self, call: StoreCall, count: usize) {
        self.until(call, |entry| entry.waiting >= count).await;
    }

    /// How many calls were begun, also those that failed.
    pub fn calls(&self, call: StoreCall) -> u64 {
        self.script
            .borrow()
            .get(&call)
            .map_or(0, |entry| entry.calls)
    }

    fn edit<R>(&self, call: StoreCall, edit: impl FnOnce(&mut Scripted) -> R) -> R {
        let mut result = None;
        self.script
            .send_modify(|script| result = Some(edit(script.entry(call).or_default())));
        result.expect("send_modify runs it once")
    }

    async fn until(&self, call: StoreCall, is_met: impl Fn(&Scripted) -> bool + Send) {
        let met = move |script: &BTreeMap<_, Scripted>| {
            is_met(script.get(&call).unwrap_or(&Scripted::default()))
        };
        let mut script = self.script.subscribe();
        script.wait_for(met).await.expect("`self` holds the sender");
    }

    /// Counts a call that can neither fail nor stand still.
    pub(super) fn count(&self, call: StoreCall) {
        self.edit(call, |entry| entry.calls += 1);
    }

    /// What stands before each other call: counts it, holds it, fails it, as the script says.
    pub(super) async fn pass(&self, call: StoreCall) -> Result<(), StoreError> {
        let number = self.edit(call, |entry| {
            entry.calls += 1;
            entry.waiting += 1;
            entry.calls
        });
        let waiting = Waiting { faults: self, call };
        self.until(call, |entry| !entry.stalled).await;
        drop(waiting);
        match self.edit(call, |entry| entry.failing) {
            Failing::Nth(nth, fault) if nth == number => Err(fault.error(call)),
            Failing::Always(fault) => Err(fault.error(call)),
            Failing::Nth(..) | Failing::Never => Ok(()),
        }
    }
}

/// A call that is held; counted until it goes on or is dropped.
struct Waiting<'a> {
    faults: &'a Faults,
    call: StoreCall,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.faults.edit(self.call, |entry| entry.waiting -= 1);
    }
}
