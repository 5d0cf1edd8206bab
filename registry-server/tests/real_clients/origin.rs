//! A real registry, Debian's `docker-registry`, and what it was asked for.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::image::Image;
use crate::workshop::{Process, Workshop, command, sandboxed};

/// One request in an origin's access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
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

/// A registry of its own content, plain HTTP on a free port of the loopback.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    process: Process,
}

impl Origin {
    #[track_caller]
    pub(crate) fn start(workshop: &Workshop, name: &str) -> Self {
        let folder = workshop.create_folder(name);
        let storage = folder.join("storage");
        let configuration = folder.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: false}}}}\n\
             storage: {{filesystem: {{rootdirectory: {storage:?}}}}}\n\
             http: {{addr: \"127.0.0.1:0\"}}\n"
        );
        fs::write(&configuration, text).expect("write the origin's configuration");
        let mut registry = command("docker-registry");
        registry.arg("serve").arg(configuration);
        let mut process = workshop.spawn(name, registry);
        let address = process.await_ready(|output| {
            let (_, rest) = output.split_once("listening on ")?;
            let (address, _) = rest.split_once('"')?;
            Some(address.parse().expect("docker-registry prints its address"))
        });
        Self { address, process }
    }

    /// Publishes `image` with all its platforms.
    #[track_caller]
    pub(crate) fn push(&self, workshop: &Workshop, image: &Image, repository: &str, tag: &str) {
        let mut skopeo = sandboxed("skopeo");
        skopeo
            .args(["copy", "--quiet", "--all", "--dest-tls-verify=false"])
            .arg(format!("oci:{}", image.layout.display()))
            .arg(format!("docker://{}/{repository}:{tag}", self.address));
        workshop.run("skopeo-push", skopeo);
    }

    /// Every request so far, oldest first.
    ///
    /// An origin logs a request after it has answered it. A request of our own, awaited in the log,
    /// stands behind all that were answered before.
    #[track_caller]
    pub(crate) fn requests(&mut self) -> Vec<Request> {
        let before = self.logged().len();
        self.ask_for_mark();
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

    fn ask_for_mark(&self) {
        let mut stream = TcpStream::connect(self.address).expect("the origin listens");
        let request = format!("GET {MARK_PATH} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address);
        stream
            .write_all(request.as_bytes())
            .expect("the origin reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the origin answers");
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
    let (_, rest) = line.split_once("] \"")?;
    let (request, rest) = rest.split_once("\" ")?;
    let mut words = request.split(' ');
    let method = words.next()?.to_owned();
    let target = words.next()?;
    let path = target.split('?').next()?.to_owned();
    let status = rest.split(' ').next()?.parse().ok()?;
    Some(Request {
        method,
        path,
        status,
    })
}
