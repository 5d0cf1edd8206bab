//! A TOML document whose every value still knows its key and its line.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::place::{Place, Problems, Written};

/// A configuration file.
pub(super) struct Document {
    path: Arc<Path>,
    text: String,
}

impl Document {
    pub(super) fn new(path: &Path, text: String) -> Self {
        Self {
            path: path.into(),
            text,
        }
    }

    /// The whole document, unless it is not TOML.
    pub(super) fn root(&self, problems: &mut Problems) -> Option<Table<'_>> {
        let (root, errors) = DeTable::parse_recoverable(&self.text);
        for error in &errors {
            let line = error.span().map(|span| self.line(span));
            problems.add(self.place(line, String::new()), error.message().trim());
        }
        // With errors, what recovery made of the rest is a guess.
        errors
            .is_empty()
            .then(|| Table::new(self, "", root.into_inner()))
    }

    fn place(&self, line: Option<usize>, key: String) -> Place {
        let path = Arc::clone(&self.path);
        Place::File { path, line, key }
    }

    fn line(&self, span: Range<usize>) -> usize {
        let before = self.text.bytes().take(span.start);
        1 + before.filter(|&byte| byte == b'\n').count()
    }
}

/// A table of the document, out of which keys are taken one by one.
pub(super) struct Table<'d> {
    document: &'d Document,
    entries: BTreeMap<String, Entry<'d>>,
    /// What has been asked for: the keys that there are.
    asked: Vec<&'static str>,
}

/// A key with its value.
pub(super) struct Entry<'d> {
    pub(super) place: Place,
    /// The key, with the tables that it stands in.
    key: String,
    value: DeValue<'d>,
}

impl<'d> Table<'d> {
    /// `parent` is the key of the table itself, empty for the document.
    fn new(document: &'d Document, parent: &str, table: DeTable<'d>) -> Self {
        let entries = table
            .into_iter()
            .map(|(name, value)| {
                let line = document.line(name.span());
                let name = name.into_inner().into_owned();
                let key = join(parent, &name);
                let entry = Entry {
                    place: document.place(Some(line), key.clone()),
                    key,
                    value: value.into_inner(),
                };
                (name, entry)
            })
            .collect();
        Self {
            document,
            entries,
            asked: Vec::new(),
        }
    }

    /// What a key says.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Entry<'d>> {
        self.asked.push(key);
        self.entries.remove(key)
    }

    /// Where a key stands, before it is taken.
    pub(super) fn place(&self, key: &str) -> Option<&Place> {
        Some(&self.entries.get(key)?.place)
    }

    pub(super) fn text(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<Written<String>> {
        let Entry { place, value, .. } = self.take(key)?;
        match value {
            DeValue::String(text) => Some(Written::new(text.into_owned(), place)),
            other => {
                problems.add(place, wrong_type(&other, "text in quotes"));
                None
            }
        }
    }

    /// A text, parsed.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(key, problems)?;
        Some(text.parse(problems, parse)?.value)
    }

    /// A path; a relative one is meant from the folder that the configuration file is in.
    pub(super) fn path(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<Written<PathBuf>> {
        let folder = self.document.path.parent().unwrap_or(Path::new(""));
        Some(self.text(key, problems)?.map(|path| folder.join(path)))
    }

    /// The path of a file that `check` finds nothing wrong with.
    pub(super) fn usable(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
        check: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Option<Written<PathBuf>> {
        let path = self.path(key, problems)?;
        if let Err(problem) = check(&path.value) {
            let problem = format!("{} {problem}", path.value.display());
            problems.add(path.place.clone(), problem);
        }
        Some(path)
    }

    /// The path of a file that must be there.
    pub(super) fn readable(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<Written<PathBuf>> {
        let path = self.path(key, problems)?;
        if let Err(error) = File::open(&path.value) {
            problems.add(path.place.clone(), cannot_read(&path.value, &error));
        }
        Some(path)
    }

    pub(super) fn boolean(&mut self, key: &'static str, problems: &mut Problems) -> Option<bool> {
        let Entry { place, value, .. } = self.take(key)?;
        match value {
            DeValue::Boolean(value) => Some(value),
            other => {
                problems.add(place, wrong_type(&other, "true or false"));
                None
            }
        }
    }

    /// A list of texts, each parsed; those that are not right are left out of it.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let Entry { place, key, value } = self.take(key)?;
        let DeValue::Array(items) = value else {
            problems.add(place, wrong_type(&value, "a list: [\"...\", \"...\"]"));
            return Some(Vec::new());
        };
        if items.is_empty() {
            problems.add(place, "is empty; name at least one, or remove it");
        }
        let mut list = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let line = self.document.line(item.span());
            let place = self.document.place(Some(line), format!("{key}[{index}]"));
            match item.into_inner() {
                DeValue::String(text) => {
                    let text = Written::new(text.into_owned(), place);
                    list.extend(text.parse(problems, &parse).map(|item| item.value));
                }
                other => problems.add(place, wrong_type(&other, "text in quotes")),
            }
        }
        Some(list)
    }

    /// A table of tables, each with its name; `example` is the head of one.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        example: &str,
        problems: &mut Problems,
    ) -> Vec<(Written<String>, Self)> {
        let Some(Entry { place, key, value }) = self.take(key) else {
            return Vec::new();
        };
        let DeValue::Table(table) = value else {
            problems.add(place, wrong_type(&value, &format!("tables: {example}")));
            return Vec::new();
        };
        let table = Table::new(self.document, &key, table);
        let mut tables = Vec::with_capacity(table.entries.len());
        for (name, Entry { place, key, value }) in table.entries {
            match value {
                DeValue::Table(table) => {
                    let table = Table::new(self.document, &key, table);
                    tables.push((Written::new(name, place), table));
                }
                other => problems.add(place, wrong_type(&other, "a table of its own")),
            }
        }
        tables
    }

    /// The place of a table in it, where there is one.
    pub(super) fn inner_table(&self) -> Option<&Place> {
        let inner = |entry: &&Entry<'_>| matches!(entry.value, DeValue::Table(_));
        Some(&self.entries.values().find(inner)?.place)
    }

    /// Every key that nobody asked for is a mistake.
    pub(super) fn refuse_the_rest(mut self, problems: &mut Problems) {
        self.asked.sort_unstable();
        for entry in self.entries.into_values() {
            let problem = format!("unknown key; there are {}", self.asked.join(", "));
            problems.add(entry.place, problem);
        }
    }
}

pub(super) fn cannot_read(path: &Path, error: &std::io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

fn wrong_type(value: &DeValue<'_>, wanted: &str) -> String {
    format!("is of type {}, and must be {wanted}", value.type_str())
}

/// `key` within the table `parent`, quoted where TOML wants it so.
fn join(parent: &str, key: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let quoted = if !key.is_empty() && key.bytes().all(bare) {
        key.to_owned()
    } else {
        format!("{key:?}")
    };
    if parent.is_empty() {
        quoted
    } else {
        format!("{parent}.{quoted}")
    }
}
