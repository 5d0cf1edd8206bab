//! The promises of [`InventoryStore`], of stores that keep what it tells of.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join;

use super::{confusable_origins, origin, tag};
use crate::testing::ManualClock;
use crate::testing::content::{digest_of, put_blob, read_body, sample};
use crate::{
    ByteRange, Clock as _, Digest, InventoryStore, Link, LinkTarget, Manifest, Origin, Position,
    Provenance, ReferrersRecord, RemovedUnused, Stores, TagRecord, Timestamp, Unit,
};

/// How far the clock goes between two accesses that have an order.
const STEP: Duration = Duration::from_secs(60);

/// Runs every case, each on stores of its own that `make` gives: fresh and empty, with upkeep, and
/// telling by the clock that it is given when something is used.
///
/// # Panics
///
/// Where the stores break the contract.
pub async fn all<F, Fut>(make: F)
where
    F: Fn(Arc<ManualClock>) -> Fut + Send + Sync,
    Fut: Future<Output = Stores> + Send,
{
    macro_rules! run {
        ($($case:ident),* $(,)?) => {
            $({
                let clock = Arc::new(ManualClock::default());
                $case(make(Arc::clone(&clock)).await, clock).await;
            })*
        };
    }
    run!(
        nothing_is_kept_at_first,
        usage_is_the_sum_of_what_is_kept,
        unfinished_bytes_are_no_content,
        units_are_ordered_by_their_last_access,
        only_accesses_count_as_such,
        units_of_the_same_time_are_ordered_by_target,
        pages_make_up_the_order,
        a_blob_that_is_named_is_no_unit,
        what_only_a_removed_manifest_named_comes_first,
        a_freed_blob_can_be_needed_again,
        a_blob_is_needed_whoever_removed_it_before,
        a_unit_can_be_postponed,
        the_first_note_stands,
        units_are_told_by_origin,
        charges_are_told_in_pages,
        what_names_something_is_told,
        where_something_is_linked_is_told,
        tags_of_a_manifest_are_told,
        manifests_are_listed_in_pages,
        blobs_are_listed_in_pages,
        what_an_origin_links_is_listed_in_pages,
        what_is_looked_at_is_whole,
        what_is_forgotten_stays_kept,
        unused_blobs_are_removed_and_no_others,
        a_removal_and_a_need_settle,
    );
}

/// Stores, and words for the cases to use.
struct Shop {
    stores: Stores,
    inventory: Arc<dyn InventoryStore>,
    clock: Arc<ManualClock>,
}

impl Shop {
    fn new(stores: Stores, clock: Arc<ManualClock>) -> Self {
        let upkeep = stores.upkeep.clone().expect("stores with upkeep");
        Self {
            stores,
            inventory: upkeep.inventory,
            clock,
        }
    }

    /// Keeps a blob of 100 bytes, a step later.
    async fn blob(&self, seed: u64) -> Digest {
        self.clock.advance(STEP);
        let blob = put_blob(&*self.stores.blobs, &sample(100, seed)).await;
        blob.expect("put a blob")
    }

    /// Keeps an image, a step later.
    async fn image(&self, name: &str, blobs: &[Digest]) -> Digest {
        self.keep(image(name, blobs)).await
    }

    async fn keep(&self, manifest: Manifest) -> Digest {
        self.clock.advance(STEP);
        let digest = manifest.digest();
        let put = self.stores.manifests.put_manifest(manifest).await;
        put.expect("put a manifest");
        digest
    }

    async fn remove_manifest(&self, digest: Digest) {
        let removed = self.stores.manifests.remove_manifest(digest).await;
        assert!(removed.expect("remove a manifest"));
    }

    async fn open(&self, blob: Digest) {
        self.clock.advance(STEP);
        let opened = self.stores.blobs.open(blob, None).await.expect("open");
        assert!(opened.is_some());
    }

    async fn get(&self, manifest: Digest) {
        self.clock.advance(STEP);
        let manifest = self.stores.manifests.manifest(manifest).await;
        assert!(manifest.expect("get").is_some());
    }

    async fn units(&self) -> Vec<Unit> {
        let units = self.inventory.coldest(None, None, usize::MAX).await;
        units.expect("coldest")
    }

    /// Without bytes: what a store needs beside some content may change with what it is linked in.
    async fn positions(&self) -> Vec<Position> {
        let units = self.units().await;
        units.iter().map(|unit| unit.position).collect()
    }

    async fn order(&self) -> Vec<LinkTarget> {
        targets(&self.units().await)
    }

    async fn bytes(&self) -> u64 {
        self.inventory.usage().await.expect("usage").bytes
    }

    async fn accessed_at(&self, target: LinkTarget) -> Option<Timestamp> {
        let record = self.inventory.record(target).await.expect("record");
        record.expect("it is kept").accessed_at
    }

    async fn postpone(&self, target: LinkTarget, until: Timestamp) {
        let postponed = self.inventory.postpone(target, until).await;
        postponed.expect("postpone");
    }

    async fn note(&self, target: LinkTarget, at: &Origin) {
        let provenance = provenance(at, None, 1);
        let noted = self.inventory.note(target, provenance).await;
        noted.expect("note");
    }

    async fn charges(&self) -> Vec<(Origin, u64)> {
        let charges = self.inventory.charges(None, None, usize::MAX).await;
        let charges = charges.expect("charges").into_iter();
        charges
            .map(|charge| (charge.origin, charge.bytes))
            .collect()
    }

    async fn link(&self, at: &Origin, target: LinkTarget) {
        let link = Link { target, size: None };
        self.stores.links.link(at, vec![link]).await.expect("link");
    }

    async fn tag(&self, at: &Origin, name: &str, digest: Digest) {
        let record = TagRecord {
            digest,
            fetched_at: Timestamp::from_millis(1),
            validated_at: Timestamp::from_millis(2),
        };
        let put = self.stores.tags.put_tag(at, &tag(name), record).await;
        put.expect("put a tag");
    }

    async fn tagged_as(&self, digest: Digest, limit: usize) -> Vec<String> {
        let tags = self.inventory.tagged_as(digest, limit).await;
        let tags = tags.expect("tagged_as").into_iter();
        tags.map(|(at, tag)| format!("{at}:{tag}")).collect()
    }

    async fn linked_in(&self, target: LinkTarget) -> Vec<Origin> {
        let origins = self.inventory.linked_in(target, None, usize::MAX).await;
        origins.expect("linked_in")
    }
}

fn targets(units: &[Unit]) -> Vec<LinkTarget> {
    units.iter().map(|unit| unit.position.target).collect()
}

fn image(name: &str, blobs: &[Digest]) -> Manifest {
    let layers: Vec<_> = blobs
        .iter()
        .map(|blob| format!(r#"{{"digest":"{blob}","size":100}}"#))
        .collect();
    let layers = layers.join(",");
    manifest(format!(
        r#"{{"layers":[{layers}],"annotations":{{"name":"{name}"}}}}"#
    ))
}

fn index(manifests: &[Digest]) -> Manifest {
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let children: Vec<_> = manifests
        .iter()
        .map(|child| format!(r#"{{"mediaType":"{kind}","digest":"{child}","size":7}}"#))
        .collect();
    manifest(format!(r#"{{"manifests":[{}]}}"#, children.join(",")))
}

fn manifest(json: String) -> Manifest {
    Manifest::of_bytes(None, json.into()).expect("a manifest")
}

fn provenance(origin: &Origin, endpoint: Option<&str>, at: u64) -> Provenance {
    Provenance {
        origin: origin.clone(),
        endpoint: endpoint.map(Arc::from),
        at: Timestamp::from_millis(at),
    }
}

/// An empty store answers with nothing, never with an error.
pub async fn nothing_is_kept_at_first(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let usage = shop.inventory.usage().await.expect("usage");
    let counts = (usage.bytes, usage.blobs, usage.manifests);
    assert_eq!(counts, (0, 0, 0));
    assert_eq!(usage.unfinished_bytes, 0);
    assert_eq!(shop.units().await, []);
    assert_eq!(shop.charges().await, []);
    let digest = digest_of(b"absent");
    for target in [LinkTarget::Blob(digest), LinkTarget::Manifest(digest)] {
        let record = shop.inventory.record(target).await.expect("record");
        assert_eq!(record, None);
        let named = shop.inventory.named_by(target, 10).await;
        assert_eq!(named.expect("named_by"), []);
        assert_eq!(shop.linked_in(target).await, []);
        assert_eq!(shop.inventory.forget(target).await.expect("forget"), 0);
        shop.postpone(target, shop.clock.now()).await;
        shop.note(target, &origin("x", "a")).await;
    }
    assert_eq!(shop.units().await, [], "what is not kept cannot be noted");
    assert_eq!(shop.charges().await, []);
    assert_eq!(shop.tagged_as(digest, 10).await, [""; 0]);
    let manifests = shop.inventory.manifests(None, 10).await;
    assert_eq!(manifests.expect("manifests"), []);
    let manifest = shop.inventory.peek_manifest(digest).await.expect("peek");
    assert_eq!(manifest, None);
    let blob = shop.inventory.peek_blob(digest).await.expect("peek");
    assert!(blob.is_none());
    let removed = shop.inventory.remove_unused(digest).await.expect("remove");
    assert_eq!(removed, RemovedUnused::Absent);
}

/// All that is kept adds up, and what is removed is not counted any more.
pub async fn usage_is_the_sum_of_what_is_kept(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let layer = shop.blob(1).await;
    let loose = shop.blob(2).await;
    // Twice the same is kept once.
    assert_eq!(shop.blob(2).await, loose);
    let manifest = shop.image("a", &[layer]).await;
    assert_eq!(shop.image("a", &[layer]).await, manifest);
    let mut sum = 0;
    for target in [
        LinkTarget::Blob(layer),
        LinkTarget::Blob(loose),
        LinkTarget::Manifest(manifest),
    ] {
        let record = shop.inventory.record(target).await.expect("record");
        let record = record.expect("it is kept");
        assert!(record.bytes >= 100, "no less than its size");
        assert_eq!(record.provenance, None);
        sum += record.bytes;
    }
    let usage = shop.inventory.usage().await.expect("usage");
    let counts = (usage.bytes, usage.blobs, usage.manifests);
    assert_eq!(counts, (sum, 2, 1));
    assert_eq!(usage.unfinished_bytes, 0);

    assert!(shop.stores.blobs.remove(loose).await.expect("remove"));
    assert!(!shop.stores.blobs.remove(loose).await.expect("remove"));
    shop.remove_manifest(manifest).await;
    let removed = shop.inventory.remove_unused(layer).await.expect("remove");
    let bytes = shop.bytes().await;
    assert_eq!((bytes, removed), (0, RemovedUnused::Removed(100)));
    let usage = shop.inventory.usage().await.expect("usage");
    assert_eq!((usage.blobs, usage.manifests), (0, 0));
}

/// What is being written is told apart from what is kept.
pub async fn unfinished_bytes_are_no_content(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let bytes = sample(5 << 20, 1);
    let digest = digest_of(&bytes);
    let sink = shop.stores.blobs.stage(digest, None).await.expect("stage");
    sink.write_at(0, bytes.clone()).await.expect("write");
    let usage = shop.inventory.usage().await.expect("usage");
    assert_eq!((usage.bytes, usage.blobs), (0, 0));
    assert_eq!(usage.unfinished_bytes, bytes.len() as u64);
    sink.discard();
    // Its content may be let go of a moment later.
    for _ in 0..1_000 {
        let usage = shop.inventory.usage().await.expect("usage");
        if usage.unfinished_bytes == 0 {
            assert_eq!(shop.units().await, []);
            return;
        }
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("what was discarded is counted still");
}

/// The unit that was used longest ago comes first.
pub async fn units_are_ordered_by_their_last_access(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let a = LinkTarget::Blob(shop.blob(1).await);
    let b = LinkTarget::Manifest(shop.image("b", &[]).await);
    let c = LinkTarget::Blob(shop.blob(3).await);
    assert_eq!(shop.order().await, [a, b, c]);
    for unit in shop.units().await {
        let target = unit.position.target;
        assert_eq!(shop.accessed_at(target).await, Some(unit.position.at));
        let record = shop.inventory.record(target).await.expect("record");
        assert_eq!(record.expect("it is kept").bytes, unit.bytes);
        assert_eq!(unit.origin, None);
    }
    shop.open(a.digest()).await;
    assert_eq!(shop.order().await, [b, c, a]);
    shop.get(b.digest()).await;
    assert_eq!(shop.order().await, [c, a, b]);
    assert_eq!(shop.accessed_at(b).await, Some(shop.clock.now()));
    // A clock that is set back makes nothing older than it was.
    shop.clock.set(Timestamp::from_millis(1_000));
    shop.open(c.digest()).await;
    assert_eq!(shop.order().await, [c, a, b]);
}

/// Looking changes nothing.
pub async fn only_accesses_count_as_such(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let blob = shop.blob(1).await;
    let manifest = shop.image("a", &[]).await;
    let before = shop.positions().await;
    shop.clock.advance(STEP);
    let at = origin("x", "a");
    for target in [LinkTarget::Blob(blob), LinkTarget::Manifest(manifest)] {
        shop.inventory.record(target).await.expect("record");
        shop.inventory.named_by(target, 1).await.expect("named_by");
        shop.link(&at, target).await;
        shop.linked_in(target).await;
    }
    shop.tag(&at, "latest", manifest).await;
    shop.tagged_as(manifest, 1).await;
    shop.inventory.peek_blob(blob).await.expect("peek");
    shop.inventory.peek_manifest(manifest).await.expect("peek");
    shop.stores.blobs.stat(blob).await.expect("stat");
    assert_eq!(shop.positions().await, before);
}

/// The order is one at any resolution of time.
pub async fn units_of_the_same_time_are_ordered_by_target(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let mut expected = Vec::new();
    for n in 0..5 {
        let blob = put_blob(&*shop.stores.blobs, &sample(10, n)).await;
        expected.push(LinkTarget::Blob(blob.expect("put a blob")));
        let manifest = image(&n.to_string(), &[]);
        expected.push(LinkTarget::Manifest(manifest.digest()));
        let put = shop.stores.manifests.put_manifest(manifest).await;
        put.expect("put a manifest");
    }
    expected.sort();
    assert_eq!(shop.order().await, expected);
}

/// Pages of any size are the order, cut up; also where what a page ended with is gone.
pub async fn pages_make_up_the_order(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    for n in 0..7 {
        shop.blob(n).await;
        // Two of each time.
        let put = put_blob(&*shop.stores.blobs, &sample(10, n)).await;
        put.expect("put a blob");
    }
    let whole = shop.units().await;
    assert_eq!(whole.len(), 14);
    for limit in [1, 2, 3, 14, 20] {
        let (mut paged, mut after) = (Vec::new(), None);
        loop {
            let page = shop.inventory.coldest(None, after, limit).await;
            let page = page.expect("coldest");
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after = Some(last.position);
            paged.extend(page);
        }
        assert_eq!(paged, whole, "in pages of {limit}");
    }
    let nothing = shop.inventory.coldest(None, None, 0).await;
    assert_eq!(nothing.expect("coldest"), []);
    let gone = whole[4].position;
    let removed = shop.stores.blobs.remove(gone.target.digest()).await;
    assert!(removed.expect("remove"));
    let page = shop.inventory.coldest(None, Some(gone), 2).await;
    assert_eq!(page.expect("coldest"), &whole[5..7]);
}

/// Whichever came first, the blob or the manifest.
pub async fn a_blob_that_is_named_is_no_unit(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let before = shop.blob(1).await;
    assert_eq!(shop.order().await, [LinkTarget::Blob(before)]);
    let after = digest_of(&sample(100, 2));
    // It names one of them twice, and one that never comes.
    let named = [before, after, before, digest_of(b"never")];
    let manifest = LinkTarget::Manifest(shop.image("a", &named).await);
    assert_eq!(shop.order().await, [manifest]);
    assert_eq!(shop.blob(2).await, after);
    shop.open(after).await;
    assert_eq!(shop.order().await, [manifest]);
    // It is kept, and used, all the same.
    let target = LinkTarget::Blob(after);
    assert_eq!(shop.accessed_at(target).await, Some(shop.clock.now()));
    // Its digest as a manifest's is another matter.
    let index = LinkTarget::Manifest(shop.keep(index(&[before])).await);
    assert_eq!(shop.order().await, [manifest, index]);
    shop.remove_manifest(manifest.digest()).await;
    let mut freed = [LinkTarget::Blob(before), LinkTarget::Blob(after)];
    freed.sort();
    assert_eq!(shop.order().await, [freed[0], freed[1], index]);
}

/// What nobody needs any more goes first, whenever it was last used; what others need stays.
pub async fn what_only_a_removed_manifest_named_comes_first(
    stores: Stores,
    clock: Arc<ManualClock>,
) {
    let shop = Shop::new(stores, clock);
    let old = LinkTarget::Blob(shop.blob(1).await);
    let own = shop.blob(2).await;
    let shared = shop.blob(3).await;
    let one = shop.image("one", &[own, shared, own]).await;
    let two = LinkTarget::Manifest(shop.image("two", &[shared]).await);
    shop.open(own).await;
    let used_at = shop.clock.now();
    shop.remove_manifest(one).await;
    let own = LinkTarget::Blob(own);
    assert_eq!(shop.order().await, [own, old, two]);
    assert_eq!(shop.accessed_at(own).await, Some(used_at));
    let first = &shop.units().await[0];
    assert_eq!(first.position.at, Timestamp::default());
    // Whoever opens it after all, uses it.
    shop.open(own.digest()).await;
    assert_eq!(shop.order().await, [old, two, own]);
    shop.remove_manifest(two.digest()).await;
    assert_eq!(
        shop.order().await,
        [LinkTarget::Blob(shared), old, own],
        "with its last manifest"
    );
}

/// What another manifest names is no longer the first to go.
pub async fn a_freed_blob_can_be_needed_again(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let blob = shop.blob(1).await;
    for name in ["one", "two"] {
        let manifest = shop.image(name, &[blob]).await;
        assert_eq!(shop.order().await, [LinkTarget::Manifest(manifest)]);
        let removed = shop.inventory.remove_unused(blob).await.expect("remove");
        assert_eq!(removed, RemovedUnused::Needed);
        shop.remove_manifest(manifest).await;
        assert_eq!(shop.order().await, [LinkTarget::Blob(blob)]);
    }
}

/// A blob that was removed although it is named, and comes again, is part of its image again.
pub async fn a_blob_is_needed_whoever_removed_it_before(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let blob = shop.blob(1).await;
    let manifest = LinkTarget::Manifest(shop.image("a", &[blob]).await);
    assert!(shop.stores.blobs.remove(blob).await.expect("remove"));
    assert_eq!(shop.order().await, [manifest]);
    assert_eq!(shop.blob(1).await, blob);
    assert_eq!(shop.order().await, [manifest]);
    shop.remove_manifest(manifest.digest()).await;
    assert_eq!(shop.order().await, [LinkTarget::Blob(blob)]);
}

/// Postponing moves a unit on, never back, and is no access.
pub async fn a_unit_can_be_postponed(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let layer = shop.blob(1).await;
    let a = LinkTarget::Manifest(shop.image("a", &[layer]).await);
    let used_at = shop.clock.now();
    let b = LinkTarget::Blob(shop.blob(2).await);
    let later = shop.clock.now().after(STEP * 10);
    shop.postpone(a, later).await;
    assert_eq!(shop.order().await, [b, a]);
    assert_eq!(shop.units().await[1].position.at, later);
    assert_eq!(shop.accessed_at(a).await, Some(used_at));
    shop.postpone(a, used_at).await;
    assert_eq!(shop.units().await[1].position.at, later, "never back");
    // An access in the meantime moves it no further; one that is later does.
    shop.get(a.digest()).await;
    assert_eq!(shop.units().await[1].position.at, later);
    shop.clock.advance(STEP * 20);
    shop.get(a.digest()).await;
    assert_eq!(shop.units().await[1].position.at, shop.clock.now());
    // What is no unit has no place.
    shop.postpone(LinkTarget::Blob(layer), later).await;
    assert_eq!(shop.order().await, [b, a]);
    // What is freed can be postponed like any other.
    shop.remove_manifest(a.digest()).await;
    let freed = LinkTarget::Blob(layer);
    assert_eq!(shop.order().await, [freed, b]);
    shop.postpone(freed, shop.clock.now()).await;
    assert_eq!(shop.order().await, [b, freed]);
}

/// Where content came from is told as it was first noted, for as long as it is kept.
pub async fn the_first_note_stands(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let (one, two) = (origin("ghcr.io", "org/app"), origin("x", "a"));
    let blob = LinkTarget::Blob(shop.blob(1).await);
    let manifest = LinkTarget::Manifest(shop.image("a", &[]).await);
    for (target, endpoint) in [(blob, Some("mirror.example.org")), (manifest, None)] {
        let first = provenance(&one, endpoint, 7);
        for noted in [first.clone(), provenance(&two, Some("other"), 8)] {
            let noted = shop.inventory.note(target, noted).await;
            noted.expect("note");
        }
        let record = shop.inventory.record(target).await.expect("record");
        assert_eq!(record.expect("it is kept").provenance, Some(first));
    }
    assert_eq!(shop.charges().await, [(one, shop.bytes().await)]);
    // What comes again has another history.
    assert!(
        shop.stores
            .blobs
            .remove(blob.digest())
            .await
            .expect("remove")
    );
    shop.remove_manifest(manifest.digest()).await;
    assert_eq!(shop.charges().await, []);
    shop.blob(1).await;
    shop.image("a", &[]).await;
    assert_eq!(shop.charges().await, []);
    for target in [blob, manifest] {
        let record = shop.inventory.record(target).await.expect("record");
        assert_eq!(record.expect("it is kept").provenance, None);
        shop.note(target, &two).await;
    }
    assert_eq!(shop.charges().await, [(two, shop.bytes().await)]);
}

/// The units of one origin are those that are charged to it, in the same order.
pub async fn units_are_told_by_origin(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let origins = confusable_origins();
    let layer = shop.blob(100).await;
    let mut expected = vec![Vec::new(); origins.len()];
    for round in 0..2_u64 {
        for (n, at) in origins.iter().enumerate() {
            let seed = round * 50 + n as u64;
            let blob = LinkTarget::Blob(shop.blob(seed).await);
            let name = seed.to_string();
            let manifest = LinkTarget::Manifest(shop.image(&name, &[layer]).await);
            for target in [blob, manifest] {
                shop.note(target, at).await;
                expected[n].push(target);
            }
        }
    }
    // A layer is no unit, whoever brought it.
    shop.note(LinkTarget::Blob(layer), &origins[0]).await;
    shop.blob(200).await;
    for (at, expected) in origins.iter().zip(&mut expected) {
        let units = shop.inventory.coldest(Some(at), None, 10).await;
        let units = units.expect("coldest");
        assert_eq!(targets(&units), *expected, "{at}");
        assert!(units.iter().all(|unit| unit.origin.as_ref() == Some(at)));
        let past = Some(units[1].position);
        let rest = shop.inventory.coldest(Some(at), past, 1).await;
        assert_eq!(targets(&rest.expect("coldest")), &expected[2..3], "{at}");
        // An access moves it here as well.
        shop.open(expected[0].digest()).await;
        expected.rotate_left(1);
        shop.postpone(expected[0], shop.clock.now().after(STEP))
            .await;
        expected.rotate_left(1);
        let units = shop.inventory.coldest(Some(at), None, 10).await;
        assert_eq!(targets(&units.expect("coldest")), *expected, "{at}");
    }
    let nobody = origin("x", "nobody");
    let units = shop.inventory.coldest(Some(&nobody), None, 10).await;
    assert_eq!(units.expect("coldest"), []);
    // What is freed comes first here too.
    for manifest in expected.iter().flatten() {
        if let LinkTarget::Manifest(digest) = manifest {
            shop.remove_manifest(*digest).await;
        }
    }
    let units = shop.inventory.coldest(Some(&origins[0]), None, 1).await;
    assert_eq!(targets(&units.expect("coldest")), [LinkTarget::Blob(layer)]);
}

/// Every byte that was noted is charged to one origin, in the order of their names.
pub async fn charges_are_told_in_pages(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let origins = confusable_origins();
    for (n, at) in (0..).zip(&origins) {
        for seed in 0..=n {
            let blob = shop.blob(n * 100 + seed).await;
            shop.note(LinkTarget::Blob(blob), at).await;
        }
    }
    shop.blob(10_000).await;
    let whole = shop.charges().await;
    let expected: Vec<_> = origins
        .iter()
        .cloned()
        .zip((1..).map(|n| n * 100))
        .collect();
    assert_eq!(whole, expected);
    for limit in [1, 2, 5, 100] {
        let mut paged: Vec<(Origin, u64)> = Vec::new();
        loop {
            let after = paged.last().map(|(at, _)| at);
            let page = shop.inventory.charges(None, after, limit).await;
            let page = page.expect("charges");
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            paged.extend(page.into_iter().map(|of| (of.origin, of.bytes)));
        }
        assert_eq!(paged, whole, "in pages of {limit}");
    }
    for at in &origins {
        let only = Some(at.upstream());
        let charges = shop.inventory.charges(only, None, 100).await;
        let charges = charges.expect("charges").into_iter();
        let charged: Vec<_> = charges.map(|charge| charge.origin).collect();
        let of_upstream = |other: &&Origin| other.upstream() == at.upstream();
        let expected: Vec<_> = origins.iter().filter(of_upstream).cloned().collect();
        assert_eq!(charged, expected, "of {}", at.upstream());
        let past = shop.inventory.charges(only, expected.last(), 100).await;
        assert_eq!(past.expect("charges"), []);
    }
}

/// Which kept manifests name something is told, whether that is kept or not.
pub async fn what_names_something_is_told(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let blob = digest_of(&sample(100, 1));
    let one = shop.image("one", &[blob]).await;
    let two = shop.image("two", &[blob, blob]).await;
    let index = shop.keep(index(&[one, two])).await;
    let named_by = async |target, limit| {
        let named = shop.inventory.named_by(target, limit).await;
        let mut named = named.expect("named_by");
        named.sort();
        named
    };
    let mut both = vec![one, two];
    both.sort();
    assert_eq!(named_by(LinkTarget::Blob(blob), 10).await, both);
    assert_eq!(named_by(LinkTarget::Blob(blob), 1).await.len(), 1);
    assert_eq!(named_by(LinkTarget::Manifest(one), 10).await, [index]);
    assert_eq!(named_by(LinkTarget::Blob(one), 10).await, []);
    assert_eq!(named_by(LinkTarget::Manifest(index), 10).await, []);
    shop.remove_manifest(one).await;
    assert_eq!(named_by(LinkTarget::Blob(blob), 10).await, [two]);
    assert_eq!(named_by(LinkTarget::Manifest(one), 10).await, [index]);
    shop.remove_manifest(index).await;
    assert_eq!(named_by(LinkTarget::Manifest(two), 10).await, []);
}

/// All origins that have a link to something are told, and no others.
pub async fn where_something_is_linked_is_told(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let origins = confusable_origins();
    let digest = digest_of(b"both");
    let (blob, manifest) = (LinkTarget::Blob(digest), LinkTarget::Manifest(digest));
    for at in &origins {
        shop.link(at, blob).await;
    }
    shop.link(&origins[0], manifest).await;
    assert_eq!(shop.linked_in(blob).await, origins);
    assert_eq!(shop.linked_in(manifest).await, origins[..1]);
    for limit in [1, 3, 100] {
        let mut paged: Vec<Origin> = Vec::new();
        loop {
            let page = shop.inventory.linked_in(blob, paged.last(), limit).await;
            let page = page.expect("linked_in");
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, origins, "in pages of {limit}");
    }
    assert!(
        shop.stores
            .links
            .unlink(&origins[3], blob)
            .await
            .expect("unlink")
    );
    let mut left = origins.clone();
    left.remove(3);
    assert_eq!(shop.linked_in(blob).await, left);
}

/// All tags that name a manifest now are told, and not those that have moved or are gone.
pub async fn tags_of_a_manifest_are_told(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let origins = confusable_origins();
    let (one, two) = (digest_of(b"one"), digest_of(b"two"));
    let mut expected = Vec::new();
    for at in &origins {
        shop.tag(at, "latest", one).await;
        shop.tag(at, "v1", one).await;
        expected.push(format!("{at}:latest"));
        expected.push(format!("{at}:v1"));
    }
    assert_eq!(shop.tagged_as(one, usize::MAX).await, expected);
    assert_eq!(shop.tagged_as(one, 3).await, expected[..3]);
    assert_eq!(shop.tagged_as(two, 10).await, [""; 0]);
    shop.tag(&origins[0], "latest", two).await;
    let removed = shop.stores.tags.remove_tag(&origins[1], &tag("v1")).await;
    assert!(removed.expect("remove"));
    // Said again, it is told once.
    shop.tag(&origins[2], "v1", one).await;
    let moved = expected.remove(0);
    expected.remove(2);
    assert_eq!(shop.tagged_as(one, usize::MAX).await, expected);
    assert_eq!(shop.tagged_as(two, 10).await, [moved]);
}

/// Every kept manifest is listed once.
pub async fn manifests_are_listed_in_pages(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let mut expected = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        expected.push(shop.image(name, &[]).await);
    }
    shop.blob(1).await;
    expected.sort();
    for limit in [1, 2, 5, 100] {
        let mut listed: Vec<Digest> = Vec::new();
        loop {
            let page = shop
                .inventory
                .manifests(listed.last().copied(), limit)
                .await;
            let page = page.expect("manifests");
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            listed.extend(page);
        }
        assert_eq!(listed, expected, "in pages of {limit}");
    }
    shop.remove_manifest(expected[2]).await;
    let page = shop.inventory.manifests(Some(expected[1]), 1).await;
    assert_eq!(page.expect("manifests"), &expected[3..4]);
}

/// Every kept blob is listed once.
pub async fn blobs_are_listed_in_pages(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let mut expected = Vec::new();
    for seed in 1..=5 {
        expected.push(shop.blob(seed).await);
    }
    shop.image("a", &expected[..2]).await;
    expected.sort();
    for limit in [1, 2, 5, 100] {
        let mut listed: Vec<Digest> = Vec::new();
        loop {
            let page = shop.inventory.blobs(listed.last().copied(), limit).await;
            let page = page.expect("blobs");
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            listed.extend(page);
        }
        assert_eq!(listed, expected, "in pages of {limit}");
    }
    assert!(shop.stores.blobs.remove(expected[2]).await.expect("remove"));
    let page = shop.inventory.blobs(Some(expected[1]), 1).await;
    assert_eq!(page.expect("blobs"), &expected[3..4]);
}

/// Every manifest that an origin links is listed once, and nothing else that it links, nor what
/// others do.
pub async fn what_an_origin_links_is_listed_in_pages(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let here = origin("x", "a");
    let kept = shop.image("a", &[]).await;
    let mut expected = vec![kept];
    expected.extend((0..4_u8).map(|seed| digest_of(&[seed])));
    for digest in &expected {
        shop.link(&here, LinkTarget::Manifest(*digest)).await;
    }
    shop.link(&here, LinkTarget::Blob(digest_of(b"blob"))).await;
    for elsewhere in [origin("x", "b"), origin("x", "a/b"), origin("y", "a")] {
        let target = LinkTarget::Manifest(digest_of(b"elsewhere"));
        shop.link(&elsewhere, target).await;
    }
    expected.sort();
    for limit in [1, 2, 5, 100] {
        let mut listed: Vec<Digest> = Vec::new();
        loop {
            let after = listed.last().copied();
            let page = shop.inventory.linked_manifests(&here, after, limit).await;
            let page = page.expect("linked_manifests");
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            listed.extend(page);
        }
        assert_eq!(listed, expected, "in pages of {limit}");
    }
    let none = origin("x", "c");
    let page = shop.inventory.linked_manifests(&none, None, 10).await;
    assert_eq!(page.expect("linked_manifests"), []);
}

/// What is looked at is what is served, also while it is removed.
pub async fn what_is_looked_at_is_whole(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let manifest = image("a", &[]);
    shop.keep(manifest.clone()).await;
    let peeked = shop.inventory.peek_manifest(manifest.digest()).await;
    assert_eq!(peeked.expect("peek"), Some(manifest));
    for bytes in [sample(100_000, 1), Bytes::new()] {
        let blob = put_blob(&*shop.stores.blobs, &bytes).await.expect("put");
        let peeked = shop.inventory.peek_blob(blob).await.expect("peek");
        let peeked = peeked.expect("it is kept");
        assert_eq!(peeked.size, bytes.len() as u64);
        assert!(shop.stores.blobs.remove(blob).await.expect("remove"));
        let mut read = Vec::new();
        loop {
            let offset = read.len() as u64;
            let part = peeked.reader.read_at(offset, 1_000).await.expect("read");
            if part.is_empty() {
                break;
            }
            read.extend_from_slice(&part);
        }
        assert!(read == bytes, "all of its {} bytes", bytes.len());
        let past = peeked.reader.read_at(peeked.size + 1, 10).await;
        assert_eq!(past.expect("read"), Bytes::new());
    }
}

/// Nothing leads to it any more; itself it is kept, until it is removed.
pub async fn what_is_forgotten_stays_kept(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let origins = confusable_origins();
    let layer = shop.blob(1).await;
    let one = shop.image("one", &[layer]).await;
    let two = shop.image("two", &[layer]).await;
    let (target, layer) = (LinkTarget::Manifest(one), LinkTarget::Blob(layer));
    let record = ReferrersRecord {
        referrers: None,
        validated_at: Timestamp::from_millis(3),
    };
    for at in &origins {
        shop.link(at, target).await;
        shop.link(at, layer).await;
        shop.tag(at, "one", one).await;
        shop.tag(at, "two", two).await;
        for subject in [one, two] {
            let record = record.clone();
            let put = shop.stores.referrers.put_referrers(at, subject, record);
            put.await.expect("put referrers");
        }
    }
    // Whatever was told of it before.
    for at in &origins {
        let linked = shop.stores.links.linked(at, target).await;
        assert!(linked.expect("linked").is_some(), "{at}");
        let tagged = shop.stores.tags.tag(at, &tag("one")).await;
        assert!(tagged.expect("tag").is_some(), "{at}");
    }
    let before = shop.positions().await;
    let forgotten = shop.inventory.forget(target).await.expect("forget");
    assert_eq!(forgotten, origins.len());
    assert_eq!(shop.linked_in(target).await, []);
    assert_eq!(shop.linked_in(layer).await, origins);
    assert_eq!(shop.tagged_as(one, 10).await, [""; 0]);
    for at in &origins {
        let linked = shop.stores.links.linked(at, target).await;
        assert_eq!(linked.expect("linked"), None, "{at}");
        let tags = shop.stores.tags.tags(at, None, 10).await.expect("tags");
        assert_eq!(tags, [tag("two")], "{at}");
        let tagged = shop.stores.tags.tag(at, &tag("one")).await;
        assert_eq!(tagged.expect("tag"), None, "{at}");
        for (subject, expected) in [(one, None), (two, Some(&record))] {
            let kept = shop.stores.referrers.referrers(at, subject).await;
            assert_eq!(kept.expect("referrers").as_ref(), expected, "{at}");
        }
    }
    assert_eq!(shop.positions().await, before);
    let again = shop.inventory.forget(target).await.expect("forget");
    assert_eq!(again, 0);
    let forgotten = shop.inventory.forget(layer).await.expect("forget");
    assert_eq!(forgotten, 0, "no tag names a blob");
    assert_eq!(shop.linked_in(layer).await, []);
    assert_eq!(shop.positions().await, before);
}

/// A blob goes only when no kept manifest names it.
pub async fn unused_blobs_are_removed_and_no_others(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    let (own, shared) = (shop.blob(1).await, shop.blob(2).await);
    let one = shop.image("one", &[own, shared]).await;
    let two = shop.image("two", &[shared]).await;
    let remove = async |blob| shop.inventory.remove_unused(blob).await.expect("remove");
    assert_eq!(remove(own).await, RemovedUnused::Needed);
    assert_eq!(remove(shared).await, RemovedUnused::Needed);
    shop.remove_manifest(one).await;
    assert_eq!(remove(shared).await, RemovedUnused::Needed);
    let opened = shop.stores.blobs.open(own, None).await.expect("open");
    assert_eq!(remove(own).await, RemovedUnused::Removed(100));
    assert_eq!(remove(own).await, RemovedUnused::Absent);
    assert_eq!(shop.stores.blobs.stat(own).await.expect("stat"), None);
    let body = opened.expect("it was there");
    assert_eq!(body.range, ByteRange::whole(100));
    assert!(read_body(body).await == sample(100, 1), "readable still");
    assert_eq!(shop.order().await, [LinkTarget::Manifest(two)]);
    assert!(
        shop.stores
            .blobs
            .stat(shared)
            .await
            .expect("stat")
            .is_some()
    );
    shop.remove_manifest(two).await;
    assert_eq!(remove(shared).await, RemovedUnused::Removed(100));
    // A manifest's bytes are no blob.
    let manifest = shop.image("one", &[]).await;
    assert_eq!(remove(manifest).await, RemovedUnused::Absent);
    assert_eq!(shop.order().await, [LinkTarget::Manifest(manifest)]);
}

/// Whoever comes first, a blob that is told to be needed is there.
pub async fn a_removal_and_a_need_settle(stores: Stores, clock: Arc<ManualClock>) {
    let shop = Shop::new(stores, clock);
    for round in 0..20 {
        let blob = shop.blob(round).await;
        let manifest = image(&round.to_string(), &[blob]);
        let put = shop.stores.manifests.put_manifest(manifest);
        let remove = shop.inventory.remove_unused(blob);
        let (put, removed) = join(put, remove).await;
        put.expect("put a manifest");
        let stat = shop.stores.blobs.stat(blob).await.expect("stat");
        match removed.expect("remove") {
            RemovedUnused::Needed => assert!(stat.is_some()),
            RemovedUnused::Removed(_) => assert_eq!(stat, None),
            RemovedUnused::Absent => panic!("it was there"),
        }
        let target = LinkTarget::Blob(blob);
        assert!(!shop.order().await.contains(&target), "it is no unit");
    }
    // What ends a page may be anything.
    let position = Position {
        at: Timestamp::from_millis(u64::MAX),
        target: LinkTarget::Manifest(digest_of(b"last")),
    };
    let past = shop.inventory.coldest(None, Some(position), 10).await;
    assert_eq!(past.expect("coldest"), []);
}
