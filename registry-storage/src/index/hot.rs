//! Links and tags that were asked for lately, in memory: what can be told of them without a hop.
//!
//! A row is here only as the trees have it. Whoever changes rows of these tables, which only
//! [`Index::apply`](super::Index::apply) does, takes them out before it returns; a reader that had
//! read one before does not put it back ([`Rows::load`]); and where the trees are opened anew, which
//! may lose rows, nothing stays. That there is no such row is never kept: it would have to be taken
//! back in the same instant as the rows that are linked together come to be.

use std::sync::{Mutex, MutexGuard, PoisonError};

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use registry_core::{Digest, Link, LinkTarget, Origin, StoreError, Tag, TagRecord};

use super::keys;
use super::tables::Table;
use crate::options::{DiskOptions, HOT_KEY_BYTES_MAX, HOT_LINKS_MAX};

/// How many rows a table makes room for at first.
const ENTRIES: usize = 1_024;
/// What a row takes beside its key: value, places in the table and in the order of use.
const ENTRY_BYTES: u64 = 192;

/// Rows of links and of tags.
pub(crate) struct HotRows {
    links: Rows<LinkRow>,
    tags: Rows<TagRecord>,
}

#[derive(Clone, Copy)]
struct LinkRow {
    size: Option<u64>,
    /// Of a link to a manifest: that it stands beside the manifest's file, as far as it can, or need
    /// not.
    is_listed: bool,
}

impl HotRows {
    pub(super) fn new(options: &DiskOptions) -> Self {
        Self {
            links: Rows::new(options.link_cache_bytes),
            tags: Rows::new(options.tag_cache_bytes),
        }
    }

    /// The link, where it is in memory; without blocking.
    pub(crate) fn link(&self, origin: &Origin, target: LinkTarget) -> Option<Link> {
        let size = self.link_row(origin, target)?.size;
        Some(Link { target, size })
    }

    /// Whether all of `links` are in memory as they are, so that nothing is left to do to link them;
    /// without blocking. Not of more than [`HOT_LINKS_MAX`].
    pub(crate) fn has_links(&self, origin: &Origin, links: &[Link]) -> bool {
        let is_linked = |link: &Link| {
            let row = self.link_row(origin, link.target);
            row.is_some_and(|row| {
                let is_listed = row.is_listed || matches!(link.target, LinkTarget::Blob(_));
                is_listed && (link.size.is_none() || link.size == row.size)
            })
        };
        links.len() <= HOT_LINKS_MAX && links.iter().all(is_linked)
    }

    fn link_row(&self, origin: &Origin, target: LinkTarget) -> Option<LinkRow> {
        self.links.get(origin, keys::TARGET_BYTES_MAX, |key| {
            keys::push_link_key(key, origin, target);
        })
    }

    /// What is recorded of a tag, where it is in memory; without blocking.
    pub(crate) fn tag(&self, origin: &Origin, tag: &Tag) -> Option<TagRecord> {
        let tag = tag.as_str();
        self.tags.get(origin, tag.len(), |key| {
            keys::push_tag_key(key, origin, tag);
        })
    }

    /// Reads the size that a link tells, where there is one, and keeps it.
    pub(super) fn load_link(
        &self,
        key: Vec<u8>,
        read: impl FnOnce(&[u8]) -> Result<Option<Option<u64>>, StoreError>,
    ) -> Result<Option<Option<u64>>, StoreError> {
        let row = self.links.load(key, |key| {
            let is_listed = false;
            Ok(read(key)?.map(|size| LinkRow { size, is_listed }))
        })?;
        Ok(row.map(|row| row.size))
    }

    /// Keeps a link that was just written, or seen to be there, by whoever holds the books still: so
    /// nobody has changed it since.
    pub(super) fn keep_link(&self, key: Vec<u8>, size: Option<u64>) {
        let changes = self.links.changes();
        let is_listed = self.links.kept.get(&key[..]);
        let is_listed = is_listed.is_some_and(|row| row.is_listed);
        self.links.put(&changes, key, LinkRow { size, is_listed });
    }

    /// Notes that a link to a manifest is listed; in the turn in which it was, so that it is the same
    /// link.
    pub(crate) fn note_listed(&self, origin: &Origin, manifest: Digest) {
        let key = keys::link_key(origin, LinkTarget::Manifest(manifest));
        let changes = self.links.changes();
        if let Some(LinkRow { size, .. }) = self.links.kept.get(&key[..]) {
            let is_listed = true;
            self.links.put(&changes, key, LinkRow { size, is_listed });
        }
    }

    pub(super) fn load_tag(
        &self,
        key: Vec<u8>,
        read: impl FnOnce(&[u8]) -> Result<Option<TagRecord>, StoreError>,
    ) -> Result<Option<TagRecord>, StoreError> {
        self.tags.load(key, read)
    }

    /// Keeps a tag that was just written, by whoever holds the books still.
    pub(super) fn keep_tag(&self, key: Vec<u8>, record: TagRecord) {
        let changes = self.tags.changes();
        self.tags.put(&changes, key, record);
    }

    /// Takes rows out that were changed, or may have been.
    pub(super) fn forget(&self, changed: &[(Table, Vec<u8>)]) {
        let of = |table| {
            let changed = changed.iter().filter(move |(of, _)| *of == table);
            changed.map(|(_, key)| key.as_slice())
        };
        self.links.forget(of(Table::Links));
        self.tags.forget(of(Table::Tags));
    }

    /// Takes everything out.
    pub(super) fn clear(&self) {
        self.links.clear();
        self.tags.clear();
    }
}

/// Rows of one table, by their keys; at most so many bytes of them.
struct Rows<V> {
    kept: Cache<Box<[u8]>, V, Weigh>,
    /// How often rows were changed, or may have been. Held while rows are put in and taken out, and
    /// by nobody who only looks.
    changes: Mutex<u64>,
}

#[derive(Clone)]
struct Weigh;

impl<V> Weighter<Box<[u8]>, V> for Weigh {
    fn weight(&self, key: &Box<[u8]>, _: &V) -> u64 {
        key.len() as u64 + ENTRY_BYTES
    }
}

impl<V: Clone> Rows<V> {
    fn new(bytes_max: u64) -> Self {
        Self {
            kept: Cache::with_weighter(ENTRIES, bytes_max, Weigh),
            changes: Mutex::default(),
        }
    }

    /// The row whose key `push` writes: of `origin`, and of `rest` bytes after that. The key is
    /// made without an allocation.
    fn get(&self, origin: &Origin, rest: usize, push: impl FnOnce(&mut &mut [u8])) -> Option<V> {
        if keys::origin_bytes(origin) + rest > HOT_KEY_BYTES_MAX {
            return None;
        }
        let mut key = [0; HOT_KEY_BYTES_MAX];
        let mut left = &mut key[..];
        push(&mut left);
        let len = HOT_KEY_BYTES_MAX - left.len();
        self.kept.get(&key[..len])
    }

    /// Reads a row from its tree, and keeps it: not where any was changed meanwhile, since this may
    /// be it.
    fn load(
        &self,
        key: Vec<u8>,
        read: impl FnOnce(&[u8]) -> Result<Option<V>, StoreError>,
    ) -> Result<Option<V>, StoreError> {
        let before = *self.changes();
        let row = read(&key)?;
        if let Some(row) = &row {
            let changes = self.changes();
            if *changes == before {
                self.put(&changes, key, row.clone());
            }
        }
        Ok(row)
    }

    fn put(&self, _changes: &MutexGuard<'_, u64>, key: Vec<u8>, row: V) {
        if key.len() <= HOT_KEY_BYTES_MAX {
            self.kept.insert(key.into(), row);
        }
    }

    fn forget<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        let mut keys = keys.peekable();
        if keys.peek().is_some() {
            let mut changes = self.changes();
            *changes += 1;
            for key in keys {
                self.kept.remove(key);
            }
        }
    }

    fn clear(&self) {
        let mut changes = self.changes();
        *changes += 1;
        self.kept.clear();
    }

    fn changes(&self) -> MutexGuard<'_, u64> {
        // A number is never half done.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use registry_core::testing::content::digest_of;
    use registry_core::{Repository, Timestamp, UpstreamId};

    use super::*;

    fn origin(repository: &str) -> Origin {
        Origin::new(
            UpstreamId::parse("ghcr.io").unwrap(),
            Repository::parse(repository).unwrap(),
        )
    }

    fn target(n: u64) -> LinkTarget {
        LinkTarget::Blob(digest_of(&n.to_le_bytes()))
    }

    fn load(hot: &HotRows, at: &Origin, target: LinkTarget, during: impl FnOnce()) {
        let read = |_: &[u8]| {
            during();
            Ok(Some(Some(7)))
        };
        let read = hot.load_link(keys::link_key(at, target), read);
        assert_eq!(read.unwrap(), Some(Some(7)), "what was read is told");
    }

    #[test]
    fn what_was_removed_while_it_was_read_is_not_put_back() {
        let hot = HotRows::new(&DiskOptions::default());
        let (at, one, other) = (origin("a"), target(1), target(2));
        let removed = |target| [(Table::Links, keys::link_key(&at, target))];
        load(&hot, &at, one, || {});
        let size = Some(7);
        assert_eq!(hot.link(&at, one), Some(Link { target: one, size }));
        assert_eq!(hot.link(&origin("b"), one), None, "origins are apart");
        hot.forget(&removed(one));
        assert_eq!(hot.link(&at, one), None);
        load(&hot, &at, one, || hot.forget(&removed(one)));
        assert_eq!(hot.link(&at, one), None, "it was removed");
        load(&hot, &at, one, || hot.clear());
        assert_eq!(hot.link(&at, one), None, "it may have been lost");
        // Which it was is not told apart: that costs a hop.
        load(&hot, &at, one, || hot.forget(&removed(other)));
        assert_eq!(hot.link(&at, one), None);
        // Another table's is no change to this one.
        let tag = keys::tag_key(&at, "latest");
        load(&hot, &at, one, || hot.forget(&[(Table::Tags, tag)]));
        assert!(hot.link(&at, one).is_some());
    }

    #[test]
    fn tables_are_bounded_in_bytes() {
        let options = DiskOptions {
            link_cache_bytes: 64 << 10,
            ..DiskOptions::default()
        };
        let hot = HotRows::new(&options);
        for n in 0..10_000 {
            load(&hot, &origin("a"), target(n), || {});
        }
        assert!(hot.links.kept.weight() <= 64 << 10);
        assert!(hot.links.kept.len() > 100, "{}", hot.links.kept.len());
    }

    #[test]
    fn the_longest_names_fit() {
        let label = "a".repeat(63);
        let host = format!("{label}.{label}.{label}.{}:65535", "b".repeat(61));
        let at = Origin::new(
            UpstreamId::parse(&host).unwrap(),
            Repository::parse(&"r".repeat(255)).unwrap(),
        );
        let tag = Tag::parse(&"t".repeat(128)).unwrap();
        let hot = HotRows::new(&DiskOptions::default());
        let record = TagRecord {
            digest: digest_of(b""),
            fetched_at: Timestamp::NEVER,
            validated_at: Timestamp::NEVER,
        };
        let key = keys::tag_key(&at, tag.as_str());
        hot.load_tag(key, |_| Ok(Some(record.clone()))).unwrap();
        assert_eq!(hot.tag(&at, &tag), Some(record));
        load(&hot, &at, target(1), || {});
        assert!(hot.link(&at, target(1)).is_some());
    }
}
