//! Hashing again what is kept, at a bounded rate: damage is found before somebody pulls it.
//!
//! What is damaged is removed, and stays linked: the next pull fetches it anew. Memory used does
//! not grow with what is kept.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::super::{CacheError, Inner, RegistryCache};
use super::anatomy::Anatomy;
use super::bonds::Bonds;
use crate::{
    Digest, Hasher, LinkTarget, Origin, PeekedBlob, Progress, ProgressMade, Reference, Removal,
    RemovalReason, StoreError, StoreOperation, Timestamp, Upkeep, Verification,
};

/// How long after the start the first pass in the background begins, if not sooner: a process that
/// is restarted more often than a pass is due must get to verify something.
const FIRST_PASS_AFTER: Duration = Duration::from_secs(60 * 60);

/// How long after a pass that failed it is gone on with.
const RESUME_AFTER: Duration = Duration::from_secs(10 * 60);

/// Manifests or blobs in one page.
const PAGE_ENTRIES: usize = 256;

/// How many in a row may fail to be read before it is the store that fails.
const UNREADABLE_IN_A_ROW_MAX: u64 = 8;

/// Time that is lost is not made up for by more than this.
const PACE_SLACK: Duration = Duration::from_secs(1);

/// Origins and tags that are written down of one removal.
const REMOVAL_NAMES_MAX: usize = 8;

/// What is to be verified, and how fast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyRequest {
    /// What.
    pub scope: VerifyScope,
    /// Bytes a second that are read for it.
    pub bytes_per_second: u64,
}

/// What is to be verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifyScope {
    /// Everything that is kept.
    Everything,
    /// One image, with all that is held of it.
    Image(Origin, Reference),
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Manifests that were hashed.
    pub manifests: u64,
    /// Blobs that were hashed.
    pub blobs: u64,
    /// Bytes that were hashed.
    pub bytes: u64,
    /// How many were not what their digest names, and were removed.
    pub damaged: u64,
    /// How many were gone when their turn came: removed meanwhile, or found to be lost, and
    /// forgotten, by the store.
    pub missing: u64,
    /// How many could not be read, and are left as they are.
    pub unreadable: u64,
    /// What was damaged, missing or unreadable: the first of them
    /// ([`Limits::verify_findings_max`](crate::Limits::verify_findings_max)).
    pub findings: Vec<Finding>,
    /// It was told to end before it was done.
    pub cancelled: bool,
}

/// Something that is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub target: LinkTarget,
    /// How it is.
    pub flaw: Flaw,
}

/// What is wrong with some content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// It was not what its digest names, and was removed.
    Damaged,
    /// It was not there.
    Missing,
    /// It could not be read.
    Unreadable,
}

/// How the verification in the background is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerificationState {
    /// How far the pass has come that is under way.
    pub underway: Option<ProgressMade>,
    /// When the last pass ended since the start, and what it found.
    pub last: Option<(Timestamp, VerifyReport)>,
}

/// The verification in the background.
pub(in super::super) struct Verifications {
    settings: watch::Sender<Verification>,
    has_begun: AtomicBool,
    passes: Mutex<Passes>,
    damaged: std::sync::atomic::AtomicU64,
}

#[derive(Default)]
struct Passes {
    underway: Option<Progress>,
    /// A pass that failed, and is to be gone on with.
    interrupted: Option<(Cursor, VerifyReport)>,
    last: Option<(Timestamp, VerifyReport)>,
}

impl Default for Verifications {
    fn default() -> Self {
        Self {
            settings: watch::Sender::new(Verification::default()),
            has_begun: AtomicBool::new(false),
            passes: Mutex::default(),
            damaged: std::sync::atomic::AtomicU64::new(0),
        }
    }
}

impl Verifications {
    fn passes(&self) -> MutexGuard<'_, Passes> {
        // Nothing panics while it holds the lock.
        self.passes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RegistryCache {
    /// Hashes what is kept, and removes what is damaged: it is fetched anew when it is pulled.
    ///
    /// # Errors
    ///
    /// [`CacheError::NotFound`] where the image to be verified is not kept;
    /// [`CacheError::NoUpkeep`]; [`CacheError::Store`] where the store cannot tell what is kept, or
    /// cannot read several things in a row.
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends it. [`Progress::cancel`] does, too, and gives what was found so far.
    pub async fn verify(
        &self,
        request: &VerifyRequest,
        progress: &Progress,
    ) -> Result<VerifyReport, CacheError> {
        let cache = &self.inner;
        let rate = request.bytes_per_second;
        let mut verifier = Verifier::new(cache, cache.upkeep()?, progress, Rate::Fixed(rate));
        match &request.scope {
            VerifyScope::Everything => verifier.everything(&mut Cursor::default()).await?,
            VerifyScope::Image(origin, reference) => verifier.image(origin, reference).await?,
        }
        Ok(verifier.report)
    }

    /// Sets how often and how fast everything is verified in the background, from now on; a pass
    /// under way goes on from where it is at the new rate. The first pass begins an hour from the
    /// first call, or sooner where it is due sooner.
    ///
    /// It does nothing where the store has no upkeep. To be called on a runtime.
    pub fn set_verification(&self, verification: Verification) {
        let cache = &self.inner;
        cache.verifications.settings.send_replace(verification);
        if cache.stores.upkeep.is_none()
            || cache.verifications.has_begun.swap(true, Ordering::Relaxed)
        {
            return;
        }
        let settings = cache.verifications.settings.subscribe();
        let weak = Arc::downgrade(cache);
        cache
            .tasks
            .spawn_in_background(|leaving| verify_in_turns(weak, settings, leaving));
    }

    /// How often and how fast everything is verified in the background.
    pub fn verification(&self) -> Verification {
        self.inner.verifications.settings.borrow().clone()
    }

    /// How the verification in the background is doing.
    pub fn verification_state(&self) -> VerificationState {
        let passes = self.inner.verifications.passes();
        VerificationState {
            underway: passes.underway.as_ref().map(Progress::made),
            last: passes.last.clone(),
        }
    }

    /// How often since the start a verification has found something damaged, and removed it.
    pub fn verified_damaged(&self) -> u64 {
        self.inner.verifications.damaged.load(Ordering::Relaxed)
    }
}

/// Verifies everything again and again, as often as is set, for as long as the cache is there.
async fn verify_in_turns(
    cache: std::sync::Weak<Inner>,
    mut settings: watch::Receiver<Verification>,
    leaving: CancellationToken,
) {
    let mut since = Instant::now();
    let mut wait_max = FIRST_PASS_AFTER;
    loop {
        let every = settings.borrow_and_update().every;
        let due = async {
            match every {
                Some(every) => sleep_until(since + every.min(wait_max)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            // The cache holds the sender.
            changed = settings.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = leaving.cancelled() => return,
        }
        let Some(cache) = cache.upgrade() else {
            return;
        };
        wait_max = tokio::select! {
            is_done = cache.verify_in_background() => match is_done {
                true => Duration::MAX,
                false => RESUME_AFTER,
            },
            () = leaving.cancelled() => return,
        };
        since = Instant::now();
    }
}

impl Inner {
    /// A pass, or the rest of one that failed; whether it is done.
    async fn verify_in_background(&self) -> bool {
        let Some(upkeep) = &self.stores.upkeep else {
            return true;
        };
        let verifications = &self.verifications;
        let progress = Progress::new();
        let (mut cursor, report) = {
            let mut passes = verifications.passes();
            passes.underway = Some(progress.clone());
            passes.interrupted.take().unwrap_or_default()
        };
        progress.update(|made| {
            made.bytes = report.bytes;
            made.items = report.blobs + report.manifests;
        });
        let rate = Rate::Set(&verifications.settings);
        let mut verifier = Verifier::new(self, upkeep, &progress, rate);
        verifier.report = report;
        let outcome = verifier.everything(&mut cursor).await;
        let report = verifier.report;
        let mut passes = verifications.passes();
        passes.underway = None;
        match outcome {
            Ok(()) => {
                tracing::info!(
                    bytes = report.bytes,
                    blobs = report.blobs,
                    manifests = report.manifests,
                    damaged = report.damaged,
                    missing = report.missing,
                    unreadable = report.unreadable,
                    "everything that is kept was verified"
                );
                passes.last = Some((self.now(), report));
                true
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "what is kept could not be verified to the end: it is gone on with later"
                );
                passes.interrupted = Some((cursor, report));
                false
            }
        }
    }
}

/// One verification.
struct Verifier<'a> {
    cache: &'a Inner,
    upkeep: &'a Upkeep,
    progress: &'a Progress,
    pace: Pace<'a>,
    report: VerifyReport,
    unreadable_in_a_row: u64,
}

/// How far a verification of everything has come.
#[derive(Clone, Copy, Default)]
struct Cursor {
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
    fn new(cache: &'a Inner, upkeep: &'a Upkeep, progress: &'a Progress, rate: Rate<'a>) -> Self {
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
    async fn everything(&mut self, cursor: &mut Cursor) -> Result<(), CacheError> {
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

    async fn image(&mut self, origin: &Origin, reference: &Reference) -> Result<(), CacheError> {
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
        let removal = self.removal(target).await?;
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
        let removal = self.upkeep.journal.put_removal(removal);
        // It is gone, whether or not that can be written down.
        let _ = self.cache.store(StoreOperation::Index, removal).await;
        Ok(())
    }

    async fn removal(&self, target: LinkTarget) -> Result<Removal, CacheError> {
        let inventory = &self.upkeep.inventory;
        let record = self.cache.content_record(self.upkeep, target).await?;
        let origins = inventory.linked_in(target, None, REMOVAL_NAMES_MAX);
        let origins = self.cache.store(StoreOperation::Index, origins).await?;
        let tags = match target {
            LinkTarget::Blob(_) => Vec::new(),
            LinkTarget::Manifest(digest) => {
                let tags = inventory.tagged_as(digest, REMOVAL_NAMES_MAX);
                self.cache.store(StoreOperation::Index, tags).await?
            }
        };
        Ok(Removal {
            at: self.cache.now(),
            target,
            origins,
            tags,
            bytes: record.as_ref().map_or(0, |record| record.bytes),
            accessed_at: record.and_then(|record| record.accessed_at),
            reason: RemovalReason::Damaged,
        })
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
enum Rate<'a> {
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
