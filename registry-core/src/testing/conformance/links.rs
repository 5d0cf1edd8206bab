//! The promises of [`LinkStore`].

use std::sync::Arc;

use futures::future::{join, join_all};

use super::{confusable_origins, drop_after, origin};
use crate::testing::content::digest_of;
use crate::{Algorithm, Digest, Hasher, Link, LinkStore, LinkTarget, Origin, UpstreamId};

/// Runs every case, each on a store of its own that `make` gives: fresh and empty.
///
/// # Panics
///
/// Where the store breaks its contract.
pub async fn all<F, Fut>(make: F)
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Arc<dyn LinkStore>> + Send,
{
    a_link_is_given_back(make().await).await;
    what_is_not_linked_is_absent(make().await).await;
    blobs_and_manifests_are_apart(make().await).await;
    origins_are_apart(make().await).await;
    a_known_size_is_kept(make().await).await;
    a_removed_link_is_gone(make().await).await;
    what_was_told_is_not_told_again_when_it_is_gone(make().await).await;
    what_is_at_hand_is_linked(make().await).await;
    many_links_are_made_at_once(make().await).await;
    a_dropped_link_is_all_or_nothing(make().await).await;
    origins_with_a_link_are_listed(make().await).await;
    origins_are_listed_in_pages(make().await).await;
    origins_of_one_upstream_are_listed(make().await).await;
}

/// Target and size are what was linked.
pub async fn a_link_is_given_back(store: Arc<dyn LinkStore>) {
    let at = origin("ghcr.io", "org/app");
    let sha512 = Hasher::digest_of(Algorithm::Sha512, b"x");
    for (target, size) in [
        (LinkTarget::Blob(digest_of(b"1")), Some(0)),
        (LinkTarget::Blob(digest_of(b"2")), Some(u64::MAX)),
        (LinkTarget::Manifest(digest_of(b"3")), Some(7)),
        (LinkTarget::Manifest(digest_of(b"4")), None),
        (LinkTarget::Blob(sha512), Some(1)),
    ] {
        let link = Link { target, size };
        put(&*store, &at, vec![link]).await;
        assert_eq!(get(&*store, &at, target).await, Some(link));
    }
    let prefix = Digest::from_hash(Algorithm::Sha256, &sha512.hash()[..32]);
    let prefix = LinkTarget::Blob(prefix.expect("32 bytes are a SHA-256"));
    assert_eq!(get(&*store, &at, prefix).await, None);
}

/// Absence is `None`, `false` or an empty list, never an error.
pub async fn what_is_not_linked_is_absent(store: Arc<dyn LinkStore>) {
    let at = origin("ghcr.io", "org/app");
    assert_eq!(get(&*store, &at, blob(1)).await, None);
    assert!(!store.unlink(&at, blob(1)).await.expect("unlink"));
    assert_eq!(page(&*store, None, None, 10).await, []);
    put(&*store, &at, vec![]).await;
    assert_eq!(
        page(&*store, None, None, 10).await,
        [],
        "no links, no origin"
    );
}

/// A link to a blob does not make a manifest of it, nor the other way.
pub async fn blobs_and_manifests_are_apart(store: Arc<dyn LinkStore>) {
    let at = origin("x", "a");
    let digest = digest_of(b"both");
    let targets = [LinkTarget::Blob(digest), LinkTarget::Manifest(digest)];
    for [one, other] in [targets, [targets[1], targets[0]]] {
        put(&*store, &at, vec![link(one, Some(1))]).await;
        assert!(get(&*store, &at, one).await.is_some());
        assert_eq!(get(&*store, &at, other).await, None);
        assert!(!store.unlink(&at, other).await.expect("unlink"));
        assert!(store.unlink(&at, one).await.expect("unlink"));
    }
}

/// A link in one repository is none in another (I5), however alike the names are.
pub async fn origins_are_apart(store: Arc<dyn LinkStore>) {
    let origins = confusable_origins();
    for (n, at) in (0..).zip(&origins) {
        let links = vec![link(blob(n), Some(n)), link(blob(1_000), Some(n))];
        put(&*store, at, links).await;
    }
    for (n, at) in (0..).zip(&origins) {
        for other in 0..origins.len() as u64 {
            let found = get(&*store, at, blob(other)).await;
            assert_eq!(found.is_some(), other == n, "{other} in {at}");
        }
        let shared = get(&*store, at, blob(1_000)).await;
        assert_eq!(shared, Some(link(blob(1_000), Some(n))), "{at}");
    }
    for at in &origins[..3] {
        assert!(store.unlink(at, blob(1_000)).await.expect("unlink"));
    }
    for (n, at) in origins.iter().enumerate() {
        let shared = get(&*store, at, blob(1_000)).await;
        assert_eq!(shared.is_some(), n >= 3, "{at}");
    }
}

/// A size that is known is not forgotten, and a new one replaces it.
pub async fn a_known_size_is_kept(store: Arc<dyn LinkStore>) {
    let at = origin("x", "a");
    for (size, then) in [
        (None, None),
        (Some(1), Some(1)),
        (None, Some(1)),
        (Some(2), Some(2)),
        (None, Some(2)),
        (Some(0), Some(0)),
        (None, Some(0)),
    ] {
        put(&*store, &at, vec![link(blob(1), size)]).await;
        let found = get(&*store, &at, blob(1)).await;
        assert_eq!(found, Some(link(blob(1), then)), "after {size:?}");
    }
    // One manifest may name one blob twice.
    let twice = vec![link(blob(2), Some(5)), link(blob(2), None)];
    put(&*store, &at, twice).await;
    assert_eq!(
        get(&*store, &at, blob(2)).await,
        Some(link(blob(2), Some(5)))
    );
}

/// Removal takes the one link, and the origin with its last.
pub async fn a_removed_link_is_gone(store: Arc<dyn LinkStore>) {
    let at = origin("x", "a");
    put(
        &*store,
        &at,
        vec![link(blob(1), None), link(blob(2), Some(2))],
    )
    .await;
    assert!(store.unlink(&at, blob(1)).await.expect("unlink"));
    assert!(!store.unlink(&at, blob(1)).await.expect("unlink again"));
    assert_eq!(get(&*store, &at, blob(1)).await, None);
    assert!(get(&*store, &at, blob(2)).await.is_some());
    assert_eq!(
        page(&*store, None, None, 10).await,
        std::slice::from_ref(&at)
    );
    assert!(store.unlink(&at, blob(2)).await.expect("unlink"));
    assert_eq!(page(&*store, None, None, 10).await, []);
    put(&*store, &at, vec![link(blob(1), None)]).await;
    assert_eq!(get(&*store, &at, blob(1)).await, Some(link(blob(1), None)));
}

/// However often a link was asked for before, and whoever is being told of it while it is removed:
/// who asks afterwards is told of none, or of the one that was made since (I5).
pub async fn what_was_told_is_not_told_again_when_it_is_gone(store: Arc<dyn LinkStore>) {
    let (at, other) = (origin("x", "a"), origin("x", "b"));
    let is = async |expected: Option<Link>| {
        for _ in 0..2 {
            let at_hand = store.link_at_hand(&at, blob(1));
            assert!(at_hand.is_none() || at_hand == expected, "{at_hand:?}");
            assert_eq!(get(&*store, &at, blob(1)).await, expected);
        }
    };
    for n in 0..40 {
        let one = link(blob(1), Some(n));
        put(&*store, &at, vec![one]).await;
        put(&*store, &other, vec![one]).await;
        is(Some(one)).await;
        let told = (0..4).map(|_| get(&*store, &at, blob(1)));
        let removed = async { store.unlink(&at, blob(1)).await.expect("unlink") };
        let (_, removed) = join(join_all(told), removed).await;
        assert!(removed);
        is(None).await;
        assert!(get(&*store, &other, blob(1)).await.is_some());
    }
}

/// What is at hand is there as it is said to be; what is not may be there too.
pub async fn what_is_at_hand_is_linked(store: Arc<dyn LinkStore>) {
    let at = origin("x", "a");
    let links = [link(blob(1), Some(1)), link(blob(2), None)];
    let bigger = [links[0], link(blob(2), Some(2))];
    assert!(!store.has_at_hand(&at, &links));
    put(&*store, &at, vec![links[0]]).await;
    assert!(!store.has_at_hand(&at, &links));
    put(&*store, &at, links.to_vec()).await;
    assert!(!store.has_at_hand(&origin("x", "b"), &links));
    assert!(!store.has_at_hand(&at, &bigger), "a size that is news");
    put(&*store, &at, bigger.to_vec()).await;
    assert!(!store.has_at_hand(&at, &[link(blob(1), Some(3))]));
    for n in 1..3 {
        assert!(store.unlink(&at, blob(n)).await.expect("unlink"));
        assert!(!store.has_at_hand(&at, &links), "without the {n}th");
        assert_eq!(get(&*store, &at, blob(n)).await, None);
        put(&*store, &at, links.to_vec()).await;
    }
}

/// As many as a manifest can name.
pub async fn many_links_are_made_at_once(store: Arc<dyn LinkStore>) {
    let at = origin("x", "a");
    let links: Vec<Link> = (0..2_000).map(|n| link(blob(n), Some(n))).collect();
    put(&*store, &at, links.clone()).await;
    for one in links.iter().step_by(97).chain(links.last()) {
        assert_eq!(get(&*store, &at, one.target).await, Some(*one));
    }
    assert_eq!(page(&*store, None, None, 10).await, [at]);
}

/// Links that are no longer waited for were all made or none.
pub async fn a_dropped_link_is_all_or_nothing(store: Arc<dyn LinkStore>) {
    for polls in 0..4 {
        let at = origin("x", &format!("polls/{polls}"));
        let links: Vec<Link> = (0..50).map(|n| link(blob(n), Some(n))).collect();
        drop_after(store.link(&at, links.clone()), polls).await;
        // Once any is seen, all were made: one may become visible while they are looked for.
        let mut seen = false;
        for _ in 0..2 {
            for one in &links {
                let found = get(&*store, &at, one.target).await;
                assert!(found.is_some() || !seen, "after {polls} polls");
                seen |= found.is_some();
            }
        }
        put(&*store, &at, links).await;
        assert!(get(&*store, &at, blob(49)).await.is_some());
    }
}

/// Each origin once, in the order of (upstream, repository), by their bytes.
pub async fn origins_with_a_link_are_listed(store: Arc<dyn LinkStore>) {
    let origins = confusable_origins();
    for at in origins.iter().rev() {
        for n in 0..20 {
            let target = [blob(n), LinkTarget::Manifest(blob(n).digest())][n as usize % 2];
            put(&*store, at, vec![link(target, None)]).await;
        }
    }
    assert_eq!(page(&*store, None, None, 1_000).await, origins);
    assert_eq!(page(&*store, None, None, 0).await, []);
}

/// Pages of any size, put one after another, are the whole; a page may begin past an origin that
/// has no link.
pub async fn origins_are_listed_in_pages(store: Arc<dyn LinkStore>) {
    let origins = confusable_origins();
    for at in &origins {
        put(&*store, at, (0..10).map(|n| link(blob(n), None)).collect()).await;
    }
    for limit in [1, 2, 5, origins.len(), 100] {
        let mut whole: Vec<Origin> = Vec::new();
        loop {
            let next = page(&*store, None, whole.last(), limit).await;
            assert!(next.len() <= limit);
            if next.is_empty() {
                break;
            }
            whole.extend(next);
        }
        assert_eq!(whole, origins, "in pages of {limit}");
    }
    let absent = origin("x", "a/a");
    let past: Vec<_> = origins.iter().filter(|&at| *at > absent).cloned().collect();
    assert_eq!(page(&*store, None, Some(&absent), 100).await, past);
}

/// Only those of the upstream asked for, also in pages and past an origin of another.
pub async fn origins_of_one_upstream_are_listed(store: Arc<dyn LinkStore>) {
    let origins = confusable_origins();
    for at in &origins {
        put(&*store, at, vec![link(blob(1), None)]).await;
    }
    for name in ["docker.io", "x", "x.y", "x:5000", "xa", "y", "a"] {
        let upstream = UpstreamId::parse(name).expect("a test's upstream is well-formed");
        let of_upstream = |at: &&Origin| at.upstream() == &upstream;
        let expected: Vec<_> = origins.iter().filter(of_upstream).cloned().collect();
        let all = page(&*store, Some(&upstream), None, 100).await;
        assert_eq!(all, expected, "{name}");
        for after in &origins {
            let past: Vec<_> = expected.iter().filter(|&at| at > after).cloned().collect();
            let all = page(&*store, Some(&upstream), Some(after), 100).await;
            assert_eq!(all, past, "{name} past {after}");
            let one = page(&*store, Some(&upstream), Some(after), 1).await;
            assert_eq!(one, past[..past.len().min(1)], "{name} past {after}");
        }
    }
}

fn blob(n: u64) -> LinkTarget {
    LinkTarget::Blob(digest_of(&n.to_le_bytes()))
}

fn link(target: LinkTarget, size: Option<u64>) -> Link {
    Link { target, size }
}

async fn put(store: &dyn LinkStore, at: &Origin, links: Vec<Link>) {
    store.link(at, links).await.expect("link");
}

async fn get(store: &dyn LinkStore, at: &Origin, target: LinkTarget) -> Option<Link> {
    store.linked(at, target).await.expect("linked")
}

async fn page(
    store: &dyn LinkStore,
    upstream: Option<&UpstreamId>,
    after: Option<&Origin>,
    limit: usize,
) -> Vec<Origin> {
    let page = store.origins(upstream, after, limit).await;
    page.expect("origins")
}
