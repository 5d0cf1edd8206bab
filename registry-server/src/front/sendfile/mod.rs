//! Bodies that the kernel sends, from a file to a socket, without a copy in this process.
//!
//! hyper writes bytes that it is given, and knows no files. So it is given *placeholders*: buffers
//! of the right length that lie in a region of memory whose bytes nobody ever means. What each of
//! them stands for waits in the connection's [`Outbox`], and the connection's socket, which
//! recognises a placeholder by its address, sends that instead ([`Courier`]).
//!
//! # Hazards
//!
//! The bytes of a placeholder must never reach a client. Each way in which they could:
//!
//! - **hyper copies what it is given into a buffer of its own** (its strategy for sockets without
//!   vectored writes). A copy has another address. Whoever copies has to ask a placeholder for its
//!   bytes through [`Buf::chunk`], where a vectored write asks through [`Buf::chunks_vectored`];
//!   being asked the first way *tears* the outbox. So does a write of a single buffer that lies in
//!   the region.
//! - **What hyper writes, and what waits, are not in step**: because hyper drops a placeholder
//!   unwritten, writes one twice, or writes them in another order. Each carries its ticket in its
//!   address, and how much of it is left in its length; both must be those of what waits at the
//!   front. A placeholder that is dropped before its end tears the outbox.
//! - **hyper shortens one** (it never writes past a `Content-Length`): its length is another then.
//!
//! Through a torn outbox nothing more is written, whatever it is: the connection ends, and the body
//! is short of its length (I2). A body is never given more than its length by
//! [`AnswerBody`](super::body::AnswerBody), so none of this happens as long as hyper is as it is.
//!
//! What the kernel sends are the pages of the file, and it sends them when there is room: until the
//! client has taken them, whoever *changes* them changes what is sent. Stored blobs never change,
//! and a name that is removed takes no page from an open file. Of a file that is cut short, no byte
//! past its end is sent: the body ends there. See [`BlobPayload`](registry_core::BlobPayload) for
//! what a store owes.
//!
//! A page that is not in memory would be waited for by a thread that others wait for, so a
//! placeholder is made only for what was seen there ([`FileRange`](super::file_range::FileRange)).

mod courier;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use bytes::Buf;
use registry_core::ByteRange;

use super::access::Access;
use super::file_range::{SharedFile, WINDOW_BYTES};

pub(super) use courier::{Courier, Failure, Step};

/// Windows that wait in one connection. hyper asks for no more while 16 wait with it.
const PARCELS_MAX: usize = 32;

/// Tickets that are told apart by an address.
const TICKETS: usize = 64 << 10;

/// Where placeholders lie. Nobody reads it, so it takes addresses and no memory.
static REGION: LazyLock<Box<[u8]>> =
    LazyLock::new(|| vec![0; TICKETS + WINDOW_BYTES].into_boxed_slice());

/// What one connection's placeholders stand for, in their order. The bodies put in, and the socket
/// takes out; both run in the connection's one task.
#[derive(Debug, Default)]
pub(super) struct Outbox(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    parcels: VecDeque<Parcel>,
    tickets: usize,
    /// Nothing more may be written.
    is_torn: bool,
    /// The kernel does not send these files.
    is_refused: bool,
}

/// A window that waits.
#[derive(Debug)]
struct Parcel {
    ticket: usize,
    file: SharedFile,
    next: u64,
    end: u64,
}

impl Parcel {
    /// Bytes of it that have not left. No more than [`WINDOW_BYTES`].
    fn left(&self) -> usize {
        usize::try_from(self.end - self.next).unwrap_or(usize::MAX)
    }
}

/// An address in [`REGION`].
fn place(ticket: usize, len: usize) -> &'static [u8] {
    &REGION[ticket % TICKETS..][..len]
}

fn is_placeholder(buffer: &[u8]) -> bool {
    !buffer.is_empty() && REGION.as_ptr_range().contains(&buffer.as_ptr())
}

impl Outbox {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether windows may be put in.
    pub(super) fn is_open(&self) -> bool {
        let queue = self.queue();
        !queue.is_torn && !queue.is_refused && queue.parcels.len() < PARCELS_MAX
    }

    /// Lets a window wait, and gives what stands for it.
    pub(super) fn put(self: &Arc<Self>, file: SharedFile, window: ByteRange) -> Placeholder {
        let mut queue = self.queue();
        let ticket = queue.tickets;
        queue.tickets = ticket.wrapping_add(1);
        let parcel = Parcel {
            ticket,
            file,
            next: window.start(),
            end: window.end(),
        };
        let left = parcel.left();
        queue.parcels.push_back(parcel);
        Placeholder {
            outbox: Arc::clone(self),
            ticket,
            left,
            access: None,
        }
    }

    fn tear(&self) {
        self.queue().is_torn = true;
    }

    /// How many buffers come before the first placeholder, which is then that of what waits at the
    /// front.
    fn check(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut queue = self.queue();
        if queue.is_torn {
            return Err(torn());
        }
        let first = buffers.iter().position(|buffer| is_placeholder(buffer));
        let Some(first) = first else {
            return Ok(buffers.len());
        };
        let is_front = queue.parcels.front().is_some_and(|parcel| {
            let len = parcel.left();
            len <= WINDOW_BYTES && std::ptr::eq(place(parcel.ticket, len), &*buffers[first])
        });
        if !is_front {
            queue.is_torn = true;
            return Err(torn());
        }
        Ok(first)
    }

    /// What waits at the front.
    fn front(&self) -> Option<(SharedFile, u64, usize)> {
        let queue = self.queue();
        let front = queue.parcels.front();
        front.map(|parcel| (parcel.file.clone(), parcel.next, parcel.left()))
    }

    /// So many bytes of it have left.
    fn advance(&self, count: usize) {
        let mut queue = self.queue();
        let Some(front) = queue.parcels.front_mut() else {
            return;
        };
        front.next += count as u64;
        if front.next >= front.end {
            // Dropped without the lock: it may close the file.
            let sent = queue.parcels.pop_front();
            drop(queue);
            drop(sent);
        }
    }

    /// The kernel does not send this file: what waits is read, and nothing more is put in.
    fn refuse(&self) {
        self.queue().is_refused = true;
    }

    fn is_refused(&self) -> bool {
        self.queue().is_refused
    }
}

fn torn() -> io::Error {
    io::Error::other("what is written does not agree with what is to be sent")
}

/// What hyper is given for a window of a file. It has the window's length, and its bytes mean
/// nothing.
pub(crate) struct Placeholder {
    outbox: Arc<Outbox>,
    ticket: usize,
    left: usize,
    /// Of the body that ends with it: told when it has left.
    access: Option<Box<Access>>,
}

impl Placeholder {
    /// It is the last of a body.
    pub(super) fn end(&mut self, access: Box<Access>) {
        self.access = Some(access);
    }

    fn bytes(&self) -> &'static [u8] {
        place(self.ticket, self.left)
    }
}

impl Buf for Placeholder {
    fn remaining(&self) -> usize {
        self.left
    }

    /// Only for who wants to copy it, which must not be.
    fn chunk(&self) -> &[u8] {
        if self.left > 0 {
            self.outbox.tear();
        }
        self.bytes()
    }

    fn chunks_vectored<'a>(&'a self, buffers: &mut [IoSlice<'a>]) -> usize {
        match buffers.first_mut() {
            Some(buffer) if self.left > 0 => {
                *buffer = IoSlice::new(self.bytes());
                1
            }
            _ => 0,
        }
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.left, "no more is written than is there");
        self.left -= count;
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        if self.left > 0 {
            self.outbox.tear();
            if let Some(access) = &mut self.access {
                access.cut();
            }
        }
    }
}

impl fmt::Debug for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placeholder")
            .field("ticket", &self.ticket)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}
