//! `docs/fault-matrix.md`: what is expected, read and written.
//!
//! A section for each fault, with a sentence that says what it is and a table with a row for each
//! cell. What stands before the first section is written by hand.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// The heading of each table.
const COLUMNS: &str = "| Object | State | Client gets | Cache-Status | Within | Upstream requests | Stored | Asked again | Afterwards |\n\
|---|---|---|---|---|---|---|---|---|\n";

/// What is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Object {
    Tag,
    Manifest,
    Blob,
    BlobHead,
}

/// What the mirror has of it when the fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Cached,
    NotCached,
    /// Three clients wait for one answer of the upstream.
    MidFlight,
    /// Two clients read a download that is half done.
    MidFill,
}

/// A row of the matrix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) fault: &'static str,
    pub(crate) object: Object,
    pub(crate) state: State,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tag => "tag",
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::BlobHead => "blob_head",
        })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cached => "cached",
            Self::NotCached => "not_cached",
            Self::MidFlight => "mid_flight",
            Self::MidFill => "mid_fill",
        })
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}::{}", self.fault, self.object, self.state)
    }
}

/// What comes of a cell, in the words of the table. One that cannot be has only the reason, in
/// `client`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) client: String,
    pub(crate) cache_status: String,
    pub(crate) within: Within,
    pub(crate) requests: String,
    pub(crate) stored: String,
    pub(crate) again: String,
    pub(crate) afterwards: String,
}

/// How long something takes at the most: so many times a budget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Within {
    pub(crate) times: u32,
    pub(crate) budget: String,
}

impl Within {
    fn parse(text: &str) -> Self {
        let (times, budget) = match text.split_once(" × ") {
            Some((times, budget)) => (times.parse().expect("a number of times"), budget),
            None if matches!(text, "at once" | "") => (0, ""),
            None => (1, text),
        };
        Self {
            times,
            budget: budget.to_owned(),
        }
    }
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.times {
            0 => f.write_str("at once"),
            1 => f.write_str(&self.budget),
            times => write!(f, "{times} × {}", self.budget),
        }
    }
}

impl Row {
    /// The row of a cell that cannot be.
    pub(crate) fn impossible(reason: &str) -> Self {
        Self {
            client: format!("n/a: {reason}"),
            ..Self::default()
        }
    }

    fn cells(&self) -> [String; 7] {
        let within = match self.client.starts_with("n/a") {
            true => String::new(),
            false => self.within.to_string(),
        };
        [
            self.client.clone(),
            self.cache_status.clone(),
            within,
            self.requests.clone(),
            self.stored.clone(),
            self.again.clone(),
            self.afterwards.clone(),
        ]
    }
}

/// The file.
fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/fault-matrix.md")
}

/// The document, taken apart: the hand-written part, and the rows by cell (`fault::object::state`).
#[derive(Default)]
pub(crate) struct Document {
    preamble: String,
    /// The sentence of each fault, by its name.
    pub(crate) abouts: BTreeMap<String, String>,
    pub(crate) rows: BTreeMap<String, Row>,
}

impl Document {
    pub(crate) fn read() -> Self {
        let text = std::fs::read_to_string(path()).expect("docs/fault-matrix.md is there");
        Self::parse(&text)
    }

    fn parse(text: &str) -> Self {
        let mut document = Self::default();
        let mut fault = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("## `") {
                fault = Some(name.trim_end_matches('`').to_owned());
                continue;
            }
            let Some(fault) = &fault else {
                document.preamble.push_str(line);
                document.preamble.push('\n');
                continue;
            };
            let Some(cells) = line.strip_prefix("| ") else {
                if !line.is_empty() && !line.starts_with("|-") {
                    document.abouts.insert(fault.clone(), line.to_owned());
                }
                continue;
            };
            let cells = cells.trim_end_matches('|').split('|').map(str::trim);
            let cells: Vec<_> = cells.map(str::to_owned).collect();
            let [object, state, rest @ ..] = &cells[..] else {
                panic!("a row with too few columns: {line}");
            };
            if object == "Object" {
                continue;
            }
            let previous = document
                .rows
                .insert(format!("{fault}::{object}::{state}"), row(rest, line));
            assert_eq!(previous, None, "twice in the table: {fault} {line}");
        }
        document
    }

    fn write(&self, cells: &[Cell], about: impl Fn(&str) -> String) -> String {
        let mut text = self.preamble.trim_end().to_owned();
        let mut fault = "";
        for cell in cells {
            if cell.fault != fault {
                fault = cell.fault;
                text.push_str(&format!(
                    "\n\n## `{fault}`\n\n{}\n\n{COLUMNS}",
                    about(fault)
                ));
            }
            let row = self.rows.get(&cell.to_string());
            let Some(row) = row else { continue };
            text.push_str(&format!("| {} | {} |", cell.object, cell.state));
            for cell in row.cells() {
                text.push_str(if cell.is_empty() { "" } else { " " });
                text.push_str(&cell);
                text.push_str(" |");
            }
            text.push('\n');
        }
        text.replace("\n\n\n", "\n\n")
    }
}

fn row(cells: &[String], line: &str) -> Row {
    let [
        client,
        cache_status,
        within,
        requests,
        stored,
        again,
        afterwards,
    ] = cells
    else {
        panic!("a row with other columns than there are: {line}");
    };
    Row {
        client: client.clone(),
        cache_status: cache_status.clone(),
        within: Within::parse(within),
        requests: requests.clone(),
        stored: stored.clone(),
        again: again.clone(),
        afterwards: afterwards.clone(),
    }
}

/// Writes one row into the file, in place of what stands there.
pub(crate) fn put(cell: &Cell, row: Row, cells: &[Cell], about: impl Fn(&str) -> String) {
    static WRITING: Mutex<()> = Mutex::new(());
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut document = Document::read();
    document.rows.insert(cell.to_string(), row);
    std::fs::write(path(), document.write(cells, about)).expect("the table can be written");
}
