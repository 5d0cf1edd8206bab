//! A client of one request: so plain that nothing can be hidden in it.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long an answer is waited for before the test fails.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// An answer, whole.
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}\n\n{}",
            self.head,
            String::from_utf8_lossy(&self.body)
        )
    }
}

/// Asks for a path on a connection of its own.
#[track_caller]
pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    ask("GET", address, path)
}

/// The same with another method that has no body.
#[track_caller]
pub(crate) fn ask(method: &str, address: SocketAddr, path: &str) -> Answer {
    let mut client = TcpStream::connect(address).expect("connect");
    client
        .set_read_timeout(Some(WAIT_MAX))
        .expect("the limit is not zero");
    write!(
        client,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .expect("send a request");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("read an answer");
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no answer, but {answer:?}"));
    let head = String::from_utf8(answer[..end].to_vec()).expect("headers are text");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Answer {
        status: status.expect("an answer begins with its status"),
        head,
        body: answer[end + 4..].to_vec(),
    }
}
