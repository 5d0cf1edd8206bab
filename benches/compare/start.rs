//! How long from the start of the process to the first answer, where much is kept.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
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
const BATCH: u64 = 100;
/// Parts of a data folder.
const FORMAT: &str = "format";
const INDEX: &str = "index";
const START_MAX: Duration = Duration::from_secs(60);
/// Between two attempts to connect.
const KNOCK_EVERY: Duration = Duration::from_micros(200);

/// The blobs are real, with files; what the system holds of them in memory, it still holds.
pub(crate) fn first_answer(bench: &Bench) -> Outcome<Vec<Row>> {
    let folder = tempfile::tempdir_in(bench.folder.path())?;
    let kept = Kept {
        data: folder.path().join("data"),
        written: folder.path().join("written"),
        blobs: bench.scale.kept_blobs,
    };
    let written = bench.origin.runtime().block_on(kept.write());
    written.map_err(|error| format!("cannot write a data folder: {error}"))?;
    let mut first = Started::default();
    let mut stopped = Started::default();
    let mut killed = Started::default();
    for _ in 0..bench.scale.rounds {
        kept.restore()?;
        first.push(start(bench, &kept, End::Stop)?);
        stopped.push(start(bench, &kept, End::Kill)?);
        killed.push(start(bench, &kept, End::Kill)?);
    }
    let blobs = kept.blobs;
    let question = format!("Start with {blobs} blobs to the first answer, a blob");
    let rows = [
        stopped.rows(&question),
        first.rows("The same, the first start after all of them were written in one run"),
        killed.rows("The same, after kill -9"),
    ];
    Ok(rows.into_iter().flatten().collect())
}

/// What starts took: by the clock, and of the processors.
#[derive(Default)]
struct Started {
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

impl Started {
    fn push(&mut self, (wall, cpu): (Duration, Duration)) {
        self.wall.push(wall.as_secs_f64() * 1_000.0);
        self.cpu.push(cpu.as_secs_f64() * 1_000.0);
    }

    fn rows(self, question: &str) -> [Row; 2] {
        let row = |question: &str, target, values| Row {
            question: question.to_owned(),
            unit: Unit::Milliseconds,
            target,
            mirror: Series {
                who: Program::Mirror.name().to_owned(),
                values: Ok(values),
            },
            against: None,
            beside: Vec::new(),
        };
        let of_cpu = "… its processors' time until then, which tells more on a busy machine";
        [
            row(question, TARGET, self.wall),
            row(of_cpu, Target::None, self.cpu),
        ]
    }
}

/// A data folder.
struct Kept {
    data: PathBuf,
    /// Its index as it was written, before any start.
    written: PathBuf,
    blobs: u64,
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

impl Kept {
    /// Writes the files, and the rows that the mirror would have written with them.
    async fn write(&self) -> Outcome<()> {
        let store = DiskStore::open(&self.data).await?;
        let origin = Origin::new(UpstreamId::parse(UPSTREAM)?, Repository::parse(REPOSITORY)?);
        for batch in (0..self.blobs).step_by(usize::try_from(BATCH)?) {
            let (mut rows, mut links) = (Vec::new(), Vec::new());
            for number in batch..self.blobs.min(batch + BATCH) {
                let Blob { digest, size } = blob(number);
                let encoded = digest.encoded().to_string();
                let place = self.data.join("blobs/sha256").join(&encoded[..2]);
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
        store.close().await?;
        fs::create_dir(&self.written)?;
        copy(&self.data.join(FORMAT), &self.written.join(FORMAT))?;
        copy(&self.data.join(INDEX), &self.written.join(INDEX))
    }

    /// Makes the index what it was when all was written.
    fn restore(&self) -> Outcome<()> {
        fs::remove_dir_all(self.data.join(INDEX))?;
        copy(&self.written.join(FORMAT), &self.data.join(FORMAT))?;
        copy(&self.written.join(INDEX), &self.data.join(INDEX))
    }
}

/// Copies a file, or a folder with all that is in it.
fn copy(from: &Path, to: &Path) -> Outcome<()> {
    if !from.is_dir() {
        fs::copy(from, to)?;
        return Ok(());
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        copy(&from.join(&name), &to.join(&name))?;
    }
    Ok(())
}

/// How the mirror ends after its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stop,
    Kill,
}

/// From before the process is made until its answer is here: one of the blobs that are kept, from
/// its file. By the clock, and of the processors.
fn start(bench: &Bench, kept: &Kept, end: End) -> Outcome<(Duration, Duration)> {
    let mut settings = bench.settings();
    settings.data = Some(kept.data.clone());
    let begun = Instant::now();
    let spawned = Peer::spawn(bench, Program::Mirror, &settings)?;
    let (mut process, address, _folder) = spawned.ok_or("the mirror was built")?;
    while TcpStream::connect(address).is_err() {
        process.look(begun + START_MAX)?;
        sleep(KNOCK_EVERY);
    }
    let asked = blob(kept.blobs / 2);
    let path = format!("{}?ns={UPSTREAM}", asked.path());
    Client::connect(address)?.get_verified(&path, asked.digest, asked.size)?;
    let taken = (begun.elapsed(), process.cpu());
    if end == End::Stop {
        process.stop()?;
    }
    match bench.origin.blob_bytes_sent(&asked.digest) {
        0 => Ok(taken),
        _ => Err("a blob that is kept was fetched".into()),
    }
}
