//! A client's socket as hyper sees it: with a limit on standstill, and counters that tell what has
//! really left.
//!
//! Knows bytes and the phase of a connection, nothing of HTTP but that hyper answers what it cannot
//! parse by itself: that answer has no body, so it is kept back here and written anew by
//! [`connection`](super::connection).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::sendfile::{Courier, Failure, Outbox, Step};

/// Nothing is being answered: whatever is written now is hyper's own answer.
const IDLE: u8 = 0;
/// A request is being answered.
const ANSWERING: u8 = 1;
/// The answer's body was given to hyper whole, or broke off; some of it may not have left yet.
const ENDING: u8 = 2;

/// What a connection's socket, its service and its bodies tell each other; in HTTP/2, what one
/// request's do. All of them run in the connection's one task.
#[derive(Debug)]
pub(super) struct Marks {
    began: Instant,
    /// Milliseconds from then until it was last [`IDLE`].
    idle_since_ms: AtomicU64,
    written: AtomicU64,
    /// Those of them that the kernel took from files.
    of_files: AtomicU64,
    /// `written`, when hyper last had nothing left to write.
    flushed: AtomicU64,
    flushes: AtomicU64,
    phase: AtomicU8,
    /// Told when hyper next has nothing left to write.
    waiting: AtomicWaker,
    /// Whether hyper answered something by itself.
    kept_back: AtomicBool,
    /// Why the mirror ended the connection, where it could not send what it had promised.
    broken: OnceLock<String>,
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            idle_since_ms: AtomicU64::default(),
            written: AtomicU64::default(),
            of_files: AtomicU64::default(),
            flushed: AtomicU64::default(),
            flushes: AtomicU64::default(),
            phase: AtomicU8::new(IDLE),
            waiting: AtomicWaker::default(),
            kept_back: AtomicBool::default(),
            broken: OnceLock::default(),
        }
    }
}

impl Marks {
    /// Bytes that went to the socket so far.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Those of them that the kernel took from files: bytes of bodies, every one.
    pub(super) fn of_files(&self) -> u64 {
        self.of_files.load(Ordering::Relaxed)
    }

    /// [`Self::written`], when everything given to hyper last had left.
    pub(super) fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Relaxed)
    }

    /// How often everything given to hyper had left.
    pub(super) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// Wakes the task of `context` at the next of them.
    pub(super) fn wake_at_flush(&self, context: &Context<'_>) {
        self.waiting.register(context.waker());
    }

    /// More bytes have gone, of a request that has these marks for itself.
    pub(super) fn add_written(&self, count: u64) {
        self.written.fetch_add(count, Ordering::Relaxed);
    }

    /// Nothing is left to write.
    pub(super) fn flush(&self) {
        self.flushed.store(self.written(), Ordering::Relaxed);
        self.flushes.fetch_add(1, Ordering::Relaxed);
        if self.phase.load(Ordering::Relaxed) == ENDING {
            self.begin_idling();
        }
        self.waiting.wake();
    }

    /// A request has come.
    pub(super) fn begin_answer(&self) {
        self.phase.store(ANSWERING, Ordering::Relaxed);
    }

    /// Its answer was given to hyper.
    pub(super) fn end_answer(&self) {
        self.phase.store(ENDING, Ordering::Relaxed);
    }

    /// Whether a request has come whose answer has not all gone yet.
    pub(super) fn is_answering(&self) -> bool {
        self.phase.load(Ordering::Relaxed) != IDLE
    }

    /// Since when nothing is being answered; `None` while something is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let since = Duration::from_millis(self.idle_since_ms.load(Ordering::Relaxed));
        (!self.is_answering()).then(|| self.began + since)
    }

    fn begin_idling(&self) {
        let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.idle_since_ms.store(elapsed, Ordering::Relaxed);
        self.phase.store(IDLE, Ordering::Relaxed);
    }

    /// Whether hyper answered something by itself, and the client has not seen it.
    pub(super) fn kept_back(&self) -> bool {
        self.kept_back.load(Ordering::Relaxed)
    }

    /// Why the mirror ended the connection, where it could not send what it had promised.
    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }
}

/// What a connection runs over.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// The socket, where what is written to it is what the client reads: only then may the kernel
    /// write to it by itself.
    fn plain_socket(&self) -> Option<&TcpStream>;
}

impl Transport for TcpStream {
    fn plain_socket(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

/// The socket.
pub(super) struct Wire<S> {
    stream: S,
    /// Sends files; where it is missing, no body stands for one.
    courier: Option<Courier>,
    marks: Arc<Marks>,
    write_idle_max: Duration,
    /// Since when the client takes nothing.
    full_since: Option<Instant>,
    /// Ends a standstill. It runs on where the client takes something again, and is put off when it
    /// is over: a fast client comes to a standstill hundreds of times a second.
    standstill: Option<Pin<Box<Sleep>>>,
}

impl<S: Transport> Wire<S> {
    /// With an outbox, what bodies put there is sent by the kernel: they may be given it only if
    /// the stream is a [plain socket](Transport::plain_socket).
    pub(super) fn new(
        stream: S,
        outbox: Option<Arc<Outbox>>,
        marks: Arc<Marks>,
        write_idle_max: Duration,
    ) -> Self {
        Self {
            stream,
            courier: outbox.map(Courier::new),
            marks,
            write_idle_max,
            full_since: None,
            standstill: None,
        }
    }

    /// The socket alone.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    fn poll_counted(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.marks.phase.load(Ordering::Relaxed) == IDLE {
            self.marks.kept_back.store(true, Ordering::Relaxed);
            return Poll::Ready(Ok(buffers.iter().map(|buffer| buffer.len()).sum()));
        }
        let (count, of_files) = match self.step(cx, buffers)? {
            Step::Sent { count, of_files } => (count, of_files),
            Step::Full => return self.poll_standstill(cx),
            Step::Later => return Poll::Pending,
        };
        self.full_since = None;
        let marks = &self.marks;
        marks.written.fetch_add(count as u64, Ordering::Relaxed);
        marks.of_files.fetch_add(of_files as u64, Ordering::Relaxed);
        Poll::Ready(Ok(count))
    }

    fn step(&mut self, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> io::Result<Step> {
        if let (Some(courier), Some(socket)) = (&mut self.courier, self.stream.plain_socket()) {
            match courier.write(socket, cx, buffers) {
                Ok(Some(step)) => return Ok(step),
                Ok(None) => {}
                Err(Failure::Client(error)) => return Err(error),
                Err(Failure::File(error)) => {
                    self.marks.broken.get_or_init(|| error.to_string());
                    return Err(error);
                }
            }
        }
        match Pin::new(&mut self.stream).poll_write_vectored(cx, buffers) {
            Poll::Ready(count) => Ok(Step::Sent {
                count: count?,
                of_files: 0,
            }),
            Poll::Pending => Ok(Step::Full),
        }
    }

    /// Waits for a client that takes nothing, as long as it may.
    fn poll_standstill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let end = *self.full_since.get_or_insert_with(Instant::now) + self.write_idle_max;
        let standstill = self
            .standstill
            .get_or_insert_with(|| Box::pin(sleep_until(end)));
        loop {
            ready!(standstill.as_mut().poll(cx));
            if standstill.deadline() >= end {
                break;
            }
            // It was begun at an earlier standstill.
            standstill.as_mut().reset(end);
        }
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client takes nothing of what is sent",
        )))
    }
}

impl<S: Transport> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: Transport> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_counted(cx, &[IoSlice::new(buffer)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_counted(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper calls this when, and only when, it has nothing left to write. What is secured waits in
    /// the stream's own buffer, so here is where a client that takes nothing of the last is noticed.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if Pin::new(&mut self.stream).poll_flush(cx)?.is_pending() {
            return self.poll_standstill(cx).map_ok(|_| ());
        }
        self.full_since = None;
        self.marks.flush();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::sleep;

    use super::*;

    impl Transport for DuplexStream {
        fn plain_socket(&self) -> Option<&TcpStream> {
            None
        }
    }

    const STANDSTILL: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up_and_one_that_takes_little_is_not() {
        let (server, mut client) = duplex(16);
        let marks = Arc::new(Marks::default());
        marks.begin_answer();
        let mut wire = Wire::new(server, None, Arc::clone(&marks), STANDSTILL);
        wire.write_all(&[0; 16]).await.unwrap();
        for _ in 0..4 {
            let (written, read) = tokio::join!(wire.write_all(&[0]), async {
                sleep(STANDSTILL - Duration::from_millis(1)).await;
                client.read_u8().await
            });
            written.unwrap();
            read.unwrap();
        }
        assert_eq!(marks.written(), 20);
        let stalled = wire.write_all(&[0]).await.unwrap_err();
        assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
        assert_eq!(marks.written(), 20);
    }

    /// Takes all that is written, and has it wait until the other end reads, as TLS does.
    struct Sealing {
        stream: DuplexStream,
        waiting: Vec<u8>,
    }

    impl Transport for Sealing {
        fn plain_socket(&self) -> Option<&TcpStream> {
            None
        }
    }

    impl AsyncRead for Sealing {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Sealing {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.waiting.extend_from_slice(buffer);
            Poll::Ready(Ok(buffer.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            let Self { stream, waiting } = &mut *self;
            while !waiting.is_empty() {
                let count = ready!(Pin::new(&mut *stream).poll_write(cx, waiting))?;
                waiting.drain(..count);
            }
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_given_up_that_takes_nothing_of_the_last_which_waits_sealed() {
        let (stream, mut client) = duplex(16);
        let waiting = Vec::new();
        let marks = Arc::new(Marks::default());
        marks.begin_answer();
        let sealing = Sealing { stream, waiting };
        let mut wire = Wire::new(sealing, None, Arc::clone(&marks), STANDSTILL);
        wire.write_all(&[0; 32]).await.unwrap();
        marks.end_answer();
        let (flushed, read) = tokio::join!(wire.flush(), async {
            sleep(STANDSTILL - Duration::from_millis(1)).await;
            client.read_exact(&mut [0; 32]).await
        });
        flushed.unwrap();
        read.unwrap();
        assert!(!marks.is_answering());
        marks.begin_answer();
        wire.write_all(&[0; 32]).await.unwrap();
        let began = Instant::now();
        let stalled = wire.flush().await.unwrap_err();
        assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= STANDSTILL);
    }

    #[tokio::test]
    async fn only_what_is_written_between_answers_is_kept_back() {
        let (server, mut client) = duplex(64);
        let marks = Arc::new(Marks::default());
        let mut wire = Wire::new(server, None, Arc::clone(&marks), STANDSTILL);
        marks.begin_answer();
        wire.write_all(b"answer,").await.unwrap();
        wire.flush().await.unwrap();
        marks.end_answer();
        // The body was given away, and its last bytes have not left.
        wire.write_all(b"end").await.unwrap();
        assert!(!marks.kept_back());
        assert_eq!((marks.written(), marks.flushed()), (10, 7));
        wire.flush().await.unwrap();
        wire.write_all(b"hyper's own").await.unwrap();
        assert!(marks.kept_back());
        drop(wire);
        let mut received = String::new();
        client.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "answer,end");
    }
}
