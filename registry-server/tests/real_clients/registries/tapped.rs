//! The mirror in this process, started from a configuration file as the binary is: every request
//! that leaves it can be read.

use std::fs;
use std::net::SocketAddr;

use http::Method;
use registry_server::Mirror;
use registry_server::config::{Config, Flags};
use registry_server::testing::{Outgoing, OutgoingLog};
use tokio::runtime::Runtime;

use crate::workshop::Workshop;

/// See the module.
pub(crate) struct TappedMirror {
    pub(crate) address: SocketAddr,
    /// All that left so far.
    pub(crate) log: OutgoingLog,
    mirror: Mirror,
}

impl TappedMirror {
    /// Starts a mirror with the upstreams of `configuration`, which is a file's text.
    #[track_caller]
    pub(crate) fn start(
        runtime: &Runtime,
        workshop: &Workshop,
        name: &str,
        configuration: &str,
    ) -> Self {
        let file = workshop.path(format!("{name}.toml"));
        fs::write(&file, configuration).expect("write the mirror's configuration");
        let variable = |name: &str| (name == "REGISTRY_CONFIG").then(|| file.clone().into());
        let config = Config::load(Flags::default(), variable);
        let config = config.unwrap_or_else(|errors| panic!("{errors}\nin:\n{configuration}"));
        let log = OutgoingLog::default();
        let mut builder = Mirror::builder()
            .data_dir(workshop.path(format!("{name}-data")))
            .default_upstream(config.default_upstream.as_str())
            .tag_ttl(config.tag_ttl)
            .outgoing_log(log.clone());
        for (id, upstream) in config.upstreams {
            builder = builder.upstream_config(id.as_str(), upstream);
        }
        let mirror = runtime.block_on(builder.start()).expect("start a mirror");
        Self {
            address: mirror.addr(),
            log,
            mirror,
        }
    }

    /// How many requests have left so far: for [`Self::since`].
    pub(crate) fn mark(&self) -> usize {
        self.log.requests().len()
    }

    /// The requests that left after that mark.
    pub(crate) fn since(&self, mark: usize) -> Vec<Outgoing> {
        self.log.requests().split_off(mark)
    }

    pub(crate) fn stop(self, runtime: &Runtime) {
        runtime.block_on(self.mirror.shutdown());
    }
}

/// The digest, where it is a request for a blob.
pub(crate) fn blob_of(request: &Outgoing) -> Option<&str> {
    let (_, digest) = request.url.path().rsplit_once("/blobs/")?;
    Some(digest)
}

/// Whether a request asks for what a tag names now, and for no content.
pub(crate) fn is_revalidation(request: &Outgoing) -> bool {
    let path = request.url.path();
    let reference = path.rsplit_once("/manifests/");
    request.method == Method::HEAD && reference.is_some_and(|(_, tag)| !tag.contains(':'))
}

/// Whether it asks if a registry that was down answers again.
pub(crate) fn is_probe(request: &Outgoing) -> bool {
    request.method == Method::GET && request.url.path().ends_with("/v2/")
}
