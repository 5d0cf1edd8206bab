//! The row of some content that is kept, and sums over such rows.

use std::sync::Arc;

use registry_core::{LinkTarget, Position, Provenance, Timestamp};

use super::keys;

const PLACED: u8 = 1;
const ACCESSED: u8 = 2;
const PROVENANCE: u8 = 4;
const ENDPOINT: u8 = 8;

/// What the index knows of some content that is kept. Every derived row is a function of two of
/// these: the one before a change and the one after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContentRow {
    /// What it takes in files.
    pub(crate) bytes: u64,
    pub(crate) accessed_at: Option<Timestamp>,
    /// Its place in the order; `None` for a blob that a kept manifest names: that is no unit.
    pub(crate) place: Option<Timestamp>,
    pub(crate) provenance: Option<Provenance>,
}

impl ContentRow {
    /// Flags, bytes, and the time of access and the place, zero where there is none; then, where
    /// its provenance is known, the time of that, the origin and the endpoint.
    pub(super) fn encode(&self) -> Vec<u8> {
        let endpoint = self.provenance.as_ref().and_then(|it| it.endpoint.as_ref());
        let flags = [
            (self.place.is_some(), PLACED),
            (self.accessed_at.is_some(), ACCESSED),
            (self.provenance.is_some(), PROVENANCE),
            (endpoint.is_some(), ENDPOINT),
        ];
        let flags = flags.into_iter().filter(|(is_set, _)| *is_set);
        let mut value = vec![flags.map(|(_, flag)| flag).sum()];
        let millis = |at: Option<Timestamp>| at.map_or(0, Timestamp::as_millis).to_be_bytes();
        value.extend_from_slice(&self.bytes.to_be_bytes());
        value.extend_from_slice(&millis(self.accessed_at));
        value.extend_from_slice(&millis(self.place));
        if let Some(provenance) = &self.provenance {
            value.extend_from_slice(&millis(Some(provenance.at)));
            value.extend_from_slice(&keys::origin_prefix(&provenance.origin));
            value.extend_from_slice(endpoint.map_or("", |it| it).as_bytes());
        }
        value
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let (&flags, rest) = value.split_first()?;
        let field = |n: usize| keys::u64_of(rest.get(n * 8..)?);
        let time = |flag, n| match flags & flag {
            0 => Some(None),
            _ => field(n).map(|millis| Some(Timestamp::from_millis(millis))),
        };
        let provenance = match flags & PROVENANCE {
            0 => None,
            _ => {
                let names = rest.get(32..)?;
                let (len, origin) = keys::origin_of(names)?;
                let endpoint = std::str::from_utf8(&names[len..]).ok()?;
                Some(Provenance {
                    origin,
                    endpoint: (flags & ENDPOINT != 0).then(|| Arc::from(endpoint)),
                    at: Timestamp::from_millis(field(3)?),
                })
            }
        };
        Some(Self {
            bytes: field(0)?,
            accessed_at: time(ACCESSED, 1)?,
            place: time(PLACED, 2)?,
            provenance,
        })
    }

    pub(super) fn position(&self, target: LinkTarget) -> Option<Position> {
        self.place.map(|at| Position { at, target })
    }
}

/// Sums over the rows of all content, or of what is charged to one origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) bytes: u64,
    pub(crate) blobs: u64,
    pub(crate) manifests: u64,
}

impl Sum {
    /// What one row adds to a sum.
    pub(super) fn of(target: LinkTarget, row: &ContentRow) -> Self {
        let is_blob = matches!(target, LinkTarget::Blob(_));
        Self {
            bytes: row.bytes,
            blobs: is_blob.into(),
            manifests: (!is_blob).into(),
        }
    }

    pub(super) fn encode(self) -> Vec<u8> {
        let fields = [self.bytes, self.blobs, self.manifests];
        fields.map(u64::to_be_bytes).concat()
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        Some(Self {
            bytes: keys::u64_of(value)?,
            blobs: keys::u64_of(value.get(8..)?)?,
            manifests: keys::u64_of(value.get(16..)?)?,
        })
    }
}

/// What becomes of a sum when rows come and go.
#[derive(Clone, Copy, Default)]
pub(super) struct Movement {
    pub(super) gone: Sum,
    pub(super) come: Sum,
}

impl Movement {
    pub(super) fn apply(self, to: Sum) -> Sum {
        let field = |field: fn(&Sum) -> u64| {
            let grown = field(&to).saturating_add(field(&self.come));
            grown.saturating_sub(field(&self.gone))
        };
        Sum {
            bytes: field(|sum| sum.bytes),
            blobs: field(|sum| sum.blobs),
            manifests: field(|sum| sum.manifests),
        }
    }
}

impl std::ops::AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.blobs += other.blobs;
        self.manifests += other.manifests;
    }
}
