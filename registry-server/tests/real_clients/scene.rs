//! What every test has around it: two registries that hold different images under the same names,
//! and the mirror between them and the clients.

use std::collections::BTreeMap;
use std::fs;

use registry_server::front::TlsFiles;
use registry_server::testing::FixtureTls;

use crate::image::{BaseLayer, Image};
use crate::mirror::{Mirror, MirrorOptions};
use crate::origin::{Origin, Request};
use crate::site::{Client, Published, Site};
use crate::workshop::Workshop;

pub(crate) const DOCKER_IO: &str = "docker.io";
pub(crate) const QUAY_IO: &str = "quay.io";

/// Held by both registries, each its own.
const SINGLE: (&str, &str) = ("library/app", "latest");
const MULTI: (&str, &str) = ("team/tool", "1.0");

/// See the module.
pub(crate) struct Scene {
    pub(crate) mirror: Mirror,
    mirror_options: MirrorOptions,
    pub(crate) published: Vec<Published>,
    origins: Vec<Origin>,
    // Dropped last: the others write into its folder, and show what they wrote when a test fails.
    pub(crate) site: Site,
}

impl Scene {
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::start_in(Workshop::new(), None)
    }

    /// The same with a mirror that speaks TLS, and clients that trust its certificate and no other.
    #[track_caller]
    pub(crate) fn start_secured() -> Self {
        let workshop = Workshop::new();
        let folder = workshop.create_folder("tls");
        let tls = TlsFiles {
            cert_file: folder.join("cert.pem"),
            key_file: folder.join("key.pem"),
        };
        let fixture = FixtureTls::generate();
        for (file, text) in [
            (&tls.cert_file, &fixture.server_cert_pem),
            (&tls.key_file, &fixture.server_key_pem),
            (&folder.join("ca.crt"), &fixture.ca_pem),
        ] {
            fs::write(file, text).expect("write a certificate");
        }
        let mut scene = Self::start_in(workshop, Some(tls));
        let ca = scene.site.workshop.create_folder("certs.d");
        fs::copy(folder.join("ca.crt"), ca.join("ca.crt")).expect("copy the authority");
        scene.site.secure(ca);
        scene
    }

    #[track_caller]
    fn start_in(workshop: Workshop, tls: Option<TlsFiles>) -> Self {
        let base = BaseLayer::new();
        let mut origins = Vec::new();
        let mut published = Vec::new();
        for registry in [DOCKER_IO, QUAY_IO] {
            let origin = Origin::start(&workshop, registry);
            for (repository, tag) in [SINGLE, MULTI] {
                let mark = format!("{repository}:{tag} of {registry}");
                let layout = workshop.path(format!("images/{registry}/{repository}"));
                let image = match (repository, tag) {
                    MULTI => Image::multi(layout, &base, &mark),
                    _ => Image::single(layout, &base, &mark),
                };
                origin.push(&workshop, &image, repository, tag);
                published.push(Published {
                    registry: registry.to_owned(),
                    repository,
                    tag,
                    content: image.content,
                });
            }
            origins.push(origin);
        }
        let addresses = origins.iter().map(|origin| origin.address);
        let mirror_options = MirrorOptions {
            data: workshop.path("mirror-data"),
            upstreams: [DOCKER_IO, QUAY_IO].into_iter().zip(addresses).collect(),
            tls,
        };
        let mirror = Mirror::start(&workshop, &mirror_options);
        Self {
            site: Site::new(workshop, mirror.address, "config"),
            mirror,
            mirror_options,
            published,
            origins,
        }
    }

    /// The whole of what a mirror is for, with a fresh client for each act: each name gets its own
    /// content, a second client costs no download, and a third needs no registry at all.
    #[track_caller]
    pub(crate) fn play<C: Client>(mut self, start: impl Fn(&Site, &str) -> C) {
        self.pull_all(&start(&self.site, "cold"));
        let seen = self.requests();
        assert_every_blob_was_downloaded_once(&seen.concat());

        self.pull_all(&start(&self.site, "warm"));
        let new = self.requests().into_iter().zip(seen);
        for (requests, seen) in new {
            assert_only_tags_were_revalidated(&requests[seen.len()..]);
        }

        self.stop_origins();
        self.pull_all(&start(&self.site, "offline"));
        self.finish();
    }

    /// Pulls every published image and compares what `client` got with what was published.
    #[track_caller]
    pub(crate) fn pull_all(&self, client: &impl Client) {
        for published in &self.published {
            self.site.pull(client, published);
        }
    }

    /// Pulls every image by the address of the registry that holds it: a registry of which the mirror
    /// knows nothing, although the client asks it first.
    #[track_caller]
    pub(crate) fn pull_all_from_unknown_registries(&self, client: &impl Client) {
        for published in &self.published {
            let (_, address) = self
                .mirror_options
                .upstreams
                .iter()
                .find(|(name, _)| *name == published.registry)
                .expect("every image is of one of the registries");
            let direct = Published {
                registry: address.to_string(),
                ..published.clone()
            };
            self.site.pull(client, &direct);
        }
    }

    /// Stops both registries for good.
    pub(crate) fn stop_origins(&mut self) {
        self.origins.drain(..).for_each(Origin::stop);
    }

    /// Stops the mirror and starts it again on the same data folder, at another address.
    #[track_caller]
    pub(crate) fn restart_mirror(mut self) -> Self {
        self.mirror.stop();
        self.mirror = Mirror::start(&self.site.workshop, &self.mirror_options);
        self.site = Site::new(
            self.site.workshop,
            self.mirror.address,
            "config-after-restart",
        );
        self
    }

    /// Ends everything; panics where the mirror does not end well, or something is left behind.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        self.stop_origins();
        self.mirror.stop();
        self.site.workshop.close();
    }

    /// What each registry was asked for so far.
    fn requests(&mut self) -> Vec<Vec<Request>> {
        let workshop = &self.site.workshop;
        let origins = self.origins.iter_mut();
        origins.map(|origin| origin.requests(workshop)).collect()
    }
}

/// Both registries' images stand on the same base layer, so this is about both together: what one
/// upstream delivered is not downloaded from another (I7).
#[track_caller]
fn assert_every_blob_was_downloaded_once(requests: &[Request]) {
    let mut downloads: BTreeMap<&str, u32> = BTreeMap::new();
    for request in requests.iter().filter(|request| request.method == "GET") {
        if let Some(digest) = request.blob() {
            *downloads.entry(digest).or_default() += 1;
        }
    }
    assert!(
        !downloads.is_empty(),
        "nothing was pulled through the mirror"
    );
    let repeated: Vec<_> = downloads.iter().filter(|(_, count)| **count != 1).collect();
    assert!(
        repeated.is_empty(),
        "downloaded more than once: {repeated:?}"
    );
}

/// A pull of what is cached costs a HEAD of the tag, and no download (I11).
#[track_caller]
fn assert_only_tags_were_revalidated(requests: &[Request]) {
    assert!(!requests.is_empty(), "no tag was revalidated");
    for request in requests {
        let is_revalidation = request.method == "HEAD" && request.tag().is_some();
        assert!(
            is_revalidation,
            "a warm pull asked the upstream for {request:?}"
        );
    }
}
