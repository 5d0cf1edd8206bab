//! Imports: in any order, of foreign archives, and such as do not come to their end.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use registry_core::Tag;
use registry_core::cache::ImportError;
use registry_core::testing::{Fault, StoreCall};
use registry_core::{
    Digest, Hasher, InventoryStore as _, LinkTarget, Progress, StoreError, TagRecord,
    TagStore as _, Timestamp, UpstreamId,
};
use registry_server::archive::{ArchiveError, ImportName, import_archive};
use registry_server::testing::{FixtureRegistry, ImageSpec};
use serde_json::{Value, json};

use crate::support::{
    File, Held, REPOSITORY, UPSTREAM, archive_of, broken_off, everything, files_of, in_pieces,
    origin,
};

/// An archive of one image of two platforms.
async fn archive() -> (Vec<u8>, Digest) {
    let registry = FixtureRegistry::start().await;
    let spec = ImageSpec::new(1)
        .platforms(&["linux/amd64", "linux/arm64"])
        .layers(&[30_000, 10]);
    let image = registry.add_image(REPOSITORY, "1.0", &spec);
    let near = Held::of(&registry.url()).await;
    (near.export(&everything("1.0")).await, image.root().digest)
}

async fn recorded(held: &Held, tag: &str) -> Option<TagRecord> {
    let tag = Tag::parse(tag).unwrap();
    held.store.inner().tag(&origin(), &tag).await.unwrap()
}

#[tokio::test]
async fn entries_may_come_in_any_order() {
    let (archive, root) = archive().await;
    let mut files = files_of(&archive);
    files.reverse();
    for turn in 0..files.len() {
        files.rotate_left(1);
        let far = Held::offline().await;
        let report = far.import(&archive_of(&files)).await.unwrap();
        assert_eq!(report.images.len(), 1, "turn {turn}");
        let record = recorded(&far, "1.0").await.unwrap();
        assert_eq!(
            (record.digest, record.validated_at),
            (root, Timestamp::NEVER)
        );
    }
}

#[tokio::test]
async fn archives_may_be_zipped_and_have_folders_and_other_files() {
    let (archive, root) = archive().await;
    let mut builder = tar::Builder::new(Vec::new());
    let mut folder = tar::Header::new_gnu();
    folder.set_entry_type(tar::EntryType::Directory);
    folder.set_size(0);
    for path in ["./", "./blobs/", "./blobs/sha256/"] {
        builder.append_data(&mut folder, path, &[][..]).unwrap();
    }
    builder
        .append_pax_extensions([("comment", &b"by another program"[..])])
        .unwrap();
    for File { path, bytes } in files_of(&archive) {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        builder
            .append_data(&mut header, format!("./{path}"), &*bytes)
            .unwrap();
    }
    let mut header = tar::Header::new_ustar();
    header.set_size(2);
    builder
        .append_data(&mut header, "manifest.json", &b"[]"[..])
        .unwrap();
    let plain = builder.into_inner().unwrap();
    let mut zipped = GzEncoder::new(Vec::new(), Compression::fast());
    zipped.write_all(&plain).unwrap();
    for archive in [plain, zipped.finish().unwrap()] {
        let far = Held::offline().await;
        far.import(&archive).await.unwrap();
        assert_eq!(recorded(&far, "1.0").await.unwrap().digest, root);
    }
}

/// ADR 1: wherever it ends, no tag names what is not there, and nothing is left that nobody needs.
#[tokio::test]
async fn an_archive_that_ends_early_leaves_nothing() {
    let (archive, _) = archive().await;
    let far = Held::offline().await;
    for at in (0..archive.len() - 512).step_by(1_777) {
        let cut = &archive[..at];
        let error = far.import(cut).await.unwrap_err();
        let is_told = matches!(error, ArchiveError::Truncated);
        assert!(is_told, "cut at {at}: {error:?}");
        let error = far.import_bytes(broken_off(cut)).await.unwrap_err();
        assert!(
            matches!(error, ArchiveError::Read(_)),
            "broken at {at}: {error:?}"
        );
        assert_eq!(recorded(&far, "1.0").await, None);
        far.await_empty().await;
    }
}

#[tokio::test]
async fn an_import_that_is_abandoned_leaves_nothing() {
    let (archive, _) = archive().await;
    let far = Held::offline().await;
    far.store.faults().stall(StoreCall::PutManifest);
    {
        let import = far.import(&archive);
        let mut import = std::pin::pin!(import);
        while far.store.faults().calls(StoreCall::PutManifest) == 0 {
            assert!(futures::poll!(&mut import).is_pending());
            tokio::task::yield_now().await;
        }
    }
    far.store.faults().release(StoreCall::PutManifest);
    assert_eq!(recorded(&far, "1.0").await, None);
    far.await_empty().await;
}

#[tokio::test]
async fn a_full_store_takes_nothing_by_halves() {
    let (archive, _) = archive().await;
    let far = Held::offline().await;
    let commits = {
        let trial = Held::offline().await;
        trial.import(&archive).await.unwrap();
        trial.store.faults().calls(StoreCall::Commit)
    };
    far.store
        .faults()
        .fail_nth(StoreCall::Commit, commits, Fault::NoSpace);
    let error = far.import(&archive).await.unwrap_err();
    let is_full = matches!(
        error,
        ArchiveError::Import(ImportError::Store(StoreError::NoSpace { .. }))
    );
    assert!(is_full, "{error:?}");
    assert_eq!(recorded(&far, "1.0").await, None);
    far.await_empty().await;
    // With room again, it goes.
    far.store.faults().heal();
    far.import(&archive).await.unwrap();
    assert!(recorded(&far, "1.0").await.is_some());
}

#[tokio::test]
async fn what_is_held_already_is_not_written_again() {
    let (archive, _) = archive().await;
    let far = Held::offline().await;
    let first = far.import(&archive).await.unwrap();
    let staged = far.store.faults().calls(StoreCall::Stage);
    let again = far.import(&archive).await.unwrap();
    assert_eq!(far.store.faults().calls(StoreCall::Stage), staged);
    assert_eq!((again.contents, again.bytes), (0, 0));
    assert_eq!(
        (again.contents_held, again.bytes_held),
        (first.contents, first.bytes)
    );
    assert_eq!(again.images, first.images);
}

/// What the registry confirmed of a tag stands where the archive says the same, and not where it
/// says something else.
#[tokio::test]
async fn a_tag_that_was_confirmed_stays_so() {
    let (archive, root) = archive().await;
    let far = Held::offline().await;
    let at = Timestamp::from_millis(5);
    for (digest, validated_at) in [
        (root, at),
        (Hasher::digest_of(root.algorithm(), b"x"), Timestamp::NEVER),
    ] {
        let record = TagRecord {
            digest,
            fetched_at: at,
            validated_at: at,
        };
        let named = Tag::parse("1.0").unwrap();
        far.store
            .inner()
            .put_tag(&origin(), &named, record)
            .await
            .unwrap();
        far.import(&archive).await.unwrap();
        let record = recorded(&far, "1.0").await.unwrap();
        assert_eq!((record.digest, record.validated_at), (root, validated_at));
    }
}

/// Whoever asks why it is here learns that it was imported, and the origin is charged for it.
#[tokio::test]
async fn where_it_came_from_is_noted() {
    let (archive, root) = archive().await;
    let far = Held::offline().await;
    far.import(&archive).await.unwrap();
    let target = LinkTarget::Manifest(root);
    let record = far.store.inner().record(target).await.unwrap().unwrap();
    let provenance = record.provenance.unwrap();
    assert_eq!(provenance.origin, origin());
    assert_eq!(provenance.endpoint.as_deref(), Some("import"));
    let usage = far.store.inner().usage().await.unwrap();
    let charges = far.store.inner().charges(None, None, 10).await.unwrap();
    let charged: u64 = charges.iter().map(|charge| charge.bytes).sum();
    assert_eq!(charged, usage.bytes);
}

/// The files of an archive with another index.
fn with_index(archive: &[u8], change: impl Fn(&mut Value)) -> Vec<u8> {
    let mut files = files_of(archive);
    for file in &mut files {
        if file.path == "index.json" {
            let mut index: Value = serde_json::from_slice(&file.bytes).unwrap();
            change(&mut index);
            file.bytes = serde_json::to_vec(&index).unwrap();
        }
    }
    archive_of(&files)
}

fn named(archive: &[u8], annotations: &Value) -> Vec<u8> {
    with_index(archive, |index| {
        index["manifests"][0]["annotations"] = annotations.clone();
    })
}

#[tokio::test]
async fn names_are_the_archives_or_the_ones_that_are_given() {
    let (archive, root) = archive().await;
    let ref_name = "org.opencontainers.image.ref.name";
    let whole = format!("{UPSTREAM}/{REPOSITORY}:2");
    for (annotations, given, expected) in [
        // skopeo's, docker's and podman's.
        (
            json!({ref_name: "2"}),
            None,
            Err("does not say which registry"),
        ),
        (
            json!({ref_name: "2", "io.containerd.image.name": whole}),
            None,
            Ok("2"),
        ),
        (json!({ref_name: whole}), None, Ok("2")),
        (json!({}), None, Err("it has no name")),
        (
            json!({ref_name: "app:2"}),
            None,
            Err("does not say which registry"),
        ),
        (
            json!({ref_name: "other.example/app:2"}),
            None,
            Err("is not configured"),
        ),
        (
            json!({ref_name: "origin.example/App:2"}),
            None,
            Err("upper-case"),
        ),
        (json!({ref_name: "2"}), Some("library/app"), Ok("2")),
        (json!({ref_name: "2"}), Some("library/app:3"), Ok("3")),
        (json!({ref_name: whole}), Some("library/app"), Ok("2")),
        (json!({}), Some("origin.example/library/app:3"), Ok("3")),
        (json!({}), Some("library/app"), Err("tells no tag")),
        (
            json!({}),
            Some("other.example/app:3"),
            Err("is not configured"),
        ),
    ] {
        let archive = named(&archive, &annotations);
        let far = Held::offline().await;
        let upstream = UpstreamId::parse(UPSTREAM).unwrap();
        let name = given.map(|given| ImportName::parse(given, &upstream, |_| false).unwrap());
        let (cache, progress) = (far.mirror.cache(), Progress::new());
        let archive = in_pieces(&archive);
        let outcome = import_archive(cache, archive, name.as_ref(), &progress).await;
        match (outcome, expected) {
            (Ok(report), Ok(tag)) => {
                assert_eq!(
                    report.images[0].name,
                    format!("{UPSTREAM}/{REPOSITORY}:{tag}")
                );
                assert_eq!(recorded(&far, tag).await.unwrap().digest, root);
            }
            (Err(error), Err(says)) => {
                let error = error.to_string();
                assert!(error.contains(says), "{annotations} {given:?}: {error}");
                far.await_empty().await;
            }
            (outcome, _) => panic!("{annotations} {given:?}: {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn an_image_that_is_not_whole_is_left_out_and_told_of() {
    let (archive, root) = archive().await;
    let mut files = files_of(&archive);
    // The last of the first platform's: a layer of each is larger than all else.
    let layer = files.iter().rposition(|file| file.bytes.len() == 30_000);
    files.remove(layer.unwrap());
    let far = Held::offline().await;
    let report = far.import(&archive_of(&files)).await.unwrap();
    assert_eq!(
        report.images[0].platforms.len(),
        1,
        "one platform is whole: {report:?}"
    );
    assert_eq!(recorded(&far, "1.0").await.unwrap().digest, root);

    let layer = files.iter().rposition(|file| file.bytes.len() == 30_000);
    files.remove(layer.unwrap());
    let far = Held::offline().await;
    let report = far.import(&archive_of(&files)).await.unwrap();
    assert_eq!(report.images, []);
    assert!(
        report.failures[0].reason.contains("is not whole"),
        "{report:?}"
    );
    assert_eq!(recorded(&far, "1.0").await, None);
    far.await_empty().await;
}

#[tokio::test]
async fn what_no_image_needs_is_not_kept() {
    let (archive, _) = archive().await;
    let mut files = files_of(&archive);
    let stray = b"nobody names this".to_vec();
    let digest = Hasher::digest_of(registry_core::Algorithm::Sha256, &stray);
    let path = format!("blobs/sha256/{}", digest.encoded());
    files.insert(2, File::new(path, stray));
    let far = Held::offline().await;
    let report = far.import(&archive_of(&files)).await.unwrap();
    assert_eq!(report.contents_unused, 1);
    let usage = far.store.inner().usage().await.unwrap();
    assert_eq!(usage.blobs + usage.manifests, report.contents);
}
