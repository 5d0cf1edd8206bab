//! The binary, with a collector of traces that is away or stands still: pulls go on, the end is not
//! kept waiting, and the log says so once. With the feature `otlp` only.
#![cfg(feature = "otlp")]
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at what it cannot do without"
)]

#[expect(dead_code, reason = "headers are looked at elsewhere")]
#[path = "support/http.rs"]
mod http;
#[expect(dead_code, reason = "what is said at the start is looked at elsewhere")]
#[path = "binary/process.rs"]
mod process;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use http::get;
use process::Process;
use registry_server::testing::{FixtureRegistry, ImageSpec};

/// How long anything is waited for before the test fails.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long the end may take: three seconds for the last traces, and what else there is to do.
const END_MAX: Duration = Duration::from_secs(10);
/// More spans than are held for a collector.
const REQUESTS: usize = 5_000;

/// A collector that takes connections, and no traces.
struct Collector {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Collector {
    /// One that closes connections at once, or one that keeps them and never answers.
    fn start(keeps: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming() {
                kept.extend(stream.ok().filter(|_| keeps));
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self {
            address,
            connections,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Runs a mirror that sends its traces to `collector`, and pulls until `enough`; all that it said.
async fn pull_until(collector: SocketAddr, enough: impl Fn() -> bool + Send + 'static) -> String {
    let origin = FixtureRegistry::start().await;
    origin.add_image("org/app", "1", &ImageSpec::new(1));
    let upstream = format!("one.test={}", origin.url());
    let test = move || {
        let folder = tempfile::tempdir().unwrap();
        let collector = format!("http://{collector}");
        let arguments = ["--otlp-endpoint", &collector, "--upstream", &upstream];
        let process = Process::serve(folder.path(), &arguments);
        let address = process.address();
        flood(address);
        let deadline = Instant::now() + WAIT_MAX;
        let mut pulls = 0;
        while pulls < 20 || !enough() {
            assert!(Instant::now() < deadline, "after {pulls} pulls");
            let answer = get(address, "/v2/org/app/manifests/1?ns=one.test");
            assert_eq!(answer.status, 200);
            pulls += 1;
            thread::sleep(Duration::from_millis(20));
        }
        let begun = Instant::now();
        let (status, said) = process.stop_and_say();
        assert!(status.success(), "{said}");
        let took = begun.elapsed();
        assert!(took < END_MAX, "the end took {took:?}");
        said
    };
    tokio::task::spawn_blocking(test).await.unwrap()
}

/// More requests than spans of them find room, over one connection.
fn flood(address: SocketAddr) {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(WAIT_MAX)).unwrap();
    let mut asking = client.try_clone().unwrap();
    let asker = thread::spawn(move || {
        for number in 1..=REQUESTS {
            let connection = match number == REQUESTS {
                true => "close",
                false => "keep-alive",
            };
            let request =
                format!("HEAD /v2/ HTTP/1.1\r\nHost: mirror\r\nConnection: {connection}\r\n\r\n");
            asking.write_all(request.as_bytes()).unwrap();
        }
    });
    let mut answers = String::new();
    client.read_to_string(&mut answers).unwrap();
    asker.join().unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), REQUESTS);
}

#[track_caller]
fn is_said_once(said: &str) {
    let words = "traces cannot be sent, and are dropped until they can";
    assert_eq!(said.matches(words).count(), 1, "{}", without_access(said));
    let own = without_access(said);
    // What the libraries have to say of each batch, and of each span that finds no room.
    assert!(!own.to_lowercase().contains("opentelemetry"), "{own}");
    assert!(!own.contains("BatchSpanProcessor"), "{own}");
}

/// What was said but for the lines of requests.
fn without_access(said: &str) -> String {
    let lines = said.lines().filter(|line| !line.contains(" access: "));
    lines.map(|line| format!("{line}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_spans_and_nothing_else() {
    let collector = Collector::start(false);
    let address = collector.address;
    let said = pull_until(address, move || collector.connections() >= 6).await;
    is_said_once(&said);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_stands_still_keeps_nobody_waiting() {
    let collector = Collector::start(true);
    let address = collector.address;
    let said = pull_until(address, move || collector.connections() >= 3).await;
    is_said_once(&said);
}
