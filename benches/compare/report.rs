//! The answers as text: on standard output, and as `BENCHMARKS.md`.

use std::fs;
use std::path::Path;

use crate::Outcome;
use crate::machine;
use crate::programs::Programs;
use crate::row::Row;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../BENCHMARKS.md");

const HEADINGS: [&str; 6] = [
    "Question",
    "Target",
    "Mirror",
    "Compared with",
    "Ratio or difference",
    "Verdict",
];

const INTRODUCTION: &str = "\
# Benchmarks

Written by `cargo bench -p benches --bench compare`, which anyone can run: it measures the release build of this repository
next to nginx and docker-registry of the distribution, one after the other in rounds, each in a process of its own, on one
machine over loopback. **Absolute numbers mean nothing on another machine**, and little on the same one tomorrow: compare within
a row. Each number is the median of the rounds, with the least and the most in brackets; ratios are taken round by round, and
their median decides. A target that is missed says by how much.
";

const NOTES: &str = "\
## How it is measured

- **Peers.** nginx has a worker for each core, `sendfile`, `tcp_nopush`, `open_file_cache`, connections that never end, and serves
  the same bytes as a static file: it is no cache, and the least that serving can cost. registry is docker-registry as a pull-through
  proxy with descriptors in memory. The mirror runs as it does by default, with `tag_ttl = \"1h\"`. None logs requests unless the row
  says so.
- **Processors' time** is user and system, of all threads and processes of the server, as the kernel tells it; the client's is
  not in it. What is done behind the end of an answer, such as storing it, is.
- **Clients** read into one buffer, one connection, the same for all; over TLS it is curl. Requests a second are wrk's; those of tags
  and HEAD are a generator's of our own, as wrk waits for the body of an answer to HEAD, and compared with its own rate by digest.
- **SHA-256 and two copies** is one thread that receives as many bytes from a socket in large reads, hashes them with the same
  library and sends them to another socket, and writes no file: what a cold pull cannot do without. With the hash alone, and with
  a file written besides, it stands next to it for information.
- **200 Mbit/s and 30 ms** is a relay in the benchmark that lets through as many bytes a second, each 15 ms after it came, and makes
  a connection a round trip before it carries anything. It fills the line from the first byte on: a TCP that grows slowly, or loses
  packets, is not a part of it. Mirrors and registries are started anew for each pull, so that none has a connection already.
- **Memory** is the most that was ever resident, as the kernel tells it, summed up over the processes of a server, in millions of
  bytes. Slow clients read 8 KiB and rest 20 ms, with receive buffers of 64 KiB.
- **Start** is from before the process is made to the whole answer to a GET of a blob that is kept; the blobs have files, and
  what the system holds of them in memory it still holds.
- **99th percentile**: 200 requests a second on one connection, each counted from when it was due. The thread that asks goes before
  others, where that is allowed, so that the mirror is measured and not the wait for a processor to ask on; origin, clients and mirror share
  the cores all the same. At 1 Gbit/s they have room; as fast as it goes, they have none.
- Every body's length and status is looked at, one of each kind is hashed, and requests upstream are counted: what is wrong
  fails the benchmark.
";

/// One line for standard output.
pub(crate) fn line(row: &Row) -> String {
    let [question, target, mirror, others, compared, verdict] = row.cells();
    format!("{question}\n    mirror {mirror}; {others}\n    {target}: {compared} {verdict}")
}

/// Writes the file at the top of the repository.
pub(crate) fn write(
    programs: &Programs,
    command: &str,
    rows: &[Row],
    unmeasured: &[String],
    profiles: &[String],
) -> Outcome<()> {
    let mut text = format!("{INTRODUCTION}\n");
    let versions = programs.versions();
    let command = ("Command", format!("`{command}`"));
    for (name, fact) in machine::facts()
        .into_iter()
        .chain(versions)
        .chain([command])
    {
        text.push_str(&format!("- {name}: {fact}\n"));
    }
    text.push_str(&format!("\n{}", table_line(HEADINGS.map(str::to_owned))));
    text.push_str(&table_line(HEADINGS.map(|_| "---".to_owned())));
    for row in rows {
        text.push_str(&table_line(row.cells()));
    }
    for why in unmeasured {
        text.push_str(&format!("\nNot measured: {why}\n"));
    }
    text.push_str(&format!("\n{NOTES}"));
    if !profiles.is_empty() {
        text.push_str("\n## Where the time goes\n\nOf the rows that miss their target: the functions in which the mirror was found most often.\n");
    }
    for profile in profiles {
        text.push_str(&format!("\n{profile}"));
    }
    fs::write(Path::new(FILE), text)?;
    println!("written: BENCHMARKS.md");
    Ok(())
}

fn table_line(cells: [String; 6]) -> String {
    format!("| {} |\n", cells.join(" | "))
}
