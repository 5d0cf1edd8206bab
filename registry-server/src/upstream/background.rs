//! Work that nobody waits for.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use tokio::task::JoinSet;

/// Tasks that end with their owner, at the latest: what they do is of no use without it.
#[derive(Default)]
pub(super) struct Background(Mutex<JoinSet<()>>);

impl Background {
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        // Nothing is half done in it when a thread panics.
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").finish_non_exhaustive()
    }
}
