//! The promises of [`JournalStore`].

use std::sync::Arc;

use super::{confusable_origins, drop_after, origin, tag};
use crate::testing::content::digest_of;
use crate::{Algorithm, Hasher, JournalStore, LinkTarget, Pin, Removal, RemovalReason, Timestamp};

/// Removals that every store keeps at least.
const REMOVALS_KEPT_MIN: usize = 1_000;

/// Runs every case, each on a store of its own that `make` gives: fresh and empty.
///
/// # Panics
///
/// Where the store breaks its contract.
pub async fn all<F, Fut>(make: F)
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Arc<dyn JournalStore>> + Send,
{
    nothing_is_written_down_at_first(make().await).await;
    pins_are_given_back_in_their_order(make().await).await;
    a_pin_that_is_equal_is_the_same(make().await).await;
    a_removed_pin_is_gone(make().await).await;
    a_dropped_pin_is_all_or_nothing(make().await).await;
    removals_are_given_back_the_latest_first(make().await).await;
    the_latest_removals_are_kept(make().await).await;
}

/// An empty journal is no error.
pub async fn nothing_is_written_down_at_first(store: Arc<dyn JournalStore>) {
    assert_eq!(pins(&*store).await, []);
    assert_eq!(removals(&*store, 10).await, []);
    let removed = store.remove_pin(&pin("x/a:1")).await;
    assert!(!removed.expect("remove a pin"));
}

/// Every kind of pin, however alike they are.
pub async fn pins_are_given_back_in_their_order(store: Arc<dyn JournalStore>) {
    let sha512 = Hasher::digest_of(Algorithm::Sha512, b"x");
    let mut expected = Vec::new();
    for at in confusable_origins() {
        for text in [
            format!("{at}:latest"),
            format!("{at}:*"),
            format!("{at}@{}", digest_of(b"x")),
            format!("{at}@{sha512}"),
            format!("{at}*"),
            format!("{at}:v[0-9]"),
        ] {
            // A pattern is no longer than 255 bytes.
            if let Ok(pin) = Pin::parse(&text) {
                expected.push((pin, Timestamp::from_millis(expected.len() as u64)));
            }
        }
    }
    for (pin, since) in expected.iter().rev() {
        let is_new = store.put_pin(pin.clone(), *since).await;
        assert!(is_new.expect("put a pin"), "{pin}");
    }
    expected.sort();
    assert_eq!(pins(&*store).await, expected);
}

/// The time of the last stands.
pub async fn a_pin_that_is_equal_is_the_same(store: Arc<dyn JournalStore>) {
    for (since, is_new) in [(1, true), (u64::MAX, false), (0, false)] {
        let since = Timestamp::from_millis(since);
        let put = store.put_pin(pin("x/a:1"), since).await;
        assert_eq!(put.expect("put a pin"), is_new);
        assert_eq!(pins(&*store).await, [(pin("x/a:1"), since)]);
    }
}

/// Removal takes the one pin.
pub async fn a_removed_pin_is_gone(store: Arc<dyn JournalStore>) {
    for text in ["x/a:1", "x/a:*", "x/a*"] {
        put(&*store, text).await;
    }
    for is_there in [true, false] {
        let removed = store.remove_pin(&pin("x/a:*")).await;
        assert_eq!(removed.expect("remove a pin"), is_there);
    }
    let mut left = vec![pin("x/a:1"), pin("x/a*")];
    left.sort();
    let pins: Vec<_> = pins(&*store)
        .await
        .into_iter()
        .map(|(pin, _)| pin)
        .collect();
    assert_eq!(pins, left);
    put(&*store, "x/a:*").await;
}

/// A put that nobody waits for is done, or not.
pub async fn a_dropped_pin_is_all_or_nothing(store: Arc<dyn JournalStore>) {
    for polls in 0..4 {
        let text = format!("x/a:{polls}");
        let given = drop_after(store.put_pin(pin(&text), Timestamp::from_millis(1)), polls).await;
        let kept = pins(&*store).await;
        let found = kept.iter().any(|(kept, _)| *kept == pin(&text));
        assert!(given.is_none() || found, "what has returned is done");
    }
}

/// Every part of a removal is given back.
pub async fn removals_are_given_back_the_latest_first(store: Arc<dyn JournalStore>) {
    let mut expected = Vec::new();
    for (n, reason) in (0..).zip(RemovalReason::ALL) {
        let digest = digest_of(reason.as_str().as_bytes());
        let origins = confusable_origins();
        let removal = Removal {
            // Not by this: the clock may have been set back.
            at: Timestamp::from_millis(1_000 - n),
            target: if n % 2 == 0 {
                LinkTarget::Manifest(digest)
            } else {
                LinkTarget::Blob(Hasher::digest_of(Algorithm::Sha512, &[]))
            },
            tags: origins.iter().map(|at| (at.clone(), tag("v1"))).collect(),
            origins,
            bytes: u64::MAX - n,
            accessed_at: (n % 2 == 0).then(|| Timestamp::from_millis(n)),
            reason: *reason,
        };
        put_removal(&*store, &removal).await;
        expected.push(removal);
    }
    let bare = Removal {
        at: Timestamp::from_millis(0),
        target: LinkTarget::Blob(digest_of(b"bare")),
        origins: Vec::new(),
        tags: Vec::new(),
        bytes: 0,
        accessed_at: None,
        reason: RemovalReason::Size,
    };
    // The same twice was removed twice.
    for _ in 0..2 {
        put_removal(&*store, &bare).await;
        expected.push(bare.clone());
    }
    expected.reverse();
    assert_eq!(removals(&*store, 100).await, expected);
    assert_eq!(removals(&*store, 3).await, expected[..3]);
    assert_eq!(removals(&*store, 0).await, []);
}

/// However many there were.
pub async fn the_latest_removals_are_kept(store: Arc<dyn JournalStore>) {
    let removal = |n: u64| Removal {
        at: Timestamp::from_millis(n),
        target: LinkTarget::Blob(digest_of(&n.to_be_bytes())),
        origins: vec![origin("x", "a")],
        tags: Vec::new(),
        bytes: n,
        accessed_at: None,
        reason: RemovalReason::Idle,
    };
    let many = REMOVALS_KEPT_MIN as u64 * 2;
    for n in 0..many {
        put_removal(&*store, &removal(n)).await;
    }
    let expected: Vec<_> = (0..many).rev().map(removal).collect();
    let kept = removals(&*store, REMOVALS_KEPT_MIN).await;
    assert_eq!(kept, expected[..REMOVALS_KEPT_MIN]);
}

fn pin(text: &str) -> Pin {
    Pin::parse(text).expect("a pin")
}

async fn put(store: &dyn JournalStore, text: &str) {
    let put = store.put_pin(pin(text), Timestamp::from_millis(1)).await;
    assert!(put.expect("put a pin"), "{text}");
}

async fn pins(store: &dyn JournalStore) -> Vec<(Pin, Timestamp)> {
    store.pins().await.expect("pins")
}

async fn put_removal(store: &dyn JournalStore, removal: &Removal) {
    let put = store.put_removal(removal.clone()).await;
    put.expect("put a removal");
}

async fn removals(store: &dyn JournalStore, limit: usize) -> Vec<Removal> {
    store.removals(limit).await.expect("removals")
}
