//! Content digests (image-spec, *descriptor.md*, section "Digests").

use std::fmt;
use std::str::FromStr;

/// A digest algorithm that this mirror can compute, and so can verify (I1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Algorithm {
    /// SHA-256: 64 lower-case hexadecimal characters. Mandatory in the specification.
    Sha256,
    /// SHA-512: 128 lower-case hexadecimal characters. Registered, optional.
    Sha512,
}

impl Algorithm {
    /// All of them: what a store may find.
    pub const ALL: &'static [Self] = &[Self::Sha256, Self::Sha512];

    /// The registered identifier, as it stands before the colon of a digest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the hash in bytes.
    pub fn len_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// Longest hash of any [`Algorithm`], in bytes.
const HASH_BYTES_MAX: usize = 64;

/// Longest text that is still looked at as a digest; far above any registered algorithm.
const TEXT_BYTES_MAX: usize = 256;

/// Longest text of a [`Digest`]: `sha512:` and two characters for each byte.
const RENDERED_BYTES_MAX: usize = 7 + 2 * HASH_BYTES_MAX;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The name of some bytes: an algorithm and the hash it gives.
///
/// Only a well-formed digest of a supported [`Algorithm`] has this type, so a path made from one
/// cannot be traversed and a comparison cannot depend on spelling.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    // Bytes past the algorithm's length are zero, so that the derived comparisons hold.
    hash: [u8; HASH_BYTES_MAX],
}

impl Digest {
    /// Parses `algorithm ":" encoded`.
    ///
    /// # Errors
    ///
    /// [`DigestError::UnsupportedAlgorithm`] where the text follows the grammar but names an
    /// algorithm we cannot compute; [`DigestError::Malformed`] for everything else.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(DigestError::Malformed);
        }
        let (name, encoded) = text.split_once(':').ok_or(DigestError::Malformed)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ if is_algorithm(name) && is_encoded(encoded) => {
                return Err(DigestError::UnsupportedAlgorithm);
            }
            _ => return Err(DigestError::Malformed),
        };
        let encoded = encoded.as_bytes();
        if encoded.len() != algorithm.len_bytes() * 2 {
            return Err(DigestError::Malformed);
        }
        let mut hash = [0; HASH_BYTES_MAX];
        // Looked at once, after all of them: digests are parsed on every request, and few are wrong.
        let mut seen = 0;
        let (pairs, _) = encoded.as_chunks::<2>();
        for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
            let (high, low) = (NIBBLES[usize::from(*high)], NIBBLES[usize::from(*low)]);
            seen |= high | low;
            *byte = (high << 4) | (low & 0xf);
        }
        if seen & NO_NIBBLE != 0 {
            return Err(DigestError::Malformed);
        }
        Ok(Self { algorithm, hash })
    }

    /// The digest with this hash; `None` where the length is not the algorithm's.
    pub fn from_hash(algorithm: Algorithm, hash: &[u8]) -> Option<Self> {
        if hash.len() != algorithm.len_bytes() {
            return None;
        }
        let mut padded = [0; HASH_BYTES_MAX];
        padded[..hash.len()].copy_from_slice(hash);
        Some(Self {
            algorithm,
            hash: padded,
        })
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash itself: 32 or 64 bytes.
    pub fn hash(&self) -> &[u8] {
        &self.hash[..self.algorithm.len_bytes()]
    }

    /// The hash in lower-case hexadecimal, without the algorithm.
    pub fn encoded(&self) -> String {
        self.text().as_str()[self.algorithm.name().len() + 1..].to_owned()
    }

    /// The whole text, in place: every answer names some digest, so this allocates nothing.
    pub fn text(&self) -> DigestText {
        let name = self.algorithm.name().as_bytes();
        let mut text = DigestText {
            bytes: [0; RENDERED_BYTES_MAX],
            len: name.len() + 1 + 2 * self.algorithm.len_bytes(),
        };
        let (before, encoded) = text.bytes.split_at_mut(name.len() + 1);
        before[..name.len()].copy_from_slice(name);
        before[name.len()] = b':';
        let (pairs, _) = encoded.as_chunks_mut();
        for (pair, byte) in pairs.iter_mut().zip(self.hash()) {
            *pair = PAIRS[usize::from(*byte)];
        }
        text
    }
}

/// The text of a [`Digest`].
#[derive(Clone, Copy)]
pub struct DigestText {
    bytes: [u8; RENDERED_BYTES_MAX],
    len: usize,
}

impl DigestText {
    /// `algorithm ":" encoded`.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.len]).expect("a digest is ASCII")
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

impl fmt::Debug for DigestText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Why a text is not a [`Digest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// Not of the form `algorithm:encoded`, or not of the algorithm's length and alphabet.
    #[error(
        "not a digest: write sha256: and 64 lower-case hexadecimal characters, or sha512: and 128"
    )]
    Malformed,
    /// Well-formed, but of an algorithm that cannot be verified here.
    #[error("the digest's algorithm is not supported: sha256 and sha512 are")]
    UnsupportedAlgorithm,
}

/// Each byte in hexadecimal.
const PAIRS: [[u8; 2]; 256] = {
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [HEX[byte >> 4], HEX[byte & 0xf]];
        byte += 1;
    }
    pairs
};

/// What stands in [`NIBBLES`] where a character is no lower-case hexadecimal digit.
const NO_NIBBLE: u8 = 0x80;

/// What each character means as a hexadecimal digit.
const NIBBLES: [u8; 256] = {
    let mut nibbles = [NO_NIBBLE; 256];
    let mut value = 0;
    while value < 16 {
        nibbles[HEX[value as usize] as usize] = value;
        value += 1;
    }
    nibbles
};

/// `algorithm-component [algorithm-separator algorithm-component]*`
fn is_algorithm(text: &str) -> bool {
    text.split(['+', '.', '_', '-']).all(|component| {
        !component.is_empty()
            && component
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    })
}

fn is_encoded(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'=' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn parse_and_display_are_inverse() {
        for text in [EMPTY.to_owned(), format!("sha512:{}", "0f".repeat(64))] {
            let digest = Digest::parse(&text).unwrap();
            assert_eq!(digest.to_string(), text);
            assert_eq!(
                Digest::from_hash(digest.algorithm(), digest.hash()),
                Some(digest)
            );
            assert_eq!(digest.text().as_str(), text);
            assert_eq!(text.split_once(':').unwrap().1, digest.encoded());
        }
    }

    #[test]
    fn what_is_not_a_digest_is_refused() {
        let long = format!("sha256:{}", "a".repeat(300));
        for (text, error) in [
            ("", DigestError::Malformed),
            ("sha256", DigestError::Malformed),
            ("sha256:", DigestError::Malformed),
            ("sha256:totallywrong", DigestError::Malformed),
            (&EMPTY.to_uppercase(), DigestError::Malformed),
            (&EMPTY.replace("e3", "E3"), DigestError::Malformed),
            (&EMPTY[..EMPTY.len() - 1], DigestError::Malformed),
            (&format!("{EMPTY}0"), DigestError::Malformed),
            (&EMPTY.replace("sha256", "sha512"), DigestError::Malformed),
            (&EMPTY.replace('0', "g"), DigestError::Malformed),
            (&EMPTY.replace("42", "é"), DigestError::Malformed),
            ("sha256:../../../../etc/passwd", DigestError::Malformed),
            (&long, DigestError::Malformed),
            (
                "md5:d41d8cd98f00b204e9800998ecf8427e",
                DigestError::UnsupportedAlgorithm,
            ),
            (
                "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8",
                DigestError::UnsupportedAlgorithm,
            ),
            ("md5:a/b", DigestError::Malformed),
            ("+:abc", DigestError::Malformed),
        ] {
            assert_eq!(Digest::parse(text), Err(error), "{text:?}");
        }
    }
}
