//! What requests took when that was last accepted.

use std::fs;
use std::path::PathBuf;

/// The architecture that the numbers are of: elsewhere they say nothing.
const ARCHITECTURE: &str = "x86_64";

/// The lines `COUNT NAME` of `baseline.txt`; those with a `#` in front are for people.
pub(crate) struct Baseline(Vec<(String, u64)>);

impl Baseline {
    /// The file as it is.
    ///
    /// # Panics
    ///
    /// Where it is not of that form.
    pub(crate) fn read() -> Self {
        let text = fs::read_to_string(path()).expect("the baseline");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let entries = lines.map(|line| {
            let (count, name) = line.split_once(' ').expect("a number and a name");
            (name.to_owned(), count.parse().expect("a number"))
        });
        Self(entries.collect())
    }

    /// Writes the file anew.
    ///
    /// # Panics
    ///
    /// Where it cannot be written.
    pub(crate) fn write(counts: &[(&'static str, u64)]) {
        let mut text = format!(
            "# Instructions of a request, on {ARCHITECTURE}: written by\n\
             # cargo bench -p benches --bench instructions -- --update\n"
        );
        for (name, count) in counts {
            text.push_str(&format!("{count} {name}\n"));
        }
        fs::write(path(), text).expect("the baseline is written");
    }

    /// Holds what was counted against it.
    ///
    /// # Panics
    ///
    /// Where something takes more than so many per cent more than it did, or is not in it.
    #[expect(clippy::print_stdout, reason = "a benchmark prints")]
    pub(crate) fn compare(&self, counts: &[(&'static str, u64)], growth_max_percent: u64) {
        if std::env::consts::ARCH != ARCHITECTURE {
            println!("instructions: compared with nothing: the baseline is of {ARCHITECTURE}");
            return;
        }
        let mut grown = Vec::new();
        for (name, count) in counts {
            let before = self.0.iter().find(|(known, _)| known == name);
            let Some((_, before)) = before else {
                grown.push(format!(
                    "{name}: {count}, and the baseline does not tell of it"
                ));
                continue;
            };
            if *count * 100 > before * (100 + growth_max_percent) {
                grown.push(format!("{name}: {count}, after {before}"));
            } else if *count * (100 + growth_max_percent) < before * 100 {
                println!("instructions: {name}: {count}, after {before}: lower the baseline");
            }
        }
        assert!(
            grown.is_empty(),
            "requests take over {growth_max_percent} % more instructions than they did:\n  {}\n\
             Find out why: `callgrind_annotate --inclusive=yes` of what \
             `valgrind --tool=callgrind` writes shows where they go. Where they are worth it, \
             accept them, and commit the file:\n  \
             cargo bench -p benches --bench instructions -- --update",
            grown.join("\n  ")
        );
    }
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("instructions/baseline.txt")
}
