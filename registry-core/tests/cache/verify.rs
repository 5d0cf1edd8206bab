//! `verify`: damage is found, removed, told and healed; at a bounded rate, and no faster.

use std::time::Duration;

use registry_core::cache::{Finding, Flaw, VerifyReport, VerifyRequest, VerifyScope};
use registry_core::testing::content::sample;
use registry_core::testing::{Fault, StoreCall};
use registry_core::{
    BlobStore as _, CacheError, Clock as _, InventoryStore as _, Limits, LinkTarget, Progress,
    RemovalReason, Verification,
};
use tokio::time::Instant;

use super::kept::{add_image, add_index, kept, kept_with, name_it, push_image, reference};
use super::support::{Mirror, one, read, ttl};

const FAST: u64 = 1 << 30;

async fn verify(mirror: &Mirror, rate: u64) -> Result<VerifyReport, CacheError> {
    let request = VerifyRequest {
        scope: VerifyScope::Everything,
        bytes_per_second: rate,
    };
    mirror.cache.verify(&request, &Progress::new()).await
}

async fn verify_image(mirror: &Mirror, text: &str) -> Result<VerifyReport, CacheError> {
    let request = VerifyRequest {
        scope: VerifyScope::Image(one(), reference(text)),
        bytes_per_second: FAST,
    };
    mirror.cache.verify(&request, &Progress::new()).await
}

#[tokio::test(start_paused = true)]
async fn what_is_right_is_hashed_once_and_left_alone() {
    let mirror = kept();
    let shared = sample(300_000, 1);
    let first = add_image(
        &mirror.one,
        "a",
        "linux/amd64",
        std::slice::from_ref(&shared),
    );
    let second = add_image(
        &mirror.one,
        "b",
        "linux/arm64",
        &[shared.clone(), sample(1, 2)],
    );
    name_it(&mirror.one, "1", &first.manifest);
    name_it(&mirror.one, "2", &second.manifest);
    mirror.pull("1").await;
    mirror.pull("2").await;
    let usage = mirror.usage().await;
    let target = LinkTarget::Blob(first.layers[0].0);
    let record = mirror.store.inner().record(target).await.unwrap();
    mirror.clock.advance(Duration::from_secs(60));
    let progress = Progress::new();
    let request = VerifyRequest {
        scope: VerifyScope::Everything,
        bytes_per_second: FAST,
    };
    let report = mirror.cache.verify(&request, &progress).await.unwrap();
    let expected = VerifyReport {
        manifests: 2,
        blobs: 4,
        bytes: usage.bytes,
        ..VerifyReport::default()
    };
    assert_eq!(report, expected);
    let made = progress.made();
    assert_eq!(
        (made.bytes, made.bytes_total),
        (usage.bytes, Some(usage.bytes))
    );
    assert_eq!((made.items, made.items_total), (6, Some(6)));
    assert_eq!(mirror.usage().await, usage);
    // It is no access.
    assert_eq!(mirror.store.inner().record(target).await.unwrap(), record);
    assert_eq!(mirror.removals().await, []);
}

#[tokio::test(start_paused = true)]
async fn what_is_damaged_is_removed_told_and_fetched_anew() {
    let mirror = kept_with(ttl(3_600), Limits::default());
    let image = push_image(&mirror.one, "1", 600_000, 1);
    let other = push_image(&mirror.one, "2", 1_000, 2);
    mirror.pull("1").await;
    mirror.pull("2").await;
    let (layer, bytes) = image.layers[0].clone();
    mirror.damage(layer, &bytes).await;
    let report = verify(&mirror, FAST).await.unwrap();
    let finding = Finding {
        target: LinkTarget::Blob(layer),
        flaw: Flaw::Damaged,
    };
    assert_eq!((report.damaged, &report.findings[..]), (1, &[finding][..]));
    assert_eq!((report.manifests, report.blobs), (2, 3));
    assert_eq!(mirror.cache.healed(), 1);
    let removals = mirror.removals().await;
    let [removal] = &removals[..] else {
        panic!("one");
    };
    assert_eq!(removal.target, LinkTarget::Blob(layer));
    assert_eq!(
        (removal.reason, &removal.origins[..]),
        (RemovalReason::Damaged, &[one()][..])
    );
    let counted = mirror.cache.evictions().of(RemovalReason::Damaged);
    assert_eq!((counted.count, counted.bytes), (1, 600_000));
    assert!(!mirror.holds_blob(layer).await);
    // The next pull heals it, at the cost of that one blob and of nothing else.
    let before = mirror.one.calls();
    let served = mirror.blob(&one(), layer, None).await.unwrap();
    assert_eq!(read(served.value).await.unwrap(), bytes);
    mirror.idle().await;
    let after = mirror.one.calls();
    assert_eq!(
        (after.total() - before.total(), after.blob - before.blob),
        (1, 1)
    );
    let report = verify(&mirror, FAST).await.unwrap();
    assert_eq!((report.damaged, report.blobs), (0, 4));
    assert!(mirror.holds_manifest(other.digest()).await);
}

#[tokio::test(start_paused = true)]
async fn one_image_is_verified_with_all_that_is_held_of_it() {
    let mirror = kept();
    let amd = add_image(&mirror.one, "a", "linux/amd64", &[sample(1_000, 1)]);
    let arm = add_image(&mirror.one, "b", "linux/arm64", &[sample(1_000, 2)]);
    let index = add_index(&mirror.one, &[("linux/amd64", &amd), ("linux/arm64", &arm)]);
    name_it(&mirror.one, "1", &index);
    let other = push_image(&mirror.one, "2", 1_000, 3);
    mirror.pull("1").await;
    mirror.pull("2").await;
    let (layer, bytes) = other.layers[0].clone();
    mirror.damage(layer, &bytes).await;
    let report = verify_image(&mirror, "1").await.unwrap();
    assert_eq!((report.manifests, report.blobs, report.damaged), (2, 2, 0));
    let report = verify_image(&mirror, "2").await.unwrap();
    assert_eq!((report.manifests, report.blobs, report.damaged), (1, 1, 1));
    let unknown = verify_image(&mirror, "3").await;
    assert!(matches!(unknown, Err(CacheError::NotFound)));
}

#[tokio::test(start_paused = true)]
async fn it_takes_as_long_as_the_rate_says() {
    let mirror = kept();
    push_image(&mirror.one, "1", 10_000_000, 1);
    mirror.pull("1").await;
    let bytes = mirror.usage().await.bytes;
    let began = Instant::now();
    verify(&mirror, 1_000_000).await.unwrap();
    let expected = Duration::from_secs_f64(bytes as f64 / 1e6);
    let took = began.elapsed();
    assert!(took >= expected - Duration::from_millis(20), "{took:?}");
    assert!(took <= expected + Duration::from_millis(20), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_it_is_told_to() {
    let mirror = kept();
    push_image(&mirror.one, "1", 10_000_000, 1);
    mirror.pull("1").await;
    let progress = Progress::new();
    let request = VerifyRequest {
        scope: VerifyScope::Everything,
        bytes_per_second: 1_000_000,
    };
    let told = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        progress.cancel();
    };
    let began = Instant::now();
    let (report, ()) = tokio::join!(mirror.cache.verify(&request, &progress), told);
    assert_eq!(began.elapsed(), Duration::from_secs(3));
    let report = report.unwrap();
    assert!(report.cancelled);
    assert_eq!(report.damaged + report.missing + report.unreadable, 0);
    assert!(
        (2_000_000..4_000_000).contains(&report.bytes),
        "{}",
        report.bytes
    );
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_left_as_it_is() {
    let mirror = kept();
    let image = push_image(&mirror.one, "1", 1_000, 1);
    mirror.pull("1").await;
    mirror
        .store
        .faults()
        .fail_nth(StoreCall::PeekBlob, 1, Fault::Io);
    let report = verify(&mirror, FAST).await.unwrap();
    assert_eq!((report.unreadable, report.damaged, report.blobs), (1, 0, 1));
    assert_eq!(mirror.removals().await, []);
    assert!(mirror.holds_blob(image.config).await);
    assert!(mirror.holds_blob(image.layers[0].0).await);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_reads_nothing_ends_it() {
    let mirror = kept();
    let layers: Vec<_> = (0..20).map(|seed| sample(100, seed)).collect();
    let image = add_image(&mirror.one, "a", "linux/amd64", &layers);
    name_it(&mirror.one, "1", &image.manifest);
    mirror.pull("1").await;
    mirror
        .store
        .faults()
        .fail_always(StoreCall::PeekBlob, Fault::Io);
    let failed = verify(&mirror, FAST).await;
    assert!(matches!(failed, Err(CacheError::Store(_))));
    assert!(mirror.store.faults().calls(StoreCall::PeekBlob) < 20);
    mirror.store.faults().heal();
    assert_eq!(mirror.usage().await.bytes, image.bytes);
}

#[tokio::test(start_paused = true)]
async fn what_goes_meanwhile_is_missing_and_not_damaged() {
    let mirror = kept();
    let image = push_image(&mirror.one, "1", 1_000, 1);
    mirror.pull("1").await;
    // Listed, and gone when its turn comes.
    mirror.store.faults().stall(StoreCall::PeekBlob);
    let gone = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for blob in [image.config, image.layers[0].0] {
            mirror.store.inner().remove(blob).await.unwrap();
        }
        mirror.store.faults().release(StoreCall::PeekBlob);
    };
    let (report, ()) = tokio::join!(verify(&mirror, FAST), gone);
    let report = report.unwrap();
    assert_eq!((report.damaged, report.blobs), (0, 0));
    assert_eq!(mirror.removals().await, []);
    assert_eq!(report.missing, 2);
    assert_eq!(report.findings[0].flaw, Flaw::Missing);
}

#[tokio::test(start_paused = true)]
async fn it_runs_in_the_background_as_often_as_is_set() {
    let mirror = kept();
    let image = push_image(&mirror.one, "1", 10_000_000, 1);
    mirror.pull("1").await;
    let hour = Duration::from_secs(3_600);
    assert_eq!(mirror.cache.verification_state().last, None);
    let settings = |every: Option<Duration>, bytes_per_second| Verification {
        every,
        bytes_per_second,
    };
    mirror.cache.set_verification(settings(None, FAST));
    tokio::time::sleep(hour * 1_000).await;
    assert_eq!(mirror.cache.verification_state().last, None);
    // Set anew while it waits: it is due at once.
    mirror
        .cache
        .set_verification(settings(Some(hour * 24), 1_000_000));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let state = mirror.cache.verification_state();
    let made = state.underway.unwrap();
    assert!(
        (4_000_000..6_000_000).contains(&made.bytes),
        "{}",
        made.bytes
    );
    // It goes on from there at another rate.
    mirror
        .cache
        .set_verification(settings(Some(hour * 24), 5_000_000));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let state = mirror.cache.verification_state();
    assert_eq!(state.underway, None);
    let (at, report) = state.last.unwrap();
    assert_eq!((at, report.bytes), (mirror.clock.now(), image.bytes));
    // The next is due a day later, and finds what became damaged.
    let (layer, bytes) = image.layers[0].clone();
    mirror.damage(layer, &bytes).await;
    tokio::time::sleep(hour * 23).await;
    assert!(mirror.holds_blob(layer).await);
    tokio::time::sleep(hour * 2).await;
    assert!(!mirror.holds_blob(layer).await);
    assert_eq!(mirror.cache.healed(), 1);
    assert_eq!(
        mirror.cache.verification(),
        settings(Some(hour * 24), 5_000_000)
    );
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_failed_goes_on_from_where_it_was() {
    let mirror = kept();
    let layers: Vec<_> = (0..20).map(|seed| sample(1_000, seed)).collect();
    let image = add_image(&mirror.one, "a", "linux/amd64", &layers);
    name_it(&mirror.one, "1", &image.manifest);
    mirror.pull("1").await;
    let faults = mirror.store.faults();
    faults.fail_nth(StoreCall::Blobs, 1, Fault::Io);
    mirror.cache.set_verification(Verification {
        every: Some(Duration::from_secs(30 * 24 * 3_600)),
        bytes_per_second: FAST,
    });
    tokio::time::sleep(Duration::from_secs(3_601)).await;
    let state = mirror.cache.verification_state();
    assert_eq!((state.underway, state.last), (None, None));
    // The manifest is not hashed again.
    tokio::time::sleep(Duration::from_secs(11 * 60)).await;
    let (_, report) = mirror.cache.verification_state().last.unwrap();
    assert_eq!((report.manifests, report.blobs), (1, 21));
    assert_eq!(report.bytes, image.bytes);
    assert_eq!(faults.calls(StoreCall::PeekManifest), 1);
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_no_verification() {
    let mirror = kept();
    push_image(&mirror.one, "1", 10_000_000, 1);
    mirror.pull("1").await;
    mirror.cache.set_verification(Verification {
        every: Some(Duration::from_secs(1)),
        bytes_per_second: 1_000,
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(mirror.cache.verification_state().underway.is_some());
    let began = Instant::now();
    mirror.cache.close(Duration::from_secs(30)).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
}
