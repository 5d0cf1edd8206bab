//! Two endpoints of one upstream, of which the first is down.

use super::are_met;
use super::show::{Show, Stage, UPSTREAM};
use super::tapped::is_probe;
use crate::origin::Origin;

#[test]
fn the_second_endpoint_stands_in_for_the_first() {
    if !are_met("failover", &[]) {
        return;
    }
    let stage = Stage::new();
    let first = Origin::start(&stage.workshop, "first");
    let second = Origin::start(&stage.workshop, "second");
    let images = stage.publish(&[&first, &second]);
    let configuration = format!(
        "[upstream.\"{UPSTREAM}\"]\nendpoints = [{:?}, {:?}]\n",
        first.url(),
        second.url(),
    );
    let show = Show::open(stage, &configuration, images);
    let first_port = Some(first.address.port());
    first.stop();

    show.play(|| second.stop());
    let requests = show.mirror.log.requests();
    let at_first = requests.iter().filter(|r| r.url.port() == first_port);
    let asked = at_first.filter(|request| !is_probe(request)).count();
    assert_eq!(asked, 1, "it is asked first, and then left alone");
    show.finish();
}
