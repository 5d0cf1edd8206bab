//! `docs/openapi.yaml`, and whether an answer is what it describes.
//!
//! A reading of JSON Schema that is stricter than the specification's: a member that is not described
//! is an error, and so is a keyword that is not known here. Readers of the API may ignore members
//! that they do not know; we may not add one without describing it.

use std::sync::OnceLock;

use registry_core::Digest;
use serde_json::{Map, Value};

/// Keywords that say nothing of what is valid.
const ANNOTATIONS: [&str; 6] = [
    "description",
    "examples",
    "example",
    "default",
    "discriminator",
    "title",
];

/// The one pattern that there is.
const DIGEST: &str = "^sha(256:[0-9a-f]{64}|512:[0-9a-f]{128})$";

/// The description.
pub(crate) fn description() -> &'static Value {
    static DESCRIPTION: OnceLock<Value> = OnceLock::new();
    DESCRIPTION.get_or_init(|| {
        let text = include_str!("../../../docs/openapi.yaml");
        serde_saphyr::from_str(text).expect("the description is YAML")
    })
}

/// Holds an answer against what is described for this method, path and status.
#[track_caller]
pub(crate) fn check(method: &str, path: &str, status: u16, media_type: &str, body: &[u8]) {
    let path = path.strip_prefix("/api/v1").expect("a path of the API");
    let path = path.split('?').next().unwrap_or(path);
    let content = content_of(method, path, status);
    let schema = &content[media_type]["schema"];
    assert!(
        schema.is_object(),
        "{method} {path}: {status} as {media_type} is not described"
    );
    if media_type != "application/json" {
        return;
    }
    let body: Value = serde_json::from_slice(body).expect("the answer is JSON");
    if let Err(problem) = valid(&body, schema, "the answer") {
        panic!("{method} {path} ({status}): {problem}\n{body:#}");
    }
}

/// What is described for a status; for a path or method that there is none of, a problem.
fn content_of(method: &str, path: &str, status: u16) -> &'static Value {
    let problem = &description()["components"]["responses"]["Problem"]["content"];
    let method = match method {
        "HEAD" => "GET",
        method => method,
    };
    let paths = description()["paths"].as_object().unwrap();
    let matches = |template: &str| {
        let (template, path) = (template.split('/'), path.split('/'));
        template.clone().count() == path.clone().count()
            && template
                .zip(path)
                .all(|(wanted, is)| wanted == is || wanted.starts_with('{') && !is.is_empty())
    };
    let found = paths.iter().find(|(template, _)| matches(template));
    let Some((_, item)) = found else {
        return problem;
    };
    let operation = &item[method.to_ascii_lowercase()];
    if operation.is_null() {
        return problem;
    }
    let responses = &operation["responses"];
    let response = responses
        .get(status.to_string())
        .unwrap_or(&responses["default"]);
    &resolve(response)["content"]
}

/// What a reference leads to.
fn resolve(value: &'static Value) -> &'static Value {
    let Some(reference) = value["$ref"].as_str() else {
        return value;
    };
    let pointer = reference.strip_prefix('#').expect("a local reference");
    let found = description().pointer(pointer);
    resolve(found.unwrap_or_else(|| panic!("{reference} leads nowhere")))
}

/// Whether a value is what a schema describes.
pub(crate) fn valid(value: &Value, schema: &'static Value, at: &str) -> Result<(), String> {
    let merged;
    let mut schema = resolve(schema);
    if let Some(parts) = schema["allOf"].as_array() {
        merged = merge(parts);
        schema = merged;
    }
    let keywords = schema.as_object().ok_or(format!("{at}: no schema"))?;
    for (keyword, said) in keywords {
        keyword_holds(value, keyword, said, keywords, at)?;
    }
    Ok(())
}

/// Several descriptions of one object, as one: the later of the same member counts.
fn merge(parts: &'static [Value]) -> &'static Value {
    let mut merged = Map::new();
    let mut properties = Map::new();
    for part in parts {
        let part = resolve(part).as_object().expect("a schema");
        merged.extend(part.clone());
        let own = part.get("properties").and_then(Value::as_object);
        properties.extend(own.cloned().unwrap_or_default());
    }
    merged.insert("properties".to_owned(), properties.into());
    // Few and small, and a test ends soon.
    Box::leak(Box::new(merged.into()))
}

fn keyword_holds(
    value: &Value,
    keyword: &str,
    said: &'static Value,
    keywords: &'static Map<String, Value>,
    at: &str,
) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{at}: {value} {what} ({keyword}: {said})"));
    let bound = |holds: fn(f64, f64) -> bool| match (value.as_f64(), said.as_f64()) {
        (Some(is), Some(bound)) if !holds(is, bound) => wrong("is out of bounds"),
        _ => Ok(()),
    };
    match keyword {
        "type" => {
            let types = said.as_array().cloned().unwrap_or(vec![said.clone()]);
            match types.iter().any(|wanted| wanted == type_of(value)) {
                true => Ok(()),
                false => wrong("is of another type"),
            }
        }
        "enum" => match said.as_array().unwrap().contains(value) {
            true => Ok(()),
            false => wrong("is none of these"),
        },
        "const" => match said == value {
            true => Ok(()),
            false => wrong("is not this"),
        },
        "minimum" => bound(|is, bound| is >= bound),
        "maximum" => bound(|is, bound| is <= bound),
        "minItems" | "maxItems" => {
            let count = value.as_array().map_or(0, Vec::len) as u64;
            let limit = said.as_u64().unwrap();
            match (keyword == "minItems" && count < limit)
                || (keyword == "maxItems" && count > limit)
            {
                true => wrong("has another number of items"),
                false => Ok(()),
            }
        }
        "format" => {
            format_holds(value, said.as_str().unwrap()).or_else(|()| wrong("is not in form"))
        }
        "pattern" if said == DIGEST => match value.as_str().map(str::parse::<Digest>) {
            Some(Err(_)) => wrong("is no digest"),
            _ => Ok(()),
        },
        "items" => {
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            let mut items = items.iter().enumerate();
            items.try_for_each(|(number, item)| valid(item, said, &format!("{at}[{number}]")))
        }
        "required" => {
            let mut names = said.as_array().unwrap().iter().filter_map(Value::as_str);
            match names.find(|name| value.get(name).is_none()) {
                Some(name) => wrong(&format!("has no {name}")),
                None => Ok(()),
            }
        }
        "properties" => properties_hold(value, keywords, at),
        "additionalProperties" => match (value.as_object(), keywords.get("properties")) {
            (Some(members), None) => {
                let mut members = members.iter();
                members.try_for_each(|(name, member)| valid(member, said, &format!("{at}.{name}")))
            }
            _ => Ok(()),
        },
        "oneOf" => {
            let choices = said.as_array().unwrap().iter();
            let results: Vec<_> = choices.map(|choice| valid(value, choice, at)).collect();
            match results.iter().filter(|result| result.is_ok()).count() {
                1 => Ok(()),
                _ => Err(format!("{at} is not exactly one of these: {results:#?}")),
            }
        }
        annotation if ANNOTATIONS.contains(&annotation) => Ok(()),
        unknown => Err(format!("{unknown} is not known to this test")),
    }
}

fn properties_hold(
    value: &Value,
    keywords: &'static Map<String, Value>,
    at: &str,
) -> Result<(), String> {
    let described = keywords["properties"].as_object().unwrap();
    let members = value.as_object().into_iter().flatten();
    for (name, member) in members {
        let at = format!("{at}.{name}");
        let schema = described
            .get(name)
            .ok_or(format!("{at} is not described"))?;
        valid(member, schema, &at)?;
    }
    Ok(())
}

fn format_holds(value: &Value, format: &str) -> Result<(), ()> {
    let holds = match (format, value) {
        (_, Value::Null) => true,
        ("date-time", Value::String(text)) => text.parse::<registry_server::api::Time>().is_ok(),
        ("int64", Value::Number(number)) => number.as_i64().is_some(),
        _ => false,
    };
    holds.then_some(()).ok_or(())
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[test]
fn the_description_is_whole_and_its_examples_are_what_it_describes() {
    // Every reference leads somewhere, and every keyword is known: a value that is wrong has each of
    // them looked at.
    let schemas = description()["components"]["schemas"].as_object().unwrap();
    for (name, schema) in schemas {
        for (member, schema) in schema["properties"].as_object().into_iter().flatten() {
            for value in [Value::Null, "text".into(), 1.into(), Value::Array(vec![])] {
                if let Err(problem) = valid(&value, schema, member) {
                    assert!(!problem.contains("not known"), "{name}: {problem}");
                }
            }
        }
    }
    let mut examples = 0;
    for (path, item) in description()["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let body = &operation["requestBody"]["content"]["application/json"];
            for (name, example) in body["examples"].as_object().into_iter().flatten() {
                valid(&example["value"], &body["schema"], name)
                    .unwrap_or_else(|problem| panic!("{method} {path}: {problem}"));
                examples += 1;
            }
        }
    }
    assert_eq!(examples, 7);
}

#[test]
fn what_is_not_described_is_noticed() {
    let schema = &description()["components"]["schemas"]["Problem"];
    let problem = |value| valid(&value, schema, "it").unwrap_err();
    let value = serde_json::json!({ "code": "invalid", "message": "x" });
    assert_eq!(valid(&value, schema, "it"), Ok(()));
    let more = serde_json::json!({ "code": "invalid", "message": "x", "more": 1 });
    assert!(problem(more).contains("it.more is not described"));
    let other = serde_json::json!({ "code": "other", "message": "x" });
    assert!(problem(other).contains("none of these"));
    assert!(problem(serde_json::json!({ "code": "invalid" })).contains("has no message"));
    assert!(
        problem(serde_json::json!({ "code": "invalid", "message": 1 })).contains("another type")
    );
}
