//! The promises of [`ReferrersStore`].

use std::sync::Arc;

use super::{confusable_origins, drop_after, origin};
use crate::testing::content::digest_of;
use crate::{Digest, Origin, Referrers, ReferrersRecord, ReferrersStore, Timestamp};

/// Runs every case, each on a store of its own that `make` gives: fresh and empty.
///
/// # Panics
///
/// Where the store breaks its contract.
pub async fn all<F, Fut>(make: F)
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Arc<dyn ReferrersStore>> + Send,
{
    a_record_is_given_back(make().await).await;
    what_is_not_there_is_absent(make().await).await;
    the_last_record_stands(make().await).await;
    a_removed_record_is_gone(make().await).await;
    origins_and_subjects_are_apart(make().await).await;
    a_record_beyond_the_limit_leaves_none(make().await).await;
    a_dropped_put_is_all_or_nothing(make().await).await;
}

/// Descriptors are what was put, to the byte; an empty list and no list are not the same.
pub async fn a_record_is_given_back(store: Arc<dyn ReferrersStore>) {
    let at = origin("ghcr.io", "org/app");
    let none = ReferrersRecord {
        referrers: None,
        validated_at: Timestamp::from_millis(u64::MAX),
    };
    let empty = ReferrersRecord {
        referrers: Some(Referrers::default()),
        validated_at: Timestamp::from_millis(0),
    };
    let sha512 = format!("sha512:{}", "5".repeat(128));
    let odd = format!(
        "{{ \"annotations\" : {{\"\u{e9}\":\"\\u0000\"}},\n\"digest\": \"{sha512}\",\"x\":[1e3]}}"
    );
    let odd = ReferrersRecord {
        referrers: Some(list(&odd)),
        validated_at: Timestamp::from_millis(1_700_000_000_123),
    };
    for (subject, record) in [
        (digest_of(b"none"), none),
        (digest_of(b"empty"), empty),
        (sha512.parse().expect("a digest"), odd),
        (digest_of(b"many"), record(500)),
    ] {
        put(&*store, &at, subject, record.clone()).await;
        assert_eq!(get(&*store, &at, subject).await, Some(record), "{subject}");
    }
}

/// Absence is `None` or `false`, never an error.
pub async fn what_is_not_there_is_absent(store: Arc<dyn ReferrersStore>) {
    let at = origin("ghcr.io", "org/app");
    assert_eq!(get(&*store, &at, digest_of(b"")).await, None);
    assert!(!remove(&*store, &at, digest_of(b"")).await);
}

/// The record put last stands, whichever is longer.
pub async fn the_last_record_stands(store: Arc<dyn ReferrersStore>) {
    let at = origin("ghcr.io", "org/app");
    let subject = digest_of(b"");
    for n in [3, 1, 5, 0] {
        put(&*store, &at, subject, record(n)).await;
        assert_eq!(get(&*store, &at, subject).await, Some(record(n)));
    }
}

/// Removal takes the one record.
pub async fn a_removed_record_is_gone(store: Arc<dyn ReferrersStore>) {
    let at = origin("ghcr.io", "org/app");
    let [one, two] = [digest_of(b"1"), digest_of(b"2")];
    put(&*store, &at, one, record(1)).await;
    put(&*store, &at, two, record(2)).await;
    assert!(remove(&*store, &at, one).await);
    assert!(!remove(&*store, &at, one).await);
    assert_eq!(get(&*store, &at, one).await, None);
    assert_eq!(get(&*store, &at, two).await, Some(record(2)));
}

/// What one repository says refers to a manifest says nothing of another (I4), however alike the
/// names are.
pub async fn origins_and_subjects_are_apart(store: Arc<dyn ReferrersStore>) {
    let origins = confusable_origins();
    let sha256 = format!("sha256:{}", "7".repeat(64));
    let sha512 = format!("sha512:{}", "7".repeat(128));
    let subjects: [Digest; 2] = [sha256, sha512].map(|text| text.parse().expect("a digest"));
    for (n, at) in origins.iter().enumerate() {
        for (m, subject) in subjects.into_iter().enumerate() {
            put(&*store, at, subject, record(2 * n + m)).await;
        }
    }
    for (n, at) in origins.iter().enumerate() {
        for (m, subject) in subjects.into_iter().enumerate() {
            let found = get(&*store, at, subject).await;
            assert_eq!(found, Some(record(2 * n + m)), "{at} {subject}");
        }
        assert!(remove(&*store, at, subjects[0]).await, "{at}");
        assert_eq!(get(&*store, at, subjects[0]).await, None);
    }
}

/// A store that does not keep what is too large for it must not go on telling what was before.
pub async fn a_record_beyond_the_limit_leaves_none(store: Arc<dyn ReferrersStore>) {
    let at = origin("ghcr.io", "org/app");
    let subject = digest_of(b"");
    put(&*store, &at, subject, record(1)).await;
    let digest = digest_of(b"large");
    let filler = "x".repeat(32 << 20);
    let large = ReferrersRecord {
        referrers: Some(list(&format!(
            r#"{{"digest":"{digest}","filler":"{filler}"}}"#
        ))),
        validated_at: Timestamp::from_millis(2),
    };
    put(&*store, &at, subject, large.clone()).await;
    let found = get(&*store, &at, subject).await;
    assert!(
        found.is_none() || found == Some(large),
        "neither the record put last nor none"
    );
}

/// A put that is no longer waited for has happened or has not.
pub async fn a_dropped_put_is_all_or_nothing(store: Arc<dyn ReferrersStore>) {
    let at = origin("x", "a");
    let subject = digest_of(b"");
    put(&*store, &at, subject, record(0)).await;
    for polls in 0..4 {
        let [old, new] = [record(polls), record(polls + 1)];
        drop_after(store.put_referrers(&at, subject, new.clone()), polls).await;
        let found = get(&*store, &at, subject).await.expect("one of the two");
        assert!(
            found == old || found == new,
            "after {polls} polls: {found:?}"
        );
        put(&*store, &at, subject, new).await;
    }
}

/// A list of `n`.
fn record(n: usize) -> ReferrersRecord {
    let entries: Vec<_> = (0..n)
        .map(|n| {
            let digest = digest_of(&n.to_le_bytes());
            format!(r#"{{"digest":"{digest}","artifactType":"application/x","size":{n}}}"#)
        })
        .collect();
    ReferrersRecord {
        referrers: Some(list(&entries.join(","))),
        validated_at: Timestamp::from_millis(n as u64),
    }
}

fn list(entries: &str) -> Referrers {
    let index = format!(r#"{{"manifests":[{entries}]}}"#);
    Referrers::of_index(None, index.as_bytes()).expect("an index")
}

async fn put(store: &dyn ReferrersStore, at: &Origin, subject: Digest, record: ReferrersRecord) {
    let put = store.put_referrers(at, subject, record);
    put.await.expect("put");
}

async fn get(store: &dyn ReferrersStore, at: &Origin, subject: Digest) -> Option<ReferrersRecord> {
    store.referrers(at, subject).await.expect("referrers")
}

async fn remove(store: &dyn ReferrersStore, at: &Origin, subject: Digest) -> bool {
    let removed = store.remove_referrers(at, subject);
    removed.await.expect("remove")
}
