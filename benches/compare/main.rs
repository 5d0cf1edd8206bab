//! How fast is it, compared with what people would use in its place? Runs every question of
//! `BENCHMARKS.md` against nginx and docker-registry of the distribution, one after the other in
//! rounds on the same machine, and writes the answers there.
//!
//! `cargo bench -p benches --bench compare` takes half an hour; `-- --quick`, `--only NAME` and
//! `--rounds N` make less of it, and `--profile NAME` shows where the mirror's time goes. Under
//! `cargo test` all is tiny, and only what must be right is looked at: bytes, statuses and counts.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

mod bench;
mod client;
mod cold_blob;
mod far;
mod link;
mod load;
mod machine;
mod manifest;
mod memory;
mod options;
mod origin;
mod peer;
mod process;
mod profile;
mod programs;
mod report;
mod row;
mod spread;
mod start;
mod tail;
mod tls;
mod warm_blob;

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use bench::Bench;
use options::Options;
use profile::Work;
use row::{Row, Verdict};

/// What measuring gives, or why it gives nothing.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Rows that are measured together.
struct Group {
    name: &'static str,
    measure: fn(&Bench) -> Outcome<Vec<Row>>,
    /// What a profile looks at.
    work: Option<fn(&Bench) -> Outcome<Work>>,
}

const GROUPS: [Group; 9] = [
    group("warm-blob", warm_blob::plain, Some(warm_blob::work)),
    group("manifest", manifest::rates, Some(manifest::work)),
    group("cold-blob", cold_blob::cpu, Some(cold_blob::work)),
    group("far-blob", far::one, None),
    group("fan-out", far::many, None),
    group("memory", memory::slow_clients, None),
    group("tls", tls::cpu, Some(tls::work)),
    group("start", start::first_answer, None),
    group("tail", tail::percentiles, None),
];

const fn group(
    name: &'static str,
    measure: fn(&Bench) -> Outcome<Vec<Row>>,
    work: Option<fn(&Bench) -> Outcome<Work>>,
) -> Group {
    Group {
        name,
        measure,
        work,
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let options = Options::parse(std::env::args())?;
    let named = options.only.iter().chain(&options.profile);
    let unknown: Vec<&String> = named
        .filter(|name| GROUPS.iter().all(|group| group.name != *name))
        .collect();
    if !unknown.is_empty() {
        let names = GROUPS.map(|group| group.name).join(", ");
        return Err(format!("unknown: {unknown:?}; there are {names}").into());
    }
    if options.is_smoke {
        println!("compare: all is tiny, so numbers and verdicts mean nothing; what is wrong fails");
    }
    let bench = Bench::new(&options)?;
    match &options.profile {
        Some(name) => profile_of(&bench, name),
        None => measure(&bench, &options),
    }
}

fn profile_of(bench: &Bench, name: &str) -> Outcome<()> {
    let group = GROUPS.iter().find(|group| group.name == name);
    let Some(work) = group.and_then(|group| group.work) else {
        return Err(format!("no profile is taken of {name}").into());
    };
    println!("{}", profile::top(bench, name, &work(bench)?)?);
    Ok(())
}

/// Measures what is asked for. What cannot be measured does not keep the others from it.
fn measure(bench: &Bench, options: &Options) -> Outcome<()> {
    let wanted =
        |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    let (mut rows, mut failed, mut profiles) = (Vec::new(), Vec::new(), Vec::new());
    for group in GROUPS.iter().filter(|group| wanted(group.name)) {
        let begun = Instant::now();
        let measured = match (group.measure)(bench) {
            Ok(measured) => measured,
            Err(error) => {
                println!("FAILED: {}: {error}", group.name);
                failed.push(format!("{}: {error}", group.name));
                continue;
            }
        };
        println!("== {}, {:.0?}", group.name, begun.elapsed());
        for row in &measured {
            println!("{}", report::line(row));
        }
        let is_missed = |row: &Row| matches!(row.verdict(), Verdict::Missed(_));
        if options.is_full()
            && measured.iter().any(is_missed)
            && let Some(work) = group.work
        {
            match work(bench).and_then(|work| profile::top(bench, group.name, &work)) {
                Ok(profile) => profiles.push(profile),
                Err(error) => println!("no profile of {}: {error}", group.name),
            }
        }
        rows.extend(measured);
    }
    if options.is_full() {
        report::write(
            &bench.programs,
            &options.command(),
            &rows,
            &failed,
            &profiles,
        )?;
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!("{} of the questions could not be answered", failed.len()).into()),
    }
}
