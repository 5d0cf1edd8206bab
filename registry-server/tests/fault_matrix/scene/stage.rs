//! What a cell is played on: an upstream, and mirrors of it.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use registry_core::testing::{FaultingStore, ManualClock};
use registry_core::{Digest, Limits, MemoryStore, Stores, UpstreamId};
use registry_server::Mirror;
use registry_server::config::UpstreamConfig;
use registry_server::testing::{FixtureRegistry, OutgoingLog};
use registry_server::upstream::{
    CredentialConfig, HttpUpstream, HttpUpstreamConfig, Proxies, SystemTrust,
};
use tempfile::TempDir;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::{
    AMPLE, BLOB_BYTES, MEDIA_TYPE, PADDING_BYTES, PASSWORD, PROBE, REPOSITORY, RESUME_DELAY, TAG,
    TAG_BUDGET, TIGHT, UPSTREAM, USERNAME,
};
use crate::faults::{Budget, Spec, Strike};

/// The system's authorities, read once for all cells.
static TRUST: LazyLock<SystemTrust> = LazyLock::new(SystemTrust::default);

/// A listener that accepts nothing, and the connections that wait for it.
pub(super) struct Backlog {
    _listener: tokio::net::TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Backlog {
    /// Listens there, and is full.
    pub(super) async fn at(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(0).unwrap();
        let mut waiting = Vec::new();
        while let Ok(connected) = timeout(TIGHT / 5, TcpStream::connect(address)).await {
            waiting.push(connected.unwrap());
        }
        Self {
            _listener: listener,
            _waiting: waiting,
        }
    }
}

pub(super) fn add_manifest(origin: &FixtureRegistry, blob: Digest, name: &str) -> Digest {
    let json = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MEDIA_TYPE}","layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{blob}","size":{BLOB_BYTES}}}],"annotations":{{"{name}":"{}"}}}}"#,
        "x".repeat(PADDING_BYTES)
    );
    let added = origin.add_manifest(REPOSITORY, Some(TAG), MEDIA_TYPE, json);
    added.digest
}

pub(super) fn upstream(
    spec: &Spec,
    endpoints: &[String],
    origin: &FixtureRegistry,
    log: &OutgoingLog,
    folder: &TempDir,
) -> HttpUpstream {
    let endpoints = match spec.public {
        true => vec!["http://registry.example".parse().unwrap()],
        false => endpoints.iter().map(|url| url.parse().unwrap()).collect(),
    };
    let id = UpstreamId::parse(UPSTREAM).unwrap();
    let mut config = HttpUpstreamConfig::new(id, endpoints);
    let budget = |budget| match spec.tight {
        Some(tight) if tight == budget => TIGHT,
        _ => AMPLE,
    };
    config.budgets.connect = budget(Budget::Connect);
    config.budgets.headers = budget(Budget::Headers);
    config.budgets.body_idle = budget(Budget::BodyIdle);
    config.budgets.total = AMPLE;
    config.probes.first = PROBE;
    config.probes.max = PROBE;
    config.system_trust = TRUST.clone();
    config.outgoing = log.clone();
    let is_nameless = matches!(spec.strike, Strike::Nameless);
    // To have something that could go astray. In plain HTTP, no public host is shown any.
    if !spec.public && !is_nameless {
        let hosts = config.endpoints.iter().filter_map(|url| url.host_str());
        config.credentials.hosts = hosts.map(str::to_owned).collect();
        config.credentials.own = Some(CredentialConfig::Password {
            username: USERNAME.to_owned(),
            password: PASSWORD.into(),
        });
    }
    if spec.public {
        config.proxies = Proxies::all(origin.url().parse().unwrap());
    }
    if let Some(tls) = origin.tls() {
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, &tls.ca_pem).unwrap();
        config.ca_file = Some(path);
    }
    HttpUpstream::new(config).unwrap()
}

pub(super) async fn start_mirror(
    spec: &Spec,
    upstream: HttpUpstream,
    store: &FaultingStore<MemoryStore>,
    clock: &Arc<ManualClock>,
) -> Mirror {
    let mut policy = UpstreamConfig::new([]);
    policy.rules.tag_budget = Some(if spec.tight.is_some() {
        TAG_BUDGET
    } else {
        AMPLE
    });
    let limits = Limits {
        resumes_max: spec.resumes_max(),
        resume_delay_min: RESUME_DELAY,
        resume_delay_max: RESUME_DELAY,
        ..Limits::default()
    };
    Mirror::builder()
        .cache_limits(limits)
        .without_known_upstreams()
        .default_upstream(UPSTREAM)
        .upstream_config(UPSTREAM, policy)
        .upstream_with(UPSTREAM, Arc::new(upstream))
        .stores(Stores::of(Arc::new(store.clone())))
        .clock(Arc::clone(clock) as _)
        .start()
        .await
        .unwrap()
}
