//! What a job is given to work with.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use registry_core::{Progress, ProgressMade};

use super::notes::Notes;

/// How far a job has come, whether it shall end, and what it came to. Clones share it: one works, the
/// others look on.
#[derive(Clone, Debug, Default)]
pub(in crate::admin::api) struct Worker {
    /// Of the whole job.
    pub(in crate::admin::api) progress: Progress,
    /// What it came to.
    pub(in crate::admin::api) notes: Notes,
    /// Of the part that is being done, where the job has several.
    part: Arc<Mutex<Option<Progress>>>,
}

impl Worker {
    /// Begins a part of the job, which counts its own bytes and items: the bytes are the job's too,
    /// the parts are its items. [`Self::end_part`] ends it.
    pub(in crate::admin::api) fn begin_part(&self) -> Progress {
        let part = Progress::new();
        *self.part() = Some(part.clone());
        // Whoever cancels after this has seen the part.
        if self.progress.is_cancelled() {
            part.cancel();
        }
        part
    }

    pub(in crate::admin::api) fn end_part(&self) {
        let mut part = self.part();
        let bytes = part.take().map_or(0, |part| part.made().bytes);
        self.progress.update(|made| {
            made.bytes += bytes;
            made.items += 1;
        });
    }

    /// Tells the job to end.
    pub(super) fn cancel(&self) {
        self.progress.cancel();
        if let Some(part) = &*self.part() {
            part.cancel();
        }
    }

    /// How far it has come, with the part that is being done.
    pub(super) fn made(&self) -> ProgressMade {
        // Both under the lock, so that no part is counted twice or not at all.
        let part = self.part();
        let mut made = self.progress.made();
        if let Some(part) = part.as_ref().map(Progress::made) {
            let before = made.bytes;
            made.bytes += part.bytes;
            made.bytes_total = part.bytes_total.map(|total| before + total);
        }
        made
    }

    fn part(&self) -> MutexGuard<'_, Option<Progress>> {
        // A part is there or not.
        self.part.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up() {
        let worker = Worker::default();
        for bytes in [3, 4] {
            let part = worker.begin_part();
            part.update(|made| {
                made.bytes = bytes;
                made.bytes_total = Some(10);
                made.items = 99;
            });
            let made = worker.made();
            assert_eq!(made.bytes_total, Some(made.bytes - bytes + 10));
            worker.end_part();
        }
        let made = worker.made();
        assert_eq!((made.bytes, made.items), (7, 2));
        assert_eq!(made.bytes_total, None);
    }

    #[test]
    fn a_part_ends_with_the_job_whichever_began_first() {
        let worker = Worker::default();
        let before = worker.begin_part();
        worker.cancel();
        let after = worker.begin_part();
        assert!(before.is_cancelled() && after.is_cancelled());
    }
}
