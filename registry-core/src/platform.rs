//! Platforms: what an image runs on, told and compared as containerd does.

use std::fmt;

use serde::Deserialize;

/// Longest part of a platform, in bytes.
const PART_BYTES_MAX: usize = 64;

/// An operating system and a processor architecture, with its variant where that matters; written
/// as `linux/amd64` or `linux/arm/v7`, and always in its normal form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    os: String,
    architecture: String,
    /// Empty where there is none to tell apart.
    variant: String,
}

/// A text is no platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a platform: write os/architecture, as linux/amd64, or linux/arm/v7 with a variant")]
pub struct PlatformError;

impl Platform {
    /// Parses `os/architecture[/variant]`.
    ///
    /// # Errors
    ///
    /// [`PlatformError`].
    pub fn parse(text: &str) -> Result<Self, PlatformError> {
        let mut parts = text.split('/');
        let (os, architecture) = (parts.next(), parts.next());
        let (variant, rest) = (parts.next(), parts.next());
        match (os, architecture, rest) {
            (Some(os), Some(architecture), None) if variant != Some("") => {
                Self::new(os, architecture, variant.unwrap_or_default()).ok_or(PlatformError)
            }
            _ => Err(PlatformError),
        }
    }

    /// The platform in its normal form; none where a part is missing, or is not one.
    pub(crate) fn new(os: &str, architecture: &str, variant: &str) -> Option<Self> {
        let is_part = |part: &str| {
            part.len() <= PART_BYTES_MAX
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        if os.is_empty()
            || architecture.is_empty()
            || ![os, architecture, variant]
                .map(is_part)
                .iter()
                .all(|is| *is)
        {
            return None;
        }
        let [os, architecture, variant] = [os, architecture, variant].map(str::to_ascii_lowercase);
        let os = match os.as_str() {
            "macos" => "darwin".to_owned(),
            _ => os,
        };
        let (architecture, variant) = normal(&architecture, &variant);
        Some(Self {
            os,
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        })
    }

    /// This platform, and then what else a machine of it runs, the best first.
    pub fn runs(&self) -> Vec<Self> {
        let variants: &[&str] = match (self.architecture.as_str(), self.variant.as_str()) {
            ("arm", "v8") => &["v7", "v6", "v5"],
            ("arm", "v7") => &["v6", "v5"],
            ("arm", "v6") => &["v5"],
            ("amd64", "v4") => &["v3", "v2", ""],
            ("amd64", "v3") => &["v2", ""],
            ("amd64", "v2") => &[""],
            _ => &[],
        };
        let others = variants.iter().map(|variant| Self {
            variant: (*variant).to_owned(),
            ..self.clone()
        });
        std::iter::once(self.clone()).chain(others).collect()
    }
}

/// The names by which containerd knows an architecture and its variant.
fn normal<'a>(architecture: &'a str, variant: &'a str) -> (&'a str, &'a str) {
    match (architecture, variant) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64", ""),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "" | "7" | "v7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6" | "v6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// A platform as indexes and configurations of images write it.
#[derive(Deserialize)]
pub(crate) struct WrittenPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

impl WrittenPlatform {
    /// What it says; none where that is no platform: attestations are of `unknown/unknown`.
    pub(crate) fn read(&self) -> Option<Platform> {
        let unknown = self.os == "unknown" || self.architecture == "unknown";
        (!unknown)
            .then(|| Platform::new(&self.os, &self.architecture, &self.variant))
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_have_one_form() {
        for (text, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/arm64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v9", "linux/arm64/v9"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/i386", "linux/386"),
            ("windows/amd64", "windows/amd64"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            assert_eq!(Platform::parse(text).unwrap().to_string(), normal, "{text}");
        }
        for text in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "linux/arm/",
            "a/b/c/d",
            "li nux/x",
        ] {
            assert!(Platform::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_machine_runs_what_is_older() {
        let runs = |text| {
            let runs = Platform::parse(text).unwrap().runs();
            runs.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            runs("linux/arm/v7"),
            ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]
        );
        assert_eq!(runs("linux/amd64"), ["linux/amd64"]);
        assert_eq!(runs("linux/amd64/v2"), ["linux/amd64/v2", "linux/amd64"]);
        assert_eq!(runs("linux/arm64/v8"), ["linux/arm64"]);
    }
}
