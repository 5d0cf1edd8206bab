//! What a store that is all five must keep apart.

use bytes::Bytes;
use futures::TryStreamExt as _;

use super::{origin, tag};
use crate::testing::content::put_blob;
use crate::{
    BlobStat, Link, LinkTarget, Manifest, MediaType, ReferrersRecord, Stores, TagRecord, Timestamp,
};

/// Runs every case, each on stores of its own that `make` gives: fresh and empty, but together.
///
/// # Panics
///
/// Where the stores break their contracts.
pub async fn all<F, Fut>(make: F)
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Stores> + Send,
{
    blobs_and_manifests_are_apart(make().await).await;
    records_do_not_hang_together(make().await).await;
}

/// A manifest is no blob, and a blob no manifest, even where their bytes are the same: or else a
/// layer could be served as a manifest.
pub async fn blobs_and_manifests_are_apart(stores: Stores) {
    let Stores {
        blobs, manifests, ..
    } = stores;
    let bytes = Bytes::from_static(br#"{"layers":[]}"#);
    let kind = MediaType::parse(MediaType::OCI_MANIFEST).expect("a media type");
    let manifest = Manifest::of_bytes(Some(&kind), bytes.clone()).expect("a manifest");
    let digest = manifest.digest();

    manifests.put_manifest(manifest.clone()).await.expect("put");
    assert_eq!(blobs.stat(digest).await.expect("stat"), None);
    assert!(blobs.open(digest, None).await.expect("open").is_none());
    let listed: Vec<BlobStat> = blobs.list().try_collect().await.expect("list");
    assert_eq!(listed, []);
    assert!(!blobs.remove(digest).await.expect("remove"));
    let found = manifests.manifest(digest).await.expect("manifest");
    assert_eq!(found.as_ref(), Some(&manifest), "the removal was of a blob");

    assert_eq!(put_blob(&*blobs, &bytes).await.expect("put"), digest);
    assert!(manifests.remove_manifest(digest).await.expect("remove"));
    assert_eq!(manifests.manifest(digest).await.expect("manifest"), None);
    assert!(blobs.stat(digest).await.expect("stat").is_some());
    assert!(!manifests.remove_manifest(digest).await.expect("remove"));
    assert!(blobs.remove(digest).await.expect("remove"));
}

/// A tag is no link, a link stores nothing, and neither asks for the content to be there.
pub async fn records_do_not_hang_together(stores: Stores) {
    let Stores {
        blobs,
        manifests,
        tags,
        links,
        referrers,
        ..
    } = stores;
    let at = origin("x", "a");
    let name = tag("latest");
    let bytes = Bytes::from_static(br#"{"layers":[]}"#);
    let digest = Manifest::of_bytes(None, bytes)
        .expect("a manifest")
        .digest();
    let record = TagRecord {
        digest,
        fetched_at: Timestamp::from_millis(1),
        validated_at: Timestamp::from_millis(2),
    };
    tags.put_tag(&at, &name, record.clone()).await.expect("put");
    let target = LinkTarget::Manifest(digest);
    assert_eq!(links.linked(&at, target).await.expect("linked"), None);
    let origins = links.origins(None, None, 10).await.expect("origins");
    assert_eq!(origins, []);
    let none = ReferrersRecord {
        referrers: None,
        validated_at: Timestamp::from_millis(3),
    };
    referrers
        .put_referrers(&at, digest, none.clone())
        .await
        .expect("put");
    let origins = links.origins(None, None, 10).await.expect("origins");
    assert_eq!(origins, []);
    let link = Link { target, size: None };
    links.link(&at, vec![link]).await.expect("link");
    assert_eq!(manifests.manifest(digest).await.expect("manifest"), None);
    assert_eq!(blobs.stat(digest).await.expect("stat"), None);
    assert!(tags.remove_tag(&at, &name).await.expect("remove"));
    let linked = links.linked(&at, target).await.expect("linked");
    assert_eq!(linked, Some(link));
    assert!(links.unlink(&at, target).await.expect("unlink"));
    let found = referrers.referrers(&at, digest).await.expect("referrers");
    assert_eq!(found, Some(none));
}
