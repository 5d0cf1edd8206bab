//! How a long piece of work tells how far it has come, and learns that it shall end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The progress of one piece of work. Clones share it: one side works, the other looks on.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    made: Arc<Mutex<ProgressMade>>,
    cancelled: CancellationToken,
}

/// How far some work has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgressMade {
    /// Bytes done.
    pub bytes: u64,
    /// Bytes in all, as far as is known by now.
    pub bytes_total: Option<u64>,
    /// Items done.
    pub items: u64,
    /// Items in all, as far as is known by now.
    pub items_total: Option<u64>,
    /// What is being done now.
    pub current: Option<String>,
}

impl Progress {
    /// Nothing is done yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How far it has come.
    pub fn made(&self) -> ProgressMade {
        self.lock().clone()
    }

    /// Changes what is told.
    pub fn update(&self, update: impl FnOnce(&mut ProgressMade)) {
        update(&mut self.lock());
    }

    /// Tells the work to end as soon as it can.
    pub fn cancel(&self) {
        self.cancelled.cancel();
    }

    /// Whether it was told so.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }

    /// Waits until it is told so.
    pub async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }

    fn lock(&self) -> MutexGuard<'_, ProgressMade> {
        // Nothing panics while it holds this but a caller's update, which leaves numbers.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
