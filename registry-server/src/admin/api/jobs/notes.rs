//! What a job came to, in lines for people: no more of them, and none longer, than may be.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::limits;

/// What a job tells. Clones share it.
#[derive(Clone, Debug, Default)]
pub(in crate::admin::api) struct Notes(Arc<Mutex<Kinds>>);

#[derive(Debug, Default)]
struct Kinds {
    report: Lines,
    failures: Lines,
}

/// The first of some lines, and how many more there were.
#[derive(Debug, Default)]
struct Lines {
    first: Vec<String>,
    more: usize,
}

impl Notes {
    /// Something was done.
    pub(in crate::admin::api) fn done(&self, what: String) {
        self.lock().report.add(what);
    }

    /// Something could not be done.
    pub(in crate::admin::api) fn failed(&self, what: String) {
        self.lock().failures.add(what);
    }

    /// Whether something could not be done.
    pub(super) fn has_failures(&self) -> bool {
        !self.lock().failures.first.is_empty()
    }

    /// What was done, and what could not be: of each the first `most` lines, and how many more there
    /// are.
    pub(super) fn lines(&self, most: usize) -> (Vec<String>, Vec<String>) {
        let kinds = self.lock();
        (kinds.report.lines(most), kinds.failures.lines(most))
    }

    fn lock(&self) -> MutexGuard<'_, Kinds> {
        // A line is there or not.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn add(&mut self, mut line: String) {
        if self.first.len() == limits::JOB_LINES_MAX {
            self.more += 1;
            return;
        }
        if line.len() > limits::JOB_LINE_BYTES_MAX {
            line.truncate(line.floor_char_boundary(limits::JOB_LINE_BYTES_MAX));
            line.push('…');
        }
        self.first.push(line);
    }

    fn lines(&self, most: usize) -> Vec<String> {
        let more = self.more + self.first.len().saturating_sub(most);
        let more = (more > 0).then(|| format!("and {more} more"));
        self.first.iter().take(most).cloned().chain(more).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_in_number_and_length() {
        let notes = Notes::default();
        for _ in 0..limits::JOB_LINES_MAX + 3 {
            notes.failed("é".repeat(limits::JOB_LINE_BYTES_MAX));
        }
        assert_eq!(notes.lines(2).1.last().unwrap(), "and 1001 more");
        let (report, failures) = notes.lines(usize::MAX);
        assert!(report.is_empty());
        assert_eq!(failures.len(), limits::JOB_LINES_MAX + 1);
        assert_eq!(failures.last().unwrap(), "and 3 more");
        assert!(failures[0].len() <= limits::JOB_LINE_BYTES_MAX + '…'.len_utf8());
    }
}
