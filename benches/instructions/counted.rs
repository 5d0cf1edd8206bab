//! The binary under callgrind.

use std::collections::HashSet;
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
/// What turns in a circle while another thread gets on: how often says nothing.
const WAITS: &str = "sled::lazy::Lazy";
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
    profile: PathBuf,
}

impl Counted {
    /// Starts it with its data in `folder` and the registry at `url` behind it, and waits until it
    /// is ready.
    ///
    /// # Panics
    ///
    /// Where it does not start.
    pub(crate) fn start(binary: &Path, folder: &Path, url: &str, log: &str) -> Self {
        let (profile, log_file) = (folder.join("profile"), folder.join("log"));
        let mut child = Command::new("valgrind")
            .args(["--quiet", "--tool=callgrind"])
            // A thread that turns in a circle would be run again and again, and what it waits for not.
            .arg("--fair-sched=yes")
            .arg(format!("--callgrind-out-file={}", profile.display()))
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
            profile,
        }
    }

    /// The address that clients pull from.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it, and tells how many instructions it has executed, but for [`WAITS`].
    ///
    /// # Panics
    ///
    /// Where it does not end well.
    pub(crate) fn stop(mut self) -> u64 {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "it ended with {status}");
        let profile = fs::read_to_string(&self.profile).expect("what callgrind counted");
        total(&profile)
    }
}

/// The instructions of all functions in callgrind's format, each in lines `POSITION COUNT` behind its
/// name; the line behind `calls=` is what the called function took, which is told under its own name.
fn total(profile: &str) -> u64 {
    // A name is told once, and by its number from then on.
    let mut waits = HashSet::new();
    let (mut total, mut is_wait, mut is_call) = (0, false, false);
    for line in profile.lines() {
        if let Some((kind, name)) = line.split_once("fn=") {
            let number = name.split_once(' ').map_or(name, |(number, _)| number);
            if name.contains(WAITS) {
                waits.insert(number);
            }
            if kind.is_empty() {
                is_wait = waits.contains(number);
            }
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let count = line.split_once(' ').map(|(_, count)| count.parse::<u64>());
            let count = count.expect("two numbers").expect("a number");
            if !is_call && !is_wait {
                total += count;
            }
            is_call = false;
        }
    }
    total
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
