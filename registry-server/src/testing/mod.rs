//! A registry to test against: in this process, with generated images, faults on request, and
//! counters of every request and byte.
//!
//! It is what our own tests, examples and benchmarks pull from, and is of use to anyone who embeds
//! the mirror, or writes any other client of registries. It listens on a port of `127.0.0.1`, holds
//! images that are computed and not stored (a blob of a gigabyte costs no memory), and commits the
//! faults that real registries and networks commit: wrong bytes, short and stalled bodies, resets,
//! lying lengths, redirects, tokens.
//!
//! ```
//! use http::Method;
//! use registry_server::testing::{Fault, FixtureRegistry, ImageSpec, Match, Object, Times};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let registry = FixtureRegistry::start().await;
//! let image = registry.add_image("library/app", "latest", &ImageSpec::new(1).layers(&[1 << 20]));
//! let layer = image.layers[0].digest;
//! registry.fault(Match::blob(layer), Times::Once, Fault::Short { after: 1000 });
//!
//! // … pull `library/app:latest` from `registry.url()`, and then:
//! assert_eq!(registry.count(Method::GET, Object::Blob), 0);
//! assert_eq!(registry.blob_bytes_sent(&layer), 0);
//! # }
//! ```
//!
//! This module panics where a test asks for what cannot be, such as a malformed name: it is made
//! for tests, which have no better use for an error.

mod answer;
mod behaviour;
mod content;
mod fault;
mod image;
mod outgoing;
mod secrets;
mod serve;
mod stats;
pub(crate) mod tls;
mod token_server;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use registry_core::{Descriptor, Digest, Repository, Tag};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use behaviour::{Behaviour, BlobRedirect, Login, ReferrersApi, TokenAuth};
pub use fault::{Fault, Gate, Match, Times};
pub use image::{FixtureImage, ImageFormat, ImageSpec};
pub use outgoing::{Outgoing, OutgoingLog};
pub use secrets::Secrets;
pub use stats::{Object, Recorded, Stats};
pub use tls::{Certificate, FixtureTls};
pub use token_server::{Access, TokenRequest, TokenServer};

use answer::Request;
use content::{Generated, Library, Source, StoredManifest};
use fault::FaultQueue;
use image::{BuiltImage, parse_media_type};
use stats::REQUESTS_KEPT_MAX;
use tls::Socket;

/// A free port of this machine.
const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// How long [`FixtureRegistry::wait_for`] waits before it gives the test up.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The media type of a blob that belongs to no image.
const BLOB_MEDIA_TYPE: &str = "application/octet-stream";

/// Whether the mirrors that tests start leave files to the kernel: what `REGISTRY_SENDFILE` says, so
/// that a whole suite can be run either way.
pub fn sends_files() -> bool {
    std::env::var("REGISTRY_SENDFILE").as_deref() != Ok("false")
}

/// A registry in this process. It serves until it is stopped or dropped.
///
/// Everything but the waiting is synchronous, so that it may be set up from anywhere; all methods
/// take `&self`, so that it can be shared.
#[derive(Debug)]
pub struct FixtureRegistry {
    state: Arc<State>,
    running: Mutex<Option<Running>>,
}

/// The tasks that serve.
#[derive(Debug)]
struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl FixtureRegistry {
    /// Starts an empty registry on a free port of `127.0.0.1`.
    ///
    /// # Panics
    ///
    /// Where that address cannot be listened on.
    pub async fn start() -> Self {
        Self::start_on(ANY_PORT.into()).await
    }

    /// Starts an empty registry on an address of the caller's choice.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    pub async fn start_on(address: SocketAddr) -> Self {
        Self::start_over(address, Arc::default(), Arc::default(), None).await
    }

    /// Starts an empty registry that speaks HTTPS only, for `127.0.0.1` and `localhost`, with a
    /// certificate of an authority that was made for it: [`Self::tls`] tells it.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    pub async fn start_https() -> Self {
        Self::start_over(
            ANY_PORT.into(),
            Arc::default(),
            Arc::default(),
            Some(FixtureTls::generate()),
        )
        .await
    }

    /// Starts another registry over the same content, with behaviour, faults and counters of its
    /// own: storage for [`BlobRedirect::base`], or a second endpoint. It speaks HTTPS, with the
    /// same authority, where this one does.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    pub async fn start_storage(&self) -> Self {
        self.start_beside(Arc::default()).await
    }

    /// Starts another registry, as [`Self::start_storage`] does, whose tokens are taken here: for
    /// [`TokenAuth::realm`].
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    pub async fn start_token_server(&self) -> Self {
        self.start_beside(Arc::clone(&self.state.tokens)).await
    }

    async fn start_beside(&self, tokens: Arc<Mutex<Vec<Issued>>>) -> Self {
        let (library, tls) = (Arc::clone(&self.state.library), self.state.tls.clone());
        Self::start_over(ANY_PORT.into(), library, tokens, tls).await
    }

    async fn start_over(
        address: SocketAddr,
        library: Arc<Mutex<Library>>,
        tokens: Arc<Mutex<Vec<Issued>>>,
        tls: Option<FixtureTls>,
    ) -> Self {
        let listener = listen(address).await;
        let address = listener.local_addr().expect("a listener has an address");
        let registry = Self {
            state: Arc::new(State::new(address, library, tokens, tls)),
            running: Mutex::new(None),
        };
        registry.serve(listener);
        registry
    }

    fn serve(&self, listener: TcpListener) {
        let running = Running {
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let accepting = accept(
            listener,
            Arc::clone(&self.state),
            running.stop.clone(),
            running.tasks.clone(),
        );
        running.tasks.spawn(accepting);
        *lock(&self.running) = Some(running);
    }

    /// Stops serving: connections that are open are closed at once, new ones are refused. Content,
    /// behaviour, faults and counters stay. Returns when nothing listens any more.
    pub async fn stop(&self) {
        let running = lock(&self.running).take();
        if let Some(running) = running {
            running.stop.cancel();
            running.tasks.close();
            running.tasks.wait().await;
        }
    }

    /// Serves again, on the same port.
    ///
    /// # Panics
    ///
    /// Where it was not stopped, or another process has taken the port.
    pub async fn restart(&self) {
        assert!(lock(&self.running).is_none(), "stop the registry first");
        let listener = listen(self.state.address).await;
        self.serve(listener);
    }

    /// `http://127.0.0.1:PORT`, or `https://`.
    pub fn url(&self) -> String {
        self.state.url()
    }

    /// `127.0.0.1:PORT`, as it stands before a repository in an image's name.
    pub fn host(&self) -> String {
        self.state.address.to_string()
    }

    /// What its clients need, where it speaks HTTPS.
    pub fn tls(&self) -> Option<&FixtureTls> {
        self.state.tls.as_ref()
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.state.address
    }
}

/// Content.
impl FixtureRegistry {
    /// Puts an image into a repository, under a tag. Its bytes are hashed here and now: half a
    /// second a gigabyte.
    pub fn add_image(&self, repository: &str, tag: &str, spec: &ImageSpec) -> FixtureImage {
        let built = spec.build();
        let mut library = self.state.library();
        let repository = checked(repository);
        for (digest, source) in built.blobs {
            library.add_blob(repository, digest, source);
        }
        let content = library.repository(repository);
        content.manifests.extend(built.manifests);
        let root = built.image.root().digest;
        content.tags.insert(checked_tag(tag), root);
        built.image
    }

    /// Puts a blob of generated bytes into a repository: the same for the same seed and size.
    pub fn add_blob(&self, repository: &str, seed: u64, size: u64) -> Descriptor {
        let source = Source::from(Generated::new(seed, size));
        let descriptor = Descriptor {
            media_type: parse_media_type(BLOB_MEDIA_TYPE),
            digest: source.digest(),
            size,
        };
        let mut library = self.state.library();
        library.add_blob(checked(repository), descriptor.digest, source);
        descriptor
    }

    /// Puts any bytes into a repository as a manifest of this media type; they are not looked at.
    pub fn add_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> Descriptor {
        let manifest = StoredManifest {
            media_type: parse_media_type(media_type),
            bytes: bytes.into(),
        };
        let descriptor = manifest.descriptor();
        let mut library = self.state.library();
        let content = library.repository(checked(repository));
        content.manifests.insert(descriptor.digest, manifest);
        if let Some(tag) = tag {
            content.tags.insert(checked_tag(tag), descriptor.digest);
        }
        descriptor
    }

    /// Puts an artifact that refers to `subject` into a repository: a manifest, its empty
    /// configuration, and one blob with this content. It has no tag; the referrers API lists it
    /// where [`Behaviour::referrers`] is on.
    pub fn add_referrer(
        &self,
        repository: &str,
        subject: &Descriptor,
        artifact_type: &str,
        annotations: &[(&str, &str)],
        content: impl Into<Bytes>,
    ) -> Descriptor {
        let mut built = BuiltImage::default();
        let content = Source::Bytes(content.into());
        let manifest = built.add_referrer(subject, artifact_type, annotations, content);
        let mut library = self.state.library();
        let repository = checked(repository);
        for (digest, source) in built.blobs {
            library.add_blob(repository, digest, source);
        }
        let content = library.repository(repository);
        content.manifests.extend(built.manifests);
        manifest
    }

    /// Lets a tag name another manifest of the same repository.
    pub fn move_tag(&self, repository: &str, tag: &str, digest: Digest) {
        let mut library = self.state.library();
        let content = library.repository(checked(repository));
        assert!(
            content.manifests.contains_key(&digest),
            "no manifest {digest} in {repository}"
        );
        content.tags.insert(checked_tag(tag), digest);
    }

    /// Deletes a tag; what it named stays.
    pub fn delete_tag(&self, repository: &str, tag: &str) {
        let mut library = self.state.library();
        library.repository(checked(repository)).tags.remove(tag);
    }

    /// Deletes a blob from a repository; others keep it.
    pub fn delete_blob(&self, repository: &str, digest: &Digest) {
        let mut library = self.state.library();
        library.repository(checked(repository)).blobs.remove(digest);
    }

    /// The bytes of a blob or a manifest, all in memory; none where nothing has this digest.
    pub fn bytes(&self, digest: &Digest) -> Option<Bytes> {
        let library = self.state.library();
        if let Some(source) = library.blobs.get(digest) {
            let length = usize::try_from(source.size()).expect("a blob fits into memory");
            return Some(source.read(0, length));
        }
        let mut repositories = library.repositories.values();
        let manifest = repositories.find_map(|content| content.manifests.get(digest))?;
        Some(manifest.bytes.clone())
    }
}

/// Behaviour and faults.
impl FixtureRegistry {
    /// Changes how it answers, from the next request on:
    /// `registry.behave(|behaviour| behaviour.omit_digest = true)`.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut lock(&self.state.behaviour));
    }

    /// Shows this certificate on connections that are made from now on; those that are open stay,
    /// until it [stops](Self::stop).
    ///
    /// # Panics
    ///
    /// Where it does not speak HTTPS.
    pub fn show_certificate(&self, certificate: Certificate) {
        let tls = self.state.tls.as_ref().expect("it speaks HTTPS");
        *lock(&self.state.shown) = Some(tls.showing(certificate));
    }

    /// Scripts a fault. Each request takes the first that fits it, in the order they were given.
    pub fn fault(&self, when: Match, times: Times, fault: Fault) {
        lock(&self.state.faults).push(when, times, fault);
    }

    /// Forgets all faults that were not committed yet.
    pub fn clear_faults(&self) {
        lock(&self.state.faults).clear();
    }

    /// How many faults are still to be committed, not counting those of [`Times::Always`].
    pub fn faults_left(&self) -> u64 {
        lock(&self.state.faults).left()
    }

    /// Makes all tokens that were issued invalid.
    pub fn revoke_tokens(&self) {
        lock(&self.state.tokens).clear();
    }
}

/// Counters.
impl FixtureRegistry {
    /// How many requests of this kind came.
    pub fn count(&self, method: Method, object: Object) -> u64 {
        self.state.stats.borrow().count(method, object)
    }

    /// How many requests came.
    pub fn total(&self) -> u64 {
        self.state.stats.borrow().total()
    }

    /// How many bytes of this blob were sent: handed to the operating system, whether or not the
    /// client read them. Whoever has received a body finds all of it counted.
    pub fn blob_bytes_sent(&self, digest: &Digest) -> u64 {
        self.state.stats.borrow().blob_bytes_sent(digest)
    }

    /// How many bytes of bodies were sent, errors included.
    pub fn body_bytes_sent(&self) -> u64 {
        self.state.stats.borrow().body_bytes_sent
    }

    /// All counters at this moment.
    pub fn stats(&self) -> Stats {
        self.state.stats.borrow().clone()
    }

    /// The requests that came, in order; the first 65,536 of them.
    pub fn requests(&self) -> Vec<Recorded> {
        lock(&self.state.requests).clone()
    }

    /// Sets all counters to zero and forgets the requests.
    pub fn reset_counters(&self) {
        let mut requests = lock(&self.state.requests);
        requests.clear();
        self.state.stats.send_modify(Stats::reset);
    }

    /// Waits until the counters are as wanted, without polling:
    /// `registry.wait_for(|stats| stats.in_flight == 0).await`.
    ///
    /// # Panics
    ///
    /// Where that takes longer than half a minute: with the counters, so that the test says why.
    pub async fn wait_for(&self, wanted: impl FnMut(&Stats) -> bool) -> Stats {
        let mut receiver = self.state.stats.subscribe();
        let waiting = tokio::time::timeout(WAIT_MAX, receiver.wait_for(wanted));
        match waiting.await {
            Ok(stats) => stats.expect("the sender lives as long as self").clone(),
            Err(_) => panic!("waited in vain; the counters are {:#?}", self.stats()),
        }
    }
}

impl Drop for FixtureRegistry {
    fn drop(&mut self) {
        if let Some(running) = lock(&self.running).take() {
            running.stop.cancel();
        }
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => panic!("cannot listen on {address}: {error}"),
    }
}

async fn accept(
    listener: TcpListener,
    state: Arc<State>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        // An accept fails where the client was gone before it, or without file descriptors left:
        // in both cases the next one may succeed.
        let Ok((stream, _)) = accepted else { continue };
        // Small answers must not wait for the acknowledgement of the last one; where the option
        // cannot be set, they do.
        let _ = stream.set_nodelay(true);
        state.stats.send_modify(|stats| stats.connections += 1);
        let connection = connection(stream, Arc::clone(&state));
        let stop = stop.clone();
        tasks.spawn(async move {
            // How a connection ends is for the client to judge.
            let _ = stop.run_until_cancelled(connection).await;
        });
    }
}

async fn connection(stream: TcpStream, state: Arc<State>) -> std::io::Result<()> {
    let shown = lock(&state.shown).clone();
    let socket = match shown.as_ref().or(state.tls.as_ref()) {
        Some(tls) => Socket::Tls(Box::new(tls.accept(stream).await?)),
        None => Socket::Plain(stream),
    };
    serve::connection(socket, state).await
}

/// What the connections of a registry share.
struct State {
    address: SocketAddr,
    tls: Option<FixtureTls>,
    /// In place of that, where another certificate is to be shown.
    shown: Mutex<Option<FixtureTls>>,
    library: Arc<Mutex<Library>>,
    behaviour: Mutex<Behaviour>,
    faults: Mutex<FaultQueue>,
    tokens: Arc<Mutex<Vec<Issued>>>,
    requests: Mutex<Vec<Recorded>>,
    stats: watch::Sender<Stats>,
}

impl State {
    fn new(
        address: SocketAddr,
        library: Arc<Mutex<Library>>,
        tokens: Arc<Mutex<Vec<Issued>>>,
        tls: Option<FixtureTls>,
    ) -> Self {
        Self {
            address,
            tls,
            shown: Mutex::default(),
            library,
            behaviour: Mutex::default(),
            faults: Mutex::default(),
            tokens,
            requests: Mutex::default(),
            stats: watch::Sender::default(),
        }
    }

    fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    fn library(&self) -> MutexGuard<'_, Library> {
        lock(&self.library)
    }

    fn behaviour(&self) -> Behaviour {
        lock(&self.behaviour).clone()
    }

    fn take_fault(&self, request: &Request, object: Object) -> Option<Fault> {
        let part = request.header("range").is_some();
        lock(&self.faults).take(&request.method, object, &request.path, part)
    }

    /// Counts a request and keeps it; its number, where there was room for it.
    fn record(&self, request: &Request, object: Object, client_certificate: bool) -> Option<usize> {
        let mut requests = lock(&self.requests);
        self.stats.send_modify(|stats| {
            let kind = (request.method.clone(), object);
            *stats.counts.entry(kind).or_default() += 1;
            stats.in_flight += 1;
            stats.in_flight_max = stats.in_flight_max.max(stats.in_flight);
        });
        if requests.len() == REQUESTS_KEPT_MAX {
            return None;
        }
        requests.push(Recorded {
            object,
            method: request.method.clone(),
            path: request.path.clone(),
            query: request.raw_query.clone(),
            headers: request.headers.clone(),
            body: request.body.clone(),
            client_certificate,
            status: None,
        });
        Some(requests.len() - 1)
    }

    fn record_status(&self, record: Option<usize>, status: u16) {
        let mut requests = lock(&self.requests);
        // The counters may have been reset meanwhile.
        if let Some(recorded) = record.and_then(|index| requests.get_mut(index)) {
            recorded.status = Some(status);
        }
    }

    fn count_body(&self, blob: Option<Digest>, bytes: u64) {
        self.stats.send_modify(|stats| {
            stats.body_bytes_sent += bytes;
            if let Some(digest) = blob {
                *stats.blob_bytes.entry(digest).or_default() += bytes;
            }
        });
    }

    /// A token for these scopes.
    fn issue_token(&self, scopes: Vec<String>) -> String {
        let mut tokens = lock(&self.tokens);
        let port = self.address.port();
        let token = format!("fixture-token-{port}-{}", tokens.len());
        tokens.push(Issued {
            token: token.clone(),
            scopes,
        });
        token
    }

    /// Whether a token was issued for all of these scopes.
    fn token_grants(&self, token: &str, scopes: &[String]) -> bool {
        let grants = |issued: &Issued| {
            issued.token == token && scopes.iter().all(|scope| issued.scopes.contains(scope))
        };
        lock(&self.tokens).iter().any(grants)
    }
}

/// A token that was issued.
struct Issued {
    token: String,
    scopes: Vec<String>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Locks; what a panicking test has left is as good as ever, as nothing here is half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn checked(repository: &str) -> &str {
    Repository::parse(repository).expect("a repository in a test is well-formed");
    repository
}

fn checked_tag(tag: &str) -> String {
    Tag::parse(tag).expect("a tag in a test is well-formed");
    tag.to_owned()
}
