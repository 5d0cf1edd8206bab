//! The durable steps of a change, where a test may look at what a crash would leave.

use std::sync::Arc;

/// A step that was just taken; the crash table of the crate tells what each leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[cfg_attr(
    not(feature = "testing"),
    expect(unreachable_pub, reason = "it is part of `testing`")
)]
pub enum Step {
    /// A partial file was made, or one that was left is gone on with.
    Staged,
    /// How far a blob has come was recorded beside its partial file.
    CheckpointRecorded,
    /// A partial file that nobody writes any more was cut to its checkpoint.
    LeftUnfinished,
    /// The partial file's bytes are on the disk.
    FileSynced,
    /// What is intended was recorded, and is on the disk.
    IntentFlushed,
    /// The file has its place among the blobs.
    Renamed,
    /// The place is on the disk.
    FolderSynced,
    /// The row was recorded.
    RowWritten,
    /// The intent was removed: the blob is committed, or removed.
    IntentRemoved,
    /// The row was removed, and is off the disk.
    RowRemoved,
    /// The file was removed.
    FileRemoved,
    /// A manifest's partial file was written.
    ManifestWritten,
    /// A manifest has its place.
    ManifestRenamed,
    /// A manifest was removed.
    ManifestRemoved,
    /// A manifest is marked as one whose files and row may not agree.
    ManifestMarked,
    /// The row of a manifest was recorded, or changed.
    ManifestRecorded,
    /// The row of a manifest was removed.
    ManifestDismissed,
    /// Files and rows of manifests that were marked are on the disk.
    ManifestsSettled,
    /// A manifest is no longer marked.
    MarkRemoved,
    /// Everything that names some content was forgotten.
    Forgotten,
    /// Rows of links were recorded.
    LinksRecorded,
    /// An origin was listed beside a manifest.
    OriginListed,
    /// An origin is no longer listed beside a manifest, durably.
    OriginWithdrawn,
    /// The row of a link was removed, and is off the disk.
    LinkRemoved,
    /// The file that lists a manifest's origins was removed.
    OriginsRemoved,
}

/// Who is told of steps: nobody, or a test.
#[derive(Clone, Default)]
pub(crate) struct Probe(Option<Told>);

#[derive(Clone)]
struct Told {
    flush_index: bool,
    tell: Arc<dyn Fn(Step) + Send + Sync>,
}

impl Probe {
    #[cfg(feature = "testing")]
    pub(crate) fn of(flush_index: bool, tell: impl Fn(Step) + Send + Sync + 'static) -> Self {
        let tell = Arc::new(tell);
        Self(Some(Told { flush_index, tell }))
    }

    /// Tells of a step; before it does, runs `flush` where the test wants to see the index as if
    /// its own timer had struck.
    pub(crate) fn taken(&self, step: Step, flush: impl FnOnce()) {
        if let Some(told) = &self.0 {
            if told.flush_index {
                flush();
            }
            (told.tell)(step);
        }
    }
}
