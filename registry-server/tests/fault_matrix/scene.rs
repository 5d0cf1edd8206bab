//! One cell, from its preparation to what is left of it: an upstream, a mirror of it over a store
//! in memory, and clients.

mod commit;
mod stage;
mod words;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use registry_core::testing::{FaultingStore, ManualClock, StoreCall};
use registry_core::{
    Algorithm, BlobPayload, BlobStore as _, Digest, Hasher, ManifestStore as _, MemoryStore,
    Origin, Repository, Tag, TagStore as _, UpstreamId,
};
use registry_server::Mirror;
use registry_server::testing::{
    Fault, FixtureRegistry, Gate, Match, OutgoingLog, Secrets, Times, TokenAuth,
};
use tempfile::TempDir;

use crate::client::{Answer, End, Head, Reading, ask};
use crate::faults::{Spec, Strike};
use crate::table::{Cell, Object, Row, State, Within};
use stage::{Backlog, add_manifest, start_mirror, upstream};
use words::{count, error_code, is_stale, kind};

/// Bytes of the blob: many times what is held back of it.
pub(crate) const BLOB_BYTES: u64 = 300_000;
/// Where in the blob a fault strikes.
const HALF: u64 = BLOB_BYTES / 2;
/// The budget that a fault wears out.
pub(crate) const TIGHT: Duration = Duration::from_millis(400);
/// How long a tag that is held waits for the upstream, where the fault wears out a budget.
const TAG_BUDGET: Duration = Duration::from_millis(250);
/// All other budgets: nothing here may take that long.
const AMPLE: Duration = Duration::from_secs(20);
/// How long anything may take on a busy machine where nothing has to be waited for; less than
/// [`AMPLE`].
const GRACE: Duration = Duration::from_secs(10);
/// How often an endpoint is probed that is rested.
const PROBE: Duration = Duration::from_millis(100);
/// How long nothing happens when nothing is about to: everything runs on one thread.
const QUIET: Duration = Duration::from_millis(40);
/// How long it waits before: longer than the first probe of an endpoint takes.
const RESUME_DELAY: Duration = Duration::from_millis(150);
/// What is too short to be a budget, where the table is written, on a machine with nothing else to do.
const NOISE: Duration = Duration::from_millis(100);
/// The same where the table is held against what happens, on any machine.
const NOISE_MAX: Duration = Duration::from_millis(300);
/// Padding that makes a manifest long enough to be cut.
const PADDING_BYTES: usize = 4_000;
/// An address that no client's own end of a connection is at, so that a port there is still free
/// when it is listened on again.
const ADDRESS: &str = "127.0.0.2:0";

const UPSTREAM: &str = "origin.example";
const USERNAME: &str = "mirror";
const PASSWORD: &str = "a-password-to-leak";
const REPOSITORY: &str = "library/app";
const TAG: &str = "latest";
const MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// What an endpoint is asked whether it is well.
const PROBED: &str = "/v2/";

/// A cell's stage.
pub(crate) struct Scene<'a> {
    spec: &'a Spec,
    cell: &'a Cell,
    origin: FixtureRegistry,
    /// The other endpoint, where there is one.
    second: Option<FixtureRegistry>,
    store: FaultingStore<MemoryStore>,
    clock: Arc<ManualClock>,
    log: OutgoingLog,
    /// What was asked before the fault.
    logged: usize,
    mirror: Mirror,
    /// Over the same store, with the upstream's right name.
    well: Option<Mirror>,
    blob: Digest,
    manifest: Digest,
    /// What the tag names when the fault strikes.
    current: Digest,
    /// Connections that fill the backlog.
    backlog: Option<Backlog>,
    _folder: TempDir,
}

/// What the clients of a cell got.
struct Got {
    client: String,
    cache_status: String,
    elapsed: Duration,
}

impl<'a> Scene<'a> {
    pub(crate) async fn set_up(spec: &'a Spec, cell: &'a Cell) -> Self {
        let origin = if spec.is_of_tls() {
            FixtureRegistry::start_https().await
        } else {
            FixtureRegistry::start_on(ADDRESS.parse().unwrap()).await
        };
        let second = match spec.second_endpoint {
            true => Some(origin.start_storage().await),
            false => None,
        };
        let blob = origin.add_blob(REPOSITORY, 1, BLOB_BYTES).digest;
        let manifest = add_manifest(&origin, blob, "first");
        let store = FaultingStore::new(MemoryStore::new());
        let clock = Arc::new(ManualClock::default());
        let log = OutgoingLog::default();
        let folder = tempfile::tempdir().unwrap();
        let mut endpoints = vec![origin.url()];
        endpoints.extend(second.as_ref().map(FixtureRegistry::url));
        let start = async |endpoints: &[String]| {
            let upstream = upstream(spec, endpoints, &origin, &log, &folder);
            start_mirror(spec, upstream, &store, &clock).await
        };
        let (mirror, well) = if matches!(spec.strike, Strike::Nameless) {
            let nameless = format!("http://registry.invalid:{}", origin.address().port());
            (start(&[nameless]).await, Some(start(&endpoints).await))
        } else {
            (start(&endpoints).await, None)
        };
        Self {
            spec,
            cell,
            second,
            logged: 0,
            blob,
            manifest,
            current: manifest,
            backlog: None,
            _folder: folder,
            mirror,
            well,
            store,
            clock,
            log,
            origin,
        }
    }

    /// Plays the cell, and tells what came of it.
    pub(crate) async fn play(mut self) -> Row {
        self.prepare().await;
        self.logged = self.log.requests().len();
        let got = match self.cell.state {
            State::MidFlight => self.mid_flight().await,
            State::MidFill => self.mid_fill().await,
            State::Cached | State::NotCached => {
                self.begin_fault().await;
                self.arm(None);
                self.pull().await
            }
        };
        self.settle(&got).await;
        let requests = self.asked();
        let stored = self.stored().await;
        let again = self.pull().await;
        self.settle(&again).await;
        let again_requests = self.asked();
        self.lift().await;
        let afterwards = self.recover().await;
        self.at_rest().await;
        let held = self.holds_object().await;
        assert!(
            held || self.cell.object == Object::BlobHead,
            "it is stored in the end"
        );
        self.check_store().await;
        self.check_secrets();
        Row {
            within: self.within(got.elapsed),
            again: if again.client == got.client {
                format!("same; {again_requests}")
            } else {
                format!("{}; {again_requests}", again.client)
            },
            client: got.client,
            cache_status: got.cache_status,
            requests,
            stored,
            afterwards,
        }
    }

    /// The password went nowhere but to the endpoints, whatever they led to; and to them it did,
    /// where they wanted it.
    fn check_secrets(&self) {
        let endpoints = [Some(&self.origin), self.second.as_ref()];
        let hosts: Vec<_> = (endpoints.into_iter().flatten())
            .map(FixtureRegistry::host)
            .collect();
        let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
        let secrets = Secrets::account(USERNAME, PASSWORD);
        let at_home = secrets.assert_at_most_at(&self.log, &hosts);
        let is_wanted = matches!(self.spec.strike, Strike::Token(_) | Strike::Unauthorized);
        assert!(at_home > 0 || !is_wanted, "there was nothing to leak");
    }

    /// Everything that went before the fault.
    async fn prepare(&mut self) {
        let mirror = self.well.as_ref().unwrap_or(&self.mirror);
        let by_tag = manifest_request("GET", TAG);
        let blob = self.blob_request("GET");
        let wanted: &[&str] = match (self.cell.object, self.cell.state) {
            (Object::Tag | Object::Manifest, State::Cached) => &[&by_tag],
            (Object::Blob | Object::BlobHead, State::Cached) => &[&by_tag, &blob],
            (Object::Blob | Object::BlobHead, _) => &[&by_tag],
            (Object::Tag | Object::Manifest, _) => &[],
        };
        if matches!(self.spec.strike, Strike::Token(_) | Strike::Unauthorized) {
            self.origin
                .behave(|behaviour| behaviour.token = Some(TokenAuth::default()));
        }
        for request in wanted {
            let answer = ask(mirror.addr(), request).await;
            assert_eq!((answer.head.status, answer.end), (200, End::Whole));
        }
        self.at_rest().await;
        if self.cell.object == Object::Tag
            && self.cell.state == State::Cached
            && self.spec.is_of_bodies()
        {
            // As otherwise no body is asked for.
            self.current = add_manifest(&self.origin, self.blob, "second");
        }
    }

    /// Three clients ask while the upstream is yet to answer the first of them.
    async fn mid_flight(&mut self) -> Got {
        let gate = Gate::new();
        self.arm(Some(Fault::Hold { gate: gate.clone() }));
        let lookup = match self.cell.object {
            Object::Tag => StoreCall::Tag,
            _ => StoreCall::Manifest,
        };
        let faults = self.store.faults();
        let looked_up = faults.calls(lookup);
        let mirror = self.mirror.addr();
        let reference = self.reference();
        let [get, head] = ["GET", "HEAD"].map(|method| manifest_request(method, &reference));
        let clients =
            async { tokio::join!(ask(mirror, &get), ask(mirror, &get), ask(mirror, &head)) };
        let strike = async {
            // They share one thread: whoever has looked in vain waits for the flight by the time
            // that this is seen.
            while faults.calls(lookup) < looked_up + 3 || self.origin.stats().in_flight != 1 {
                tokio::task::yield_now().await;
            }
            let begun = Instant::now();
            self.begin_fault().await;
            gate.open();
            begun
        };
        let ((leader, follower, head), begun) = tokio::join!(clients, strike);
        let elapsed = begun.elapsed();
        let got = self.told(&leader, elapsed);
        assert_eq!(self.told(&follower, elapsed).client, got.client);
        assert_eq!(head.head.status, leader.head.status, "HEAD is as GET");
        got
    }

    /// Two clients read a blob that is half there.
    async fn mid_fill(&mut self) -> Got {
        let gate = Gate::new();
        let hold = Fault::HoldAfter {
            bytes: HALF,
            gate: gate.clone(),
        };
        if let Strike::Body(_) = &self.spec.strike {
            self.arm(Some(hold));
        } else {
            let first = Fault::Several(vec![hold, Fault::Short { after: HALF }]);
            self.origin
                .fault(Match::blob(self.blob), Times::Once, first);
        }
        let mirror = self.mirror.addr();
        let request = self.blob_request("GET");
        let mut leader = Reading::begin(mirror, &request).await;
        leader.at_least(1).await.unwrap();
        let mut follower = Reading::begin(mirror, &request).await;
        follower.at_least(1).await.unwrap();
        let head = ask(mirror, &self.blob_request("HEAD")).await.head;
        assert_eq!(
            (head.status, head.content_length()),
            (200, BLOB_BYTES as usize)
        );
        let begun = Instant::now();
        if !matches!(self.spec.strike, Strike::Body(_)) {
            self.arm(None);
        }
        self.begin_fault().await;
        gate.open();
        let (leader, follower) = tokio::join!(leader.finish(), follower.finish());
        let elapsed = begun.elapsed();
        let mut got = self.told(&leader, elapsed);
        let other = self.told(&follower, elapsed);
        assert_eq!(other.client, got.client);
        if other.cache_status != got.cache_status {
            got.cache_status = format!("{} / {}", got.cache_status, other.cache_status);
        }
        got
    }

    fn reference(&self) -> String {
        match self.cell.object {
            Object::Tag => TAG.to_owned(),
            _ => self.manifest.to_string(),
        }
    }

    fn blob_request(&self, method: &str) -> String {
        format!(
            "{method} /v2/{REPOSITORY}/blobs/{}?ns={UPSTREAM}",
            self.blob
        )
    }

    fn request(&self) -> String {
        match self.cell.object {
            Object::Tag | Object::Manifest => manifest_request("GET", &self.reference()),
            Object::Blob => self.blob_request("GET"),
            Object::BlobHead => self.blob_request("HEAD"),
        }
    }

    /// One client.
    async fn pull(&self) -> Got {
        self.pull_from(&self.mirror, &self.request()).await
    }

    async fn pull_from(&self, mirror: &Mirror, request: &str) -> Got {
        let begun = Instant::now();
        let answer = ask(mirror.addr(), request).await;
        self.told(&answer, begun.elapsed())
    }

    /// An answer in the table's words. What no answer may be fails here, whatever the table says.
    fn told(&self, answer: &Answer, elapsed: Duration) -> Got {
        let Answer { head, body, end } = answer;
        let status = head.status;
        assert_ne!(*end, End::Reset, "containerd resumes only after a FIN");
        let client = match (status, end) {
            (200, End::Whole) if body.is_empty() => match head.content_length() {
                length if length == BLOB_BYTES as usize => "200".to_owned(),
                length => format!("200, of {length} bytes"),
            },
            (200, End::Whole) => self.told_whole(head, body),
            (200, _) => {
                assert!(
                    (body.len() as u64) < BLOB_BYTES,
                    "a whole body is right (I2)"
                );
                "200, cut short".to_owned()
            }
            _ if body.is_empty() => status.to_string(),
            _ => format!("{status} {}", error_code(body)),
        };
        let retry = head.header("retry-after");
        let cache_status = head.header("cache-status").expect("always there");
        Got {
            client: match retry {
                Some(seconds) => {
                    assert!((1..=10).contains(&seconds.parse::<u64>().unwrap()));
                    format!("{client}, Retry-After")
                }
                None => client,
            },
            cache_status: cache_status.replace("registry-server; ", ""),
            elapsed,
        }
    }

    fn told_whole(&self, head: &Head, body: &[u8]) -> String {
        let got = Hasher::digest_of(Algorithm::Sha256, body);
        let told = head.header("docker-content-digest");
        assert_eq!(told, Some(&*got.to_string()));
        match self.cell.object {
            Object::Tag if got == self.current && self.current != self.manifest => {
                "200, the new one".to_owned()
            }
            Object::Tag if self.current != self.manifest => {
                assert_eq!(got, self.manifest);
                "200, the old one".to_owned()
            }
            Object::Tag | Object::Manifest => {
                assert_eq!(got, self.manifest);
                "200".to_owned()
            }
            Object::Blob | Object::BlobHead => {
                assert_eq!(got, self.blob);
                "200".to_owned()
            }
        }
    }

    /// Waits until nothing is under way any more.
    async fn settle(&self, got: &Got) {
        if got.cache_status == "fwd=stale; detail=timeout" {
            // The upstream is still being asked, and what comes after a connection that does not
            // come about, or of a change of endpoints, is seen nowhere before it is there.
            tokio::time::sleep(TIGHT).await;
        }
        self.at_rest().await;
        // The first probe of an endpoint that is rested is made at once, and what it finds counts.
        let mut requests = 0;
        while self.spec.rests() && requests != self.log.requests().len() {
            requests = self.log.requests().len();
            tokio::time::sleep(QUIET).await;
            self.at_rest().await;
        }
    }

    async fn at_rest(&self) {
        for registry in [Some(&self.origin), self.second.as_ref()]
            .into_iter()
            .flatten()
        {
            registry.wait_for(|stats| stats.in_flight == 0).await;
        }
        while self.mirror.cache().fills_active() > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// What was asked of the upstream since the last look.
    fn asked(&mut self) -> String {
        let requests = self.log.requests();
        let new = requests[self.logged..]
            .iter()
            .filter(|request| request.url.path() != PROBED);
        let at = |registry: &FixtureRegistry| registry.address().port();
        let text = match &self.second {
            Some(second) => {
                let parts = [("1st", at(&self.origin)), ("2nd", at(second))].map(|(name, port)| {
                    let of_it = new
                        .clone()
                        .filter(|request| request.url.port() == Some(port));
                    (name, count(of_it.map(kind).collect()))
                });
                let parts = parts.into_iter().filter(|(_, text)| text != "none");
                let parts: Vec<_> = parts
                    .map(|(name, text)| format!("{name}: {text}"))
                    .collect();
                if parts.is_empty() {
                    "none".to_owned()
                } else {
                    parts.join(". ")
                }
            }
            None => count(new.map(kind).collect()),
        };
        self.logged = requests.len();
        text
    }

    /// What is stored of the object.
    async fn stored(&self) -> String {
        match self.cell.object {
            Object::Tag => {
                let origin = Origin::new(
                    UpstreamId::parse(UPSTREAM).unwrap(),
                    Repository::parse(REPOSITORY).unwrap(),
                );
                let tag = Tag::parse(TAG).unwrap();
                let record = self.store.inner().tag(&origin, &tag).await.unwrap();
                match record.map(|record| record.digest) {
                    Some(digest) if self.current == self.manifest => {
                        assert_eq!(digest, self.current);
                        "yes"
                    }
                    Some(digest) if digest == self.current => "the new one",
                    Some(_) => "the old one",
                    None => "no",
                }
            }
            _ if self.holds_object().await => "yes",
            _ => "no",
        }
        .to_owned()
    }

    async fn holds_object(&self) -> bool {
        let store = self.store.inner();
        match self.cell.object {
            Object::Tag => store.manifest(self.current).await.unwrap().is_some(),
            Object::Manifest => store.manifest(self.manifest).await.unwrap().is_some(),
            Object::Blob | Object::BlobHead => store.stat(self.blob).await.unwrap().is_some(),
        }
    }

    /// All that is stored is what its digest names (I1).
    async fn check_store(&self) {
        let store = self.store.inner();
        let mut blobs = store.list();
        while let Some(stat) = blobs.next().await {
            let digest = stat.unwrap().digest;
            let body = store.open(digest, None).await.unwrap().unwrap();
            let BlobPayload::Stream(stream) = body.payload else {
                panic!("a store in memory has no files");
            };
            let bytes = stream.try_collect::<Vec<_>>().await.unwrap().concat();
            assert_eq!(Hasher::digest_of(Algorithm::Sha256, &bytes), digest);
        }
    }

    /// The next pull, which is right.
    async fn recover(&self) -> String {
        let mirror = self.well.as_ref().unwrap_or(&self.mirror);
        let request = match self.cell.object {
            // Whatever a HEAD was told, what it is of can be pulled.
            Object::BlobHead => self.blob_request("GET"),
            _ => self.request(),
        };
        let right = if self.current == self.manifest {
            "200"
        } else {
            "200, the new one"
        };
        let begun = Instant::now();
        let mut got = self.pull_from(mirror, &request).await;
        // An endpoint that is rested is asked again when a probe has found it well, and one that has
        // asked to be left alone when that is over.
        while self.spec.lingers()
            && (got.client != right || is_stale(&got.cache_status))
            && begun.elapsed() < GRACE
        {
            tokio::time::sleep(QUIET).await;
            got = self.pull_from(mirror, &request).await;
        }
        assert_eq!(got.client, right, "the next pull ({})", got.cache_status);
        got.cache_status
    }

    /// How long it took.
    fn within(&self, elapsed: Duration) -> Within {
        let (unit, budget) = match (self.spec.tight, self.cell.object, self.cell.state) {
            (None, ..) => {
                // All budgets are ample, and none of them has to be waited for.
                assert!(elapsed < GRACE, "waited in vain for {elapsed:?}");
                return Within::default();
            }
            (Some(_), Object::Tag, State::Cached) => (TAG_BUDGET, "tag"),
            (Some(budget), ..) => (TIGHT, budget.name()),
        };
        let noise = if crate::is_writing() {
            NOISE
        } else {
            NOISE_MAX
        };
        let spent = elapsed.saturating_sub(noise).div_duration_f64(unit);
        Within {
            times: spent.ceil() as u32,
            budget: budget.to_owned(),
        }
    }
}

fn manifest_request(method: &str, reference: &str) -> String {
    format!("{method} /v2/{REPOSITORY}/manifests/{reference}?ns={UPSTREAM}")
}
