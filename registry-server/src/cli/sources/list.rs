//! Images one a line.

use serde_json::Value;

use super::Found;

/// Whether each line is one word, as in a list of images, and not the beginning of YAML.
pub(super) fn is_list(text: &str) -> bool {
    let mut words = lines(text).map(|(_, line)| line).peekable();
    words.peek().is_some()
        && words.all(|word| {
            !word.contains(char::is_whitespace)
                && !word.ends_with(':')
                && !word.starts_with(['-', '{', '['])
        })
}

pub(super) fn find(text: &str) -> Found {
    let mut found = Found::default();
    for (number, line) in lines(text) {
        found.image(line, &format!("line {number}"));
    }
    found
}

/// Whether this is a list of texts in YAML or JSON.
pub(super) fn is_strings(value: &Value) -> bool {
    let items = value.as_array();
    items.is_some_and(|items| !items.is_empty() && items.iter().all(Value::is_string))
}

pub(super) fn find_values(documents: &[Value]) -> Found {
    let mut found = Found::default();
    let items = documents.iter().filter_map(Value::as_array).flatten();
    for (index, item) in items.filter_map(Value::as_str).enumerate() {
        found.image(item, &format!("item {}", index + 1));
    }
    found
}

/// The lines that say something, without comments, with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate();
    lines.filter_map(|(index, line)| {
        // No name has this sign in it.
        let line = line.split('#').next().unwrap_or_default().trim();
        (!line.is_empty()).then_some((index + 1, line))
    })
}
