//! What happens, in the words of the table.

use registry_server::testing::Outgoing;

/// Whether an answer was given without the upstream's word.
pub(super) fn is_stale(cache_status: &str) -> bool {
    cache_status.starts_with("fwd=stale") && !cache_status.ends_with("=revalidated")
}

pub(super) fn error_code(body: &[u8]) -> String {
    let document: serde_json::Value = serde_json::from_slice(body).expect("an error's document");
    let code = document["errors"][0]["code"].as_str();
    code.expect("an error has a code").to_owned()
}

/// What a request is for.
pub(super) fn kind(request: &Outgoing) -> String {
    let path = request.url.path();
    let object = if path.contains("/manifests/sha256:") {
        "manifest"
    } else if path.contains("/manifests/") {
        "tag"
    } else if path.contains("/blobs/") {
        "blob"
    } else if path == "/token" {
        "token"
    } else {
        "elsewhere"
    };
    let part = request.headers.iter().any(|(name, _)| name == "range");
    let part = if part { " part" } else { "" };
    format!("{} {object}{part}", request.method)
}

/// `2 × HEAD tag, GET manifest`.
pub(super) fn count(kinds: Vec<String>) -> String {
    let mut counts: Vec<(String, usize)> = Vec::new();
    for kind in kinds {
        match counts.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => counts.push((kind, 1)),
        }
    }
    let parts = counts.into_iter().map(|(kind, count)| match count {
        1 => kind,
        count => format!("{count} × {kind}"),
    });
    let text = parts.collect::<Vec<_>>().join(", ");
    if text.is_empty() {
        "none".to_owned()
    } else {
        text
    }
}
