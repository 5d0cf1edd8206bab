//! Whether those who ask for little wait for those who pull much: the 99th percentile of a warm
//! manifest while eight cold blobs are filled, against that of an idle mirror.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;
use rustix::thread::gettid;

use crate::Outcome;
use crate::bench::Bench;
use crate::options::Scale;
use crate::origin::{Blob, Manifest};
use crate::peer::{Peer, Program};
use crate::row::{Row, Series, Target};
use crate::spread::Unit;

/// Times the idle one's.
const TARGET: Target = Target::TimesAtMost(5.0);
/// Blobs that are filled at the same time, each for one client.
const FILLS: u64 = 8;
/// Bytes a second of all fills where they are paced: a gigabit line's, full.
const PACE: u64 = 125_000_000;
/// Between two requests for the manifest, on one connection.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// As few as that are looked at where the fills are done at once.
const SAMPLES_MIN: usize = 20;
/// Of whoever asks: what is measured is the mirror, and not how long the asking thread waits for a
/// processor. Only root may.
const NICE: i32 = -15;

pub(crate) fn percentiles(bench: &Bench) -> Outcome<Vec<Row>> {
    let manifest = bench.origin.new_image();
    let paced = rows(bench, &manifest, Some(PACE / FILLS))?;
    let unpaced = rows(bench, &manifest, None)?;
    Ok([paced, unpaced].concat())
}

fn rows(bench: &Bench, manifest: &Manifest, rate: Option<u64>) -> Outcome<Vec<Row>> {
    let mut idle = [Series::new("the idle one"), Series::new("registry, idle")];
    let mut busy = [Series::new("mirror"), Series::new("registry")];
    let programs = [Program::Mirror, Program::Registry];
    for _ in 0..bench.scale.long_rounds {
        for (at, program) in programs.into_iter().enumerate() {
            match measure(bench, program, manifest, rate)? {
                Some((quiet, loud)) => {
                    idle[at].push(quiet);
                    busy[at].push(loud);
                }
                None => (idle[at], busy[at]) = (bench.series(program), bench.series(program)),
            }
        }
    }
    let [mirror, registry] = busy;
    let [against, registry_idle] = idle;
    let size = Scale::size(bench.scale.blob_bytes);
    let how = match rate {
        Some(_) => "1 Gbit/s in all",
        None => "as fast as it goes: origin, clients and mirror share the cores",
    };
    Ok(vec![Row {
        question: format!(
            "99th percentile of a warm manifest while {FILLS} cold {size} blobs are filled, {how}"
        ),
        unit: Unit::Milliseconds,
        target: TARGET,
        mirror,
        against: Some(against),
        beside: vec![registry, registry_idle],
    }])
}

/// The percentile of an idle one and then of a busy one, in milliseconds.
fn measure(
    bench: &Bench,
    program: Program,
    manifest: &Manifest,
    rate: Option<u64>,
) -> Outcome<Option<(f64, f64)>> {
    let Some(peer) = Peer::start(bench, program, &bench.settings())? else {
        return Ok(None);
    };
    let path = peer.path(&manifest.path());
    peer.connect()?
        .get_verified(&path, manifest.digest, manifest.size)?;
    let time = bench.scale.tail_time;
    let idle = sample(
        &peer,
        manifest,
        Instant::now() + time,
        &AtomicBool::new(false),
    )?;
    let blobs: Vec<Blob> = (0..FILLS)
        .map(|_| bench.origin.new_blob(bench.scale.blob_bytes))
        .collect();
    bench
        .origin
        .registry
        .behave(|behaviour| behaviour.bytes_per_second = rate);
    let is_over = AtomicBool::new(false);
    let busy = thread::scope(|scope| {
        let (peer, is_over) = (&peer, &is_over);
        let pulls: Vec<_> = blobs
            .iter()
            .map(|blob| scope.spawn(move || pull(peer, blob, is_over)))
            .collect();
        let busy = sample(peer, manifest, Instant::now() + time, is_over);
        is_over.store(true, Ordering::Relaxed);
        for pull in pulls {
            pull.join().map_err(|_| "a client has panicked")??;
        }
        busy
    });
    bench
        .origin
        .registry
        .behave(|behaviour| behaviour.bytes_per_second = None);
    Ok(Some((percentile(idle), percentile(busy?))))
}

/// Pulls a blob, until it is whole or enough was seen; where it is whole, enough was seen.
fn pull(peer: &Peer, blob: &Blob, is_over: &AtomicBool) -> Outcome<()> {
    let path = peer.blob_path(blob);
    let pulled = peer.connect()?.get_into(&path, blob.size, |_| {
        match is_over.load(Ordering::Relaxed) {
            true => Err("enough was seen".into()),
            false => Ok(()),
        }
    });
    match pulled {
        Err(error) if !is_over.load(Ordering::Relaxed) => Err(error),
        Ok(_) | Err(_) => {
            is_over.store(true, Ordering::Relaxed);
            Ok(())
        }
    }
}

/// Asks at a fixed rate, until then or until it is over; how long each answer took. An answer that
/// is late makes the next request wait, and that wait counts.
fn sample(
    peer: &Peer,
    manifest: &Manifest,
    until: Instant,
    is_over: &AtomicBool,
) -> Outcome<Vec<Duration>> {
    let path = peer.path(&manifest.path());
    thread::scope(|scope| {
        let asking = scope.spawn(|| -> Outcome<Vec<Duration>> {
            // A thread of its own, so that the others stay what they are. Who may not, asks as
            // patiently as everybody else.
            let _ = setpriority_process(Some(gettid()), NICE);
            let mut client = peer.connect()?;
            let (mut taken, mut due) = (Vec::new(), Instant::now());
            while Instant::now() < until
                && (taken.len() < SAMPLES_MIN || !is_over.load(Ordering::Relaxed))
            {
                due += ASK_EVERY;
                let late = Instant::now() > due;
                sleep(due.saturating_duration_since(Instant::now()));
                let begun = if late { due } else { Instant::now() };
                client.get(&path, manifest.size)?;
                taken.push(begun.elapsed());
            }
            Ok(taken)
        });
        asking
            .join()
            .map_err(|_| "the sampling thread has panicked")?
    })
}

fn percentile(mut taken: Vec<Duration>) -> f64 {
    taken.sort();
    let at = (taken.len() * 99).div_ceil(100).saturating_sub(1);
    taken.get(at).copied().unwrap_or_default().as_secs_f64() * 1_000.0
}
