//! A client that hashes what it is sent.

use std::net::SocketAddr;

use registry_core::{Algorithm, Digest, Hasher};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How an answer ended.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Whole, with these bytes.
    Whole(Vec<u8>),
    /// With another status than 200.
    Refused(u16, String),
    /// With fewer bytes than its length said, or without any: as when the mirror is stopped.
    Cut,
    /// By the client itself, which had enough.
    Left,
}

/// Asks for `path`; leaves after `enough` bytes of the body, where that is said.
pub(crate) async fn get(mirror: SocketAddr, path: &str, enough: Option<usize>) -> Answer {
    match exchange(mirror, path, enough).await {
        Ok(answer) => answer,
        Err(_) => Answer::Cut,
    }
}

async fn exchange(
    mirror: SocketAddr,
    path: &str,
    enough: Option<usize>,
) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(mirror).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut received = Vec::new();
    let end = loop {
        if let Some(at) = received.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut received).await? == 0 {
            return Ok(Answer::Cut);
        }
    };
    let mut body = received.split_off(end);
    let head = String::from_utf8_lossy(&received).to_lowercase();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length = length.and_then(|length| length.trim().parse::<usize>().ok());
    let (Some(status), Some(length)) = (status, length) else {
        return Ok(Answer::Cut);
    };
    let wanted = enough.map_or(length, |enough| enough.min(length));
    while body.len() < wanted && stream.read_buf(&mut body).await? > 0 {}
    Ok(match status {
        _ if body.len() < wanted => Answer::Cut,
        200 if body.len() == length => Answer::Whole(body),
        200 => Answer::Left,
        _ => Answer::Refused(status, String::from_utf8_lossy(&body).into_owned()),
    })
}

/// The SHA-256 digest of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Hasher::digest_of(Algorithm::Sha256, bytes)
}
