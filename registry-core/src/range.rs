//! Byte ranges (RFC 9110, section 14).

/// One range as a client asks for it, before the size of the whole is known
/// (RFC 9110, section 14.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeRequest {
    /// `first-last`, both inclusive, `first <= last`.
    FromTo {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte; clamped to the size.
        last: u64,
    },
    /// `first-`: from there to the end.
    From {
        /// Offset of the first byte.
        first: u64,
    },
    /// `-length`: the last bytes.
    Suffix {
        /// How many; clamped to the size.
        length: u64,
    },
}

impl RangeRequest {
    /// The bytes meant in a representation of `size` bytes; `None` where the range is
    /// unsatisfiable (416).
    pub fn resolve(self, size: u64) -> Option<ByteRange> {
        let (start, end) = match self {
            Self::FromTo { first, last } => (first, last.saturating_add(1).min(size)),
            Self::From { first } => (first, size),
            Self::Suffix { length } => (size.saturating_sub(length), size),
        };
        (start < end).then_some(ByteRange { start, end })
    }
}

/// Bytes `start..end` of a representation: resolved, half-open, never reversed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

impl ByteRange {
    /// The bytes `start..end`; `None` where the end comes before the start.
    pub fn new(start: u64, end: u64) -> Option<Self> {
        (start <= end).then_some(Self { start, end })
    }

    /// The whole of a representation of `size` bytes.
    pub fn whole(size: u64) -> Self {
        Self {
            start: 0,
            end: size,
        }
    }

    /// Offset of the first byte.
    pub fn start(self) -> u64 {
        self.start
    }

    /// Offset past the last byte.
    pub fn end(self) -> u64 {
        self.end
    }

    /// How many bytes.
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_resolve_as_rfc_9110_says() {
        use RangeRequest::{From, FromTo, Suffix};
        for (request, size, resolved) in [
            (FromTo { first: 0, last: 0 }, 10, Some((0, 1))),
            (
                FromTo {
                    first: 500,
                    last: 1499,
                },
                2048,
                Some((500, 1500)),
            ),
            (
                FromTo {
                    first: 2000,
                    last: 5000,
                },
                2048,
                Some((2000, 2048)),
            ),
            (
                FromTo {
                    first: 2048,
                    last: 5000,
                },
                2048,
                None,
            ),
            (
                FromTo {
                    first: 0,
                    last: u64::MAX,
                },
                10,
                Some((0, 10)),
            ),
            (From { first: 9 }, 10, Some((9, 10))),
            (From { first: 10 }, 10, None),
            (From { first: 0 }, 0, None),
            (Suffix { length: 3 }, 10, Some((7, 10))),
            (Suffix { length: 30 }, 10, Some((0, 10))),
            (Suffix { length: 0 }, 10, None),
            (Suffix { length: 1 }, 0, None),
        ] {
            let bytes = request
                .resolve(size)
                .map(|range| (range.start(), range.end()));
            assert_eq!(bytes, resolved, "{request:?} of {size}");
        }
    }
}
