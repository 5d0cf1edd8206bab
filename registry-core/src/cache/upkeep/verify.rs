//! Hashing again what is kept, at a bounded rate: damage is found before somebody pulls it. What is
//! asked for and what is found is here, and the passes in the background; `hashing` does it.
//!
//! What is damaged is removed, and stays linked: the next pull fetches it anew. Memory used does
//! not grow with what is kept.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::super::{CacheError, Inner, RegistryCache};
use super::hashing::{Cursor, Rate, Verifier};
use crate::{LinkTarget, Origin, Progress, ProgressMade, Reference, Timestamp, Verification};

/// How long after the start the first pass in the background begins, if not sooner: a process that
/// is restarted more often than a pass is due must get to verify something.
const FIRST_PASS_AFTER: Duration = Duration::from_secs(60 * 60);

/// How long after a pass that failed it is gone on with.
const RESUME_AFTER: Duration = Duration::from_secs(10 * 60);

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
    pub(super) damaged: AtomicU64,
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
            damaged: AtomicU64::new(0),
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

    /// How often since the start content was found missing or damaged, and was given up, to be
    /// fetched anew when it is wanted: by the store when it was asked for it, and by verifications.
    pub fn healed(&self) -> u64 {
        let cache = &self.inner;
        let upkeep = cache.stores.upkeep.as_ref();
        let by_store = upkeep.map_or(0, |upkeep| upkeep.inventory.forgotten());
        by_store + cache.verifications.damaged.load(Ordering::Relaxed)
    }
}

/// Verifies everything again and again, as often as is set, for as long as the cache is there.
async fn verify_in_turns(
    cache: Weak<Inner>,
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
