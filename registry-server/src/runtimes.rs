//! The threads of the process: some answer, and others fetch what is missing, and give way to them.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};
use tracing::debug;

/// How much the threads that fetch give way (`nice`): where there is not enough time for all, they
/// get about a third of what those get that answer. Enough to go on, and too little to be in the
/// way.
const FETCHING_NICENESS: i32 = 5;

/// The runtimes of a mirror.
pub(crate) struct Runtimes {
    answering: Runtime,
    /// Runs downloads, with all that blocks a thread of theirs: hashing, writing, syncing.
    fetching: Runtime,
}

impl Runtimes {
    pub(crate) fn start() -> io::Result<Self> {
        let answering = Builder::new_multi_thread().enable_all().build()?;
        let fetching = Builder::new_multi_thread()
            .enable_all()
            .thread_name("fetching")
            .on_thread_start(give_way)
            .build()?;
        Ok(Self {
            answering,
            fetching,
        })
    }

    /// Where the tasks of a cache run.
    pub(crate) fn fetching(&self) -> Handle {
        self.fetching.handle().clone()
    }

    /// Runs the mirror to its end.
    pub(crate) fn block_on<T>(&self, mirror: impl Future<Output = T>) -> T {
        self.answering.block_on(mirror)
    }

    /// Ends all threads, without waiting for what blocks one.
    pub(crate) fn shutdown_background(self) {
        self.answering.shutdown_background();
        self.fetching.shutdown_background();
    }
}

/// Lowers the priority of this thread. Nobody but an administrator could raise it again, so that is
/// for threads that do nothing else.
#[cfg(target_os = "linux")]
fn give_way() {
    // On Linux, a priority is a thread's.
    if let Err(error) = rustix::process::setpriority_process(None, FETCHING_NICENESS) {
        debug!(%error, "cannot lower the priority of a thread");
    }
}

/// Elsewhere, a priority is the process's.
#[cfg(not(target_os = "linux"))]
fn give_way() {}
