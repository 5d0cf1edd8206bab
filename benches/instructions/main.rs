//! How many instructions does a hit take? A manifest by digest, by tag within its time, by HEAD and
//! with its line in the access log, and a blob of 64 KiB: counted by callgrind, in the binary, on a
//! connection that is kept alive. Unlike times, the counts are the same on a machine that is busy.
//!
//! They are compared with those of `baseline.txt`: one that is above it by more than
//! [`GROWTH_MAX_PERCENT`] fails. What a change is known to cost is accepted with
//! `cargo bench -p benches --bench instructions -- --update`, which writes the file anew.
//!
//! `-- --binary PATH` counts in a binary that is there already, and compares with nothing.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

mod baseline;
mod counted;
mod load;
#[expect(dead_code, reason = "each benchmark uses a part of it")]
#[path = "../setup.rs"]
mod setup;

use std::path::{Path, PathBuf};

use registry_server::testing::{FixtureRegistry, ImageSpec};
use tokio::runtime::Runtime;

use baseline::Baseline;
use counted::{Counted, build, is_possible};
use load::{Request, ask};
use setup::{REPOSITORY, blob_path, manifest_path, runtime};

/// How much more than the baseline says a request may take: other versions of the compiler and of
/// the C library count a little differently.
const GROWTH_MAX_PERCENT: u64 = 15;
/// Requests of each kind in the first run.
const FEW: u64 = 500;
/// Requests of one kind in the run that is compared with it: what the two differ by is what these
/// requests take, without the start, the first of each, and the end. Many more, since what goes on in
/// the background differs between two runs, too.
const MANY: u64 = 13 * FEW;
const BLOB_BYTES: u64 = 64 << 10;

/// What the log is told to leave out.
const QUIET: &str = "info,access=off";
const LOGGED: &str = "info";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let given = arguments.iter().position(|argument| argument == "--binary");
    let given = given
        .and_then(|at| arguments.get(at + 1))
        .map(PathBuf::from);
    let update = arguments.iter().any(|argument| argument == "--update");
    if !is_possible() {
        return;
    }
    let compares = given.is_none();
    let counts = count(&runtime(), &given.unwrap_or_else(build));
    if update {
        Baseline::write(&counts);
    } else if compares {
        Baseline::read().compare(&counts, GROWTH_MAX_PERCENT);
    }
}

/// Instructions that a request takes, by the kind of request.
type Counts = Vec<(&'static str, u64)>;

fn count(runtime: &Runtime, binary: &Path) -> Counts {
    let origin = runtime.block_on(FixtureRegistry::start());
    let image = origin.add_image(
        REPOSITORY,
        "latest",
        &ImageSpec::new(1).layers(&[BLOB_BYTES]),
    );
    let by_digest = manifest_path(image.root().digest);
    let quiet = [
        ("manifest by digest", Request::get(&by_digest)),
        ("manifest by tag", Request::get(&manifest_path("latest"))),
        ("manifest by HEAD", Request::head(&by_digest)),
        (
            "blob of 64 KiB",
            Request::get(&blob_path(image.layers[0].digest)),
        ),
    ];
    let logged = [("manifest by digest, logged", Request::get(&by_digest))];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let world = World {
        binary,
        folder: folder.path(),
        url: &origin.url(),
    };
    // Everything is fetched here, and the index is what it will be.
    world.total(QUIET, &quiet.each_ref().map(|(_, request)| (request, 1)));
    origin.reset_counters();
    let mut counts = world.counts(QUIET, &quiet);
    counts.extend(world.counts(LOGGED, &logged));
    assert_eq!(origin.total(), 0, "these were hits");
    counts
}

/// What is the same for all runs.
struct World<'a> {
    binary: &'a Path,
    folder: &'a Path,
    url: &'a str,
}

impl World<'_> {
    /// What one request of each of these kinds takes.
    fn counts(&self, log: &str, kinds: &[(&'static str, Request)]) -> Counts {
        let run = |many: Option<usize>| {
            let numbers = (0..kinds.len()).map(|at| if Some(at) == many { MANY } else { FEW });
            let requests = kinds.iter().map(|(_, request)| request);
            self.total(log, &requests.zip(numbers).collect::<Vec<_>>())
        };
        let few = run(None);
        let mut counts = Counts::new();
        for (at, (name, _)) in kinds.iter().enumerate() {
            let count = run(Some(at)).saturating_sub(few) / (MANY - FEW);
            println!("instructions: {name}: {count}");
            counts.push((name, count));
        }
        counts
    }

    /// What a run takes that answers each of these requests so often.
    fn total(&self, log: &str, requests: &[(&Request, u64)]) -> u64 {
        let counted = Counted::start(self.binary, self.folder, self.url, log);
        ask(counted.address(), requests);
        counted.stop()
    }
}
