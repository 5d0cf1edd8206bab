//! One request of a connection in HTTP/2, and what of its answer is on its way.
//!
//! What has left is counted where h2 takes it out of a chunk: it is sealed then, or already with the
//! socket. So a body that breaks off knows when everything before the break has left, the access log
//! what was sent, and a client that takes nothing is noticed although others share its connection.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use hyper::body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::time::{Instant, Sleep, sleep};
use tracing::debug;

use crate::front::body::{self, AnswerBody, BodyError};
use crate::front::wire::Marks;

/// Bytes of a frame's head.
const FRAME_HEAD_BYTES: usize = 9;

/// Bytes of a body in one frame: with its head, exactly what one record of TLS holds.
const FRAME_PAYLOAD_BYTES: usize = (16 << 10) - FRAME_HEAD_BYTES;

/// What of an answer is on its way.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    marks: Arc<Marks>,
    /// Bytes that h2 was given and has not written yet.
    held: AtomicU64,
    /// Told when there are none.
    gone: AtomicWaker,
}

impl Outgoing {
    pub(super) fn marks(&self) -> &Arc<Marks> {
        &self.marks
    }

    fn is_waiting(&self) -> bool {
        self.held.load(Ordering::Relaxed) > 0
    }

    /// `count` bytes of what was held have left.
    fn leave(&self, count: u64) {
        self.marks.add_written(count);
        if self.release(count) {
            self.marks.flush();
        }
    }

    /// `count` bytes are held no longer; whether they were the last.
    fn release(&self, count: u64) -> bool {
        let is_last = self.held.fetch_sub(count, Ordering::Relaxed) == count;
        if is_last {
            self.gone.wake();
        }
        is_last
    }
}

/// Bytes on their way, which are counted as they go.
pub(super) struct Chunk {
    bytes: Bytes,
    outgoing: Arc<Outgoing>,
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.outgoing.leave(count as u64);
    }
}

/// Whatever was not written never will be.
impl Drop for Chunk {
    fn drop(&mut self) {
        let rest = self.bytes.len() as u64;
        if rest > 0 {
            self.outgoing.release(rest);
        }
    }
}

/// An answer's body, in chunks that make one frame each.
pub(super) struct StreamBody {
    body: AnswerBody,
    /// What was read and not given to h2 yet.
    rest: Bytes,
    outgoing: Arc<Outgoing>,
}

impl StreamBody {
    pub(super) fn new(body: AnswerBody, outgoing: Arc<Outgoing>) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            outgoing,
        }
    }

    fn next_chunk(&mut self) -> Chunk {
        let count = self.rest.len().min(FRAME_PAYLOAD_BYTES);
        let bytes = self.rest.split_to(count);
        self.outgoing
            .held
            .fetch_add(count as u64, Ordering::Relaxed);
        Chunk {
            bytes,
            outgoing: Arc::clone(&self.outgoing),
        }
    }
}

impl Body for StreamBody {
    type Data = Chunk;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, BodyError>>> {
        let this = &mut *self;
        while this.rest.is_empty() {
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(body::Chunk::Bytes(bytes)) => this.rest = bytes,
                    // There is no outbox for it, and what stands for it is never sent in its place.
                    Ok(body::Chunk::File(placeholder)) => {
                        let missing = placeholder.remaining() as u64;
                        return Poll::Ready(Some(Err(BodyError::Length { missing })));
                    }
                    // A body of ours has no trailers.
                    Err(_) => {}
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    // A break that is waited with may have come when everything had left.
                    if !this.outgoing.is_waiting() {
                        this.outgoing.marks.flush();
                    }
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Some(Ok(Frame::data(this.next_chunk()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let body = self.body.size_hint().exact();
        body.map_or_else(SizeHint::default, |body| SizeHint::with_exact(body + rest))
    }
}

/// The streams that hyper has begun, for the connection's task to take.
#[derive(Clone, Default)]
pub(super) struct Streams(Arc<Mutex<Begun>>);

#[derive(Default)]
struct Begun {
    /// Of the request that is being handed over.
    announced: Option<Arc<Outgoing>>,
    /// At most as many as may be at a time, as each poll of the connection is followed by a look.
    streams: Vec<Stream>,
}

/// A stream, from its request to the last byte of its answer.
pub(super) struct Stream {
    /// Gone when h2 was given all of it, some of which may wait for the client still.
    future: Option<BoxFuture<'static, ()>>,
    outgoing: Arc<Outgoing>,
}

impl Streams {
    /// What belongs to the next stream: hyper asks the service first, and begins the stream with
    /// what that gives.
    pub(super) fn announce(&self, outgoing: Arc<Outgoing>) {
        self.lock().announced = Some(outgoing);
    }

    /// Those that were begun since this was last asked.
    pub(super) fn take(&self) -> Vec<Stream> {
        std::mem::take(&mut self.lock().streams)
    }

    fn lock(&self) -> MutexGuard<'_, Begun> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, future: F) {
        let mut begun = self.lock();
        let outgoing = begun.announced.take().unwrap_or_default();
        let future: Option<BoxFuture<'static, ()>> = Some(Box::pin(future));
        begun.streams.push(Stream { future, outgoing });
    }
}

/// A stream that is given up where its client takes nothing of what is sent for too long. h2 resets
/// it then.
pub(super) struct Watched {
    stream: Stream,
    write_idle_max: Duration,
    /// Runs while bytes wait for the client.
    standstill: Option<Pin<Box<Sleep>>>,
    /// Bytes that had gone when that began.
    written: u64,
}

impl Watched {
    pub(super) fn new(stream: Stream, write_idle_max: Duration) -> Self {
        Self {
            stream,
            write_idle_max,
            standstill: None,
            written: 0,
        }
    }

    fn poll_standstill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let outgoing = &self.stream.outgoing;
        if !outgoing.is_waiting() {
            self.standstill = None;
            return Poll::Pending;
        }
        let limit = self.write_idle_max;
        let standstill = self
            .standstill
            .get_or_insert_with(|| Box::pin(sleep(limit)));
        loop {
            let written = outgoing.marks.written();
            if written != self.written {
                self.written = written;
                standstill.as_mut().reset(Instant::now() + limit);
            }
            std::task::ready!(standstill.as_mut().poll(cx));
            if outgoing.marks.written() == self.written {
                debug!("a client takes nothing of what is sent: its stream is given up");
                return Poll::Ready(());
            }
        }
    }
}

impl Future for Watched {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if let Some(future) = &mut this.stream.future {
            if future.as_mut().poll(cx).is_pending() {
                return this.poll_standstill(cx);
            }
            this.stream.future = None;
        }
        let outgoing = &this.stream.outgoing;
        // First, so that what goes between the two is not slept through.
        outgoing.gone.register(cx.waker());
        if !outgoing.is_waiting() {
            return Poll::Ready(());
        }
        this.poll_standstill(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::timeout;

    use super::*;

    const STANDSTILL: Duration = Duration::from_secs(60);

    fn chunk(outgoing: &Arc<Outgoing>, bytes: &'static [u8]) -> Chunk {
        outgoing
            .held
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Chunk {
            bytes: Bytes::from_static(bytes),
            outgoing: Arc::clone(outgoing),
        }
    }

    fn watched(outgoing: &Arc<Outgoing>) -> Watched {
        let stream = Stream {
            future: Some(Box::pin(pending())),
            outgoing: Arc::clone(outgoing),
        };
        Watched::new(stream, STANDSTILL)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_over_when_the_last_of_it_has_left() {
        let outgoing = Arc::new(Outgoing::default());
        let mut watched = watched(&outgoing);
        let (mut one, two) = (chunk(&outgoing, b"12345"), chunk(&outgoing, b"67"));
        // h2 has been given all.
        watched.stream.future = Some(Box::pin(ready(())));
        let a_little = STANDSTILL - Duration::from_millis(1);
        assert!(timeout(a_little, &mut watched).await.is_err());
        one.advance(5);
        assert!(timeout(a_little, &mut watched).await.is_err());
        let (over, ()) = tokio::join!(timeout(Duration::from_millis(1), &mut watched), async {
            drop(two);
        });
        over.expect("it was woken");
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_client_that_takes_nothing_of_what_waits_is_given_up() {
        let outgoing = Arc::new(Outgoing::default());
        let mut watched = watched(&outgoing);
        let a_little = STANDSTILL - Duration::from_millis(1);
        // Nothing waits for it: it is the mirror that it waits for.
        assert!(timeout(STANDSTILL * 2, &mut watched).await.is_err());
        let mut chunk = chunk(&outgoing, b"waiting");
        for _ in 0..4 {
            assert!(timeout(a_little, &mut watched).await.is_err());
            chunk.advance(1);
        }
        let given_up = timeout(STANDSTILL * 2, &mut watched).await;
        given_up.expect("it takes nothing more");
    }

    #[test]
    fn what_has_left_is_told_from_what_never_will() {
        let outgoing = Arc::new(Outgoing::default());
        let (mut one, two) = (chunk(&outgoing, b"12345"), chunk(&outgoing, b"67"));
        one.advance(2);
        let marks = outgoing.marks();
        assert_eq!((marks.written(), marks.flushes()), (2, 0));
        one.advance(3);
        assert_eq!((marks.written(), marks.flushes()), (5, 0));
        assert!(outgoing.is_waiting());
        drop((one, two));
        assert_eq!((marks.written(), marks.flushes()), (5, 0));
        assert!(!outgoing.is_waiting());
    }
}
