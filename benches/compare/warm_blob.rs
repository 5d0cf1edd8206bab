//! What a blob that is held costs: over plain HTTP, and over TLS.

use std::time::{Duration, Instant};

use crate::Outcome;
use crate::bench::{Bench, in_order};
use crate::options::Scale;
use crate::origin::Blob;
use crate::peer::Peer;
use crate::profile::{Step, Work};
use crate::row::{Row, Series, Target};
use crate::spread::Unit;

/// Times nginx, the processors' time and by the clock.
const CPU_TARGET: Target = Target::TimesAtMost(1.1);
const WALL_TARGET: Target = Target::TimesAtMost(1.05);

/// One connection, one client that reads as fast as it can.
pub(crate) fn plain(bench: &Bench) -> Outcome<Vec<Row>> {
    let blob = bench.origin.new_blob(bench.scale.blob_bytes);
    bench.publish_blob(&blob)?;
    let contestants = bench.contest(&bench.settings())?;
    for peer in contestants.iter().filter_map(|one| one.peer.as_ref()) {
        peer.warm(bench, &blob)?;
    }
    let requests = bench.origin.requests();
    let mut cpu: Vec<Series> = contestants
        .iter()
        .map(|one| bench.series(one.program))
        .collect();
    let mut wall = cpu.clone();
    for _ in 0..bench.scale.rounds {
        for (at, contestant) in contestants.iter().enumerate() {
            let Some(peer) = &contestant.peer else {
                continue;
            };
            let taken = pull(peer, &blob, bench.scale.warm_pulls)?;
            cpu[at].push(taken.cpu);
            wall[at].push(taken.wall);
        }
    }
    if bench.origin.requests() != requests {
        return Err("a warm blob was asked for upstream".into());
    }
    bench.unpublish()?;
    let size = Scale::size(blob.size);
    Ok(vec![
        row(&format!("Warm {size} blob: server CPU"), CPU_TARGET, cpu)?,
        row(&format!("Warm {size} blob: wall time"), WALL_TARGET, wall)?,
    ])
}

/// A row against nginx, with the registry beside it.
pub(crate) fn row(question: &str, target: Target, series: Vec<Series>) -> Outcome<Row> {
    let [mirror, nginx, registry] = in_order(series)?;
    Ok(Row {
        question: question.to_owned(),
        unit: Unit::Seconds,
        target,
        mirror,
        against: Some(nginx),
        beside: vec![registry],
    })
}

/// What one pull takes, in seconds.
struct Taken {
    cpu: f64,
    wall: f64,
}

/// Pulls so often, one after the other on one connection.
fn pull(peer: &Peer, blob: &Blob, pulls: u32) -> Outcome<Taken> {
    let path = peer.blob_path(blob);
    let before = peer.process.cpu();
    let begun = Instant::now();
    let mut client = peer.connect()?;
    for _ in 0..pulls {
        client.get(&path, blob.size)?;
    }
    let wall = begun.elapsed();
    let cpu = peer.process.cpu() - before;
    let each = |time: Duration| time.as_secs_f64() / f64::from(pulls);
    Ok(Taken {
        cpu: each(cpu),
        wall: each(wall),
    })
}

/// For a profile.
pub(crate) fn work(bench: &Bench) -> Outcome<Work> {
    let blob = bench.origin.new_blob(bench.scale.blob_bytes);
    let peer = Peer::mirror(bench, &bench.settings())?;
    peer.warm(bench, &blob)?;
    let step: Step = Box::new(move |_, peer| {
        peer.connect()?.get(&peer.blob_path(&blob), blob.size)?;
        Ok(())
    });
    Ok(Work { peer, step })
}
