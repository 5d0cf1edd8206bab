//! From a registry to one mirror, and from there to another that reaches nobody.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use http::Method;
use registry_core::cache::{CacheStatus, ExportError, ExportRequest, PlatformChoice};
use registry_core::{
    BlobPayload, CacheError, Caller, Descriptor, Digest, InventoryStore as _, LinkTarget, Platform,
    Reference, ReferrersPage, Tag, TagStore as _, Timestamp,
};
use registry_server::testing::{
    FixtureImage, FixtureRegistry, ImageFormat, ImageSpec, Object, ReferrersApi,
};

use crate::support::{
    Held, REPOSITORY, UPSTREAM, attached_tag, everything, files_of, in_pieces, origin, tag,
};

const PLATFORMS: [&str; 3] = ["linux/amd64", "linux/arm64", "linux/arm/v7"];
const SBOM: &str = "application/spdx+json";

fn spec() -> ImageSpec {
    ImageSpec::new(1)
        .platforms(&PLATFORMS)
        .layers(&[300_000, 10])
        .shared_layers(9, &[700_000])
}

/// An image under two kinds of attachments: a tag of its digest, and the referrers API.
async fn signed() -> (FixtureRegistry, FixtureImage, Descriptor) {
    let registry = FixtureRegistry::start().await;
    registry.behave(|behaviour| behaviour.referrers = Some(ReferrersApi::default()));
    let image = registry.add_image(REPOSITORY, "1.0", &spec());
    let signature = ImageSpec::new(77).layers(&[500]);
    let signature_tag = attached_tag(image.root().digest, ".sig");
    registry.add_image(REPOSITORY, &signature_tag, &signature);
    let content = Bytes::from_static(b"what is in it");
    let sbom = registry.add_referrer(
        REPOSITORY,
        &image.manifests[0],
        SBOM,
        &[("a", "b")],
        content,
    );
    (registry, image, sbom)
}

async fn manifest(held: &Held, reference: Reference) -> Result<(Bytes, CacheStatus), CacheError> {
    let cache = held.mirror.cache();
    let served = cache
        .manifest(&origin(), &reference, &Caller::Anonymous)
        .await?;
    Ok((served.value.bytes().clone(), served.status))
}

async fn blob(held: &Held, digest: Digest) -> Result<Bytes, CacheError> {
    let cache = held.mirror.cache();
    let served = cache
        .blob(&origin(), digest, None, &Caller::Anonymous)
        .await?;
    let BlobPayload::Stream(stream) = served.value.payload else {
        panic!("a store in memory has no files");
    };
    let chunks: Vec<Bytes> = stream.try_collect().await?;
    Ok(chunks.concat().into())
}

/// Pulls an image of one platform, as a client does.
async fn pull(held: &Held, image: &FixtureImage, name: &str, platform: usize) {
    manifest(held, tag(name)).await.unwrap();
    let child = &image.manifests[platform];
    let (bytes, _) = manifest(held, Reference::Digest(child.digest))
        .await
        .unwrap();
    let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let layers = document["layers"].as_array().unwrap();
    for named in layers.iter().chain([&document["config"]]) {
        let digest = Digest::parse(named["digest"].as_str().unwrap()).unwrap();
        blob(held, digest).await.unwrap();
    }
}

#[tokio::test]
async fn an_image_arrives_with_its_signatures_where_no_network_is() {
    let (registry, image, sbom) = signed().await;
    let near = Held::of(&registry.url()).await;
    let archive = near.export(&everything("1.0")).await;
    for blob in image.blobs() {
        assert_eq!(registry.blob_bytes_sent(&blob.digest), blob.size, "once");
    }

    let far = Held::offline().await;
    let report = far.import(&archive).await.unwrap();
    assert_eq!(report.failures, []);
    assert_eq!(report.contents_unused, 0);
    assert_eq!(report.attached, 2, "{report:?}");
    let [imported] = &report.images[..] else {
        panic!("one image: {report:?}");
    };
    assert_eq!(imported.name, format!("{UPSTREAM}/{REPOSITORY}:1.0"));
    assert_eq!(imported.platforms, PLATFORMS);

    // By tag: what is held, at once, and said to be stale. Nobody ever confirmed it here.
    let (here, name) = (origin(), tag("1.0"));
    let served = far
        .mirror
        .cache()
        .manifest(&here, &name, &Caller::Anonymous);
    let served = served.await.unwrap();
    assert!(matches!(served.status, CacheStatus::Stale(_)));
    assert_eq!(served.age, None);
    let root = image.root().digest;
    assert_eq!(Some(served.value.bytes()), registry.bytes(&root).as_ref());
    // By digest: all of it, byte for byte, as a hit.
    for child in &image.manifests {
        let (bytes, status) = manifest(&far, Reference::Digest(child.digest))
            .await
            .unwrap();
        assert_eq!(status, CacheStatus::Hit);
        assert_eq!(Some(bytes), registry.bytes(&child.digest));
    }
    for layer in image.blobs() {
        let bytes = blob(&far, layer.digest).await.unwrap();
        assert_eq!(Some(bytes), registry.bytes(&layer.digest));
    }
    // The signature, by its tag.
    let signature = tag(&attached_tag(root, ".sig"));
    let (bytes, _) = manifest(&far, signature.clone()).await.unwrap();
    assert_eq!(bytes, manifest(&near, signature).await.unwrap().0);
    // The SBOM, by the referrers API, with its descriptor as the registry wrote it.
    let subject = image.manifests[0].digest;
    let list = |held| list_referrers(held, subject);
    let listed = list(&far).await.unwrap();
    assert_eq!(listed, list(&near).await.unwrap());
    assert!(listed.contains(&sbom.digest.to_string()), "{listed}");
    manifest(&far, Reference::Digest(sbom.digest))
        .await
        .unwrap();
    // That the other manifests have none is an answer, too.
    let none = list_referrers(&far, image.manifests[1].digest)
        .await
        .unwrap();
    assert!(!none.contains("digest"), "{none}");
}

async fn list_referrers(held: &Held, subject: Digest) -> Result<String, CacheError> {
    let page = ReferrersPage {
        artifact_type: None,
        after: None,
        limit: 100,
    };
    let cache = held.mirror.cache();
    let listed = cache
        .referrers(&origin(), subject, page, &Caller::Anonymous)
        .await?;
    let index = listed.value.referrers.to_index();
    Ok(String::from_utf8(index.to_vec()).unwrap())
}

/// Whether a registry lists referrers for nobody is carried along: clients then look for the tag.
#[tokio::test]
async fn a_registry_without_the_referrers_api_is_without_it_elsewhere() {
    let registry = FixtureRegistry::start().await;
    registry.behave(|behaviour| behaviour.referrers = None);
    let image = registry.add_image(REPOSITORY, "1.0", &ImageSpec::new(1).layers(&[10]));
    let near = Held::of(&registry.url()).await;
    let far = Held::offline().await;
    far.import(&near.export(&everything("1.0")).await)
        .await
        .unwrap();
    let answer = list_referrers(&far, image.root().digest).await;
    assert!(
        matches!(answer, Err(CacheError::NotFoundStale { .. })),
        "{answer:?}"
    );
}

#[tokio::test]
async fn the_same_images_give_the_same_bytes() {
    let (registry, ..) = signed().await;
    registry.add_image("library/other", "2", &ImageSpec::new(5).layers(&[100]));
    let mut request = everything("1.0");
    let other = registry_core::Origin::new(
        origin().upstream().clone(),
        registry_core::Repository::parse("library/other").unwrap(),
    );
    request.images.push((other, tag("2")));
    let near = Held::of(&registry.url()).await;
    let archive = near.export(&request).await;
    near.clock.advance(Duration::from_secs(1_000));
    request.images.reverse();
    assert!(
        near.export(&request).await == archive,
        "later, in another order"
    );

    // And from a mirror that has it from the archive, and can ask nobody.
    let far = Held::offline().await;
    far.import(&archive).await.unwrap();
    request.held_only = true;
    assert!(far.export(&request).await == archive, "from another mirror");

    // It is what image-spec says, for any program.
    let files = files_of(&archive);
    assert_eq!(files[0].path, "oci-layout");
    assert_eq!(files[1].path, "index.json");
    let index: serde_json::Value = serde_json::from_slice(&files[1].bytes).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    for file in &files[2..] {
        let digest = file.path.strip_prefix("blobs/").unwrap().replace('/', ":");
        let digest = Digest::parse(&digest).unwrap();
        let actual = registry_core::Hasher::digest_of(digest.algorithm(), &file.bytes);
        assert_eq!(actual, digest);
    }
}

/// Without a choice, what was pulled goes along, and what was not is told of.
#[tokio::test]
async fn platforms_that_nobody_pulled_stay_behind() {
    let registry = FixtureRegistry::start().await;
    let image = registry.add_image(REPOSITORY, "1.0", &spec());
    let near = Held::of(&registry.url()).await;
    pull(&near, &image, "1.0", 1).await;
    registry.reset_counters();
    for held_only in [false, true] {
        let request = ExportRequest {
            platforms: PlatformChoice::Held,
            held_only,
            ..everything("1.0")
        };
        let report = near.begin_export(&request).await.unwrap().report;
        assert_eq!(report.images[0].platforms, ["linux/arm64"]);
        let left_out: Vec<_> = report.left_out.iter().map(|left| &left.platform).collect();
        let others = [PLATFORMS[0], PLATFORMS[2]].map(|other| Some(other.to_owned()));
        assert_eq!(left_out, others.iter().collect::<Vec<_>>());

        let far = Held::offline().await;
        let report = far.import(&near.export(&request).await).await.unwrap();
        assert_eq!(report.images[0].platforms, ["linux/arm64"]);
        // The index is the registry's (I9), and names what is not there.
        let (index, _) = manifest(&far, tag("1.0")).await.unwrap();
        assert_eq!(Some(index), registry.bytes(&image.root().digest));
        let held = Reference::Digest(image.manifests[1].digest);
        manifest(&far, held).await.unwrap();
        let absent = Reference::Digest(image.manifests[0].digest);
        assert!(manifest(&far, absent).await.is_err());
    }
    for object in [Object::Blob, Object::ManifestByDigest] {
        assert_eq!(
            registry.count(Method::GET, object),
            0,
            "nothing was fetched again"
        );
    }
}

#[tokio::test]
async fn only_the_platform_that_is_asked_for_is_fetched() {
    let registry = FixtureRegistry::start().await;
    let image = registry.add_image(REPOSITORY, "1.0", &spec());
    let near = Held::of(&registry.url()).await;
    let only = |text| ExportRequest {
        platforms: PlatformChoice::Only(vec![Platform::parse(text).unwrap()]),
        ..everything("1.0")
    };
    let report = near.begin_export(&only("linux/arm")).await.unwrap().report;
    assert_eq!(report.images[0].platforms, ["linux/arm/v7"]);
    near.export(&only("linux/arm")).await;
    assert_eq!(
        registry.count(Method::GET, Object::ManifestByDigest),
        2,
        "index and manifest"
    );
    assert_eq!(registry.count(Method::GET, Object::Blob), 4);
    let foreign = image.configs[0].digest;
    assert_eq!(registry.blob_bytes_sent(&foreign), 0);

    let refused = near.begin_export(&only("linux/s390x")).await.unwrap_err();
    assert!(matches!(refused, ExportError::NoSuchPlatform { .. }));
    assert!(refused.to_string().contains("linux/amd64"), "{refused}");
}

#[tokio::test]
async fn nobody_is_asked_where_only_what_is_held_is_wanted() {
    let registry = FixtureRegistry::start().await;
    let image = registry.add_image(REPOSITORY, "1.0", &spec());
    let near = Held::of(&registry.url()).await;
    let request = ExportRequest {
        held_only: true,
        platforms: PlatformChoice::Held,
        ..everything("1.0")
    };
    let refused = near.begin_export(&request).await.unwrap_err();
    assert!(matches!(refused, ExportError::NotHeld { .. }), "{refused}");
    // A manifest without its layers is not an image.
    manifest(&near, tag("1.0")).await.unwrap();
    let child = Reference::Digest(image.manifests[0].digest);
    manifest(&near, child).await.unwrap();
    registry.reset_counters();
    let refused = near.begin_export(&request).await.unwrap_err();
    assert!(
        refused.to_string().contains("of linux/amd64, blob sha256:"),
        "{refused}"
    );
    assert_eq!(registry.total(), 0);
}

/// What is looked at for an archive is not used: it is evicted as early as before.
#[tokio::test]
async fn an_export_is_no_access() {
    let registry = FixtureRegistry::start().await;
    let image = registry.add_image(REPOSITORY, "1.0", &spec());
    let near = Held::of(&registry.url()).await;
    pull(&near, &image, "1.0", 0).await;
    let accessed = async || {
        let manifests = image.manifests.iter().chain([image.root()]);
        let mut times: Vec<Option<Timestamp>> = Vec::new();
        for manifest in manifests {
            let target = LinkTarget::Manifest(manifest.digest);
            let record = near.store.inner().record(target).await.unwrap();
            times.push(record.and_then(|record| record.accessed_at));
        }
        times
    };
    let before = accessed().await;
    near.clock.advance(Duration::from_secs(3_600));
    let request = ExportRequest {
        held_only: true,
        platforms: PlatformChoice::Held,
        ..everything("1.0")
    };
    near.export(&request).await;
    assert_eq!(accessed().await, before);
}

/// What is damaged at rest ends the archive short of its length: nobody takes it for whole.
#[tokio::test]
async fn wrong_bytes_are_never_exported() {
    let registry = FixtureRegistry::start().await;
    let image = registry.add_image(REPOSITORY, "1.0", &ImageSpec::new(1).layers(&[400_000]));
    let folder = tempfile::tempdir().unwrap();
    let mirror = registry_server::Mirror::builder()
        .data_dir(folder.path())
        .upstream(UPSTREAM, &registry.url())
        .start()
        .await
        .unwrap();
    let progress = registry_core::Progress::new();
    let export = async || {
        let cache = mirror.cache();
        registry_server::archive::export_archive(cache, &everything("1.0"), &progress).await
    };
    let whole: Vec<Bytes> = export().await.unwrap().bytes.try_collect().await.unwrap();
    let whole = whole.concat();
    while mirror.cache().fills_active() > 0 {
        tokio::task::yield_now().await;
    }
    let hash = image.layers[0].digest.encoded();
    let path = folder
        .path()
        .join(format!("blobs/sha256/{}/{hash}", &hash[..2]));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[200_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();

    let archive = export().await.unwrap();
    assert_eq!(archive.length, whole.len() as u64);
    let chunks: Vec<_> = archive.bytes.collect().await;
    assert!(chunks.last().unwrap().is_err());
    let got: usize = chunks.iter().flatten().map(Bytes::len).sum();
    assert!(got < whole.len());
    let far = Held::offline().await;
    let cut: Vec<u8> = chunks.into_iter().flatten().collect::<Vec<_>>().concat();
    far.import_bytes(in_pieces(&cut)).await.unwrap_err();
    far.await_empty().await;
    mirror.shutdown().await;
}

#[tokio::test]
async fn images_of_dockers_types_and_by_digest() {
    let registry = FixtureRegistry::start().await;
    let docker = spec().format(ImageFormat::Docker);
    let image = registry.add_image(REPOSITORY, "1.0", &docker);
    let near = Held::of(&registry.url()).await;
    let request = ExportRequest {
        images: vec![(origin(), Reference::Digest(image.root().digest))],
        ..everything("1.0")
    };
    let far = Held::offline().await;
    let report = far.import(&near.export(&request).await).await.unwrap();
    let digest = image.root().digest;
    assert_eq!(
        report.images[0].name,
        format!("{UPSTREAM}/{REPOSITORY}@{digest}")
    );
    let (here, name) = (origin(), Reference::Digest(digest));
    let served = far
        .mirror
        .cache()
        .manifest(&here, &name, &Caller::Anonymous);
    let served = served.await.unwrap();
    assert_eq!(served.value.media_type(), &image.root().media_type);
    // No tag comes of it.
    let named = Tag::parse("1.0").unwrap();
    assert_eq!(
        far.store.inner().tag(&origin(), &named).await.unwrap(),
        None
    );
}
