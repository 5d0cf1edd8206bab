//! A registry that redirects blobs to a content delivery network, which refuses whoever brings a
//! token along.

use registry_server::testing::{FixtureTls, TokenServer};

use super::are_met;
use super::private::tokens_in;
use super::programs::{NGINX, Nginx, own_address};
use super::show::{Show, Stage, UPSTREAM};
use crate::origin::{Origin, OriginOptions};

const PUBLISHER: (&str, &str) = ("publisher", "pub-51ab07");

#[test]
fn blobs_from_a_cdn_that_refuses_tokens() {
    if !are_met("cdn", &[NGINX]) {
        return;
    }
    let stage = Stage::new();
    let tls = FixtureTls::generate_for(&[&own_address().to_string()]);
    let push: (_, _, &[&str]) = (PUBLISHER.0, PUBLISHER.1, &["pull", "push"]);
    let tokens = stage.token_server(TokenServer::start(Some(&tls)), &[push]);
    // Both serve the same folder; the registry has to be told where the other listens.
    let root = stage.workshop.create_folder("content");
    let cdn = Nginx::start(&stage.workshop, &root, &tls);
    let options = OriginOptions {
        tls: Some(&tls),
        auth: Some(stage.token_auth(&tokens)),
        publisher: Some(PUBLISHER),
        cdn: Some(cdn.url()),
        storage: Some(root),
        ..OriginOptions::default()
    };
    let origin = Origin::start_with(&stage.workshop, "redirecting", &options);
    let images = stage.publish(&[&origin]);
    for published in &images {
        tokens.allow_anonymous(published.repository, &["pull"]);
    }
    let ca_file = stage.write_ca(&tls);
    let url = origin.url();
    let configuration =
        format!("[upstream.\"{UPSTREAM}\"]\nendpoints = [{url:?}]\nca_file = {ca_file:?}\n");
    let host = origin.address.to_string();
    let show = Show::open(stage, &configuration, images).trusting(&[&host]);
    let mut deliveries = Vec::new();
    show.play(|| {
        origin.stop();
        deliveries = cdn.stop();
    });
    assert!(!deliveries.is_empty(), "no blob came from the CDN");
    for delivery in &deliveries {
        assert_eq!(delivery.authorization, None, "{delivery:?}");
        assert!(matches!(delivery.status, 200 | 206), "{delivery:?}");
    }
    // There was something to leak.
    tokens_in(&tokens.requests()).assert_only_at(&show.mirror.log, &[&host]);
    show.finish();
}
