//! Whatever clients ask, it is parsed without harm.

use http::header::RANGE;
use http::{HeaderMap, HeaderValue, Method};
use registry_core::{Digest, Reference, Repository, Tag, UpstreamId};

use super::address::{Addressing, Route, route};
use super::range::{Ranges, resolve};
use crate::fuzz::{fuzz_text, same};

/// Most ranges that are taken at a time.
const RANGES_MAX: usize = 16;

fn read(target: &str) -> Option<Route> {
    let default = UpstreamId::parse("docker.io").unwrap();
    let known = ["docker.io", "quay.io", "localhost:5001", "10.0.0.1:5000"];
    let is_known = |id: &UpstreamId| known.contains(&id.as_str());
    let addressing = Addressing {
        default_upstream: &default,
        is_known: &is_known,
    };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    route(&Method::GET, path, query, &addressing).ok()
}

#[test]
fn requests() {
    fuzz_text("requests", |target| {
        let Some(found) = read(target) else {
            return Ok(());
        };
        // What was understood can be asked for in plain words.
        let plain = match &found {
            Route::Manifest { origin, reference } => format!(
                "/v2/{}/manifests/{reference}?ns={}",
                origin.repository(),
                origin.upstream()
            ),
            Route::Blob { origin, digest } => format!(
                "/v2/{}/blobs/{digest}?ns={}",
                origin.repository(),
                origin.upstream()
            ),
            _ => return Ok(()),
        };
        same(read(&plain), Some(found))
    });
}

#[test]
fn references() {
    fuzz_text("references", |text| {
        if let Ok(parsed) = Reference::parse(text) {
            same(Reference::parse(&parsed.to_string()).ok(), Some(parsed))?;
        }
        if let Ok(parsed) = Repository::parse(text) {
            same(parsed.as_str(), text)?;
        }
        if let Ok(parsed) = Tag::parse(text) {
            same(&*parsed.to_string(), text)?;
        }
        if let Ok(parsed) = Digest::parse(text) {
            same(&*parsed.to_string(), text)?;
        }
        if let Ok(parsed) = UpstreamId::parse(text) {
            same(UpstreamId::parse(parsed.as_str()).ok(), Some(parsed))?;
        }
        Ok(())
    });
}

#[test]
fn ranges() {
    fuzz_text("ranges", |text| {
        let mut headers = HeaderMap::new();
        for line in text.lines() {
            if let Ok(value) = HeaderValue::from_str(line) {
                headers.append(RANGE, value);
            }
        }
        let asked = match Ranges::of(&headers, RANGES_MAX) {
            Ranges::Whole | Ranges::TooMany => return Ok(()),
            Ranges::One(range) => vec![range],
            Ranges::Many(ranges) => ranges,
        };
        for size in [0, 1, 2, 1_000, u64::MAX] {
            let mut parts = resolve(&asked, size);
            parts.sort_by_key(|part| part.start());
            let within = parts
                .iter()
                .all(|part| !part.is_empty() && part.end() <= size);
            let apart = parts
                .windows(2)
                .all(|pair| pair[0].end() <= pair[1].start());
            if !within || !apart || parts.len() > asked.len() {
                return Err(format!("of {size}: {parts:?}"));
            }
        }
        Ok(())
    });
}
