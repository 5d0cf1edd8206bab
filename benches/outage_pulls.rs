//! What does an outage cost those who pull what is cached? Ten thousand pulls by tag over HTTP, for
//! longer than any question to the upstream lasts, while it takes connections and answers nothing:
//! prints how long they took, and how many questions the upstream was asked.
//!
//! Unless `cargo bench` runs it, there are few pulls: it then shows only that the benchmark works.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

#[expect(dead_code, reason = "each benchmark uses a part of it")]
mod setup;

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use registry_server::Mirror;
use registry_server::config::UpstreamConfig;
use registry_server::testing::{Fault, FixtureRegistry, ImageSpec, Match, Times};
use tokio::time::{MissedTickBehavior, interval};

use setup::{Client, REPOSITORY, UPSTREAM, manifest_path, runtime};

const CLIENTS: u32 = 4;
const TAGS: u32 = 8;

/// How much is pulled.
#[derive(Clone, Copy)]
struct Scale {
    pulls: u32,
    /// How long all of them take together: longer than an upstream may take to answer.
    lasting: Duration,
    tag_budget: Duration,
}

fn main() {
    // What cargo bench passes, and cargo test does not.
    let scale = if std::env::args().any(|argument| argument == "--bench") {
        Scale {
            pulls: 10_000,
            lasting: Duration::from_secs(40),
            tag_budget: Duration::from_secs(3),
        }
    } else {
        Scale {
            pulls: 200,
            lasting: Duration::from_secs(1),
            tag_budget: Duration::from_millis(200),
        }
    };
    runtime().block_on(measure(scale));
}

async fn measure(scale: Scale) {
    let origin = FixtureRegistry::start().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = origin.url().parse().expect("a URL");
    let mut upstream = UpstreamConfig::new([url]);
    upstream.rules.tag_budget = Some(scale.tag_budget);
    let mirror = Mirror::builder()
        .data_dir(folder.path())
        .upstream_config(UPSTREAM, upstream)
        .start()
        .await
        .expect("the mirror starts");
    let mut client = Client::connect(mirror.addr()).await;
    for tag in 0..TAGS {
        let spec = ImageSpec::new(tag.into());
        origin.add_image(REPOSITORY, &format!("v{tag}"), &spec);
        client.get(&manifest_path(format!("v{tag}"))).await;
    }
    origin.reset_counters();
    origin.fault(Match::any(), Times::Always, Fault::BlackHole);

    let first = client.get(&manifest_path("v0")).await.total;
    println!("outage_pulls: the first took {first:.1?}, which is its budget");
    let clients = (0..CLIENTS).map(|number| pull(mirror.addr(), number, scale));
    let mut times: Vec<_> = join_all(clients).await.concat();
    times.sort_unstable();
    let pulls = times.len();
    let percentile = |percent: usize| times[(pulls * percent / 100).min(pulls - 1)];
    println!(
        "outage_pulls: {pulls} more: median {:.2?}, 99th percentile {:.2?}, slowest {:.1?}; the \
         upstream was asked {} times",
        percentile(50),
        percentile(99),
        percentile(100),
        origin.total(),
    );
    mirror.shutdown().await;
}

/// Pulls one client's share, evenly, on a connection that is kept alive.
async fn pull(mirror: SocketAddr, number: u32, scale: Scale) -> Vec<Duration> {
    let share = scale.pulls / CLIENTS;
    let mut client = Client::connect(mirror).await;
    let mut turns = interval(scale.lasting / share);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut times = Vec::new();
    for turn in 0..share {
        turns.tick().await;
        let tag = format!("v{}", (turn + number) % TAGS);
        times.push(client.get(&manifest_path(tag)).await.total);
    }
    times
}
