//! What a request to the admin API asks: its query and its document, read strictly. What is not
//! understood is refused, since whoever administers must not believe that it was.

use std::borrow::Cow;

use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use registry_core::{Origin, Repository, UpstreamId};
use serde::de::DeserializeOwned;

use super::limits;
use super::problem::Refusal;
use crate::front::{RequestBody, RequestBodyError};

/// The parameters of a request, each of which is known.
pub(super) struct Parameters<'a>(Vec<(&'static str, Cow<'a, str>)>);

impl<'a> Parameters<'a> {
    /// Reads a query that may have `known` keys, each once.
    pub(super) fn parse(
        query: Option<&'a str>,
        known: &'static [&'static str],
    ) -> Result<Self, Refusal> {
        let mut parsed: Vec<(&'static str, Cow<'a, str>)> = Vec::new();
        for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let Some(&name) = known.iter().find(|&&name| name == key) else {
                let takes = match known {
                    [] => "takes none".to_owned(),
                    known => format!("takes {}", known.join(", ")),
                };
                return Err(Refusal::invalid(format!(
                    "there is no parameter \"{key}\" here: this request {takes}"
                )));
            };
            if parsed.iter().any(|(given, _)| *given == name) {
                return Err(Refusal::invalid(format!(
                    "\"{name}\" is given twice: give it once"
                )));
            }
            parsed.push((name, value));
        }
        Ok(Self(parsed))
    }

    /// A parameter, if it is given.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut given = self.0.iter();
        given
            .find(|(key, _)| *key == name)
            .map(|(_, value)| &**value)
    }

    /// A parameter that has to be given.
    pub(super) fn require(&self, name: &str, example: &str) -> Result<&str, Refusal> {
        let value = self.get(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| {
            Refusal::invalid(format!(
                "\"{name}\" is missing: write for example {name}={example}"
            ))
        })
    }

    /// How many entries are asked for: `limit`.
    pub(super) fn limit(&self) -> Result<usize, Refusal> {
        let Some(text) = self.get("limit") else {
            return Ok(limits::PAGE_ENTRIES);
        };
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = is_number.then(|| text.parse().ok()).flatten();
        number
            .filter(|number| (1..=limits::PAGE_ENTRIES_MAX).contains(number))
            .ok_or_else(|| {
                Refusal::invalid(format!(
                    "\"limit\" is a number from 1 to {}",
                    limits::PAGE_ENTRIES_MAX
                ))
            })
    }

    /// The name of an upstream: `upstream`.
    pub(super) fn upstream(&self) -> Result<Option<UpstreamId>, Refusal> {
        let parse = |text| {
            UpstreamId::parse(text)
                .map_err(|error| Refusal::invalid(format!("\"upstream\": {error}")))
        };
        self.get("upstream").map(parse).transpose()
    }
}

/// An origin as it is written out, `UPSTREAM/REPOSITORY`; `name` is the parameter that it stands in.
pub(super) fn origin(text: &str, name: &str) -> Result<Origin, Refusal> {
    let parsed = text.split_once('/').and_then(|(upstream, repository)| {
        let upstream = UpstreamId::parse(upstream).ok()?;
        Some(Origin::new(upstream, Repository::parse(repository).ok()?))
    });
    parsed.ok_or_else(|| {
        Refusal::invalid(format!(
            "\"{name}\" has to be what \"next\" of the page before was, or like \
             docker.io/library/alpine"
        ))
    })
}

/// The JSON document that a request brings.
pub(super) async fn document<T: DeserializeOwned>(
    request: &Parts,
    body: RequestBody,
) -> Result<T, Refusal> {
    if !is_json(&request.headers) {
        return Err(Refusal::body(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "this takes a JSON document: send it with Content-Type: application/json",
        ));
    }
    let read = body.read(limits::DOCUMENT_BYTES_MAX, limits::DOCUMENT_WAIT_MAX);
    let bytes = read.await.map_err(|error| match error {
        RequestBodyError::TooLarge => Refusal::body(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!(
                "the document is too large: send at most {} bytes, and the rest in further \
                 requests",
                limits::DOCUMENT_BYTES_MAX
            ),
        ),
        RequestBodyError::Timeout => Refusal::body(
            StatusCode::REQUEST_TIMEOUT,
            "the document does not come: send it at once",
        ),
        RequestBodyError::Broken => {
            Refusal::body(StatusCode::BAD_REQUEST, "the document broke off")
        }
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::invalid(format!("this is not the document wanted: {error}")))
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Parameters<'_>, Refusal> {
        Parameters::parse(Some(query), &["name", "limit", "upstream"])
    }

    #[test]
    fn known_parameters_are_read_and_others_refused() {
        let parameters = parse("name=docker.io%2Fa%3A1&limit=7").unwrap();
        assert_eq!(parameters.get("name"), Some("docker.io/a:1"));
        assert_eq!(parameters.limit().unwrap(), 7);
        assert_eq!(parameters.upstream().unwrap(), None);
        assert!(Parameters::parse(None, &[]).is_ok());
        for query in ["nmae=a", "name=a&name=b", "name", "name=", "limit=0&name=a"] {
            let refused = parse(query).and_then(|parameters| {
                parameters.require("name", "alpine")?;
                parameters.limit().map(drop)
            });
            assert!(refused.is_err(), "{query}");
        }
        for limit in ["0", "501", "-1", "+1", "", "x", "99999999999999999999999"] {
            let query = format!("limit={limit}");
            assert!(parse(&query).unwrap().limit().is_err(), "{limit}");
        }
        assert!(parse("upstream=a%2Fb").unwrap().upstream().is_err());
    }

    #[test]
    fn origins_are_read_as_they_are_written() {
        let read = |text| origin(text, "after");
        assert_eq!(
            read("localhost:5000/a/b").unwrap().to_string(),
            "localhost:5000/a/b"
        );
        for text in ["", "alpine", "docker.io/", "docker.io/A", "docker.io/a:1"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
