//! The only source of [`Verified`], so that nothing unverified can be committed (I1).

use sha2::{Digest as _, Sha256, Sha512};

use crate::{Algorithm, Digest};

/// Proof that bytes of this digest and size were hashed, in order and whole.
///
/// Only [`Hasher::verify`] makes one, and it cannot be cloned: one proof, one commit.
#[derive(Debug, PartialEq, Eq)]
pub struct Verified {
    digest: Digest,
    size: u64,
}

impl Verified {
    /// The digest that the bytes were found to have.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How many bytes were hashed.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Hashes bytes as they pass.
#[derive(Clone)]
pub struct Hasher {
    state: State,
    size: u64,
}

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// A hasher that has seen no bytes.
    pub fn new(algorithm: Algorithm) -> Self {
        let state = match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        };
        Self { state, size: 0 }
    }

    /// The digest of `bytes`.
    pub fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut hasher = Self::new(algorithm);
        hasher.update(bytes);
        hasher.digest()
    }

    /// Takes the next bytes. About half a millisecond a megabyte: hash large chunks where that
    /// does not stall a runtime thread.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
        self.size += bytes.len() as u64;
    }

    /// How many bytes were taken.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Holds what was hashed against the digest it should have.
    ///
    /// # Errors
    ///
    /// [`DigestMismatch`] where it has another.
    pub fn verify(self, expected: Digest) -> Result<Verified, DigestMismatch> {
        let size = self.size;
        let actual = self.digest();
        if actual == expected {
            Ok(Verified {
                digest: expected,
                size,
            })
        } else {
            Err(DigestMismatch(Box::new(Difference {
                expected,
                actual,
                size,
            })))
        }
    }

    /// The digest of what was taken, for bytes whose name nobody has told. It proves nothing:
    /// committing needs [`Self::verify`].
    pub fn digest(self) -> Digest {
        let digest = match self.state {
            State::Sha256(state) => Digest::from_hash(Algorithm::Sha256, &state.finalize()),
            State::Sha512(state) => Digest::from_hash(Algorithm::Sha512, &state.finalize()),
        };
        digest.expect("a hash has its algorithm's length")
    }
}

/// Bytes were received that are not what their digest names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {}, got {} of {} bytes", self.expected(), self.actual(), self.size())]
pub struct DigestMismatch(Box<Difference>);

// On the heap: two digests would make every result that may carry them large.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Difference {
    expected: Digest,
    actual: Digest,
    size: u64,
}

impl DigestMismatch {
    /// What was asked for.
    pub fn expected(&self) -> Digest {
        self.0.expected
    }

    /// What came.
    pub fn actual(&self) -> Digest {
        self.0.actual
    }

    /// How many bytes came.
    pub fn size(&self) -> u64 {
        self.0.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_bytes_are_verified() {
        for (algorithm, text) in [
            (
                Algorithm::Sha256,
                "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                Algorithm::Sha512,
                "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                 2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
        ] {
            let expected = Digest::parse(text).unwrap();
            let mut hasher = Hasher::new(algorithm);
            hasher.update(b"a");
            let short = hasher.clone();
            hasher.update(b"bc");
            let verified = hasher.verify(expected).unwrap();
            assert_eq!((verified.digest(), verified.size()), (expected, 3));
            let mismatch = short.verify(expected).unwrap_err();
            assert_eq!((mismatch.expected(), mismatch.size()), (expected, 1));
        }
    }
}
