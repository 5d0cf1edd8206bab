//! What stands around registries: nginx as their content delivery network, and tinyproxy as the
//! only way to them. Both are told where to listen, and cannot tell where they do: so each gets an
//! address of the loopback network that nothing else of this machine has.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use registry_server::testing::FixtureTls;

use crate::origin::write_tls;
use crate::workshop::{Process, Workshop, command, with_hosts};

pub(crate) const NGINX: &str = "nginx";
pub(crate) const TINYPROXY: &str = "tinyproxy";

/// Below the ports that are given out for the asking.
const FIRST_PORT: u16 = 20_000;

/// Addresses of 127.0.0.0/8 that this process alone uses: three, as process ids have 22 bits at the
/// most, and as 127.255.255.255 is nobody's.
pub(crate) fn own_addresses() -> [Ipv4Addr; 3] {
    let [_, a, b, c] = (std::process::id() << 2).to_be_bytes();
    [0, 1, 2].map(|number| Ipv4Addr::new(127, a, b, c | number))
}

/// The address of nginx and tinyproxy.
pub(crate) fn own_address() -> Ipv4Addr {
    own_addresses()[0]
}

fn own_socket_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(FIRST_PORT);
    (own_address(), NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

/// nginx, serving a folder over HTTPS to whoever sends no `Authorization`, as storage behind
/// presigned URLs does: two ways to authenticate are one too many for it.
pub(crate) struct Nginx {
    pub(crate) address: SocketAddr,
    log: PathBuf,
    process: Process,
}

/// A line of its log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) method: String,
    pub(crate) status: u16,
    /// The `Authorization` that the request carried.
    pub(crate) authorization: Option<String>,
}

impl Nginx {
    /// A certificate is good for the server if it was made for [`own_address`].
    #[track_caller]
    pub(crate) fn start(workshop: &Workshop, root: &Path, tls: &FixtureTls) -> Self {
        let folder = workshop.create_folder("nginx");
        let address = own_socket_address();
        let paths = write_tls(&folder, tls);
        let log = folder.join("access.log");
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {:?};\n", folder.join(kind)))
            .concat();
        let text = format!(
            "daemon off;\nmaster_process off;\nuser root;\nerror_log stderr notice;\n\
             pid {pid:?};\nevents {{}}\nhttp {{\n{temporary}\
             log_format who '$request_method $status \"$http_authorization\"';\n\
             server {{\nlisten {address} ssl;\nssl_certificate {cert:?};\n\
             ssl_certificate_key {key:?};\naccess_log {log:?} who;\nroot {root:?};\n\
             if ($http_authorization) {{ return 400; }}\n}}\n}}\n",
            pid = folder.join("pid"),
            cert = paths.cert,
            key = paths.key,
        );
        let configuration = folder.join("nginx.conf");
        fs::write(&configuration, text).expect("write nginx.conf");
        let mut nginx = command(NGINX);
        nginx.arg("-p").arg(&folder).arg("-c").arg(configuration);
        nginx.args(["-e", "stderr"]);
        let mut process = workshop.spawn("nginx", nginx);
        process.await_listening(address);
        Self {
            address,
            log,
            process,
        }
    }

    /// `https://127.0.0.1:PORT`
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// What it was asked so far. A line is written when its answer has been sent, so what the last
    /// few requests say may be missing, unless it was [stopped](Self::stop).
    fn deliveries(log: &Path) -> Vec<Delivery> {
        let text = fs::read_to_string(log).expect("nginx writes its log");
        text.lines()
            .map(|line| parse_delivery(line).unwrap_or_else(|| panic!("nginx's log: {line}")))
            .collect()
    }

    /// Stops it, and returns all that it was asked.
    pub(crate) fn stop(self) -> Vec<Delivery> {
        self.process.stop();
        Self::deliveries(&self.log)
    }
}

/// `GET 200 "-"`
fn parse_delivery(line: &str) -> Option<Delivery> {
    let (request, rest) = line.split_once(" \"")?;
    let (method, status) = request.split_once(' ')?;
    let authorization = rest.strip_suffix('"')?;
    Some(Delivery {
        method: method.to_owned(),
        status: status.parse().ok()?,
        authorization: (authorization != "-").then(|| authorization.to_owned()),
    })
}

/// tinyproxy. What it connects to sees [`own_address`] at the other end.
pub(crate) struct Tinyproxy {
    pub(crate) address: SocketAddr,
    process: Process,
}

impl Tinyproxy {
    /// Who may use it: name and password.
    pub(crate) const ACCOUNT: (&str, &str) = ("mirror", "prox-62e0d4");

    /// Starts one that wants to know who asks.
    #[track_caller]
    pub(crate) fn start(workshop: &Workshop) -> Self {
        let (username, password) = Self::ACCOUNT;
        let account = format!("BasicAuth {username} {password}\n");
        let hosts = Path::new("/etc/hosts");
        Self::start_with(workshop, own_socket_address(), hosts, &account)
    }

    /// One at an address of the caller's choice, with the names of this file, open to all.
    #[track_caller]
    pub(crate) fn start_open(workshop: &Workshop, address: SocketAddr, hosts: &Path) -> Self {
        Self::start_with(workshop, address, hosts, "")
    }

    #[track_caller]
    fn start_with(workshop: &Workshop, address: SocketAddr, hosts: &Path, settings: &str) -> Self {
        let folder = workshop.create_folder("tinyproxy");
        let text = format!(
            "User root\nGroup root\nListen {ip}\nPort {port}\nBind {ip}\nAllow 127.0.0.0/8\n\
             LogLevel Connect\nMaxClients 64\nTimeout 60\n{settings}",
            ip = address.ip(),
            port = address.port(),
        );
        let configuration = folder.join("tinyproxy.conf");
        fs::write(&configuration, text).expect("write tinyproxy.conf");
        let mut tinyproxy = with_hosts(hosts, TINYPROXY);
        tinyproxy.arg("-d").arg("-c").arg(configuration);
        let mut process = workshop.spawn("tinyproxy", tinyproxy);
        process.await_listening(address);
        Self { address, process }
    }

    /// `http://NAME:PASSWORD@127.0.0.1:PORT`
    pub(crate) fn url(&self) -> String {
        let (username, password) = Self::ACCOUNT;
        format!("http://{username}:{password}@{}", self.address)
    }

    /// The other end of its connections.
    pub(crate) fn outgoing_ip(&self) -> IpAddr {
        self.address.ip()
    }

    /// What it was asked for, as the first lines of requests: `CONNECT host:443 HTTP/1.1`.
    pub(crate) fn requests(&self) -> Vec<String> {
        let output = self.process.output();
        let lines = output.lines().filter_map(|line| {
            // `CONNECT   Nov 22 00:39:04.123 [7]: Request (file descriptor 4): GET http://…`
            let (_, request) = line.split_once("Request (file descriptor ")?;
            let (_, request) = request.split_once("): ")?;
            Some(request.to_owned())
        });
        lines.collect()
    }

    pub(crate) fn stop(self) {
        self.process.stop();
    }
}
