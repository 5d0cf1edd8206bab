//! Registries that only a forward proxy reaches.

use std::net::{IpAddr, Ipv4Addr};

use registry_server::testing::{FixtureTls, Secrets};

use super::are_met;
use super::programs::{TINYPROXY, Tinyproxy};
use super::show::{Show, Stage, UPSTREAM};
use crate::origin::{Origin, OriginOptions};

#[test]
fn a_proxy_in_front_of_https() {
    if !are_met("proxy", &[TINYPROXY]) {
        return;
    }
    let tls = FixtureTls::generate();
    let requests = pull_through_proxy(Some(&tls));
    assert!(
        requests.iter().all(|line| line.starts_with("CONNECT ")),
        "{requests:?}"
    );
}

#[test]
fn a_proxy_in_front_of_plain_http() {
    if !are_met("proxy", &[TINYPROXY]) {
        return;
    }
    let requests = pull_through_proxy(None);
    let is_plain =
        |line: &String| line.starts_with("HEAD http://") || line.starts_with("GET http://");
    assert!(requests.iter().all(is_plain), "{requests:?}");
}

#[test]
fn a_registry_that_is_reached_without_the_proxy() {
    if !are_met("no_proxy", &[TINYPROXY]) {
        return;
    }
    let stage = Stage::new();
    let mut origin = Origin::start(&stage.workshop, "beside-the-proxy");
    let images = stage.publish(&[&origin]);
    let proxy = Tinyproxy::start(&stage.workshop);
    let configuration = format!(
        "[upstream.\"{UPSTREAM}\"]\nendpoints = [{url:?}]\nproxy = {proxy:?}\n\
         no_proxy = [\"127.0.0.1\"]\n",
        url = origin.url(),
        proxy = proxy.url(),
    );
    let show = Show::open(stage, &configuration, images);

    show.cold();
    assert!(proxy.requests().is_empty(), "{:?}", proxy.requests());
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    let answered = origin.requests(&show.site.workshop);
    assert!(answered.iter().all(|request| request.from == loopback));
    proxy.stop();
    origin.stop();
    show.finish();
}

/// Pulls, with nothing reaching the registry but by the proxy, and says what the proxy was asked.
#[track_caller]
fn pull_through_proxy(tls: Option<&FixtureTls>) -> Vec<String> {
    let stage = Stage::new();
    let options = OriginOptions {
        tls,
        ..OriginOptions::default()
    };
    let mut origin = Origin::start_with(&stage.workshop, "behind-the-proxy", &options);
    let images = stage.publish(&[&origin]);
    let pushed = origin.requests(&stage.workshop).len();
    let proxy = Tinyproxy::start(&stage.workshop);
    let ca_file = tls.map(|tls| format!("ca_file = {:?}", stage.write_ca(tls)));
    let configuration = format!(
        "[upstream.\"{UPSTREAM}\"]\nendpoints = [{url:?}]\nproxy = {proxy:?}\n{ca_file}\n",
        url = origin.url(),
        proxy = proxy.url(),
        ca_file = ca_file.unwrap_or_default(),
    );
    let show = Show::open(stage, &configuration, images);

    show.cold();
    show.warm();
    let answered = origin.requests(&show.site.workshop).split_off(pushed);
    assert!(!answered.is_empty());
    for request in answered {
        assert_eq!(
            request.from,
            proxy.outgoing_ip(),
            "past the proxy: {request:?}"
        );
    }
    let requests = proxy.requests();
    assert!(!requests.is_empty(), "the proxy was not asked");
    let host = origin.address.to_string();
    for line in &requests {
        assert!(line.contains(&host), "{line}");
    }
    let (username, password) = Tinyproxy::ACCOUNT;
    Secrets::account(username, password).assert_nowhere(&show.mirror.log);
    // The registry is there still, and out of reach.
    proxy.stop();
    show.offline();
    origin.stop();
    show.finish();
    requests
}
