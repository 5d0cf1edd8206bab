//! How many requests for a manifest that is held are answered.

use std::path::Path;
use std::time::Duration;

use crate::Outcome;
use crate::bench::{Bench, Contestant};
use crate::load::{Request, ours, wrk};
use crate::origin::Manifest;
use crate::peer::Peer;
use crate::profile::{Step, Work};
use crate::programs::NOT_INSTALLED;
use crate::row::{Row, Series, Target};
use crate::spread::Unit;
use crate::warm_blob;

/// How long requests are made for a profile before it is looked whether that is enough.
const STEP: Duration = Duration::from_millis(200);

/// By digest, times a static file of nginx's.
const DIGEST_TARGET: Target = Target::TimesAtLeast(1.0);
/// By tag and HEAD, times that.
const OTHER_TARGET: Target = Target::TimesAtLeast(0.95);

pub(crate) fn rates(bench: &Bench) -> Outcome<Vec<Row>> {
    let manifest = bench.origin.new_image();
    bench.publish_manifest(&manifest)?;
    let mut rows = by_digest(bench, &manifest)?;
    rows.extend(logged(bench, &manifest)?);
    rows.extend(by_tag_and_head(bench, &manifest)?);
    bench.unpublish()?;
    Ok(rows)
}

/// Asks once each way that is asked later, and hashes what comes.
fn warm(peer: &Peer, manifest: &Manifest) -> Outcome<()> {
    let path = peer.path(&manifest.path());
    peer.connect()?
        .get_verified(&path, manifest.digest, manifest.size)?;
    Ok(())
}

fn with_wrk(
    bench: &Bench,
    contestants: &[Contestant],
    manifest: &Manifest,
) -> Outcome<Vec<Series>> {
    let mut series: Vec<Series> = contestants
        .iter()
        .map(|one| bench.series(one.program))
        .collect();
    let Some(program) = bench.programs.wrk.as_deref() else {
        let absent = |series: Series| Series::absent(&series.who, &format!("wrk {NOT_INSTALLED}"));
        return Ok(series.into_iter().map(absent).collect());
    };
    let peers: Vec<_> = contestants.iter().map(|one| one.peer.as_ref()).collect();
    for peer in peers.iter().flatten() {
        warm(peer, manifest)?;
    }
    let requests = bench.origin.requests();
    for _ in 0..bench.scale.rounds {
        for (peer, series) in peers.iter().zip(&mut series) {
            let Some(peer) = peer else { continue };
            series.push(rate(bench, program, peer, manifest)?);
        }
    }
    if bench.origin.requests() != requests {
        return Err("a warm manifest was asked for upstream".into());
    }
    Ok(series)
}

fn rate(bench: &Bench, wrk_path: &Path, peer: &Peer, manifest: &Manifest) -> Outcome<f64> {
    let (path, time) = (peer.path(&manifest.path()), bench.scale.load_time);
    wrk(wrk_path, peer.address, &path, manifest.size, time)
}

fn row(question: &str, target: Target, series: Vec<Series>) -> Outcome<Row> {
    let row = warm_blob::row(question, target, series)?;
    Ok(Row {
        unit: Unit::PerSecond,
        ..row
    })
}

fn by_digest(bench: &Bench, manifest: &Manifest) -> Outcome<Vec<Row>> {
    let contestants = bench.contest(&bench.settings())?;
    let series = with_wrk(bench, &contestants, manifest)?;
    let question = "Warm manifest by digest, 32 connections kept alive, wrk";
    Ok(vec![row(question, DIGEST_TARGET, series)?])
}

fn logged(bench: &Bench, manifest: &Manifest) -> Outcome<Vec<Row>> {
    let mut settings = bench.settings();
    settings.logs_requests = true;
    let contestants = bench.contest(&settings)?;
    let series = with_wrk(bench, &contestants, manifest)?;
    let question = "The same, and each request is logged to a file";
    Ok(vec![row(question, Target::None, series)?])
}

fn by_tag_and_head(bench: &Bench, manifest: &Manifest) -> Outcome<Vec<Row>> {
    let mirror = Peer::mirror(bench, &bench.settings())?;
    let by_digest = mirror.path(&manifest.path());
    let by_tag = mirror.path(&Manifest::tag_path());
    mirror
        .connect()?
        .get_verified(&by_tag, manifest.digest, manifest.size)?;
    mirror.connect()?.head_of(&by_digest, manifest.size)?;
    let ask = |method, path, body| Request { method, path, body };
    let size = manifest.size;
    let asked = [
        ("GET by digest", ask("GET", by_digest.as_str(), size)),
        ("GET by tag", ask("GET", by_tag.as_str(), size)),
        ("HEAD by digest", ask("HEAD", by_digest.as_str(), 0)),
        ("HEAD by tag", ask("HEAD", by_tag.as_str(), 0)),
    ];
    let mut series: Vec<Series> = asked.iter().map(|(name, _)| Series::new(name)).collect();
    let requests = bench.origin.requests();
    for _ in 0..bench.scale.rounds {
        for ((_, request), series) in asked.iter().zip(&mut series) {
            series.push(ours(mirror.address, *request, bench.scale.load_time)?);
        }
    }
    if bench.origin.requests() != requests {
        return Err("a tag within its TTL was asked for upstream".into());
    }
    let [base, others @ ..] = &series[..] else {
        return Err("there are four of them".into());
    };
    let rows = others.iter().map(|series| Row {
        question: format!("{}, within its TTL where it is a tag", series.who),
        unit: Unit::PerSecond,
        target: OTHER_TARGET,
        mirror: series.clone(),
        against: Some(base.clone()),
        beside: Vec::new(),
    });
    Ok(rows.collect())
}

/// For a profile: in parts of a second.
pub(crate) fn work(bench: &Bench) -> Outcome<Work> {
    let manifest = bench.origin.new_image();
    let peer = Peer::mirror(bench, &bench.settings())?;
    warm(&peer, &manifest)?;
    let step: Step = Box::new(move |_, peer| {
        let path = peer.path(&manifest.path());
        let request = Request {
            method: "GET",
            path: &path,
            body: manifest.size,
        };
        ours(peer.address, request, STEP)?;
        Ok(())
    });
    Ok(Work { peer, step })
}
