//! A real registry, Debian's `docker-registry`, and what it was asked for.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use registry_server::testing::FixtureTls;

use crate::image::Image;
use crate::workshop::{Process, Workshop, command, sandboxed};

/// One request in an origin's access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Who sent it: the other end of its connection.
    pub(crate) from: IpAddr,
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    pub(crate) status: u16,
}

impl Request {
    /// The digest, where it is a blob's address.
    pub(crate) fn blob(&self) -> Option<&str> {
        self.path.split_once("/blobs/").map(|(_, digest)| digest)
    }

    /// The tag, where it is the address of a manifest by tag.
    pub(crate) fn tag(&self) -> Option<&str> {
        let (_, reference) = self.path.split_once("/manifests/")?;
        (!reference.contains(':')).then_some(reference)
    }
}

/// How an origin differs from the usual one: plain HTTP, open to all, with content of its own.
#[derive(Default)]
pub(crate) struct OriginOptions<'a> {
    /// Where it listens; none for a free port of 127.0.0.1.
    pub(crate) address: Option<SocketAddr>,
    /// Speak HTTPS, with this certificate.
    pub(crate) tls: Option<&'a FixtureTls>,
    /// Ask for credentials: the section `auth` of its configuration, in YAML.
    pub(crate) auth: Option<String>,
    /// Who may push: name and password.
    pub(crate) publisher: Option<(&'a str, &'a str)>,
    /// Redirect blobs to this URL, which has to serve the folder [`storage`](Self::storage).
    pub(crate) cdn: Option<String>,
    /// Where its content is kept; none for a folder of its own.
    pub(crate) storage: Option<PathBuf>,
    /// Pull everything through from this registry.
    pub(crate) remote: Option<String>,
}

impl OriginOptions<'_> {
    /// The configuration file, in YAML.
    fn configuration(&self, folder: &Path) -> String {
        let own = folder.join("storage");
        let storage = self.storage.as_ref().unwrap_or(&own);
        let mut text = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: false}}}}\n\
             storage: {{filesystem: {{rootdirectory: {storage:?}}}}}\n"
        );
        let tls = self.tls.map(|tls| {
            let paths = write_tls(folder, tls);
            format!(
                ", tls: {{certificate: {:?}, key: {:?}}}",
                paths.cert, paths.key
            )
        });
        let tls = tls.unwrap_or_default();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let address = self.address.unwrap_or(any);
        text.push_str(&format!("http: {{addr: \"{address}\"{tls}}}\n"));
        if let Some(auth) = &self.auth {
            text.push_str(&format!("auth: {auth}\n"));
        }
        if let Some(url) = &self.cdn {
            let options = format!("[{{name: redirect, options: {{baseurl: {url:?}}}}}]");
            text.push_str(&format!("middleware: {{storage: {options}}}\n"));
        }
        if let Some(url) = &self.remote {
            text.push_str(&format!("proxy: {{remoteurl: {url:?}}}\n"));
        }
        text
    }
}

/// A server's certificate and its key, in files.
pub(crate) struct TlsPaths {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

pub(crate) fn write_tls(folder: &Path, tls: &FixtureTls) -> TlsPaths {
    let paths = TlsPaths {
        cert: folder.join("cert.pem"),
        key: folder.join("key.pem"),
    };
    fs::write(&paths.cert, &tls.server_cert_pem).expect("write a certificate");
    fs::write(&paths.key, &tls.server_key_pem).expect("write a key");
    paths
}

/// A registry on a free port of the loopback.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    is_https: bool,
    credentials: Option<String>,
    process: Process,
}

impl Origin {
    #[track_caller]
    pub(crate) fn start(workshop: &Workshop, name: &str) -> Self {
        Self::start_with(workshop, name, &OriginOptions::default())
    }

    #[track_caller]
    pub(crate) fn start_with(workshop: &Workshop, name: &str, options: &OriginOptions<'_>) -> Self {
        let folder = workshop.create_folder(name);
        let configuration = folder.join("config.yml");
        let text = options.configuration(&folder);
        fs::write(&configuration, text).expect("write the origin's configuration");
        let mut registry = command("docker-registry");
        registry.arg("serve").arg(configuration);
        let mut process = workshop.spawn(name, registry);
        let address = process.await_ready(|output| {
            let (_, rest) = output.split_once("listening on ")?;
            // With `, tls` behind it, where that is what it speaks.
            let (address, _) = rest.split_once(['"', ','])?;
            Some(address.parse().expect("docker-registry prints its address"))
        });
        let publisher = options.publisher;
        Self {
            address,
            is_https: options.tls.is_some(),
            credentials: publisher.map(|(name, password)| format!("{name}:{password}")),
            process,
        }
    }

    /// `http://127.0.0.1:PORT`, or `https://`.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.is_https { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Publishes `image` with all its platforms.
    #[track_caller]
    pub(crate) fn push(&self, workshop: &Workshop, image: &Image, repository: &str, tag: &str) {
        let mut skopeo = sandboxed("skopeo");
        skopeo
            .args(["copy", "--quiet", "--all", "--dest-tls-verify=false"])
            .args(self.credentials.iter().flat_map(|c| ["--dest-creds", c]))
            .arg(format!("oci:{}", image.layout.display()))
            .arg(format!("docker://{}/{repository}:{tag}", self.address));
        workshop.run("skopeo-push", skopeo);
    }

    /// Every request so far, oldest first.
    ///
    /// An origin logs a request after it has answered it. A request of our own, awaited in the log,
    /// stands behind all that were answered before.
    #[track_caller]
    pub(crate) fn requests(&mut self, workshop: &Workshop) -> Vec<Request> {
        let before = self.logged().len();
        self.ask_for_mark(workshop);
        self.process.await_ready(|output| {
            let requests = parse_log(output);
            let answered = requests[before..].iter().any(is_mark);
            answered.then(|| {
                requests
                    .into_iter()
                    .filter(|request| !is_mark(request))
                    .collect()
            })
        })
    }

    /// Stops the registry; its port refuses connections from then on.
    pub(crate) fn stop(self) {
        self.process.stop();
    }

    fn logged(&self) -> Vec<Request> {
        parse_log(&self.process.output())
    }

    fn ask_for_mark(&self, workshop: &Workshop) {
        let mut curl = command("curl");
        curl.args(["--silent", "--show-error", "--insecure", "--noproxy", "*"]);
        curl.arg(format!("{}{MARK_PATH}", self.url()));
        workshop.run("curl", curl);
    }
}

const MARK_PATH: &str = "/all-before-this-was-logged";

fn is_mark(request: &Request) -> bool {
    request.path == MARK_PATH
}

/// The lines of the Apache combined log format; others are the program's own messages.
fn parse_log(output: &str) -> Vec<Request> {
    output.lines().filter_map(parse_line).collect()
}

/// `127.0.0.1 - - [22/Nov/2026:00:39:04 +0000] "GET /v2/ HTTP/1.1" 200 2 "" "agent"`
fn parse_line(line: &str) -> Option<Request> {
    let (from, _) = line.split_once(' ')?;
    let from = from.parse().ok()?;
    let (_, rest) = line.split_once("] \"")?;
    let (request, rest) = rest.split_once("\" ")?;
    let mut words = request.split(' ');
    let method = words.next()?.to_owned();
    let target = words.next()?;
    let path = target.split('?').next()?.to_owned();
    let status = rest.split(' ').next()?.parse().ok()?;
    Some(Request {
        from,
        method,
        path,
        status,
    })
}
