//! A link to somewhere far: a relay that lets through so many bytes a second, each a while after it
//! came. All connections share it, as they would share a line.
//!
//! It stands for a TCP that fills the line from the first byte on: windows that grow slowly, and
//! losses, are not a part of it. Threads that sleep wake up more exactly than timers of a runtime,
//! so it is made of threads.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Outcome;

/// Bytes that travel together: as many as a network card takes at a time.
const PARCEL_BYTES: usize = 16 << 10;
/// Parcels of one direction that are on their way: more than any line here holds.
const PARCELS_MAX: usize = 256;
/// How much earlier a sleep ends than the time that is waited for; the rest is spun.
const SPIN: Duration = Duration::from_micros(120);

/// What a line is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) bits_per_second: u64,
    /// From one end to the other and back.
    pub(crate) round_trip: Duration,
}

/// A line to an address. It is cut when this is dropped.
pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    line: Line,
    /// When each direction has sent what it was given so far.
    up: Mutex<Instant>,
    down: Mutex<Instant>,
    open: Mutex<VecDeque<TcpStream>>,
    is_cut: AtomicBool,
}

impl Link {
    pub(crate) fn start(to: SocketAddr, line: Line) -> Outcome<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let now = Instant::now();
        let shared = Arc::new(Shared {
            line,
            up: Mutex::new(now),
            down: Mutex::new(now),
            open: Mutex::default(),
            is_cut: AtomicBool::new(false),
        });
        let accepting = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.accept(&listener, to))
        };
        Ok(Self {
            address,
            shared,
            accepting: Some(accepting),
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.is_cut.store(true, Ordering::Relaxed);
        // Whoever waits for a connection gets one; each thread ends with the sockets it reads.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        for stream in lock(&self.shared.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Some bytes, and when they are there.
struct Parcel {
    bytes: Vec<u8>,
    arrives: Instant,
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener, to: SocketAddr) {
        while let Ok((near, _)) = listener.accept() {
            if self.is_cut.load(Ordering::Relaxed) {
                return;
            }
            // One that cannot be carried on is closed, as by a line that is down.
            let _ = self.carry(near, to);
        }
    }

    fn carry(self: &Arc<Self>, near: TcpStream, to: SocketAddr) -> std::io::Result<()> {
        let far = TcpStream::connect(to)?;
        for stream in [&near, &far] {
            stream.set_nodelay(true)?;
            lock(&self.open).push_back(stream.try_clone()?);
        }
        // A connection is made by a round trip, before which nothing can be sent.
        let made = Instant::now() + self.line.round_trip;
        self.direction(near.try_clone()?, far.try_clone()?, made, |shared| {
            &shared.up
        });
        self.direction(far, near, made, |shared| &shared.down);
        Ok(())
    }

    fn direction(
        self: &Arc<Self>,
        from: TcpStream,
        to: TcpStream,
        made: Instant,
        side: fn(&Self) -> &Mutex<Instant>,
    ) {
        let (sender, receiver) = sync_channel(PARCELS_MAX);
        let shared = Arc::clone(self);
        thread::spawn(move || shared.send(from, made, side, &sender));
        thread::spawn(move || deliver(to, &receiver));
    }

    /// Reads as fast as the line takes it.
    fn send(
        &self,
        mut from: TcpStream,
        made: Instant,
        side: fn(&Self) -> &Mutex<Instant>,
        parcels: &SyncSender<Parcel>,
    ) {
        let mut buffer = vec![0; PARCEL_BYTES];
        // An error is an end, too.
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let takes = self.time_of(read);
            let sent = {
                let mut free = lock(side(self));
                *free = (*free).max(made).max(Instant::now()) + takes;
                *free
            };
            let parcel = Parcel {
                bytes: buffer[..read].to_vec(),
                arrives: sent + self.line.round_trip / 2,
            };
            if parcels.send(parcel).is_err() {
                break;
            }
            wait_until(sent);
        }
    }

    fn time_of(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 * 8.0 / self.line.bits_per_second as f64)
    }
}

fn deliver(mut to: TcpStream, parcels: &Receiver<Parcel>) {
    for parcel in parcels {
        wait_until(parcel.arrives);
        if to.write_all(&parcel.bytes).is_err() {
            break;
        }
    }
    // Where the other end was closed: this one is now.
    let _ = to.shutdown(Shutdown::Write);
}

fn wait_until(time: Instant) {
    let left = time.saturating_duration_since(Instant::now());
    thread::sleep(left.saturating_sub(SPIN));
    while Instant::now() < time {
        std::hint::spin_loop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
