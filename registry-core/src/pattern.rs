//! Patterns that repositories are chosen by, in configuration and pins.

use std::fmt;

use crate::Repository;

/// Longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 255;

const OPTIONS: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// A pattern of repositories: `*` stands for any part of one path component, `**` for any number
/// of components, `?` for one character, `[abc]` for one of these; everything else for itself.
///
/// ```
/// use registry_core::{Repository, RepositoryPattern};
///
/// let pattern = RepositoryPattern::parse("library/*").unwrap();
/// assert!(pattern.matches(&Repository::parse("library/alpine").unwrap()));
/// assert!(!pattern.matches(&Repository::parse("library/a/b").unwrap()));
/// let deep = RepositoryPattern::parse("org/**").unwrap();
/// assert!(deep.matches(&Repository::parse("org/a/b").unwrap()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryPattern(glob::Pattern);

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(String);

impl RepositoryPattern {
    /// Parses a pattern of at most 255 bytes.
    ///
    /// # Errors
    ///
    /// [`PatternError`], which says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() || text.len() > PATTERN_BYTES_MAX {
            let what = format!("a pattern has 1 to {PATTERN_BYTES_MAX} bytes");
            return Err(PatternError(what));
        }
        let pattern = glob::Pattern::new(text);
        let pattern = pattern.map_err(|error| PatternError(error.msg.to_owned()))?;
        Ok(Self(pattern))
    }

    /// Whether it stands for this repository.
    pub fn matches(&self, repository: &Repository) -> bool {
        self.matches_text(repository.as_str())
    }

    /// Whether it stands for this text.
    pub(crate) fn matches_text(&self, text: &str) -> bool {
        self.0.matches_with(text, OPTIONS)
    }

    /// It, as it was written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for RepositoryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
