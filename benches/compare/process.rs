//! Programs that are measured: each a process of its own, with all that it starts. They end with
//! the value that stands for them.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use procfs::process::{Process as Proc, Status, all_processes};
use rustix::process::{Pid, Signal, kill_process};

use crate::Outcome;

/// Below the ports that are given out for the asking.
const FIRST_PORT: u16 = 21_000;
/// How long a program may take until it listens, and until it has ended.
const START_MAX: Duration = Duration::from_secs(30);
const STOP_MAX: Duration = Duration::from_secs(40);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Without more time of the processors than this, for so long, a process rests.
const REST: Duration = Duration::from_millis(400);
const REST_CPU_MAX: Duration = Duration::from_millis(15);
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// Of a program's own words, what is told when it fails.
const TOLD_BYTES_MAX: usize = 2_000;

/// An address of the loopback network that nothing else of this machine uses: some programs cannot
/// be asked which port they were given.
pub(crate) fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(FIRST_PORT);
    (own_ip(), NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

/// Process ids have 22 bits at the most.
pub(crate) fn own_ip() -> Ipv4Addr {
    let [_, a, b, c] = (std::process::id() << 2).to_be_bytes();
    Ipv4Addr::new(127, a, b, c | 1)
}

/// A command that sees nothing of the caller's environment but where programs are.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.stdin(Stdio::null());
    command
}

/// A program that runs.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// What it says goes to the file `log`.
    pub(crate) fn spawn(mut command: Command, log: PathBuf) -> Outcome<Self> {
        let file = File::create(&log)?;
        command.stdout(file.try_clone()?).stderr(file);
        let child = command
            .spawn()
            .map_err(|error| format!("cannot run {command:?}: {error}"))?;
        Ok(Self { child, log })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it takes connections.
    pub(crate) fn await_listening(&mut self, address: SocketAddr) -> Outcome<()> {
        let deadline = Instant::now() + START_MAX;
        while TcpStream::connect(address).is_err() {
            self.look(deadline)?;
            sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Fails where it has ended, or the time is up.
    pub(crate) fn look(&mut self, deadline: Instant) -> Outcome<()> {
        if let Some(status) = self.child.try_wait()? {
            return Err(format!("it ended with {status}: {}", self.said()).into());
        }
        if Instant::now() >= deadline {
            return Err(format!("it does not listen: {}", self.said()).into());
        }
        Ok(())
    }

    /// The end of what it said.
    fn said(&self) -> String {
        let said = fs::read(&self.log).unwrap_or_default();
        let from = said.len().saturating_sub(TOLD_BYTES_MAX);
        String::from_utf8_lossy(&said[from..]).into_owned()
    }

    /// It and all that it started.
    fn tree(&self) -> Vec<Proc> {
        let root = self.id().cast_signed();
        let is_of_it = |process: &Proc| {
            process.pid == root || process.stat().is_ok_and(|stat| stat.ppid == root)
        };
        let all = all_processes().into_iter().flatten().flatten();
        all.filter(is_of_it).collect()
    }

    /// The processors' time that it has taken so far, of all threads, in user and in system.
    pub(crate) fn cpu(&self) -> Duration {
        let ticks = self.tree().into_iter().filter_map(|process| {
            let stat = process.stat().ok()?;
            Some(stat.utime + stat.stime)
        });
        Duration::from_secs_f64(ticks.sum::<u64>() as f64 / procfs::ticks_per_second() as f64)
    }

    /// The same, once it rests: what it does behind an answer's end is a part of what that costs.
    pub(crate) fn settled_cpu(&self) -> Outcome<Duration> {
        let deadline = Instant::now() + SETTLE_MAX;
        let mut before = self.cpu();
        while Instant::now() < deadline {
            sleep(REST);
            let now = self.cpu();
            if now - before <= REST_CPU_MAX {
                return Ok(now);
            }
            before = now;
        }
        Err(format!("it is still at work after {SETTLE_MAX:?}").into())
    }

    /// The most bytes that were resident: of it and all that it started, added up.
    pub(crate) fn peak_bytes(&self) -> u64 {
        let peak = |status: Status| status.vmhwm;
        let kib = self
            .tree()
            .into_iter()
            .filter_map(|process| peak(process.status().ok()?));
        kib.sum::<u64>() << 10
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(mut self) -> Outcome<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let deadline = Instant::now() + STOP_MAX;
        while self.child.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                return Err(format!("it does not stop: {}", self.said()).into());
            }
            sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let tree = self.tree();
        // First the one that would start the others again. What is gone needs no killing.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for process in tree {
            if let Some(pid) = Pid::from_raw(process.pid)
                && process.pid != self.id().cast_signed()
            {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}
