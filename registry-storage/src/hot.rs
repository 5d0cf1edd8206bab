//! What is told without a hop: all of it is in memory, and stays true there.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use registry_core::{Clock, Digest, LinkTarget, Manifest, Timestamp};

use crate::accesses::Accesses;
use crate::index::HotRows;
use crate::options::DiskOptions;

/// How many manifests the cache makes room for at first.
const ENTRIES: usize = 1_024;
/// What a manifest takes beside its bytes and its links.
const ENTRY_BYTES: u64 = 512;

/// What was asked for lately: shared by the folder, which puts it here and takes it out, and by
/// whoever answers from it. It keeps no other process out of the folder.
pub(crate) struct Hot {
    /// At most so many bytes of them. They are put in and taken out in their turns.
    pub(crate) manifests: Cache<Digest, Manifest, Weigh>,
    pub(crate) rows: Arc<HotRows>,
    pub(crate) accesses: Accesses,
    clock: Arc<dyn Clock>,
}

#[derive(Clone)]
pub(crate) struct Weigh;

impl Weighter<Digest, Manifest> for Weigh {
    fn weight(&self, _: &Digest, manifest: &Manifest) -> u64 {
        let bytes = manifest.bytes().len() + size_of_val(manifest.links());
        bytes as u64 + ENTRY_BYTES
    }
}

impl Hot {
    pub(crate) fn new(rows: Arc<HotRows>, options: &DiskOptions) -> Self {
        Self {
            manifests: Cache::with_weighter(ENTRIES, options.manifest_cache_bytes, Weigh),
            rows,
            accesses: Accesses::new(options),
            clock: Arc::clone(&options.clock),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Records an access; whether a batch of them is due to be written.
    pub(crate) fn touch(&self, target: LinkTarget) -> bool {
        self.accesses.touch(target, self.now())
    }
}
