//! Accepting connections, no more than are allowed, and letting them end.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::connection::{Stop, refuse, serve};
use super::limits::FrontLimits;
use super::service::Service;
use super::tls::{self, Tls};
use crate::metrics::Answers;

/// How long accepting rests after the system refused: out of file descriptors, mostly, of which
/// connections that end give some back.
const ACCEPT_REST: Duration = Duration::from_millis(200);

/// How often it is logged at most that there is no more room.
const FULL_REST: Duration = Duration::from_secs(60);

/// A socket that accepts, and the connections that it has accepted.
pub(super) struct Listener<S> {
    /// Taken by [`Self::accept`], which closes it when the drain begins.
    socket: Mutex<Option<TcpListener>>,
    address: SocketAddr,
    service: Arc<S>,
    /// Where connections are secured.
    tls: Option<Tls>,
    limits: Arc<FrontLimits>,
    answers: Answers,
    stop: Stop,
    connections: TaskTracker,
    permits: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    /// When it was last logged that there is no more room.
    full: Mutex<Option<Instant>>,
}

impl<S: Service> Listener<S> {
    /// Serves on a socket that listens at an address.
    pub(super) fn new(
        (socket, address): (TcpListener, SocketAddr),
        service: S,
        tls: Option<Tls>,
        limits: &Arc<FrontLimits>,
        answers: &Answers,
    ) -> Self {
        Self {
            address,
            tls,
            socket: Mutex::new(Some(socket)),
            service: Arc::new(service),
            answers: answers.clone(),
            stop: Stop::default(),
            connections: TaskTracker::new(),
            permits: Arc::new(Semaphore::new(limits.connections_max)),
            refusals: Arc::new(Semaphore::new(limits.refusals_max)),
            full: Mutex::new(None),
            limits: Arc::clone(limits),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn service(&self) -> &S {
        &self.service
    }

    /// Accepts until [`Self::drain`]; ends at once, with connections going on. The socket is closed
    /// then: whoever comes is refused and asks elsewhere, instead of waiting in the kernel's backlog
    /// for a server that will never accept.
    pub(super) async fn accept(&self) {
        let socket = self
            .socket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(socket) = socket else { return };
        let mut is_refused = false;
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.drain.cancelled() => return,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, client)) => {
                    is_refused = false;
                    self.admit(stream, client).await;
                }
                // The client gave up while it waited.
                Err(error) if is_clients(&error) => {}
                Err(error) => {
                    if !is_refused {
                        warn!(%error, "cannot accept connections: trying again");
                        is_refused = true;
                    }
                    sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    /// Serves a connection, or says that there is no room; waits for either where not even that can
    /// be said.
    async fn admit(&self, stream: TcpStream, client: SocketAddr) {
        let permits = Arc::clone(&self.permits);
        let permit = match Arc::clone(&permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                self.note_full();
                let refusal = Arc::clone(&self.refusals).acquire_owned();
                tokio::select! {
                    biased;
                    () = self.stop.drain.cancelled() => return,
                    refusal = refusal => return self.refuse(stream, client, refusal.ok()),
                    Ok(permit) = permits.acquire_owned() => permit,
                }
            }
        };
        let (service, limits) = (Arc::clone(&self.service), Arc::clone(&self.limits));
        let (answers, stop) = (self.answers.clone(), self.stop.clone());
        // Answers are written whole, so nothing is gained by waiting for more to send.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%client, %error, "cannot set TCP_NODELAY");
        }
        let connected = self.answers.connected(S::LISTENER);
        match self.tls.clone() {
            Some(tls) => {
                let serving = tls::serve(stream, client, tls, service, limits, answers, stop);
                self.spawn(serving, (permit, connected));
            }
            None => {
                let serving = serve(stream, client, service, limits, answers, stop);
                self.spawn(serving, (permit, connected));
            }
        }
    }

    fn refuse(&self, stream: TcpStream, client: SocketAddr, permit: Option<OwnedSemaphorePermit>) {
        self.answers.refused(S::LISTENER);
        let limits = Arc::clone(&self.limits);
        match self.tls.clone() {
            Some(tls) => self.spawn(tls::refuse(stream, client, tls, limits), permit),
            None => self.spawn(refuse(stream, limits), permit),
        }
    }

    fn note_full(&self) {
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        if full.is_none_or(|logged| logged.elapsed() > FULL_REST) {
            *full = Some(Instant::now());
            let connections = self.limits.connections_max;
            warn!(connections, address = %self.address, "no room for more: refusing connections");
        }
    }

    /// `held`: what is given back when it ends.
    fn spawn(
        &self,
        connection: impl Future<Output = ()> + Send + 'static,
        held: impl Send + 'static,
    ) {
        self.connections.spawn(async move {
            connection.await;
            drop(held);
        });
    }

    /// Accepts no more, and lets answers under way end for `limit`; cuts off what is left then.
    pub(super) async fn drain(&self, limit: Duration) {
        self.stop.drain.cancel();
        self.connections.close();
        if timeout(limit, self.connections.wait()).await.is_err() {
            let connections = self.connections.len();
            info!(connections, "answers are still under way: cutting them off");
            self.stop.abort.cancel();
            self.connections.wait().await;
        }
    }
}

/// Whoever drops the listener wants its connections gone too.
impl<S> Drop for Listener<S> {
    fn drop(&mut self) {
        self.stop.abort.cancel();
    }
}

fn is_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
