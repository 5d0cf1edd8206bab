//! Archives of images: from one mirror to another that no network reaches, and to and from other
//! programs.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::containerd::{self, Ctr};
use crate::containers_image::{self, Podman, Way};
use crate::docker::{self, Docker};
use crate::image::digest_of;
use crate::mirror::{Mirror, program};
use crate::requirements;
use crate::scene::{DOCKER_IO, Scene};
use crate::site::{Client as _, Published, Site};
use crate::workshop::{NoNetwork, Workshop, sandboxed};

/// What moves into a network without a way out.
const PROGRAMS: [&str; 2] = ["ip", "nsenter"];

/// The command line of the program, asking this mirror.
fn ask(mirror: &Mirror, arguments: &[&str]) -> Command {
    let admin = format!("http://{}", mirror.admin);
    program(&[arguments, &["--admin", &admin]].concat())
}

/// An archive of what was published.
#[track_caller]
fn export(scene: &Scene, images: &[&Published], options: &[&str]) -> PathBuf {
    let archive = scene.site.workshop.path("images.tar");
    let names: Vec<String> = images.iter().map(|image| image.name()).collect();
    let mut arguments = vec!["export", "-o", archive.to_str().expect("a UTF-8 path")];
    arguments.extend(names.iter().map(String::as_str));
    arguments.extend(options);
    let workshop = &scene.site.workshop;
    workshop.run("export", ask(&scene.mirror, &arguments));
    archive
}

/// The one image of one platform that docker.io has here.
fn single(scene: &Scene) -> &Published {
    let mut published = scene.published.iter();
    let is_single = |image: &&Published| image.registry == DOCKER_IO && image.tag == "latest";
    published.find(is_single).expect("the scene publishes it")
}

/// What the issue asks for: nothing that the far side has was ever in a network.
#[test]
fn containerd_pulls_where_no_network_is_what_another_mirror_exported() {
    let programs = [&containerd::PROGRAMS[..], &PROGRAMS].concat();
    if !requirements::are_met("air gap", &programs) {
        return;
    }
    let mut scene = Scene::start();
    let published = scene.published.clone();
    let images: Vec<_> = published.iter().collect();
    let archive = export(&scene, &images, &["--all-platforms"]);
    scene.stop_origins();
    scene.mirror.stop();
    let workshop = scene.site.workshop;

    let network = NoNetwork::create(&workshop);
    let data = workshop.path("far-data");
    let mirror = Mirror::start_within(&workshop, &network, &data);
    let arguments = ["import", archive.to_str().expect("a UTF-8 path"), "--json"];
    let import = network.within(ask(&mirror, &arguments));
    let report = workshop.run_for_text("import", import);
    let report: Value = serde_json::from_str(&report).expect("a document");
    assert_eq!(report["failures"], serde_json::json!([]), "{report}");
    let site = Site::new(workshop, mirror.address, "config-far");
    let ctr = Ctr::start_within(&site, "far", network);
    for published in &published {
        site.pull(&ctr, published);
    }
    drop(ctr);
    mirror.stop();
    site.workshop.close();
}

#[test]
fn skopeo_podman_and_containerd_read_our_archives() {
    let programs = [
        &containerd::PROGRAMS[..],
        &containers_image::PODMAN_PROGRAMS,
    ]
    .concat();
    if !requirements::are_met("archives for others", &programs) {
        return;
    }
    let scene = Scene::start();
    let image = single(&scene);
    let name = image.name();
    let archive = export(&scene, &[image], &[]);
    let workshop = &scene.site.workshop;

    let of = |source: &str| format!("oci-archive:{}{source}", archive.display());
    let mut inspect = sandboxed("skopeo");
    inspect.args(["inspect", "--raw", &of("")]);
    let manifest = workshop.run("skopeo-inspect", inspect);
    assert_eq!(digest_of(&manifest), image.content.digest);
    let copy_to = workshop.path("skopeo-copy");
    let mut copy = sandboxed("skopeo");
    copy.args(["copy", "--quiet", "--all", &of(&format!(":{name}"))]);
    copy.arg(format!("dir:{}", copy_to.display()));
    workshop.run("skopeo-copy", copy);

    let podman = Podman::start(&scene.site, Way::Path, "load");
    assert_eq!(podman.load(&scene.site, &archive, &name), image.content);
    let ctr = Ctr::start(&scene.site, "import");
    assert_eq!(ctr.import(&scene.site, &archive, &name), image.content);
    drop(ctr);
    scene.finish();
}

/// Imports an archive into a mirror that reaches nobody, under this name if any is given.
#[track_caller]
fn import(workshop: &Workshop, mirror: &Mirror, archive: &Path, name: Option<&str>) -> Value {
    let mut arguments = vec!["import", archive.to_str().expect("a UTF-8 path"), "--json"];
    arguments.extend(name.iter().flat_map(|name| ["--as", name]));
    let report = workshop.run_for_text("import", ask(mirror, &arguments));
    serde_json::from_str(&report).expect("a document")
}

fn docker_writes_layouts(workshop: &Workshop, archive: &Path) -> bool {
    let mut list = Command::new("tar");
    list.arg("--list").arg("--file").arg(archive);
    let files = workshop.run_for_text("list", list);
    files.lines().any(|file| file == "oci-layout")
}

#[test]
fn archives_of_skopeo_and_docker_are_imported() {
    if !requirements::are_met("archives of others", &docker::PROGRAMS) {
        return;
    }
    let mut scene = Scene::start();
    let image = single(&scene).clone();
    let name = image.name();
    let skopeos = scene.site.workshop.path("skopeo.tar");
    let mut copy = sandboxed("skopeo");
    copy.args(["copy", "--quiet", "--all", "--src-tls-verify=false"]);
    copy.arg(format!("docker://{}/{name}", scene.site.mirror));
    copy.arg(format!("oci-archive:{}:latest", skopeos.display()));
    scene.site.workshop.run("skopeo-copy", copy);
    let engine = Docker::start(&scene.site, "save");
    engine.pull(&scene.site, &image);
    let dockers = scene.site.workshop.path("docker.tar");
    engine.save(&scene.site, &name, &dockers);
    drop(engine);

    scene.stop_origins();
    let workshop = &scene.site.workshop;
    let options = crate::mirror::MirrorOptions {
        data: workshop.path("far-data"),
        upstreams: Vec::new(),
        tls: None,
    };
    let far = Mirror::start(workshop, &options);
    let whole = "docker.io/library/of-skopeo";
    let report = import(workshop, &far, &skopeos, Some(whole));
    assert_eq!(report["images"][0]["name"], format!("{whole}:latest"));
    let digest = image.content.digest.to_string();
    assert_eq!(report["images"][0]["digest"], digest, "byte for byte");
    // Engines before version 25 write another form. What the refusal says to do about it is done.
    let dockers = match docker_writes_layouts(workshop, &dockers) {
        true => dockers,
        false => {
            let converted = workshop.path("converted.tar");
            let mut convert = sandboxed("skopeo");
            convert.args(["copy", "--quiet"]);
            convert.arg(format!("docker-archive:{}", dockers.display()));
            convert.arg(format!("oci-archive:{}:{name}", converted.display()));
            workshop.run("skopeo-convert", convert);
            converted
        }
    };
    let report = import(workshop, &far, &dockers, None);
    // It has a manifest of its own, with layers as they are unpacked.
    assert_eq!(report["images"][0]["name"], name, "{report}");
    far.stop();
    scene.finish();
}
