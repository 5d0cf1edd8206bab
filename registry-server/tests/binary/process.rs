//! A process under test, and how it is talked to.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use registry_server::testing::sends_files;
use rustix::process::{Pid, Signal, kill_process};

/// How long anything is waited for before the test fails.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Between two looks at what cannot be waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_registry-server"));
    command.env_clear().stdin(Stdio::null());
    command.env("REGISTRY_SENDFILE", sends_files().to_string());
    command
}

/// Runs the binary to its end.
pub(crate) fn run(arguments: &[&str], env: Option<(&str, &str)>) -> Output {
    command().args(arguments).envs(env).output().unwrap()
}

/// The binary, serving. Killed where the test forgets it.
pub(crate) struct Process {
    child: Child,
    said: Arc<Said>,
    reader: Option<JoinHandle<()>>,
}

/// What a process has written to standard error so far.
#[derive(Default)]
struct Said {
    text: Mutex<(String, bool)>,
    changed: Condvar,
}

impl Process {
    /// Starts it with its data in `folder`, on free ports, and waits until it is ready.
    #[track_caller]
    pub(crate) fn serve(folder: &Path, arguments: &[&str]) -> Self {
        let process = Self::spawn(folder, arguments);
        process.address();
        process
    }

    /// Starts it, and does not wait. Settings come by the environment, so that flags override them.
    pub(crate) fn spawn(folder: &Path, arguments: &[&str]) -> Self {
        let mut child = command()
            .args(arguments)
            .env("REGISTRY_LISTEN", "127.0.0.1:0")
            .env("REGISTRY_ADMIN_LISTEN", "127.0.0.1:0")
            .env("REGISTRY_DATA_DIR", folder.join("data"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Said::default());
        let stderr = child.stderr.take().unwrap();
        let writer = Arc::clone(&said);
        let reader = thread::spawn(move || {
            let mut lines = BufReader::new(stderr);
            let mut line = String::new();
            while lines.read_line(&mut line).unwrap() > 0 {
                writer.text.lock().unwrap().0.push_str(&line);
                writer.changed.notify_all();
                line.clear();
            }
            writer.text.lock().unwrap().1 = true;
            writer.changed.notify_all();
        });
        Self {
            child,
            said,
            reader: Some(reader),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The first thing that `find` finds in a line of what the process says.
    #[track_caller]
    pub(crate) fn await_line<T>(&self, find: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + WAIT_MAX;
        let mut text = self.said.text.lock().unwrap();
        loop {
            if let Some(found) = text.0.lines().find_map(&find) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !text.1 && !left.is_zero(),
                "waited in vain; it said\n{}",
                text.0
            );
            text = self.said.changed.wait_timeout(text, left).unwrap().0;
        }
    }

    /// The address that clients pull from.
    #[track_caller]
    pub(crate) fn address(&self) -> SocketAddr {
        self.await_line(|line| {
            after(line, "listening on ").or_else(|| after(line, "\"listen\":\""))
        })
    }

    /// The address of health and administration.
    #[track_caller]
    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.await_line(|line| after(line, "admin      http://"))
    }

    /// All that it has said, once it has said the last line of its announcement.
    pub(crate) fn said(&self) -> String {
        self.await_line(|line| {
            line.contains("an address that they can reach")
                .then_some(())
        });
        self.said.text.lock().unwrap().0.clone()
    }

    /// Waits until it refuses connections.
    #[track_caller]
    pub(crate) fn await_refusal(&self) {
        let address = self.address();
        await_that("connections are refused", || {
            TcpStream::connect(address).is_err()
        });
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it as a service manager does.
    #[track_caller]
    pub(crate) fn stop(self) -> ExitStatus {
        self.stop_and_say().0
    }

    /// The same, with all that it said.
    #[track_caller]
    pub(crate) fn stop_and_say(self) -> (ExitStatus, String) {
        self.signal(Signal::TERM);
        self.wait_and_say()
    }

    /// Waits until it ends, with all that it said.
    #[track_caller]
    pub(crate) fn wait_and_say(mut self) -> (ExitStatus, String) {
        let mut status = None;
        await_that("it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        self.reader.take().unwrap().join().unwrap();
        let said = self.said.text.lock().unwrap().0.clone();
        (status.unwrap(), said)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT_MAX;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(LOOK_INTERVAL);
    }
}

fn after(line: &str, title: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(title)?;
    let end = rest.find(|c: char| c.is_whitespace() || c == '"');
    rest[..end.unwrap_or(rest.len())].parse().ok()
}
