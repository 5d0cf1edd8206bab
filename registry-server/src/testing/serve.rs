//! HTTP/1.1 on a socket, byte by byte.
//!
//! No HTTP library stands here, but for the parser of requests: to frame answers wrongly, to stop
//! within one, to end a connection by FIN or by RST at a certain byte is what a fixture is for,
//! and what a library rightly does not let one do.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::State;
use super::answer::{Answer, Request, Route, answer};
use super::behaviour::Behaviour;
use super::content::{Generated, Source};
use super::fault::{Fault, Gate};
use super::tls::Socket;

/// Largest request, in bytes.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Most headers of a request.
const HEADERS_MAX: usize = 100;
/// Bytes written at a time.
const CHUNK_BYTES: u64 = 64 << 10;
/// Chunks a second where the bandwidth is limited: fine enough to look like a flow.
const PACED_CHUNKS_PER_SECOND: u64 = 50;
/// The seed of the bytes that are sent past the end of a body.
const EXTRA_SEED: u64 = 0xbad;

/// How a connection goes on after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Request,
    Close,
}

/// Answers the requests of one connection, until either side has enough.
pub(crate) async fn connection(mut stream: Socket, state: Arc<State>) -> io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await? {
        let exchange = Exchange::begin(&state, &request, &stream);
        let behaviour = state.behaviour();
        if !behaviour.latency.is_zero() {
            tokio::time::sleep(behaviour.latency).await;
        }
        let next = exchange.answer(&mut stream, &behaviour, &request).await?;
        drop(exchange);
        if next == Next::Close {
            break;
        }
    }
    stream.shutdown().await
}

/// The next request; none where the client has closed the connection, or sends no HTTP.
async fn read_request(stream: &mut Socket, buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Request::new(&mut headers);
        match head.parse(buffer) {
            Ok(httparse::Status::Complete(length)) => {
                let Some(mut request) = to_request(&head) else {
                    return Ok(None);
                };
                let end = length.saturating_add(request.content_length());
                if buffer.len() >= end {
                    request.body = String::from_utf8_lossy(&buffer[length..end]).into_owned();
                    buffer.drain(..end);
                    return Ok(Some(request));
                }
                if end > REQUEST_BYTES_MAX {
                    return Ok(None);
                }
            }
            Ok(httparse::Status::Partial) if buffer.len() < REQUEST_BYTES_MAX => {}
            Ok(httparse::Status::Partial) | Err(_) => return Ok(None),
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

fn to_request(head: &httparse::Request<'_, '_>) -> Option<Request> {
    // As a proxy would be asked: whatever host is named, this registry answers for it.
    let target = match head.path?.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |path| &rest[path..]),
        None => head.path?,
    };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    let headers = head.headers.iter().map(|header| {
        let value = String::from_utf8_lossy(header.value).into_owned();
        (header.name.to_ascii_lowercase(), value)
    });
    Some(Request {
        method: head.method?.parse().ok()?,
        path: path.to_owned(),
        raw_query: query,
        headers: headers.collect(),
        body: String::new(),
    })
}

/// One request and its answer, for the counters: what is under way ends when this is dropped.
struct Exchange<'a> {
    state: &'a State,
    record: Option<usize>,
}

impl<'a> Exchange<'a> {
    fn begin(state: &'a State, request: &Request, socket: &Socket) -> Self {
        let object = Route::of(&request.path).object;
        let record = state.record(request, object, socket.has_client_certificate());
        Self { state, record }
    }

    async fn answer(
        &self,
        stream: &mut Socket,
        behaviour: &Behaviour,
        request: &Request,
    ) -> io::Result<Next> {
        let object = Route::of(&request.path).object;
        let fault = self.state.take_fault(request, object);
        let mut plan = Plan::default();
        let mut replaced = None;
        for fault in fault.map(Fault::parts).unwrap_or_default() {
            match fault {
                Fault::Answer {
                    status,
                    headers,
                    body,
                } => replaced = Some(Answer::new(status, headers, body)),
                Fault::Hold { gate } => opened_or_closed(&gate, stream).await?,
                Fault::BlackHole => return until_closed(stream).await,
                Fault::Close => return Ok(Next::Close),
                Fault::Garbage => {
                    stream.write_all(b"\0\xffnot HTTP at all\r\n\r\n").await?;
                    return Ok(Next::Close);
                }
                fault => plan.add(fault),
            }
        }
        let mut right = replaced.unwrap_or_else(|| answer(self.state, behaviour, request));
        if plan.gzip {
            right = right.gzip();
        }
        for (name, value) in &plan.headers {
            right.set_header(name, value);
        }
        self.state.record_status(self.record, right.status);
        let wire = Wire {
            state: self.state,
            behaviour,
            plan,
        };
        wire.send(stream, &right, request).await
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        self.state.stats.send_modify(|stats| stats.in_flight -= 1);
    }
}

/// Waits until the client gives up.
async fn until_closed(stream: &mut Socket) -> io::Result<Next> {
    let mut ignored = [0; 1024];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(Next::Close)
}

/// Waits for the gate; an error where the client gives up before.
async fn opened_or_closed(gate: &Gate, stream: &mut Socket) -> io::Result<()> {
    tokio::select! {
        () = gate.opened() => Ok(()),
        closed = until_closed(stream) => {
            closed?;
            Err(io::ErrorKind::ConnectionAborted.into())
        }
    }
}

/// How a body ends before its time.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Fin,
    Reset,
    Stall,
}

/// What is to go wrong with an answer on its way.
#[derive(Default)]
struct Plan {
    headers: Vec<(String, String)>,
    head_interval: Option<Duration>,
    declared: Option<u64>,
    flip: Option<u64>,
    extra: u64,
    hold: Option<(u64, Gate)>,
    cut: Option<(u64, Cut)>,
    trickle: Option<(u64, Duration)>,
    gzip: bool,
}

impl Plan {
    fn add(&mut self, fault: Fault) {
        match fault {
            Fault::Headers(headers) => self.headers.extend(headers),
            Fault::WrongBytes { offset } => self.flip = Some(offset),
            Fault::Short { after } => self.cut = Some((after, Cut::Fin)),
            Fault::Reset { after } => self.cut = Some((after, Cut::Reset)),
            Fault::Stall { after } => self.cut = Some((after, Cut::Stall)),
            Fault::TooMany { extra } => self.extra = extra,
            Fault::WrongLength { declared } => self.declared = Some(declared),
            Fault::HoldAfter { bytes, gate } => self.hold = Some((bytes, gate)),
            Fault::SlowHead { interval } => self.head_interval = Some(interval),
            Fault::Trickle { after, interval } => self.trickle = Some((after, interval)),
            Fault::Gzip => self.gzip = true,
            // Those that replace the whole answer, and several at once, never come here.
            Fault::Answer { .. }
            | Fault::Hold { .. }
            | Fault::BlackHole
            | Fault::Close
            | Fault::Garbage
            | Fault::Several(_) => {}
        }
    }

    /// How many bytes may be sent after `sent` of them before something is to happen.
    fn until_event(&self, sent: u64) -> u64 {
        if self.trickle.is_some_and(|(after, _)| sent >= after) {
            return 1;
        }
        let trickle = self.trickle.map(|(at, _)| at);
        let hold = self.hold.as_ref().map(|(at, _)| *at);
        let events = [hold, self.cut.map(|(at, _)| at), trickle];
        let ahead = events.into_iter().flatten().filter(|at| *at > sent);
        ahead.map(|at| at - sent).min().unwrap_or(u64::MAX)
    }
}

/// An answer being put on the wire.
struct Wire<'a> {
    state: &'a State,
    behaviour: &'a Behaviour,
    plan: Plan,
}

impl Wire<'_> {
    async fn send(
        &self,
        stream: &mut Socket,
        answer: &Answer,
        request: &Request,
    ) -> io::Result<Next> {
        let length = answer.part.1 + self.plan.extra;
        let bodyless = request.method == Method::HEAD || matches!(answer.status, 204 | 304);
        let chunked = self.behaviour.omit_length && !bodyless && self.plan.declared.is_none();
        let head = self.head(answer, length, chunked);
        self.send_head(stream, head.as_bytes()).await?;
        if !bodyless && self.send_body(stream, answer, length, chunked).await? == Next::Close {
            return Ok(Next::Close);
        }
        let asked = |(name, value): &(String, String)| {
            name == "connection" && value.eq_ignore_ascii_case("close")
        };
        let close = self.plan.declared.is_some() || request.headers.iter().any(asked);
        Ok(if close { Next::Close } else { Next::Request })
    }

    fn head(&self, answer: &Answer, length: u64, chunked: bool) -> String {
        let mut head = format!("HTTP/1.1 {} Fixture\r\n", answer.status);
        head.push_str("Docker-Distribution-Api-Version: registry/2.0\r\n");
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let has_length = answer
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        if chunked {
            head.push_str("Transfer-Encoding: chunked\r\n");
        } else if let Some(declared) = self.plan.declared {
            head.push_str(&format!("Content-Length: {declared}\r\n"));
        } else if !has_length && !self.behaviour.omit_length && answer.status != 304 {
            head.push_str(&format!("Content-Length: {length}\r\n"));
        }
        head.push_str("\r\n");
        head
    }

    async fn send_head(&self, stream: &mut Socket, head: &[u8]) -> io::Result<()> {
        let Some(interval) = self.plan.head_interval else {
            return stream.write_all(head).await;
        };
        for byte in head.chunks(1) {
            tokio::time::sleep(interval).await;
            stream.write_all(byte).await?;
        }
        Ok(())
    }

    async fn send_body(
        &self,
        stream: &mut Socket,
        answer: &Answer,
        length: u64,
        chunked: bool,
    ) -> io::Result<Next> {
        let extra = Source::from(Generated::new(EXTRA_SEED, self.plan.extra));
        let (start, right_length) = answer.part;
        let mut sent = 0;
        while sent < length {
            self.wait(stream, sent).await?;
            match self.plan.cut {
                Some((at, Cut::Fin)) if at == sent => return Ok(Next::Close),
                Some((at, Cut::Stall)) if at == sent => return until_closed(stream).await,
                Some((at, Cut::Reset)) if at == sent => {
                    // The connection's task ends with this error and closes the socket: by RST.
                    stream.set_reset()?;
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                _ => {}
            }
            let (source, offset, left) = if sent < right_length {
                (&answer.body, start + sent, right_length - sent)
            } else {
                (&extra, sent - right_length, length - sent)
            };
            let count = left
                .min(self.chunk_bytes())
                .min(self.plan.until_event(sent));
            let bytes = self.flipped(source.read(offset, count as usize), sent);
            // Before it is written: who has received a body finds all of it counted.
            self.state.count_body(answer.blob, count);
            write_chunk(stream, &bytes, chunked).await?;
            sent += count;
        }
        if chunked {
            stream.write_all(b"0\r\n\r\n").await?;
        }
        Ok(Next::Request)
    }

    /// Waits at the gate, and for as long as the bandwidth demands.
    async fn wait(&self, stream: &mut Socket, sent: u64) -> io::Result<()> {
        if let Some((at, gate)) = &self.plan.hold
            && *at == sent
        {
            opened_or_closed(gate, stream).await?;
        }
        if let Some((after, interval)) = self.plan.trickle
            && sent >= after
        {
            tokio::time::sleep(interval).await;
        }
        if let Some(rate) = self.behaviour.bytes_per_second
            && sent > 0
        {
            let seconds = self.chunk_bytes() as f64 / rate.max(1) as f64;
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        }
        Ok(())
    }

    fn chunk_bytes(&self) -> u64 {
        match self.behaviour.bytes_per_second {
            Some(rate) => (rate / PACED_CHUNKS_PER_SECOND).clamp(1, CHUNK_BYTES),
            None => CHUNK_BYTES,
        }
    }

    fn flipped(&self, bytes: Bytes, sent: u64) -> Bytes {
        let index = self.plan.flip.and_then(|at| at.checked_sub(sent));
        let Some(index) = index.filter(|index| *index < bytes.len() as u64) else {
            return bytes;
        };
        let mut changed = bytes.to_vec();
        changed[index as usize] ^= 1;
        changed.into()
    }
}

async fn write_chunk(stream: &mut Socket, bytes: &[u8], chunked: bool) -> io::Result<()> {
    if chunked {
        let head = format!("{:x}\r\n", bytes.len());
        stream.write_all(head.as_bytes()).await?;
    }
    stream.write_all(bytes).await?;
    if chunked {
        stream.write_all(b"\r\n").await?;
    }
    Ok(())
}
