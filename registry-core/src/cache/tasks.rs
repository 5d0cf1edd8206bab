//! The tasks of a cache: none is detached, and all of them end when it closes.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span};

/// What runs in the background.
#[derive(Default)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    closing: CancellationToken,
    /// Cancelled before the other: what nobody waits for ends as soon as closing begins.
    leaving: CancellationToken,
    /// Where they run, if not where they are begun.
    runtime: OnceLock<Handle>,
}

impl Tasks {
    /// Runs `work` in `span` to its end, or until it heeds the token that is cancelled on closing.
    pub(super) fn spawn<F>(&self, span: Span, work: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let work = work(self.closing.clone());
        self.run(work.instrument(span));
    }

    /// Runs what nobody waits for, for as long as the cache is open: it must heed the token.
    pub(super) fn spawn_in_background<F>(&self, work: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.run(work(self.leaving.clone()));
    }

    /// Has what is spawned from now on run there, unless it runs elsewhere already.
    pub(super) fn run_on(&self, runtime: Handle) {
        self.runtime.get_or_init(|| runtime);
    }

    /// Whether they run elsewhere than where they are begun.
    pub(super) fn run_apart(&self) -> bool {
        self.runtime.get().is_some()
    }

    fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        match self.runtime.get() {
            Some(runtime) => self.tracker.spawn_on(task, runtime),
            None => self.tracker.spawn(task),
        };
    }

    /// Runs `work` on a thread that it may keep busy. `None` where the runtime ends before it began.
    ///
    /// # Cancellation
    ///
    /// Once it runs, it runs to its end.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        match self.tracker.spawn_blocking(work).await {
            Ok(done) => Some(done),
            Err(failed) => match failed.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => None,
            },
        }
    }

    /// Whether the cache is closing, so that nothing new should begin.
    pub(super) fn is_closed(&self) -> bool {
        self.tracker.is_closed()
    }

    /// Waits for what runs, for `limit` at the most, and then tells it to end.
    pub(super) async fn close(&self, limit: Duration) {
        self.tracker.close();
        self.leaving.cancel();
        // Whether in time or not: what began just before it was closed, or begins after, ends too.
        let _ = tokio::time::timeout(limit, self.tracker.wait()).await;
        self.closing.cancel();
        self.tracker.wait().await;
    }
}
