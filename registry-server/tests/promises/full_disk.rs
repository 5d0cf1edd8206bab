//! A file system that is full: pulls go on working, uncached where there is no room, and what is
//! pulled is kept again as soon as there is.

use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use registry_core::Descriptor;
use registry_server::Mirror;
use registry_server::testing::FixtureRegistry;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::support::{End, REPOSITORY, UPSTREAM, blob_path, get, sha256};

const FILE_SYSTEM_BYTES: u64 = 64 << 20;
const BLOB_BYTES: u64 = 6 << 20;
/// Of all of them, several times what fits.
const BLOBS: u64 = 40;
/// Pulls that pass through before it is believed that they all do.
const PASSED_MIN: usize = 4;
/// Pulls until then at the most: each takes from the mirror what it has freed for it.
const LATE_MAX: u64 = 200;
/// How long the mirror may take to notice that there is room again: it may have to open its index
/// anew.
const RESUMED_MAX: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// A small file system in memory, for as long as this lives.
struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// None where it cannot be mounted: said past the capture of the test runner, and a failure
    /// where `CI=true`.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={FILE_SYSTEM_BYTES}"),
                "tmpfs",
            ])
            .arg(folder.path())
            .output();
        if mounted.is_ok_and(|mounted| mounted.status.success()) {
            return Some(Self { folder });
        }
        assert!(
            env::var_os("CI").is_none_or(|value| value != "true"),
            "a file system cannot be mounted: run the tests as root"
        );
        let text =
            "\n!!!! SKIPPED a full disk: a file system cannot be mounted, which needs root.\n";
        let _ = std::io::stderr().write_all(text.as_bytes());
        None
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes all that is free, as somebody else's file.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("somebody-elses");
        let mut file = File::create(&path).unwrap();
        let chunk = vec![0xaa; 64 << 10];
        while file.write_all(&chunk).is_ok() {}
        for byte in [&chunk[..512], &chunk[..1]] {
            while file.write_all(byte).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: somebody may still have a file open there.
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

struct Scene {
    origin: FixtureRegistry,
    mirror: Mirror,
    disk: SmallDisk,
}

impl Scene {
    async fn new() -> Option<Self> {
        let disk = SmallDisk::mount()?;
        let origin = FixtureRegistry::start().await;
        let builder = Mirror::builder().data_dir(disk.path().join("data"));
        let mirror = builder
            .upstream(UPSTREAM, &origin.url())
            .start()
            .await
            .unwrap();
        Some(Self {
            origin,
            mirror,
            disk,
        })
    }

    fn blob(&self, seed: u64) -> Descriptor {
        self.origin.add_blob(REPOSITORY, seed, BLOB_BYTES)
    }

    /// Pulls a blob whole; what it says of how it came.
    async fn pull(&self, blob: &Descriptor) -> String {
        let answer = get(self.mirror.addr(), &blob_path(blob.digest)).await;
        assert_eq!(
            (answer.status(), answer.end),
            (200, End::Whole),
            "{:?}",
            answer.head
        );
        assert_eq!(sha256(&answer.body), blob.digest);
        while self.mirror.cache().fills_active() > 0 {
            tokio::task::yield_now().await;
        }
        answer.header("cache-status").unwrap_or_default().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_file_system_costs_the_cache_and_no_pull() {
    let Some(scene) = Scene::new().await else {
        return;
    };

    // More than fits: room is made, and what was pulled last is there.
    let blobs: Vec<Descriptor> = (0..BLOBS).map(|seed| scene.blob(seed)).collect();
    for blob in &blobs {
        assert!(scene.pull(blob).await.contains("stored"));
    }
    let last = scene.pull(blobs.last().unwrap()).await;
    assert!(last.contains("hit"), "what was pulled last is kept: {last}");

    // Somebody else takes all that is left, and all that is given free.
    let theirs = scene.disk.fill();
    let failures = scene.mirror.cache().store_failures();
    let mut passed = 0;
    for seed in 1_000..1_000 + LATE_MAX {
        let status = scene.pull(&scene.blob(seed)).await;
        passed += usize::from(status.contains("bypass"));
        if passed == PASSED_MIN {
            break;
        }
        fs::remove_file(&theirs).unwrap();
        scene.disk.fill();
    }
    assert_eq!(
        passed, PASSED_MIN,
        "the disk was not full: it shows nothing"
    );
    assert!(
        scene.mirror.cache().store_failures() > failures,
        "and it is counted"
    );

    // There is room again.
    fs::remove_file(&theirs).unwrap();
    let resumed = async {
        for seed in 2_000.. {
            let blob = scene.blob(seed);
            scene.pull(&blob).await;
            if scene.pull(&blob).await.contains("hit") {
                return;
            }
            sleep(LOOK_INTERVAL).await;
        }
    };
    timeout(RESUMED_MAX, resumed)
        .await
        .expect("it keeps what is pulled again");
    scene.mirror.shutdown().await;
}
