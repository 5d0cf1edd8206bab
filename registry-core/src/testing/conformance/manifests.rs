//! The promises of [`ManifestStore`].

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;

use super::drop_after;
use crate::{Algorithm, Hasher, Manifest, ManifestStore, MediaType};

/// Runs every case, each on a store of its own that `make` gives: fresh and empty.
///
/// # Panics
///
/// Where the store breaks its contract.
pub async fn all<F, Fut>(make: F)
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Arc<dyn ManifestStore>> + Send,
{
    a_manifest_is_given_back_byte_for_byte(make().await).await;
    a_large_manifest_is_given_back(make().await).await;
    what_is_not_there_is_absent(make().await).await;
    the_first_media_type_is_kept(make().await).await;
    concurrent_media_types_settle(make().await).await;
    algorithms_are_apart(make().await).await;
    a_removed_manifest_can_come_back(make().await).await;
    a_dropped_put_is_all_or_nothing(make().await).await;
}

/// Bytes, digest and media type are what was put (I9), whatever the JSON looks like.
pub async fn a_manifest_is_given_back_byte_for_byte(store: Arc<dyn ManifestStore>) {
    for (content_type, json) in [
        (Some(MediaType::OCI_MANIFEST), r#"{"layers":[]}"#),
        (
            Some(MediaType::DOCKER_MANIFEST),
            "{\n   \"layers\" : [\t]\r\n}\n",
        ),
        (
            None,
            r#"{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
        ),
        (
            Some("application/vnd.example.thing"),
            r#"{"x":"\u00e9","x":2}"#,
        ),
        (Some(MediaType::DOCKER_LIST), r#" {"manifests":[]} "#),
    ] {
        let manifest = manifest(content_type, json);
        put(&*store, &manifest).await;
        let kept = get(&*store, &manifest)
            .await
            .expect("what was put is there");
        assert_eq!(kept.bytes(), json.as_bytes());
        assert_eq!(kept, manifest, "{json}");
    }
}

/// A manifest of the largest size that a mirror accepts.
pub async fn a_large_manifest_is_given_back(store: Arc<dyn ManifestStore>) {
    let filler = "x".repeat((4 << 20) - 30);
    let manifest = manifest(None, &format!(r#"{{"layers":[],"filler":"{filler}"}}"#));
    put(&*store, &manifest).await;
    assert_eq!(get(&*store, &manifest).await, Some(manifest));
}

/// Absence is `None` or `false`, never an error.
pub async fn what_is_not_there_is_absent(store: Arc<dyn ManifestStore>) {
    let manifest = manifest(None, r#"{"layers":[]}"#);
    assert_eq!(get(&*store, &manifest).await, None);
    let removed = store.remove_manifest(manifest.digest()).await;
    assert!(!removed.expect("remove"));
}

/// A second put under another type changes nothing: no upstream can give a new type to content
/// that another brought.
pub async fn the_first_media_type_is_kept(store: Arc<dyn ManifestStore>) {
    let first = manifest(Some(MediaType::DOCKER_MANIFEST), r#"{"layers":[]}"#);
    let second = manifest(Some(MediaType::OCI_MANIFEST), r#"{"layers":[]}"#);
    assert_eq!(first.digest(), second.digest());
    put(&*store, &first).await;
    put(&*store, &second).await;
    assert_eq!(get(&*store, &first).await.as_ref(), Some(&first));

    // Once it is removed there is no first.
    store.remove_manifest(first.digest()).await.expect("remove");
    put(&*store, &second).await;
    assert_eq!(get(&*store, &first).await, Some(second));
}

/// Puts of several types at once leave one of them, for good.
pub async fn concurrent_media_types_settle(store: Arc<dyn ManifestStore>) {
    let types: Vec<String> = (0..8)
        .map(|n| format!("application/vnd.example.{n}"))
        .collect();
    let manifests: Vec<Manifest> = types
        .iter()
        .map(|kind| manifest(Some(kind), r#"{"x":1}"#))
        .collect();
    for put in join_all(manifests.iter().map(|one| store.put_manifest(one.clone()))).await {
        put.expect("put");
    }
    let kept = get(&*store, &manifests[0]).await.expect("one was kept");
    assert!(manifests.contains(&kept));
    for other in &manifests {
        put(&*store, other).await;
        assert_eq!(get(&*store, other).await.as_ref(), Some(&kept));
    }
}

/// The same bytes under another algorithm's digest are another manifest.
pub async fn algorithms_are_apart(store: Arc<dyn ManifestStore>) {
    let json = Bytes::from_static(br#"{"layers":[]}"#);
    let sha256 = manifest(None, r#"{"layers":[]}"#);
    let digest = Hasher::digest_of(Algorithm::Sha512, &json);
    let sha512 = Manifest::verify(None, json, digest).expect("it is a manifest");
    put(&*store, &sha512).await;
    assert_eq!(get(&*store, &sha512).await.as_ref(), Some(&sha512));
    assert_eq!(get(&*store, &sha256).await, None);
}

/// Removal takes the one manifest, and is not for ever.
pub async fn a_removed_manifest_can_come_back(store: Arc<dyn ManifestStore>) {
    let other = manifest(None, r#"{"layers":[],"other":1}"#);
    put(&*store, &other).await;
    let manifest = manifest(None, r#"{"layers":[]}"#);
    for _ in 0..3 {
        put(&*store, &manifest).await;
        assert_eq!(get(&*store, &manifest).await.as_ref(), Some(&manifest));
        let digest = manifest.digest();
        assert!(store.remove_manifest(digest).await.expect("remove"));
        assert!(!store.remove_manifest(digest).await.expect("remove again"));
        assert_eq!(store.manifest_at_hand(digest), None);
        assert_eq!(get(&*store, &manifest).await, None);
    }
    assert_eq!(get(&*store, &other).await.as_ref(), Some(&other));
}

/// A put that is no longer waited for has happened or has not, and can be repeated.
pub async fn a_dropped_put_is_all_or_nothing(store: Arc<dyn ManifestStore>) {
    for polls in 0..4 {
        let manifest = manifest(None, &format!(r#"{{"layers":[],"polls":{polls}}}"#));
        drop_after(store.put_manifest(manifest.clone()), polls).await;
        if let Some(kept) = get(&*store, &manifest).await {
            assert_eq!(kept, manifest, "after {polls} polls");
        }
        put(&*store, &manifest).await;
        assert_eq!(get(&*store, &manifest).await, Some(manifest));
    }
}

fn manifest(content_type: Option<&str>, json: &str) -> Manifest {
    let content_type = content_type.map(|text| MediaType::parse(text).expect("a media type"));
    let bytes = Bytes::copy_from_slice(json.as_bytes());
    Manifest::of_bytes(content_type.as_ref(), bytes).expect("a test's manifest is one")
}

async fn put(store: &dyn ManifestStore, manifest: &Manifest) {
    store.put_manifest(manifest.clone()).await.expect("put");
}

async fn get(store: &dyn ManifestStore, manifest: &Manifest) -> Option<Manifest> {
    store.manifest(manifest.digest()).await.expect("manifest")
}
