//! Patterns that repositories are chosen by, in configuration and pins.

use std::cmp::Reverse;
use std::fmt;

use crate::{Repository, UpstreamId};

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

    /// The same for repositories of this upstream, as people write them: at docker.io, a pattern of
    /// one component stands for what is in `library/`, but for `**`, which stands for everything.
    #[must_use]
    pub fn at(self, upstream: &UpstreamId) -> Self {
        let text = self.as_str();
        if !upstream.is_docker_io() || text.contains('/') || text == "**" {
            return self;
        }
        Self::parse(&format!("library/{text}")).unwrap_or(self)
    }

    /// Why it can stand for no repository at all, if that can be told.
    pub fn impossible(&self) -> Option<String> {
        let text = self.as_str();
        if text.starts_with('/') || text.ends_with('/') || text.contains("//") {
            return Some("a component of it is empty".to_owned());
        }
        let has_place = |c: char| c == '/' || NAME_CHARACTERS.contains(c);
        Piece::all(text).into_iter().find_map(|piece| match piece {
            Piece::Literal(c) if !has_place(c) => Some(format!("{c:?} is in no repository's name")),
            Piece::Class(class) => {
                let class_matches = |class: &glob::Pattern| {
                    let mut characters = NAME_CHARACTERS.chars();
                    characters.any(|c| class.matches(c.encode_utf8(&mut [0; 4])))
                };
                let is_possible = glob::Pattern::new(class).is_ok_and(|it| class_matches(&it));
                let what = || format!("none of {class} is in a repository's name");
                (!is_possible).then(what)
            }
            _ => None,
        })
    }

    /// How much it says of the repositories that it stands for, to be compared with that of others.
    ///
    /// Of two patterns one of which stands for everything that the other does and for more, the
    /// other is the more specific one. What decides, in this order: the more characters that a name
    /// must have to match at all; more of them given exactly, then more by `[abc]`; fewer `**`;
    /// fewer `*`.
    pub fn specificity(&self) -> Specificity {
        let mut specificity = Specificity::default();
        for piece in Piece::all(self.as_str()) {
            match piece {
                Piece::Depth => specificity.depths.0 += 1,
                Piece::Star => specificity.stars.0 += 1,
                Piece::One => specificity.characters += 1,
                Piece::Class(_) => {
                    specificity.characters += 1;
                    specificity.classes += 1;
                }
                Piece::Literal(_) => {
                    specificity.characters += 1;
                    specificity.literals += 1;
                }
            }
        }
        specificity
    }
}

/// How specific a [`RepositoryPattern`] is: the greater, the more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Specificity {
    characters: usize,
    literals: usize,
    classes: usize,
    depths: Reverse<usize>,
    stars: Reverse<usize>,
}

/// What repositories' names are made of, but for the separator.
const NAME_CHARACTERS: &str = "abcdefghijklmnopqrstuvwxyz0123456789._-";

/// A part of a pattern.
enum Piece<'p> {
    /// A character that stands for itself.
    Literal(char),
    /// `[abc]`.
    Class(&'p str),
    /// `?`.
    One,
    /// `*`.
    Star,
    /// `**`, with the separator behind it: it may stand for no component at all.
    Depth,
}

impl<'p> Piece<'p> {
    /// The parts of a pattern that was parsed.
    fn all(pattern: &'p str) -> Vec<Self> {
        let mut pieces = Vec::new();
        let mut rest = pattern;
        while let Some(c) = rest.chars().next() {
            let (piece, bytes) = match c {
                '*' if rest.starts_with("**/") => (Self::Depth, 3),
                '*' if rest.starts_with("**") => (Self::Depth, 2),
                '*' => (Self::Star, 1),
                '?' => (Self::One, 1),
                '[' => {
                    let bytes = class_bytes(rest);
                    (Self::Class(&rest[..bytes]), bytes)
                }
                c => (Self::Literal(c), c.len_utf8()),
            };
            pieces.push(piece);
            rest = &rest[bytes..];
        }
        pieces
    }
}

/// How long the class is that a text begins with: a `]` that comes first in it is one of it.
fn class_bytes(text: &str) -> usize {
    let start = if text.starts_with("[!") { 2 } else { 1 };
    let first = text[start..].chars().next().map_or(0, char::len_utf8);
    let end = text[start + first..].find(']');
    end.map_or(text.len(), |end| start + first + end + 1)
}

impl fmt::Display for RepositoryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> RepositoryPattern {
        RepositoryPattern::parse(text).unwrap()
    }

    #[test]
    fn what_says_more_is_more_specific() {
        // Each more specific than the next.
        let sorted = [
            "org/team/app",
            "org/team/ap[pq]",
            "org/team/ap?",
            "org/team/*",
            "org/team/**",
            "org/a*",
            "org/*",
            "org/**",
            "**/app",
            "o*",
            "*/*",
            "?",
            "*",
            "**",
        ];
        for pair in sorted.windows(2) {
            let [more, less] = [pair[0], pair[1]].map(|text| pattern(text).specificity());
            assert!(more > less, "{pair:?}");
        }
    }

    #[test]
    fn what_can_match_nothing_is_told() {
        for (text, wanted) in [
            ("org/App", "'A' is in no"),
            ("org/app:1", "':' is in no"),
            ("https://ghcr.io/org/*", "empty"),
            ("/org", "empty"),
            ("org/", "empty"),
            ("org/[A-Z]*", "[A-Z]"),
            ("org/[]]", "[]]"),
        ] {
            let why = pattern(text).impossible().unwrap();
            assert!(why.contains(wanted), "{text}: {why}");
        }
        for text in [
            "org/app",
            "**",
            "org/[!A-Z]",
            "a_b/c.d-e/[a-z]?*",
            "org/[]a]",
        ] {
            assert_eq!(pattern(text).impossible(), None, "{text}");
        }
    }

    #[test]
    fn docker_hub_has_a_library() {
        let [hub, other] = ["docker.io", "ghcr.io"].map(|id| UpstreamId::parse(id).unwrap());
        for (text, wanted) in [
            ("alpine", "library/alpine"),
            ("*", "library/*"),
            ("**", "**"),
            ("org/*", "org/*"),
        ] {
            assert_eq!(pattern(text).at(&hub).as_str(), wanted);
            assert_eq!(pattern(text).at(&other).as_str(), text);
        }
    }

    proptest! {
        /// Over all short names of a small alphabet, which are enough to tell short patterns apart.
        #[test]
        fn a_pattern_within_another_is_more_specific(
            one in "([ab?*]|\\[ab\\]){1,3}(/([ab?*]|\\[ab\\]){1,2})?",
            other in "(\\*\\*/)?([ab?*]|\\[ab\\]){1,3}(/\\*\\*)?",
        ) {
            let (Ok(one), Ok(other)) =
                (RepositoryPattern::parse(&one), RepositoryPattern::parse(&other))
            else {
                return Ok(());
            };
            let mut names = names(4);
            for first in names.clone() {
                names.extend(self::names(2).iter().map(|second| format!("{first}/{second}")));
            }
            names.push("a/b/c".to_owned());
            let (mut only_one, mut only_other, mut both) = (false, false, false);
            for name in &names {
                match (one.matches_text(name), other.matches_text(name)) {
                    (true, true) => both = true,
                    (true, false) => only_one = true,
                    (false, true) => only_other = true,
                    (false, false) => {}
                }
            }
            if both && only_other && !only_one {
                prop_assert!(one.specificity() > other.specificity(), "{one} is in {other}");
            }
            if both && only_one && !only_other {
                prop_assert!(other.specificity() > one.specificity(), "{other} is in {one}");
            }
        }
    }

    /// All names of up to so many characters: two, and a third that no pattern names.
    fn names(characters: usize) -> Vec<String> {
        let mut names = vec![String::new()];
        let mut begin = 0;
        for _ in 0..characters {
            let end = names.len();
            for index in begin..end {
                names.extend(["a", "b", "c"].map(|c| format!("{}{c}", names[index])));
            }
            begin = end;
        }
        names.split_off(1)
    }
}
