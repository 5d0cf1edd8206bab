//! A mirror on the loopback interface over scripted upstreams, and a client that shows every byte.

#![expect(
    dead_code,
    reason = "each test binary uses a part of it, and none all of it"
)]

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use registry_core::testing::ScriptedUpstream;
use registry_core::testing::content::read_body;
use registry_core::{
    BlobBody, BlobPayload, BlobSink, BlobStat, BlobStore, ByteRange, Digest, Manifest, MemoryStore,
    RangeRequest, RegistryCache, Repository, StoreError, Stores, Tag, UpstreamEntry, UpstreamId,
    UpstreamPolicy, Upstreams,
};
use registry_server::front::{FrontLimits, Server, ServerOptions, Tls, TlsFiles};
use registry_server::testing::{FixtureTls, sends_files};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn repository(name: &str) -> Repository {
    Repository::parse(name).unwrap()
}

pub(crate) fn tag(name: &str) -> Tag {
    Tag::parse(name).unwrap()
}

/// A mirror of three upstreams, `docker.io` being the default.
pub(crate) struct Mirror {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) docker: Arc<ScriptedUpstream>,
    pub(crate) quay: Arc<ScriptedUpstream>,
    pub(crate) local: Arc<ScriptedUpstream>,
    pub(crate) cache: RegistryCache,
    secured: Option<Secured>,
    shutdown: CancellationToken,
    running: JoinSet<()>,
}

/// How a [`Mirror`] differs from the default.
#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) limits: FrontLimits,
    pub(crate) policy: UpstreamPolicy,
    pub(crate) cache_limits: registry_core::Limits,
    pub(crate) blobs: Blobs,
    /// Whether the mirror speaks TLS.
    pub(crate) secured: bool,
    /// In place of what `blobs` says.
    pub(crate) store: Option<Arc<dyn BlobStore>>,
    /// Whether the kernel sends files; where it is not said, the environment says so.
    pub(crate) sendfile: Option<bool>,
}

/// A certificate, and the folder that the mirror finds it in.
pub(crate) struct Secured {
    pub(crate) files: TlsFiles,
    authority: String,
    _folder: tempfile::TempDir,
}

impl Secured {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = TlsFiles {
            cert_file: folder.path().join("cert.pem"),
            key_file: folder.path().join("key.pem"),
        };
        let mut secured = Self {
            files,
            authority: String::new(),
            _folder: folder,
        };
        secured.exchange();
        secured
    }

    /// Puts another certificate into the files, of an authority of its own.
    pub(crate) fn exchange(&mut self) {
        let fixture = FixtureTls::generate();
        std::fs::write(&self.files.cert_file, &fixture.server_cert_pem).unwrap();
        std::fs::write(&self.files.key_file, &fixture.server_key_pem).unwrap();
        self.authority = fixture.ca_pem;
    }

    /// A client that trusts the certificate that stands in the files, and speaks these protocols.
    pub(crate) fn client(&self, protocols: &[&[u8]]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.authority.as_bytes()).unwrap();
        roots.add(authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        config
    }
}

/// What blobs are served from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Blobs {
    #[default]
    Memory,
    Files,
    /// Files that were cut to so many bytes under the store's feet.
    CutFiles(u64),
    /// A store that panics when it opens one.
    Panicking,
}

impl Mirror {
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        let [docker, quay, local] = std::array::from_fn(|_| ScriptedUpstream::new());
        let mut upstreams = Upstreams::new();
        for (id, upstream) in [
            ("docker.io", &docker),
            ("quay.io", &quay),
            ("localhost:5001", &local),
        ] {
            let entry = UpstreamEntry {
                policy: setup.policy.clone(),
                ..UpstreamEntry::new(Arc::clone(upstream) as _)
            };
            upstreams.insert(UpstreamId::parse(id).unwrap(), entry);
        }
        let memory = MemoryStore::new();
        let mut stores = Stores::of(Arc::new(memory.clone()));
        let cut = match setup.blobs {
            Blobs::Memory => None,
            Blobs::Files => Some(u64::MAX),
            Blobs::CutFiles(len) => Some(len),
            Blobs::Panicking => Some(u64::MAX),
        };
        if let Some(len) = cut {
            let panics = matches!(setup.blobs, Blobs::Panicking);
            stores.blobs = Arc::new(FileBacked(memory, len, panics));
        }
        if let Some(store) = setup.store {
            stores.blobs = store;
        }
        let clock = Arc::new(registry_core::SystemClock);
        let cache = RegistryCache::with(stores, upstreams, setup.cache_limits, clock);
        let secured = setup.secured.then(Secured::new);
        let tls = secured.as_ref().map(|it| Tls::open(it.files.clone()));
        let options = ServerOptions {
            tls: tls.transpose().unwrap(),
            limits: setup.limits,
            sendfile: setup.sendfile.unwrap_or_else(sends_files),
            ..ServerOptions::new(UpstreamId::parse("docker.io").unwrap())
        };
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let server = Server::bind(any, Some(any), cache.clone(), options)
            .await
            .unwrap();
        let (address, admin) = (server.local_addr(), server.admin_addr().unwrap());
        let shutdown = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(server.run(shutdown.clone().cancelled_owned()));
        Self {
            address,
            admin,
            docker,
            quay,
            local,
            cache,
            secured,
            shutdown,
            running,
        }
    }

    pub(crate) async fn connect(&self) -> Client {
        match &self.secured {
            Some(_) => Client::over(self.handshake(&[b"http/1.1"]).await.unwrap()),
            None => Client::connect(self.address).await,
        }
    }

    /// The certificate of a mirror that speaks TLS.
    pub(crate) fn secured(&mut self) -> &mut Secured {
        self.secured.as_mut().expect("it was set up to speak TLS")
    }

    /// A secured connection of a client that speaks these protocols.
    pub(crate) async fn handshake(
        &self,
        protocols: &[&[u8]],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let secured = self.secured.as_ref().expect("it was set up to speak TLS");
        let config = secured.client(protocols);
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let connected = timeout(PATIENCE, connector.connect(name, stream)).await;
        connected.expect("the handshake ends in time")
    }

    /// One request on a connection of its own.
    pub(crate) async fn get(&self, target: &str) -> Response {
        self.connect().await.get(target, &[]).await
    }

    pub(crate) async fn get_with(&self, target: &str, headers: &[&str]) -> Response {
        self.connect().await.get(target, headers).await
    }

    pub(crate) async fn head(&self, target: &str) -> Response {
        self.connect().await.request("HEAD", target, &[]).await
    }

    pub(crate) fn begin_shutdown(&self) {
        self.shutdown.cancel();
    }

    /// Drops the server as it runs.
    pub(crate) fn kill(&mut self) {
        self.running.abort_all();
    }

    /// Waits until the server has ended.
    pub(crate) async fn ended(&mut self) {
        let ended = timeout(PATIENCE, self.running.join_next()).await;
        ended.expect("the server ends in time").unwrap().unwrap();
    }
}

/// A connection to the mirror.
pub(crate) struct Client {
    stream: Box<dyn Socket>,
    read: Vec<u8>,
}

pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }

    pub(crate) fn over(stream: impl Socket + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            read: Vec::new(),
        }
    }

    /// One whose socket takes little at a time.
    pub(crate) async fn connect_small(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        Self {
            stream: Box::new(socket.connect(address).await.unwrap()),
            read: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends as much as the other side takes: it may close in between.
    pub(crate) async fn send_some(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    pub(crate) async fn get(&mut self, target: &str, headers: &[&str]) -> Response {
        self.request("GET", target, headers).await
    }

    pub(crate) async fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[&str],
    ) -> Response {
        self.send(request(method, target, headers).as_bytes()).await;
        self.response(method).await
    }

    /// The next answer, whole.
    pub(crate) async fn response(&mut self, method: &str) -> Response {
        let mut response = self.head().await;
        let has_content = method != "HEAD" && response.status != 304;
        let length = if has_content { response.length() } else { 0 };
        let body = self.bytes(length).await;
        assert_eq!(body.len(), length, "the body is whole");
        response.body = body;
        response
    }

    /// The head of the next answer.
    pub(crate) async fn head(&mut self) -> Response {
        loop {
            if let Some(end) = find(&self.read, b"\r\n\r\n") {
                let rest = self.read.split_off(end + 4);
                let head = std::mem::replace(&mut self.read, rest);
                return Response::parse(std::str::from_utf8(&head).unwrap());
            }
            assert!(self.fill().await > 0, "an answer comes: {:?}", self.read);
        }
    }

    /// The next `length` bytes, or fewer where the connection ends before.
    pub(crate) async fn bytes(&mut self, length: usize) -> Vec<u8> {
        while self.read.len() < length && self.fill().await > 0 {}
        let rest = self.read.split_off(length.min(self.read.len()));
        std::mem::replace(&mut self.read, rest)
    }

    /// All bytes up to an orderly end; a connection that is reset has none.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await > 0 {}
        std::mem::take(&mut self.read)
    }

    async fn fill(&mut self) -> usize {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await;
        let read = read.expect("something happens on the connection");
        read.expect("the connection is closed in order, not reset")
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

pub(crate) fn request(method: &str, target: &str, headers: &[&str]) -> String {
    let fields: String = headers.iter().map(|field| format!("{field}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\nHost: mirror\r\n{fields}\r\n")
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    fn parse(head: &str) -> Self {
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let field = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap_or((line, ""));
            (name.to_lowercase(), value.to_owned())
        };
        Self {
            status: status.parse().unwrap(),
            headers: lines.map(field).collect(),
            body: Vec::new(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(field, _)| field == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} is there once at most");
        value
    }

    pub(crate) fn length(&self) -> usize {
        let length = self.header("content-length");
        length
            .expect("every answer tells its length")
            .parse()
            .unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!(self.header("content-type"), Some("application/json"));
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn code(&self) -> String {
        self.json()["errors"][0]["code"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub(crate) fn message(&self) -> String {
        self.json()["errors"][0]["message"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

/// An image of one layer under a tag; gives the digests of its manifest and its layer.
pub(crate) fn add_image(
    upstream: &ScriptedUpstream,
    repository: &Repository,
    name: &str,
    layer: impl Into<Bytes>,
) -> (Digest, Digest) {
    let layer = layer.into();
    let size = layer.len();
    let layer = upstream.add_blob(repository, layer);
    let json = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":{size}}}]}}"#
    );
    let manifest = Manifest::of_bytes(None, json.into()).unwrap();
    let digest = manifest.digest();
    upstream.add_manifest(repository, manifest);
    upstream.set_tag(repository, &tag(name), digest);
    (digest, layer)
}

/// Gives blobs as open files, as a store on disk does.
struct FileBacked(MemoryStore, u64, bool);

impl BlobStore for FileBacked {
    fn stat(&self, digest: Digest) -> BoxFuture<'_, Result<Option<BlobStat>, StoreError>> {
        BlobStore::stat(&self.0, digest)
    }

    fn open(
        &self,
        digest: Digest,
        range: Option<RangeRequest>,
    ) -> BoxFuture<'_, Result<Option<BlobBody>, StoreError>> {
        Box::pin(async move {
            assert!(!self.2, "scripted");
            let Some(whole) = BlobStore::open(&self.0, digest, None).await? else {
                return Ok(None);
            };
            let size = whole.size;
            let file = spill(&read_body(whole).await);
            file.set_len(size.min(self.1)).unwrap();
            let end = ByteRange::new(size, size).unwrap();
            let range = match range {
                Some(range) => range.resolve(size).unwrap_or(end),
                None => ByteRange::whole(size),
            };
            Ok(Some(BlobBody {
                size,
                range,
                payload: BlobPayload::File(Arc::new(file)),
            }))
        })
    }

    fn stage(
        &self,
        digest: Digest,
        size_hint: Option<u64>,
    ) -> BoxFuture<'_, Result<Arc<dyn BlobSink>, StoreError>> {
        BlobStore::stage(&self.0, digest, size_hint)
    }

    fn remove(&self, digest: Digest) -> BoxFuture<'_, Result<bool, StoreError>> {
        BlobStore::remove(&self.0, digest)
    }

    fn list(&self) -> BoxStream<'_, Result<BlobStat, StoreError>> {
        BlobStore::list(&self.0)
    }
}

fn spill(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}
