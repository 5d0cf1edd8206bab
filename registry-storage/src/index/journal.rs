//! Removals.

use registry_core::{LinkTarget, Origin, Removal, RemovalReason, StoreError, Tag, Timestamp};

use super::Index;
use super::keys;
use super::tables::{Change, Table};
use crate::options::REMOVALS_MAX;

impl Index {
    /// Writes down a removal, in place of the oldest where there are [`REMOVALS_MAX`].
    pub(crate) fn put_removal(&self, removal: &Removal) -> Result<(), StoreError> {
        let _books = self.hold_books();
        let (first, last) = self.read(|trees| {
            let rows = trees.of(Table::Removals);
            let number = |row: Option<(sled::IVec, _)>| row.and_then(|(key, _)| keys::u64_of(&key));
            Ok((number(rows.first()?), number(rows.last()?)))
        })?;
        let next = last.map_or(0, |last| last + 1);
        let mut change = Change::default();
        for surplus in first.unwrap_or(next)..(next + 1).saturating_sub(REMOVALS_MAX) {
            change.remove(Table::Removals, surplus.to_be_bytes().to_vec());
        }
        change.put(
            Table::Removals,
            next.to_be_bytes().to_vec(),
            encode(removal),
        );
        self.apply(change)
    }

    /// The latest first.
    pub(crate) fn removals(&self, limit: usize) -> Result<Vec<Removal>, StoreError> {
        self.read(|trees| {
            let mut removals = Vec::new();
            for row in trees.of(Table::Removals).iter().rev() {
                if removals.len() == limit {
                    break;
                }
                removals.extend(decode(&row?.1));
            }
            Ok(removals)
        })
    }
}

/// When; bytes; when it was last accessed, with 1 before it, or 0; and then texts, each with its
/// length before it in 4 bytes: the reason, the target's key, how many origins there are, these,
/// and origin and tag of each tag.
fn encode(removal: &Removal) -> Vec<u8> {
    let mut value = removal.at.as_millis().to_be_bytes().to_vec();
    value.extend_from_slice(&removal.bytes.to_be_bytes());
    match removal.accessed_at {
        None => value.push(0),
        Some(at) => {
            value.push(1);
            value.extend_from_slice(&at.as_millis().to_be_bytes());
        }
    }
    let origins = removal.origins.iter().map(keys::origin_prefix);
    let tags = removal.tags.iter();
    let tags = tags.map(|(origin, tag)| keys::tag_key(origin, tag.as_str()));
    let count = removal.origins.len() as u64;
    let texts = [
        removal.reason.as_str().as_bytes().to_vec(),
        keys::target_key(removal.target),
        count.to_be_bytes().to_vec(),
    ];
    for text in texts.into_iter().chain(origins).chain(tags) {
        value.extend_from_slice(&(text.len() as u32).to_be_bytes());
        value.extend_from_slice(&text);
    }
    value
}

fn decode(value: &[u8]) -> Option<Removal> {
    let time = |bytes: &[u8]| keys::u64_of(bytes).map(Timestamp::from_millis);
    let (at, bytes) = (time(value)?, keys::u64_of(value.get(8..)?)?);
    let (accessed_at, mut rest) = match value.get(16..)?.split_first()? {
        (0, rest) => (None, rest),
        (_, rest) => (Some(time(rest)?), rest.get(8..)?),
    };
    let mut texts = std::iter::from_fn(|| {
        let len = u32::from_be_bytes(*rest.first_chunk()?);
        let (text, after) = rest[4..].split_at_checked(len as usize)?;
        rest = after;
        Some(text)
    });
    let token = texts.next()?;
    let mut reasons = RemovalReason::ALL.iter().copied();
    let reason = reasons.find(|reason| reason.as_str().as_bytes() == token)?;
    let (target, _): (LinkTarget, _) = keys::split_target(texts.next()?)?;
    let count = usize::try_from(keys::u64_of(texts.next()?)?).ok()?;
    let origins = texts.by_ref().take(count);
    let origins = origins.map(|text| Some(keys::origin_of(text)?.1));
    let origins: Option<Vec<Origin>> = origins.collect();
    let tags: Option<Vec<(Origin, Tag)>> = texts.map(keys::tag_of).collect();
    Some(Removal {
        at,
        target,
        origins: origins?,
        tags: tags?,
        bytes,
        accessed_at,
        reason,
    })
}

#[cfg(test)]
mod tests {
    use registry_core::testing::content::digest_of;
    use registry_core::{Repository, UpstreamId};

    use super::*;

    #[test]
    fn a_removal_survives_its_value() {
        let origin = |repository| {
            Origin::new(
                UpstreamId::parse("x:5000").unwrap(),
                Repository::parse(repository).unwrap(),
            )
        };
        let tag = |tag| Tag::parse(tag).unwrap();
        let tags = vec![(origin("a"), tag("1")), (origin("a/b"), tag("V1.0"))];
        for &reason in RemovalReason::ALL {
            for (origins, tags, accessed_at) in [
                (vec![], vec![], None),
                (vec![origin("a")], vec![], Some(Timestamp::default())),
                (vec![origin("a"), origin("b")], tags.clone(), None),
            ] {
                let removal = Removal {
                    at: Timestamp::from_millis(u64::MAX),
                    target: LinkTarget::Manifest(digest_of(b"x")),
                    origins,
                    tags,
                    bytes: 7,
                    accessed_at,
                    reason,
                };
                let value = encode(&removal);
                assert_eq!(decode(&value), Some(removal));
                for len in 0..value.len() {
                    // Cut short it is read as less, or not at all; never does it panic.
                    let _ = decode(&value[..len]);
                }
            }
        }
    }
}
