//! Real registries and what stands around them, each with all three clients: what asks for
//! credentials, redirects, hides behind a proxy, is another cache, or is down.
//!
//! The mirror of these tests runs in this process, so that every request that leaves it can be
//! searched for secrets.

mod cascade;
mod cdn;
mod examples;
mod failover;
mod private;
mod programs;
mod proxy;
mod show;
mod signatures;
mod tapped;

use crate::{containerd, containers_image, requirements};

/// Whether the three clients and these programs can be run.
fn are_met(test: &str, programs: &[&str]) -> bool {
    let clients = [
        &containerd::PROGRAMS[..],
        &containers_image::PODMAN_PROGRAMS,
    ]
    .concat();
    requirements::are_met(test, &[&clients[..], programs].concat())
}
