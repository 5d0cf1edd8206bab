//! The tables of the index, and changes to several of them that are made as one.

use std::collections::BTreeMap;

use registry_core::StoreError;
use sled::transaction::{TransactionError, Transactional as _};

use super::Index;

/// A table; what its keys and values are is told in `keys.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    Blobs,
    Intents,
    Tags,
    Links,
    Referrers,
    Content,
    Order,
    OrderOf,
    Names,
    NamedBy,
    LinkedIn,
    TaggedAs,
    ReferredIn,
    Sums,
    Removals,
}

impl Table {
    /// All of them, in their order.
    pub(super) const ALL: [Self; 15] = [
        Self::Blobs,
        Self::Intents,
        Self::Tags,
        Self::Links,
        Self::Referrers,
        Self::Content,
        Self::Order,
        Self::OrderOf,
        Self::Names,
        Self::NamedBy,
        Self::LinkedIn,
        Self::TaggedAs,
        Self::ReferredIn,
        Self::Sums,
        Self::Removals,
    ];

    /// Those that are made of what the others and the files hold.
    pub(super) const DERIVED: [Self; 8] = [
        Self::Order,
        Self::OrderOf,
        Self::Names,
        Self::NamedBy,
        Self::LinkedIn,
        Self::TaggedAs,
        Self::ReferredIn,
        Self::Sums,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Blobs => "blobs",
            Self::Intents => "intents",
            Self::Tags => "tags",
            Self::Links => "links",
            Self::Referrers => "referrers",
            Self::Content => "content",
            Self::Order => "order",
            Self::OrderOf => "order-of",
            Self::Names => "names",
            Self::NamedBy => "named-by",
            Self::LinkedIn => "linked-in",
            Self::TaggedAs => "tagged-as",
            Self::ReferredIn => "referred-in",
            Self::Sums => "sums",
            Self::Removals => "removals",
        }
    }
}

/// Rows to be written and removed, in any number of tables: all of them or none, also where a
/// crash comes in between.
#[derive(Default)]
pub(super) struct Change {
    batches: BTreeMap<Table, sled::Batch>,
    /// The keys of those of which some are kept in memory.
    hot: Vec<(Table, Vec<u8>)>,
}

impl Change {
    pub(super) fn put(&mut self, table: Table, key: Vec<u8>, value: impl Into<sled::IVec>) {
        self.note(table, &key);
        self.batches.entry(table).or_default().insert(key, value);
    }

    pub(super) fn remove(&mut self, table: Table, key: Vec<u8>) {
        self.note(table, &key);
        self.batches.entry(table).or_default().remove(key);
    }

    fn note(&mut self, table: Table, key: &[u8]) {
        if matches!(table, Table::Links | Table::Tags) {
            self.hot.push((table, key.to_vec()));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }
}

impl Index {
    /// Makes a change. The only way in which rows of links and tags are written: what was kept of
    /// them in memory is not there any more when this returns.
    pub(super) fn apply(&self, change: Change) -> Result<(), StoreError> {
        let applied = self.write(|trees| {
            let (tables, batches): (Vec<_>, Vec<_>) = change
                .batches
                .into_iter()
                .map(|(table, batch)| (trees.of(table), batch))
                .unzip();
            match &tables[..] {
                [] => Ok(()),
                [table] => batches.into_iter().try_for_each(|of| table.apply_batch(of)),
                tables => {
                    let applied = tables.transaction(|views| {
                        let mut both = views.iter().zip(&batches);
                        Ok(both.try_for_each(|(view, batch)| view.apply_batch(batch))?)
                    });
                    applied.map_err(|error| match error {
                        TransactionError::Storage(error) => error,
                        TransactionError::Abort(()) => unreachable!("nothing aborts it"),
                    })
                }
            }
        });
        // Also where it failed: nobody knows then what is there.
        self.hot.forget(&change.hot);
        applied
    }
}
