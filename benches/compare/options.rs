//! What to run, and how much of it.

use std::path::PathBuf;
use std::time::Duration;

use crate::Outcome;

pub(crate) const USAGE: &str = "\
cargo bench -p benches --bench compare -- [OPTIONS]
  --quick         less of everything; BENCHMARKS.md is not written
  --only NAME     these rows only (may be repeated); BENCHMARKS.md is not written
  --rounds N      rounds in which everybody is measured once
  --mirror PATH   this binary, in place of one that is built
  --profile NAME  where the mirror's time goes in these rows, by perf, and nothing else";

/// What the command line says.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Cargo did not pass `--bench`: everything is tiny, and only what must be right is looked at.
    pub(crate) is_smoke: bool,
    pub(crate) is_quick: bool,
    pub(crate) only: Vec<String>,
    pub(crate) rounds: Option<usize>,
    pub(crate) mirror: Option<PathBuf>,
    pub(crate) profile: Option<String>,
}

impl Options {
    /// # Errors
    ///
    /// With what is wrong, and the usage.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut options = Self {
            is_smoke: true,
            ..Self::default()
        };
        let mut unknown = Vec::new();
        let mut arguments = arguments.skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || {
                let value = arguments.next();
                value.ok_or_else(|| format!("{argument} needs a value\n{USAGE}"))
            };
            match argument.as_str() {
                "--bench" => options.is_smoke = false,
                "--quick" => options.is_quick = true,
                "--only" => options.only.push(value()?),
                "--mirror" => options.mirror = Some(value()?.into()),
                "--profile" => options.profile = Some(value()?),
                "--rounds" => {
                    let rounds = value()?.parse().ok().filter(|rounds| *rounds > 0);
                    options.rounds = Some(rounds.ok_or("--rounds: a number from 1")?);
                }
                _ => unknown.push(argument),
            }
        }
        // `cargo test` passes its own to every test program.
        if !options.is_smoke && !unknown.is_empty() {
            return Err(format!("unknown: {}\n{USAGE}", unknown.join(" ")).into());
        }
        Ok(options)
    }

    /// Whether this run answers every question as well as can be.
    pub(crate) fn is_full(&self) -> bool {
        !self.is_smoke && !self.is_quick && self.only.is_empty()
    }

    /// What gives the same again; nobody else has this one's binary where it is.
    pub(crate) fn command(&self) -> String {
        let rounds = self.rounds.map(|rounds| format!(" -- --rounds {rounds}"));
        let mirror = self
            .mirror
            .as_ref()
            .map(|_| " (with a binary that was built before)");
        format!(
            "cargo bench -p benches --bench compare{}{}",
            rounds.unwrap_or_default(),
            mirror.unwrap_or_default()
        )
    }

    pub(crate) fn scale(&self) -> Scale {
        let mut scale = match (self.is_smoke, self.is_quick) {
            (true, _) => Scale::SMOKE,
            (false, true) => Scale::QUICK,
            (false, false) => Scale::FULL,
        };
        if let Some(rounds) = self.rounds {
            scale.rounds = rounds;
            scale.long_rounds = scale.long_rounds.min(rounds);
        }
        scale
    }
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// In each, everybody is measured once.
    pub(crate) rounds: usize,
    /// Of those that take long.
    pub(crate) long_rounds: usize,
    /// Clients that want the same at the same time.
    pub(crate) clients: usize,
    pub(crate) blob_bytes: u64,
    /// How often a warm blob is pulled in a round: the kernel tells processors' time in hundredths
    /// of a second.
    pub(crate) warm_pulls: u32,
    /// The blob that comes over a slow link.
    pub(crate) far_bytes: u64,
    /// How long requests are made.
    pub(crate) load_time: Duration,
    /// How long slow clients read.
    pub(crate) slow_time: Duration,
    /// How long the latency is looked at.
    pub(crate) tail_time: Duration,
    /// Blobs that are there at the start.
    pub(crate) kept_blobs: u64,
}

impl Scale {
    const FULL: Self = Self {
        rounds: 5,
        long_rounds: 3,
        clients: 64,
        blob_bytes: 1 << 30,
        warm_pulls: 6,
        far_bytes: 64 << 20,
        load_time: Duration::from_secs(5),
        slow_time: Duration::from_secs(12),
        tail_time: Duration::from_secs(15),
        kept_blobs: 100_000,
    };
    const QUICK: Self = Self {
        rounds: 2,
        long_rounds: 1,
        blob_bytes: 256 << 20,
        far_bytes: 16 << 20,
        load_time: Duration::from_secs(2),
        slow_time: Duration::from_secs(4),
        tail_time: Duration::from_secs(4),
        ..Self::FULL
    };
    const SMOKE: Self = Self {
        rounds: 1,
        long_rounds: 1,
        clients: 8,
        blob_bytes: 4 << 20,
        warm_pulls: 1,
        far_bytes: 2 << 20,
        load_time: Duration::from_secs(1),
        slow_time: Duration::from_secs(1),
        tail_time: Duration::from_secs(1),
        kept_blobs: 1_000,
    };

    /// `1 GiB`, as a row says it.
    pub(crate) fn size(bytes: u64) -> String {
        match bytes {
            bytes if bytes >= 1 << 30 => format!("{} GiB", bytes >> 30),
            bytes => format!("{} MiB", bytes >> 20),
        }
    }
}
