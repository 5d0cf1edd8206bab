//! The promises of [`TagStore`].

use std::sync::Arc;

use futures::future::{join, join_all};

use super::{confusable_origins, drop_after, origin, tag};
use crate::testing::content::digest_of;
use crate::{Origin, TagRecord, TagStore, Timestamp};

/// Runs every case, each on a store of its own that `make` gives: fresh and empty.
///
/// # Panics
///
/// Where the store breaks its contract.
pub async fn all<F, Fut>(make: F)
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Arc<dyn TagStore>> + Send,
{
    a_record_is_given_back(make().await).await;
    what_is_not_there_is_absent(make().await).await;
    the_last_record_stands(make().await).await;
    a_removed_tag_is_gone(make().await).await;
    what_was_told_is_not_told_again_when_it_changed(make().await).await;
    origins_are_apart(make().await).await;
    tags_are_apart(make().await).await;
    tags_are_listed_in_the_order_of_their_bytes(make().await).await;
    pages_make_up_the_whole(make().await).await;
    any_text_may_stand_before_a_page(make().await).await;
    a_dropped_put_is_all_or_nothing(make().await).await;
}

/// Digest and times are what was put, to the millisecond.
pub async fn a_record_is_given_back(store: Arc<dyn TagStore>) {
    let at = origin("ghcr.io", "org/app");
    for (name, fetched_at, validated_at) in [
        ("latest", 0, 0),
        ("v1", 1_700_000_000_123, 1_700_000_000_124),
        ("_", u64::MAX, u64::MAX),
        (&*"t".repeat(128), 1, u64::MAX - 1),
    ] {
        let record = TagRecord {
            digest: digest_of(name.as_bytes()),
            fetched_at: Timestamp::from_millis(fetched_at),
            validated_at: Timestamp::from_millis(validated_at),
        };
        put(&*store, &at, name, record.clone()).await;
        assert_eq!(get(&*store, &at, name).await, Some(record), "{name}");
    }
    let sha512 = format!("sha512:{}", "5".repeat(128));
    let record = TagRecord {
        digest: sha512.parse().expect("a digest"),
        ..record(1)
    };
    put(&*store, &at, "sha512", record.clone()).await;
    assert_eq!(get(&*store, &at, "sha512").await, Some(record));
}

/// Absence is `None`, `false` or an empty list, never an error.
pub async fn what_is_not_there_is_absent(store: Arc<dyn TagStore>) {
    let at = origin("ghcr.io", "org/app");
    assert_eq!(get(&*store, &at, "latest").await, None);
    assert!(!remove(&*store, &at, "latest").await);
    assert_eq!(page(&*store, &at, None, 10).await, [""; 0]);
}

/// A tag is the mutable mapping: the record put last stands.
pub async fn the_last_record_stands(store: Arc<dyn TagStore>) {
    let at = origin("ghcr.io", "org/app");
    for n in 0..5 {
        put(&*store, &at, "latest", record(n)).await;
        assert_eq!(get(&*store, &at, "latest").await, Some(record(n)));
    }
    assert_eq!(page(&*store, &at, None, 10).await, ["latest"]);
}

/// Removal takes the one tag.
pub async fn a_removed_tag_is_gone(store: Arc<dyn TagStore>) {
    let at = origin("ghcr.io", "org/app");
    put(&*store, &at, "a", record(1)).await;
    put(&*store, &at, "b", record(2)).await;
    assert!(remove(&*store, &at, "a").await);
    assert!(!remove(&*store, &at, "a").await);
    assert_eq!(get(&*store, &at, "a").await, None);
    assert_eq!(get(&*store, &at, "b").await, Some(record(2)));
    assert_eq!(page(&*store, &at, None, 10).await, ["b"]);
}

/// However often a tag was asked for before, and whoever is being told of it while it changes: who
/// asks afterwards is told what it is then.
pub async fn what_was_told_is_not_told_again_when_it_changed(store: Arc<dyn TagStore>) {
    let at = origin("x", "a");
    let is = async |expected: Option<TagRecord>| {
        for _ in 0..2 {
            let at_hand = store.tag_at_hand(&at, &tag("latest"));
            assert!(at_hand.is_none() || at_hand == expected, "{at_hand:?}");
            assert_eq!(get(&*store, &at, "latest").await, expected);
        }
    };
    let ask = || join_all((0..4).map(|_| get(&*store, &at, "latest")));
    for n in 0..40 {
        join(ask(), put(&*store, &at, "latest", record(n))).await;
        is(Some(record(n))).await;
        join(ask(), put(&*store, &at, "latest", record(n + 1))).await;
        is(Some(record(n + 1))).await;
        join(ask(), remove(&*store, &at, "latest")).await;
        is(None).await;
    }
}

/// The same tag in another repository, or in the same repository of another upstream, is another
/// tag (I4), however alike the names are.
pub async fn origins_are_apart(store: Arc<dyn TagStore>) {
    let origins = confusable_origins();
    for (n, at) in (0..).zip(&origins) {
        put(&*store, at, "latest", record(n)).await;
        put(&*store, at, &format!("only-{n}"), record(n)).await;
    }
    for (n, at) in (0..).zip(&origins) {
        assert_eq!(get(&*store, at, "latest").await, Some(record(n)), "{at}");
        let only = format!("only-{n}");
        assert_eq!(
            page(&*store, at, None, 100).await,
            ["latest", &only],
            "{at}"
        );
        assert_eq!(page(&*store, at, Some("latest"), 1).await, [only], "{at}");
    }
    for (n, at) in origins.iter().enumerate() {
        assert!(remove(&*store, at, "latest").await, "{at}");
        assert_eq!(get(&*store, at, "latest").await, None);
        if let Some(next) = origins.get(n + 1) {
            assert!(get(&*store, next, "latest").await.is_some(), "{next}");
        }
    }
}

/// Tags that begin alike, or differ in case only, are different tags.
pub async fn tags_are_apart(store: Arc<dyn TagStore>) {
    let at = origin("x", "a");
    let names = ["v", "V", "v1", "v1.0", "v1-0", "v10", "v_1"];
    for (n, name) in (0..).zip(names) {
        put(&*store, &at, name, record(n)).await;
    }
    for (n, name) in (0..).zip(names) {
        assert_eq!(get(&*store, &at, name).await, Some(record(n)), "{name}");
    }
}

/// Not by version, not by case, not by when they came.
pub async fn tags_are_listed_in_the_order_of_their_bytes(store: Arc<dyn TagStore>) {
    let at = origin("x", "a");
    let ordered = [
        "0", "1.10", "1.9", "A", "Z", "_", "_a", "a", "a-", "a-b", "a.", "a.b", "a0", "aA", "a_",
        "aa", "b",
    ];
    for name in ordered.iter().rev() {
        put(&*store, &at, name, record(1)).await;
    }
    assert_eq!(page(&*store, &at, None, 100).await, ordered);
    for (n, name) in ordered.iter().enumerate() {
        let rest = page(&*store, &at, Some(name), 100).await;
        assert_eq!(rest, ordered[n + 1..], "past {name}");
    }
}

/// Pages of any size, put one after another, are the whole, without gap or double.
pub async fn pages_make_up_the_whole(store: Arc<dyn TagStore>) {
    let at = origin("x", "a");
    let names: Vec<String> = (0..25).map(|n| format!("v{n:02}")).collect();
    for name in &names {
        put(&*store, &at, name, record(1)).await;
    }
    put(&*store, &origin("x", "a/b"), "other", record(1)).await;
    for limit in [1, 2, 7, 24, 25, 26, 1_000] {
        let mut whole: Vec<String> = Vec::new();
        loop {
            let next = page(&*store, &at, whole.last().map(String::as_str), limit).await;
            assert!(next.len() <= limit);
            if next.is_empty() {
                break;
            }
            whole.extend(next);
        }
        assert_eq!(whole, names, "in pages of {limit}");
    }
    assert_eq!(page(&*store, &at, None, 0).await, [""; 0]);
}

/// `after` is a client's text: it need not be a tag that exists, nor one that could.
pub async fn any_text_may_stand_before_a_page(store: Arc<dyn TagStore>) {
    let at = origin("x", "a");
    for name in ["b", "d"] {
        put(&*store, &at, name, record(1)).await;
    }
    put(&*store, &origin("x", "b"), "z", record(1)).await;
    let long = "c".repeat(10_000);
    for (after, rest) in [
        ("", &["b", "d"][..]),
        ("\0", &["b", "d"]),
        ("a", &["b", "d"]),
        ("b", &["d"]),
        ("b\0", &["d"]),
        ("c/../\u{e9}", &["d"]),
        (&long, &["d"]),
        ("d", &[]),
        ("zzz", &[]),
        ("\u{10ffff}", &[]),
    ] {
        assert_eq!(
            page(&*store, &at, Some(after), 10).await,
            rest,
            "past {after:?}"
        );
    }
}

/// A put that is no longer waited for has happened or has not.
pub async fn a_dropped_put_is_all_or_nothing(store: Arc<dyn TagStore>) {
    let at = origin("x", "a");
    let name = tag("latest");
    put(&*store, &at, "latest", record(0)).await;
    for polls in 0..4 {
        let [old, new] = [record(polls as u64), record(polls as u64 + 1)];
        drop_after(store.put_tag(&at, &name, new.clone()), polls).await;
        let found = get(&*store, &at, "latest").await.expect("one of the two");
        assert!(
            found == old || found == new,
            "after {polls} polls: {found:?}"
        );
        put(&*store, &at, "latest", new.clone()).await;
        assert_eq!(get(&*store, &at, "latest").await, Some(new));
    }
}

fn record(n: u64) -> TagRecord {
    TagRecord {
        digest: digest_of(&n.to_le_bytes()),
        fetched_at: Timestamp::from_millis(n),
        validated_at: Timestamp::from_millis(n + 1),
    }
}

async fn put(store: &dyn TagStore, at: &Origin, name: &str, record: TagRecord) {
    store.put_tag(at, &tag(name), record).await.expect("put");
}

async fn get(store: &dyn TagStore, at: &Origin, name: &str) -> Option<TagRecord> {
    store.tag(at, &tag(name)).await.expect("tag")
}

async fn remove(store: &dyn TagStore, at: &Origin, name: &str) -> bool {
    store.remove_tag(at, &tag(name)).await.expect("remove")
}

async fn page(store: &dyn TagStore, at: &Origin, after: Option<&str>, limit: usize) -> Vec<String> {
    let page = store.tags(at, after, limit).await.expect("tags");
    page.iter().map(ToString::to_string).collect()
}
