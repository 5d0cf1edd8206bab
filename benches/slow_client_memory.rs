//! How much memory do slow clients cost? 64 of them read a blob of 1 GiB, cold and then warm, from
//! a mirror in a process of its own; prints the most that was resident.
//!
//! Unless `cargo bench` runs it, the blob is small and the run short: it then shows only that the
//! benchmark works.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

#[expect(dead_code, reason = "each benchmark uses a part of it")]
mod setup;

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::future::join_all;
use registry_server::Mirror;
use registry_server::testing::FixtureRegistry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::{Instant, sleep};

use setup::{REPOSITORY, UPSTREAM, blob_path, runtime};

const CLIENTS: usize = 64;
/// What a slow client reads at a time, and how long it rests after that.
const SIP_BYTES: usize = 16 << 10;
const REST: Duration = Duration::from_millis(20);
/// Small, so that a client's slowness reaches the mirror instead of the kernel's buffers.
const RECEIVE_BUFFER_BYTES: u32 = 64 << 10;
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, serve, url, folder] = &arguments[..]
        && serve == "serve"
    {
        return runtime().block_on(run_mirror(url, folder));
    }
    // What cargo bench passes, and cargo test does not.
    let (blob_bytes, reading) = if arguments.iter().any(|argument| argument == "--bench") {
        (1 << 30, Duration::from_secs(15))
    } else {
        (64 << 20, Duration::from_secs(1))
    };
    runtime().block_on(measure(blob_bytes, reading));
}

/// The mirror's process: serves until its standard input ends.
async fn run_mirror(url: &str, folder: &str) {
    let builder = Mirror::builder().data_dir(folder).upstream(UPSTREAM, url);
    let mirror = builder.start().await.expect("the mirror starts");
    println!("{}", mirror.addr());
    let mut stdin = tokio::io::stdin();
    // Whatever ends it, the parent is gone.
    let _ = stdin.read_to_end(&mut Vec::new()).await;
    mirror.shutdown().await;
}

async fn measure(blob_bytes: u64, reading: Duration) {
    let origin = FixtureRegistry::start().await;
    let blob = origin.add_blob(REPOSITORY, 1, blob_bytes);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut mirror = Command::new(std::env::current_exe().expect("this benchmark"))
        .args([
            "serve",
            &origin.url(),
            folder.path().to_str().expect("a plain path"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut line = String::new();
    let stdout = mirror.stdout.take().expect("it is piped");
    BufReader::new(stdout)
        .read_line(&mut line)
        .expect("it tells its address");
    let address: SocketAddr = line.trim().parse().expect("an address");
    println!(
        "slow_client_memory: idle: {} MiB resident",
        resident_mib(&mirror)
    );
    let path = blob_path(blob.digest);
    for phase in ["cold", "warm"] {
        let until = Instant::now() + reading;
        let clients = join_all((0..CLIENTS).map(|_| sip(address, &path, until)));
        let (read, peak) = tokio::join!(clients, peak_mib(&mirror, until));
        let least = read.iter().min().copied().unwrap_or_default();
        assert!(least > 0, "a client got nothing");
        println!(
            "slow_client_memory: {CLIENTS} slow clients of a {phase} blob of {} MiB: \
             at most {peak} MiB resident (the slowest client read {} KiB)",
            blob_bytes >> 20,
            least >> 10,
        );
        // The fill goes on without its clients: the next phase is warm when it has ended.
        origin.wait_for(|stats| stats.in_flight == 0).await;
    }
    assert_eq!(
        origin.blob_bytes_sent(&blob.digest),
        blob_bytes,
        "fetched once"
    );
    drop(mirror.stdin.take());
    mirror.wait().expect("it ends");
}

/// Reads a little, rests, and so on; how much it got.
async fn sip(address: SocketAddr, path: &str, until: Instant) -> u64 {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .set_recv_buffer_size(RECEIVE_BUFFER_BYTES)
        .expect("a socket option");
    let mut stream = socket.connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: mirror\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it takes the request");
    let (mut buffer, mut received) = (vec![0; SIP_BYTES], 0);
    while Instant::now() < until {
        received += stream.read(&mut buffer).await.expect("it answers") as u64;
        sleep(REST).await;
    }
    received
}

/// The most memory resident in a process until then.
async fn peak_mib(process: &Child, until: Instant) -> u64 {
    let mut peak = 0;
    while Instant::now() < until {
        peak = peak.max(resident_mib(process));
        sleep(SAMPLE_INTERVAL).await;
    }
    peak
}

fn resident_mib(process: &Child) -> u64 {
    let path = format!("/proc/{}/status", process.id());
    let status = std::fs::read_to_string(path).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse::<u64>().ok())
        .expect("a size in kB")
        >> 10
}
