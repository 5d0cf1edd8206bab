//! A blob that comes over a line that is slower than the machine: for one client, and for many.

use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::bench::Bench;
use crate::client::{Client, Got};
use crate::link::{Line, Link};
use crate::options::Scale;
use crate::origin::Blob;
use crate::peer::{Peer, Program, Settings};
use crate::row::{Row, Series, Target};
use crate::spread::Unit;

/// What lies between most clusters and their registry.
pub(crate) const LINE: Line = Line {
    bits_per_second: 200_000_000,
    round_trip: Duration::from_millis(30),
};
const WALL_TARGET: Target = Target::TimesAtMost(1.02);
/// In milliseconds.
const FIRST_BYTE_TARGET: Target = Target::MoreAtMost(2.0);

/// Of what that blob has, how much comes from upstream; and the last client's time, times that of
/// one client alone.
const BYTES_TARGET: Target = Target::AtMost(1.0);
const LAST_TARGET: Target = Target::TimesAtMost(1.05);

/// One client, against the same pull without anybody between.
pub(crate) fn one(bench: &Bench) -> Outcome<Vec<Row>> {
    let mut wall = [
        Series::new("mirror"),
        Series::new("direct"),
        bench.series(Program::Registry),
    ];
    let mut first = wall.clone();
    for _ in 0..bench.scale.rounds {
        let blob = bench.origin.new_blob(bench.scale.far_bytes);
        let gots = [
            pull(bench, Some(Program::Mirror), &blob)?,
            pull(bench, None, &blob)?,
            pull(bench, Some(Program::Registry), &blob)?,
        ];
        for (at, got) in gots.into_iter().enumerate() {
            let Some(got) = got else { continue };
            wall[at].push(got.total.as_secs_f64());
            first[at].push(got.first_byte.as_secs_f64() * 1_000.0);
        }
    }
    let size = Scale::size(bench.scale.far_bytes);
    let question = format!("Cold {size} blob behind 200 Mbit/s and 30 ms: wall time");
    let row = |question: &str, unit, target, [mirror, direct, registry]: [Series; 3]| Row {
        question: question.to_owned(),
        unit,
        target,
        mirror,
        against: Some(direct),
        beside: vec![registry],
    };
    Ok(vec![
        row(&question, Unit::Seconds, WALL_TARGET, wall),
        row(
            "The same: first byte",
            Unit::Milliseconds,
            FIRST_BYTE_TARGET,
            first,
        ),
    ])
}

/// A program with nothing, and no connection, behind a line of its own.
struct Behind {
    peer: Peer,
    _link: Link,
}

fn behind(bench: &Bench, program: Program) -> Outcome<Option<Behind>> {
    let link = Link::start(bench.origin.address(), LINE)?;
    let settings = Settings {
        upstream: link.url(),
        ..bench.settings()
    };
    let peer = Peer::start(bench, program, &settings)?;
    Ok(peer.map(|peer| Behind { peer, _link: link }))
}

/// Pulls over the line, by a program or straight. None where that is not installed.
fn pull(bench: &Bench, program: Option<Program>, blob: &Blob) -> Outcome<Option<Got>> {
    let Some(program) = program else {
        let link = Link::start(bench.origin.address(), LINE)?;
        let mut client = Client::connect(link.address)?;
        return Ok(Some(client.get(&blob.path(), blob.size)?));
    };
    let Some(behind) = behind(bench, program)? else {
        return Ok(None);
    };
    let before = bench.origin.blob_bytes_sent(&blob.digest);
    let path = behind.peer.blob_path(blob);
    let got = behind
        .peer
        .connect()?
        .get_verified(&path, blob.digest, blob.size)?;
    let sent = bench.origin.blob_bytes_sent(&blob.digest) - before;
    match program == Program::Mirror && sent != blob.size {
        true => Err(format!("{sent} bytes came from upstream for {}", blob.size).into()),
        false => Ok(Some(got)),
    }
}

/// Many clients at the same time, against one.
pub(crate) fn many(bench: &Bench) -> Outcome<Vec<Row>> {
    let clients = bench.scale.clients;
    let mut bytes = [Series::new("mirror"), bench.series(Program::Registry)];
    let mut last = [Series::new("mirror"), Series::new("a single client")];
    let mut registry_last = bench.series(Program::Registry);
    for round in 0..bench.scale.rounds {
        let together = pull_together(bench, Program::Mirror, clients)?;
        let alone = pull_together(bench, Program::Mirror, 1)?;
        if let (Some(together), Some(alone)) = (together, alone) {
            bytes[0].push(together.upstream_times);
            last[0].push(together.last);
            last[1].push(alone.last);
        }
        if round < bench.scale.long_rounds
            && let Some(together) = pull_together(bench, Program::Registry, clients)?
        {
            bytes[1].push(together.upstream_times);
            registry_last.push(together.last);
        }
    }
    let size = Scale::size(bench.scale.far_bytes);
    let [mirror, registry] = bytes;
    let [last, single] = last;
    Ok(vec![
        Row {
            question: format!(
                "{clients} clients of one cold {size} blob behind 200 Mbit/s: times its bytes from \
                 upstream"
            ),
            unit: Unit::Times,
            target: BYTES_TARGET,
            mirror,
            against: None,
            beside: vec![registry],
        },
        Row {
            question: "The same: the last client's time".to_owned(),
            unit: Unit::Seconds,
            target: LAST_TARGET,
            mirror: last,
            against: Some(single),
            beside: vec![registry_last],
        },
    ])
}

/// What clients of one cold blob meant.
struct Together {
    /// Bytes that came from upstream, times those of the blob.
    upstream_times: f64,
    /// Until the last of them had all, in seconds.
    last: f64,
}

fn pull_together(bench: &Bench, program: Program, clients: usize) -> Outcome<Option<Together>> {
    let blob = bench.origin.new_blob(bench.scale.far_bytes);
    let Some(Behind { peer, _link }) = behind(bench, program)? else {
        return Ok(None);
    };
    let path = peer.blob_path(&blob);
    let begun = Instant::now();
    let got: Outcome<Vec<Duration>> = thread::scope(|scope| {
        let pull = |number: usize| -> Outcome<Duration> {
            let mut client = peer.connect()?;
            // One of them is looked at closely; to hash is work that they all would do on machines
            // of their own.
            match number {
                0 => client.get_verified(&path, blob.digest, blob.size)?,
                _ => client.get(&path, blob.size)?,
            };
            Ok(begun.elapsed())
        };
        let threads: Vec<_> = (0..clients)
            .map(|number| scope.spawn(move || pull(number)))
            .collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(got) => got,
            Err(_) => Err("a client has panicked".into()),
        });
        joined.collect()
    });
    let last = got?.into_iter().max().unwrap_or_default();
    let sent = bench.origin.blob_bytes_sent(&blob.digest);
    Ok(Some(Together {
        upstream_times: sent as f64 / blob.size as f64,
        last: last.as_secs_f64(),
    }))
}
