//! What a loss of the index leaves of the links: those that came with a manifest, in the origins
//! that they were made in and in no other (I5, I10).

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod audit;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use futures::future::join_all;
use registry_core::testing::content::digest_of;
use registry_core::{
    Digest, InventoryStore as _, Limits, Link, LinkStore as _, LinkTarget, Manifest,
    ManifestStore as _, MediaType, Origin, Repository, UpstreamId,
};
use registry_storage::{DiskStore, Rebuilt};
use tempfile::TempDir;

fn origin(upstream: &str, repository: &str) -> Origin {
    Origin::new(
        UpstreamId::parse(upstream).unwrap(),
        Repository::parse(repository).unwrap(),
    )
}

fn named(digest: Digest, size: u64, kind: &str) -> String {
    format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size}}}"#)
}

/// An image with `layers` layers of its own and one that all images share.
fn image(n: u32, layers: u32) -> Manifest {
    let own = (0..layers).map(|layer| digest_of(format!("{n} {layer}").as_bytes()));
    let all: Vec<String> = own
        .chain([digest_of(b"shared")])
        .map(|layer| named(layer, 7, "application/x"))
        .collect();
    let bytes = format!(r#"{{"layers":[{}]}}"#, all.join(","));
    Manifest::of_bytes(None, bytes.into()).unwrap()
}

fn index_of(images: &[Manifest]) -> Manifest {
    let named = |image: &Manifest| {
        let size = image.descriptor().size;
        named(image.digest(), size, MediaType::OCI_MANIFEST)
    };
    let images: Vec<String> = images.iter().map(named).collect();
    let bytes = format!(r#"{{"manifests":[{}]}}"#, images.join(","));
    Manifest::of_bytes(None, bytes.into()).unwrap()
}

fn links_of(manifest: &Manifest) -> Vec<Link> {
    let mut links = manifest.links().to_vec();
    links.push(Link {
        target: LinkTarget::Manifest(manifest.digest()),
        size: Some(manifest.descriptor().size),
    });
    links
}

struct Data {
    dir: TempDir,
    store: DiskStore,
}

impl Data {
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let store = DiskStore::open(dir.path()).await.unwrap();
        Self { dir, store }
    }

    async fn lose_index(&mut self) -> Rebuilt {
        self.store.close().await.unwrap();
        fs::remove_dir_all(self.dir.path().join("index")).unwrap();
        self.store = DiskStore::open(self.dir.path()).await.unwrap();
        self.store.recovery().rebuilt.clone().unwrap()
    }

    /// As the cache does with a manifest that it has fetched.
    async fn pull(&self, at: &Origin, manifest: &Manifest) {
        self.store.put_manifest(manifest.clone()).await.unwrap();
        self.store.link(at, links_of(manifest)).await.unwrap();
    }

    async fn count_linked(&self, at: &Origin, links: &[Link]) -> usize {
        let found = links.iter().map(async |link| {
            let found = self.store.linked(at, link.target).await.unwrap();
            assert!(found.is_none_or(|found| found == *link));
            usize::from(found.is_some())
        });
        join_all(found).await.into_iter().sum()
    }

    fn origins_file(&self, manifest: &Manifest) -> PathBuf {
        let encoded = manifest.digest().encoded();
        let shelf = self.dir.path().join("manifests/sha256");
        shelf.join(&encoded[..2]).join(format!("{encoded}.origins"))
    }
}

/// An image that is linked as one of an index, and then pulled itself: its row is there before.
#[tokio::test]
async fn an_image_of_an_index_is_restored_with_its_layers() {
    let mut data = Data::new().await;
    let (pulled, named_only) = (image(1, 3), image(2, 3));
    let index = index_of(&[pulled.clone(), named_only.clone()]);
    let at = origin("docker.io", "library/alpine");
    data.pull(&at, &index).await;
    data.pull(&at, &pulled).await;
    // Index, two images, and four layers.
    assert_eq!(data.lose_index().await.links, 7);
    for (manifest, linked) in [(&index, 3), (&pulled, 5)] {
        let links = links_of(manifest);
        assert_eq!(links.len(), linked);
        assert_eq!(data.count_linked(&at, &links).await, linked);
    }
    // Itself, and the layer it shares.
    assert_eq!(data.count_linked(&at, &links_of(&named_only)).await, 2);
}

/// What is kept for one origin grants nothing in another, also where an index there names it.
#[tokio::test]
async fn origins_stay_apart() {
    let mut data = Data::new().await;
    let (secret, shared) = (image(1, 3), image(2, 3));
    let both = [origin("x", "a/b"), origin("x:5000", "a")];
    let other = origin("x", "a");
    data.pull(&both[0], &secret).await;
    for at in &both {
        data.pull(at, &shared).await;
    }
    // It names the secret image, whose layers were never linked there.
    let index = index_of(std::slice::from_ref(&secret));
    data.pull(&other, &index).await;
    for _ in 0..2 {
        data.lose_index().await;
        let (secret, shared) = (links_of(&secret), links_of(&shared));
        assert_eq!(data.count_linked(&both[0], &secret).await, 5);
        // The layer that it shares with the other.
        assert_eq!(data.count_linked(&both[1], &secret).await, 1);
        // The link that the index grants.
        assert_eq!(data.count_linked(&other, &secret).await, 1);
        for (at, count) in [(&both[0], 5), (&both[1], 5), (&other, 0)] {
            assert_eq!(data.count_linked(at, &shared).await, count);
        }
        let origins = data.store.origins(None, None, 10).await.unwrap();
        assert_eq!(origins, [other.clone(), both[0].clone(), both[1].clone()]);
    }
}

/// A manifest counts as linked only with all that it names; a blob that came alone is lost.
#[tokio::test]
async fn links_without_a_whole_manifest_are_lost() {
    let mut data = Data::new().await;
    let (kept, absent, at) = (image(1, 1), image(2, 1), origin("x", "a"));
    data.store.put_manifest(kept.clone()).await.unwrap();
    let own = links_of(&kept).pop().unwrap();
    let alone = Link {
        target: LinkTarget::Blob(digest_of(b"alone")),
        size: Some(1),
    };
    data.store.link(&at, vec![own, alone]).await.unwrap();
    data.store.link(&at, links_of(&absent)).await.unwrap();
    assert!(!data.origins_file(&kept).exists());
    assert!(!data.origins_file(&absent).exists());
    assert_eq!(data.lose_index().await.links, 0);
    assert_eq!(data.store.origins(None, None, 1).await.unwrap(), []);
}

#[tokio::test]
async fn what_stands_already_is_not_written_again() {
    let mut data = Data::new().await;
    let (image, at) = (image(1, 3), origin("x", "a"));
    for _ in 0..3 {
        data.pull(&at, &image).await;
        data.lose_index().await;
        data.pull(&at, &image).await;
        let text = fs::read_to_string(data.origins_file(&image)).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.starts_with("x a sha256:") && text.ends_with('\n'));
        let mode = fs::metadata(data.origins_file(&image))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

/// A blob's link that was removed comes back where a manifest that names it is linked still: that
/// grants it (I5). It does not once the manifest's link is removed.
#[tokio::test]
async fn a_removed_link_comes_back_only_where_a_manifest_grants_it() {
    let mut data = Data::new().await;
    let (image, at) = (image(1, 3), origin("x", "a"));
    let links = links_of(&image);
    data.pull(&at, &image).await;
    for link in &links[..2] {
        assert!(data.store.unlink(&at, link.target).await.unwrap());
    }
    data.lose_index().await;
    assert_eq!(data.count_linked(&at, &links).await, 5);
    let own = LinkTarget::Manifest(image.digest());
    assert!(data.store.unlink(&at, own).await.unwrap());
    assert!(!data.origins_file(&image).exists());
    assert_eq!(data.count_linked(&at, &links).await, 4, "the others stand");
    data.lose_index().await;
    assert_eq!(data.count_linked(&at, &links).await, 0);
}

/// Its row may be lost in a crash, but not the line of its origin.
#[tokio::test]
async fn a_link_is_removed_for_good_also_where_its_row_is_lost() {
    let mut data = Data::new().await;
    let (image, at) = (image(1, 3), origin("x", "a"));
    data.pull(&at, &image).await;
    let listed = fs::read(data.origins_file(&image)).unwrap();
    let own = LinkTarget::Manifest(image.digest());
    assert!(data.store.unlink(&at, own).await.unwrap());
    fs::write(data.origins_file(&image), listed).unwrap();
    assert!(!data.store.unlink(&at, own).await.unwrap(), "it has no row");
    assert_eq!(data.lose_index().await.links, 0);
}

/// Linking and removing at the same time: what is there at the end is there after a rebuild, or
/// nothing is; never more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_restores_no_more_than_there_was() {
    let mut data = Data::new().await;
    let (image, at) = (image(1, 3), origin("x", "a"));
    let own = LinkTarget::Manifest(image.digest());
    for round in 0..20 {
        data.pull(&at, &image).await;
        let calls = (0..8).map(async |n| {
            match (n + round) % 4 {
                0 => drop(data.store.unlink(&at, own).await.unwrap()),
                1 if round % 3 == 0 => drop(data.store.remove_manifest(image.digest()).await),
                _ => data.store.link(&at, links_of(&image)).await.unwrap(),
            };
        });
        join_all(calls).await;
        let before = data.store.linked(&at, own).await.unwrap();
        let kept = data.store.manifest(image.digest()).await.unwrap();
        data.lose_index().await;
        let after = data.store.linked(&at, own).await.unwrap();
        assert!(after.is_none() || before.is_some(), "{round}");
        if round % 3 != 0 {
            assert_eq!(after, before.filter(|_| kept.is_some()), "{round}");
        }
    }
}

/// What a power cut or a damaged disk may leave of the list grants nothing.
#[tokio::test]
async fn a_torn_or_foreign_list_grants_nothing() {
    let mut data = Data::new().await;
    let (image, sound) = (image(1, 3), image(2, 3));
    let [first, last, new] = ["first", "last", "new"].map(|name| origin("x", name));
    for at in [&first, &last] {
        data.pull(at, &image).await;
    }
    data.pull(&first, &sound).await;
    let path = data.origins_file(&image);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 2]).unwrap();
    // Another manifest's list, and a name that is no manifest's.
    fs::copy(&path, data.origins_file(&sound)).unwrap();
    fs::write(path.with_file_name("mine.origins"), &whole).unwrap();

    // Five links of the one; of the other none.
    assert_eq!(data.lose_index().await.links, 5);
    let links = links_of(&image);
    assert_eq!(data.count_linked(&first, &links).await, 5);
    assert_eq!(data.count_linked(&last, &links).await, 0);
    assert_eq!(data.count_linked(&first, &links_of(&sound)).await, 1);
    // The torn line is not gone on with.
    data.pull(&new, &image).await;
    assert_eq!(data.lose_index().await.links, 10);
    assert_eq!(data.count_linked(&new, &links).await, 5);
    let origins = data.store.origins(None, None, 10).await.unwrap();
    assert_eq!(origins, [first, new]);
}

/// A manifest that was found damaged and is fetched anew has its origins still; where the index
/// is lost before, what the list stood for is not known, and it goes.
#[tokio::test]
async fn a_damaged_manifest_keeps_its_origins_until_a_rebuild() {
    for is_healed in [true, false] {
        let mut data = Data::new().await;
        let (image, at, other) = (image(1, 3), origin("x", "a"), origin("x", "b"));
        for at in [&at, &other] {
            data.pull(at, &image).await;
        }
        data.store.close().await.unwrap();
        let list = data.origins_file(&image);
        fs::write(list.with_extension(""), b"damaged").unwrap();
        data.store = DiskStore::open(data.dir.path()).await.unwrap();
        if is_healed {
            assert_eq!(data.store.manifest(image.digest()).await.unwrap(), None);
            data.pull(&at, &image).await;
        }
        let links = data.lose_index().await.links;
        assert_eq!(links, if is_healed { 10 } else { 0 });
        assert_eq!(list.exists(), is_healed);
    }
}

/// Links that cannot be listed are links nevertheless.
#[tokio::test]
async fn a_list_that_cannot_be_written_or_read_costs_the_links_after_a_rebuild_only() {
    let mut data = Data::new().await;
    let (image, at) = (image(1, 3), origin("x", "a"));
    fs::create_dir_all(data.origins_file(&image)).unwrap();
    data.pull(&at, &image).await;
    assert_eq!(data.count_linked(&at, &links_of(&image)).await, 5);
    assert_eq!(data.lose_index().await.links, 0);
    assert!(data.store.manifest(image.digest()).await.unwrap().is_some());
}

/// More of everything than one batch holds.
#[tokio::test]
async fn a_large_folder_is_restored() {
    const IMAGES: u32 = 1_200;
    let mut data = Data::new().await;
    let origins = ["a", "b"].map(|repository| origin("x", repository));
    let images: Vec<Manifest> = (0..IMAGES).map(|n| image(n, 2)).collect();
    let index = index_of(&images);
    data.pull(&origins[0], &index).await;
    for (n, image) in images.iter().enumerate() {
        data.pull(&origins[n % 2], image).await;
    }
    let rebuilt = data.lose_index().await;
    // The index and all images in the first; half of the images in the second; two layers each,
    // and the one they share in both.
    let expected = 1 + IMAGES + IMAGES / 2 + 2 * IMAGES + 2;
    assert_eq!(rebuilt.links, u64::from(expected));
    for (n, image) in images.iter().enumerate() {
        let links = links_of(image);
        assert_eq!(data.count_linked(&origins[n % 2], &links).await, 4);
        let elsewhere = data.count_linked(&origins[(n + 1) % 2], &links).await;
        assert_eq!(elsewhere, if n % 2 == 1 { 2 } else { 1 });
    }
}

/// Where all names are as long as can be, a manifest takes no more beside its bytes than is promised
/// for it, and no more for each further origin; and all of it is counted.
#[tokio::test]
async fn what_a_manifest_takes_beside_its_bytes_is_bounded_and_counted() {
    let data = Data::new().await;
    let kind = MediaType::parse(&format!("application/{}", "x".repeat(243))).unwrap();
    let manifest = Manifest::of_bytes(Some(&kind), r#"{"blobs":[]}"#.into()).unwrap();
    let label = "h".repeat(63);
    let host = format!("{label}.{label}.{label}.{}:65535", "h".repeat(61));
    let promised = Limits::default().content_overhead_bytes;
    let mut counted = manifest.bytes().len() as u64;
    for n in 100..105 {
        let at = origin(&host, &format!("{}/{n}", "r".repeat(251)));
        data.pull(&at, &manifest).await;
        audit::audit(data.dir.path(), &data.store, "listed").await;
        let usage = data.store.usage().await.unwrap();
        let added = usage.bytes - counted;
        assert!((500..=promised).contains(&added), "{n}: {added}");
        counted = usage.bytes;
        // Once is enough.
        data.pull(&at, &manifest).await;
        assert_eq!(data.store.usage().await.unwrap().bytes, counted);
    }
    // Taken back, it counts no more.
    let target = LinkTarget::Manifest(manifest.digest());
    for n in 100..105 {
        let at = origin(&host, &format!("{}/{n}", "r".repeat(251)));
        assert!(data.store.unlink(&at, target).await.unwrap());
        audit::audit(data.dir.path(), &data.store, "withdrawn").await;
    }
    let bytes = data.store.usage().await.unwrap().bytes;
    assert_eq!(bytes, manifest.bytes().len() as u64 + 328);
}
