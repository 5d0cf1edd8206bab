//! What is told of what is kept, with what is in memory only.

use registry_core::{
    ContentRecord, LinkTarget, Origin, Position, StoreError, Timestamp, Unit, Usage,
};

use super::Folder;

impl Folder {
    pub(crate) fn usage(&self) -> Result<Usage, StoreError> {
        let sum = self.index.total()?;
        Ok(Usage {
            bytes: sum.bytes,
            blobs: sum.blobs,
            manifests: sum.manifests,
            unfinished_bytes: self.unfinished.bytes(),
            free_bytes: Some(self.space.free()?),
        })
    }

    /// Units from the coldest on, by all accesses until now.
    pub(crate) fn coldest(
        &self,
        origin: Option<&Origin>,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<Unit>, StoreError> {
        self.write_accesses();
        self.index.coldest(origin, after, limit)
    }

    pub(crate) fn postpone(&self, target: LinkTarget, until: Timestamp) -> Result<(), StoreError> {
        self.index.postpone(target, until)
    }

    pub(crate) fn record(&self, target: LinkTarget) -> Result<Option<ContentRecord>, StoreError> {
        let record = self.index.record(target)?;
        Ok(record.map(|record| ContentRecord {
            accessed_at: self.hot.accesses.get(target).max(record.accessed_at),
            ..record
        }))
    }
}
