//! The documents of the admin API: what the mirror tells at `/api/v1/`, and what its command line
//! reads. Described for everybody else in `docs/openapi.yaml`, which a test holds against them.
//!
//! Sizes are bytes, and times are UTC in the form of RFC 3339. Fields may be added; a reader ignores
//! those that it does not know.

mod name;
mod time;
mod transfer;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use name::{ImageName, ImageNameError};
pub use time::Time;
pub use transfer::{
    ArchivedImage, ExportReport, ExportRequest, ImportFailure, ImportReport, LeftOut,
};

/// How the mirror is: `GET /api/v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// When it started.
    pub started_at: Time,
    /// The address that clients pull from.
    pub listen: String,
    /// The address of this API.
    pub admin_listen: Option<String>,
    /// The upstream that is meant where an image names none.
    pub default_upstream: String,
    /// Where everything is kept, if in a folder.
    pub data_dir: Option<String>,
    /// Whether all is well: the same as `/readyz` tells, and what is not as it should be.
    pub health: Health,
    /// What is kept.
    pub storage: Storage,
    /// What was answered since the start.
    pub traffic: Traffic,
    /// The registries that are mirrored.
    pub upstreams: Vec<UpstreamState>,
    /// Jobs that run now.
    pub jobs: Vec<Job>,
    /// The configuration that is in effect.
    pub configuration: ConfigurationState,
}

/// Whether all is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether requests should come here.
    pub ready: bool,
    /// What a person should look at, each in one sentence; empty where all is well.
    pub problems: Vec<String>,
}

/// What is kept, and how much room there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// Bytes of committed content.
    pub bytes: u64,
    /// The budget for them (`max_size`), if there is one.
    pub bytes_max: Option<u64>,
    /// Bytes that fills have promised to need, or have left unfinished.
    pub unfinished_bytes: u64,
    /// Bytes that may still be written before the reserve of the disk is touched.
    pub free_bytes: Option<u64>,
    /// Committed blobs.
    pub blobs: u64,
    /// Manifests.
    pub manifests: u64,
    /// Pins.
    pub pins: u64,
    /// Bytes that were evicted since the start.
    pub evicted_bytes: u64,
    /// How often since the start content was found missing or damaged, and was forgotten.
    pub healed: u64,
    /// How often since the start the store failed.
    pub failures: u64,
}

/// What was answered since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Answers by how they came about: `hit`, `miss`, `revalidated`, `stale`, `follow`, `bypass`.
    pub answers: BTreeMap<String, u64>,
    /// Bytes of bodies that clients were sent.
    pub served_bytes: u64,
    /// Bytes of bodies that upstreams sent.
    pub upstream_bytes: u64,
    /// Fills under way.
    pub fills_active: u64,
}

/// The configuration that is in effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationState {
    /// The file, where there is one.
    pub file: Option<String>,
    /// When it was last read and taken.
    pub loaded_at: Time,
    /// Why what the file says now is not in effect, where it is not.
    pub refused: Option<String>,
    /// What the file says and only a restart puts in effect.
    pub needs_restart: Vec<String>,
}

/// One upstream: `GET /api/v1/upstreams`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpstreamState {
    /// Its name: what `ns` says.
    pub name: String,
    /// Where it answers, in the order in which they are tried.
    pub endpoints: Vec<EndpointState>,
    /// Bytes that are charged to it, if that is known.
    pub bytes: Option<u64>,
}

/// One endpoint of an upstream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointState {
    /// Its host, with the port and path where it has any.
    pub endpoint: String,
    /// Whether it is asked, or rested and probed in the background.
    pub up: bool,
    /// Since when it is so, where it has changed since the start.
    pub since: Option<Time>,
    /// The last failure, in words.
    pub last_error: Option<Failure>,
    /// What it grants, as far as it has told.
    pub quotas: Vec<QuotaState>,
}

/// A failure, in words for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// When.
    pub at: Time,
    /// What.
    pub what: String,
}

/// How many pulls a registry still grants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuotaState {
    /// Whose: `anonymous`, or a name that says nothing secret.
    pub credential: String,
    /// Pulls in all within the window.
    pub limit: Option<u64>,
    /// Pulls that are left.
    pub remaining: Option<u64>,
    /// Length of the window in seconds.
    pub window_seconds: Option<u64>,
    /// When it was last told.
    pub at: Option<Time>,
}

/// One page of a listing. The next begins past [`Self::next`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// What to give as `after` for the next page; none where this is the last.
    pub next: Option<String>,
}

/// One repository: `GET /api/v1/repositories`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// The upstream.
    pub upstream: String,
    /// The repository, as the upstream knows it.
    pub repository: String,
    /// Bytes that are charged to it: of content that several use, to the first that brought it.
    pub bytes: u64,
    /// Tags that are held; not counted further than a thousand.
    pub tags: u64,
}

/// One image: `GET /api/v1/images`, and with [`Self::manifests`] `GET /api/v1/image`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Upstream, repository and tag, or digest: `docker.io/library/alpine:3.20`.
    pub name: String,
    /// The upstream.
    pub upstream: String,
    /// The repository.
    pub repository: String,
    /// The tag, of an image that is held under one.
    pub tag: Option<String>,
    /// Digest of the manifest or index that it names.
    pub digest: String,
    /// Platforms that are held whole, as `linux/amd64`.
    pub platforms: Vec<String>,
    /// Bytes of everything of it that is held.
    pub bytes: u64,
    /// Those of them that no other manifest that is held needs: what removing it would give free.
    pub own_bytes: u64,
    /// Whether everything that it needs, of at least one platform, is held.
    pub complete: bool,
    /// Whether a pin holds it.
    pub pinned: bool,
    /// When the tag was first seen to name this digest.
    pub fetched_at: Option<Time>,
    /// When the upstream last confirmed the tag.
    pub validated_at: Option<Time>,
    /// When it was last pulled.
    pub accessed_at: Option<Time>,
    /// Whether it has more parts than are looked at: what is told is of those only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// The manifests that it is made of; only where one image was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<ImageManifest>,
}

/// A manifest that an image is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageManifest {
    /// Its digest.
    pub digest: String,
    /// Its media type, as it or its index tells it.
    pub media_type: Option<String>,
    /// What kind of artifact it is, where it is one.
    pub artifact_type: Option<String>,
    /// Its platform, where it is one platform's.
    pub platform: Option<String>,
    /// The manifest that it is attached to within its index: an attestation to its image.
    pub attached_to: Option<String>,
    /// Whether it is held.
    pub held: bool,
    /// Bytes of it and of the blobs that it names, as it tells them.
    pub bytes: u64,
    /// Those of them that are held.
    pub held_bytes: u64,
    /// The endpoint that sent it.
    pub endpoint: Option<String>,
    /// When it was fetched.
    pub fetched_at: Option<Time>,
    /// When it was last accessed.
    pub accessed_at: Option<Time>,
    /// The blobs that it names.
    pub blobs: Vec<ImageBlob>,
}

/// A blob that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageBlob {
    /// Its digest.
    pub digest: String,
    /// Its media type, as the manifest tells it.
    pub media_type: Option<String>,
    /// Its size, as the manifest tells it.
    pub bytes: Option<u64>,
    /// Whether it is held.
    pub held: bool,
    /// Whether another manifest that is held names it, too.
    pub shared: bool,
    /// The endpoint that sent it.
    pub endpoint: Option<String>,
    /// When it was fetched.
    pub fetched_at: Option<Time>,
}

/// What was removed: the answer to `DELETE /api/v1/image`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// What was asked for.
    pub name: String,
    /// Bytes that it gave free.
    pub bytes: u64,
    /// Manifests and blobs that were removed.
    pub objects: u64,
    /// Why what the tag named is still there, in words, where it is: something else needs it.
    pub kept: Option<String>,
}

/// A pin: `GET /api/v1/pins`; its [`Self::pin`] alone is what `POST` and `DELETE` take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// What it names: `docker.io/library/alpine:3.20`, `ghcr.io/org/*`.
    pub pin: String,
    /// Since when.
    pub since: Time,
}

/// What `POST /api/v1/pins` takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinRequest {
    /// What is to be kept.
    pub pin: String,
}

/// Why an image is here, or is not: `GET /api/v1/why`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// What was asked about, written out.
    pub name: String,
    /// The answer in a word, for scripts.
    pub verdict: Verdict,
    /// The answer in sentences, the most important first.
    pub explanation: Vec<String>,
    /// What is held of it.
    pub image: Option<Image>,
    /// The last time that the upstream was asked what the tag names, and how that ended.
    pub last_answer: Option<UpstreamAnswer>,
    /// When it was removed the last time, if it was.
    pub removal: Option<RemovedImage>,
    /// What the next pull would do.
    pub next_pull: NextPull,
}

/// What is held of an image, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All of at least one platform.
    Cached,
    /// Its manifest, and not all that it names.
    Partial,
    /// It is being fetched.
    Filling,
    /// It was, and was removed.
    Removed,
    /// It was never here, as far as is known.
    Absent,
    /// Its upstream is none of those that are configured.
    UnknownUpstream,
}

/// How an upstream answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamAnswer {
    /// When.
    pub at: Time,
    /// Which endpoint, where one did.
    pub endpoint: Option<String>,
    /// What it said, in a word: `new`, `unchanged`, `moved`, `absent`, `timeout`, `rate-limited`,
    /// `unavailable`, `unauthorized`, `protocol-error`; `given-up` where the mirror waited no longer.
    pub answer: String,
    /// The error in words, where it was one.
    pub error: Option<String>,
}

/// That an image was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedImage {
    /// When.
    pub at: Time,
    /// Why: `size`, `disk`, `quota`, `idle`, `deleted`, `damaged`.
    pub reason: String,
    /// The digest that was removed.
    pub digest: String,
    /// When it had last been accessed.
    pub accessed_at: Option<Time>,
}

/// Something that was removed: `GET /api/v1/removals`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedObject {
    /// When.
    pub at: Time,
    /// Why: `size`, `disk`, `quota`, `idle`, `deleted`, `damaged`.
    pub reason: String,
    /// What it was: `manifest` or `blob`.
    pub object: String,
    /// Its digest.
    pub digest: String,
    /// The tags that it was held under, written out; the first few of them.
    pub images: Vec<String>,
    /// The repositories that it was held in; the first few of them.
    pub repositories: Vec<String>,
    /// Bytes that it gave free.
    pub bytes: u64,
    /// When it had last been accessed.
    pub accessed_at: Option<Time>,
}

/// What the next pull would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NextPull {
    /// It would be served without asking anybody.
    Hit,
    /// The upstream would be asked once whether the tag is still right, and the rest served.
    Revalidate,
    /// What is held would be served as stale, since the upstream cannot be asked now.
    Stale,
    /// What is missing would be fetched.
    Fetch,
    /// It would fail: nothing is held, and the upstream cannot be asked now, or says that there is
    /// none.
    Fail,
}

/// A long piece of work: `GET /api/v1/jobs/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its number.
    pub id: u64,
    /// What it does.
    pub kind: JobKind,
    /// What it was asked to do, in words.
    pub what: String,
    /// How it is going.
    pub state: JobState,
    /// When it was begun; of one that waits, when it was asked for.
    pub started_at: Time,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// How far it has come.
    pub progress: JobProgress,
    /// What it came to, one sentence each: what was done, and what could not be.
    pub report: Vec<String>,
    /// What could not be done: empty where all could.
    pub failures: Vec<String>,
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Fetches images before anybody pulls them.
    Warm,
    /// Hashes what is kept, and forgets what is damaged.
    Verify,
    /// Evicts what is over the limits.
    Collect,
}

/// How a job is going.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It waits for its turn.
    Queued,
    /// It runs.
    Running,
    /// It has done all that it was asked.
    Done,
    /// It has ended, and not all could be done.
    Failed,
    /// It was told to end before it had.
    Cancelled,
}

/// How far a job has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobProgress {
    /// Bytes done.
    pub bytes: u64,
    /// Bytes in all, as far as is known by now.
    pub bytes_total: Option<u64>,
    /// Objects or images done.
    pub items: u64,
    /// Objects or images in all, as far as is known by now.
    pub items_total: Option<u64>,
    /// What is being done now.
    pub current: Option<String>,
}

/// What `POST /api/v1/jobs` takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum JobRequest {
    /// Fetches images.
    Warm {
        /// Images, as `docker.io/library/alpine:3.20` or as people write them (`alpine`).
        images: Vec<String>,
        /// Platforms to fetch, as `linux/amd64`; all of them where the list is empty.
        #[serde(default)]
        platforms: Vec<String>,
        /// Also what is attached to them: signatures, attestations, bills of materials.
        #[serde(default)]
        attached: bool,
    },
    /// Hashes what is kept.
    Verify {
        /// Bytes a second; as configured where it is not said.
        #[serde(default)]
        rate: Option<u64>,
        /// One image; everything where it is not said.
        #[serde(default)]
        image: Option<String>,
    },
    /// Evicts what is over the limits.
    Collect {
        /// Evicts further, until this many bytes are kept.
        #[serde(default)]
        bytes: Option<u64>,
        /// Tells what it would evict, and evicts nothing.
        #[serde(default)]
        dry_run: bool,
    },
}

/// What became of a request to read the configuration again: `POST /api/v1/reload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// What is in effect now that was not before, in words.
    pub changed: Vec<String>,
    /// What the file says and only a restart puts in effect.
    pub needs_restart: Vec<String>,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A word for scripts: `not_found`, `unknown_path`, `invalid`, `unauthorized`, `forbidden`, `conflict`,
    /// `busy`, `unavailable`, `method_not_allowed`, `internal`.
    pub code: String,
    /// What is wrong, and what to do next.
    pub message: String,
}
