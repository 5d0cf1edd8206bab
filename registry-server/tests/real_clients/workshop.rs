//! A folder for one test, and the programs that run in it.
//!
//! Every program started here is in a process group of its own, dies with the thread that started
//! it, and writes its output to files that are shown when the test fails. [`Workshop::close`]
//! proves that none of it is left. This module knows no program by name.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

/// How long a program may take to say that it serves. Generous: CI machines are slow and shared.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long a command that ends by itself may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
/// How long a program may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Processes of another program tell nobody when they change state, so they are asked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How much of the end of an output file is shown when a test fails.
const LOG_TAIL_BYTES: usize = 8 * 1024;

/// Gives a program a private view of the folders that container tools cannot be told to leave
/// alone (`/run/docker`, `/var/lib/containers/cache`, `/etc/docker/key.json`), and keeps its mounts
/// to itself: they end with it.
const SANDBOX: &str = r#"
for folder in /run /var/lib /etc/docker; do
    if [ -d "$folder" ]; then mount -t tmpfs tmpfs "$folder" || exit 1; fi
done
exec "$0" "$@"
"#;

/// The program's command line, such that it is killed when this test's thread ends.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// The same in a mount namespace of its own; needs root.
pub(crate) fn sandboxed(program: impl AsRef<OsStr>) -> Command {
    let mut command = command("unshare");
    command
        .args(["--mount", "--propagation", "private", "--"])
        .args(["sh", "-c", SANDBOX])
        .arg(program);
    command
}

/// Gives a program the names of another hosts file: `$0` of this script.
const WITH_HOSTS: &str = r#"mount --bind "$0" /etc/hosts && exec "$@""#;

/// The program's command line, such that it finds hosts by their names in this file; sandboxed.
pub(crate) fn with_hosts(hosts: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut command = sandboxed("sh");
    command.args(["-c", WITH_HOSTS]).arg(hosts).arg(program);
    command
}

/// A network without any other machine, and without a way to one: nothing but a loopback.
pub(crate) struct NoNetwork {
    path: String,
    // Held for its end: the network is there as long as a process is in it.
    _holder: Process,
}

impl NoNetwork {
    #[track_caller]
    pub(crate) fn create(workshop: &Workshop) -> Self {
        let mut holder = command("unshare");
        holder.args(["--net", "--", "sh", "-c"]);
        holder.arg("ip link set lo up && echo up && exec sleep infinity");
        let mut holder = workshop.spawn("no-network", holder);
        holder.await_ready(|output| output.contains("up").then_some(()));
        let network = Self {
            path: format!("/proc/{}/ns/net", holder.child.id()),
            _holder: holder,
        };
        let mut routes = Command::new("ip");
        routes.args(["route", "show"]);
        let routes = workshop.run_for_text("routes", network.within(routes));
        assert_eq!(routes, "", "there is no way out of it");
        network
    }

    /// The same command, run in this network.
    pub(crate) fn within(&self, command: Command) -> Command {
        let mut within = Command::new("nsenter");
        within.arg(format!("--net={}", self.path)).arg("--");
        within.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => within.env(name, value),
                None => within.env_remove(name),
            };
        }
        within
    }
}

/// The folder of one test.
pub(crate) struct Workshop {
    folder: TempDir,
    started: AtomicUsize,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        // A short name: the path of a Unix socket in it has to stay under 108 bytes.
        let folder = tempfile::Builder::new()
            .prefix("rc-")
            .tempdir()
            .expect("create the test's folder");
        Self {
            folder,
            started: AtomicUsize::new(0),
        }
    }

    /// The path of `name` in the folder; nothing is created.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new, empty folder.
    #[track_caller]
    pub(crate) fn create_folder(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("inside the test's folder")).expect("create");
        fs::create_dir(&path).expect("create a folder that does not exist yet");
        path
    }

    /// Starts a program that goes on running.
    #[track_caller]
    pub(crate) fn spawn(&self, name: &str, mut command: Command) -> Process {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let stdout = self.path(format!("{number:03}-{name}.stdout"));
        let stderr = self.path(format!("{number:03}-{name}.stderr"));
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).expect("create an output file"))
            .stderr(File::create(&stderr).expect("create an output file"))
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Process {
            name: name.to_owned(),
            child,
            stdout,
            stderr,
        }
    }

    /// Runs a command to its end and returns its standard output; panics if it fails.
    #[track_caller]
    pub(crate) fn run(&self, name: &str, command: Command) -> Vec<u8> {
        let line = describe(&command);
        let mut process = self.spawn(name, command);
        let Some(status) = process.wait(COMMAND_LIMIT) else {
            panic!("{line}: still running after {COMMAND_LIMIT:?}");
        };
        assert!(status.success(), "{line}: {status}\n{}", process.output());
        fs::read(&process.stdout).expect("read an output file")
    }

    /// The same for text; surrounding white space is cut off.
    #[track_caller]
    pub(crate) fn run_for_text(&self, name: &str, command: Command) -> String {
        let stdout = self.run(name, command);
        let text = String::from_utf8(stdout).expect("the command prints UTF-8");
        text.trim().to_owned()
    }

    /// Removes the folder; panics where a process, a mount or a socket of the test is left.
    pub(crate) fn close(self) {
        let folder = self.folder.path().to_str().expect("a UTF-8 path");
        let left = poll(STOP_LIMIT, || traces_of(folder).is_empty().then_some(()));
        if left.is_none() {
            panic!("left behind:\n{}", traces_of(folder));
        }
        self.folder.close().expect("remove the test's folder");
    }
}

/// What of the kernel's tables names `folder`: processes, mounts and Unix sockets.
fn traces_of(folder: &str) -> String {
    let mut traces = String::new();
    for process in fs::read_dir("/proc").expect("list /proc").flatten() {
        // A process may end at any moment, so what cannot be read is gone.
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(folder) {
            let pid = process.file_name();
            writeln!(traces, "process {}: {command}", pid.display()).expect("write to a String");
        }
    }
    for table in ["/proc/self/mountinfo", "/proc/net/unix"] {
        let rows = fs::read_to_string(table).expect("read a table of the kernel");
        for row in rows.lines().filter(|row| row.contains(folder)) {
            writeln!(traces, "{table}: {row}").expect("write to a String");
        }
    }
    traces
}

/// The command as one would type it, without what this module puts before it.
fn describe(command: &Command) -> String {
    let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    let own = words
        .iter()
        .rposition(|word| *word == SANDBOX || *word == "--");
    words[own.map_or(0, |last| last + 1)..].join(" ")
}

/// Asks `probe` until it answers or `limit` has passed.
pub(crate) fn poll<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = probe() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// The end of an output file under a line with its name, for people.
fn tail_of(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let start = text.ceil_char_boundary(text.len().saturating_sub(LOG_TAIL_BYTES));
    format!("---- {} ----\n{}\n", path.display(), &text[start..])
}

/// A running program. Dropped, it is killed with all that it started.
pub(crate) struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Waits until `probe` finds what it looks for in the output so far; panics if the program ends
    /// before that, or takes too long.
    #[track_caller]
    pub(crate) fn await_ready<T>(&mut self, mut probe: impl FnMut(&str) -> Option<T>) -> T {
        let found = poll(READY_LIMIT, || match probe(&self.output()) {
            Some(found) => Some(Ok(found)),
            None => self.try_wait().map(Err),
        });
        match found {
            Some(Ok(found)) => found,
            Some(Err(status)) => panic!("{} ended before it was ready: {status}", self.name),
            None => panic!("{} is not ready after {READY_LIMIT:?}", self.name),
        }
    }

    /// Waits until the program accepts connections at an address that nothing else listens on.
    #[track_caller]
    pub(crate) fn await_listening(&mut self, address: SocketAddr) {
        self.await_ready(|_| TcpStream::connect(address).ok());
    }

    /// Standard output, then standard error, as far as written.
    pub(crate) fn output(&self) -> String {
        [&self.stdout, &self.stderr]
            .map(|path| fs::read(path).unwrap_or_default())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .concat()
    }

    /// Ends the program with SIGTERM and returns how it ended; panics if it does not.
    #[track_caller]
    pub(crate) fn stop(mut self) -> ExitStatus {
        // An error means that it has ended already; its status tells the rest.
        let _ = kill_process(self.pid(), Signal::TERM);
        match self.wait(STOP_LIMIT) {
            Some(status) => status,
            None => panic!("{} still runs {STOP_LIMIT:?} after SIGTERM", self.name),
        }
    }

    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        poll(limit, || self.try_wait())
    }

    fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("ask for a child's status")
    }

    fn pid(&self) -> Pid {
        let id = i32::try_from(self.child.id()).expect("process ids are positive i32");
        Pid::from_raw(id).expect("a child's id is not zero")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The group may outlive its leader, and then is named by the leader's id still.
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
        if thread::panicking() {
            for path in [&self.stdout, &self.stderr] {
                let _ = std::io::stderr().write_all(tail_of(path).as_bytes());
            }
        }
    }
}
