//! Referrers: the signatures, attestations and SBOMs that name a manifest as their subject
//! (distribution-spec, *Listing Referrers*).
//!
//! Descriptors are kept as the upstream wrote them, whatever fields they have. Of each, only what
//! they are told apart and filtered by is read.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Digest, MediaType};

/// The manifests that refer to another: all of them, each once, in the order of the upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Referrers {
    entries: Vec<Referrer>,
}

/// The descriptor of one of them. Cloning shares its text.
#[derive(Clone, PartialEq, Eq)]
pub struct Referrer {
    digest: Digest,
    artifact_type: Option<Arc<str>>,
    json: Arc<str>,
}

/// Bytes that are no list of referrers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not an OCI image index, which a list of referrers is")]
pub struct NotAnIndex;

/// Which referrers are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReferrersPage<'a> {
    /// Only those of this type.
    pub artifact_type: Option<&'a str>,
    /// Only those past this one. One that is not listed (any more) begins at the beginning: what is
    /// seen twice does less harm than what is missed.
    pub after: Option<Digest>,
    /// At most so many.
    pub limit: usize,
}

/// A page of referrers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedReferrers {
    /// The referrers.
    pub referrers: Referrers,
    /// Whether there are more past the last.
    pub more: bool,
}

impl Referrer {
    /// Its digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What kind of artifact it is, where it says so.
    pub fn artifact_type(&self) -> Option<&str> {
        self.artifact_type.as_deref()
    }

    /// The descriptor, as the upstream wrote it.
    pub fn as_json(&self) -> &str {
        &self.json
    }

    /// Reads a descriptor; `None` where it names nothing that could be pulled.
    fn parse(json: &RawValue) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Named {
            digest: String,
            #[serde(default)]
            artifact_type: Option<String>,
        }
        let named: Named = object(json.get().as_bytes())?;
        Some(Self {
            digest: Digest::parse(&named.digest).ok()?,
            artifact_type: named
                .artifact_type
                .filter(|kind| !kind.is_empty())
                .map(Arc::from),
            json: json.get().into(),
        })
    }
}

impl Referrers {
    /// Reads an index. Descriptors that name nothing that could be pulled are left out: the others
    /// can.
    ///
    /// # Errors
    ///
    /// [`NotAnIndex`].
    pub fn of_index(content_type: Option<&MediaType>, bytes: &[u8]) -> Result<Self, NotAnIndex> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Index<'a> {
            #[serde(default)]
            media_type: Option<String>,
            #[serde(borrow, default)]
            manifests: Option<Vec<&'a RawValue>>,
        }
        let index: Index<'_> = object(bytes).ok_or(NotAnIndex)?;
        let is_index = match &index.media_type {
            Some(told) => told == MediaType::OCI_INDEX,
            None => {
                index.manifests.is_some()
                    || content_type.is_some_and(|kind| kind.as_str() == MediaType::OCI_INDEX)
            }
        };
        if !is_index {
            return Err(NotAnIndex);
        }
        let mut referrers = Self::default();
        let named = index.manifests.unwrap_or_default();
        referrers.extend(named.into_iter().filter_map(Referrer::parse));
        Ok(referrers)
    }

    /// The index that lists them.
    pub fn to_index(&self) -> Bytes {
        let mut index = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":["#,
            MediaType::OCI_INDEX
        );
        index.reserve(self.json_bytes() + self.entries.len() + 2);
        for (n, referrer) in self.entries.iter().enumerate() {
            if n > 0 {
                index.push(',');
            }
            index.push_str(&referrer.json);
        }
        index.push_str("]}");
        index.into()
    }

    /// Adds those that are not listed yet.
    pub fn extend(&mut self, more: impl IntoIterator<Item = Referrer>) {
        let mut listed: HashSet<Digest> = self.iter().map(Referrer::digest).collect();
        let new = more.into_iter().filter(|one| listed.insert(one.digest));
        self.entries.extend(new);
    }

    /// The referrers, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Referrer> {
        self.entries.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all descriptors together.
    pub fn json_bytes(&self) -> usize {
        self.iter().map(|referrer| referrer.json.len()).sum()
    }

    /// A page of them, of no more than `bytes_max` bytes of descriptors; but of one at least, where
    /// there is one.
    pub fn page(&self, page: ReferrersPage<'_>, bytes_max: usize) -> ListedReferrers {
        let of_type = |referrer: &&Referrer| {
            page.artifact_type
                .is_none_or(|kind| referrer.artifact_type() == Some(kind))
        };
        let after = page.after.and_then(|after| {
            let listed = self.iter().position(|referrer| referrer.digest == after);
            listed.map(|at| at + 1)
        });
        let rest = &self.entries[after.unwrap_or(0)..];
        let mut bytes = 0;
        let mut listed = ListedReferrers::default();
        for referrer in rest.iter().filter(of_type) {
            bytes += referrer.json.len();
            let is_full = bytes > bytes_max && !listed.referrers.is_empty();
            if is_full || listed.referrers.len() == page.limit {
                listed.more = true;
                break;
            }
            listed.referrers.entries.push(referrer.clone());
        }
        listed
    }
}

/// Reads a JSON object. An array of its fields in their order, which serde takes too, is none.
fn object<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    let is_object = bytes.trim_ascii_start().starts_with(b"{");
    is_object.then(|| serde_json::from_slice(bytes).ok())?
}

impl IntoIterator for Referrers {
    type Item = Referrer;
    type IntoIter = std::vec::IntoIter<Referrer>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl fmt::Debug for Referrer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(fill: char) -> String {
        format!("sha256:{}", fill.to_string().repeat(64))
    }

    fn index(manifests: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{manifests}]}}"#,
            MediaType::OCI_INDEX
        )
    }

    fn entry(fill: char, kind: &str) -> String {
        format!(
            r#"{{"digest":"{}","artifactType":"{kind}","size":1}}"#,
            digest(fill)
        )
    }

    fn parse(text: &str) -> Result<Referrers, NotAnIndex> {
        Referrers::of_index(None, text.as_bytes())
    }

    #[test]
    fn descriptors_are_kept_as_they_came() {
        let odd = format!(
            "{{ \"size\" : 1.50e1, \"x-unknown\":[1, {{}}],\n\"annotations\": {{\"b\":\"\\u00e9\",\"a\":\"\"}}, \"digest\":\"{}\"}}",
            digest('1')
        );
        let text = index(&format!("{odd},{}", entry('2', "application/x")));
        let referrers = parse(&text).unwrap();
        assert_eq!(referrers.len(), 2);
        assert_eq!(referrers.to_index(), text);
        let first = referrers.iter().next().unwrap();
        assert_eq!(
            (first.as_json(), first.artifact_type()),
            (odd.as_str(), None)
        );
        assert_eq!(parse(&index("")).unwrap().to_index(), index(""));
    }

    #[test]
    fn what_names_nothing_is_left_out_and_nothing_is_listed_twice() {
        let text = index(&format!(
            r#"{{}},7,"x",["{}"],{{"digest":"md5:00"}},{},{},{{"digest":7}}"#,
            digest('2'),
            entry('1', ""),
            entry('1', "application/x"),
        ));
        let referrers = parse(&text).unwrap();
        assert_eq!(referrers.to_index(), index(&entry('1', "")));
        assert_eq!(referrers.iter().next().unwrap().artifact_type(), None);
    }

    #[test]
    fn what_is_no_index_is_told_apart() {
        let oci = MediaType::parse(MediaType::OCI_INDEX).unwrap();
        for (content_type, text, is_index) in [
            (None, index("").as_str(), true),
            (None, r#"{"manifests":[]}"#, true),
            (Some(&oci), r#"{"manifests":null}"#, true),
            (None, r#"{"manifests":null}"#, false),
            (Some(&oci), r#"{"mediaType":"a/b","manifests":[]}"#, false),
            (None, r#"{"errors":[]}"#, false),
            (None, r#"{"manifests":{}}"#, false),
            (Some(&oci), "<html>", false),
            (Some(&oci), "[]", false),
            (Some(&oci), "", false),
        ] {
            let parsed = Referrers::of_index(content_type, text.as_bytes());
            assert_eq!(parsed.is_ok(), is_index, "{text}");
        }
    }

    #[test]
    fn pages_make_up_the_whole_by_number_and_by_bytes() {
        let entries: Vec<_> = ('1'..='9').map(|n| entry(n, "a/b")).collect();
        let referrers = parse(&index(&entries.join(","))).unwrap();
        let size = entries[0].len();
        for (limit, bytes_max, pages) in [
            (100, usize::MAX, 1),
            (9, 9 * size, 1),
            (8, usize::MAX, 2),
            (1, usize::MAX, 9),
            (100, 3 * size, 3),
            (100, 3 * size - 1, 5),
            (100, 0, 9),
        ] {
            let (mut after, mut whole, mut count) = (None, Referrers::default(), 0);
            loop {
                let page = ReferrersPage {
                    artifact_type: None,
                    after,
                    limit,
                };
                let listed = referrers.page(page, bytes_max);
                count += 1;
                after = listed.referrers.iter().last().map(Referrer::digest);
                whole.extend(listed.referrers);
                if !listed.more {
                    break;
                }
            }
            assert_eq!((whole, count), (referrers.clone(), pages));
        }
    }

    #[test]
    fn a_page_is_of_one_type_and_past_what_was_seen() {
        let text = [
            entry('1', "a/b"),
            entry('2', "c/d"),
            entry('3', "a/b"),
            entry('4', ""),
        ];
        let referrers = parse(&index(&text.join(","))).unwrap();
        let parse = |fill| Digest::parse(&digest(fill)).unwrap();
        for (artifact_type, after, expected) in [
            (None, None, &['1', '2', '3', '4'][..]),
            (Some("a/b"), None, &['1', '3']),
            (Some("a/b"), Some('1'), &['3']),
            (Some("a/b"), Some('2'), &['3']),
            (Some("a/B"), None, &[]),
            (Some(""), None, &[]),
            (None, Some('4'), &[]),
            (None, Some('9'), &['1', '2', '3', '4']),
        ] {
            let page = ReferrersPage {
                artifact_type,
                after: after.map(parse),
                limit: 10,
            };
            let listed = referrers.page(page, usize::MAX);
            let digests: Vec<_> = listed.referrers.iter().map(Referrer::digest).collect();
            let expected: Vec<_> = expected.iter().copied().map(parse).collect();
            assert_eq!(digests, expected, "{artifact_type:?} past {after:?}");
            assert!(!listed.more);
        }
    }
}
