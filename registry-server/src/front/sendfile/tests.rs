//! That the bytes of a placeholder never leave, whatever hyper does with it.

use std::fs::File;
use std::future::poll_fn;
use std::io::Write as _;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::front::wire::{Marks, Wire};

/// What no placeholder holds.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 + 1).collect()
}

fn file(bytes: &[u8]) -> SharedFile {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    SharedFile::new(Arc::new(file))
}

fn range(start: usize, end: usize) -> ByteRange {
    ByteRange::new(start as u64, end as u64).unwrap()
}

/// A connection's two ends, while it answers something.
struct Ends {
    wire: Wire<TcpStream>,
    outbox: Arc<Outbox>,
    marks: Arc<Marks>,
    client: TcpStream,
}

async fn ends() -> Ends {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (outbox, marks) = (Arc::new(Outbox::default()), Arc::new(Marks::default()));
    marks.begin_answer();
    let (outgoing, patience) = (Some(Arc::clone(&outbox)), Duration::from_secs(20));
    let wire = Wire::new(server.unwrap().0, outgoing, Arc::clone(&marks), patience);
    let client = client.unwrap();
    Ends {
        wire,
        outbox,
        marks,
        client,
    }
}

impl Ends {
    /// Writes what is left of `buffers`, as hyper does.
    async fn write(&mut self, buffers: &mut [&mut (dyn Buf + Sync + Send)]) -> io::Result<()> {
        while buffers.iter().any(|buffer| buffer.has_remaining()) {
            let mut count = {
                let (mut slices, mut len) = ([IoSlice::new(&[]); 8], 0);
                for buffer in &*buffers {
                    len += buffer.chunks_vectored(&mut slices[len..]);
                }
                let wire = &mut self.wire;
                poll_fn(|cx| Pin::new(&mut *wire).poll_write_vectored(cx, &slices[..len])).await?
            };
            for buffer in &mut *buffers {
                let of_this = count.min(buffer.remaining());
                buffer.advance(of_this);
                count -= of_this;
            }
        }
        Ok(())
    }

    /// All that the client gets once the server has gone.
    async fn received(self) -> Vec<u8> {
        let Self {
            wire, mut client, ..
        } = self;
        drop(wire);
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        received
    }
}

#[tokio::test]
async fn files_are_sent_where_their_placeholders_stand() {
    let mut ends = ends().await;
    // Less than what a socket holds, so that nobody has to read meanwhile.
    let bytes = content(300_000);
    let mut first = ends.outbox.put(file(&bytes), range(0, 100_000));
    let mut second = ends.outbox.put(file(&bytes), range(100_001, 100_002));
    let mut third = ends.outbox.put(file(&bytes), range(200_000, 300_000));
    let (mut head, mut between) = (Bytes::from("head"), Bytes::from("between"));
    let buffers: &mut [&mut (dyn Buf + Sync + Send)] =
        &mut [&mut head, &mut first, &mut second, &mut between, &mut third];
    ends.write(buffers).await.unwrap();
    assert_eq!(ends.marks.written(), 200_012);
    assert_eq!(ends.marks.of_files(), 200_001);
    let expected = [
        b"head",
        &bytes[..100_000],
        &bytes[100_001..100_002],
        b"between",
        &bytes[200_000..],
    ];
    assert!(ends.received().await == expected.concat());
}

#[tokio::test]
async fn a_file_that_the_kernel_does_not_send_is_read_and_no_other_is_put_in() {
    // It has bytes at offsets, and sendfile refuses it.
    let path = "/proc/self/cmdline";
    let bytes = std::fs::read(path).unwrap();
    let mut ends = ends().await;
    let refused = SharedFile::new(Arc::new(File::open(path).unwrap()));
    let mut refused = ends.outbox.put(refused, range(1, bytes.len()));
    let mut behind = ends.outbox.put(file(b"behind"), range(0, 6));
    assert!(ends.outbox.is_open());
    let buffers: &mut [&mut (dyn Buf + Sync + Send)] = &mut [&mut refused, &mut behind];
    ends.write(buffers).await.unwrap();
    assert!(!ends.outbox.is_open());
    assert_eq!(ends.received().await, [&bytes[1..], b"behind"].concat());
}

#[tokio::test]
async fn a_file_that_is_too_short_is_the_end() {
    let mut ends = ends().await;
    let mut short = ends.outbox.put(file(b"12345"), range(2, 10));
    let mut behind = ends.outbox.put(file(b"behind"), range(0, 6));
    let buffers: &mut [&mut (dyn Buf + Sync + Send)] = &mut [&mut short, &mut behind];
    let error = ends.write(buffers).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(ends.marks.broken().unwrap().contains("shorter"));
    assert_eq!(ends.received().await, b"345");
}

/// Whatever is done, the client gets `sent` and nothing after it.
async fn assert_torn(mut ends: Ends, buffers: &mut [&mut (dyn Buf + Sync + Send)], sent: &[u8]) {
    ends.write(buffers).await.unwrap_err();
    assert!(!ends.outbox.is_open());
    let mut after = Bytes::from("after");
    ends.write(&mut [&mut after]).await.unwrap_err();
    assert_eq!(ends.received().await, sent);
}

#[tokio::test]
async fn a_placeholder_that_is_copied_ends_the_connection() {
    let ends = ends().await;
    let mut copied = ends.outbox.put(file(b"content"), range(0, 7));
    let mut copy = copied.copy_to_bytes(7);
    assert_torn(ends, &mut [&mut copy], b"").await;
}

#[tokio::test]
async fn a_placeholder_that_is_dropped_ends_the_connection() {
    let ends = ends().await;
    drop(ends.outbox.put(file(b"content"), range(0, 7)));
    let mut next = ends.outbox.put(file(b"content"), range(0, 7));
    assert_torn(ends, &mut [&mut next], b"").await;
}

#[tokio::test]
async fn placeholders_in_another_order_end_the_connection() {
    let ends = ends().await;
    // Of the same length, so that only their tickets differ.
    let mut first = ends.outbox.put(file(b"content"), range(0, 7));
    let mut second = ends.outbox.put(file(b"another"), range(0, 7));
    assert_torn(ends, &mut [&mut second, &mut first], b"").await;
}

#[tokio::test]
async fn a_placeholder_that_is_written_twice_ends_the_connection() {
    let mut ends = ends().await;
    let mut first = ends.outbox.put(file(b"content"), range(0, 7));
    let again = first.bytes();
    ends.write(&mut [&mut first]).await.unwrap();
    let mut again = again;
    assert_torn(ends, &mut [&mut again], b"content").await;
}

#[tokio::test]
async fn a_placeholder_that_is_shortened_ends_the_connection() {
    let ends = ends().await;
    let mut shortened = ends.outbox.put(file(b"content"), range(0, 7)).take(6);
    assert_torn(ends, &mut [&mut shortened], b"").await;
}

#[tokio::test]
async fn a_hyper_that_flattens_what_it_writes_sends_none_of_it() {
    let Ends {
        wire,
        outbox,
        mut client,
        ..
    } = ends().await;
    let handler = service_fn(move |_: Request<Incoming>| {
        let placeholder = outbox.put(file(b"content"), range(0, 7));
        let frame = Ok::<_, io::Error>(Frame::data(placeholder));
        let body = StreamBody::new(futures::stream::iter([frame]));
        async { Ok::<_, io::Error>(Response::new(body)) }
    });
    let serving = http1::Builder::new()
        .writev(false)
        .serve_connection(TokioIo::new(wire), handler);
    let asking = async {
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        received
    };
    let (served, received) = tokio::join!(serving, asking);
    served.unwrap_err();
    assert_eq!(received, b"");
}
