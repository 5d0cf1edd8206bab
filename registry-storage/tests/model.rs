//! Random sequences of calls give on the disk what they give in memory, through any number of
//! closings, drops and losses of the index in between; after such a loss, links that came with a
//! manifest are there and others are not.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod audit;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use registry_core::testing::ManualClock;
use registry_core::testing::content::{digest_of, put_blob, read_body, sample, verified};
use registry_core::{
    Algorithm, BlobSink, BlobStat, BlobStore, Digest, InventoryStore, Link, LinkTarget, Manifest,
    MediaType, MemoryStore, Origin, RangeRequest, Referrers, ReferrersRecord, Repository, Stores,
    Tag, TagRecord, Timestamp, UpstreamId,
};
use registry_storage::{DiskOptions, DiskStore, OpenError};
use tempfile::TempDir;

/// A call; the numbers choose among few names, so that calls are about the same things.
#[derive(Clone, Debug)]
enum Call {
    PutBlob(u8),
    DropSink(u8),
    /// Goes on with a blob that is large enough to be kept unfinished, to so many KiB at least.
    Unfinish(usize),
    Discard,
    Finish,
    RemoveLarge,
    RemoveBlob(u8),
    Stat(u8),
    Open(u8, Option<RangeRequest>),
    List,
    PutManifest(u8, u8),
    GetManifest(u8),
    RemoveManifest(u8),
    PutTag(u8, u8, u8),
    GetTag(u8, u8),
    RemoveTag(u8, u8),
    Tags(u8, Option<u8>, usize),
    PutReferrers(u8, u8, u8),
    GetReferrers(u8, u8),
    RemoveReferrers(u8, u8),
    Link(u8, Vec<(u8, Option<u64>)>),
    Linked(u8, u8),
    Unlink(u8, u8),
    /// Links a manifest and all that it names, as a pull does.
    Grant(u8, u8),
    Origins(Option<u8>, Option<u8>, usize),
    /// What is told of all that is kept.
    Told,
    Postpone(u8),
    Forget(u8),
    RemoveUnused(u8),
    Close,
    Drop,
    LoseIndex,
}

fn call() -> impl Strategy<Value = Call> {
    let few = || 0..4_u8;
    let to = || 0..TARGETS;
    let range = prop_oneof![
        (0..3_000_u64, 0..3_000_u64).prop_map(|(a, b)| RangeRequest::FromTo {
            first: a.min(b),
            last: a.max(b)
        }),
        (0..3_000_u64).prop_map(|first| RangeRequest::From { first }),
        (0..3_000_u64).prop_map(|length| RangeRequest::Suffix { length }),
    ];
    let size = proptest::option::of(0..3_u64);
    prop_oneof![
        6 => few().prop_map(Call::PutBlob),
        1 => few().prop_map(Call::DropSink),
        4 => (0..=LARGE_KIB).prop_map(Call::Unfinish),
        1 => Just(Call::Discard),
        1 => Just(Call::Finish),
        1 => Just(Call::RemoveLarge),
        3 => few().prop_map(Call::RemoveBlob),
        2 => few().prop_map(Call::Stat),
        4 => (few(), proptest::option::of(range)).prop_map(|(n, range)| Call::Open(n, range)),
        2 => Just(Call::List),
        4 => (few(), few()).prop_map(|(n, kind)| Call::PutManifest(n, kind)),
        3 => few().prop_map(Call::GetManifest),
        2 => few().prop_map(Call::RemoveManifest),
        4 => (few(), few(), few()).prop_map(|(at, tag, to)| Call::PutTag(at, tag, to)),
        2 => (few(), few()).prop_map(|(at, tag)| Call::GetTag(at, tag)),
        2 => (few(), few()).prop_map(|(at, tag)| Call::RemoveTag(at, tag)),
        2 => (few(), proptest::option::of(few()), 0..4_usize)
            .prop_map(|(at, after, limit)| Call::Tags(at, after, limit)),
        3 => (few(), few(), few()).prop_map(|(at, of, to)| Call::PutReferrers(at, of, to)),
        2 => (few(), few()).prop_map(|(at, of)| Call::GetReferrers(at, of)),
        1 => (few(), few()).prop_map(|(at, of)| Call::RemoveReferrers(at, of)),
        4 => (few(), vec((to(), size), 0..4)).prop_map(|(at, links)| Call::Link(at, links)),
        6 => (few(), few()).prop_map(|(at, n)| Call::Grant(at, n)),
        6 => (few(), to()).prop_map(|(at, to)| Call::Linked(at, to)),
        3 => (few(), to()).prop_map(|(at, to)| Call::Unlink(at, to)),
        2 => (proptest::option::of(few()), proptest::option::of(few()), 0..4_usize)
            .prop_map(|(upstream, after, limit)| Call::Origins(upstream, after, limit)),
        6 => Just(Call::Told),
        2 => to().prop_map(Call::Postpone),
        2 => to().prop_map(Call::Forget),
        3 => few().prop_map(Call::RemoveUnused),
        2 => Just(Call::Close),
        1 => Just(Call::Drop),
        2 => Just(Call::LoseIndex),
    ]
}

/// Size of [`large`].
const LARGE_KIB: usize = 2_500;

/// How much of a blob is worth keeping.
const KEPT_MIN: u64 = 1 << 20;

fn large() -> Bytes {
    static LARGE: LazyLock<Bytes> = LazyLock::new(|| sample(LARGE_KIB << 10, 99));
    LARGE.clone()
}

/// How many there are of [`target`].
const TARGETS: u8 = 8;

fn blob(n: u8) -> Bytes {
    sample([0, 1, 1_000, 2_500][usize::from(n)], n.into())
}

fn manifest(n: u8, kind: u8) -> Manifest {
    let kind = MediaType::parse(&format!("application/x{kind}")).unwrap();
    let named = |digest: Digest, size: usize| format!(r#"{{"digest":"{digest}","size":{size}}}"#);
    let of_blob = |n| named(digest_of(&blob(n)), blob(n).len());
    let names = match n {
        0 => String::new(),
        1 => format!(r#","blobs":[{},{}]"#, of_blob(0), of_blob(1)),
        2 => format!(r#","blobs":[{}]"#, of_blob(1)),
        // An index: what it names may be asked for as a blob too, since no type is told.
        _ => {
            let images = [1, 2].map(|n| manifest(n, 0));
            let images = images
                .map(|it| named(it.digest(), it.bytes().len()))
                .join(",");
            format!(r#","manifests":[{images}]"#)
        }
    };
    let bytes = format!(r#"{{"n":{n}{names}}}"#);
    Manifest::of_bytes(Some(&kind), bytes.into()).unwrap()
}

/// A manifest's own link, and those of what it names.
fn links_of(manifest: &Manifest) -> Vec<Link> {
    let mut links = manifest.links().to_vec();
    links.push(Link {
        target: LinkTarget::Manifest(manifest.digest()),
        size: Some(manifest.descriptor().size),
    });
    links
}

fn upstream(n: u8) -> UpstreamId {
    UpstreamId::parse(["x", "x:5000", "x.y", "docker.io"][usize::from(n)]).unwrap()
}

fn origin(n: u8) -> Origin {
    let (at, repository) = [(0, "a"), (0, "a/b"), (1, "a"), (3, "a")][usize::from(n)];
    Origin::new(upstream(at), Repository::parse(repository).unwrap())
}

fn tag(n: u8) -> Tag {
    Tag::parse(["v1", "v1.0", "v1-0", "V1"][usize::from(n)]).unwrap()
}

fn target(n: u8) -> LinkTarget {
    match n {
        0..4 => LinkTarget::Manifest(manifest(n, 0).digest()),
        4..6 => LinkTarget::Blob(digest_of(&blob(n - 4))),
        // One that no manifest names.
        6 => LinkTarget::Blob(digest_of(&blob(3))),
        // A manifest's digest, but not the manifest.
        _ => LinkTarget::Blob(manifest(1, 0).digest()),
    }
}

fn record(n: u8) -> TagRecord {
    TagRecord {
        digest: digest_of(&[n]),
        fetched_at: Timestamp::from_millis(n.into()),
        validated_at: Timestamp::from_millis(u64::from(n) + 1),
    }
}

/// No list for 0, an empty one for 1, and then longer ones.
fn referrers(n: u8) -> ReferrersRecord {
    let entries: Vec<_> = (1..n)
        .map(|n| format!(r#"{{"digest": "{}"}}"#, digest_of(&[n])))
        .collect();
    let index = format!(r#"{{"manifests":[{}]}}"#, entries.join(","));
    let list = Referrers::of_index(None, index.as_bytes()).unwrap();
    ReferrersRecord {
        referrers: (n > 0).then_some(list),
        validated_at: Timestamp::from_millis(n.into()),
    }
}

/// What a call gives, as text: so that one function serves for both stores.
async fn answer(stores: &Stores, call: &Call) -> String {
    let Stores {
        blobs,
        manifests,
        tags,
        links,
        referrers: lists,
        ..
    } = stores;
    match call {
        Call::PutBlob(n) => format!("{:?}", put_blob(&**blobs, &blob(*n)).await),
        Call::DropSink(n) => {
            let sink = blobs.stage(digest_of(&blob(*n)), None).await.unwrap();
            format!("{:?}", sink.write_at(0, blob(*n)).await)
        }
        Call::Unfinish(kib) => {
            let (sink, kept) = stage_large(&**blobs).await;
            let (start, end) = (kept, kept.max(kib << 10));
            let write = sink.write_at(start as u64, large().slice(start..end));
            write.await.unwrap();
            sink.checkpoint(end as u64);
            format!("{kept}")
        }
        Call::Discard => {
            let (sink, kept) = stage_large(&**blobs).await;
            sink.discard();
            format!("{kept}")
        }
        Call::Finish => {
            let (sink, kept) = stage_large(&**blobs).await;
            let rest = sink.write_at(kept as u64, large().slice(kept..));
            rest.await.unwrap();
            let proof = verified(Algorithm::Sha256, &large());
            format!("{kept} {:?}", sink.commit(proof).await)
        }
        Call::RemoveLarge => format!("{:?}", blobs.remove(digest_of(&large())).await),
        Call::RemoveBlob(n) => format!("{:?}", blobs.remove(digest_of(&blob(*n))).await),
        Call::Stat(n) => format!("{:?}", blobs.stat(digest_of(&blob(*n))).await),
        Call::Open(n, range) => match blobs.open(digest_of(&blob(*n)), *range).await {
            Ok(Some(body)) => {
                let (size, range) = (body.size, body.range);
                format!("{size} {range:?} {:?}", read_body(body).await)
            }
            other => format!("{other:?}"),
        },
        Call::List => {
            let listed: Vec<BlobStat> = blobs.list().try_collect().await.unwrap();
            let mut digests: Vec<(Digest, u64)> =
                listed.iter().map(|stat| (stat.digest, stat.size)).collect();
            digests.sort_unstable();
            format!("{digests:?}")
        }
        Call::PutManifest(n, kind) => {
            format!("{:?}", manifests.put_manifest(manifest(*n, *kind)).await)
        }
        Call::GetManifest(n) => {
            let found = manifests.manifest(manifest(*n, 0).digest()).await;
            let found = found.unwrap();
            format!("{found:?} {:?}", found.as_ref().map(Manifest::bytes))
        }
        Call::RemoveManifest(n) => {
            format!(
                "{:?}",
                manifests.remove_manifest(manifest(*n, 0).digest()).await
            )
        }
        Call::PutTag(at, name, to) => {
            format!(
                "{:?}",
                tags.put_tag(&origin(*at), &tag(*name), record(*to)).await
            )
        }
        Call::GetTag(at, name) => format!("{:?}", tags.tag(&origin(*at), &tag(*name)).await),
        Call::RemoveTag(at, name) => {
            format!("{:?}", tags.remove_tag(&origin(*at), &tag(*name)).await)
        }
        Call::Tags(at, after, limit) => {
            let after = after.map(tag);
            let after = after.as_ref().map(Tag::as_str);
            format!("{:?}", tags.tags(&origin(*at), after, *limit).await)
        }
        Call::PutReferrers(at, of, to) => {
            let (at, of) = (origin(*at), digest_of(&[*of]));
            let put = lists.put_referrers(&at, of, referrers(*to));
            format!("{:?}", put.await)
        }
        Call::GetReferrers(at, of) => {
            let (at, of) = (origin(*at), digest_of(&[*of]));
            format!("{:?}", lists.referrers(&at, of).await)
        }
        Call::RemoveReferrers(at, of) => {
            let (at, of) = (origin(*at), digest_of(&[*of]));
            format!("{:?}", lists.remove_referrers(&at, of).await)
        }
        Call::Link(at, to) => {
            let to = to.iter().map(|(to, size)| Link {
                target: target(*to),
                size: *size,
            });
            format!("{:?}", links.link(&origin(*at), to.collect()).await)
        }
        Call::Grant(at, n) => {
            let links_of = links_of(&manifest(*n, 0));
            format!("{:?}", links.link(&origin(*at), links_of).await)
        }
        Call::Linked(at, to) => format!("{:?}", links.linked(&origin(*at), target(*to)).await),
        Call::Unlink(at, to) => format!("{:?}", links.unlink(&origin(*at), target(*to)).await),
        Call::Origins(of, after, limit) => {
            let (of, after) = (of.map(upstream), after.map(origin));
            format!(
                "{:?}",
                links.origins(of.as_ref(), after.as_ref(), *limit).await
            )
        }
        Call::Told | Call::Postpone(_) | Call::Forget(_) | Call::RemoveUnused(_) => {
            unreachable!("a call to the upkeep")
        }
        Call::Close | Call::Drop | Call::LoseIndex => unreachable!("not a call to the stores"),
    }
}

/// What a call to the upkeep gives, as text: what follows from content is asked of one store, and
/// what follows from names of the other.
async fn told(content: &impl InventoryStore, names: &impl InventoryStore, call: &Call) -> String {
    match call {
        Call::Told => {
            let usage = content.usage().await.unwrap();
            let units = content.coldest(None, None, usize::MAX).await.unwrap();
            let units: Vec<_> = units.iter().map(|unit| unit.position).collect();
            let mut told = format!("{} {} {units:?}", usage.blobs, usage.manifests);
            for target in (0..TARGETS).map(target) {
                let mut named = content.named_by(target, 10).await.unwrap();
                named.sort();
                let linked = names.linked_in(target, None, 10).await.unwrap();
                let record = content.record(target).await.unwrap();
                let accessed = record.map(|record| record.accessed_at);
                told += &format!(" {named:?} {linked:?} {accessed:?}");
            }
            for n in 0..4 {
                let tags = names.tagged_as(digest_of(&[n]), 20).await.unwrap();
                told += &format!(" {tags:?}");
            }
            told
        }
        Call::Postpone(n) => {
            let until = Timestamp::from_millis(u64::MAX / 2 + u64::from(*n));
            format!("{:?}", content.postpone(target(*n), until).await)
        }
        Call::Forget(n) => format!("{:?}", names.forget(target(*n)).await),
        Call::RemoveUnused(n) => format!("{:?}", content.remove_unused(digest_of(&blob(*n))).await),
        _ => unreachable!("a call to the stores"),
    }
}

/// A sink of the large blob, and how much of it is kept: the right bytes, wherever they were.
async fn stage_large(blobs: &dyn BlobStore) -> (Arc<dyn BlobSink>, usize) {
    let bytes = large();
    loop {
        let sink = blobs.stage(digest_of(&bytes), None).await.unwrap();
        let kept = usize::try_from(sink.kept()).unwrap();
        let read = sink.reader().read_at(0, usize::MAX).await.unwrap();
        assert!(read == bytes.slice(..kept));
        if kept == 0 || sink.kept() >= KEPT_MIN {
            return (sink, kept);
        }
        // Memory keeps what is too little for a disk.
        sink.discard();
    }
}

/// What only the index knows is in a memory of its own, which is lost with the index; but for
/// the links of manifests, which are made anew.
struct Model {
    content: Arc<MemoryStore>,
    index: Arc<MemoryStore>,
    /// Which manifests are listed in which origins.
    listed: BTreeSet<(u8, u8)>,
}

impl Model {
    fn new(clock: &Arc<ManualClock>) -> Self {
        Self {
            content: Arc::new(MemoryStore::with(Arc::clone(clock) as _, None)),
            index: Arc::default(),
            listed: BTreeSet::new(),
        }
    }

    /// Follows what a call does to what is listed.
    async fn note(&mut self, call: &Call) {
        match call {
            Call::Link(at, to) => {
                for n in to.iter().map(|(to, _)| *to).filter(|to| *to < 4) {
                    self.list(n, *at).await;
                }
            }
            Call::Grant(at, n) => {
                // The manifest, and those that it names.
                for n in if *n == 3 { vec![3, 1, 2] } else { vec![*n] } {
                    self.list(n, *at).await;
                }
            }
            Call::PutManifest(n, _) => {
                let links = self.stores().links;
                let target = LinkTarget::Manifest(manifest(*n, 0).digest());
                for at in 0..4 {
                    if links.linked(&origin(at), target).await.unwrap().is_some() {
                        self.list(*n, at).await;
                    }
                }
            }
            Call::Unlink(at, to) => {
                self.listed.remove(&(*to, *at));
            }
            Call::RemoveManifest(n) => self.listed.retain(|(listed, _)| listed != n),
            Call::Forget(n) if *n < 4 => self.listed.retain(|(listed, _)| listed != n),
            _ => {}
        }
    }

    /// Lists a manifest that is kept, if all of it is linked.
    async fn list(&mut self, n: u8, at: u8) {
        let links = self.stores().links;
        // Not as an access.
        let kept = self.content.peek_manifest(manifest(n, 0).digest()).await;
        let Some(manifest) = kept.unwrap() else {
            return;
        };
        for link in links_of(&manifest) {
            if links
                .linked(&origin(at), link.target)
                .await
                .unwrap()
                .is_none()
            {
                return;
            }
        }
        self.listed.insert((n, at));
    }

    /// Gives how many links are made anew.
    async fn lose_index(&mut self) -> u64 {
        self.index = Arc::default();
        let links = self.stores().links;
        let mut restored = BTreeSet::new();
        for (n, at) in &self.listed {
            let of_manifest = links_of(&manifest(*n, 0));
            restored.extend(of_manifest.iter().map(|link| (*at, link.target)));
            links.link(&origin(*at), of_manifest).await.unwrap();
        }
        restored.len() as u64
    }

    fn stores(&self) -> Stores {
        let (content, index) = (&self.content, &self.index);
        Stores {
            blobs: Arc::clone(content) as _,
            manifests: Arc::clone(content) as _,
            tags: Arc::clone(index) as _,
            links: Arc::clone(index) as _,
            referrers: Arc::clone(index) as _,
            upkeep: None,
        }
    }
}

/// What the drop of a sink has left to do may take a moment, where nobody has waited for it.
async fn reopen(dir: &Path, clock: &Arc<ManualClock>) -> DiskStore {
    loop {
        let mut options = DiskOptions::default();
        options.clock = Arc::clone(clock) as _;
        match DiskStore::open_with(dir, options).await {
            Err(OpenError::InUse { .. }) => tokio::task::yield_now().await,
            opened => return opened.unwrap(),
        }
    }
}

async fn run(dir: &Path, calls: &[Call]) -> TestCaseResult {
    let clock = Arc::new(ManualClock::default());
    let mut model = Model::new(&clock);
    let mut disk = Arc::new(reopen(dir, &clock).await);
    // Until an index is lost, or the last access times with a process.
    let mut knows_times = true;
    for (n, call) in calls.iter().enumerate() {
        clock.advance(Duration::from_secs(1));
        let mut restored = None;
        match call {
            Call::Told if !knows_times => continue,
            Call::Told | Call::Postpone(_) | Call::Forget(_) | Call::RemoveUnused(_) => {
                let on_disk = told(&*disk, &*disk, call).await;
                let in_memory = told(&*model.content, &*model.index, call).await;
                model.note(call).await;
                prop_assert_eq!(on_disk, in_memory, "call {}: {:?}", n, call);
                continue;
            }
            Call::Close => disk.close().await.unwrap(),
            Call::Drop => knows_times = false,
            Call::LoseIndex => {
                knows_times = false;
                disk.close().await.unwrap();
                std::fs::remove_dir_all(dir.join("index")).unwrap();
                restored = Some(model.lose_index().await);
            }
            call => {
                let on_disk = answer(&Stores::of(Arc::clone(&disk)), call).await;
                let in_memory = answer(&model.stores(), call).await;
                model.note(call).await;
                prop_assert_eq!(on_disk, in_memory, "call {}: {:?}", n, call);
                continue;
            }
        }
        drop(disk);
        disk = Arc::new(reopen(dir, &clock).await);
        let recovery = disk.recovery();
        prop_assert_eq!((recovery.partial_swept, recovery.intents_settled), (0, 0));
        let rebuilt = recovery.rebuilt.as_ref().map(|rebuilt| rebuilt.links);
        prop_assert_eq!(rebuilt, restored, "call {}: {:?}", n, call);
    }
    prop_assert_eq!(disk.forgotten(), 0);
    audit::audit(dir, &disk, "at the end").await;
    disk.close().await.unwrap();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_disk_answers_as_memory_does(calls in vec(call(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        // Memory rather than a disk, where there is one: this is not about durability.
        let dir = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        runtime.block_on(run(dir.path(), &calls))?;
    }
}
