//! Damage: to the index, which is then made anew from the files, and to files, which are then
//! forgotten. Neither keeps a store from opening, and no wrong byte is ever given out.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod audit;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use futures::TryStreamExt as _;
use registry_core::testing::content::{digest_of, put_blob, put_blob_as, read_body, sample};
use registry_core::{
    Algorithm, BlobStat, BlobStore as _, Digest, InventoryStore as _, JournalStore as _, Link,
    LinkStore as _, LinkTarget, Manifest, ManifestStore as _, MediaType, Origin, Pin, Repository,
    Timestamp, UpstreamId,
};
use registry_storage::{DiskStore, Rebuilt};
use tempfile::TempDir;

/// Enough rows for the index to have several segments.
const BLOBS: u64 = 20;
const FILLER_LINKS: u32 = 6_000;

struct Stored {
    dir: TempDir,
    blobs: Vec<(Digest, Bytes)>,
    manifests: Vec<Manifest>,
}

impl Stored {
    fn index(&self) -> PathBuf {
        self.dir.path().join("index")
    }

    fn db(&self) -> PathBuf {
        self.index().join("db")
    }

    /// The same content in another folder.
    fn copied(&self) -> Self {
        let dir = TempDir::new().unwrap();
        copy(self.dir.path(), dir.path());
        Self {
            dir,
            blobs: self.blobs.clone(),
            manifests: self.manifests.clone(),
        }
    }

    /// Sled's snapshots of what is where in its file.
    fn snapshots(&self) -> Vec<PathBuf> {
        let files = audit::files_under(&self.index());
        let names = files.into_iter();
        names
            .filter(|path| path.to_string_lossy().contains("snap"))
            .collect()
    }

    async fn open(&self) -> DiskStore {
        DiskStore::open(self.dir.path()).await.unwrap()
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A closed store with content of every kind.
async fn stored() -> Stored {
    let dir = TempDir::new().unwrap();
    let store = DiskStore::open(dir.path()).await.unwrap();
    let mut blobs = Vec::new();
    for n in 0..BLOBS {
        let bytes = sample(n as usize * 100, n);
        let algorithm = [Algorithm::Sha256, Algorithm::Sha512][n as usize % 2];
        let put = put_blob_as(&store, algorithm, &bytes).await;
        blobs.push((put.unwrap(), bytes));
    }
    let mut manifests = Vec::new();
    for (kind, names) in [
        (MediaType::OCI_MANIFEST, &blobs[..4]),
        (MediaType::DOCKER_MANIFEST, &blobs[3..6]),
        ("application/x", &[]),
    ] {
        let kind = MediaType::parse(kind).unwrap();
        let named = |(digest, bytes): &(Digest, Bytes)| {
            format!(r#"{{"digest": "{digest}", "size": {}}}"#, bytes.len())
        };
        let names: Vec<String> = names.iter().map(named).collect();
        let bytes = format!(r#"{{"test": "{kind}", "blobs": [{}]}}"#, names.join(", "));
        let manifest = Manifest::of_bytes(Some(&kind), bytes.into()).unwrap();
        store.put_manifest(manifest.clone()).await.unwrap();
        store
            .link(&origin("org/app"), links_of(&manifest))
            .await
            .unwrap();
        manifests.push(manifest);
    }
    fill_index(&store).await;
    store.close().await.unwrap();
    Stored {
        dir,
        blobs,
        manifests,
    }
}

/// Links that the manifests come with: of three manifests, and of the six blobs that they name.
const LINKS: u64 = 9;

fn origin(repository: &str) -> Origin {
    Origin::new(
        UpstreamId::parse("ghcr.io").unwrap(),
        Repository::parse(repository).unwrap(),
    )
}

fn links_of(manifest: &Manifest) -> Vec<Link> {
    let mut links = manifest.links().to_vec();
    links.push(Link {
        target: LinkTarget::Manifest(manifest.digest()),
        size: Some(manifest.descriptor().size),
    });
    links
}

async fn fill_index(store: &DiskStore) {
    let links = (0..FILLER_LINKS).map(|n| Link {
        target: LinkTarget::Blob(digest_of(&n.to_le_bytes())),
        size: Some(u64::from(n)),
    });
    store
        .link(&origin("org/app"), links.collect())
        .await
        .unwrap();
}

/// Everything that was stored is there: listed, told of and given out.
async fn assert_all_there(store: &DiskStore, stored: &Stored, at: &str) {
    let mut listed: Vec<BlobStat> = store.list().try_collect().await.unwrap();
    let mut expected: Vec<BlobStat> = Vec::new();
    for (digest, bytes) in &stored.blobs {
        let (digest, size) = (*digest, bytes.len() as u64);
        expected.push(BlobStat { digest, size });
    }
    listed.sort_by_key(|stat| stat.digest);
    expected.sort_by_key(|stat| stat.digest);
    assert_eq!(listed, expected, "{at}");
    for (digest, bytes) in &stored.blobs {
        let stat = store.stat(*digest).await.unwrap();
        assert_eq!(stat.map(|stat| stat.size), Some(bytes.len() as u64), "{at}");
        assert_eq!(content(store, *digest).await.as_ref(), Some(bytes), "{at}");
    }
    for manifest in &stored.manifests {
        let found = store.manifest(manifest.digest()).await.unwrap();
        assert_eq!(found.as_ref(), Some(manifest), "{at}");
        for link in links_of(manifest) {
            for (repository, linked) in [("org/app", Some(link)), ("org/ap", None)] {
                let found = store.linked(&origin(repository), link.target).await;
                assert_eq!(found.unwrap(), linked, "{at}");
            }
        }
    }
    assert_eq!(store.forgotten(), 0, "{at}");
}

async fn content(store: &DiskStore, digest: Digest) -> Option<Bytes> {
    let body = store.open(digest, None).await.unwrap()?;
    Some(read_body(body).await)
}

fn blob_path(stored: &Stored, digest: Digest) -> PathBuf {
    let (algorithm, encoded) = (digest.algorithm().name(), digest.encoded());
    let shelf = stored.dir.path().join("blobs").join(algorithm);
    shelf.join(&encoded[..2]).join(encoded)
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

fn truncate(path: &Path, len: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(len).unwrap();
}

/// Damages the index of a fresh store in many ways; each time the store opens, says that it made
/// the index anew, keeps the damaged one, and has everything.
#[tokio::test]
async fn a_damaged_index_is_made_anew() {
    let whole = stored().await;
    let size = fs::metadata(whole.db()).unwrap().len();
    assert!(
        size > 1 << 20,
        "{size} bytes are too few to damage some of them only"
    );
    let garbage = sample(size as usize, 99);
    let part = |of: u64| garbage.slice(..(size / of) as usize);
    type Damage = Box<dyn Fn(&Stored)>;
    let mut cases: Vec<(String, Damage)> = Vec::new();
    for keep in [0, 10, size / 10, size / 2, size - size / 10] {
        let damage = move |stored: &Stored| truncate(&stored.db(), keep);
        cases.push((format!("truncated to {keep}"), Box::new(damage)));
    }
    cases.push((
        "maybe: truncated by 1".to_owned(),
        Box::new(move |stored| truncate(&stored.db(), size - 1)),
    ));
    for (at, len) in [
        (0, 3),
        (0, 1),
        (size / 3, 3),
        (size * 2 / 3, 3),
        (size / 2, 200),
    ] {
        let bytes = part(len);
        let zeros = vec![0; bytes.len()];
        let damage = move |stored: &Stored| overwrite(&stored.db(), at, &bytes);
        cases.push((
            format!("maybe: a {len}th of garbage at {at}"),
            Box::new(damage),
        ));
        let damage = move |stored: &Stored| overwrite(&stored.db(), at, &zeros);
        cases.push((
            format!("maybe: a {len}th of zeros at {at}"),
            Box::new(damage),
        ));
    }
    cases.push((
        "conf is garbage".to_owned(),
        Box::new(|stored| fs::write(stored.index().join("conf"), [0xff; 60]).unwrap()),
    ));
    cases.push((
        "db is a folder".to_owned(),
        Box::new(|stored| {
            fs::remove_file(stored.db()).unwrap();
            fs::create_dir(stored.db()).unwrap();
        }),
    ));
    cases.push((
        "db is missing".to_owned(),
        Box::new(|stored| fs::remove_file(stored.db()).unwrap()),
    ));
    cases.push((
        "index is empty".to_owned(),
        Box::new(|stored| {
            fs::remove_dir_all(stored.index()).unwrap();
            fs::create_dir(stored.index()).unwrap();
        }),
    ));
    // Of these sled makes anew what it needs, or says that it cannot.
    cases.push((
        "maybe: conf is missing".to_owned(),
        Box::new(|stored| fs::remove_file(stored.index().join("conf")).unwrap()),
    ));
    cases.push((
        "maybe: snapshots are missing".to_owned(),
        Box::new(|stored| {
            stored
                .snapshots()
                .iter()
                .for_each(|it| fs::remove_file(it).unwrap())
        }),
    ));
    let noise = garbage.slice(..1_000);
    cases.push((
        "maybe: snapshots are garbage".to_owned(),
        Box::new(move |stored| {
            let of = stored.snapshots();
            of.iter().for_each(|it| fs::write(it, &noise).unwrap());
        }),
    ));
    cases.push((
        "maybe: large values are missing".to_owned(),
        Box::new(|stored| {
            // Where sled puts them, if it has any.
            let _ = fs::remove_dir_all(stored.index().join("blobs"));
        }),
    ));
    let older = whole.copied();
    let reopened = older.open().await;
    reopened.close().await.unwrap();
    drop(reopened);
    let of_older = TempDir::new().unwrap();
    copy(&whole.index(), of_older.path());
    cases.push((
        "swapped with an older copy".to_owned(),
        Box::new(move |stored| {
            // The folder has been opened and closed since that copy was made.
            for name in ["index", "format"] {
                let (from, to) = (older.dir.path().join(name), stored.dir.path().join(name));
                if to.is_dir() {
                    fs::remove_dir_all(&to).unwrap();
                    fs::create_dir(&to).unwrap();
                    copy(of_older.path(), &to);
                } else {
                    fs::copy(from, to).unwrap();
                }
            }
        }),
    ));
    cases.push((
        "marked".to_owned(),
        Box::new(|stored| fs::write(stored.dir.path().join("index.suspect"), b"").unwrap()),
    ));
    for (at, damage) in cases {
        let stored = whole.copied();
        damage(&stored);
        let store = stored.open().await;
        let rebuilt = store.recovery().rebuilt.clone();
        // Damage to what the log of the index does not need, or no longer, is none.
        if let Some(Rebuilt {
            blobs,
            manifests,
            links,
            set_aside,
            ..
        }) = rebuilt
        {
            assert_eq!((blobs, manifests, links), (BLOBS, 3, LINKS), "{at}");
            assert!(set_aside.unwrap().is_dir(), "{at}");
        } else {
            assert!(at.starts_with("maybe"), "{at}: not noticed");
        }
        assert_all_there(&store, &stored, &at).await;
        audit::audit(stored.dir.path(), &store, &at).await;

        // The new index is whole: nothing is put right a second time.
        store.close().await.unwrap();
        let store = stored.open().await;
        assert_eq!(*store.recovery(), Default::default(), "{at}");
        assert_all_there(&store, &stored, &at).await;
    }
}

#[tokio::test]
async fn a_missing_index_is_made_anew() {
    let stored = stored().await;
    fs::remove_dir_all(stored.index()).unwrap();
    let store = stored.open().await;
    let rebuilt = store.recovery().rebuilt.clone().unwrap();
    assert_eq!((rebuilt.blobs, rebuilt.set_aside), (BLOBS, None));
    assert_all_there(&store, &stored, "missing").await;
}

/// Pins are what people decided: they do not go with the index.
#[tokio::test]
async fn pins_outlive_a_loss_of_the_index() {
    let stored = stored().await;
    let store = stored.open().await;
    let pin = |text| Pin::parse(text).unwrap();
    let since = Timestamp::from_millis(7);
    for text in ["ghcr.io/org/app:1", "ghcr.io/org/*", "ghcr.io/org/gone:1"] {
        assert!(store.put_pin(pin(text), since).await.unwrap());
    }
    let removed = store.remove_pin(&pin("ghcr.io/org/gone:1")).await;
    assert!(removed.unwrap());
    store.close().await.unwrap();
    fs::remove_dir_all(stored.index()).unwrap();
    let mut file = fs::read(stored.dir.path().join("pins")).unwrap();
    file.extend_from_slice(b"7 \xff\nno pin\n");
    fs::write(stored.dir.path().join("pins"), file).unwrap();
    let store = stored.open().await;
    assert!(store.recovery().rebuilt.is_some());
    let pins = ["ghcr.io/org/app:1", "ghcr.io/org/*"].map(|text| (pin(text), since));
    assert_eq!(store.pins().await.unwrap(), pins);
}

#[tokio::test]
async fn content_without_any_record_is_found() {
    let stored = stored().await;
    fs::remove_dir_all(stored.index()).unwrap();
    fs::remove_file(stored.dir.path().join("format")).unwrap();
    let store = stored.open().await;
    assert_eq!(store.recovery().rebuilt.as_ref().unwrap().blobs, BLOBS);
    assert_all_there(&store, &stored, "missing").await;
}

/// Each damaged index is kept, but not all of them for ever.
#[tokio::test]
async fn damaged_indexes_do_not_pile_up() {
    let stored = stored().await;
    for _ in 0..5 {
        truncate(&stored.db(), 10);
        let store = stored.open().await;
        let set_aside = store.recovery().rebuilt.clone().unwrap().set_aside.unwrap();
        assert!(set_aside.join("db").exists(), "the last is kept");
        store.close().await.unwrap();
    }
    let entries = fs::read_dir(stored.dir.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(
        names
            .filter(|name| name.starts_with("index.damaged-"))
            .count(),
        2
    );
}

/// What a rebuild finds is hashed before it is given out (I1): it may be what damaged the index
/// that damaged the file.
#[tokio::test]
async fn a_rebuild_trusts_no_file() {
    let stored = stored().await;
    let (damaged, bytes) = &stored.blobs[5];
    let (sound, _) = &stored.blobs[6];
    overwrite(&blob_path(&stored, *damaged), 100, b"wrong");
    truncate(&stored.db(), 10);

    let store = stored.open().await;
    assert_eq!(store.recovery().rebuilt.as_ref().unwrap().blobs, BLOBS);
    assert_eq!(content(&store, *damaged).await, None);
    assert_eq!(store.forgotten(), 1);
    assert!(!blob_path(&stored, *damaged).exists());
    assert!(content(&store, *sound).await.is_some());
    store.close().await.unwrap();

    // What was found to be right is not hashed again: that it was is in its row.
    overwrite(&blob_path(&stored, *sound), 100, b"wrong");
    let store = stored.open().await;
    let body = store.open(*sound, None).await.unwrap();
    assert!(body.is_some(), "the test can tell whether it is hashed");

    // And what was forgotten can be fetched anew.
    let put = put_blob_as(&store, damaged.algorithm(), bytes).await;
    put.unwrap();
    assert_eq!(content(&store, *damaged).await.as_ref(), Some(bytes));
}

#[tokio::test]
async fn a_missing_or_short_blob_is_forgotten() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 4] = [
        ("missing", |path| fs::remove_file(path).unwrap()),
        ("short", |path| truncate(path, 499)),
        ("empty", |path| truncate(path, 0)),
        ("long", |path| truncate(path, 501)),
    ];
    for (at, damage) in cases {
        let dir = TempDir::new().unwrap();
        let store = DiskStore::open(dir.path()).await.unwrap();
        let (bytes, other) = (sample(500, 1), sample(500, 2));
        let digest = put_blob(&store, &bytes).await.unwrap();
        put_blob(&store, &other).await.unwrap();
        let encoded = digest.encoded();
        let path = dir
            .path()
            .join("blobs/sha256")
            .join(&encoded[..2])
            .join(&encoded);
        for ask_first in ["stat", "open", "put"] {
            damage(&path);
            match ask_first {
                "stat" => assert_eq!(store.stat(digest).await.unwrap(), None, "{at}"),
                "open" => assert_eq!(content(&store, digest).await, None, "{at}"),
                // Whoever is quicker than the damage is seen heals it.
                _ => {}
            }
            assert_eq!(path.exists(), ask_first == "put" && at != "missing", "{at}");
            put_blob(&store, &bytes).await.unwrap();
            assert_eq!(content(&store, digest).await.as_ref(), Some(&bytes), "{at}");
        }
        assert_eq!(store.forgotten(), 2, "{at}");
        let listed: Vec<BlobStat> = store.list().try_collect().await.unwrap();
        assert_eq!(listed.len(), 2, "{at}");
    }
}

/// Whatever has the place of a blob or a manifest: it is no content, it goes, and nobody waits for
/// a writer of it.
#[tokio::test]
async fn what_is_no_file_is_forgotten() {
    type Put = fn(&Path);
    let cases: [(&str, Put); 5] = [
        ("folder", |path| fs::create_dir(path).unwrap()),
        ("full folder", |path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), b"mine").unwrap();
        }),
        ("link", |path| symlink("/etc/passwd", path).unwrap()),
        ("dangling link", |path| symlink("nowhere", path).unwrap()),
        ("pipe", |path| {
            let made = Command::new("mkfifo").arg(path).status();
            assert!(made.unwrap().success());
        }),
    ];
    let dir = TempDir::new().unwrap();
    let bytes = sample(500, 1);
    let json = format!(r#"{{"layers":[{{"digest":"{}"}}]}}"#, digest_of(&bytes));
    let manifest = Manifest::of_bytes(None, json.into()).unwrap();
    let digest = manifest.digest();
    let path = |kind: &str, digest: Digest| {
        let encoded = digest.encoded();
        let shelf = dir.path().join(kind).join("sha256");
        shelf.join(&encoded[..2]).join(&encoded)
    };
    for (at, put) in cases {
        let store = DiskStore::open(dir.path()).await.unwrap();
        let mut forgotten = 0;
        for ask_first in ["stat", "open", "peek", "remove", "put"] {
            let blob = put_blob(&store, &bytes).await.unwrap();
            let path = path("blobs", blob);
            fs::remove_file(&path).unwrap();
            put(&path);
            match ask_first {
                "stat" => assert_eq!(store.stat(blob).await.unwrap(), None, "{at}"),
                "open" => assert_eq!(content(&store, blob).await, None, "{at}"),
                "peek" => assert!(store.peek_blob(blob).await.unwrap().is_none(), "{at}"),
                "remove" => assert!(store.remove(blob).await.unwrap(), "{at}"),
                _ => {
                    put_blob(&store, &bytes).await.unwrap();
                    assert_eq!(content(&store, blob).await.as_ref(), Some(&bytes), "{at}");
                }
            }
            forgotten += u64::from(["stat", "open", "peek"].contains(&ask_first));
            assert_eq!(store.forgotten(), forgotten, "{at}: {ask_first}");
            audit::audit(dir.path(), &store, at).await;
        }
        store.put_manifest(manifest.clone()).await.unwrap();
        store.close().await.unwrap();
        drop(store);

        let store = DiskStore::open(dir.path()).await.unwrap();
        fs::remove_file(path("manifests", digest)).unwrap();
        put(&path("manifests", digest));
        assert_eq!(store.manifest(digest).await.unwrap(), None, "{at}");
        assert_eq!(store.forgotten(), 1, "{at}");
        audit::audit(dir.path(), &store, at).await;
        store.close().await.unwrap();
    }
}

/// What was forgotten is not counted any more, whoever finds it.
#[tokio::test]
async fn what_is_damaged_is_not_counted() {
    let stored = stored().await;
    let blobs = stored.blobs.iter().map(|(digest, _)| *digest);
    let blobs: Vec<Digest> = blobs.collect();
    truncate(&blob_path(&stored, blobs[5]), 1);
    fs::remove_file(blob_path(&stored, blobs[6])).unwrap();
    // Of the same size: only whoever hashes it can tell.
    overwrite(&blob_path(&stored, blobs[7]), 100, b"wrong");
    let encoded = stored.manifests[0].digest().encoded();
    let shelf = stored.dir.path().join("manifests/sha256");
    let manifest = shelf.join(&encoded[..2]).join(&encoded);
    truncate(&manifest, 20);
    let store = stored.open().await;
    let before = store.usage().await.unwrap();
    assert_eq!(before.blobs, BLOBS);
    for digest in &blobs {
        let peeked = store.peek_blob(*digest).await.unwrap();
        let Some(peeked) = peeked else {
            continue;
        };
        let bytes = peeked.reader.read_at(0, usize::MAX).await.unwrap();
        assert_eq!(bytes.len() as u64, peeked.size);
        if *digest == blobs[7] {
            // As whoever verifies does.
            assert!(store.remove(*digest).await.unwrap());
        }
    }
    let manifests = store.manifests(None, 10).await.unwrap();
    assert_eq!(manifests.len(), 3);
    for digest in manifests {
        store.peek_manifest(digest).await.unwrap();
    }
    assert_eq!(store.forgotten(), 3);
    let usage = store.usage().await.unwrap();
    assert_eq!((usage.blobs, usage.manifests), (BLOBS - 3, 2));
    audit::audit(stored.dir.path(), &store, "forgotten").await;
}

#[tokio::test]
async fn a_damaged_manifest_is_forgotten() {
    let stored = stored().await;
    let manifest = &stored.manifests[1];
    let encoded = manifest.digest().encoded();
    let shelf = stored.dir.path().join("manifests/sha256");
    let path = shelf.join(&encoded[..2]).join(&encoded);
    let file = fs::read(&path).unwrap();
    let end = file.iter().position(|&byte| byte == b'\n').unwrap();
    assert!(file.starts_with(manifest.media_type().as_str().as_bytes()));
    assert_eq!(&file[end + 1..], manifest.bytes(), "byte for byte");
    let swapped = [b"application/y", &file[end - 72..]].concat();
    for damaged in [
        &b""[..],
        b"\n",
        &file[..end],
        &file[..end + 1],
        &file[..file.len() - 1],
        &file[1..],
        &swapped,
    ] {
        fs::write(&path, damaged).unwrap();
        let store = stored.open().await;
        assert_eq!(store.manifest(manifest.digest()).await.unwrap(), None);
        assert!(!path.exists());
        assert_eq!(store.forgotten(), 1);
        store.put_manifest(manifest.clone()).await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), file);
        store.close().await.unwrap();
    }
}

/// A row that was lost without anybody's notice costs nothing but a look at the file.
#[tokio::test]
async fn a_blob_that_lost_its_row_is_found_again() {
    let (one, other) = (stored().await, TempDir::new().unwrap());
    let store = DiskStore::open(other.path()).await.unwrap();
    let (digest, bytes) = &one.blobs[4];
    let name = blob_path(&one, *digest);
    let name = name.strip_prefix(one.dir.path()).unwrap();
    let to = other.path().join(name);
    fs::create_dir_all(to.parent().unwrap()).unwrap();

    fs::copy(blob_path(&one, *digest), &to).unwrap();
    assert_eq!(
        store.stat(*digest).await.unwrap().unwrap().size,
        bytes.len() as u64
    );
    assert_eq!(content(&store, *digest).await.as_ref(), Some(bytes));
    assert!(store.remove(*digest).await.unwrap());
    assert!(!to.exists());

    // But not one that is something else.
    fs::write(&to, b"something else").unwrap();
    assert_eq!(store.stat(*digest).await.unwrap(), None);
    assert!(!to.exists());
}
