//! Many small requests at a time: by wrk, and by a generator of our own for what wrk cannot do. wrk
//! waits for the body of an answer to HEAD, which never comes.

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::client::{ACCEPT, Client};
use crate::process::command;

/// Connections that are kept alive, and threads that they are spread over.
const CONNECTIONS: usize = 32;
const THREADS: usize = 2;
/// How late an answer may be that wrk still counts.
const LATE_MAX: &str = "--timeout=30s";

/// Requests a second by wrk: all of them 200, with bodies of this length.
pub(crate) fn wrk(
    program: &Path,
    address: SocketAddr,
    path: &str,
    length: u64,
    time: Duration,
) -> Outcome<f64> {
    let output = command(program)
        .arg(format!("-t{THREADS}"))
        .arg(format!("-c{CONNECTIONS}"))
        .arg(format!("-d{}s", time.as_secs().max(1)))
        .args([LATE_MAX, "-H", &format!("Accept: {ACCEPT}")])
        .arg(format!("http://{address}{path}"))
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = Said::parse(&text).ok_or_else(|| format!("wrk says nothing: {text}"))?;
    // A head comes with each.
    if said.has_errors || said.bytes < said.requests * length as f64 {
        return Err(format!("wrk has met errors: {text}").into());
    }
    Ok(said.per_second)
}

/// What wrk says.
struct Said {
    requests: f64,
    bytes: f64,
    per_second: f64,
    has_errors: bool,
}

impl Said {
    /// Of `126138 requests in 2.00s, 209.31MB read` and `Requests/sec:  62989.26`.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().map(str::trim);
        let line = lines.clone().find(|line| line.contains(" requests in "))?;
        let (requests, rest) = line.split_once(" requests in ")?;
        let (_, read) = rest.strip_suffix(" read")?.split_once(", ")?;
        let digits = read.find(|c: char| c.is_ascii_alphabetic())?;
        let (number, unit) = read.split_at(digits);
        let factor = match unit {
            "B" => 1.0,
            "KB" => 1_024.0,
            "MB" => f64::from(1 << 20),
            "GB" => f64::from(1 << 30),
            _ => return None,
        };
        let per_second = lines.find_map(|line| line.strip_prefix("Requests/sec:"))?;
        Some(Self {
            requests: requests.parse().ok()?,
            // Told to two digits behind the point.
            bytes: (number.parse::<f64>().ok()? + 0.005) * factor,
            per_second: per_second.trim().parse().ok()?,
            has_errors: text.contains("Non-2xx") || text.contains("Socket errors"),
        })
    }
}

/// What is asked again and again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'static str,
    pub(crate) path: &'a str,
    /// Of the body that comes: none for HEAD.
    pub(crate) body: u64,
}

/// Requests a second by our own: as many connections as wrk's. Each thread asks on all of its own,
/// and then reads all answers.
pub(crate) fn ours(address: SocketAddr, request: Request<'_>, time: Duration) -> Outcome<f64> {
    let begun = Instant::now();
    let counts = thread::scope(|scope| {
        let one = || ask_until(address, request, begun + time);
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(one)).collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(count) => count,
            Err(_) => Err("a client has panicked".into()),
        });
        joined.collect::<Outcome<Vec<u64>>>()
    })?;
    Ok(counts.iter().sum::<u64>() as f64 / begun.elapsed().as_secs_f64())
}

fn ask_until(address: SocketAddr, request: Request<'_>, until: Instant) -> Outcome<u64> {
    let connect = |_| Client::connect(address);
    let clients: Outcome<Vec<Client>> = (0..CONNECTIONS / THREADS).map(connect).collect();
    let (mut clients, mut count) = (clients?, 0);
    while Instant::now() < until {
        for client in &mut clients {
            client.ask(request.method, request.path)?;
        }
        for client in &mut clients {
            client.answered(request.path, request.body)?;
            count += 1;
        }
    }
    Ok(count)
}
