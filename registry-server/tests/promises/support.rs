//! A mirror of a fixture registry, and a client that sees how a connection ends.

use std::io;
use std::net::SocketAddr;

use registry_core::{Algorithm, Digest, Hasher};
use registry_server::testing::FixtureRegistry;
use registry_server::{Mirror, MirrorBuilder};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The name under which tests know the fixture registry.
pub(crate) const UPSTREAM: &str = "origin.example";
/// The repository that tests use.
pub(crate) const REPOSITORY: &str = "library/app";

/// A mirror and the registry behind it.
pub(crate) struct Setup {
    pub(crate) origin: FixtureRegistry,
    pub(crate) mirror: Mirror,
    pub(crate) folder: TempDir,
}

impl Setup {
    pub(crate) async fn new() -> Self {
        Self::with(|builder, _| builder).await
    }

    pub(crate) async fn with(
        configure: impl FnOnce(MirrorBuilder, &FixtureRegistry) -> MirrorBuilder,
    ) -> Self {
        let origin = FixtureRegistry::start().await;
        let folder = tempfile::tempdir().unwrap();
        let builder = Mirror::builder()
            .data_dir(folder.path().join("data"))
            .upstream(UPSTREAM, &origin.url());
        let mirror = configure(builder, &origin).start().await.unwrap();
        Self {
            origin,
            mirror,
            folder,
        }
    }

    /// Asks the mirror for a blob of [`REPOSITORY`].
    pub(crate) async fn blob(&self, digest: Digest) -> Answer {
        get(self.mirror.addr(), &blob_path(digest)).await
    }

    /// Waits until every download has ended, and what it brought is stored.
    pub(crate) async fn idle(&self) {
        self.origin.wait_for(|stats| stats.in_flight == 0).await;
        while self.mirror.cache().fills_active() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

pub(crate) fn blob_path(digest: Digest) -> String {
    format!("/v2/{REPOSITORY}/blobs/{digest}?ns={UPSTREAM}")
}

pub(crate) fn manifest_path(reference: impl std::fmt::Display) -> String {
    format!("/v2/{REPOSITORY}/manifests/{reference}?ns={UPSTREAM}")
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Hasher::digest_of(Algorithm::Sha256, bytes)
}

/// How the body of an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With its last byte, as Content-Length says.
    Whole,
    /// Before that, by an orderly close.
    Fin,
    /// Before that, by a reset: containerd does not resume then.
    Reset,
}

/// An answer, read to its end whatever that is.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.status
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The code of the specification's error document.
    pub(crate) fn error_code(&self) -> String {
        let document: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        document["errors"][0]["code"].as_str().unwrap().to_owned()
    }
}

/// Status and headers.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
}

impl Head {
    fn parse(text: &str) -> Self {
        let mut lines = text.split("\r\n");
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Self { status, headers }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn content_length(&self) -> u64 {
        self.header("content-length")
            .expect("always under a Content-Length")
            .parse()
            .unwrap()
    }
}

/// An answer that is still being read.
pub(crate) struct Reading {
    stream: TcpStream,
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl Reading {
    /// Sends a request on a connection of its own, and reads up to the end of the head.
    pub(crate) async fn begin(
        mirror: SocketAddr,
        request: &str,
        headers: &str,
    ) -> io::Result<Self> {
        let mut stream = TcpStream::connect(mirror).await?;
        let request = format!("{request} HTTP/1.1\r\nHost: mirror\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut received = Vec::new();
        let head_end = loop {
            if let Some(at) = received.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let body = received.split_off(head_end);
        let head = Head::parse(std::str::from_utf8(&received).unwrap());
        Ok(Self { stream, head, body })
    }

    /// Reads until at least `len` bytes of the body are there, or it has ended.
    pub(crate) async fn at_least(&mut self, len: usize) -> io::Result<()> {
        while self.body.len() < len && self.stream.read_buf(&mut self.body).await? > 0 {}
        Ok(())
    }

    /// Reads to the end.
    pub(crate) async fn finish(mut self) -> Answer {
        let whole = usize::try_from(self.head.content_length()).unwrap();
        let outcome = self.at_least(whole).await;
        assert!(
            self.body.len() <= whole,
            "more bytes than Content-Length says"
        );
        let end = match outcome {
            Ok(()) if self.body.len() == whole => End::Whole,
            Ok(()) => End::Fin,
            Err(_) => End::Reset,
        };
        Answer {
            head: self.head,
            body: self.body,
            end,
        }
    }
}

/// A GET, read to its end.
pub(crate) async fn get(mirror: SocketAddr, path: &str) -> Answer {
    get_with(mirror, path, "").await
}

/// A GET with header lines (each ended by CRLF), read to its end.
pub(crate) async fn get_with(mirror: SocketAddr, path: &str, headers: &str) -> Answer {
    let reading = Reading::begin(mirror, &format!("GET {path}"), headers).await;
    reading.unwrap().finish().await
}

/// A HEAD.
pub(crate) async fn head(mirror: SocketAddr, path: &str) -> Head {
    Reading::begin(mirror, &format!("HEAD {path}"), "")
        .await
        .unwrap()
        .head
}
