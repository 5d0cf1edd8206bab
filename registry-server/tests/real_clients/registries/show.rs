//! What every one of these tests does with its registry: containerd, Skopeo and Podman each pull
//! one image that the mirror has never seen, one that it holds, and one that only it holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use http::Method;
use registry_server::testing::{FixtureTls, Outgoing, TokenServer};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use super::tapped::{TappedMirror, blob_of, is_probe, is_revalidation};
use crate::containerd::Ctr;
use crate::containers_image::{Podman, Skopeo, Way};
use crate::image::{BaseLayer, Image};
use crate::origin::Origin;
use crate::scene::QUAY_IO;
use crate::site::{Client, Published, Site};
use crate::workshop::Workshop;

/// What the mirror calls the registry: a name that Podman's example file leads to the mirror.
pub(crate) const UPSTREAM: &str = QUAY_IO;

/// As many as there are clients. The second has several platforms, and the second client, which is
/// the first to pull it, wants them all.
const IMAGES: [(&str, &str); 3] = [
    ("app", "latest"),
    ("team/tool", "1.0"),
    ("team/deep/er/service", "v2"),
];

/// Headers that say who asks.
const SECRET_HEADERS: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// Where everything of a test is, before there is a mirror.
pub(crate) struct Stage {
    pub(crate) runtime: Runtime,
    pub(crate) workshop: Workshop,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("start a runtime");
        Self {
            runtime,
            workshop: Workshop::new(),
        }
    }

    /// Starts a token server that knows `accounts`, each by name and password, and lets it do
    /// these things with every image.
    pub(crate) fn token_server(
        &self,
        start: impl Future<Output = TokenServer>,
        accounts: &[(&str, &str, &[&str])],
    ) -> TokenServer {
        let server = self.runtime.block_on(start);
        for (repository, _) in IMAGES {
            for (name, password, actions) in accounts {
                server.allow(name, password, repository, actions);
            }
        }
        server
    }

    /// Writes the certificate of an authority into a file.
    pub(crate) fn write_ca(&self, tls: &FixtureTls) -> PathBuf {
        let path = self.workshop.path("ca.pem");
        fs::write(&path, &tls.ca_pem).expect("write a certificate");
        path
    }

    /// The section `auth` of a registry that takes the tokens of this server, in YAML.
    pub(crate) fn token_auth(&self, tokens: &TokenServer) -> String {
        let bundle = self.workshop.path("tokens.pem");
        fs::write(&bundle, tokens.root_cert_pem()).expect("write a certificate");
        let (realm, service, issuer) = (tokens.realm(), TokenServer::SERVICE, TokenServer::ISSUER);
        format!(
            "{{token: {{realm: {realm:?}, service: {service:?}, issuer: {issuer:?}, \
             rootcertbundle: {bundle:?}}}}}"
        )
    }

    /// Makes the images and publishes them at each of `origins`.
    #[track_caller]
    pub(crate) fn publish(&self, origins: &[&Origin]) -> Vec<Published> {
        let images = IMAGES.into_iter().zip(1..);
        let published = images.map(|((repository, tag), seed)| {
            let layout = self.layout(repository);
            // Nothing in common, so that each is as new to a client as the first.
            let base = BaseLayer::with_seed(seed);
            let image = match repository {
                "team/tool" => Image::multi(layout, &base, repository),
                _ => Image::single(layout, &base, repository),
            };
            for origin in origins {
                origin.push(&self.workshop, &image, repository, tag);
            }
            Published {
                registry: UPSTREAM.to_owned(),
                repository,
                tag,
                content: image.content,
            }
        });
        published.collect()
    }

    /// A manifest of what is published in a repository.
    #[track_caller]
    pub(crate) fn manifest(&self, repository: &str, digest: &str) -> Value {
        let (_, hex) = digest.split_once(':').expect("a digest has an algorithm");
        let path = self.layout(repository).join("blobs/sha256").join(hex);
        let bytes = fs::read(path).expect("read a blob of an image");
        serde_json::from_slice(&bytes).expect("a manifest is JSON")
    }

    /// The folder of the image of a repository.
    fn layout(&self, repository: &str) -> PathBuf {
        self.workshop.path(format!("images/{repository}"))
    }
}

/// See the module.
pub(crate) struct Show {
    // The clients first: they work in the site's folder.
    clients: [Box<dyn Client>; 3],
    images: Vec<Published>,
    /// Who may be shown an `Authorization`, as `HOST:PORT`.
    trusted: Vec<String>,
    pub(crate) mirror: TappedMirror,
    pub(crate) site: Site,
    pub(crate) runtime: Runtime,
}

impl Show {
    /// Starts the mirror, whose configuration names [`UPSTREAM`], and the clients.
    #[track_caller]
    pub(crate) fn open(stage: Stage, configuration: &str, images: Vec<Published>) -> Self {
        let Stage { runtime, workshop } = stage;
        let mirror = TappedMirror::start(&runtime, &workshop, "mirror", configuration);
        let site = Site::new(workshop, mirror.address, "config");
        Self::open_at(site, mirror, runtime, images)
    }

    /// The same at a site whose clients are pointed at something before the mirror.
    #[track_caller]
    pub(crate) fn open_at(
        site: Site,
        mirror: TappedMirror,
        runtime: Runtime,
        images: Vec<Published>,
    ) -> Self {
        let clients: [Box<dyn Client>; 3] = [
            Box::new(Ctr::start(&site, "show")),
            Box::new(Skopeo::start(&site, Way::Configured, "show")),
            Box::new(Podman::start(&site, Way::Configured, "show")),
        ];
        Self {
            clients,
            images,
            trusted: Vec::new(),
            mirror,
            site,
            runtime,
        }
    }

    /// Lets credentials and tokens go to these, and to nobody else.
    pub(crate) fn trusting(mut self, hosts: &[&str]) -> Self {
        self.trusted.extend(hosts.iter().copied().map(String::from));
        self
    }

    /// All three acts, with `stop` before the last: it stops whatever the mirror reaches.
    #[track_caller]
    pub(crate) fn play(&self, stop: impl FnOnce()) {
        self.cold();
        self.warm();
        stop();
        self.offline();
    }

    /// Each client pulls an image of its own, and every blob is downloaded once.
    #[track_caller]
    pub(crate) fn cold(&self) {
        self.act(0);
        assert_every_blob_was_downloaded_once(&self.mirror.log.requests());
    }

    /// Each pulls what another has pulled; only tags are asked for, by HEAD.
    #[track_caller]
    pub(crate) fn warm(&self) {
        let mark = self.mirror.mark();
        self.act(1);
        let requests = self.mirror.since(mark);
        assert!(!requests.is_empty(), "no tag was revalidated");
        assert_only_tags_were_asked_for(&requests);
    }

    /// Each pulls what the other has pulled, while nothing answers the mirror.
    #[track_caller]
    pub(crate) fn offline(&self) {
        let mark = self.mirror.mark();
        self.act(2);
        assert_only_tags_were_asked_for(&self.mirror.since(mark));
    }

    fn act(&self, number: usize) {
        let images = self.images.iter().cycle().skip(number);
        for (client, published) in self.clients.iter().zip(images) {
            self.site.pull(client.as_ref(), published);
        }
    }

    /// Ends everything; panics where something is left behind, or was shown to the wrong host.
    #[track_caller]
    pub(crate) fn finish(self) {
        let requests = self.mirror.log.requests();
        let is_leak = |request: &&Outgoing| {
            let host = request.url.authority();
            let is_trusted = self.trusted.iter().any(|trusted| trusted == host);
            let mut names = request.headers.iter().map(|(name, _)| name.as_str());
            !is_trusted && names.any(|name| SECRET_HEADERS.contains(&name))
        };
        let leaks: Vec<_> = requests.iter().filter(is_leak).collect();
        assert!(leaks.is_empty(), "not for these hosts: {leaks:?}");
        drop(self.clients);
        self.mirror.stop(&self.runtime);
        self.site.workshop.close();
    }
}

#[track_caller]
pub(crate) fn assert_every_blob_was_downloaded_once(requests: &[Outgoing]) {
    let mut downloads: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for request in requests.iter().filter(|r| r.method == Method::GET) {
        // Whoever redirects is asked as well as whoever is redirected to, and whoever is down as
        // well as whoever stands in.
        if let Some(digest) = blob_of(request) {
            let host = request.url.authority();
            *downloads.entry((host, digest)).or_default() += 1;
        }
    }
    assert!(downloads.len() >= IMAGES.len(), "too few: {downloads:?}");
    let repeated: Vec<_> = downloads.iter().filter(|(_, count)| **count != 1).collect();
    assert!(
        repeated.is_empty(),
        "downloaded more than once: {repeated:?}"
    );
}

#[track_caller]
fn assert_only_tags_were_asked_for(requests: &[Outgoing]) {
    let is_free = |request: &&Outgoing| is_revalidation(request) || is_probe(request);
    let other: Vec<_> = requests.iter().filter(|r| !is_free(r)).collect();
    assert!(other.is_empty(), "a pull of what is cached cost {other:?}");
}
