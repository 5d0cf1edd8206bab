//! One verification: hashing what is kept, as fast as is set, and removing what is damaged.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::super::{CacheError, Inner};
use super::anatomy::Anatomy;
use super::bonds::Bonds;
use super::verify::{Finding, Flaw, VerifyReport};
use crate::{
    Digest, Hasher, LinkTarget, Origin, PeekedBlob, Progress, Reference, Removal, RemovalReason,
    StoreError, StoreOperation, Upkeep, Verification,
};

/// Manifests or blobs in one page.
const PAGE_ENTRIES: usize = 256;

/// How many in a row may fail to be read before it is the store that fails.
const UNREADABLE_IN_A_ROW_MAX: u64 = 8;

/// Time that is lost is not made up for by more than this.
const PACE_SLACK: Duration = Duration::from_secs(1);

/// One verification.
pub(super) struct Verifier<'a> {
    cache: &'a Inner,
    upkeep: &'a Upkeep,
    progress: &'a Progress,
    pace: Pace<'a>,
    pub(super) report: VerifyReport,
    unreadable_in_a_row: u64,
}

/// How far a verification of everything has come.
#[derive(Clone, Copy, Default)]
pub(super) struct Cursor {
    kind: Kind,
    after: Option<Digest>,
}

#[derive(Clone, Copy, Default)]
enum Kind {
    #[default]
    Manifests,
    Blobs,
}

impl Cursor {
    fn of_blobs() -> Self {
        Self {
            kind: Kind::Blobs,
            after: None,
        }
    }
}

/// How some bytes turned out.
enum Outcome {
    Right,
    Wrong,
    Unreadable(StoreError),
    Cancelled,
}

impl<'a> Verifier<'a> {
    pub(super) fn new(
        cache: &'a Inner,
        upkeep: &'a Upkeep,
        progress: &'a Progress,
        rate: Rate<'a>,
    ) -> Self {
        Self {
            cache,
            upkeep,
            progress,
            pace: Pace::new(rate),
            report: VerifyReport::default(),
            unreadable_in_a_row: 0,
        }
    }

    /// Everything past `cursor`, which tells how far it has come, also where it fails.
    pub(super) async fn everything(&mut self, cursor: &mut Cursor) -> Result<(), CacheError> {
        let usage = self.upkeep.inventory.usage();
        let usage = self.cache.store(StoreOperation::Index, usage).await?;
        self.progress.update(|made| {
            made.bytes_total = Some(usage.bytes);
            made.items_total = Some(usage.blobs + usage.manifests);
        });
        loop {
            let inventory = &self.upkeep.inventory;
            let page = match cursor.kind {
                Kind::Manifests => inventory.manifests(cursor.after, PAGE_ENTRIES),
                Kind::Blobs => inventory.blobs(cursor.after, PAGE_ENTRIES),
            };
            let page = self.cache.store(StoreOperation::List, page).await?;
            if page.is_empty() {
                match cursor.kind {
                    Kind::Manifests => *cursor = Cursor::of_blobs(),
                    Kind::Blobs => return Ok(()),
                }
                continue;
            }
            for digest in page {
                if self.is_cancelled() {
                    return Ok(());
                }
                match cursor.kind {
                    Kind::Manifests => self.manifest(digest).await?,
                    Kind::Blobs => self.blob(digest).await?,
                }
                cursor.after = Some(digest);
            }
        }
    }

    pub(super) async fn image(
        &mut self,
        origin: &Origin,
        reference: &Reference,
    ) -> Result<(), CacheError> {
        let bonds = Bonds::new(self.cache, self.upkeep).await?;
        let image = self.cache.image(self.upkeep, &bonds, origin, reference);
        let digest = image.await?.ok_or(CacheError::NotFound)?.summary.digest;
        let anatomy = Anatomy::examine(self.cache, self.upkeep, &bonds, digest).await?;
        let targets = anatomy.held();
        self.progress.update(|made| {
            made.bytes_total = Some(anatomy.bytes);
            made.items_total = Some(targets.len() as u64);
        });
        for target in targets {
            if self.is_cancelled() {
                break;
            }
            match target {
                LinkTarget::Manifest(digest) => self.manifest(digest).await?,
                LinkTarget::Blob(digest) => self.blob(digest).await?,
            }
        }
        Ok(())
    }

    fn is_cancelled(&mut self) -> bool {
        self.report.cancelled |= self.progress.is_cancelled();
        self.report.cancelled
    }

    async fn manifest(&mut self, digest: Digest) -> Result<(), CacheError> {
        let target = LinkTarget::Manifest(digest);
        self.begin(target);
        let peeked = self.upkeep.inventory.peek_manifest(digest);
        let outcome = match self.cache.store(StoreOperation::Read, peeked).await {
            Ok(Some(manifest)) => {
                let bytes = manifest.bytes();
                let mut hasher = Hasher::new(digest.algorithm());
                hasher.update(bytes);
                self.spend(bytes.len() as u64).await;
                match hasher.verify(digest) {
                    Ok(_) => Outcome::Right,
                    Err(_) => Outcome::Wrong,
                }
            }
            // It is removed where it is there and cannot be had, and counted as missing where not.
            Ok(None) => Outcome::Wrong,
            Err(error) => Outcome::of(error),
        };
        if matches!(outcome, Outcome::Right) {
            self.report.manifests += 1;
        }
        self.end(target, outcome).await
    }

    async fn blob(&mut self, digest: Digest) -> Result<(), CacheError> {
        let target = LinkTarget::Blob(digest);
        self.begin(target);
        let peeked = self.upkeep.inventory.peek_blob(digest);
        let outcome = match self.cache.store(StoreOperation::Read, peeked).await {
            Ok(Some(blob)) => self.hash(digest, &blob).await,
            Ok(None) => Outcome::Wrong,
            Err(error) => Outcome::of(error),
        };
        if matches!(outcome, Outcome::Right) {
            self.report.blobs += 1;
        }
        self.end(target, outcome).await
    }

    async fn hash(&mut self, digest: Digest, blob: &PeekedBlob) -> Outcome {
        let mut hasher = Hasher::new(digest.algorithm());
        let chunk_bytes = self.cache.limits.verify_chunk_bytes.max(1) as u64;
        while hasher.size() < blob.size {
            if self.is_cancelled() {
                return Outcome::Cancelled;
            }
            let len = (blob.size - hasher.size()).min(chunk_bytes);
            let len = usize::try_from(len).expect("a chunk fits in memory");
            let read = blob.reader.read_at(hasher.size(), len);
            match self.cache.store(StoreOperation::Read, read).await {
                // It is shorter than it is said to be.
                Ok(chunk) if chunk.is_empty() => return Outcome::Wrong,
                Ok(chunk) => {
                    hasher.update(&chunk);
                    self.spend(chunk.len() as u64).await;
                }
                Err(error) => return Outcome::of(error),
            }
        }
        match hasher.verify(digest) {
            Ok(_) => Outcome::Right,
            Err(_) => Outcome::Wrong,
        }
    }

    fn begin(&self, target: LinkTarget) {
        self.progress
            .update(|made| made.current = Some(target.digest().to_string()));
    }

    /// Takes note of bytes that were hashed, and waits until more may be.
    async fn spend(&mut self, bytes: u64) {
        self.report.bytes += bytes;
        self.progress.update(|made| made.bytes += bytes);
        tokio::select! {
            () = self.pace.spend(bytes) => {}
            () = self.progress.cancelled() => {}
        }
        // A store that answers at once must not keep a runtime thread for as long as it is fast.
        tokio::task::consume_budget().await;
    }

    async fn end(&mut self, target: LinkTarget, outcome: Outcome) -> Result<(), CacheError> {
        self.progress.update(|made| made.items += 1);
        match outcome {
            Outcome::Cancelled => return Ok(()),
            Outcome::Right => {}
            Outcome::Wrong => self.remove(target).await?,
            Outcome::Unreadable(error) => {
                self.report.unreadable += 1;
                self.find(target, Flaw::Unreadable);
                self.unreadable_in_a_row += 1;
                if self.unreadable_in_a_row >= UNREADABLE_IN_A_ROW_MAX {
                    return Err(error.into());
                }
                return Ok(());
            }
        }
        self.unreadable_in_a_row = 0;
        Ok(())
    }

    /// Removes what is damaged; what is not there at all is only counted. Links stay, and tags: by
    /// them it is fetched anew.
    async fn remove(&mut self, target: LinkTarget) -> Result<(), CacheError> {
        let record = self.cache.content_record(self.upkeep, target).await?;
        let removal = self
            .cache
            .obituary(self.upkeep, target, RemovalReason::Damaged);
        let removal = Removal {
            bytes: record.as_ref().map_or(0, |record| record.bytes),
            accessed_at: record.and_then(|record| record.accessed_at),
            ..removal.await?
        };
        let stores = &self.cache.stores;
        let removed = match target {
            LinkTarget::Blob(digest) => stores.blobs.remove(digest),
            LinkTarget::Manifest(digest) => stores.manifests.remove_manifest(digest),
        };
        if !self.cache.store(StoreOperation::Remove, removed).await? {
            self.report.missing += 1;
            self.find(target, Flaw::Missing);
            return Ok(());
        }
        tracing::warn!(
            digest = %target.digest(),
            "what is stored is not what its digest names: it is removed, and fetched anew when it is pulled"
        );
        self.report.damaged += 1;
        let damaged = &self.cache.verifications.damaged;
        damaged.fetch_add(1, Ordering::Relaxed);
        self.find(target, Flaw::Damaged);
        self.cache.note_removal(self.upkeep, &removal).await;
        Ok(())
    }

    fn find(&mut self, target: LinkTarget, flaw: Flaw) {
        if self.report.findings.len() < self.cache.limits.verify_findings_max {
            self.report.findings.push(Finding { target, flaw });
        }
    }
}

impl Outcome {
    /// What a failure of the store says of what was to be read: only where it says so itself, that
    /// the content is wrong.
    fn of(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt { .. } => Self::Wrong,
            error => Self::Unreadable(error),
        }
    }
}

/// How many bytes a second.
pub(super) enum Rate<'a> {
    Fixed(u64),
    /// As is set: looked up as it goes, so that what is set meanwhile counts.
    Set(&'a watch::Sender<Verification>),
}

/// So many bytes a second, by the clock of the runtime.
struct Pace<'a> {
    rate: Rate<'a>,
    since: Instant,
    /// How long it should have taken since then.
    due: Duration,
}

impl<'a> Pace<'a> {
    fn new(rate: Rate<'a>) -> Self {
        Self {
            rate,
            since: Instant::now(),
            due: Duration::ZERO,
        }
    }

    /// Waits for as long as these bytes should have taken.
    async fn spend(&mut self, bytes: u64) {
        let rate = match self.rate {
            Rate::Fixed(rate) => rate,
            Rate::Set(settings) => settings.borrow().bytes_per_second,
        };
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        self.due += Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let took = self.since.elapsed();
        if took > self.due + PACE_SLACK {
            self.since = Instant::now();
            self.due = Duration::ZERO;
        } else if let Some(early) = self.due.checked_sub(took) {
            sleep(early).await;
        }
    }
}
