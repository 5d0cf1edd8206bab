//! Requests, one at a time, on one connection.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

/// A request, as it is sent.
pub(crate) struct Request {
    text: String,
    /// Whether a body comes with the answer.
    has_body: bool,
}

impl Request {
    /// A GET of a path.
    pub(crate) fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// A HEAD of a path.
    pub(crate) fn head(path: &str) -> Self {
        Self::new("HEAD", path)
    }

    /// With the header fields that containerd sends.
    fn new(method: &str, path: &str) -> Self {
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: mirror.example:5000\r\n\
             User-Agent: containerd/2.1.4\r\n\
             Accept: application/vnd.oci.image.index.v1+json, \
             application/vnd.oci.image.manifest.v1+json, */*\r\n\
             Accept-Encoding: gzip\r\n\r\n"
        );
        Self {
            text,
            has_body: method == "GET",
        }
    }
}

/// Sends each request so often, and reads the answers.
///
/// # Panics
///
/// Where an answer is not a whole 200.
pub(crate) fn ask(address: SocketAddr, requests: &[(&Request, u64)]) {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_nodelay(true).expect("a socket option");
    let mut reader = BufReader::new(stream);
    let mut body = Vec::new();
    for (request, number) in requests {
        for _ in 0..*number {
            let socket = reader.get_mut();
            socket
                .write_all(request.text.as_bytes())
                .expect("it takes the request");
            let length = read_head(&mut reader);
            if request.has_body {
                body.resize(length, 0);
                reader.read_exact(&mut body).expect("a whole body");
            }
        }
    }
}

/// Reads the head of an answer; tells the length of its content.
fn read_head(reader: &mut BufReader<TcpStream>) -> usize {
    let (mut line, mut length) = (String::new(), None);
    reader.read_line(&mut line).expect("it answers");
    assert!(line.starts_with("HTTP/1.1 200 "), "{line:?}");
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).expect("a whole head");
        assert!(!line.is_empty(), "the connection was closed");
        if let Some(text) = line.strip_prefix("content-length: ") {
            length = Some(text.trim().parse().expect("a number"));
        }
    }
    length.expect("a length")
}
