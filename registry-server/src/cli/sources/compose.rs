//! Images of compose files.

use serde_json::Value;

use super::Found;
use super::interpolate::interpolate;

/// What may stand beside services: files that bring more of them.
const ELSEWHERE: [&str; 2] = ["include", "extends"];

pub(super) fn is_project(value: &Value) -> bool {
    value["services"].is_object() && value["kind"].is_null()
}

/// # Errors
///
/// That a document has no services.
pub(super) fn find(
    documents: &[Value],
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Found, String> {
    let mut found = Found::default();
    for document in documents {
        let services = document["services"].as_object();
        let services = services.ok_or("it has no services, as a compose file has")?;
        for key in ELSEWHERE {
            if services
                .values()
                .chain([document])
                .any(|it| !it[key].is_null())
            {
                found.remarks.push(format!(
                    "what it has by {key} is not read: pass what `docker compose config` prints"
                ));
            }
        }
        for (name, service) in services {
            find_in(service, &format!("service {name}"), env, &mut found);
        }
    }
    Ok(found)
}

fn find_in(service: &Value, place: &str, env: &dyn Fn(&str) -> Option<String>, found: &mut Found) {
    if !service["build"].is_null() {
        found.remarks.push(format!(
            "{place}: left out, since it is built and not pulled"
        ));
        return;
    }
    match &service["image"] {
        Value::String(image) => match interpolate(image, env) {
            Ok(image) if image.is_empty() => {
                found.unusable.push(format!("{place}: its image is empty"));
            }
            Ok(image) => found.image(&image, place),
            Err(problem) => found.unusable.push(format!("{place}: {problem}")),
        },
        // Of a service that extends another, the other has it.
        Value::Null if !service["extends"].is_null() => {}
        _ => found.unusable.push(format!("{place}: has no image")),
    }
}
