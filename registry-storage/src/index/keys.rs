//! Keys and values of the index: the only place that knows their form. All integers are
//! big-endian.
//!
//! | Tree | Key | Value |
//! |---|---|---|
//! | (default) | `format` | version, 4 bytes |
//! | (default) | `epoch` | openings and closings so far, 8 bytes |
//! | `blobs` | *digest* | flags, 1 byte; size, 8 bytes |
//! | `intents` | *digest* | 1 commit, 2 remove; size, 8 bytes |
//! | `tags` | *origin* tag | times of fetch and validation, 8 bytes each; *digest* |
//! | `links` | *origin* *target* | nothing, or size, 8 bytes |
//! | `referrers` | *origin* *digest* of the subject | time of validation, 8 bytes; 0 none, 1 list; the list, as an index in JSON |
//! | `content` | *target* | of what is kept: bytes, last access, place in the order, where it came from (`content.rs`) |
//! | `removals` | number of the entry, 8 bytes | the entry (`journal.rs`) |
//!
//! What follows is derived from these and from the files, written in one change with them, and can
//! be made anew (`folder/derive.rs`):
//!
//! | Tree | Key | Value |
//! |---|---|---|
//! | `order` | *time* *target* | nothing: the units, from the coldest on |
//! | `order-of` | *origin* *time* *target* | the same, of what is charged to the origin |
//! | `names` | *digest* of a manifest that is kept | the *target*s that it names |
//! | `named-by` | *target* *digest* of a manifest that names it | nothing |
//! | `linked-in` | *target* *origin* | nothing |
//! | `tagged-as` | *digest* *origin* tag | nothing |
//! | `referred-in` | *digest* of the subject *origin* | nothing |
//! | `sums` | nothing, or *origin* | bytes, blobs and manifests, in all or charged to it, 8 bytes each |
//!
//! *digest* is the algorithm's name, `:` and the hash; *target* is `b` or `m`, and *digest*;
//! *origin* is upstream, NUL, repository, NUL; *time* is milliseconds since 1970, 8 bytes. No name
//! holds a NUL and NUL is below every byte of a name, so no origin's keys run into another's, and
//! their order is that of (upstream, repository). Nor is the key of a digest the beginning of
//! another's. Values may grow at their end: readers ignore what they do not know there.
//!
//! An index of format 1 has a tree `accessed` in place of `content`, with times of access by
//! *target*, and no derived ones.

use std::collections::BTreeSet;

use bytes::BufMut;
use registry_core::{
    Algorithm, Digest, LinkTarget, Origin, Position, Referrers, ReferrersRecord, Repository, Tag,
    TagRecord, Timestamp, UpstreamId,
};

/// Bytes of the longest *target*: its kind, and an algorithm, `:` and a hash.
pub(crate) const TARGET_BYTES_MAX: usize = 1 + 6 + 1 + 64;

/// The row was written for a file that nobody verified since: it was found by a rebuild.
const UNPROVEN: u8 = 1;

/// What the index knows of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlobRow {
    pub(crate) size: u64,
    /// Whether the file's content was verified when it got its place. Content that was not is
    /// hashed before it is first opened.
    pub(crate) is_proven: bool,
}

impl BlobRow {
    pub(crate) fn encode(self) -> [u8; 9] {
        let mut value = [0; 9];
        value[0] = if self.is_proven { 0 } else { UNPROVEN };
        value[1..].copy_from_slice(&self.size.to_be_bytes());
        value
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let (flags, rest) = value.split_first()?;
        Some(Self {
            size: u64_of(rest)?,
            is_proven: flags & UNPROVEN == 0,
        })
    }
}

/// What is about to happen to a file, recorded before it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// A verified file of this size is about to get its place.
    Commit { size: u64 },
    /// A file is about to be removed.
    Remove,
}

impl Intent {
    pub(crate) fn encode(self) -> [u8; 9] {
        let (kind, size) = match self {
            Self::Commit { size } => (1, size),
            Self::Remove => (2, 0),
        };
        let mut value = [0; 9];
        value[0] = kind;
        value[1..].copy_from_slice(&size.to_be_bytes());
        value
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        match value.split_first()? {
            (1, rest) => Some(Self::Commit {
                size: u64_of(rest)?,
            }),
            (2, _) => Some(Self::Remove),
            _ => None,
        }
    }
}

pub(crate) fn digest_key(digest: Digest) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + digest.hash().len());
    push_digest(&mut key, digest);
    key
}

pub(crate) fn digest_of(key: &[u8]) -> Option<Digest> {
    let (digest, rest) = split_digest(key)?;
    rest.is_empty().then_some(digest)
}

/// The digest that some bytes begin with, and what follows it.
pub(crate) fn split_digest(key: &[u8]) -> Option<(Digest, &[u8])> {
    let colon = key.iter().position(|&byte| byte == b':')?;
    let mut known = Algorithm::ALL.iter();
    let algorithm = known.find(|known| known.name().as_bytes() == &key[..colon])?;
    let (hash, rest) = key[colon + 1..].split_at_checked(algorithm.len_bytes())?;
    Some((Digest::from_hash(*algorithm, hash)?, rest))
}

/// The target that some bytes begin with, and what follows it.
pub(crate) fn split_target(key: &[u8]) -> Option<(LinkTarget, &[u8])> {
    let (kind, rest) = key.split_first()?;
    let (digest, rest) = split_digest(rest)?;
    match kind {
        b'b' => Some((LinkTarget::Blob(digest), rest)),
        b'm' => Some((LinkTarget::Manifest(digest), rest)),
        _ => None,
    }
}

pub(crate) fn position_key(position: Position) -> Vec<u8> {
    let mut key = position.at.as_millis().to_be_bytes().to_vec();
    push_target(&mut key, position.target);
    key
}

pub(crate) fn position_of(key: &[u8]) -> Option<Position> {
    let at = Timestamp::from_millis(u64_of(key)?);
    let (target, rest) = split_target(&key[8..])?;
    rest.is_empty().then_some(Position { at, target })
}

pub(crate) fn named_by_key(target: LinkTarget, manifest: Digest) -> Vec<u8> {
    let mut key = target_key(target);
    push_digest(&mut key, manifest);
    key
}

pub(crate) fn linked_in_key(target: LinkTarget, origin: &Origin) -> Vec<u8> {
    [target_key(target), origin_prefix(origin)].concat()
}

pub(crate) fn tagged_as_key(manifest: Digest, origin: &Origin, tag: &str) -> Vec<u8> {
    [digest_key(manifest), tag_key(origin, tag)].concat()
}

pub(crate) fn referred_in_key(subject: Digest, origin: &Origin) -> Vec<u8> {
    [digest_key(subject), origin_prefix(origin)].concat()
}

/// Targets one after another.
pub(crate) fn targets(targets: &BTreeSet<LinkTarget>) -> Vec<u8> {
    let mut value = Vec::new();
    for &target in targets {
        push_target(&mut value, target);
    }
    value
}

/// The targets that some bytes stand for, as far as they can be read.
pub(crate) fn targets_of(mut value: &[u8]) -> BTreeSet<LinkTarget> {
    let next = || {
        let (target, rest) = split_target(value)?;
        value = rest;
        Some(target)
    };
    std::iter::from_fn(next).collect()
}

/// The origin and the tag that some bytes stand for.
pub(crate) fn tag_of(key: &[u8]) -> Option<(Origin, Tag)> {
    let (len, origin) = origin_of(key)?;
    let tag = std::str::from_utf8(&key[len..]).ok()?;
    Some((origin, Tag::parse(tag).ok()?))
}

pub(crate) fn target_key(target: LinkTarget) -> Vec<u8> {
    let mut key = Vec::new();
    push_target(&mut key, target);
    key
}

pub(crate) fn link_key(origin: &Origin, target: LinkTarget) -> Vec<u8> {
    let mut key = Vec::with_capacity(origin_bytes(origin) + TARGET_BYTES_MAX);
    push_link_key(&mut key, origin, target);
    key
}

pub(crate) fn push_link_key(key: &mut impl BufMut, origin: &Origin, target: LinkTarget) {
    push_origin(key, origin);
    push_target(key, target);
}

/// What the key of every link to a manifest begins with in an origin, and no other key.
pub(crate) fn linked_manifests_prefix(origin: &Origin) -> Vec<u8> {
    let mut key = origin_prefix(origin);
    key.push(b'm');
    key
}

pub(crate) fn tag_key(origin: &Origin, tag: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(origin_bytes(origin) + tag.len());
    push_tag_key(&mut key, origin, tag);
    key
}

pub(crate) fn push_tag_key(key: &mut impl BufMut, origin: &Origin, tag: &str) {
    push_origin(key, origin);
    key.put_slice(tag.as_bytes());
}

/// What every key of an origin begins with, and no other key.
pub(crate) fn origin_prefix(origin: &Origin) -> Vec<u8> {
    let mut key = Vec::with_capacity(origin_bytes(origin));
    push_origin(&mut key, origin);
    key
}

/// How many bytes [`origin_prefix`] has.
pub(crate) fn origin_bytes(origin: &Origin) -> usize {
    origin.upstream().as_str().len() + origin.repository().as_str().len() + 2
}

fn push_origin(key: &mut impl BufMut, origin: &Origin) {
    key.put_slice(origin.upstream().as_str().as_bytes());
    key.put_u8(0);
    key.put_slice(origin.repository().as_str().as_bytes());
    key.put_u8(0);
}

/// What every key of an upstream begins with, and no other key.
pub(crate) fn upstream_prefix(upstream: &UpstreamId) -> Vec<u8> {
    let mut key = upstream.as_str().as_bytes().to_vec();
    key.push(0);
    key
}

/// The first key past all that begin with `prefix`, which ends with NUL.
pub(crate) fn past(mut prefix: Vec<u8>) -> Vec<u8> {
    if let Some(last) = prefix.last_mut() {
        *last = 1;
    }
    prefix
}

/// The length of the origin that a key begins with, both NULs included, and the origin.
pub(crate) fn origin_of(key: &[u8]) -> Option<(usize, Origin)> {
    let mut parts = key.splitn(3, |&byte| byte == 0);
    let (upstream, repository) = (parts.next()?, parts.next()?);
    parts.next()?;
    let origin = Origin::new(
        UpstreamId::parse(std::str::from_utf8(upstream).ok()?).ok()?,
        Repository::parse(std::str::from_utf8(repository).ok()?).ok()?,
    );
    Some((upstream.len() + repository.len() + 2, origin))
}

pub(crate) fn encode_tag(record: &TagRecord) -> Vec<u8> {
    let mut value = Vec::new();
    value.extend_from_slice(&record.fetched_at.as_millis().to_be_bytes());
    value.extend_from_slice(&record.validated_at.as_millis().to_be_bytes());
    push_digest(&mut value, record.digest);
    value
}

pub(crate) fn decode_tag(value: &[u8]) -> Option<TagRecord> {
    Some(TagRecord {
        fetched_at: Timestamp::from_millis(u64_of(value)?),
        validated_at: Timestamp::from_millis(u64_of(value.get(8..)?)?),
        digest: digest_of(value.get(16..)?)?,
    })
}

pub(crate) fn referrers_key(origin: &Origin, subject: Digest) -> Vec<u8> {
    let mut key = origin_prefix(origin);
    push_digest(&mut key, subject);
    key
}

pub(crate) fn encode_referrers(record: &ReferrersRecord) -> Vec<u8> {
    let mut value = record.validated_at.as_millis().to_be_bytes().to_vec();
    match &record.referrers {
        None => value.push(0),
        Some(referrers) => {
            value.push(1);
            value.extend_from_slice(&referrers.to_index());
        }
    }
    value
}

pub(crate) fn decode_referrers(value: &[u8]) -> Option<ReferrersRecord> {
    let (kind, index) = value.get(8..)?.split_first()?;
    Some(ReferrersRecord {
        validated_at: Timestamp::from_millis(u64_of(value)?),
        referrers: match kind {
            0 => None,
            1 => Some(Referrers::of_index(None, index).ok()?),
            _ => return None,
        },
    })
}

/// The integer that some bytes begin with.
pub(crate) fn u64_of(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().copied().map(u64::from_be_bytes)
}

fn push_digest(key: &mut impl BufMut, digest: Digest) {
    key.put_slice(digest.algorithm().name().as_bytes());
    key.put_u8(b':');
    key.put_slice(digest.hash());
}

fn push_target(key: &mut impl BufMut, target: LinkTarget) {
    key.put_u8(match target {
        LinkTarget::Blob(_) => b'b',
        LinkTarget::Manifest(_) => b'm',
    });
    push_digest(key, target.digest());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests() -> [Digest; 2] {
        [
            format!("sha256:{}", "0a".repeat(32)).parse().unwrap(),
            format!("sha512:{}", "3a".repeat(64)).parse().unwrap(),
        ]
    }

    #[test]
    fn digests_survive_their_key_whatever_the_hash_holds() {
        for digest in digests() {
            assert_eq!(digest_of(&digest_key(digest)), Some(digest));
        }
        for key in [&b""[..], b"sha256", b"sha256:", b"sha256:short", b"md5:\0"] {
            assert_eq!(digest_of(key), None, "{key:?}");
        }
    }

    #[test]
    fn rows_survive_their_value() {
        for row in [
            BlobRow {
                size: 0,
                is_proven: true,
            },
            BlobRow {
                size: u64::MAX,
                is_proven: false,
            },
        ] {
            assert_eq!(BlobRow::decode(&row.encode()), Some(row));
            let grown = [&row.encode()[..], b"later"].concat();
            assert_eq!(BlobRow::decode(&grown), Some(row), "values may grow");
            assert_eq!(BlobRow::decode(&row.encode()[..8]), None);
        }
        for intent in [Intent::Commit { size: 7 }, Intent::Remove] {
            assert_eq!(Intent::decode(&intent.encode()), Some(intent));
        }
        assert_eq!(Intent::decode(&[3; 9]), None);
        for digest in digests() {
            let record = TagRecord {
                digest,
                fetched_at: Timestamp::from_millis(1),
                validated_at: Timestamp::from_millis(u64::MAX),
            };
            assert_eq!(decode_tag(&encode_tag(&record)), Some(record));
            let list = format!(r#"{{"manifests":[{{ "digest":"{digest}" }}]}}"#);
            let list = Referrers::of_index(None, list.as_bytes()).unwrap();
            for referrers in [None, Some(Referrers::default()), Some(list)] {
                let record = ReferrersRecord {
                    referrers,
                    validated_at: Timestamp::from_millis(u64::MAX),
                };
                let encoded = encode_referrers(&record);
                assert_eq!(decode_referrers(&encoded), Some(record));
                assert_eq!(decode_referrers(&encoded[..8]), None);
            }
        }
        assert_eq!(decode_referrers(&[0, 0, 0, 0, 0, 0, 0, 0, 1, b'x']), None);
        assert_eq!(decode_referrers(&[0, 0, 0, 0, 0, 0, 0, 0, 2]), None);
    }

    #[test]
    fn an_origin_is_read_from_its_keys() {
        let origin = Origin::new(
            UpstreamId::parse("docker.io").unwrap(),
            Repository::parse("alpine").unwrap(),
        );
        for digest in digests() {
            let key = link_key(&origin, LinkTarget::Blob(digest));
            let prefix = origin_prefix(&origin);
            assert_eq!(origin_of(&key), Some((prefix.len(), origin.clone())));
            assert!(key < past(prefix));
        }
        assert_eq!(origin_of(b"x"), None);
        assert_eq!(origin_of(b"x\0a"), None);
    }
}
