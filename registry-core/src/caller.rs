//! Who asks.

use std::fmt;

/// Who a request comes from: every call into the cache and to an upstream carries it (I5), so
/// that private content can be checked for each caller without a change of signature.
///
/// Requests are anonymous today: a client's `Authorization` is neither read nor forwarded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Caller {
    /// Nobody in particular: sees what the mirror's own access to an upstream sees.
    #[default]
    Anonymous,
    /// Somebody with credentials, told apart by their hash; what one may see says nothing of what
    /// another may.
    Identified(CallerId),
}

/// The hash of a caller's credentials. Never printed whole.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallerId([u8; 32]);

impl CallerId {
    /// The identity with this hash. The hash must be keyed, so that a leak of it gives away
    /// nothing about the credentials.
    pub fn new(hash: [u8; 32]) -> Self {
        Self(hash)
    }
}

impl fmt::Debug for CallerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallerId({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}
