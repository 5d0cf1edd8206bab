//! Archives that nobody means well with.

use registry_core::{Algorithm, Digest, Hasher, Limits};
use registry_server::Mirror;
use registry_server::testing::{FixtureRegistry, ImageSpec};
use tar::{Builder, EntryType, Header};

use crate::support::{
    File, Held, REPOSITORY, UPSTREAM, archive_of, everything, files_of, in_pieces,
};

fn blob(bytes: &[u8]) -> File {
    let digest = Hasher::digest_of(Algorithm::Sha256, bytes);
    File::new(format!("blobs/sha256/{}", digest.encoded()), bytes)
}

/// A header as it is, whatever it says.
fn raw(path: &str, kind: EntryType, size: u64) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn raw_file(path: &str, bytes: &[u8]) -> Vec<u8> {
    let mut file = raw(path, EntryType::Regular, bytes.len() as u64);
    file.extend_from_slice(bytes);
    file.resize(file.len().next_multiple_of(512), 0);
    file
}

/// Between the files of a good archive.
fn within(good: &[u8], entry: &[u8]) -> Vec<u8> {
    [entry, good].concat()
}

fn pax(key: &str, value: &str) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    builder
        .append_pax_extensions([(key, value.as_bytes())])
        .unwrap();
    std::mem::take(builder.get_mut())
}

async fn good() -> Vec<u8> {
    let registry = FixtureRegistry::start().await;
    let spec = ImageSpec::new(1).layers(&[5_000]);
    registry.add_image(REPOSITORY, "1.0", &spec);
    let near = Held::of(&registry.url()).await;
    near.export(&everything("1.0")).await
}

fn without(files: &[File], path: &str) -> Vec<File> {
    let kept = files.iter().filter(|file| file.path != path);
    kept.cloned().collect()
}

fn with(files: &[File], path: &str, bytes: &[u8]) -> Vec<u8> {
    let mut files = without(files, path);
    files.push(File::new(path, bytes));
    archive_of(&files)
}

#[tokio::test]
async fn what_is_refused_leaves_nothing() {
    let good = good().await;
    let files = files_of(&good);
    let content = files[2].clone();
    let mut flipped = good.clone();
    let layer = flipped
        .windows(512)
        .rposition(|block| block.starts_with(b"blobs/"))
        .unwrap();
    flipped[layer + 512 + 100] ^= 1;
    let mut broken = good.clone();
    broken[3] ^= 1;
    let huge = raw(&blob(b"x").path, EntryType::Regular, 1 << 60);
    let mut long_name = raw("././@LongLink", EntryType::GNULongName, 1 << 40);
    long_name.resize(2_048, b'a');
    let zeros = vec![0; 1_024];
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", Vec::new(), "cut short"),
        ("no tar", b"<html>no</html>".repeat(100), "no tar"),
        ("an empty tar", zeros.clone(), "no index.json"),
        ("a damaged header", broken, "checksum"),
        ("wrong content", flipped, "wrong content"),
        (
            "a path upwards",
            within(&good, &raw_file("blobs/../../x", b"x")),
            "path",
        ),
        (
            "a path from the root",
            within(&good, &raw_file("/etc/passwd", b"x")),
            "path",
        ),
        (
            "a windows path",
            within(&good, &raw_file("blobs\\x", b"x")),
            "path",
        ),
        (
            "a path upwards in a record",
            within(&good, &[pax("path", "../x"), raw_file("x", b"x")].concat()),
            "path",
        ),
        (
            "a symbolic link",
            within(&good, &raw("index.json", EntryType::Symlink, 0)),
            "a link",
        ),
        (
            "a hard link",
            within(&good, &raw(&content.path, EntryType::Link, 0)),
            "a link",
        ),
        (
            "a device",
            within(&good, &raw("null", EntryType::Char, 0)),
            "neither a file",
        ),
        (
            "a pipe",
            within(&good, &raw("pipe", EntryType::Fifo, 0)),
            "neither a file",
        ),
        (
            "a file with holes",
            within(&good, &raw("x", EntryType::GNUSparse, 0)),
            "neither a file",
        ),
        (
            "holes in a record",
            within(
                &good,
                &[pax("GNU.sparse.major", "1"), raw_file("x", b"x")].concat(),
            ),
            "holes",
        ),
        (
            "a long name of a terabyte",
            within(&good, &long_name),
            "are the most",
        ),
        (
            "a size that is none",
            within(&good, &[pax("size", "-1"), raw_file("x", b"x")].concat()),
            "nothing that can be read",
        ),
        (
            "a blob of an exabyte",
            [huge, vec![7; 4_096]].concat(),
            "cut short",
        ),
        (
            "content twice",
            archive_of(&[&files[..], std::slice::from_ref(&content)].concat()),
            "twice",
        ),
        (
            "the index twice",
            archive_of(&[&files[..], &files[1..2]].concat()),
            "index.json twice",
        ),
        (
            "the layout twice",
            archive_of(&[&files[..], &files[..1]].concat()),
            "oci-layout twice",
        ),
        (
            "no digest for a name",
            with(&files, "blobs/sha256/abc", b"x"),
            "named after a digest",
        ),
        (
            "content below a digest",
            with(&files, &format!("{}/x", content.path), b"x"),
            "digest",
        ),
        (
            "no layout",
            archive_of(&without(&files, "oci-layout")),
            "no file oci-layout",
        ),
        (
            "no index",
            archive_of(&without(&files, "index.json")),
            "no index.json",
        ),
        (
            "another version",
            with(&files, "oci-layout", br#"{"imageLayoutVersion":"2.0.0"}"#),
            "version 2.0.0",
        ),
        (
            "an index of nothing",
            with(&files, "index.json", b"{}"),
            "not readable",
        ),
        (
            "an index without images",
            with(
                &files,
                "index.json",
                br#"{"schemaVersion":2,"manifests":[]}"#,
            ),
            "lists no image",
        ),
        (
            "an index of 5 MB",
            with(&files, "index.json", &vec![b' '; 5 << 20]),
            "are the most",
        ),
        (
            "docker's of old",
            archive_of(&[File::new("manifest.json", "[]")]),
            "docker-archive",
        ),
        (
            "more behind the end",
            [&good[..], &good[..]].concat(),
            "behind its end",
        ),
        (
            "zstd",
            [&[0x28, 0xb5, 0x2f, 0xfd][..], &good[..]].concat(),
            "zstd -dc",
        ),
        ("xz", b"\xfd7zXZ\0more".to_vec(), "xz -dc"),
        (
            "gzip of something else",
            b"\x1f\x8b\x08 and then nothing that is".to_vec(),
            "could not be read",
        ),
    ];
    let far = Held::offline().await;
    for (what, archive, says) in cases {
        let error = far.import(&archive).await.expect_err(what).to_string();
        assert!(error.contains(says), "{what}: {error}");
        far.await_empty().await;
    }
}

/// Every limit that an archive can run into.
#[tokio::test]
async fn limits_hold() {
    let many: Vec<File> = (0..20_u8).map(|n| blob(&[n])).collect();
    let versioned = br#"{"schemaVersion":2,"layers":[]}"#;
    for (limits, files, says) in [
        (
            Limits {
                transfer_entries_max: 19,
                ..Limits::default()
            },
            many.clone(),
            "more than 19 manifests and blobs",
        ),
        (
            Limits {
                transfer_manifest_bytes_max: 10,
                ..Limits::default()
            },
            vec![blob(versioned)],
            "more than 10 bytes of manifests",
        ),
        (
            Limits {
                transfers_max: 0,
                ..Limits::default()
            },
            many,
            "too many exports and imports",
        ),
    ] {
        let mirror = Mirror::builder()
            .stores(registry_core::Stores::of(
                registry_core::MemoryStore::new().into(),
            ))
            .cache_limits(limits)
            .upstream(UPSTREAM, crate::support::NOWHERE)
            .start()
            .await
            .unwrap();
        let archive = in_pieces(&archive_of(&files));
        let progress = registry_core::Progress::new();
        let import =
            registry_server::archive::import_archive(mirror.cache(), archive, None, &progress);
        let error = import.await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

/// A manifest that is larger than any client reads is content like any other, and so nobody's
/// manifest.
#[tokio::test]
async fn an_oversized_manifest_is_none() {
    let mut manifest = br#"{"schemaVersion":2,"layers":[]}"#.to_vec();
    manifest.resize(5 << 20, b' ');
    let file = blob(&manifest);
    let digest = Hasher::digest_of(Algorithm::Sha256, &manifest);
    let archive = archive_of(&layout_of(digest, manifest.len(), vec![file]));
    let far = Held::offline().await;
    let report = far.import(&archive).await.unwrap();
    assert_eq!(report.images, []);
    assert!(
        report.failures[0].reason.contains("is not whole"),
        "{report:?}"
    );
    far.await_empty().await;
}

/// A document that both ways of reading it understand differently (CVE-2021-41190).
#[tokio::test]
async fn an_ambiguous_manifest_is_none() {
    let manifest = br#"{"schemaVersion":2,"layers":[],"manifests":[]}"#;
    let digest = Hasher::digest_of(Algorithm::Sha256, manifest);
    let archive = archive_of(&layout_of(digest, manifest.len(), vec![blob(manifest)]));
    let far = Held::offline().await;
    let report = far.import(&archive).await.unwrap();
    assert!(
        report.failures[0].reason.contains("is no manifest"),
        "{report:?}"
    );
    far.await_empty().await;
}

fn layout_of(root: Digest, size: usize, blobs: Vec<File>) -> Vec<File> {
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": root.to_string(),
        "size": size,
        "annotations": {"io.containerd.image.name": format!("{UPSTREAM}/{REPOSITORY}:1")},
    }]});
    let mut files = vec![
        File::new("oci-layout", &br#"{"imageLayoutVersion":"1.0.0"}"#[..]),
        File::new("index.json", serde_json::to_vec(&index).unwrap()),
    ];
    files.extend(blobs);
    files
}
