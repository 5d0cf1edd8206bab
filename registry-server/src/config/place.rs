//! Where a setting was written, and what is wrong with it there.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Where a setting was written: what a person has to change to change it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// A flag of the command line.
    Flag(&'static str),
    /// An environment variable.
    Variable(&'static str),
    /// A line of the configuration file.
    File {
        /// The file, as it was named.
        path: Arc<Path>,
        /// The line, from 1; none where the file as a whole is meant.
        line: Option<usize>,
        /// The key, with the tables that it stands in.
        key: String,
    },
    /// A method of [`MirrorBuilder`](crate::MirrorBuilder).
    Builder(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Variable(name) => f.write_str(name),
            Self::File { path, line, key } => {
                write!(f, "{}", path.display())?;
                if let Some(line) = line {
                    write!(f, ":{line}")?;
                }
                if !key.is_empty() {
                    write!(f, ": {key}")?;
                }
                Ok(())
            }
            Self::Builder(method) => write!(f, "MirrorBuilder::{method}"),
        }
    }
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ConfigError {
    /// Where.
    pub place: Place,
    /// What, and what to write instead.
    pub problem: String,
}

/// Everything that is wrong with the configuration; at least one thing. Shown one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// The errors, in the order in which flags, environment and file were read.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects what is wrong, so that all of it is reported and not only the first.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<ConfigError>);

impl Problems {
    pub(crate) fn add(&mut self, place: Place, problem: impl Into<String>) {
        let problem = problem.into();
        self.0.push(ConfigError { place, problem });
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds what was found in one file, in the order of its lines.
    pub(crate) fn append_by_line(&mut self, mut found: Self) {
        found.0.sort_by_key(|error| match error.place {
            Place::File { line, .. } => line,
            _ => None,
        });
        self.0.append(&mut found.0);
    }

    /// `value`, if nothing is wrong.
    pub(crate) fn finish<T>(self, value: T) -> Result<T, ConfigErrors> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(ConfigErrors(self.0))
        }
    }
}

/// A value, and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Written<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

impl<T> Written<T> {
    pub(crate) fn new(value: T, place: Place) -> Self {
        Self { value, place }
    }

    pub(crate) fn map<U>(self, map: impl FnOnce(T) -> U) -> Written<U> {
        Written::new(map(self.value), self.place)
    }
}

impl Written<String> {
    /// The words of the value, each under the same place.
    pub(crate) fn words(&self) -> impl Iterator<Item = Self> {
        let words = self.value.split_whitespace();
        words.map(|word| Self::new(word.to_owned(), self.place.clone()))
    }

    /// Parses the value; a problem is noted under its place.
    pub(crate) fn parse<T>(
        self,
        problems: &mut Problems,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Written<T>> {
        match parse(&self.value) {
            Ok(value) => Some(Written::new(value, self.place)),
            Err(problem) => {
                problems.add(self.place, problem);
                None
            }
        }
    }
}
