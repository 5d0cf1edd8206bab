//! What the benchmarks share: a mirror of a fixture registry, and a client that adds next to
//! nothing to what it measures.
//!
//! Absolute times say more about the machine than about the mirror; compare within one run.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use registry_core::Digest;
use registry_server::Mirror;
use registry_server::testing::FixtureRegistry;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

/// The name of the fixture registry at the mirror.
pub(crate) const UPSTREAM: &str = "origin.example";
/// The repository that everything is in.
pub(crate) const REPOSITORY: &str = "library/app";

/// Bytes that the client reads at a time.
const READ_BYTES: usize = 256 << 10;

/// A mirror and the registry behind it.
pub(crate) struct Setup {
    /// The registry.
    pub(crate) origin: FixtureRegistry,
    /// The mirror.
    pub(crate) mirror: Mirror,
    _folder: TempDir,
}

impl Setup {
    /// A mirror with nothing cached.
    pub(crate) async fn new() -> Self {
        Self::with_tag_ttl(Duration::ZERO).await
    }

    /// The same, whose tags are fresh for so long.
    pub(crate) async fn with_tag_ttl(ttl: Duration) -> Self {
        let origin = FixtureRegistry::start().await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mirror = Mirror::builder()
            .data_dir(folder.path())
            .upstream(UPSTREAM, &origin.url())
            // However full the disk is that this runs on.
            .reserve("64MiB")
            .tag_ttl(ttl)
            .start()
            .await
            .expect("the mirror starts");
        Self {
            origin,
            mirror,
            _folder: folder,
        }
    }

    /// Waits until what was downloaded is stored.
    pub(crate) async fn idle(&self) {
        self.origin.wait_for(|stats| stats.in_flight == 0).await;
        while self.mirror.cache().fills_active() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// A runtime like the binary's.
///
/// # Panics
///
/// Where the system has no threads left.
pub(crate) fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("threads")
}

/// The path of a blob, at the registry and at the mirror alike.
pub(crate) fn blob_path(digest: Digest) -> String {
    format!("/v2/{REPOSITORY}/blobs/{digest}?ns={UPSTREAM}")
}

/// The path of a manifest.
pub(crate) fn manifest_path(reference: impl std::fmt::Display) -> String {
    format!("/v2/{REPOSITORY}/manifests/{reference}?ns={UPSTREAM}")
}

/// A connection that is kept alive.
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What a GET took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetched {
    /// Until the first byte of the body.
    pub(crate) first_byte: Duration,
    /// Until the last.
    pub(crate) total: Duration,
    /// Bytes of the body.
    pub(crate) bytes: u64,
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    ///
    /// Where nothing listens there.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("it listens");
        stream.set_nodelay(true).expect("a socket option");
        Self {
            stream,
            buffer: vec![0; READ_BYTES],
        }
    }

    /// GETs a path and reads the body to its end.
    ///
    /// # Panics
    ///
    /// Where the answer is not a whole 200.
    pub(crate) async fn get(&mut self, path: &str) -> Fetched {
        let begun = Instant::now();
        let request = format!("GET {path} HTTP/1.1\r\nHost: mirror\r\n\r\n");
        self.stream
            .write_all(request.as_bytes())
            .await
            .expect("it takes the request");
        let (length, mut received) = self.head().await;
        let mut first_byte = (received > 0 || length == 0).then(|| begun.elapsed());
        while received < length {
            let read = self
                .stream
                .read(&mut self.buffer)
                .await
                .expect("it answers");
            assert!(read > 0, "the body broke off");
            received += read as u64;
            first_byte.get_or_insert_with(|| begun.elapsed());
        }
        let total = begun.elapsed();
        Fetched {
            first_byte: first_byte.unwrap_or(total),
            total,
            bytes: received,
        }
    }

    /// Reads the head: Content-Length, and bytes of the body that came with it.
    async fn head(&mut self) -> (u64, u64) {
        let mut filled = 0;
        loop {
            let read = self
                .stream
                .read(&mut self.buffer[filled..])
                .await
                .expect("it answers");
            assert!(read > 0, "the connection was closed");
            filled += read;
            let head = &self.buffer[..filled];
            let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else {
                continue;
            };
            let text = std::str::from_utf8(&head[..end])
                .expect("a head is text")
                .to_lowercase();
            assert!(text.starts_with("http/1.1 200"), "{text}");
            let length = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length = length.expect("a length").trim().parse().expect("a number");
            return (length, (filled - end - 4) as u64);
        }
    }
}
