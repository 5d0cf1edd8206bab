//! For tests of this crate and of whoever embeds it (feature `testing`): a disk that is full when
//! a test says so, and a look at what a crash would leave after each durable step.

pub use crate::space::DiskSpace;
pub use crate::step::Step;

use crate::DiskOptions;
use crate::{space, step};

impl DiskOptions {
    /// Takes the free space from `space` rather than from the system.
    #[must_use]
    pub fn with_space(mut self, space: impl Fn() -> DiskSpace + Send + Sync + 'static) -> Self {
        self.space = space::Probe::of(space);
        self
    }

    /// Calls `tell` after each step, on the thread that took it and before it goes on: a copy of
    /// the data folder made there is what a crash at that moment leaves, but for what the system
    /// itself had not written in a power cut. With `flush_index` the index is flushed before, as
    /// its own timer might have done.
    #[must_use]
    pub fn with_steps(
        mut self,
        flush_index: bool,
        tell: impl Fn(Step) + Send + Sync + 'static,
    ) -> Self {
        self.steps = step::Probe::of(flush_index, tell);
        self
    }
}
