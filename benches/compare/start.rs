//! How long from the start of the process to the first answer, where much is kept.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use registry_core::testing::content::digest_of;
use registry_core::{Link, LinkStore as _, LinkTarget, Origin, Repository, Timestamp, UpstreamId};
use registry_storage::DiskStore;

use crate::Outcome;
use crate::bench::Bench;
use crate::client::Client;
use crate::origin::{Blob, REPOSITORY, UPSTREAM};
use crate::peer::{Peer, Program};
use crate::row::{Row, Series, Target};
use crate::spread::Unit;

/// In milliseconds.
const TARGET: Target = Target::AtMost(100.0);
/// Blobs that are recorded at a time, as a large manifest would.
const BATCH: u64 = 1_000;
const START_MAX: Duration = Duration::from_secs(60);
/// Between two attempts to connect.
const KNOCK_EVERY: Duration = Duration::from_micros(200);

/// The blobs are real, with files; what the system holds of them in memory, it still holds.
pub(crate) fn first_answer(bench: &Bench) -> Outcome<Vec<Row>> {
    let data = tempfile::tempdir_in(bench.folder.path())?;
    let kept = bench.scale.kept_blobs;
    let written = bench.origin.runtime().block_on(keep(data.path(), kept));
    written.map_err(|error| format!("cannot write a data folder: {error}"))?;
    let (mut stopped, mut killed) = (Series::new("mirror"), Series::new("mirror"));
    // The first start counts for nothing: it meets what writing has left.
    start(bench, data.path(), kept, End::Stop)?;
    for _ in 0..bench.scale.rounds {
        stopped.push(start(bench, data.path(), kept, End::Kill)?);
        killed.push(start(bench, data.path(), kept, End::Stop)?);
    }
    let row = |question, target, mirror| Row {
        question,
        unit: Unit::Milliseconds,
        target,
        mirror,
        against: None,
        beside: Vec::new(),
    };
    Ok(vec![
        row(
            format!("Start with {kept} blobs to the first answer, a blob"),
            TARGET,
            stopped,
        ),
        row("The same after kill -9".to_owned(), Target::None, killed),
    ])
}

/// A blob of its own for each number.
fn content(number: u64) -> [u8; 64] {
    let mut content = [0; 64];
    content[..8].copy_from_slice(&number.to_le_bytes());
    content
}

fn blob(number: u64) -> Blob {
    let content = content(number);
    Blob {
        digest: digest_of(&content),
        size: content.len() as u64,
    }
}

/// Writes the files, and the rows that the mirror would have written with them.
async fn keep(folder: &Path, kept: u64) -> Outcome<()> {
    let store = DiskStore::open(folder).await?;
    let origin = Origin::new(UpstreamId::parse(UPSTREAM)?, Repository::parse(REPOSITORY)?);
    for batch in (0..kept).step_by(usize::try_from(BATCH)?) {
        let (mut rows, mut links) = (Vec::new(), Vec::new());
        for number in batch..kept.min(batch + BATCH) {
            let Blob { digest, size } = blob(number);
            let encoded = digest.encoded().to_string();
            let place = folder.join("blobs/sha256").join(&encoded[..2]);
            fs::create_dir_all(&place)?;
            fs::write(place.join(encoded), content(number))?;
            rows.push((digest, size, Timestamp::from_millis(number)));
            links.push(Link {
                target: LinkTarget::Blob(digest),
                size: Some(size),
            });
        }
        store.plant_blobs(rows).await?;
        store.link(&origin, links).await?;
    }
    Ok(store.close().await?)
}

/// How the mirror ends after its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stop,
    Kill,
}

/// Milliseconds from before the process is made until its answer is here: one of the blobs that
/// are kept, from its file.
fn start(bench: &Bench, data: &Path, kept: u64, end: End) -> Outcome<f64> {
    let mut settings = bench.settings();
    settings.data = Some(data.to_owned());
    let begun = Instant::now();
    let spawned = Peer::spawn(bench, Program::Mirror, &settings)?;
    let (mut process, address, _folder) = spawned.ok_or("the mirror was built")?;
    while TcpStream::connect(address).is_err() {
        process.look(begun + START_MAX)?;
        sleep(KNOCK_EVERY);
    }
    let asked = blob(kept / 2);
    let path = format!("{}?ns={UPSTREAM}", asked.path());
    Client::connect(address)?.get_verified(&path, asked.digest, asked.size)?;
    let taken = begun.elapsed();
    if end == End::Stop {
        process.stop()?;
    }
    match bench.origin.blob_bytes_sent(&asked.digest) {
        0 => Ok(taken.as_secs_f64() * 1_000.0),
        _ => Err("a blob that is kept was fetched".into()),
    }
}
