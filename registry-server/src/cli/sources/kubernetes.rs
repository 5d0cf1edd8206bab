//! Images of Kubernetes objects, as `helm template`, `kubectl kustomize` and `kubectl get -o yaml`
//! print them.
//!
//! Every `image` is taken, wherever it stands: containers of all kinds are in templates of
//! templates, and custom resources have fields of their own for what their operators will start.

use serde_json::{Map, Value};

use super::Found;

/// What has no image of its own, and may have text that looks like it.
const WITHOUT_IMAGES: [&str; 3] = ["ConfigMap", "CustomResourceDefinition", "Secret"];
/// What Istio writes where its injection puts an image in.
const INJECTED: &str = "auto";

pub(super) fn is_object(value: &Value) -> bool {
    value["apiVersion"].is_string() && value["kind"].is_string()
}

pub(super) fn is_kustomization(value: &Value) -> bool {
    matches!(value["kind"].as_str(), Some("Kustomization" | "Component"))
        && value["apiVersion"]
            .as_str()
            .is_some_and(|it| it.starts_with("kustomize.config.k8s.io/"))
        || value["resources"].is_array() && value["kind"].is_null()
}

pub(super) fn find(documents: &[Value]) -> Found {
    let mut found = Found::default();
    for (index, document) in documents.iter().enumerate() {
        walk(document, &format!("document {}", index + 1), &mut found);
    }
    found
}

/// Goes through a value, which is as deep as the reader of YAML lets it be. `owner` is the object
/// that it belongs to.
fn walk(value: &Value, owner: &str, found: &mut Found) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, owner, found)),
        Value::Object(fields) => walk_fields(value, fields, owner, found),
        _ => {}
    }
}

fn walk_fields(value: &Value, fields: &Map<String, Value>, owner: &str, found: &mut Found) {
    let name = is_object(value).then(|| name_of(value));
    let owner = name.as_deref().unwrap_or(owner);
    if name.is_some()
        && value["kind"]
            .as_str()
            .is_some_and(|it| WITHOUT_IMAGES.contains(&it))
    {
        return;
    }
    for (key, field) in fields {
        match (key.as_str(), field) {
            ("image", Value::String(image)) if image == INJECTED => {
                let remark = format!("{owner}: left out the image \"auto\", which is put in later");
                found.remarks.push(remark);
            }
            ("image", Value::String(image)) if image.trim().is_empty() => {
                found
                    .unusable
                    .push(format!("{owner}: has an image that is empty"));
            }
            ("image", Value::String(image)) => found.image(image.trim(), owner),
            // A volume that is an image.
            ("image", Value::Object(volume)) => match volume.get("reference") {
                Some(Value::String(image)) => found.image(image.trim(), owner),
                _ => walk(field, owner, found),
            },
            _ => walk(field, owner, found),
        }
    }
}

/// What a person calls an object.
fn name_of(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = text(&object["kind"]);
    let metadata = &object["metadata"];
    match (text(&metadata["namespace"]), text(&metadata["name"])) {
        (_, name) if name.is_empty() => kind,
        (namespace, name) if namespace.is_empty() => format!("{kind} {name}"),
        (namespace, name) => format!("{kind} {namespace}/{name}"),
    }
}
