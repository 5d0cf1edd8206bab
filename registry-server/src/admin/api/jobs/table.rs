//! Which jobs there are, and how each is going. Pure: no task, no time of its own.

use std::collections::BTreeMap;

use registry_core::Timestamp;

use super::super::documents;
use super::counts::Ended;
use super::{JobKind, JobState, Refusal, Worker, limits};
use crate::api::{Job, Time};

/// All jobs, by their numbers.
#[derive(Default)]
pub(super) struct Table {
    /// The number of the last.
    last: u64,
    closed: bool,
    jobs: BTreeMap<u64, Record>,
    ended: Ended,
}

struct Record {
    kind: JobKind,
    what: String,
    state: JobState,
    /// When it was asked for; when it began, once it has.
    started_at: Timestamp,
    ended_at: Option<Timestamp>,
    worker: Worker,
}

impl Table {
    pub(super) fn add(
        &mut self,
        kind: JobKind,
        what: String,
        worker: Worker,
        now: Timestamp,
    ) -> Result<Job, Refusal> {
        if self.closed {
            return Err(Refusal::unavailable("the mirror is shutting down"));
        }
        let queued = self.jobs.values().filter(|it| it.state == JobState::Queued);
        if queued.count() >= limits::JOBS_QUEUED_MAX {
            return Err(Refusal::busy(format!(
                "{} jobs are waiting already: try again when some have ended",
                limits::JOBS_QUEUED_MAX
            )));
        }
        self.last += 1;
        let record = Record {
            kind,
            what,
            state: JobState::Queued,
            started_at: now,
            ended_at: None,
            worker,
        };
        let job = record.job(self.last, usize::MAX);
        self.jobs.insert(self.last, record);
        Ok(job)
    }

    pub(super) fn get(&self, id: u64) -> Option<Job> {
        self.jobs.get(&id).map(|record| record.job(id, usize::MAX))
    }

    pub(super) fn list(&self) -> Vec<Job> {
        let latest = self.jobs.iter().rev();
        let job = |(id, record): (&u64, &Record)| record.job(*id, limits::JOB_LINES_LISTED_MAX);
        latest.map(job).collect()
    }

    /// It is its turn; whether it is to do something then.
    pub(super) fn begin(&mut self, id: u64, now: Timestamp) -> bool {
        let record = self.jobs.get_mut(&id);
        let Some(record) = record.filter(|record| record.state == JobState::Queued) else {
            return false;
        };
        record.state = JobState::Running;
        record.started_at = now;
        true
    }

    /// It has stopped working; how that is called.
    pub(super) fn end(&mut self, id: u64, now: Timestamp) -> Option<JobState> {
        let record = self.jobs.get_mut(&id)?;
        let state = if record.worker.progress.is_cancelled() {
            JobState::Cancelled
        } else if record.worker.notes.has_failures() {
            JobState::Failed
        } else {
            JobState::Done
        };
        record.state = state;
        record.ended_at = Some(now);
        self.ended.count(record.kind, state);
        self.forget_the_oldest();
        Some(state)
    }

    pub(super) fn cancel(&mut self, id: u64, now: Timestamp) -> Result<Job, Refusal> {
        let Some(record) = self.jobs.get_mut(&id) else {
            return Err(unknown(id));
        };
        if record.ended_at.is_some() {
            return Err(Refusal::conflict(format!("job {id} has ended already")));
        }
        record.cancel(now, &mut self.ended);
        let job = record.job(id, usize::MAX);
        self.forget_the_oldest();
        Ok(job)
    }

    pub(super) fn close(&mut self, now: Timestamp) {
        self.closed = true;
        let unfinished = self.jobs.values_mut().filter(|it| it.ended_at.is_none());
        unfinished.for_each(|record| record.cancel(now, &mut self.ended));
    }

    /// Those that have not ended, and how many have.
    pub(super) fn counts(&self) -> (Vec<(JobKind, JobState)>, Ended) {
        let unfinished = self.jobs.values().filter(|it| it.ended_at.is_none());
        let unfinished = unfinished.map(|it| (it.kind, it.state)).collect();
        (unfinished, self.ended)
    }

    fn forget_the_oldest(&mut self) {
        let ended = self.jobs.iter().filter(|(_, it)| it.ended_at.is_some());
        let ended: Vec<_> = ended.map(|(id, _)| *id).collect();
        let excess = ended.len().saturating_sub(limits::JOBS_ENDED_MAX);
        for id in &ended[..excess] {
            self.jobs.remove(id);
        }
    }
}

impl Record {
    /// What has not begun has thereby ended.
    fn cancel(&mut self, now: Timestamp, ended: &mut Ended) {
        self.worker.cancel();
        if self.state == JobState::Queued {
            self.state = JobState::Cancelled;
            self.ended_at = Some(now);
            ended.count(self.kind, self.state);
        }
    }

    /// It, with so many lines of its report and of its failures.
    fn job(&self, id: u64, lines_max: usize) -> Job {
        let (report, failures) = self.worker.notes.lines(lines_max);
        Job {
            id,
            kind: self.kind,
            what: self.what.clone(),
            state: self.state,
            started_at: Time::from(self.started_at),
            ended_at: self.ended_at.map(Time::from),
            progress: documents::progress(self.worker.made()),
            report,
            failures,
        }
    }
}

/// There is no such job, or it is told of no longer.
pub(in crate::admin::api) fn unknown(id: impl std::fmt::Display) -> Refusal {
    Refusal::not_found(format!(
        "there is no job {id}, or it has ended long ago: GET /api/v1/jobs lists those that are \
         told of"
    ))
}
