//! Whatever upstreams and token servers send, it is parsed without harm.

use std::time::Duration;

use bytes::Bytes;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue};
use registry_core::{
    Algorithm, Clock as _, Hasher, Manifest, MediaType, Referrers, Repository, SystemClock,
};

use super::challenge::Challenge;
use super::config::{LINK_BYTES_MAX, QUOTA_SOURCE_CHARS_MAX, RETRY_AFTER_MAX};
use super::credentials::check_docker_config;
use super::failure::retry_after;
use super::link::next_target;
use super::quota::Quota;
use super::token::Issued;
use crate::fuzz::{fuzz, fuzz_text, same};

/// The password that stands in the corpus of logins, and as it stands in `auth`, after `user:`.
const SECRET: &str = "hunter2-and-more";
const ENCODED_SECRET: &str = "aHVudGVyMi1hbmQtbW9y";

/// Headers of one name, a line each; lines that no header can have are left out.
fn lines(name: &HeaderName, text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in text.lines() {
        if let Ok(value) = HeaderValue::from_str(line) {
            headers.append(name, value);
        }
    }
    headers
}

#[test]
fn challenges() {
    let repository = Repository::parse("library/app").unwrap();
    let find = |text: &str| Challenge::find(&lines(&WWW_AUTHENTICATE, text), &repository);
    fuzz_text("challenges", |text| {
        let Some(Challenge::Bearer(bearer)) = find(text) else {
            return Ok(());
        };
        let url = bearer.url();
        same(url.host(), bearer.realm.host())?;
        let scopes = url.query_pairs().filter(|(key, _)| key == "scope");
        let pulls = scopes.filter(|(_, scope)| {
            scope.starts_with("repository:") && scope.ends_with("library/app:pull")
        });
        if pulls.count() == 0 {
            return Err(format!("asks for no token to pull: {url}"));
        }
        let realm = bearer
            .realm
            .as_str()
            .replace('\\', "\\\\")
            .replace('"', "\\\"");
        match find(&format!("Bearer realm=\"{realm}\"")) {
            Some(Challenge::Bearer(again)) => same(again.realm, bearer.realm),
            other => Err(format!("{other:?} in place of {bearer:?}")),
        }
    });
}

#[test]
fn tokens() {
    fuzz("tokens", |input| {
        if Issued::parse(&Bytes::copy_from_slice(input)).is_none() {
            return Ok(());
        }
        // A list of the fields is taken too, and what is malformed in a field that is skipped.
        let Ok(serde_json::Value::Object(document)) = serde_json::from_slice(input) else {
            return Ok(());
        };
        let given = ["token", "access_token"].map(|field| document.get(field)?.as_str());
        match given.into_iter().flatten().any(|token| !token.is_empty()) {
            true => Ok(()),
            false => Err("a token out of nothing".to_owned()),
        }
    });
}

#[test]
fn links() {
    fuzz_text("links", |line| {
        let Some(target) = next_target(line) else {
            return Ok(());
        };
        let written = format!("<{target}>; rel=\"next\"");
        if written.len() > LINK_BYTES_MAX {
            return Ok(());
        }
        same(next_target(&written), Some(target))
    });
}

#[test]
fn rate_limits() {
    const NAMES: [&str; 4] = [
        "ratelimit-limit",
        "ratelimit-remaining",
        "ratelimit-reset",
        "docker-ratelimit-source",
    ];
    fuzz_text("rate-limits", |text| {
        let now = SystemClock.now();
        let mut headers = HeaderMap::new();
        for (line, name) in text.lines().zip(NAMES) {
            if let Ok(value) = HeaderValue::from_str(line) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        let Some(quota) = Quota::read(&headers, now) else {
            return Ok(());
        };
        let source = quota.source.map_or(0, |source| source.chars().count());
        match quota.remaining <= quota.limit && source <= QUOTA_SOURCE_CHARS_MAX {
            true => Ok(()),
            false => Err("more is left than there is, or a name is too long".to_owned()),
        }
    });
}

#[test]
fn retry_afters() {
    fuzz_text("retry-after", |text| {
        let wait = retry_after(&lines(&RETRY_AFTER, text), SystemClock.now());
        match wait {
            Some(wait) if wait > RETRY_AFTER_MAX => Err(format!("{wait:?} is too long")),
            Some(wait) => {
                let seconds = wait.as_secs().to_string();
                let again = retry_after(&lines(&RETRY_AFTER, &seconds), SystemClock.now());
                same(again, Some(Duration::from_secs(wait.as_secs())))
            }
            None => Ok(()),
        }
    });
}

#[test]
fn manifests() {
    fuzz("manifests", |input| {
        let bytes = Bytes::copy_from_slice(input);
        let index = MediaType::parse(MediaType::OCI_INDEX).unwrap();
        for told in [None, Some(&index)] {
            let Ok(manifest) = Manifest::of_bytes(told, bytes.clone()) else {
                continue;
            };
            same(manifest.bytes(), &bytes)?;
            let digest = Hasher::digest_of(Algorithm::Sha256, input);
            same(manifest.descriptor().digest, digest)?;
            same(manifest.descriptor().size, input.len() as u64)?;
            // The type that it has been given is the one that it keeps.
            let media_type = manifest.descriptor().media_type.clone();
            let again = Manifest::verify(Some(&media_type), bytes.clone(), digest);
            let again = again.map_err(|error| error.to_string())?;
            same(again.descriptor().media_type.clone(), media_type)?;
            same(again.links(), manifest.links())?;
        }
        Ok(())
    });
}

#[test]
fn referrers() {
    fuzz("referrers", |input| {
        let index = MediaType::parse(MediaType::OCI_INDEX).unwrap();
        let Ok(referrers) = Referrers::of_index(Some(&index), input) else {
            return Ok(());
        };
        let written = referrers.to_index();
        let again = Referrers::of_index(Some(&index), &written);
        let again = again.map_err(|_| "what we write we do not read".to_owned())?;
        same(again.to_index(), written)
    });
}

#[test]
fn docker_configs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    fuzz("docker-config", |input| {
        std::fs::write(&path, input).unwrap();
        let Err(problem) = check_docker_config(&path) else {
            return Ok(());
        };
        // What is wrong is said without what is secret: keys and names of helpers are not.
        let told = |text: &str| text.contains(SECRET) || text.contains(ENCODED_SECRET);
        let named = serde_json::from_slice::<serde_json::Value>(input)
            .is_ok_and(|document| keys_and_helpers(&document).iter().any(|name| told(name)));
        match told(&problem) && !named {
            true => Err(problem),
            false => Ok(()),
        }
    });
}

/// All keys of a document, and what it names as helpers.
fn keys_and_helpers(document: &serde_json::Value) -> Vec<String> {
    let mut names = vec![document["credsStore"].to_string()];
    names.push(document["credHelpers"].to_string());
    let mut objects = vec![document];
    while let Some(value) = objects.pop() {
        for (key, value) in value.as_object().into_iter().flatten() {
            names.push(key.clone());
            objects.push(value);
        }
    }
    names
}
