//! Data folders of the version before: without rows of what is kept, and all that follows from
//! them. One is made of a folder of this version, by taking away what that one did not have.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod audit;

use std::fs;
use std::path::Path;

use registry_core::testing::content::{put_blob, sample};
use registry_core::{
    Digest, InventoryStore as _, Link, LinkStore as _, LinkTarget, Manifest, ManifestStore as _,
    Origin, ReferrersRecord, ReferrersStore as _, Repository, Tag, TagRecord, TagStore as _,
    Timestamp, UpstreamId,
};
use registry_storage::{DiskStore, OpenError};
use tempfile::TempDir;

/// Trees that format 1 has, beside that of access times.
const FORMER: [&str; 5] = ["blobs", "intents", "tags", "links", "referrers"];

fn origin(repository: &str) -> Origin {
    Origin::new(
        UpstreamId::parse("ghcr.io").unwrap(),
        Repository::parse(repository).unwrap(),
    )
}

fn key(target: LinkTarget) -> Vec<u8> {
    let kind: &[u8] = match target {
        LinkTarget::Blob(_) => b"bsha256:",
        LinkTarget::Manifest(_) => b"msha256:",
    };
    [kind, target.digest().hash()].concat()
}

/// What the folder holds: a layer and a loose blob, an image of the layer and one without any.
struct Former {
    dir: TempDir,
    layer: Digest,
    loose: Digest,
    image: Manifest,
    bare: Manifest,
}

async fn former() -> Former {
    let dir = TempDir::new().unwrap();
    let store = DiskStore::open(dir.path()).await.unwrap();
    let layer = put_blob(&store, &sample(1_000, 1)).await.unwrap();
    let loose = put_blob(&store, &sample(2_000, 2)).await.unwrap();
    let json = format!(r#"{{"layers":[{{"digest":"{layer}","size":1000}}]}}"#);
    let image = Manifest::of_bytes(None, json.into()).unwrap();
    let bare = Manifest::of_bytes(None, r#"{"layers":[]}"#.into()).unwrap();
    for manifest in [&image, &bare] {
        store.put_manifest(manifest.clone()).await.unwrap();
    }
    let mut links = image.links().to_vec();
    let target = LinkTarget::Manifest(image.digest());
    links.push(Link { target, size: None });
    for repository in ["first", "another"] {
        let at = origin(repository);
        store.link(&at, links.clone()).await.unwrap();
    }
    let at = Timestamp::from_millis(1);
    let record = TagRecord {
        digest: image.digest(),
        fetched_at: at,
        validated_at: at,
    };
    let tag = Tag::parse("v1").unwrap();
    store.put_tag(&origin("first"), &tag, record).await.unwrap();
    let record = ReferrersRecord {
        referrers: None,
        validated_at: at,
    };
    let first = origin("first");
    let put = store.put_referrers(&first, image.digest(), record);
    put.await.unwrap();
    store.close().await.unwrap();
    drop(store);
    make_former(dir.path(), &[(LinkTarget::Blob(loose), 7_000)]);
    Former {
        dir,
        layer,
        loose,
        image,
        bare,
    }
}

fn epoch(data: &Path) -> u64 {
    let text = fs::read_to_string(data.join("format")).unwrap();
    let epoch = text.lines().find_map(|line| line.strip_prefix("epoch "));
    epoch.unwrap().parse().unwrap()
}

/// Takes away what the version before did not have.
fn make_former(data: &Path, accessed: &[(LinkTarget, u64)]) {
    let db = sled::open(data.join("index")).unwrap();
    for name in db.tree_names() {
        let is_former = FORMER.iter().any(|former| name == former.as_bytes());
        if !is_former && name != b"__sled__default" {
            db.drop_tree(name).unwrap();
        }
    }
    let times = db.open_tree("accessed").unwrap();
    for (target, at) in accessed {
        times.insert(key(*target), &at.to_be_bytes()).unwrap();
    }
    mark_former(data, &db);
}

fn mark_former(data: &Path, db: &sled::Db) {
    db.insert("format", &1_u32.to_be_bytes()).unwrap();
    db.flush().unwrap();
    let text = format!("format 1\nepoch {}\n", epoch(data));
    fs::write(data.join("format"), text).unwrap();
}

fn tree_names(data: &Path) -> Vec<String> {
    let db = sled::open(data.join("index")).unwrap();
    let names = db.tree_names();
    let names = names.iter().map(|name| String::from_utf8_lossy(name));
    names.map(|name| name.into_owned()).collect()
}

impl Former {
    /// Everything is known of it that this version knows.
    async fn assert_up_to_date(&self, store: &DiskStore, at: &str) {
        let image = LinkTarget::Manifest(self.image.digest());
        let layer = LinkTarget::Blob(self.layer);
        let both = ["another", "first"].map(origin);
        for target in [image, layer] {
            let linked = store.linked_in(target, None, 10).await.unwrap();
            assert_eq!(linked, both, "{at}");
        }
        let tags = store.tagged_as(self.image.digest(), 10).await.unwrap();
        assert_eq!(tags, [(both[1].clone(), Tag::parse("v1").unwrap())]);
        let record = async |target| store.record(target).await.unwrap().unwrap();
        let loose = record(LinkTarget::Blob(self.loose)).await;
        assert_eq!(loose.accessed_at, Some(Timestamp::from_millis(7_000)));
        assert_eq!(loose.provenance, None, "nobody can tell");
        // Where no access was recorded, the time of the file stands for it.
        let bare = record(LinkTarget::Manifest(self.bare.digest())).await;
        assert!(bare.accessed_at > loose.accessed_at, "{at}");
        for target in [image, layer] {
            let provenance = record(target).await.provenance.unwrap();
            assert_eq!(provenance.origin, both[1], "where it was linked first");
        }
        // Which opens every blob, and is the last for that.
        audit::audit(self.dir.path(), store, at).await;
    }
}

#[tokio::test]
async fn a_folder_of_the_version_before_is_brought_up_to_date() {
    let former = former().await;
    let store = DiskStore::open(former.dir.path()).await.unwrap();
    let upgraded = store.recovery().upgraded.clone().unwrap();
    let counts = (upgraded.blobs, upgraded.manifests, upgraded.names);
    assert_eq!((upgraded.from, counts), (1, (2, 2, 6)));
    assert_eq!(store.recovery().rebuilt, None);
    former.assert_up_to_date(&store, "at once").await;
    store.close().await.unwrap();

    // Once and for all; and what only that version had is gone then.
    let store = DiskStore::open(former.dir.path()).await.unwrap();
    assert_eq!(*store.recovery(), Default::default());
    audit::audit(former.dir.path(), &store, "later").await;
    // Lists of referrers are found by their subject.
    let digest = former.image.digest();
    let forgotten = store.forget(LinkTarget::Manifest(digest)).await.unwrap();
    assert_eq!(forgotten, 1);
    let left = store.referrers(&origin("first"), digest).await.unwrap();
    assert_eq!(left, None);
    store.close().await.unwrap();
    drop(store);
    let names = tree_names(former.dir.path());
    assert!(!names.iter().any(|name| name == "accessed"), "{names:?}");
    let text = fs::read_to_string(former.dir.path().join("format")).unwrap();
    assert!(
        text.starts_with("format 2\n"),
        "the version before refuses it"
    );
}

/// Until it is done the folder is the former version's, and whatever was derived by then is made
/// anew: also where that version has written to the folder in between.
#[tokio::test]
async fn an_interrupted_upgrade_begins_again() {
    let former = former().await;
    let store = DiskStore::open(former.dir.path()).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    {
        // As if it had died before it was marked, and another image had been removed then.
        let db = sled::open(former.dir.path().join("index")).unwrap();
        let tree = |name| db.open_tree::<&str>(name).unwrap();
        let gone = key(LinkTarget::Blob(former.layer));
        for name in ["content", "order", "order-of", "named-by", "linked-in"] {
            tree(name).insert(&gone[..], &gone[..]).unwrap();
        }
        tree("sums").insert("", &[9; 24]).unwrap();
        let times = tree("accessed");
        let key = key(LinkTarget::Blob(former.loose));
        times.insert(key, &7_000_u64.to_be_bytes()).unwrap();
        mark_former(former.dir.path(), &db);
    }
    let store = DiskStore::open(former.dir.path()).await.unwrap();
    assert!(store.recovery().upgraded.is_some());
    former.assert_up_to_date(&store, "again").await;
    store.close().await.unwrap();
}

/// The index is brought up to date before the folder says so: a crash in between is no matter.
#[tokio::test]
async fn a_folder_that_does_not_yet_say_so_is_up_to_date() {
    let former = former().await;
    let store = DiskStore::open(former.dir.path()).await.unwrap();
    store.close().await.unwrap();
    let path = former.dir.path().join("format");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("format 2", "format 1")).unwrap();
    let store = DiskStore::open(former.dir.path()).await.unwrap();
    assert_eq!(*store.recovery(), Default::default());
    former.assert_up_to_date(&store, "whole").await;
}

/// A folder of a version to come is left as it is, and whoever asks is told.
#[tokio::test]
async fn a_later_version_is_refused() {
    let former = former().await;
    fs::write(former.dir.path().join("format"), "format 3\nepoch 9\n").unwrap();
    let refused = DiskStore::open(former.dir.path()).await.unwrap_err();
    assert!(matches!(refused, OpenError::UnknownFormat { .. }));
}
