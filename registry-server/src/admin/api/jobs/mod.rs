//! Long pieces of work: begun by one request, looked at and ended by others.
//!
//! One of a kind runs at a time, in the order in which they were asked for; others of that kind
//! wait. What has ended is told of for a while. All of it is in memory: a job ends with the mirror,
//! and none of them does what could not be asked for again
//! ([ADR 15](../../../../../docs/adr/0015-the-admin-api.md)).

mod counts;
mod notes;
mod table;
mod worker;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use registry_core::Clock;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use super::limits;
use super::problem::Refusal;
use crate::api::{Job, JobKind, JobState};
use crate::front::panic_text;

pub(super) use table::unknown;
pub(super) use worker::Worker;

use counts::KINDS;
use table::Table;

/// All jobs.
pub(super) struct Jobs {
    shared: Arc<Shared>,
}

/// Tells of them in metrics. Of a mirror that has ended it goes on telling what there was.
#[derive(Clone)]
pub(in crate::admin) struct OfJobs(Arc<Shared>);

struct Shared {
    table: Mutex<Table>,
    /// Whose turn it is, of each kind.
    turns: [(JobKind, Semaphore); KINDS.len()],
    tasks: TaskTracker,
    clock: Arc<dyn Clock>,
}

impl Jobs {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let shared = Shared {
            table: Mutex::default(),
            turns: KINDS.map(|kind| (kind, Semaphore::new(1))),
            tasks: TaskTracker::new(),
            clock,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// What tells of them in metrics.
    pub(super) fn counted(&self) -> OfJobs {
        OfJobs(Arc::clone(&self.shared))
    }

    /// Begins a job as soon as it is its turn. `what` says in words what it is to do.
    pub(super) fn start<F>(
        &self,
        kind: JobKind,
        what: String,
        work: impl FnOnce(Worker) -> F + Send + 'static,
    ) -> Result<Job, Refusal>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let worker = Worker::default();
        let now = self.shared.clock.now();
        let job = self.shared.table().add(kind, what, worker.clone(), now)?;
        let (shared, id) = (Arc::clone(&self.shared), job.id);
        self.shared.tasks.spawn(async move {
            shared.run(id, kind, worker, work).await;
        });
        Ok(job)
    }

    /// All that is known of, the latest first.
    pub(super) fn list(&self) -> Vec<Job> {
        self.shared.table().list()
    }

    /// Those that run now.
    pub(super) fn running(&self) -> Vec<Job> {
        let mut jobs = self.list();
        jobs.retain(|job| job.state == JobState::Running);
        jobs
    }

    pub(super) fn get(&self, id: u64) -> Option<Job> {
        self.shared.table().get(id)
    }

    /// Tells a job to end. It may take a moment until it has.
    pub(super) fn cancel(&self, id: u64) -> Result<Job, Refusal> {
        let now = self.shared.clock.now();
        self.shared.table().cancel(id, now)
    }

    /// Takes no more jobs, and tells all to end.
    pub(super) fn close(&self) {
        self.shared.table().close(self.shared.clock.now());
        self.shared.tasks.close();
    }

    /// Waits until all have ended, after [`Self::close`].
    pub(super) async fn wait(&self) {
        self.shared.tasks.wait().await;
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // What is held under it is changed in one step.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run<F: Future<Output = ()> + Send>(
        &self,
        id: u64,
        kind: JobKind,
        worker: Worker,
        work: impl FnOnce(Worker) -> F + Send,
    ) {
        let turns = self.turns.iter().find(|(of, _)| *of == kind);
        let (_, turn) = turns.expect("each kind has its turns");
        let turn = tokio::select! {
            biased;
            () = worker.progress.cancelled() => return,
            turn = turn.acquire() => turn,
        };
        if !self.table().begin(id, self.clock.now()) {
            return;
        }
        info!(job = id, ?kind, "a job begins");
        let notes = worker.notes.clone();
        let too_long = {
            let worker = worker.clone();
            async move {
                worker.progress.cancelled().await;
                sleep(limits::JOB_CANCEL_MAX).await;
            }
        };
        let worked = AssertUnwindSafe(work(worker)).catch_unwind();
        tokio::select! {
            biased;
            worked = worked => if let Err(panic) = worked {
                error!(job = id, what = panic_text(&*panic), "a job has panicked");
                notes.failed("the mirror has a defect, which its log tells more about".to_owned());
            },
            () = too_long => notes.done("it was ended in the middle of what it did".to_owned()),
        }
        let state = self.table().end(id, self.clock.now());
        info!(job = id, ?kind, ?state, "a job has ended");
        drop(turn);
    }
}

#[cfg(test)]
mod tests;
