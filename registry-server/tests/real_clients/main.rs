//! Real clients, real registries: what users run, through the mirror and the ready configuration
//! files, with fresh storage for every act of the play.
//!
//! Each test starts its own registries and its own mirror, so they run side by side and fail apart.
//! They need the programs that `.ci/run` installs, and root. What is tried here is how clients are led
//! to the mirror; [`registries`] tries what the mirror is led to.

mod archives;
mod containerd;
mod containers_image;
mod docker;
mod example_files;
#[path = "../support/http.rs"]
mod http;
mod image;
mod mirror;
mod origin;
mod prometheus;
mod registries;
mod requirements;
mod scene;
mod site;
mod workshop;

use crate::containerd::{Ctr, Kubelet};
use crate::containers_image::{Podman, Skopeo, Way};
use crate::docker::Docker;
use crate::scene::Scene;

#[test]
fn containerd_through_hosts_toml() {
    if requirements::are_met("containerd", &containerd::PROGRAMS) {
        Scene::start().play(Ctr::start);
    }
}

#[test]
fn containerd_passes_by_a_mirror_that_does_not_know_the_registry() {
    if requirements::are_met("containerd", &containerd::PROGRAMS) {
        let scene = Scene::start();
        scene.pull_all_from_unknown_registries(&Ctr::start(&scene.site, "cold"));
        let log = scene.mirror.output();
        assert!(log.contains("unknown-upstream"), "the mirror was not asked");
        scene.finish();
    }
}

#[test]
fn kubelet_through_config_path() {
    if requirements::are_met("kubelet", &containerd::PROGRAMS) {
        Scene::start().play(Kubelet::start);
    }
}

#[test]
fn docker_through_registry_mirrors() {
    if requirements::are_met("docker", &docker::PROGRAMS) {
        Scene::start().play(Docker::start);
    }
}

#[test]
fn podman_through_registries_conf() {
    if requirements::are_met("podman", &containers_image::PODMAN_PROGRAMS) {
        Scene::start().play(|site, act| Podman::start(site, Way::Configured, act));
    }
}

#[test]
fn podman_by_path() {
    if requirements::are_met("podman", &containers_image::PODMAN_PROGRAMS) {
        Scene::start().play(|site, act| Podman::start(site, Way::Path, act));
    }
}

#[test]
fn skopeo_through_registries_conf() {
    if requirements::are_met("skopeo", &[]) {
        Scene::start().play(|site, act| Skopeo::start(site, Way::Configured, act));
    }
}

#[test]
fn skopeo_by_path() {
    if requirements::are_met("skopeo", &[]) {
        Scene::start().play(|site, act| Skopeo::start(site, Way::Path, act));
    }
}

#[test]
fn containerd_over_tls() {
    if requirements::are_met("containerd", &containerd::PROGRAMS) {
        Scene::start_secured().play(Ctr::start);
    }
}

#[test]
fn kubelet_over_tls() {
    if requirements::are_met("kubelet", &containerd::PROGRAMS) {
        Scene::start_secured().play(Kubelet::start);
    }
}

#[test]
fn podman_over_tls() {
    if requirements::are_met("podman", &containers_image::PODMAN_PROGRAMS) {
        Scene::start_secured().play(|site, act| Podman::start(site, Way::Path, act));
    }
}

#[test]
fn skopeo_over_tls() {
    if requirements::are_met("skopeo", &[]) {
        Scene::start_secured().play(|site, act| Skopeo::start(site, Way::Configured, act));
    }
}

#[test]
fn a_mirror_started_without_its_upstreams_serves_what_it_holds() {
    if !requirements::are_met("skopeo", &[]) {
        return;
    }
    let mut scene = Scene::start();
    scene.pull_all(&Skopeo::start(&scene.site, Way::Path, "cold"));
    scene.stop_origins();
    let scene = scene.restart_mirror();
    scene.pull_all(&Skopeo::start(&scene.site, Way::Path, "after-restart"));
    scene.finish();
}
