//! Pins: which images are kept whatever happens.

use std::fmt;

use crate::{
    Digest, DigestError, NameError, Origin, PatternError, Reference, Repository, RepositoryPattern,
    Tag, UpstreamId,
};

/// What a pin names: an image by tag or by digest, or every image that a pattern stands for.
///
/// Written as `UPSTREAM/REPOSITORY:TAG`, `UPSTREAM/REPOSITORY@DIGEST` or, with `*`, `?` or `[`
/// anywhere in repository or tag, as a pattern ([`RepositoryPattern`]); without a tag, a pattern
/// stands for all of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pin {
    /// One image.
    Image(Origin, Reference),
    /// Every image whose repository and tag match.
    Pattern {
        /// Of this upstream.
        upstream: UpstreamId,
        /// In these repositories.
        repositories: RepositoryPattern,
        /// Under a tag that matches; under any, or none, where there is no pattern.
        tags: Option<RepositoryPattern>,
    },
}

/// Why a text is no pin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// It names no upstream.
    #[error("needs an upstream, a repository and a tag: docker.io/library/alpine:3.20")]
    Incomplete,
    /// A name in it is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A digest in it is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A pattern in it is none.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

impl Pin {
    /// Parses what [`fmt::Display`] writes.
    ///
    /// # Errors
    ///
    /// [`PinError`].
    pub fn parse(text: &str) -> Result<Self, PinError> {
        let (upstream, rest) = text.split_once('/').ok_or(PinError::Incomplete)?;
        let upstream = UpstreamId::parse(upstream)?;
        if let Some((repository, digest)) = rest.split_once('@') {
            let origin = Origin::new(upstream, Repository::parse(repository)?);
            return Ok(Self::Image(
                origin,
                Reference::Digest(Digest::parse(digest)?),
            ));
        }
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        if rest.contains(['*', '?', '[']) {
            return Ok(Self::Pattern {
                upstream,
                repositories: RepositoryPattern::parse(repository)?,
                tags: tag.map(RepositoryPattern::parse).transpose()?,
            });
        }
        let tag = Tag::parse(tag.ok_or(PinError::Incomplete)?)?;
        let origin = Origin::new(upstream, Repository::parse(repository)?);
        Ok(Self::Image(origin, Reference::Tag(tag)))
    }

    /// Whether it holds what this tag of this origin names.
    pub fn holds_tag(&self, origin: &Origin, tag: &Tag) -> bool {
        match self {
            Self::Image(of, Reference::Tag(pinned)) => of == origin && pinned == tag,
            Self::Image(_, Reference::Digest(_)) => false,
            Self::Pattern {
                upstream,
                repositories,
                tags,
            } => {
                upstream == origin.upstream()
                    && repositories.matches(origin.repository())
                    && tags
                        .as_ref()
                        .is_none_or(|tags| tags.matches_text(tag.as_str()))
            }
        }
    }

    /// Whether it holds this manifest, which is linked in this origin, whatever its tags.
    pub fn holds_digest(&self, origin: &Origin, digest: Digest) -> bool {
        match self {
            Self::Image(of, Reference::Digest(pinned)) => of == origin && *pinned == digest,
            Self::Image(_, Reference::Tag(_)) => false,
            Self::Pattern {
                upstream,
                repositories,
                tags,
            } => {
                tags.is_none()
                    && upstream == origin.upstream()
                    && repositories.matches(origin.repository())
            }
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(origin, Reference::Tag(tag)) => write!(f, "{origin}:{tag}"),
            Self::Image(origin, Reference::Digest(digest)) => write!(f, "{origin}@{digest}"),
            Self::Pattern {
                upstream,
                repositories,
                tags,
            } => {
                write!(f, "{upstream}/{repositories}")?;
                tags.iter().try_for_each(|tags| write!(f, ":{tags}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(upstream: &str, repository: &str) -> Origin {
        Origin::new(
            UpstreamId::parse(upstream).unwrap(),
            Repository::parse(repository).unwrap(),
        )
    }

    #[test]
    fn pins_are_read_as_they_are_written() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for text in [
            "docker.io/library/alpine:3.20",
            &format!("registry.example.org:5000/a/b@{digest}"),
            "ghcr.io/org/*",
            "ghcr.io/org/**:v1.*",
            "ghcr.io/org/app:v?",
        ] {
            assert_eq!(Pin::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "alpine",
            "docker.io/library/alpine",
            "docker.io/A:1",
            "x/y@z",
            "/a:1",
            "",
        ] {
            assert!(Pin::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_pin_holds_what_it_names() {
        let digest: Digest = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
        let tag = |tag| Tag::parse(tag).unwrap();
        let app = origin("ghcr.io", "org/app");
        for (pin, holds) in [
            ("ghcr.io/org/app:v1", true),
            ("ghcr.io/org/app:v2", false),
            ("ghcr.io/org/*", true),
            ("ghcr.io/org/*:v*", true),
            ("ghcr.io/org/*:w*", false),
            ("ghcr.io/*:v1", false),
            ("ghcr.io/**", true),
            ("quay.io/**", false),
        ] {
            assert_eq!(
                Pin::parse(pin).unwrap().holds_tag(&app, &tag("v1")),
                holds,
                "{pin}"
            );
        }
        let by_digest = Pin::parse(&format!("ghcr.io/org/app@{digest}")).unwrap();
        assert!(by_digest.holds_digest(&app, digest));
        assert!(!by_digest.holds_digest(&origin("ghcr.io", "org/other"), digest));
        assert!(
            Pin::parse("ghcr.io/org/*")
                .unwrap()
                .holds_digest(&app, digest)
        );
        assert!(
            !Pin::parse("ghcr.io/org/*:v1")
                .unwrap()
                .holds_digest(&app, digest)
        );
    }
}
