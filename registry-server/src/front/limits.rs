//! Every limit of the listeners, in one place (I8).

use std::time::Duration;

/// The limits of a [`Server`](super::Server)'s listeners. The cache behind has its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontLimits {
    /// Connections at a time, for each listener. One more is told so (503) and closed.
    pub connections_max: usize,
    /// Connections at a time that are being told so; past them, the kernel's backlog holds the rest.
    pub refusals_max: usize,
    /// Bytes of a request that a connection buffers, and of an answer before more of it is read.
    /// A request whose head does not fit is refused (431) unseen; at least 8 KiB.
    pub connection_buffer_bytes: usize,
    /// Bytes of all header fields of a request but `Range`, which has a limit of its own.
    pub header_bytes_max: usize,
    /// Bytes of one header field of a request.
    pub header_field_bytes_max: usize,
    /// Bytes of a request's path and query.
    pub target_bytes_max: usize,
    /// How long a TLS handshake may take, from the connection's first moment on.
    pub handshake_max: Duration,
    /// Bytes of an answer that a connection has sealed before it waits for the client to take them:
    /// more are fewer and larger writes.
    pub tls_buffer_bytes: usize,
    /// Requests at a time on one connection of HTTP/2. Each may hold one chunk of its answer, and
    /// [`Self::stream_buffer_bytes`] of what is on its way.
    pub streams_max: u32,
    /// Bytes of an answer that a stream of HTTP/2 has on its way before more of it is read.
    pub stream_buffer_bytes: usize,
    /// How long a connection waits for a request, whole. Longer than the 30 s after which clients
    /// give up idle connections: then it is they who close them, and no request meets a closing one.
    pub request_wait_max: Duration,
    /// How long a client may take none of the bytes that wait for it.
    pub write_idle_max: Duration,
    /// How long, after the last answer, what a client still sends is read and thrown away. A
    /// connection closed over unread bytes is reset, and the client may lose the answer (I2).
    pub linger_max: Duration,
    /// How many bytes of it. Many: whoever sends an archive that is refused has sent megabytes before
    /// it can have read why.
    pub linger_bytes_max: usize,
    /// How long answers under way may go on after a shutdown began.
    pub drain_max: Duration,
    /// Ranges in one request. Clients meet a refusal (400) with fewer ranges, but those of
    /// containers/image give up on partial pulls where fewer than 64 are refused.
    pub ranges_max: usize,
    /// Tags or repositories in one page; must be below the cache's own limit.
    pub page_entries_max: usize,
    /// When a client is asked to come back, where nothing better is known.
    pub retry_after: Duration,
    /// The latest that an upstream's own wish is passed on as.
    pub retry_after_max: Duration,
}

impl Default for FrontLimits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            refusals_max: 64,
            connection_buffer_bytes: 64 << 10,
            header_bytes_max: 16 << 10,
            header_field_bytes_max: 8 << 10,
            target_bytes_max: 4 << 10,
            handshake_max: Duration::from_secs(10),
            tls_buffer_bytes: 64 << 10,
            streams_max: 100,
            stream_buffer_bytes: 32 << 10,
            request_wait_max: Duration::from_secs(75),
            write_idle_max: Duration::from_secs(5 * 60),
            linger_max: Duration::from_secs(1),
            linger_bytes_max: 64 << 20,
            drain_max: Duration::from_secs(20),
            ranges_max: 64,
            page_entries_max: 500,
            retry_after: Duration::from_secs(5),
            retry_after_max: Duration::from_secs(60 * 60),
        }
    }
}
