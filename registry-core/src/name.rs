//! Names: upstreams, repositories, tags and references (distribution-spec, "Pulling manifests").

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::{Digest, DigestError};

/// Longest repository name, in bytes. Many clients limit host, `/` and name together to 255.
const REPOSITORY_BYTES_MAX: usize = 255;
/// Longest tag, in bytes (distribution-spec: one character and up to 127 more).
const TAG_BYTES_MAX: usize = 128;
/// Longest host name, in bytes (RFC 1035, section 2.3.4), without the port.
const HOST_BYTES_MAX: usize = 253;

/// Why a text is not the name it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Not a repository name.
    #[error(
        "not a repository name: up to 255 characters of lower-case letters, digits and single \
         separators (. _ __ -), in components divided by /"
    )]
    Repository,
    /// Not a tag.
    #[error(
        "not a tag: up to 128 characters of letters, digits, _ . and -, not beginning with . or -"
    )]
    Tag,
    /// Not the name of an upstream.
    #[error("not the name of a registry: write its host, with :port where it is not 443")]
    Upstream,
    /// Holds a colon, so it was meant as a digest, and is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// The registry that an image's name begins with: a key into the configured upstreams, never an
/// address to dial (I12).
///
/// A host name or address in lower case, with a port where it is not 443. The aliases of Docker
/// Hub are one upstream, `docker.io`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamId(Arc<str>);

impl UpstreamId {
    /// Docker Hub, under the name that image references use.
    pub const DOCKER_IO: &'static str = "docker.io";

    /// Parses `host[:port]`; case does not matter.
    ///
    /// # Errors
    ///
    /// [`NameError::Upstream`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        // Nearly all are in lower case already, and come with every request.
        let text = match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(text.to_ascii_lowercase()),
            false => Cow::Borrowed(text),
        };
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(parse_port(port).ok_or(NameError::Upstream)?)),
            None => (&*text, None),
        };
        if host.len() > HOST_BYTES_MAX || !host.split('.').all(is_host_label) {
            return Err(NameError::Upstream);
        }
        Ok(match (host, port) {
            ("docker.io" | "index.docker.io" | "registry-1.docker.io", None | Some(443)) => {
                Self(Self::DOCKER_IO.into())
            }
            (host, None | Some(443)) => Self(host.into()),
            (host, Some(port)) => Self(format!("{host}:{port}").into()),
        })
    }

    /// `host[:port]`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is Docker Hub, whose one-component names stand in `library/`.
    pub fn is_docker_io(&self) -> bool {
        self.as_str() == Self::DOCKER_IO
    }
}

/// A repository's name within its upstream.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(Arc<str>);

impl Repository {
    /// Parses a name by the grammar of distribution-spec.
    ///
    /// # Errors
    ///
    /// [`NameError::Repository`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() > REPOSITORY_BYTES_MAX || !text.split('/').all(is_path_component) {
            return Err(NameError::Repository);
        }
        Ok(Self(text.into()))
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A tag: the only name of content that can change what it names (I3).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

impl Tag {
    /// Parses a tag by the grammar of distribution-spec.
    ///
    /// # Errors
    ///
    /// [`NameError::Tag`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let mut bytes = text.bytes();
        let well_formed = bytes.next().is_some_and(word)
            && bytes.all(|b| word(b) || matches!(b, b'.' | b'-'))
            && text.len() <= TAG_BYTES_MAX;
        if well_formed {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Tag)
        }
    }

    /// The tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the tag carries a signature, an attestation, an SBOM or a list of referrers for
    /// another manifest (`sha256-….sig`, `sha256-…`): content that appears moments after the image
    /// it belongs to, so that its absence must not be remembered for long.
    pub fn is_attached(&self) -> bool {
        self.as_str()
            .split_once('-')
            .is_some_and(|(algorithm, rest)| {
                matches!(algorithm, "sha256" | "sha512")
                    && rest.bytes().take_while(u8::is_ascii_hexdigit).count() >= 64
            })
    }

    /// The manifest that what the tag names is attached to (`sha256-….sig`, `.att`, `.sbom`, or
    /// nothing after the digest); none where it is a tag like others.
    pub fn attached_to(&self) -> Option<Digest> {
        let (algorithm, rest) = self.as_str().split_once('-')?;
        let hash = rest.split('.').next()?;
        Digest::parse(&format!("{algorithm}:{hash}")).ok()
    }
}

/// What a manifest is asked for by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// By tag: mutable.
    Tag(Tag),
    /// By digest: immutable.
    Digest(Digest),
}

impl Reference {
    /// Parses a reference: one with a colon is a digest, any other a tag.
    ///
    /// # Errors
    ///
    /// [`NameError::Digest`] or [`NameError::Tag`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.contains(':') {
            Ok(Self::Digest(Digest::parse(text)?))
        } else {
            Tag::parse(text).map(Self::Tag)
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// Where content comes from, and the scope in which it may be served: a repository of an upstream
/// (I4, I5).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    upstream: UpstreamId,
    repository: Repository,
}

impl Origin {
    /// The origin of `repository` at `upstream`. One-component names at docker.io get `library/`,
    /// so that `alpine` and `library/alpine` are one origin.
    pub fn new(upstream: UpstreamId, repository: Repository) -> Self {
        let repository = if upstream.is_docker_io() && !repository.as_str().contains('/') {
            Repository(format!("library/{repository}").into())
        } else {
            repository
        };
        Self {
            upstream,
            repository,
        }
    }

    /// The upstream.
    pub fn upstream(&self) -> &UpstreamId {
        &self.upstream
    }

    /// The repository, as the upstream knows it.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.upstream, self.repository)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text forms of the names that wrap one.
macro_rules! text_name {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

text_name!(UpstreamId, Repository, Tag);

fn parse_port(text: &str) -> Option<u16> {
    // `u16::from_str` takes a leading `+`.
    let port = text
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())??;
    (port > 0).then_some(port)
}

fn is_host_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = |b: Option<&u8>| b.copied().is_some_and(alphanumeric);
    ends(bytes.first())
        && ends(bytes.last())
        && bytes.split(|&b| alphanumeric(b)).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_are_normalised() {
        for (text, id) in [
            ("ghcr.io", "ghcr.io"),
            ("GHCR.io:443", "ghcr.io"),
            ("docker.io", "docker.io"),
            ("index.docker.io", "docker.io"),
            ("registry-1.docker.io:443", "docker.io"),
            ("localhost:5001", "localhost:5001"),
            ("10.0.0.1:5000", "10.0.0.1:5000"),
            ("docker.io:5000", "docker.io:5000"),
        ] {
            assert_eq!(UpstreamId::parse(text).unwrap().as_str(), id);
        }
    }

    #[test]
    fn attached_tags_tell_what_they_are_attached_to() {
        let hash = "a".repeat(64);
        let digest = Digest::parse(&format!("sha256:{hash}")).unwrap();
        for suffix in ["", ".sig", ".att", ".sbom"] {
            let tag = Tag::parse(&format!("sha256-{hash}{suffix}")).unwrap();
            assert_eq!(tag.attached_to(), Some(digest));
            assert!(tag.is_attached());
        }
        for text in [
            "latest",
            "sha256-abc",
            "v1-sha256",
            &format!("md5-{hash}"),
            &format!("sha256-{hash}0"),
        ] {
            assert_eq!(Tag::parse(text).unwrap().attached_to(), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_upstream_is_refused() {
        for text in [
            "",
            ".",
            "ghcr.io.",
            "a..b",
            "-a.io",
            "user@ghcr.io",
            "ghcr.io/x",
            "ghcr.io:",
            "a:+1",
            "ghcr.io:0",
            "ghcr.io:65536",
            "[::1]:5000",
            "::1",
            "ghcr.io#",
            "ghcr.io\n",
            "gh cr.io",
            "ünicode.io",
            "http://ghcr.io",
            &"a".repeat(64),
            &"a.".repeat(200),
        ] {
            assert_eq!(
                UpstreamId::parse(text),
                Err(NameError::Upstream),
                "{text:?}"
            );
        }
    }

    #[test]
    fn repositories_follow_the_grammar() {
        for text in [
            "a",
            "library/alpine",
            "a.b_c__d-e---f/0",
            "manifests/blobs/tags",
            &"a".repeat(255),
        ] {
            assert!(Repository::parse(text).is_ok(), "{text:?}");
        }
        for text in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a___b",
            "a..b",
            "a._b",
            "-a",
            "a-",
            ".a",
            "_a",
            "..",
            "a/../b",
            "a%2fb",
            "a b",
            "é",
            "a:b",
            "a@b",
            "a\\b",
            "a\0",
            &"a".repeat(256),
        ] {
            assert_eq!(
                Repository::parse(text),
                Err(NameError::Repository),
                "{text:?}"
            );
        }
    }

    #[test]
    fn tags_follow_the_grammar() {
        for text in ["latest", "_a", "1.2.3-rc.1", "A", &"a".repeat(128)] {
            assert!(Tag::parse(text).is_ok(), "{text:?}");
        }
        for text in ["", ".a", "-a", "a/b", "a b", "a+b", "é", &"a".repeat(129)] {
            assert_eq!(Tag::parse(text), Err(NameError::Tag), "{text:?}");
        }
    }

    #[test]
    fn attached_tags_are_told_from_versions() {
        let hex = "ab".repeat(32);
        for (tag, attached) in [
            (format!("sha256-{hex}.sig"), true),
            (format!("sha256-{hex}"), true),
            (format!("sha512-{hex}"), true),
            ("sha256-abc".to_owned(), false),
            ("v1-2".to_owned(), false),
        ] {
            assert_eq!(Tag::parse(&tag).unwrap().is_attached(), attached, "{tag}");
        }
    }

    #[test]
    fn a_reference_with_a_colon_is_a_digest() {
        assert!(matches!(Reference::parse("latest"), Ok(Reference::Tag(_))));
        assert!(matches!(
            Reference::parse(&format!("sha256:{}", "0".repeat(64))),
            Ok(Reference::Digest(_))
        ));
        assert_eq!(
            Reference::parse("sha256:bad"),
            Err(NameError::Digest(DigestError::Malformed))
        );
    }

    #[test]
    fn docker_hub_has_a_library() {
        let origin = |upstream: &str, repository: &str| {
            Origin::new(
                UpstreamId::parse(upstream).unwrap(),
                Repository::parse(repository).unwrap(),
            )
            .to_string()
        };
        assert_eq!(
            origin("index.docker.io", "alpine"),
            "docker.io/library/alpine"
        );
        assert_eq!(
            origin("docker.io", "grafana/loki"),
            "docker.io/grafana/loki"
        );
        assert_eq!(origin("quay.io", "alpine"), "quay.io/alpine");
    }
}
