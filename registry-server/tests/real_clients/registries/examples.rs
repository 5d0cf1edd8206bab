//! The mirror's own files of `examples/config`, as they are written: the names in them are those of
//! registries of the test's, by a hosts file that the mirror is given, and their ports are theirs.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use registry_server::testing::FixtureTls;

use super::are_met;
use super::private::{HTPASSWD, PUBLISHER, READER, htpasswd};
use super::programs::{TINYPROXY, Tinyproxy, own_addresses};
use super::show::Stage;
use crate::containers_image::{Skopeo, Way};
use crate::example_files::{MIRROR_FOLDER, example};
use crate::mirror::{ConfiguredMirror, Mirror};
use crate::origin::{Origin, OriginOptions};
use crate::scene::{DOCKER_IO, QUAY_IO};
use crate::site::{Published, Site};

/// The names in the examples.
const PRIVATE: &str = "registry.example.org";
const NEARER: &str = "mirror.example.org";
const PROXY: &str = "proxy.example.org";
const HUB: &str = "registry-1.docker.io";

const HTTPS_PORT: u16 = 443;
const PROXY_PORT: u16 = 3128;

#[test]
fn the_examples_of_upstreams_work_as_they_are_written() {
    if !are_met("examples of upstreams", &[HTPASSWD, TINYPROXY]) {
        return;
    }
    let stage = Stage::new();
    let tls = FixtureTls::generate_for(&[PRIVATE, NEARER, HUB, QUAY_IO]);
    let [private_ip, public_ip, nobody_ip] = own_addresses();
    let workshop = &stage.workshop;
    let private = OriginOptions {
        address: Some((private_ip, HTTPS_PORT).into()),
        tls: Some(&tls),
        auth: Some(htpasswd(workshop)),
        publisher: Some(PUBLISHER),
        ..OriginOptions::default()
    };
    let public = OriginOptions {
        address: Some((public_ip, HTTPS_PORT).into()),
        tls: Some(&tls),
        ..OriginOptions::default()
    };
    let private = Origin::start_with(workshop, "private", &private);
    let public = Origin::start_with(workshop, "public", &public);
    let images = stage.publish(&[&private, &public]);

    let hosts = |name: &str, addresses: &[(Ipv4Addr, &str)]| {
        let lines = addresses.iter().map(|(ip, name)| format!("{ip} {name}\n"));
        let path = workshop.path(name);
        fs::write(&path, lines.collect::<String>()).expect("write a hosts file");
        path
    };
    let names = hosts(
        "hosts",
        &[
            (private_ip, PRIVATE),
            (nobody_ip, NEARER),
            (public_ip, HUB),
            (private_ip, PROXY),
        ],
    );
    // Only the proxy knows where the registry behind it is.
    let behind_proxy = hosts("hosts-of-the-proxy", &[(public_ip, QUAY_IO)]);
    let proxy_address = SocketAddr::from((private_ip, PROXY_PORT));
    let proxy = Tinyproxy::start_open(workshop, proxy_address, &behind_proxy);

    let files = mirror_files(&stage, &tls);
    let mut site = Site::new(stage.workshop, nobody(), "no-mirror-yet");
    let mut origins = vec![private, public];
    for act in ["online", "offline"] {
        if act == "offline" {
            origins.drain(..).for_each(Origin::stop);
        }
        for (example, registry) in EXAMPLES {
            let name = format!("{act}-{example}");
            let mirror = ConfiguredMirror {
                data: site.workshop.path(format!("{example}-data")),
                configuration: &files.join(format!("{example}.toml")),
                hosts: &names,
                ca_file: &files.join(CA_FILE),
            };
            let mirror = Mirror::start_configured(&site.workshop, &mirror);
            site = Site::new(site.workshop, mirror.address, &name);
            let published = Published {
                registry: registry.to_owned(),
                ..images[MULTI].clone()
            };
            site.pull(&Skopeo::start(&site, Way::Path, &name), &published);
            mirror.stop();
        }
        if act == "online" {
            let requests = proxy.requests();
            assert!(!requests.is_empty(), "the proxy was not asked");
            for line in requests {
                assert!(line.starts_with("CONNECT quay.io:443 "), "{line}");
            }
        }
    }
    proxy.stop();
    site.workshop.close();
}

/// The files, and the registry that each is about.
const EXAMPLES: [(&str, &str); 3] = [
    ("private-registry", PRIVATE),
    ("proxy", QUAY_IO),
    ("two-endpoints", DOCKER_IO),
];

/// What the examples call the authority's certificate, and the password.
const CA_FILE: &str = "ca.pem";
const PASSWORD_FILE: &str = "password";

/// An image whose name has no other form in any registry.
const MULTI: usize = 1;

/// The examples, with a folder in the workshop in place of the mirror's own, and what else is in it.
fn mirror_files(stage: &Stage, tls: &FixtureTls) -> PathBuf {
    let workshop = &stage.workshop;
    let folder = workshop.create_folder("mirror");
    let path = folder.to_str().expect("a UTF-8 path");
    for (name, _) in EXAMPLES {
        let name = format!("{name}.toml");
        let text = example(&format!("mirror/{name}"));
        fs::write(folder.join(name), text.replace(MIRROR_FOLDER, path)).expect("write");
    }
    fs::write(folder.join(CA_FILE), &tls.ca_pem).expect("write a certificate");
    fs::write(folder.join(PASSWORD_FILE), format!("{}\n", READER.1)).expect("write a password");
    folder
}

/// Where nothing listens.
fn nobody() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 1).into()
}
