//! What does one more follower of a fill cost? One cold blob of 16 MiB for 1, 16 and 64 clients at
//! once: until the last of them has all of it.

#[expect(dead_code, reason = "each benchmark uses a part of it")]
mod setup;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::future::join_all;

use setup::{Client, REPOSITORY, Setup, blob_path, runtime};

const BLOB_BYTES: u64 = 16 << 20;

fn fill_fanout(criterion: &mut Criterion) {
    let runtime = runtime();
    let setup = runtime.block_on(Setup::new());
    let seed = AtomicU64::new(0);
    let mut group = criterion.benchmark_group("fill_fanout");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(5));
    for followers in [1, 16, 64] {
        group.throughput(Throughput::Bytes(BLOB_BYTES * followers));
        group.bench_with_input(
            BenchmarkId::from_parameter(followers),
            &followers,
            |bencher, &followers| {
                bencher.to_async(&runtime).iter_custom(|rounds| {
                    let (setup, seed) = (&setup, &seed);
                    async move {
                        let mut sum = Duration::ZERO;
                        for _ in 0..rounds {
                            let seed = seed.fetch_add(1, Ordering::Relaxed);
                            sum += one_fill(setup, seed, followers).await;
                        }
                        sum
                    }
                });
            },
        );
    }
    group.finish();
}

async fn one_fill(setup: &Setup, seed: u64, followers: u64) -> Duration {
    let blob = setup.origin.add_blob(REPOSITORY, seed, BLOB_BYTES);
    let connecting = (0..followers).map(|_| Client::connect(setup.mirror.addr()));
    let mut clients = join_all(connecting).await;
    let path = blob_path(blob.digest);
    let begun = Instant::now();
    join_all(clients.iter_mut().map(|client| client.get(&path))).await;
    let took = begun.elapsed();
    setup.idle().await;
    assert_eq!(
        setup.origin.blob_bytes_sent(&blob.digest),
        BLOB_BYTES,
        "fetched once"
    );
    setup.origin.delete_blob(REPOSITORY, &blob.digest);
    took
}

criterion_group!(benches, fill_fanout);
criterion_main!(benches);
