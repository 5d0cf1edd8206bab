//! What can be set of a store, and every limit it has (I8).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use registry_core::{Clock, SystemClock};

use crate::space::Probe as SpaceProbe;
use crate::step::Probe as StepProbe;

/// Blobs in one page of a listing; between pages nothing is held.
pub(crate) const LIST_PAGE_ENTRIES: usize = 256;
/// Bytes written to a blob between two looks at the free space.
pub(crate) const SPACE_CHECK_BYTES: u64 = 16 << 20;
/// Pieces that are handed to the system in one write: the most that it takes.
pub(crate) const WRITE_SLICES_MAX: usize = 1_024;
/// Bytes that an unfinished blob must have come to be worth keeping for a later fill. Of smaller
/// ones nothing is recorded while they are written.
pub(crate) const UNFINISHED_BYTES_MIN: u64 = 1 << 20;
/// Bytes that a blob grows by between two records of how far it has come: what a crash of the
/// process costs at most, beside what is being written.
pub(crate) const CHECKPOINT_BYTES: u64 = 1 << 20;
/// Unfinished blobs that are kept while nobody writes them; the oldest go first.
pub(crate) const UNFINISHED_MAX: usize = 64;
/// What they may take together. The last one that was left is kept, however large it is.
pub(crate) const UNFINISHED_TOTAL_BYTES_MAX: u64 = 16 << 30;
/// How long one is kept.
pub(crate) const UNFINISHED_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Damaged indexes that are kept for a human to look at; older ones are removed.
pub(crate) const DAMAGED_KEPT_MAX: usize = 2;
/// Rows that a rebuild writes at a time.
pub(crate) const REBUILD_BATCH_ENTRIES: usize = 1_000;
/// Size of the file that lists the origins of one manifest: some hundred of them. Those beyond are
/// not listed, and lose their links with the index.
pub(crate) const SIDECAR_BYTES_MAX: u64 = 64 << 10;
/// Origins that are listed again beside a manifest that is kept anew.
pub(crate) const RELISTED_MAX: usize = 256;
/// Largest record of the referrers of one manifest, in bytes.
pub(crate) const REFERRERS_RECORD_BYTES_MAX: usize = 5 << 20;
/// Longest key of a link or a tag that is kept in memory: that of the longest names.
pub(crate) const HOT_KEY_BYTES_MAX: usize = 648;
/// Links that are looked for in memory at a time; whoever makes more has a thread that may block do it.
pub(crate) const HOT_LINKS_MAX: usize = 256;
/// Places in the table of what was accessed just now. Two that share one with a chance of one in this
/// many only make each other's accesses cost more.
pub(crate) const ACCESSED_NOW: usize = 512;
/// Locks that calls about one digest take turns by. Two digests share one with a chance of one in
/// this many, and then only wait for each other.
pub(crate) const TURNS: usize = 256;
/// Rows of what is kept that are changed at a time, before others have their turn.
pub(crate) const BOOK_ENTRIES: usize = 128;
/// Removals that are remembered; the oldest give way.
pub(crate) const REMOVALS_MAX: u64 = 4_096;
/// Manifests that were changed and are not yet settled from which on they are settled, in the
/// background.
pub(crate) const UNSETTLED_DUE: usize = 64;
/// The same, from which on whoever changes another settles them first. A start looks at no more
/// of them than this.
pub(crate) const UNSETTLED_MAX: usize = 256;
/// After a write to the index failed, how long until it is opened anew to write again.
pub(crate) const INDEX_REVIVE_AFTER: Duration = Duration::from_secs(5);
/// Changes since the index was opened from which on their log is read when it is closed, rather than
/// at the next start: fewer are read in some milliseconds.
pub(crate) const INDEX_REREAD_WRITES: u64 = 500;

/// How long sled may take to let go of its file.
pub(crate) const INDEX_FREE_WAIT_MAX: Duration = Duration::from_secs(10);
/// How often it is asked whether it has.
pub(crate) const INDEX_FREE_POLL: Duration = Duration::from_millis(2);

/// How a [`DiskStore`](crate::DiskStore) is opened.
#[derive(Clone)]
#[non_exhaustive]
pub struct DiskOptions {
    /// What is left free on the file system.
    pub reserve: Reserve,
    /// Calls into the file system or the index at a time; further ones wait for their turn.
    pub blocking_calls_max: usize,
    /// Memory for manifests that were asked for lately.
    pub manifest_cache_bytes: u64,
    /// Memory for links that were asked for lately, each some 300 bytes.
    pub link_cache_bytes: u64,
    /// Memory for tags that were asked for lately, each some 250 bytes.
    pub tag_cache_bytes: u64,
    /// Memory for pages of the index.
    pub index_cache_bytes: u64,
    /// How long what is recorded without need for durability (tags, links) may stay in memory.
    pub index_flush_every: Duration,
    /// Access times in memory that are worth a batch of writes. Twice as many are held at most:
    /// accesses to more content than that between two batches are not recorded.
    pub access_batch_entries: usize,
    /// How old the oldest access time in memory may grow, while the store is in use.
    pub access_write_every: Duration,
    /// Tells access times.
    pub clock: Arc<dyn Clock>,
    pub(crate) space: SpaceProbe,
    pub(crate) steps: StepProbe,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            reserve: Reserve::Percent(5),
            blocking_calls_max: 64,
            manifest_cache_bytes: 8 << 20,
            link_cache_bytes: 4 << 20,
            tag_cache_bytes: 1 << 20,
            index_cache_bytes: 16 << 20,
            index_flush_every: Duration::from_millis(500),
            access_batch_entries: 1_024,
            access_write_every: Duration::from_secs(60),
            clock: Arc::new(SystemClock),
            space: SpaceProbe::default(),
            steps: StepProbe::default(),
        }
    }
}

impl fmt::Debug for DiskOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskOptions")
            .field("reserve", &self.reserve)
            .field("blocking_calls_max", &self.blocking_calls_max)
            .field("manifest_cache_bytes", &self.manifest_cache_bytes)
            .field("link_cache_bytes", &self.link_cache_bytes)
            .field("tag_cache_bytes", &self.tag_cache_bytes)
            .field("index_cache_bytes", &self.index_cache_bytes)
            .field("index_flush_every", &self.index_flush_every)
            .field("access_batch_entries", &self.access_batch_entries)
            .field("access_write_every", &self.access_write_every)
            .finish_non_exhaustive()
    }
}

/// What a store leaves free on the file system it is on: nothing is staged that would take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// A part of the file system's size.
    Percent(u8),
    /// A number of bytes.
    Bytes(u64),
}
