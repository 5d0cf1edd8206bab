//! What a process holds, and whether that grows.

use std::fs;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

/// How long what is held may take to be let go of.
const LET_GO_MAX: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Descriptors that may be open in the end and not before: of the runtime's own threads.
const DESCRIPTORS_SPARE: usize = 8;

/// What this process holds at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    descriptors: usize,
    tasks: usize,
}

impl Held {
    pub(crate) fn now() -> Self {
        let descriptors = fs::read_dir("/proc/self/fd").expect("Linux").count();
        let tasks = Handle::current().metrics().num_alive_tasks();
        Self { descriptors, tasks }
    }

    /// Waits until as little is held as was then, when a mirror ran; now none does.
    pub(crate) async fn assert_nothing_leaked(self) {
        let deadline = Instant::now() + LET_GO_MAX;
        loop {
            let now = Self::now();
            let more_descriptors = now.descriptors > self.descriptors + DESCRIPTORS_SPARE;
            if !more_descriptors && now.tasks <= self.tasks {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "before {self:?}, and in the end {now:?}"
            );
            sleep(LOOK_INTERVAL).await;
        }
    }
}
