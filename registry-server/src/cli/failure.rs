//! How a command ends where it did not do what it was asked.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All that was asked for was done.
    Done,
    /// None of it was.
    Failed,
    /// Some of it was.
    Partly,
    /// None of it was, for the one reason that this is the status of.
    Like(u8),
}

impl Exit {
    /// How a command ended that did this much, of several things.
    pub(super) fn of(done: usize, failed: usize) -> Self {
        match (done, failed) {
            (_, 0) => Self::Done,
            (0, _) => Self::Failed,
            _ => Self::Partly,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Like(code) => code,
            Exit::Partly => 5,
        })
    }
}

/// Why a command could not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something went wrong.
    Failed(String),
    /// It was asked for in a way that makes no sense.
    Usage(String),
    /// What it is about is not there.
    NotFound(String),
    /// No mirror answers.
    Unreachable(String),
    /// The result could not be written.
    Output(io::Error),
}

impl Failure {
    /// What the process exits with.
    pub(super) fn code(&self) -> u8 {
        match self {
            // Whoever closed the pipe has read all that it wanted to.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Failed(_) | Self::Output(_) => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Unreachable(_) => 4,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(what)
            | Self::Usage(what)
            | Self::NotFound(what)
            | Self::Unreachable(what) => f.write_str(what),
            Self::Output(error) => write!(f, "cannot write the result: {error}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}
