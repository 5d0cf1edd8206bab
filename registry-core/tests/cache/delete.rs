//! `delete`: what goes, what stays and why, and that the next pull fetches anew.

use registry_core::cache::{Deleted, StillNeeded};
use registry_core::testing::content::sample;
use registry_core::testing::{Fault, StoreCall};
use registry_core::{
    BlobStore as _, CacheError, CacheStatus, JournalStore as _, Link, LinkStore as _, LinkTarget,
    Pin, Reference, RemovalReason, StoreError, TagStore as _, Timestamp,
};

use super::kept::{add_image, add_index, kept, name_it, push_image, reference};
use super::support::{Mirror, hold, one, read, tag};

async fn delete(mirror: &Mirror, text: &str) -> Result<Option<Deleted>, CacheError> {
    mirror.cache.delete(&one(), &reference(text)).await
}

async fn pin(mirror: &Mirror, pin: &str) {
    let pin = Pin::parse(pin).unwrap();
    let put = mirror.store.inner().put_pin(pin, Timestamp::default());
    put.await.unwrap();
}

#[tokio::test]
async fn an_image_goes_with_all_that_only_it_needs() {
    let mirror = kept();
    let shared = sample(1_000, 1);
    let first = add_image(
        &mirror.one,
        "a",
        "linux/amd64",
        &[shared.clone(), sample(500, 2)],
    );
    let second = add_image(
        &mirror.one,
        "b",
        "linux/arm64",
        std::slice::from_ref(&shared),
    );
    name_it(&mirror.one, "1", &first.manifest);
    name_it(&mirror.one, "2", &second.manifest);
    mirror.pull("1").await;
    mirror.pull("2").await;
    let deleted = delete(&mirror, "1").await.unwrap().unwrap();
    assert_eq!(
        deleted,
        Deleted {
            digest: first.digest(),
            tags: 1,
            manifests: 1,
            blobs: 2,
            bytes: first.bytes - 1_000,
            kept: None,
        }
    );
    assert_eq!(mirror.usage().await.bytes, second.bytes);
    // Nothing is left that names it.
    let store = mirror.store.inner();
    let own = first.layers[1].0;
    for target in [LinkTarget::Manifest(first.digest()), LinkTarget::Blob(own)] {
        assert_eq!(store.linked(&one(), target).await.unwrap(), None);
    }
    assert_eq!(store.tag(&one(), &tag("1")).await.unwrap(), None);
    // It is written down, once.
    let removals = mirror.removals().await;
    let [removal] = &removals[..] else {
        panic!("one: {removals:?}");
    };
    assert_eq!(removal.target, LinkTarget::Manifest(first.digest()));
    assert_eq!(removal.tags, [(one(), tag("1"))]);
    assert_eq!(removal.origins, [one()]);
    assert_eq!(
        (removal.bytes, removal.reason),
        (first.bytes - 1_000, RemovalReason::Deleted)
    );
    let counted = mirror.cache.evictions().of(RemovalReason::Deleted);
    assert_eq!((counted.count, counted.bytes), (1, first.bytes - 1_000));
    // It is fetched anew, and the layer that stayed is not.
    let before = mirror.one.calls();
    mirror.pull("1").await;
    let after = mirror.one.calls();
    assert_eq!(
        (after.manifest - before.manifest, after.blob - before.blob),
        (1, 2)
    );
    assert_eq!(delete(&mirror, "3").await.unwrap(), None);
}

#[tokio::test]
async fn a_tag_goes_alone_where_something_else_needs_what_it_names() {
    let mirror = kept();
    let image = push_image(&mirror.one, "1", 100, 1);
    name_it(&mirror.one, "2", &image.manifest);
    let index = add_index(&mirror.one, &[("linux/amd64", &image)]);
    name_it(&mirror.one, "3", &index);
    for text in ["1", "2", "3"] {
        mirror.pull(text).await;
    }
    let usage = mirror.usage().await;
    let kept = |deleted: Option<Deleted>| {
        let deleted = deleted.unwrap();
        assert_eq!((deleted.tags, deleted.manifests, deleted.bytes), (1, 0, 0));
        deleted.kept
    };
    let other_tag = Some(StillNeeded::Tagged(one(), tag("2")));
    assert_eq!(kept(delete(&mirror, "1").await.unwrap()), other_tag);
    let listed = Some(StillNeeded::Listed(index.digest()));
    assert_eq!(kept(delete(&mirror, "2").await.unwrap()), listed);
    assert_eq!(mirror.usage().await, usage);
    // With the index, all of it goes.
    let deleted = delete(&mirror, "3").await.unwrap().unwrap();
    assert_eq!(
        (deleted.manifests, deleted.blobs, deleted.kept),
        (2, 2, None)
    );
    assert_eq!(mirror.usage().await.bytes, 0);
}

#[tokio::test]
async fn of_an_index_what_others_need_stays() {
    let mirror = kept();
    let tagged = push_image(&mirror.one, "1", 100, 1);
    let listed = add_image(&mirror.one, "b", "linux/arm64", &[sample(100, 2)]);
    let alone = add_image(&mirror.one, "c", "linux/s390x", &[sample(100, 3)]);
    let index = add_index(
        &mirror.one,
        &[
            ("linux/amd64", &tagged),
            ("linux/arm64", &listed),
            ("linux/s390x", &alone),
        ],
    );
    let other = add_index(&mirror.one, &[("linux/arm64", &listed)]);
    name_it(&mirror.one, "2", &index);
    name_it(&mirror.one, "3", &other);
    for text in ["1", "2", "3"] {
        mirror.pull(text).await;
    }
    let digest = alone.digest().to_string();
    let manifest = mirror.get(&digest).await.unwrap().value;
    mirror.pull_blobs(&manifest).await;
    let deleted = delete(&mirror, "2").await.unwrap().unwrap();
    assert_eq!((deleted.manifests, deleted.blobs), (2, 2));
    assert_eq!(deleted.bytes, index.descriptor().size + alone.bytes);
    assert!(mirror.holds_manifest(tagged.digest()).await);
    assert!(mirror.holds_manifest(listed.digest()).await);
    assert!(!mirror.holds_manifest(alone.digest()).await);
}

#[tokio::test]
async fn what_is_pinned_is_not_deleted_and_that_is_said() {
    let mirror = kept();
    let image = push_image(&mirror.one, "1", 100, 1);
    let index = add_index(&mirror.one, &[("linux/amd64", &image)]);
    name_it(&mirror.one, "2", &index);
    mirror.pull("2").await;
    pin(&mirror, "one.example/library/app:2").await;
    // By tag, by digest, and what the pinned index needs.
    for text in [
        "2".to_owned(),
        index.digest().to_string(),
        image.digest().to_string(),
    ] {
        let error = delete(&mirror, &text).await.unwrap_err();
        let told = "pinned by one.example/library/app:2: unpin that first";
        assert_eq!(error.to_string(), told, "{text}");
    }
    assert!(mirror.holds_manifest(image.digest()).await);
    assert_eq!(mirror.removals().await, []);
    // A tag of what is pinned otherwise goes alone.
    mirror.pull("1").await;
    let deleted = delete(&mirror, "1").await.unwrap().unwrap();
    assert_eq!(deleted.kept, Some(StillNeeded::Listed(index.digest())));
}

#[tokio::test]
async fn a_pinned_child_stays_when_its_index_goes() {
    let mirror = kept();
    let image = add_image(&mirror.one, "a", "linux/amd64", &[sample(100, 1)]);
    let index = add_index(&mirror.one, &[("linux/amd64", &image)]);
    name_it(&mirror.one, "1", &index);
    mirror.pull("1").await;
    pin(
        &mirror,
        &format!("one.example/library/app@{}", image.digest()),
    )
    .await;
    let deleted = delete(&mirror, "1").await.unwrap().unwrap();
    assert_eq!((deleted.manifests, deleted.blobs), (1, 0));
    assert_eq!(mirror.usage().await.bytes, image.bytes);
}

#[tokio::test]
async fn by_digest_every_tag_goes() {
    let mirror = kept();
    let image = push_image(&mirror.one, "1", 100, 1);
    name_it(&mirror.one, "2", &image.manifest);
    mirror.pull("1").await;
    mirror.pull("2").await;
    let deleted = delete(&mirror, &image.digest().to_string()).await;
    let deleted = deleted.unwrap().unwrap();
    assert_eq!(
        (deleted.tags, deleted.manifests, deleted.bytes),
        (2, 1, image.bytes)
    );
    assert_eq!(mirror.usage().await.bytes, 0);
    // It was never in another repository.
    mirror.pull("1").await;
    let elsewhere = super::support::origin("one.example", "library/other");
    let digest = Reference::Digest(image.digest());
    assert_eq!(
        mirror.cache.delete(&elsewhere, &digest).await.unwrap(),
        None
    );
}

#[tokio::test]
async fn a_body_that_is_being_read_is_read_to_its_end() {
    let mirror = kept();
    let image = push_image(&mirror.one, "1", 300_000, 1);
    mirror.pull("1").await;
    let (layer, bytes) = image.layers[0].clone();
    let served = mirror.blob(&one(), layer, None).await.unwrap();
    assert_eq!(served.status, CacheStatus::Hit);
    delete(&mirror, "1").await.unwrap();
    assert!(!mirror.holds_blob(layer).await);
    assert_eq!(read(served.value).await.unwrap(), bytes);
    // Whoever had the manifest goes on, too: the upstream is asked, and has it.
    let served = mirror.blob(&one(), layer, None).await.unwrap();
    assert_eq!(read(served.value).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_fill_under_way_goes_on() {
    let mirror = kept();
    let image = push_image(&mirror.one, "1", 300_000, 1);
    mirror.get("1").await.unwrap();
    let (layer, bytes) = image.layers[0].clone();
    let gate = hold(&mirror.one, &bytes, 100_000);
    let served = mirror.blob(&one(), layer, None).await.unwrap();
    let deleted = delete(&mirror, "1").await.unwrap().unwrap();
    assert_eq!((deleted.manifests, deleted.blobs), (1, 0));
    gate.open();
    assert_eq!(read(served.value).await.unwrap(), bytes);
    mirror.idle().await;
    assert_eq!(mirror.one.calls().blob, 1);
    let one = one();
    let linked = mirror.store.inner().linked(&one, LinkTarget::Blob(layer));
    assert!(matches!(linked.await.unwrap(), Some(Link { .. })));
}

#[tokio::test]
async fn what_fails_halfway_leaves_nothing_that_a_pull_does_not_mend() {
    let mirror = kept();
    let image = push_image(&mirror.one, "1", 100, 1);
    mirror.pull("1").await;
    let faults = mirror.store.faults();
    faults.fail_always(StoreCall::RemoveManifest, Fault::Io);
    assert!(matches!(
        delete(&mirror, "1").await,
        Err(CacheError::Store(StoreError::Io { .. }))
    ));
    faults.heal();
    // Nothing names it any more: no tag promises what may be gone.
    assert_eq!(
        mirror.store.inner().tag(&one(), &tag("1")).await.unwrap(),
        None
    );
    assert!(mirror.holds_manifest(image.digest()).await);
    mirror.pull("1").await;
    let deleted = delete(&mirror, "1").await.unwrap().unwrap();
    assert_eq!(deleted.bytes, image.bytes);
    assert_eq!(mirror.usage().await.bytes, 0);
    assert!(
        mirror
            .store
            .inner()
            .stat(image.config)
            .await
            .unwrap()
            .is_none()
    );
}
