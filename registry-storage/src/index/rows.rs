//! What is done with the rows, one method a question.

use registry_core::{BlobStat, Digest, Origin, ReferrersRecord, StoreError, Tag, TagRecord};

use super::keys::{self, BlobRow, Intent};
use super::tables::{Change, Table};
use super::{Index, Opening};
use crate::options::REFERRERS_RECORD_BYTES_MAX;

impl Index {
    pub(crate) fn blob(&self, digest: Digest) -> Result<Option<BlobRow>, StoreError> {
        let row = self.read(|trees| trees.of(Table::Blobs).get(keys::digest_key(digest)))?;
        Ok(row.and_then(|value| BlobRow::decode(&value)))
    }

    /// Up to `limit` blobs in the order of their keys, past `after`.
    pub(crate) fn blobs(
        &self,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<BlobStat>, StoreError> {
        // No key is a prefix of another's, so the first past it is the one with a byte more.
        let start = after.map_or(Vec::new(), |after| {
            let mut key = keys::digest_key(after);
            key.push(0);
            key
        });
        self.read(|trees| {
            let mut stats = Vec::new();
            for row in trees.of(Table::Blobs).range(start..) {
                let (key, value) = row?;
                if stats.len() == limit {
                    break;
                }
                if let (Some(digest), Some(row)) = (keys::digest_of(&key), BlobRow::decode(&value))
                {
                    let size = row.size;
                    stats.push(BlobStat { digest, size });
                }
            }
            Ok(stats)
        })
    }

    pub(crate) fn put_intent(&self, digest: Digest, intent: Intent) -> Result<(), StoreError> {
        self.write(|trees| {
            trees
                .of(Table::Intents)
                .insert(keys::digest_key(digest), &intent.encode())
        })?;
        Ok(())
    }

    /// Drops an intent that was settled by what was recorded since that opening; where the index
    /// was opened anew meanwhile it stays, since that may be lost.
    pub(crate) fn remove_intent(&self, digest: Digest, since: Opening) -> Result<(), StoreError> {
        self.write(|trees| {
            if self.opening() == since {
                trees.of(Table::Intents).remove(keys::digest_key(digest))?;
            }
            Ok(())
        })
    }

    /// What a crash interrupted: as many as there were calls at a time, and those of the last
    /// moments before it.
    pub(crate) fn intents(&self) -> Result<Vec<(Digest, Intent)>, StoreError> {
        self.read(|trees| {
            let mut intents = Vec::new();
            for row in trees.of(Table::Intents).iter() {
                let (key, value) = row?;
                if let (Some(digest), Some(intent)) =
                    (keys::digest_of(&key), Intent::decode(&value))
                {
                    intents.push((digest, intent));
                }
            }
            Ok(intents)
        })
    }

    pub(crate) fn tag(&self, origin: &Origin, tag: &Tag) -> Result<Option<TagRecord>, StoreError> {
        self.tag_record(&keys::tag_key(origin, tag.as_str()))
    }

    /// The same; keeps it in memory.
    pub(crate) fn load_tag(
        &self,
        origin: &Origin,
        tag: &Tag,
    ) -> Result<Option<TagRecord>, StoreError> {
        self.hot
            .load_tag(keys::tag_key(origin, tag.as_str()), |key| {
                self.tag_record(key)
            })
    }

    fn tag_record(&self, key: &[u8]) -> Result<Option<TagRecord>, StoreError> {
        let value = self.read(|trees| trees.of(Table::Tags).get(key))?;
        Ok(value.and_then(|value| keys::decode_tag(&value)))
    }

    pub(crate) fn put_tag(
        &self,
        origin: &Origin,
        tag: &Tag,
        record: &TagRecord,
    ) -> Result<(), StoreError> {
        let _books = self.hold_books();
        let mut change = Change::default();
        if let Some(former) = self.tag(origin, tag)? {
            let key = keys::tagged_as_key(former.digest, origin, tag.as_str());
            change.remove(Table::TaggedAs, key);
        }
        let key = keys::tagged_as_key(record.digest, origin, tag.as_str());
        change.put(Table::TaggedAs, key, vec![]);
        let key = keys::tag_key(origin, tag.as_str());
        change.put(Table::Tags, key.clone(), keys::encode_tag(record));
        self.apply(change)?;
        self.hot.keep_tag(key, record.clone());
        Ok(())
    }

    pub(crate) fn remove_tag(&self, origin: &Origin, tag: &Tag) -> Result<bool, StoreError> {
        let _books = self.hold_books();
        let Some(former) = self.tag(origin, tag)? else {
            return Ok(false);
        };
        let mut change = Change::default();
        let key = keys::tagged_as_key(former.digest, origin, tag.as_str());
        change.remove(Table::TaggedAs, key);
        change.remove(Table::Tags, keys::tag_key(origin, tag.as_str()));
        self.apply(change)?;
        Ok(true)
    }

    pub(crate) fn tags(
        &self,
        origin: &Origin,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Tag>, StoreError> {
        let prefix = keys::origin_prefix(origin);
        let start = match after {
            None => prefix.clone(),
            // The first text past `after` is the one with a NUL more.
            Some(after) => [keys::tag_key(origin, after), vec![0]].concat(),
        };
        self.read(|trees| {
            let mut tags = Vec::new();
            for row in trees
                .of(Table::Tags)
                .range(start..keys::past(prefix.clone()))
            {
                let (key, _) = row?;
                if tags.len() == limit {
                    break;
                }
                let text = std::str::from_utf8(&key[prefix.len()..]).ok();
                tags.extend(text.and_then(|text| Tag::parse(text).ok()));
            }
            Ok(tags)
        })
    }

    pub(crate) fn referrers(
        &self,
        origin: &Origin,
        subject: Digest,
    ) -> Result<Option<ReferrersRecord>, StoreError> {
        let value = self.read(|trees| {
            trees
                .of(Table::Referrers)
                .get(keys::referrers_key(origin, subject))
        })?;
        Ok(value.and_then(|value| keys::decode_referrers(&value)))
    }

    /// Records referrers; of more than [`REFERRERS_RECORD_BYTES_MAX`] bytes, that nothing is known.
    pub(crate) fn put_referrers(
        &self,
        origin: &Origin,
        subject: Digest,
        record: &ReferrersRecord,
    ) -> Result<(), StoreError> {
        let value = keys::encode_referrers(record);
        if value.len() > REFERRERS_RECORD_BYTES_MAX {
            self.remove_referrers(origin, subject)?;
            return Ok(());
        }
        let _books = self.hold_books();
        let mut change = Change::default();
        let key = keys::referred_in_key(subject, origin);
        change.put(Table::ReferredIn, key, vec![]);
        change.put(
            Table::Referrers,
            keys::referrers_key(origin, subject),
            value,
        );
        self.apply(change)
    }

    pub(crate) fn remove_referrers(
        &self,
        origin: &Origin,
        subject: Digest,
    ) -> Result<bool, StoreError> {
        let _books = self.hold_books();
        let key = keys::referrers_key(origin, subject);
        let has_row = self.read(|trees| trees.of(Table::Referrers).contains_key(&key))?;
        if !has_row {
            return Ok(false);
        }
        let mut change = Change::default();
        change.remove(Table::Referrers, key);
        change.remove(Table::ReferredIn, keys::referred_in_key(subject, origin));
        self.apply(change)?;
        Ok(true)
    }
}
