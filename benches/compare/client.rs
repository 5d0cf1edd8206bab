//! A client that reads bodies and throws them away, and adds as little as it can to what it
//! measures: blocking reads into one buffer, for everybody the same.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use registry_core::{Algorithm, Digest, Hasher};

use crate::Outcome;

/// Bytes that are read at a time.
const READ_BYTES: usize = 256 << 10;
/// How long a server may be silent before it is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What clients take: without it, some registries answer for another generation of manifests.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, */*";

/// A connection that is kept alive.
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Since when what is timed is timed: the connection is a part of the first request.
    begun: Instant,
}

/// What a GET took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Got {
    /// Until the first byte of the body.
    pub(crate) first_byte: Duration,
    /// Until the last.
    pub(crate) total: Duration,
}

/// The head of an answer, and how much of the body came with it.
struct Head {
    length: u64,
    body_at: usize,
    filled: usize,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Outcome<Self> {
        let begun = Instant::now();
        let stream = TcpStream::connect_timeout(&address, SILENCE_MAX)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        let buffer = vec![0; READ_BYTES];
        Ok(Self {
            stream,
            buffer,
            begun,
        })
    }

    /// GETs a body of this length.
    ///
    /// # Errors
    ///
    /// Where the answer is anything else.
    pub(crate) fn get(&mut self, path: &str, length: u64) -> Outcome<Got> {
        self.get_into(path, length, |_| Ok(()))
    }

    /// The same, and looks whether it is what the digest says.
    pub(crate) fn get_verified(&mut self, path: &str, digest: Digest, length: u64) -> Outcome<Got> {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let got = self.get_into(path, length, |bytes| {
            hasher.update(bytes);
            Ok(())
        })?;
        match hasher.digest() == digest {
            true => Ok(got),
            false => Err(format!("the body of {path} is not what its digest says").into()),
        }
    }

    /// The same, and gives `sink` all that comes.
    pub(crate) fn get_into(
        &mut self,
        path: &str,
        length: u64,
        mut sink: impl FnMut(&[u8]) -> Outcome<()>,
    ) -> Outcome<Got> {
        let begun = self.begun;
        self.ask("GET", path)?;
        let head = self.head(path)?;
        if head.length != length {
            return Err(format!("{path}: {} bytes in place of {length}", head.length).into());
        }
        let mut received = (head.filled - head.body_at) as u64;
        let mut first_byte = (received > 0).then(|| begun.elapsed());
        sink(&self.buffer[head.body_at..head.filled])?;
        while received < length {
            let read = self.read(0, path)?;
            received += read as u64;
            first_byte.get_or_insert_with(|| begun.elapsed());
            sink(&self.buffer[..read])?;
        }
        if received > length {
            return Err(format!("{path}: more than the {length} bytes of its length").into());
        }
        let total = begun.elapsed();
        self.begun = Instant::now();
        Ok(Got {
            first_byte: first_byte.unwrap_or(total),
            total,
        })
    }

    /// Whether this is answered by a 200 with this length, and no body.
    pub(crate) fn head_of(&mut self, path: &str, length: u64) -> Outcome<()> {
        self.ask("HEAD", path)?;
        let head = self.head(path)?;
        match head.length == length && head.filled == head.body_at {
            true => Ok(()),
            false => Err(format!("HEAD {path}: another length than {length}, or a body").into()),
        }
    }

    /// Sends a request whose answer is read later: [`Self::answered`].
    pub(crate) fn ask(&mut self, method: &str, path: &str) -> Outcome<()> {
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: mirror\r\nAccept: {ACCEPT}\r\n\r\n");
        Ok(self.stream.write_all(request.as_bytes())?)
    }

    /// Reads the answer of a request that was sent before, with a body of this length.
    pub(crate) fn answered(&mut self, path: &str, body: u64) -> Outcome<()> {
        let head = self.head(path)?;
        let mut received = (head.filled - head.body_at) as u64;
        while received < body {
            received += self.read(0, path)? as u64;
        }
        match received == body {
            true => Ok(()),
            false => Err(format!("{path}: {received} bytes in place of {body}").into()),
        }
    }

    fn head(&mut self, path: &str) -> Outcome<Head> {
        let mut filled = 0;
        let end = loop {
            filled += self.read(filled, path)?;
            let found = self.buffer[..filled]
                .windows(4)
                .position(|four| four == b"\r\n\r\n");
            if let Some(end) = found {
                break end;
            }
            if filled == self.buffer.len() {
                return Err(format!("{path}: the head of the answer has no end").into());
            }
        };
        let text = String::from_utf8_lossy(&self.buffer[..end]);
        if !text.starts_with("HTTP/1.1 200") {
            return Err(format!("{path}: {}", text.lines().next().unwrap_or_default()).into());
        }
        let length = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then_some(value)
        });
        let length = length.and_then(|value| value.trim().parse().ok());
        Ok(Head {
            length: length.ok_or_else(|| format!("{path}: no length"))?,
            body_at: end + 4,
            filled,
        })
    }

    fn read(&mut self, from: usize, path: &str) -> Outcome<usize> {
        match self.stream.read(&mut self.buffer[from..]) {
            Ok(0) => Err(format!("{path}: the answer broke off").into()),
            Ok(read) => Ok(read),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                Err(format!("{path}: nothing came for {SILENCE_MAX:?}").into())
            }
            Err(error) => Err(format!("{path}: {error}").into()),
        }
    }
}
