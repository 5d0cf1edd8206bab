//! What a blob that is held costs over TLS. curl is the client, which makes everybody use the same
//! cipher.

use std::path::Path;

use registry_server::testing::FixtureTls;

use crate::Outcome;
use crate::bench::{Bench, in_order};
use crate::options::Scale;
use crate::origin::Blob;
use crate::peer::{Peer, Program, Settings, TlsFiles};
use crate::process::{command, own_ip};
use crate::profile::{Step, Work};
use crate::programs::NOT_INSTALLED;
use crate::row::{Row, Series, Target};
use crate::spread::Unit;

/// Times nginx.
const TARGET: Target = Target::TimesAtMost(1.1);
/// The one that every processor of today has instructions for, and that all three offer.
const CIPHER: &str = "TLS_AES_128_GCM_SHA256";

const NO_TLS: &str = "this build speaks no TLS to clients";
/// What curl is told to speak.
const HTTP_1: &str = "--http1.1";
const HTTP_2: &str = "--http2";

pub(crate) fn cpu(bench: &Bench) -> Outcome<Vec<Row>> {
    let files = TlsFiles::write(&certificate(), bench.folder.path())?;
    let blob = bench.origin.new_blob(bench.scale.blob_bytes);
    bench.publish_blob(&blob)?;
    let size = Scale::size(blob.size);
    let question = format!("Warm {size} blob over TLS 1.3, {CIPHER}, HTTP/1.1: server CPU");
    let first = row(question, TARGET, measure(bench, &blob, &files, HTTP_1)?)?;
    let question = "The same over HTTP/2, where it is spoken".to_owned();
    let second = row(
        question,
        Target::None,
        measure(bench, &blob, &files, HTTP_2)?,
    )?;
    bench.unpublish()?;
    Ok(vec![first, second])
}

fn row(question: String, target: Target, series: Vec<Series>) -> Outcome<Row> {
    let [mirror, nginx, registry] = in_order(series)?;
    Ok(Row {
        question,
        unit: Unit::Seconds,
        target,
        mirror,
        against: Some(nginx),
        beside: vec![registry],
    })
}

fn measure(bench: &Bench, blob: &Blob, files: &TlsFiles, http: &str) -> Outcome<Vec<Series>> {
    let mut series: Vec<Series> = Program::ALL.map(|program| bench.series(program)).into();
    let Some(curl) = bench.programs.curl.as_deref() else {
        let absent = |series: Series| Series::absent(&series.who, &format!("curl {NOT_INSTALLED}"));
        return Ok(series.into_iter().map(absent).collect());
    };
    let mut peers = Vec::new();
    for (program, series) in Program::ALL.into_iter().zip(&mut series) {
        let peer = match program {
            Program::Mirror if !speaks_tls(bench)? => {
                *series = Series::absent(program.name(), NO_TLS);
                None
            }
            _ => Peer::start(bench, program, &settings(bench, files))?,
        };
        if let Some(peer) = &peer {
            // Until it is kept: what is pulled first comes from upstream.
            for _ in 0..2 {
                pull(curl, peer, blob, files, http, 1)?;
                peer.process.settled_cpu()?;
            }
        }
        peers.push(peer);
    }
    let requests = bench.origin.requests();
    for _ in 0..bench.scale.rounds {
        for (peer, series) in peers.iter().zip(&mut series) {
            let Some(peer) = peer else { continue };
            let before = peer.process.cpu();
            let pulls = bench.scale.warm_pulls;
            pull(curl, peer, blob, files, http, pulls)?;
            let taken = peer.process.cpu() - before;
            series.push(taken.as_secs_f64() / f64::from(pulls));
        }
    }
    match bench.origin.requests() == requests {
        true => Ok(series),
        false => Err("a warm blob was asked for upstream".into()),
    }
}

/// Good for the address that all listen on.
fn certificate() -> FixtureTls {
    FixtureTls::generate_for(&[&own_ip().to_string()])
}

fn settings(bench: &Bench, files: &TlsFiles) -> Settings {
    Settings {
        tls: Some(files.clone()),
        ..bench.settings()
    }
}

/// Whether the mirror has the keys: one that was built earlier may be compared, too.
fn speaks_tls(bench: &Bench) -> Outcome<bool> {
    let help = command(&bench.programs.mirror)
        .args(["serve", "--help"])
        .output()?;
    Ok(String::from_utf8_lossy(&help.stdout).contains("--tls-cert-file"))
}

/// Pulls so often, one after the other on one connection.
fn pull(
    curl: &Path,
    peer: &Peer,
    blob: &Blob,
    files: &TlsFiles,
    http: &str,
    pulls: u32,
) -> Outcome<()> {
    let url = format!("https://{}{}", peer.address, peer.blob_path(blob));
    let mut command = command(curl);
    command
        .args([
            "--silent",
            "--show-error",
            "--tlsv1.3",
            "--tls13-ciphers",
            CIPHER,
            http,
        ])
        .args([
            "--max-time",
            "300",
            "--write-out",
            "%{http_code} %{size_download}\\n",
            "--cacert",
        ])
        .arg(&files.authority);
    for _ in 0..pulls {
        command.args(["--output", "/dev/null", &url]);
    }
    let output = command.output()?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let wanted = format!("200 {}", blob.size);
    match told.lines().count() == pulls as usize && told.lines().all(|line| line == wanted) {
        true => Ok(()),
        false => {
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(format!("{}: curl: {told}{error}", peer.program.name()).into())
        }
    }
}

/// For a profile.
pub(crate) fn work(bench: &Bench) -> Outcome<Work> {
    let curl = bench.programs.curl.clone();
    let curl = curl.ok_or_else(|| format!("curl {NOT_INSTALLED}"))?;
    if !speaks_tls(bench)? {
        return Err(NO_TLS.into());
    }
    let files = TlsFiles::write(&certificate(), bench.folder.path())?;
    let blob = bench.origin.new_blob(bench.scale.blob_bytes);
    let peer = Peer::mirror(bench, &settings(bench, &files))?;
    pull(&curl, &peer, &blob, &files, HTTP_1, 1)?;
    peer.process.settled_cpu()?;
    let step: Step = Box::new(move |_, peer| pull(&curl, peer, &blob, &files, HTTP_1, 1));
    Ok(Work { peer, step })
}
