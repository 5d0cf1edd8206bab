//! The tasks of a cache: none is detached, and all of them end when it closes.

use std::time::Duration;

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
}

impl Tasks {
    /// Runs `work` in `span` to its end, or until it heeds the token that is cancelled on closing.
    pub(super) fn spawn<F>(&self, span: Span, work: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let work = work(self.closing.clone());
        self.tracker.spawn(work.instrument(span));
    }

    /// Runs what nobody waits for, for as long as the cache is open: it must heed the token.
    pub(super) fn spawn_in_background<F>(&self, work: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(work(self.leaving.clone()));
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
