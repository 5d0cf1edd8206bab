//! Names of images, as people write them.

use std::fmt;

use registry_core::{
    Digest, NameError, Origin, Pin, PinError, Reference, Repository, Tag, UpstreamId,
};

/// The tag that is meant where none is written.
const DEFAULT_TAG: &str = "latest";

/// Length of an image's ID, which is no name, in hexadecimal digits.
const ID_CHARS: usize = 64;

/// What makes a text a pattern of names, and not a name.
const PATTERN_SIGNS: [char; 3] = ['*', '?', '['];

/// An image, found by what people write: `alpine`, `org/app:1`, `ghcr.io/org/app@sha256:…`.
///
/// The grammar is that of docker's references. The first component names the registry where it has
/// a dot or a colon, is `localhost`, or is an upstream that is known; everything else is at the
/// default upstream. One-component names at docker.io stand in `library/`. Without tag and digest,
/// `latest` is meant; of both, the digest counts.
///
/// ```
/// use registry_core::UpstreamId;
/// use registry_server::api::ImageName;
///
/// let hub = UpstreamId::parse("docker.io").unwrap();
/// let name = |text| ImageName::parse(text, &hub, |_| false).unwrap().to_string();
/// assert_eq!(name("alpine"), "docker.io/library/alpine:latest");
/// assert_eq!(name("ghcr.io/org/app:1"), "ghcr.io/org/app:1");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName {
    /// The upstream and the repository.
    pub origin: Origin,
    /// The tag or digest.
    pub reference: Reference,
}

/// Why a text names no image, with what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageNameError {
    /// There is nothing.
    #[error("no image is named: write for example alpine:3.20 or ghcr.io/org/app:1")]
    Empty,
    /// There is space in it, or around it.
    #[error("\"{0}\" has white space in it: write one image, without spaces")]
    Space(String),
    /// It is a URL.
    #[error("\"{0}\" is a URL: leave out what stands before ://, and the slashes")]
    Url(String),
    /// It is an image's ID.
    #[error("\"{0}\" is an image's ID, which no registry knows: write its name, or name@sha256:…")]
    Id(String),
    /// It has nothing after the registry.
    #[error("\"{0}\" names a registry and no repository: write for example {0}/org/app:1")]
    NoRepository(String),
    /// It has upper-case letters where none may be.
    #[error("\"{text}\" is no repository: it has upper-case letters; write {suggestion}")]
    UpperCase {
        /// The repository.
        text: String,
        /// The same in lower case.
        suggestion: String,
    },
    /// A part of it is not what it has to be.
    #[error("in \"{text}\", \"{part}\" is {source}")]
    Part {
        /// All of it.
        text: String,
        /// The part.
        part: String,
        /// What is wrong with that.
        source: NameError,
    },
    /// It is no pattern.
    #[error("\"{text}\" cannot be pinned: {source}")]
    Pin {
        /// All of it.
        text: String,
        /// What is wrong with it.
        source: PinError,
    },
}

impl ImageName {
    /// Finds an image by what is written; `is_known` tells the upstreams whose names have neither
    /// dot nor colon.
    ///
    /// # Errors
    ///
    /// [`ImageNameError`], which says what to write.
    pub fn parse(
        text: &str,
        default_upstream: &UpstreamId,
        is_known: impl Fn(&UpstreamId) -> bool,
    ) -> Result<Self, ImageNameError> {
        let name = check(text)?;
        let (name, digest) = match name.split_once('@') {
            Some((name, digest)) => {
                let parsed = Digest::parse(digest).map_err(NameError::Digest);
                (name, Some(parsed.map_err(part(text, digest))?))
            }
            None => (name, None),
        };
        let (upstream, rest) = registry_of(name, text, is_known)?;
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        // A tag beside a digest is not asked for, and has to be one all the same.
        let tag = Tag::parse(tag.unwrap_or(DEFAULT_TAG))
            .map_err(part(text, tag.unwrap_or(DEFAULT_TAG)))?;
        let upstream = upstream.unwrap_or_else(|| default_upstream.clone());
        Ok(Self {
            origin: Origin::new(upstream, repository_of(repository, text)?),
            reference: digest.map_or(Reference::Tag(tag), Reference::Digest),
        })
    }

    /// Finds what is to be pinned by what is written: an image, or with `*`, `?` or `[` in it a
    /// pattern of images ([`Pin`]), of the default upstream where none is named.
    ///
    /// # Errors
    ///
    /// [`ImageNameError`], which says what to write.
    pub fn parse_pin(
        text: &str,
        default_upstream: &UpstreamId,
        is_known: impl Fn(&UpstreamId) -> bool,
    ) -> Result<Pin, ImageNameError> {
        if !text.contains(PATTERN_SIGNS) {
            let name = Self::parse(text, default_upstream, is_known)?;
            return Ok(Pin::Image(name.origin, name.reference));
        }
        let (upstream, rest) = registry_of(check(text)?, text, is_known)?;
        let upstream = upstream.as_ref().unwrap_or(default_upstream);
        let library = if upstream.is_docker_io() && !rest.contains('/') && !rest.contains("**") {
            "library/"
        } else {
            ""
        };
        Pin::parse(&format!("{upstream}/{library}{rest}")).map_err(|source| ImageNameError::Pin {
            text: text.to_owned(),
            source,
        })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, reference } = self;
        match reference {
            Reference::Tag(tag) => write!(f, "{origin}:{tag}"),
            Reference::Digest(digest) => write!(f, "{origin}@{digest}"),
        }
    }
}

/// What is left of a text that may be a name: without the transport that skopeo and podman write.
fn check(text: &str) -> Result<&str, ImageNameError> {
    let name = text.strip_prefix("docker://").unwrap_or(text);
    if name.is_empty() {
        return Err(ImageNameError::Empty);
    }
    if name.contains(char::is_whitespace) {
        return Err(ImageNameError::Space(text.to_owned()));
    }
    if name.contains("://") {
        return Err(ImageNameError::Url(text.to_owned()));
    }
    let id = name.strip_prefix("sha256:").unwrap_or(name);
    if id.len() == ID_CHARS && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ImageNameError::Id(text.to_owned()));
    }
    Ok(name)
}

/// The registry that a name begins with, if it does, and what comes after.
fn registry_of<'a>(
    name: &'a str,
    text: &str,
    is_known: impl Fn(&UpstreamId) -> bool,
) -> Result<(Option<UpstreamId>, &'a str), ImageNameError> {
    let Some((first, rest)) = name.split_once('/') else {
        return Ok((None, name));
    };
    let parsed = UpstreamId::parse(first);
    let is_registry = first.contains(['.', ':']) && !first.contains(PATTERN_SIGNS)
        || first.starts_with('[')
        || first == "localhost"
        || parsed.as_ref().is_ok_and(is_known);
    if !is_registry {
        return Ok((None, name));
    }
    if rest.is_empty() {
        return Err(ImageNameError::NoRepository(first.to_owned()));
    }
    Ok((Some(parsed.map_err(part(text, first))?), rest))
}

fn repository_of(repository: &str, text: &str) -> Result<Repository, ImageNameError> {
    Repository::parse(repository).map_err(|source| {
        let suggestion = repository.to_ascii_lowercase();
        if Repository::parse(&suggestion).is_ok() {
            let text = repository.to_owned();
            return ImageNameError::UpperCase { text, suggestion };
        }
        part(text, repository)(source)
    })
}

fn part(text: &str, part: &str) -> impl FnOnce(NameError) -> ImageNameError {
    let (text, part) = (text.to_owned(), part.to_owned());
    move |source| ImageNameError::Part { text, part, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub() -> UpstreamId {
        UpstreamId::parse("docker.io").unwrap()
    }

    fn is_known(upstream: &UpstreamId) -> bool {
        upstream.as_str() == "internal"
    }

    #[test]
    fn names_are_found_as_docker_finds_them() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, expected) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3", "docker.io/library/alpine:3"),
            ("org/app", "docker.io/org/app:latest"),
            ("docker.io/alpine:3", "docker.io/library/alpine:3"),
            ("index.docker.io/library/x:1", "docker.io/library/x:1"),
            ("registry-1.docker.io/org/x", "docker.io/org/x:latest"),
            ("ghcr.io/org/app:1", "ghcr.io/org/app:1"),
            ("GHCR.io/org/app:1", "ghcr.io/org/app:1"),
            ("quay.io/app", "quay.io/app:latest"),
            ("localhost/x:1", "localhost/x:1"),
            ("localhost:5000/x:V1", "localhost:5000/x:V1"),
            ("10.0.0.1:5000/a/b/c", "10.0.0.1:5000/a/b/c:latest"),
            ("internal/app:1", "internal/app:1"),
            ("other/app:1", "docker.io/other/app:1"),
            ("docker://quay.io/a/b:1", "quay.io/a/b:1"),
            (
                &format!("localhost:5000/x@{digest}"),
                &format!("localhost:5000/x@{digest}"),
            ),
            (
                &format!("docker.io/library/x:1@{digest}"),
                &format!("docker.io/library/x@{digest}"),
            ),
            (
                &format!("x@{digest}"),
                &format!("docker.io/library/x@{digest}"),
            ),
        ] {
            let name = ImageName::parse(text, &hub(), is_known);
            assert_eq!(name.unwrap().to_string(), expected, "{text}");
            // What is written out is read as the same.
            let again = ImageName::parse(expected, &hub(), is_known);
            assert_eq!(again.unwrap().to_string(), expected);
        }
        let ghcr = UpstreamId::parse("ghcr.io").unwrap();
        let name = ImageName::parse("alpine", &ghcr, is_known).unwrap();
        assert_eq!(name.to_string(), "ghcr.io/alpine:latest");
    }

    #[test]
    fn what_is_no_name_is_refused_with_what_to_write() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, says) in [
            ("", "write for example alpine:3.20"),
            ("docker://", "write for example alpine:3.20"),
            (" alpine", "without spaces"),
            ("alpine 3", "without spaces"),
            (
                "https://ghcr.io/org/app",
                "leave out what stands before ://",
            ),
            (&"a".repeat(64), "an image's ID"),
            (&digest, "an image's ID"),
            ("Alpine", "write alpine"),
            ("ghcr.io/Org/App:1", "write org/app"),
            ("ghcr.io/", "write for example ghcr.io/org/app:1"),
            ("alpine:", "not a tag"),
            ("alpine:a:b", "not a tag"),
            ("alpine:.x", "not a tag"),
            (&format!("alpine:-@{digest}"), "not a tag"),
            ("alpine@sha256:abc", "digest"),
            ("alpine@", "digest"),
            ("@", "digest"),
            ("a//b", "not a repository name"),
            ("/a", "not a repository name"),
            ("a/", "not a repository name"),
            ("[::1]:5000/x", "not the name of a registry"),
            ("user@host/x", "digest"),
            ("alp*ne", "not a repository name"),
        ] {
            let error = ImageName::parse(text, &hub(), is_known).expect_err(text);
            assert!(error.to_string().contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn pins_are_images_or_patterns() {
        for (text, expected) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("ghcr.io/org/app:1", "ghcr.io/org/app:1"),
            ("ghcr.io/org/*", "ghcr.io/org/*"),
            ("ghcr.io/**:v1.*", "ghcr.io/**:v1.*"),
            ("org/*:1", "docker.io/org/*:1"),
            ("alp*:3", "docker.io/library/alp*:3"),
            ("**", "docker.io/**"),
            ("o[rs]g/app:1", "docker.io/o[rs]g/app:1"),
            ("internal/app:v?", "internal/app:v?"),
        ] {
            let pin = ImageName::parse_pin(text, &hub(), is_known);
            let pin = pin.unwrap();
            assert_eq!(pin.to_string(), expected, "{text}");
            assert_eq!(Pin::parse(expected), Ok(pin));
        }
        for text in ["", "a b*", "ghcr.io/org/[", "ghcr.io/***", "Alpine"] {
            let pin = ImageName::parse_pin(text, &hub(), is_known);
            assert!(pin.is_err(), "{text:?}: {pin:?}");
        }
    }
}
