//! What does the mirror add to a cold pull? First byte and total of a blob of 16 MiB that is not
//! cached, through the mirror and directly from the same registry.

#[expect(dead_code, reason = "each benchmark uses a part of it")]
mod setup;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use setup::{Client, Fetched, REPOSITORY, Setup, blob_path, runtime};

const BLOB_BYTES: u64 = 16 << 20;

type Measure = fn(Fetched) -> Duration;

fn cold_blob(criterion: &mut Criterion) {
    let runtime = runtime();
    let setup = runtime.block_on(Setup::new());
    let seed = AtomicU64::new(0);
    let measure = |address: SocketAddr, rounds: u64, of: Measure| {
        let (setup, seed) = (&setup, &seed);
        async move {
            let mut client = Client::connect(address).await;
            let mut sum = Duration::ZERO;
            for _ in 0..rounds {
                let seed = seed.fetch_add(1, Ordering::Relaxed);
                let blob = setup.origin.add_blob(REPOSITORY, seed, BLOB_BYTES);
                sum += of(client.get(&blob_path(blob.digest)).await);
                setup.idle().await;
                setup.origin.delete_blob(REPOSITORY, &blob.digest);
            }
            sum
        }
    };
    let mut group = criterion.benchmark_group("cold_blob");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(5));
    let ways = [
        ("direct", setup.origin.address()),
        ("mirror", setup.mirror.addr()),
    ];
    let first_byte: Measure = |fetched| fetched.first_byte;
    for (way, address) in ways {
        group.bench_function(format!("first byte, {way}"), |bencher| {
            bencher
                .to_async(&runtime)
                .iter_custom(|rounds| measure(address, rounds, first_byte));
        });
    }
    group.throughput(Throughput::Bytes(BLOB_BYTES));
    let total: Measure = |fetched| fetched.total;
    for (way, address) in ways {
        group.bench_function(format!("total, {way}"), |bencher| {
            bencher
                .to_async(&runtime)
                .iter_custom(|rounds| measure(address, rounds, total));
        });
    }
    group.finish();
}

criterion_group!(benches, cold_blob);
criterion_main!(benches);
