//! The mirror, the registry behind it, and all that can happen to the two.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use registry_core::cache::{CollectRequest, VerifyRequest, VerifyScope};
use registry_core::{Digest, Origin, Pin, Progress, Reference, Repository, Tag, UpstreamId};
use registry_server::Mirror;
use registry_server::testing::{Fault, FixtureImage, FixtureRegistry, ImageSpec, Match, Times};
use tempfile::TempDir;
use tokio::sync::RwLock;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Answer, get, sha256};

const UPSTREAM: &str = "origin.example";
/// Repositories, and images in each.
const REPOSITORIES: u64 = 6;
const IMAGES: u64 = 12;
/// What the mirror may keep: a fraction of what there is.
const BUDGET_BYTES: u64 = 64 << 20;
/// How long a pull may take in all, restarts included.
const PULL_MAX: Duration = Duration::from_secs(60);
/// How long a mirror may take to stop.
const STOP_MAX: Duration = Duration::from_secs(40);
/// After a request that came to nothing because the mirror is being restarted.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// Numbers that look random, and are the same for the same seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        // Xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    pub(crate) fn duration(&mut self, least: Duration, most: Duration) -> Duration {
        let span = u64::try_from((most - least).as_millis()).unwrap_or(u64::MAX);
        least + Duration::from_millis(self.below(span.max(1)))
    }

    fn of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let at = self.below(items.len() as u64);
        &items[usize::try_from(at).expect("it is within a slice")]
    }
}

struct Pushed {
    repository: String,
    tag: String,
    image: FixtureImage,
}

impl Pushed {
    fn origin(&self) -> Origin {
        Origin::new(
            UpstreamId::parse(UPSTREAM).expect("a name"),
            Repository::parse(&self.repository).expect("a name"),
        )
    }

    fn reference(&self) -> Reference {
        Reference::Tag(Tag::parse(&self.tag).expect("a tag"))
    }

    fn path(&self, kind: &str, reference: impl std::fmt::Display) -> String {
        format!("/v2/{}/{kind}/{reference}?ns={UPSTREAM}", self.repository)
    }
}

/// What was done.
#[derive(Default)]
struct Counts {
    pulls: AtomicU64,
    left: AtomicU64,
    bytes: AtomicU64,
    retries: AtomicU64,
    restarts: AtomicU64,
    deleted: AtomicU64,
    collected: AtomicU64,
    verified: AtomicU64,
    damaged: AtomicU64,
    pinned: AtomicU64,
    evicted: AtomicU64,
}

/// All of it.
pub(crate) struct World {
    upstream: FixtureRegistry,
    folder: TempDir,
    /// None while it is restarted.
    mirror: RwLock<Option<Mirror>>,
    pushed: Vec<Pushed>,
    counts: Counts,
}

impl World {
    pub(crate) async fn new(seed: u64) -> Arc<Self> {
        let upstream = FixtureRegistry::start().await;
        let mut pushed = Vec::new();
        for repository in 0..REPOSITORIES {
            for image in 0..IMAGES {
                pushed.push(push(&upstream, seed, repository, image));
            }
        }
        let world = Self {
            upstream,
            folder: tempfile::tempdir().expect("a temporary folder"),
            mirror: RwLock::default(),
            pushed,
            counts: Counts::default(),
        };
        *world.mirror.write().await = Some(world.start().await);
        Arc::new(world)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    async fn start(&self) -> Mirror {
        Mirror::builder()
            .data_dir(self.data())
            .upstream(UPSTREAM, &self.upstream.url())
            .max_size(&format!("{BUDGET_BYTES}B"))
            .start()
            .await
            .expect("it always starts")
    }

    /// Stops the mirror, in order or as abruptly as that goes within a process, and starts it again.
    pub(crate) async fn restart(&self, abruptly: bool) {
        self.stop_as(abruptly).await;
        let mut mirror = self.mirror.write().await;
        let started = loop {
            // One that was dropped lets go of its folder a moment later.
            let starting = Mirror::builder()
                .data_dir(self.data())
                .upstream(UPSTREAM, &self.upstream.url())
                .max_size(&format!("{BUDGET_BYTES}B"))
                .start();
            match starting.await {
                Ok(mirror) => break mirror,
                Err(error) => {
                    assert!(abruptly, "it does not start: {error}");
                    sleep(RETRY_AFTER).await;
                }
            }
        };
        *mirror = Some(started);
        count(&self.counts.restarts);
    }

    pub(crate) async fn stop(&self) {
        self.stop_as(false).await;
    }

    async fn stop_as(&self, abruptly: bool) {
        let Some(mirror) = self.mirror.write().await.take() else {
            return;
        };
        self.note_evictions(&mirror);
        if abruptly {
            // Begins to stop, and nobody waits for it: a new one is started over it.
            drop(mirror);
        } else {
            timeout(STOP_MAX, mirror.shutdown())
                .await
                .expect("it stops in time");
        }
    }
}

/// What clients do.
impl World {
    /// Pulls an image, all of it or until the client has had enough, and hashes what comes.
    pub(crate) async fn pull_something(&self, dice: &mut Dice, deadline: Instant) {
        let pushed = dice.of(&self.pushed);
        let leaves = dice.below(5) == 0;
        let pull = self.pull(pushed, leaves.then(|| 1 + dice.below(300_000)));
        let limit = deadline.saturating_duration_since(Instant::now()) + PULL_MAX;
        timeout(limit, pull).await.expect("a pull ends in time");
        count(&self.counts.pulls);
    }

    async fn pull(&self, pushed: &Pushed, enough: Option<u64>) {
        let image = &pushed.image;
        self.get(
            &pushed.path("manifests", &pushed.tag),
            image.root().digest,
            None,
        )
        .await;
        for manifest in &image.manifests {
            let path = pushed.path("manifests", manifest.digest);
            self.get(&path, manifest.digest, None).await;
        }
        let enough = enough.map(|enough| usize::try_from(enough).expect("it is small"));
        let blobs = image.blobs().map(|blob| {
            let path = pushed.path("blobs", blob.digest);
            async move { self.get(&path, blob.digest, enough).await }
        });
        // As many at a time as containerd asks for.
        futures::stream::iter(blobs)
            .buffer_unordered(3)
            .collect::<()>()
            .await;
    }

    /// Asks until the whole of it came, and hashes it; or until the client has had enough.
    async fn get(&self, path: &str, digest: Digest, enough: Option<usize>) {
        let deadline = Instant::now() + PULL_MAX;
        loop {
            let address = self.mirror.read().await.as_ref().map(Mirror::addr);
            let answer = match address {
                Some(address) => get(address, path, enough).await,
                None => Answer::Cut,
            };
            match answer {
                Answer::Whole(bytes) => {
                    assert_eq!(sha256(&bytes), digest, "wrong bytes were served for {path}");
                    self.counts
                        .bytes
                        .fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    return;
                }
                Answer::Left => return count(&self.counts.left),
                // A cut body is what a restart or a fault of the upstream looks like.
                Answer::Cut => {}
                Answer::Refused(status @ (502 | 503), _) => {
                    // Of a mirror that is stopping, or of an upstream that was cut too often.
                    assert!(Instant::now() < deadline, "{path} is refused: {status}");
                }
                Answer::Refused(status, what) => panic!("{path}: {status} {what}"),
            }
            assert!(Instant::now() < deadline, "{path} cannot be had");
            count(&self.counts.retries);
            sleep(RETRY_AFTER).await;
        }
    }
}

/// What whoever operates the mirror does, and what befalls it.
impl World {
    pub(crate) async fn act(&self, dice: &mut Dice) {
        let mirror = self.mirror.read().await;
        let Some(mirror) = mirror.as_ref() else {
            return;
        };
        let cache = mirror.cache();
        let pushed = dice.of(&self.pushed);
        let (origin, reference) = (pushed.origin(), pushed.reference());
        let pin = Pin::Image(origin.clone(), reference.clone());
        match dice.below(9) {
            0 | 1 => {
                // One that is pinned is not deleted, and says so.
                if let Ok(Some(_)) = cache.delete(&origin, &reference).await {
                    count(&self.counts.deleted);
                }
            }
            2 => {
                let request = CollectRequest {
                    bytes: Some(BUDGET_BYTES / 2 + dice.below(BUDGET_BYTES / 2)),
                    ..CollectRequest::default()
                };
                if cache.collect(request, &Progress::new()).await.is_ok() {
                    count(&self.counts.collected);
                }
            }
            3 => {
                let request = VerifyRequest {
                    scope: VerifyScope::Everything,
                    bytes_per_second: 256 << 20,
                };
                if cache.verify(&request, &Progress::new()).await.is_ok() {
                    count(&self.counts.verified);
                }
            }
            4 => {
                if cache.pin(pin).await.is_ok() {
                    count(&self.counts.pinned);
                }
            }
            // Twice as often as they are made, or else everything is pinned in the end.
            5 | 6 => {
                for (pin, _) in cache.pins().await.unwrap_or_default() {
                    if dice.below(2) == 0 {
                        let _ = cache.unpin(&pin).await;
                    }
                }
            }
            7 => self.damage_a_file(dice),
            _ => self.fail_upstream(dice, pushed),
        }
    }

    /// Cuts a blob's file short or removes it, as a damaged file system does.
    fn damage_a_file(&self, dice: &mut Dice) {
        let files = files_below(&self.data().join("blobs"));
        if files.is_empty() {
            return;
        }
        let path = dice.of(&files);
        let done = if dice.below(2) == 0 {
            fs::remove_file(path)
        } else {
            let len = fs::metadata(path).map_or(0, |meta| meta.len());
            let file = fs::OpenOptions::new().write(true).open(path);
            file.and_then(|file| file.set_len(dice.below(len.max(1))))
        };
        // It may have been evicted just now.
        if done.is_ok() {
            count(&self.counts.damaged);
        }
    }

    fn fail_upstream(&self, dice: &mut Dice, pushed: &Pushed) {
        let blobs: Vec<_> = pushed.image.blobs().collect();
        let blob = dice.of(&blobs);
        let after = dice.below(blob.size.max(1));
        self.upstream.fault(
            Match::blob(blob.digest),
            Times::Once,
            Fault::Short { after },
        );
    }
}

/// What must hold in the end.
impl World {
    /// Waits until nothing is under way any more.
    pub(crate) async fn calm(&self) {
        self.upstream.clear_faults();
        loop {
            let mirror = self.mirror.read().await;
            if mirror
                .as_ref()
                .is_some_and(|mirror| mirror.cache().fills_active() == 0)
            {
                return;
            }
            drop(mirror);
            sleep(RETRY_AFTER).await;
        }
    }

    /// Pulls every image of which a manifest is held; gives their number.
    pub(crate) async fn everything_held_can_be_pulled(&self) -> usize {
        let mut held = Vec::new();
        {
            let mirror = self.mirror.read().await;
            let cache = mirror.as_ref().expect("it runs").cache();
            for pushed in &self.pushed {
                let image = cache.image(&pushed.origin(), &pushed.reference()).await;
                if image.expect("it can be told").is_some() {
                    held.push(pushed);
                }
            }
        }
        for pushed in &held {
            self.pull(pushed, None).await;
        }
        held.len()
    }

    /// Bytes in files are bytes in the index, and nobody left a file that nobody knows.
    pub(crate) async fn files_are_what_the_index_says(&self) {
        self.calm().await;
        let mirror = self.mirror.read().await;
        let usage = mirror.as_ref().expect("it runs").cache().usage().await;
        let usage = usage.expect("it can be told").expect("it is told").kept;
        let data = self.data();
        let files = [data.join("blobs"), data.join("manifests")].map(|folder| bytes_below(&folder));
        assert_eq!(
            usage.bytes,
            files.iter().sum::<u64>(),
            "{usage:?}, files: {files:?}"
        );
        assert!(usage.bytes <= BUDGET_BYTES, "{usage:?}");
    }

    fn note_evictions(&self, mirror: &Mirror) {
        let evicted: u64 = mirror
            .cache()
            .evictions()
            .iter()
            .map(|(_, evicted)| evicted.count)
            .sum();
        self.counts.evicted.fetch_add(evicted, Ordering::Relaxed);
    }

    pub(crate) fn assert_something_was_shown(&self) {
        let Counts {
            pulls,
            restarts,
            deleted,
            collected,
            verified,
            damaged,
            pinned,
            evicted,
            ..
        } = &self.counts;
        for (what, counter) in [
            ("pulls", pulls),
            ("restarts", restarts),
            ("deletions", deleted),
            ("collections", collected),
            ("verifications", verified),
            ("damaged files", damaged),
            ("pins", pinned),
            ("evictions", evicted),
        ] {
            assert!(
                counter.load(Ordering::Relaxed) > 0,
                "no {what}: it shows nothing"
            );
        }
    }

    pub(crate) fn tally(&self) -> String {
        let counts = &self.counts;
        let mut text = String::new();
        for (what, counter) in [
            ("pulls", &counts.pulls),
            ("bodies that a client left", &counts.left),
            ("bytes served and hashed", &counts.bytes),
            ("requests that had to be made again", &counts.retries),
            ("restarts", &counts.restarts),
            ("images deleted", &counts.deleted),
            ("collections", &counts.collected),
            ("verifications", &counts.verified),
            ("files damaged", &counts.damaged),
            ("pins", &counts.pinned),
            ("objects evicted", &counts.evicted),
        ] {
            let _ = writeln!(text, "{:>14}  {what}", counter.load(Ordering::Relaxed));
        }
        let sent = self.upstream.body_bytes_sent();
        let _ = write!(text, "{sent:>14}  bytes asked of the upstream");
        text
    }
}

fn push(upstream: &FixtureRegistry, seed: u64, repository: u64, image: u64) -> Pushed {
    let number = seed + repository * 1_000 + image;
    let mut dice = Dice::new(number);
    let mut spec = ImageSpec::new(number).shared_layers(repository / 2, &[1 << 20]);
    for _ in 0..1 + dice.below(3) {
        spec = spec.layers(&[dice.below(2 << 20)]);
    }
    if dice.below(3) == 0 {
        spec = spec.platforms(&["linux/amd64", "linux/arm64"]);
    }
    let (repository, tag) = (format!("team/app-{repository}"), format!("v{image}"));
    let image = upstream.add_image(&repository, &tag, &spec);
    Pushed {
        repository,
        tag,
        image,
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// All files below a folder; what goes meanwhile may be among them or not.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

fn bytes_below(folder: &Path) -> u64 {
    let sizes = files_below(folder)
        .into_iter()
        .map(|path| fs::metadata(path).map_or(0, |meta| meta.len()));
    sizes.sum()
}
