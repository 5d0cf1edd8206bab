//! Does it run for years? Pulls, aborted pulls, evictions, deletions, pins, verifications, damaged
//! files, upstream faults and restarts, all at the same time and at random, through a budget that is
//! a fraction of what is pulled. Every byte that is served is hashed; at the end, nothing promises
//! what cannot be had, and nothing has leaked.
//!
//! `cargo bench -p benches --bench soak` takes ten minutes, `cargo test -p benches --bench soak` one;
//! `-- --seconds N --seed N` chooses others. The seed is printed: it gives the same choices again,
//! though not the same order between tasks.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

mod client;
mod leaks;
mod world;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep};

use leaks::Held;
use world::{Dice, World};

/// What it takes where nobody says.
const SECONDS_FULL: u64 = 600;
const SECONDS_SHORT: u64 = 60;
/// Clients at a time.
const CLIENTS: u64 = 6;
/// How long a mirror runs before it is restarted, at the least and at the most.
const RUN_MIN: Duration = Duration::from_secs(3);
const RUN_MAX: Duration = Duration::from_secs(12);
/// Between two acts of whoever operates the mirror.
const ACT_EVERY_MAX: Duration = Duration::from_millis(400);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<u64>().ok()
    };
    let full = arguments.iter().any(|argument| argument == "--bench");
    let seconds = value("--seconds").unwrap_or(if full { SECONDS_FULL } else { SECONDS_SHORT });
    let seed = value("--seed").unwrap_or(20_261_122);
    println!("seed {seed}, {seconds} s, {CLIENTS} clients");
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads");
    runtime.block_on(soak(Duration::from_secs(seconds), seed));
}

async fn soak(duration: Duration, seed: u64) {
    let world = World::new(seed).await;
    // One round first, so that what is made once and kept is not taken for a leak.
    world.restart(false).await;
    let before = Held::now();
    let deadline = Instant::now() + duration;
    let clients = (0..CLIENTS).map(|number| pull_until(&world, Dice::new(seed + number), deadline));
    let operator = operate_until(&world, Dice::new(seed + 100), deadline);
    let restarts = restart_until(&world, Dice::new(seed + 200), deadline);
    tokio::join!(join_all(clients), operator, restarts);

    world.calm().await;
    let promised = world.everything_held_can_be_pulled().await;
    world.files_are_what_the_index_says().await;
    world.stop().await;
    before.assert_nothing_leaked().await;
    println!("{}", world.tally());
    println!("{promised} manifests were held at the end, each with all that it promises");
    world.assert_something_was_shown();
}

async fn pull_until(world: &Arc<World>, mut dice: Dice, deadline: Instant) {
    while Instant::now() < deadline {
        world.pull_something(&mut dice, deadline).await;
    }
}

async fn operate_until(world: &Arc<World>, mut dice: Dice, deadline: Instant) {
    while Instant::now() < deadline {
        sleep(dice.duration(Duration::ZERO, ACT_EVERY_MAX)).await;
        world.act(&mut dice).await;
    }
}

async fn restart_until(world: &Arc<World>, mut dice: Dice, deadline: Instant) {
    loop {
        let next = Instant::now() + dice.duration(RUN_MIN, RUN_MAX);
        if next >= deadline {
            return;
        }
        tokio::time::sleep_until(next).await;
        let abruptly = dice.below(2) == 0;
        world.restart(abruptly).await;
    }
}
