//! The program under test, as a user starts it.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use registry_server::front::TlsFiles;

use crate::workshop::{NoNetwork, Process, Workshop, command, with_hosts};

/// Names another binary to test: a release build, or one out of a package.
const BINARY_VARIABLE: &str = "REAL_CLIENTS_BINARY";

/// On any free ports.
const SERVE: [&str; 5] = [
    "serve",
    "--listen",
    "127.0.0.1:0",
    "--admin-listen",
    "127.0.0.1:0",
];

/// How to start a mirror; each start finds what the one before stored.
pub(crate) struct MirrorOptions {
    pub(crate) data: PathBuf,
    pub(crate) upstreams: Vec<(&'static str, SocketAddr)>,
    /// Where it finds its certificate, if it speaks TLS.
    pub(crate) tls: Option<TlsFiles>,
}

/// How to start a mirror by a file of its configuration, in a network of the test's making.
pub(crate) struct ConfiguredMirror<'a> {
    pub(crate) data: PathBuf,
    pub(crate) configuration: &'a Path,
    /// In place of `/etc/hosts`.
    pub(crate) hosts: &'a Path,
    /// The authority to trust, in place of the system's.
    pub(crate) ca_file: &'a Path,
}

/// A running mirror.
pub(crate) struct Mirror {
    pub(crate) address: SocketAddr,
    /// The address of its administration.
    pub(crate) admin: SocketAddr,
    process: Process,
}

impl Mirror {
    #[track_caller]
    pub(crate) fn start(workshop: &Workshop, options: &MirrorOptions) -> Self {
        let mut mirror = command(binary());
        mirror.args(SERVE).arg("--data-dir").arg(&options.data);
        for (name, address) in &options.upstreams {
            mirror.args(["--upstream", &format!("{name}=http://{address}")]);
        }
        if let Some(tls) = &options.tls {
            mirror.arg("--tls-cert-file").arg(&tls.cert_file);
            mirror.arg("--tls-key-file").arg(&tls.key_file);
        }
        Self::spawn(workshop, mirror)
    }

    #[track_caller]
    pub(crate) fn start_configured(workshop: &Workshop, options: &ConfiguredMirror<'_>) -> Self {
        let mut mirror = with_hosts(options.hosts, binary());
        mirror.args(SERVE);
        mirror.arg("--data-dir").arg(&options.data);
        mirror.arg("--config").arg(options.configuration);
        mirror.env("SSL_CERT_FILE", options.ca_file);
        Self::spawn(workshop, mirror)
    }

    /// One that no network reaches, and that knows the public registries only.
    #[track_caller]
    pub(crate) fn start_within(workshop: &Workshop, network: &NoNetwork, data: &Path) -> Self {
        let mut mirror = command(binary());
        mirror.args(SERVE).arg("--data-dir").arg(data);
        Self::spawn(workshop, network.within(mirror))
    }

    #[track_caller]
    fn spawn(workshop: &Workshop, mirror: Command) -> Self {
        let mut process = workshop.spawn("mirror", mirror);
        let address = process.await_ready(listen_address);
        let admin = process.await_ready(admin_address);
        Self {
            address,
            admin,
            process,
        }
    }

    /// Where it tells of itself.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        let output = self.process.output();
        let (_, rest) = output
            .split_once("  admin      http://")
            .expect("the mirror prints it");
        let address = rest.lines().next().expect("a line");
        address
            .trim()
            .parse()
            .expect("the mirror prints its address")
    }

    /// What it printed and logged so far.
    pub(crate) fn output(&self) -> String {
        self.process.output()
    }

    /// Ends it with SIGTERM, as a service manager does; panics where that is not a success.
    #[track_caller]
    pub(crate) fn stop(self) {
        let status = self.process.stop();
        assert!(status.success(), "the mirror ended with {status}");
    }
}

/// The program with other arguments: its command line.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut program = command(binary());
    program.args(arguments);
    program
}

fn binary() -> OsString {
    let chosen = std::env::var_os(BINARY_VARIABLE);
    chosen.unwrap_or_else(|| env!("CARGO_BIN_EXE_registry-server").into())
}

/// The address in the line `admin      http://127.0.0.1:5001`.
fn admin_address(output: &str) -> Option<SocketAddr> {
    let (_, rest) = output.split_once("admin      http://")?;
    let (address, _) = rest.split_once('\n')?;
    Some(address.parse().expect("the mirror prints its address"))
}

/// The address in the line `registry-server 0.1.0, listening on 127.0.0.1:5000, with TLS`.
fn listen_address(output: &str) -> Option<SocketAddr> {
    let (_, rest) = output.split_once(", listening on ")?;
    let (line, _) = rest.split_once('\n')?;
    let address = line.strip_suffix(", with TLS").unwrap_or(line);
    Some(address.parse().expect("the mirror prints its address"))
}
