//! Killed anywhere: `kill -9` at random moments during mixed cold pulls. It always starts, every
//! byte that it serves afterwards matches its digest, and of unfinished blobs only what is worth
//! going on with remains.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use registry_core::Digest;
use registry_server::testing::{FixtureImage, FixtureRegistry, ImageSpec};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::process::Process;
use crate::support::{End, Reading, sha256};

const ROUNDS: u64 = 50;
/// Kills come at most so long after the pulls have begun.
const KILL_AFTER_MAX_MS: u64 = 150;
/// How long the mirror may take to notice that the origin is back.
const BACK_MAX: Duration = Duration::from_secs(60);
/// Between two looks at whether it has.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const REPOSITORY: &str = "library/app";

/// Moments that differ from round to round, and are the same in every run.
struct Moments(u64);

impl Moments {
    fn next(&mut self, below: u64) -> u64 {
        // Xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// What every round pulls anew: an image of two platforms, with layers of its own and shared ones.
fn push(origin: &FixtureRegistry, round: u64) -> FixtureImage {
    let spec = ImageSpec::new(round)
        .platforms(&["linux/amd64", "linux/arm64"])
        .layers(&[10, 50_000, 2 << 20])
        .shared_layers(round / 5, &[1 << 20, 4 << 20]);
    origin.add_image(REPOSITORY, &format!("round-{round}"), &spec)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_fifty_random_moments_it_always_starts_and_serves_right_bytes() {
    let origin = FixtureRegistry::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut moments = Moments(0x9E37_79B9_7F4A_7C15);
    let mut images = Vec::new();
    let mut cut_short = 0;
    for round in 0..ROUNDS {
        images.push(push(&origin, round));
        let process = start(&origin, &folder);
        assert_partial_files_are_of_use(folder.path());
        let address = process.address();
        let fresh = images.last().unwrap();
        let older = &images[usize::try_from(moments.next(round + 1)).unwrap()];
        let mut pulls = Vec::new();
        for image in [fresh, older] {
            for path in paths(image) {
                pulls.push(pull(address, path));
            }
        }
        let kill = async {
            sleep(Duration::from_millis(moments.next(KILL_AFTER_MAX_MS))).await;
            // A `Process` that is dropped is killed.
            drop(process);
        };
        let (outcomes, ()) = tokio::join!(join_all(pulls), kill);
        cut_short += outcomes.iter().filter(|served| !**served).count();
    }
    assert!(
        cut_short > 0,
        "no kill came during a pull: the test shows nothing"
    );

    origin.stop().await;
    let process = start(&origin, &folder);
    assert_partial_files_are_of_use(folder.path());
    let all: Vec<_> = images.iter().flat_map(paths).collect();
    let mut kept = 0;
    for path in &all {
        kept += usize::from(pull(process.address(), path.clone()).await);
    }
    assert!(
        kept > 0,
        "nothing was kept through fifty kills: the test shows nothing"
    );
    origin.restart().await;
    // It has found the origin gone, and finds out by itself that it is back.
    let never_pulled = paths(&push(&origin, ROUNDS)).swap_remove(0);
    let is_back = async {
        while !pull(process.address(), never_pulled.clone()).await {
            sleep(LOOK_INTERVAL).await;
        }
    };
    timeout(BACK_MAX, is_back).await.unwrap();
    for path in all {
        assert!(
            pull(process.address(), path.clone()).await,
            "{path:?} cannot be pulled any more"
        );
    }
    assert!(process.stop().success());
}

fn start(origin: &FixtureRegistry, folder: &TempDir) -> Process {
    let upstream = format!("origin.example={}", origin.url());
    Process::serve(folder.path(), &["--upstream", &upstream])
}

/// Each is an unfinished blob, with its checkpoint beside it.
fn assert_partial_files_are_of_use(folder: &Path) {
    let partial = std::fs::read_dir(folder.join("data/partial")).unwrap();
    let mut names: Vec<String> = partial
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    for pair in names.chunks(2) {
        let is_of_use = matches!(
            pair,
            [content, checkpoint]
                if content.starts_with("sha256-") && *checkpoint == format!("{content}.checkpoint")
        );
        assert!(is_of_use, "partial files after a start: {names:?}");
    }
}

/// Everything that a pull of the image asks for by digest.
fn paths(image: &FixtureImage) -> Vec<(String, Digest)> {
    let manifests = image
        .index
        .iter()
        .chain(&image.manifests)
        .map(|found| ("manifests", found));
    let blobs = image.blobs().map(|found| ("blobs", found));
    manifests
        .chain(blobs)
        .map(|(kind, found)| {
            let path = format!("/v2/{REPOSITORY}/{kind}/{}?ns=origin.example", found.digest);
            (path, found.digest)
        })
        .collect()
}

/// Whether it was served whole; what is served whole is what its digest names.
async fn pull(mirror: SocketAddr, (path, digest): (String, Digest)) -> bool {
    let Ok(reading) = Reading::begin(mirror, &format!("GET {path}"), "").await else {
        return false;
    };
    let answer = reading.finish().await;
    if answer.end != End::Whole {
        return false;
    }
    let (status, body) = (answer.status(), answer.body);
    if status == 200 {
        assert_eq!(sha256(&body), digest, "{path}");
    } else {
        assert!(matches!(status, 404 | 502 | 503 | 504), "{path}: {status}");
    }
    status == 200
}
