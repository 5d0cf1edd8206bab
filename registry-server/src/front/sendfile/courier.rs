//! From the outbox into the socket.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_blocking};

use super::Outbox;
use crate::front::file_range::{FILE_CHUNK_BYTES, SharedFile, read_at};

/// Bytes of files that are sent, to a client that takes them as fast as they come, before other
/// connections have their turn: about a millisecond's.
const TURN_BYTES: usize = 4 << 20;

/// Sends what waits in an outbox.
#[derive(Debug)]
pub(in crate::front) struct Courier {
    outbox: Arc<Outbox>,
    /// Sent since others last had their turn.
    turn: usize,
    copy: Copy,
}

/// What is read of a file that the kernel does not send.
#[derive(Debug)]
enum Copy {
    Idle,
    Reading(JoinHandle<io::Result<Vec<u8>>>),
    Read(Bytes),
}

/// How a write went.
#[derive(Debug)]
pub(in crate::front) enum Step {
    /// So many bytes have left, so many of them from files.
    Sent { count: usize, of_files: usize },
    /// The client takes nothing for now. The task is woken when it does.
    Full,
    /// It goes on when the task is woken, and not for the client's sake.
    Later,
}

/// Why a write failed.
#[derive(Debug)]
pub(in crate::front) enum Failure {
    /// The client is gone.
    Client(io::Error),
    /// The file cannot be sent to its end.
    File(io::Error),
}

impl Courier {
    pub(in crate::front) fn new(outbox: Arc<Outbox>) -> Self {
        Self {
            outbox,
            turn: 0,
            copy: Copy::Idle,
        }
    }

    /// Writes `buffers`, with what their placeholders stand for in their place; `None` where there
    /// are none among them, and nothing was done.
    pub(in crate::front) fn write(
        &mut self,
        socket: &TcpStream,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Result<Option<Step>, Failure> {
        let before = self.outbox.check(buffers).map_err(Failure::File)?;
        if before == buffers.len() {
            return Ok(None);
        }
        let Some(head) = buffers.get(..before).filter(|head| !head.is_empty()) else {
            return self.send_front(socket, cx).map(Some);
        };
        let len: usize = head.iter().map(|buffer| buffer.len()).sum();
        match when_writable(socket, cx, || send_more(socket, head)) {
            Ok(Some(count)) if count == len => {}
            Ok(Some(count)) => return Ok(Some(Step::Sent { count, of_files: 0 })),
            Ok(None) => return Ok(Some(Step::Full)),
            Err(error) => return Err(Failure::Client(error)),
        }
        // What fails now fails again at the next write, when there is nothing before it.
        let of_files = match self.send_front(socket, cx) {
            Ok(Step::Sent { of_files, .. }) => of_files,
            Ok(_) | Err(_) => 0,
        };
        let count = len + of_files;
        Ok(Some(Step::Sent { count, of_files }))
    }

    /// Sends of what waits at the front.
    fn send_front(&mut self, socket: &TcpStream, cx: &mut Context<'_>) -> Result<Step, Failure> {
        let Some((file, offset, len)) = self.outbox.front() else {
            return Err(Failure::File(super::torn()));
        };
        if self.turn >= TURN_BYTES {
            self.turn = 0;
            cx.waker().wake_by_ref();
            return Ok(Step::Later);
        }
        if !self.outbox.is_refused() {
            match when_writable(socket, cx, || send_file(socket, &file, offset, len)) {
                Ok(Some(count)) => return self.sent(count),
                Ok(None) => {
                    // Others have theirs now.
                    self.turn = 0;
                    return Ok(Step::Full);
                }
                Err(error) if is_refusal(&error) => self.outbox.refuse(),
                Err(error) if is_clients(&error) => return Err(Failure::Client(error)),
                Err(error) => return Err(Failure::File(error)),
            }
        }
        self.copy_front(socket, cx, (file, offset, len))
    }

    /// The same for a file that the kernel does not send.
    fn copy_front(
        &mut self,
        socket: &TcpStream,
        cx: &mut Context<'_>,
        (file, offset, len): (SharedFile, u64, usize),
    ) -> Result<Step, Failure> {
        loop {
            match &mut self.copy {
                Copy::Idle => {
                    let (file, len) = (file.clone(), len.min(FILE_CHUNK_BYTES));
                    let reading = spawn_blocking(move || read_at(file.get(), offset, len));
                    self.copy = Copy::Reading(reading);
                }
                Copy::Reading(reading) => {
                    let Poll::Ready(read) = Pin::new(reading).poll(cx) else {
                        return Ok(Step::Later);
                    };
                    // Also where it has failed: what has ended must not be asked again.
                    self.copy = Copy::Idle;
                    let read = read.map_err(io::Error::other).flatten();
                    let bytes = read.map_err(Failure::File)?;
                    if bytes.is_empty() {
                        return Err(Failure::File(ended()));
                    }
                    self.copy = Copy::Read(bytes.into());
                }
                Copy::Read(bytes) => {
                    let sent = when_writable(socket, cx, || Ok(rustix::io::write(socket, bytes)?));
                    return match sent {
                        Ok(Some(count)) => {
                            bytes.advance(count);
                            if bytes.is_empty() {
                                self.copy = Copy::Idle;
                            }
                            self.sent(count)
                        }
                        Ok(None) => Ok(Step::Full),
                        Err(error) => Err(Failure::Client(error)),
                    };
                }
            }
        }
    }

    fn sent(&mut self, count: usize) -> Result<Step, Failure> {
        if count == 0 {
            return Err(Failure::File(ended()));
        }
        self.turn += count;
        self.outbox.advance(count);
        Ok(Step::Sent {
            count,
            of_files: count,
        })
    }
}

fn ended() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the file has become shorter than the blob",
    )
}

/// Does it once the socket takes something; `None` where it does not now, and the task is woken
/// when it does.
fn when_writable(
    socket: &TcpStream,
    cx: &mut Context<'_>,
    mut write: impl FnMut() -> io::Result<usize>,
) -> io::Result<Option<usize>> {
    loop {
        match socket.poll_write_ready(cx) {
            Poll::Ready(ready) => ready?,
            Poll::Pending => return Ok(None),
        }
        match socket.try_io(Interest::WRITABLE, &mut write) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            written => return written.map(Some),
        }
    }
}

/// Sends bytes that a file follows: the kernel may wait for it to fill a segment.
#[cfg(target_os = "linux")]
fn send_more(socket: &TcpStream, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
    let sent = sendmsg(socket, buffers, &mut SendAncillaryBuffer::default(), flags);
    Ok(sent?)
}

#[cfg(not(target_os = "linux"))]
fn send_more(socket: &TcpStream, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
    Ok(rustix::io::writev(socket, buffers)?)
}

/// Sends of a file; nothing at its end.
#[cfg(target_os = "linux")]
fn send_file(
    socket: &TcpStream,
    file: &SharedFile,
    mut offset: u64,
    len: usize,
) -> io::Result<usize> {
    let sent = rustix::fs::sendfile(socket, file.get(), Some(&mut offset), len);
    Ok(sent?)
}

#[cfg(not(target_os = "linux"))]
fn send_file(_: &TcpStream, _: &SharedFile, _: u64, _: usize) -> io::Result<usize> {
    Err(rustix::io::Errno::NOSYS.into())
}

/// Whether the kernel does not send this file to this socket, whatever is asked of it.
fn is_refusal(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP].contains(&errno))
}

/// Whether it says that the client is gone.
fn is_clients(error: &io::Error) -> bool {
    use io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::BrokenPipe
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::NotConnected
            | ErrorKind::TimedOut
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
    )
}
