//! How long until a mirror with a large index answers? Opens a data folder whose index has 100,000
//! rows, and looks one up.

#[expect(dead_code, reason = "each benchmark uses a part of it")]
mod setup;

use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use registry_core::testing::content::digest_of;
use registry_core::{Link, LinkStore as _, LinkTarget, Origin, Repository, UpstreamId};
use registry_storage::DiskStore;

use setup::{REPOSITORY, UPSTREAM, runtime};

const ROWS: u64 = 100_000;
/// Links that are written at a time, as a large manifest would.
const BATCH: u64 = 1_000;

fn origin() -> Origin {
    Origin::new(
        UpstreamId::parse(UPSTREAM).expect("a name"),
        Repository::parse(REPOSITORY).expect("a name"),
    )
}

fn target(row: u64) -> LinkTarget {
    LinkTarget::Blob(digest_of(&row.to_le_bytes()))
}

async fn open(folder: &Path) -> DiskStore {
    DiskStore::open(folder).await.expect("the store opens")
}

fn index_reopen(criterion: &mut Criterion) {
    let runtime = runtime();
    let folder = tempfile::tempdir().expect("a temporary folder");
    runtime.block_on(async {
        let store = open(folder.path()).await;
        for batch in (0..ROWS).step_by(usize::try_from(BATCH).expect("small")) {
            let links = (batch..batch + BATCH)
                .map(|row| Link {
                    target: target(row),
                    size: Some(row),
                })
                .collect();
            store.link(&origin(), links).await.expect("links");
        }
        store.close().await.expect("it closes");
    });
    let mut group = criterion.benchmark_group("index_reopen");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(5));
    group.bench_function("100,000 rows", |bencher| {
        bencher.to_async(&runtime).iter_custom(async |rounds| {
            let mut sum = Duration::ZERO;
            for round in 0..rounds {
                let begun = Instant::now();
                let store = open(folder.path()).await;
                let link = store
                    .linked(&origin(), target(round % ROWS))
                    .await
                    .expect("the index");
                sum += begun.elapsed();
                assert!(link.is_some(), "the row is there");
                store.close().await.expect("it closes");
            }
            sum
        });
    });
    group.finish();
}

criterion_group!(benches, index_reopen);
criterion_main!(benches);
