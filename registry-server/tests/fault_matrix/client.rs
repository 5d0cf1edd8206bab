//! A client that sees how a body ends, and when.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How a body ended.
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

/// Status and headers.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
}

impl Head {
    fn parse(text: &str) -> Self {
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        Self {
            status: status.unwrap().parse().unwrap(),
            headers: headers.collect(),
        }
    }

    /// A header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn content_length(&self) -> usize {
        let length = self.header("content-length");
        length.expect("always under one").parse().unwrap()
    }
}

/// An answer that is still being read, on a connection of its own.
pub(crate) struct Reading {
    stream: TcpStream,
    pub(crate) head: Head,
    body: Vec<u8>,
}

impl Reading {
    /// Asks, and reads up to the end of the head.
    pub(crate) async fn begin(mirror: SocketAddr, request: &str) -> Self {
        let mut stream = TcpStream::connect(mirror).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nHost: mirror\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut received = Vec::new();
        let head_end = loop {
            if let Some(at) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            let count = stream.read_buf(&mut received).await.unwrap();
            assert_ne!(count, 0, "closed without an answer to {request}");
        };
        let body = received.split_off(head_end);
        let head = Head::parse(std::str::from_utf8(&received).unwrap());
        Self { stream, head, body }
    }

    /// Reads until at least `length` bytes of the body are there, or it has ended.
    pub(crate) async fn at_least(&mut self, length: usize) -> io::Result<()> {
        while self.body.len() < length && self.stream.read_buf(&mut self.body).await? > 0 {}
        Ok(())
    }

    /// Reads to the end.
    pub(crate) async fn finish(mut self) -> Answer {
        let whole = self.head.content_length();
        let outcome = self.at_least(whole).await;
        assert!(self.body.len() <= whole, "more than Content-Length says");
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

/// One request, read to its end.
pub(crate) async fn ask(mirror: SocketAddr, request: &str) -> Answer {
    let reading = Reading::begin(mirror, request).await;
    if request.starts_with("HEAD") {
        return Answer {
            head: reading.head,
            body: Vec::new(),
            end: End::Whole,
        };
    }
    reading.finish().await
}
