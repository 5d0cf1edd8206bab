//! YAML as values, within limits.

use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;

use super::SOURCE_BYTES_MAX;

/// Most documents of one text.
const DOCUMENTS_MAX: usize = 50_000;
/// Most nodes of one text: those of the charts that bring the most definitions, several times.
const NODES_MAX: usize = 2_000_000;
/// Deepest nesting. Definitions of resources reach some dozens.
const DEPTH_MAX: usize = 200;
/// Most nodes that aliases may stand for: a few lines of them can stand for billions.
const ALIASED_NODES_MAX: usize = 100_000;

/// The documents of a text.
///
/// # Errors
///
/// Where it is no YAML, or more than is read, in a sentence.
pub(super) fn documents(text: &str) -> Result<Vec<Value>, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_reader_input_bytes: Some(SOURCE_BYTES_MAX),
            max_documents: DOCUMENTS_MAX,
            max_nodes: NODES_MAX,
            max_events: 2 * NODES_MAX,
            max_depth: DEPTH_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: ALIASED_NODES_MAX,
        },
        // As those do that these texts are written for.
        duplicate_keys: DuplicateKeyPolicy::LastWins,
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let advice = if text.contains("{{") {
            "; it has {{ in it: `helm template` renders a chart"
        } else {
            ""
        };
        let error = error.to_string();
        // What follows is a drawing of the place, which the first line names.
        let what = error.lines().next().unwrap_or_default().trim();
        format!("it is neither a list of images nor YAML: {what}{advice}")
    })
}
