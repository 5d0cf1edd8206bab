//! Whether what a store tells of what it keeps is what there is: by its files, one for one and to
//! the byte, and by everything that follows from them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use futures::TryStreamExt as _;
use registry_core::testing::content::{digest_of, read_body};
use registry_core::{
    Algorithm, BlobStat, BlobStore as _, Digest, Hasher, InventoryStore as _, LinkTarget, Origin,
};
use registry_storage::DiskStore;

pub(crate) fn files_under(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let entries = entries.map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files_under(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

/// Bytes of all files of content.
pub(crate) fn bytes_under(data: &Path) -> u64 {
    let files = ["blobs", "manifests"].map(|kind| files_under(&data.join(kind)));
    let files = files.iter().flatten();
    files.map(|file| fs::metadata(file).unwrap().len()).sum()
}

/// Files of content, by what they are of.
fn kept_files(data: &Path) -> BTreeSet<LinkTarget> {
    let mut kept = BTreeSet::new();
    for &algorithm in Algorithm::ALL {
        for (kind, target) in [
            ("blobs", LinkTarget::Blob as fn(Digest) -> LinkTarget),
            ("manifests", LinkTarget::Manifest),
        ] {
            for file in files_under(&data.join(kind).join(algorithm.name())) {
                let name = file.file_name().unwrap().to_str().unwrap();
                let name = name.strip_suffix(".origins").unwrap_or(name);
                let digest = Digest::parse(&format!("{}:{name}", algorithm.name()));
                kept.insert(target(digest.unwrap()));
            }
        }
    }
    kept
}

/// Panics where anything that is told does not follow from the files, or a blob is not whole.
pub(crate) async fn audit(data: &Path, store: &DiskStore, at: &str) {
    let kept = kept_files(data);
    let listed: Vec<BlobStat> = store.list().try_collect().await.unwrap();
    let manifests = store.manifests(None, usize::MAX).await.unwrap();
    let blobs = listed.iter().map(|stat| LinkTarget::Blob(stat.digest));
    let all = manifests.iter().map(|digest| LinkTarget::Manifest(*digest));
    let all: BTreeSet<LinkTarget> = all.chain(blobs).collect();
    assert_eq!(all, kept, "{at}: rows are not files");

    let mut namers: BTreeMap<LinkTarget, BTreeSet<Digest>> = BTreeMap::new();
    for digest in &manifests {
        let manifest = store.peek_manifest(*digest).await.unwrap().unwrap();
        for link in manifest.links() {
            namers.entry(link.target).or_default().insert(*digest);
        }
    }
    let (mut bytes, mut charges): (u64, BTreeMap<Origin, u64>) = Default::default();
    let mut expected = BTreeSet::new();
    for &target in &all {
        let record = store.record(target).await.unwrap().unwrap();
        bytes += record.bytes;
        if let Some(provenance) = record.provenance {
            *charges.entry(provenance.origin).or_default() += record.bytes;
        }
        let named = store.named_by(target, usize::MAX).await.unwrap();
        let named: BTreeSet<Digest> = named.into_iter().collect();
        let is_named = namers.contains_key(&target);
        assert_eq!(named, namers.remove(&target).unwrap_or_default(), "{at}");
        if matches!(target, LinkTarget::Manifest(_)) || !is_named {
            expected.insert(target);
        }
    }
    let units = store.coldest(None, None, usize::MAX).await.unwrap();
    let order: Vec<LinkTarget> = units.iter().map(|unit| unit.position.target).collect();
    let units: BTreeSet<LinkTarget> = order.iter().copied().collect();
    assert_eq!((units.len(), units), (order.len(), expected), "{at}: units");

    let usage = store.usage().await.unwrap();
    assert_eq!(usage.bytes, bytes, "{at}: the sum of the rows");
    assert_eq!(usage.bytes, bytes_under(data), "{at}: bytes of the files");
    let counts = (usage.blobs, usage.manifests);
    assert_eq!(
        counts,
        (listed.len() as u64, manifests.len() as u64),
        "{at}"
    );
    let told = store.charges(None, None, usize::MAX).await.unwrap();
    let told: BTreeMap<Origin, u64> = told.into_iter().map(|it| (it.origin, it.bytes)).collect();
    assert_eq!(told, charges, "{at}");
    for stat in listed {
        let body = store.open(stat.digest, None).await.unwrap().unwrap();
        let bytes = read_body(body).await;
        let digest = match stat.digest.algorithm() {
            Algorithm::Sha256 => digest_of(&bytes),
            algorithm => Hasher::digest_of(algorithm, &bytes),
        };
        let found = (digest, bytes.len() as u64);
        assert_eq!(found, (stat.digest, stat.size), "{at}: wrong bytes");
    }
}
