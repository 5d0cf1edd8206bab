//! What is kept, and all that is derived from it, changed as one: so that the sums are exact after
//! any crash, and nobody has to scan to know them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::MutexGuard;

use registry_core::{Digest, LinkTarget, Provenance, StoreError, Timestamp};

use super::Index;
use super::content::{ContentRow, Movement, Sum};
use super::keys::{self, BlobRow, Intent};
use super::tables::{Change, Table};
use crate::options::BOOK_ENTRIES;

/// What became of the row of a blob that was to be removed if nothing needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unused {
    /// The row is gone, and the intent to remove the file is recorded.
    Dismissed,
    /// A kept manifest names it.
    Needed,
    /// There is no row.
    Absent,
}

/// A change to what is kept, while nobody else makes one.
struct Books<'a> {
    index: &'a Index,
    change: Change,
    /// By the keys of their rows.
    sums: BTreeMap<Vec<u8>, Movement>,
    _held: MutexGuard<'a, ()>,
}

impl Index {
    fn books(&self) -> Books<'_> {
        Books {
            index: self,
            change: Change::default(),
            sums: BTreeMap::new(),
            _held: self.hold_books(),
        }
    }

    /// Records that a blob is kept; one that is new is accessed `at` that time.
    pub(crate) fn admit_blob(
        &self,
        digest: Digest,
        row: BlobRow,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let mut books = self.books();
        books.admit_blob(digest, row, at)?;
        books.close()
    }

    /// The same for many, each with the time of its last access.
    pub(crate) fn admit_blobs(
        &self,
        rows: &[(Digest, BlobRow, Timestamp)],
    ) -> Result<(), StoreError> {
        let mut books = self.books();
        for (digest, row, at) in rows {
            books.admit_blob(*digest, *row, *at)?;
        }
        books.close()
    }

    /// Records that a manifest is kept that takes so many bytes and names `children`; one that is
    /// new is accessed `at` that time. What it names is no unit any more.
    pub(crate) fn admit_manifest(
        &self,
        digest: Digest,
        bytes: u64,
        children: &BTreeSet<LinkTarget>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let target = LinkTarget::Manifest(digest);
        let mut books = self.books();
        let former = self.content(target)?;
        let row = former.clone().unwrap_or(ContentRow {
            bytes,
            accessed_at: Some(at),
            place: Some(at),
            provenance: None,
        });
        books.replace(target, former.as_ref(), Some(ContentRow { bytes, ..row }));
        books.put(
            Table::Names,
            keys::digest_key(digest),
            keys::targets(children),
        );
        for &child in children {
            books.put(Table::NamedBy, keys::named_by_key(child, digest), vec![]);
            if let (LinkTarget::Blob(_), Some(former)) = (child, self.content(child)?) {
                let place = None;
                let row = ContentRow {
                    place,
                    ..former.clone()
                };
                books.replace(child, Some(&former), Some(row));
            }
        }
        books.close()
    }

    /// Records what some content takes now; nothing where it is not kept.
    pub(crate) fn resize(&self, target: LinkTarget, bytes: u64) -> Result<(), StoreError> {
        self.amend(target, |row| row.bytes = bytes)
    }

    /// Removes the row of a manifest, and all that is known of it beside its links; whether there
    /// was one. Each blob that it named, that is kept and that no other manifest names comes first
    /// in the order.
    pub(crate) fn dismiss_manifest(&self, digest: Digest) -> Result<bool, StoreError> {
        let target = LinkTarget::Manifest(digest);
        let mut books = self.books();
        let Some(former) = self.content(target)? else {
            return Ok(false);
        };
        books.replace(target, Some(&former), None);
        for child in self.names(digest)? {
            books.remove(Table::NamedBy, keys::named_by_key(child, digest));
            let by = self.named_by(child, 2)?;
            let is_needed = by.iter().any(|other| *other != digest);
            if let (LinkTarget::Blob(_), false, Some(former)) =
                (child, is_needed, self.content(child)?)
            {
                let place = Some(Timestamp::default());
                let row = ContentRow {
                    place,
                    ..former.clone()
                };
                books.replace(child, Some(&former), Some(row));
            }
        }
        books.remove(Table::Names, keys::digest_key(digest));
        books.close()?;
        Ok(true)
    }

    /// Removes the row of a blob, and records that its file is to be removed.
    pub(crate) fn dismiss_blob(&self, digest: Digest) -> Result<(), StoreError> {
        let mut books = self.books();
        books.dismiss_blob(digest)?;
        books.close()
    }

    /// The same, unless a kept manifest names it: between the look and the removal, none that does
    /// is admitted.
    pub(crate) fn dismiss_unused(&self, digest: Digest) -> Result<Unused, StoreError> {
        let target = LinkTarget::Blob(digest);
        let mut books = self.books();
        if !self.named_by(target, 1)?.is_empty() {
            return Ok(Unused::Needed);
        }
        if self.blob(digest)?.is_none() {
            return Ok(Unused::Absent);
        }
        books.dismiss_blob(digest)?;
        books.close()?;
        Ok(Unused::Dismissed)
    }

    /// Records accesses to what is kept; others are dropped.
    pub(crate) fn put_accessed(
        &self,
        accesses: impl IntoIterator<Item = (LinkTarget, Timestamp)>,
    ) -> Result<(), StoreError> {
        let mut accesses = accesses.into_iter().peekable();
        while accesses.peek().is_some() {
            let mut books = self.books();
            for (target, at) in accesses.by_ref().take(BOOK_ENTRIES) {
                books.amend(target, |row| {
                    // A clock that was set back makes nothing older than it was.
                    row.accessed_at = row.accessed_at.max(Some(at));
                    row.place = row.place.map(|place| place.max(at));
                })?;
            }
            books.close()?;
        }
        Ok(())
    }

    /// Moves a unit to `until` in the order, unless it is further.
    pub(crate) fn postpone(&self, target: LinkTarget, until: Timestamp) -> Result<(), StoreError> {
        self.amend(target, |row| {
            row.place = row.place.map(|place| place.max(until));
        })
    }

    /// Notes where some content came from, unless that is known.
    pub(crate) fn note(
        &self,
        target: LinkTarget,
        provenance: Provenance,
    ) -> Result<(), StoreError> {
        self.amend(target, |row| {
            row.provenance.get_or_insert(provenance);
        })
    }

    fn amend(
        &self,
        target: LinkTarget,
        change: impl FnOnce(&mut ContentRow),
    ) -> Result<(), StoreError> {
        let mut books = self.books();
        books.amend(target, change)?;
        books.close()
    }
}

impl Books<'_> {
    fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.change.put(table, key, value);
    }

    fn remove(&mut self, table: Table, key: Vec<u8>) {
        self.change.remove(table, key);
    }

    fn admit_blob(
        &mut self,
        digest: Digest,
        row: BlobRow,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let target = LinkTarget::Blob(digest);
        self.put(
            Table::Blobs,
            keys::digest_key(digest),
            row.encode().to_vec(),
        );
        let former = self.index.content(target)?;
        let content = match former.clone() {
            Some(former) => former,
            None => ContentRow {
                bytes: row.size,
                accessed_at: Some(at),
                place: self.index.named_by(target, 1)?.is_empty().then_some(at),
                provenance: None,
            },
        };
        let bytes = row.size;
        self.replace(
            target,
            former.as_ref(),
            Some(ContentRow { bytes, ..content }),
        );
        Ok(())
    }

    fn dismiss_blob(&mut self, digest: Digest) -> Result<(), StoreError> {
        let target = LinkTarget::Blob(digest);
        let key = keys::digest_key(digest);
        self.remove(Table::Blobs, key.clone());
        self.put(Table::Intents, key, Intent::Remove.encode().to_vec());
        let former = self.index.content(target)?;
        self.replace(target, former.as_ref(), None);
        Ok(())
    }

    /// Changes the row of what is kept.
    fn amend(
        &mut self,
        target: LinkTarget,
        change: impl FnOnce(&mut ContentRow),
    ) -> Result<(), StoreError> {
        if let Some(former) = self.index.content(target)? {
            let mut row = former.clone();
            change(&mut row);
            if row != former {
                self.replace(target, Some(&former), Some(row));
            }
        }
        Ok(())
    }

    /// Puts one row in place of another, and so all that is derived from them. Once for a target,
    /// since what is read is what was before the change.
    fn replace(
        &mut self,
        target: LinkTarget,
        former: Option<&ContentRow>,
        row: Option<ContentRow>,
    ) {
        if let Some(former) = former {
            for key in sums_of(former) {
                self.sums.entry(key).or_default().gone += Sum::of(target, former);
            }
            for (table, key) in places_of(target, former) {
                self.remove(table, key);
            }
        }
        let key = keys::target_key(target);
        let Some(row) = row else {
            self.remove(Table::Content, key);
            return;
        };
        for key in sums_of(&row) {
            self.sums.entry(key).or_default().come += Sum::of(target, &row);
        }
        for (table, key) in places_of(target, &row) {
            self.put(table, key, vec![]);
        }
        self.put(Table::Content, key, row.encode());
    }

    /// Makes the change.
    fn close(mut self) -> Result<(), StoreError> {
        for (key, movement) in std::mem::take(&mut self.sums) {
            let sum = movement.apply(self.index.sum(&key)?);
            if sum == Sum::default() {
                self.remove(Table::Sums, key);
            } else {
                self.put(Table::Sums, key, sum.encode());
            }
        }
        self.index.apply(self.change)
    }
}

/// The keys of the sums that a row is part of: that of everything, and its origin's.
fn sums_of(row: &ContentRow) -> impl Iterator<Item = Vec<u8>> {
    let origin = row.provenance.as_ref().map(|it| &it.origin);
    [vec![]].into_iter().chain(origin.map(keys::origin_prefix))
}

/// The rows of a unit's place in the order, and in that of its origin.
fn places_of(target: LinkTarget, row: &ContentRow) -> Vec<(Table, Vec<u8>)> {
    let Some(place) = row.position(target).map(keys::position_key) else {
        return Vec::new();
    };
    let origin = row.provenance.as_ref().map(|it| &it.origin);
    let of_origin = origin.map(|origin| [keys::origin_prefix(origin), place.clone()].concat());
    let of_origin = of_origin.map(|key| (Table::OrderOf, key));
    [(Table::Order, place)]
        .into_iter()
        .chain(of_origin)
        .collect()
}
