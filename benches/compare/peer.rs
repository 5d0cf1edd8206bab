//! Those that are compared, each set up as strong as an honest operator would.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use registry_server::testing::FixtureTls;
use tempfile::TempDir;

use crate::Outcome;
use crate::bench::Bench;
use crate::client::Client;
use crate::origin::{Blob, UPSTREAM};
use crate::process::{Process, command, own_address};

/// Who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Mirror,
    Nginx,
    Registry,
}

impl Program {
    pub(crate) const ALL: [Self; 3] = [Self::Mirror, Self::Nginx, Self::Registry];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mirror => "mirror",
            Self::Nginx => "nginx",
            Self::Registry => "registry",
        }
    }
}

/// How it is started.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where its misses go: `http://…`.
    pub(crate) upstream: String,
    /// Whether each request is written to a log.
    pub(crate) logs_requests: bool,
    /// The certificate that it shows, where it speaks TLS.
    pub(crate) tls: Option<TlsFiles>,
    /// What it keeps, in place of a new folder.
    pub(crate) data: Option<PathBuf>,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl TlsFiles {
    pub(crate) fn write(tls: &FixtureTls, folder: &Path) -> Outcome<Self> {
        let write = |name: &str, pem: &str| -> Outcome<PathBuf> {
            let path = folder.join(name);
            fs::write(&path, pem)?;
            Ok(path)
        };
        Ok(Self {
            authority: write("ca.pem", &tls.ca_pem)?,
            certificate: write("cert.pem", &tls.server_cert_pem)?,
            key: write("key.pem", &tls.server_key_pem)?,
        })
    }
}

/// One that runs. What it keeps goes with it, unless that is the caller's.
pub(crate) struct Peer {
    pub(crate) program: Program,
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
    _folder: TempDir,
}

impl Peer {
    /// Starts it; none where it is not installed.
    pub(crate) fn start(
        bench: &Bench,
        program: Program,
        settings: &Settings,
    ) -> Outcome<Option<Self>> {
        let Some((mut process, address, folder)) = Self::spawn(bench, program, settings)? else {
            return Ok(None);
        };
        let listening = process.await_listening(address);
        listening.map_err(|error| format!("{}: {error}", program.name()))?;
        Ok(Some(Self {
            program,
            address,
            process,
            _folder: folder,
        }))
    }

    /// Starts the mirror, which is always there.
    pub(crate) fn mirror(bench: &Bench, settings: &Settings) -> Outcome<Self> {
        let mirror = Self::start(bench, Program::Mirror, settings)?;
        Ok(mirror.ok_or("the mirror was built")?)
    }

    /// Starts it, and does not wait until it listens.
    pub(crate) fn spawn(
        bench: &Bench,
        program: Program,
        settings: &Settings,
    ) -> Outcome<Option<(Process, SocketAddr, TempDir)>> {
        let Some(path) = bench.programs.path(program) else {
            return Ok(None);
        };
        let folder = tempfile::tempdir_in(bench.folder.path())?;
        let address = own_address();
        let mut command = command(path);
        let place = Place {
            folder: folder.path(),
            address,
            settings,
        };
        match program {
            Program::Mirror => command.args(place.mirror()),
            Program::Nginx => command.args(place.nginx(&bench.www)?),
            Program::Registry => command.args(place.registry()?),
        };
        let process = Process::spawn(command, folder.path().join("log"))?;
        Ok(Some((process, address, folder)))
    }

    /// The path of a blob: containerd names the registry in `ns`, and the others know none.
    pub(crate) fn blob_path(&self, blob: &Blob) -> String {
        self.path(&blob.path())
    }

    pub(crate) fn path(&self, path: &str) -> String {
        match self.program {
            Program::Mirror => format!("{path}?ns={UPSTREAM}"),
            Program::Nginx | Program::Registry => path.to_owned(),
        }
    }

    pub(crate) fn connect(&self) -> Outcome<Client> {
        Client::connect(self.address)
    }

    /// Pulls a blob until it is answered without a byte from upstream; hashes it once.
    pub(crate) fn warm(&self, bench: &Bench, blob: &Blob) -> Outcome<()> {
        let path = self.blob_path(blob);
        self.connect()?
            .get_verified(&path, blob.digest, blob.size)?;
        for _ in 0..WARMING_PULLS_MAX {
            self.process.settled_cpu()?;
            let before = bench.origin.blob_bytes_sent(&blob.digest);
            self.connect()?.get(&path, blob.size)?;
            if bench.origin.blob_bytes_sent(&blob.digest) == before {
                return Ok(());
            }
        }
        Err(format!("{} does not keep {path}", self.program.name()).into())
    }
}

/// How often a blob is pulled until it is kept.
const WARMING_PULLS_MAX: u32 = 5;

/// Where one is started.
struct Place<'a> {
    folder: &'a Path,
    address: SocketAddr,
    settings: &'a Settings,
}

impl Place<'_> {
    fn data(&self) -> PathBuf {
        let data = self.settings.data.clone();
        data.unwrap_or_else(|| self.folder.join("data"))
    }

    fn mirror(&self) -> Vec<String> {
        let data = self.data();
        let log = match self.settings.logs_requests {
            true => "info",
            false => "info,access=off",
        };
        let mut arguments = vec![
            "serve".to_owned(),
            format!("--listen={}", self.address),
            format!("--admin-listen={}", own_address()),
            format!("--data-dir={}", data.display()),
            format!("--upstream={UPSTREAM}={}", self.settings.upstream),
            format!("--default-upstream={UPSTREAM}"),
            "--tag-ttl=1h".to_owned(),
            "--reserve=1GiB".to_owned(),
            format!("--log={log}"),
        ];
        if let Some(tls) = &self.settings.tls {
            arguments.push(format!("--tls-cert-file={}", tls.certificate.display()));
            arguments.push(format!("--tls-key-file={}", tls.key.display()));
        }
        arguments
    }

    /// A worker for each core, `sendfile`, and no request that ends a connection or opens a file
    /// again.
    fn nginx(&self, www: &Path) -> Outcome<Vec<String>> {
        let folder = self.folder;
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {:?};\n", folder.join(kind)))
            .concat();
        let access_log = match self.settings.logs_requests {
            true => format!("{:?}", folder.join("access.log")),
            false => "off".to_owned(),
        };
        let (ssl, certificate) = match &self.settings.tls {
            None => ("", String::new()),
            Some(tls) => (
                " ssl http2",
                format!(
                    "ssl_certificate {:?};\nssl_certificate_key {:?};\n\
                     ssl_protocols TLSv1.2 TLSv1.3;\n",
                    tls.certificate, tls.key
                ),
            ),
        };
        // Who is not root cannot give workers another user, and need not.
        let user = match rustix::process::getuid().is_root() {
            true => "user root;\n",
            false => "",
        };
        let text = format!(
            "daemon off;\n{user}worker_processes {workers};\nworker_rlimit_nofile 4096;\n\
             error_log stderr error;\npid {pid:?};\nevents {{ worker_connections 2048; }}\n\
             http {{\n{temporary}access_log {access_log};\nsendfile on;\ntcp_nopush on;\n\
             tcp_nodelay on;\nopen_file_cache max=10000 inactive=1h;\nopen_file_cache_valid 1h;\n\
             keepalive_requests 1000000000;\nkeepalive_timeout 1h;\nsend_timeout 1h;\n\
             default_type application/octet-stream;\n\
             server {{\nlisten {address}{ssl};\n{certificate}root {www:?};\n}}\n}}\n",
            workers = available_parallelism()?,
            pid = folder.join("pid"),
            address = self.address,
        );
        let configuration = folder.join("nginx.conf");
        fs::write(&configuration, text)?;
        let [folder, configuration] =
            [folder, &configuration].map(|path| path.display().to_string());
        let arguments = ["-p", &folder, "-c", &configuration, "-e", "stderr"];
        Ok(arguments.map(str::to_owned).to_vec())
    }

    /// As a pull-through cache, with descriptors in memory and without a log of requests.
    fn registry(&self) -> Outcome<Vec<String>> {
        let tls = self.settings.tls.as_ref().map_or(String::new(), |tls| {
            format!(
                "  tls:\n    certificate: {:?}\n    key: {:?}\n",
                tls.certificate, tls.key
            )
        });
        let text = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: {silent}\n\
             storage:\n  filesystem:\n    rootdirectory: {data:?}\n  cache:\n    \
             blobdescriptor: inmemory\nhttp:\n  addr: {address}\n{tls}proxy:\n  remoteurl: {upstream}\n",
            silent = !self.settings.logs_requests,
            data = self.data(),
            address = self.address,
            upstream = self.settings.upstream,
        );
        let configuration = self.folder.join("registry.yml");
        fs::write(&configuration, text)?;
        Ok(vec![
            "serve".to_owned(),
            configuration.display().to_string(),
        ])
    }
}
