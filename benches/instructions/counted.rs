//! The binary under callgrind.

use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::setup::UPSTREAM;

/// The profile that the binary is built with: see the workspace's `Cargo.toml`.
const PROFILE: &str = "counted";
/// How long a start under callgrind may take, which is tens of times as long as without.
const START_MAX: Duration = Duration::from_secs(120);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Whether there is a valgrind.
///
/// # Panics
///
/// Where there is none and `CI=true`: what is skipped there shows nothing.
pub(crate) fn is_possible() -> bool {
    let valgrind = Command::new("valgrind").arg("--version").output();
    if valgrind.is_ok_and(|output| output.status.success()) {
        return true;
    }
    assert!(
        env::var_os("CI").is_none_or(|value| value != "true"),
        "instructions cannot be counted: `valgrind` is not installed"
    );
    let text = "\n!!!! SKIPPED instructions: `valgrind` is not installed. `.ci/run` installs it.\n";
    let _ = std::io::stderr().write_all(text.as_bytes());
    false
}

/// Builds the binary, optimised; tells where it is.
///
/// # Panics
///
/// Where it does not build.
pub(crate) fn build() -> PathBuf {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "--profile", PROFILE])
        .args(["--package", "registry-server", "--bin", "registry-server"])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo");
    assert!(output.status.success(), "the binary does not build");
    let messages = String::from_utf8(output.stdout).expect("JSON");
    let built = messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    });
    built.expect("cargo tells where the binary is")
}

/// The binary, serving, with one worker.
pub(crate) struct Counted {
    child: Child,
    address: SocketAddr,
    counts: PathBuf,
}

impl Counted {
    /// Starts it with its data in `folder` and the registry at `url` behind it, and waits until it
    /// is ready.
    ///
    /// # Panics
    ///
    /// Where it does not start.
    pub(crate) fn start(binary: &Path, folder: &Path, url: &str, log: &str) -> Self {
        let (counts, log_file) = (folder.join("counts"), folder.join("log"));
        let mut child = Command::new("valgrind")
            .args(["--quiet", "--tool=callgrind"])
            .arg(format!("--callgrind-out-file={}", counts.display()))
            .arg(binary)
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(folder.join("data"))
            .args(["--upstream", &format!("{UPSTREAM}={url}")])
            // So that a tag is fresh for as long as this takes.
            .args(["--tag-ttl", "1d", "--log", log])
            .env("TOKIO_WORKER_THREADS", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log_file).expect("a file"))
            .spawn()
            .expect("valgrind");
        let address = await_address(&mut child, &log_file);
        Self {
            child,
            address,
            counts,
        }
    }

    /// The address that clients pull from.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it, and tells how many instructions it has executed.
    ///
    /// # Panics
    ///
    /// Where it does not end well.
    pub(crate) fn stop(mut self) -> u64 {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "it ended with {status}");
        let counts = fs::read_to_string(&self.counts).expect("what callgrind counted");
        let total = counts
            .lines()
            .find_map(|line| line.strip_prefix("totals: "));
        let total = total.and_then(|text| text.trim().parse().ok());
        total.expect("callgrind tells the total")
    }
}

/// The address in the line `registry-server 0.1.0, listening on 127.0.0.1:5000`.
fn await_address(child: &mut Child, log_file: &Path) -> SocketAddr {
    let deadline = Instant::now() + START_MAX;
    loop {
        let said = fs::read_to_string(log_file).expect("what it says");
        let told = said.split_once(", listening on ");
        if let Some((address, _)) = told.and_then(|(_, rest)| rest.split_once('\n')) {
            return address.parse().expect("the mirror prints its address");
        }
        let ended = child.try_wait().expect("a child");
        assert!(
            ended.is_none() && Instant::now() < deadline,
            "it did not start ({ended:?}); it said\n{said}"
        );
        sleep(LOOK_INTERVAL);
    }
}
