//! How long does a hit take? A manifest by digest and by tag within its time, a small blob and a
//! megabyte, over HTTP on a connection that is kept alive; and the same of the cache alone.

#[expect(dead_code, reason = "each benchmark uses a part of it")]
mod setup;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use registry_core::{Caller, Origin, Reference, Repository, UpstreamId};
use registry_server::testing::ImageSpec;
use tokio::sync::Mutex;

use setup::{Client, REPOSITORY, Setup, UPSTREAM, blob_path, manifest_path, runtime};

/// Longer than any run.
const TAG_TTL: Duration = Duration::from_secs(24 * 60 * 60);

fn hit_latency(criterion: &mut Criterion) {
    let runtime = runtime();
    let setup = runtime.block_on(Setup::with_tag_ttl(TAG_TTL));
    let spec = ImageSpec::new(1).layers(&[4 << 10, 1 << 20]);
    let image = setup.origin.add_image(REPOSITORY, "latest", &spec);
    let manifest = image.root().digest;
    let client = runtime.block_on(async {
        let mut client = Client::connect(setup.mirror.addr()).await;
        client.get(&manifest_path("latest")).await;
        for blob in image.blobs() {
            client.get(&blob_path(blob.digest)).await;
        }
        setup.idle().await;
        Mutex::new(client)
    });
    setup.origin.reset_counters();

    let mut group = criterion.benchmark_group("hit_latency");
    group.measurement_time(Duration::from_secs(5));
    for (name, path) in [
        ("manifest by digest", manifest_path(manifest)),
        ("manifest by tag", manifest_path("latest")),
        ("blob of 4 KiB", blob_path(image.layers[0].digest)),
        ("blob of 1 MiB", blob_path(image.layers[1].digest)),
    ] {
        group.bench_function(name, |bencher| {
            bencher
                .to_async(&runtime)
                .iter(|| async { client.lock().await.get(&path).await.bytes });
        });
    }
    let origin = Origin::new(
        UpstreamId::parse(UPSTREAM).expect("a name"),
        Repository::parse(REPOSITORY).expect("a name"),
    );
    let tag = Reference::parse("latest").expect("a tag");
    for (name, reference) in [
        ("manifest by digest", Reference::Digest(manifest)),
        ("manifest by tag", tag),
    ] {
        group.bench_function(format!("{name}, without HTTP"), |bencher| {
            bencher.to_async(&runtime).iter(|| async {
                let served = setup
                    .mirror
                    .cache()
                    .manifest(&origin, &reference, &Caller::Anonymous);
                black_box(served.await.expect("a hit"))
            });
        });
    }
    let layer = image.layers[0].digest;
    group.bench_function("blob, opened, without HTTP", |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            let served = setup
                .mirror
                .cache()
                .blob(&origin, layer, None, &Caller::Anonymous);
            black_box(served.await.expect("a hit"))
        });
    });
    group.finish();
    assert_eq!(setup.origin.total(), 0, "these were hits");
}

criterion_group!(benches, hit_latency);
criterion_main!(benches);
