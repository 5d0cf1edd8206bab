//! Images that a text names: a list, Kubernetes objects, or a compose file.
//!
//! What the text is, is found out by what stands in it, and never guessed: a text that is none of
//! them is an error that says what it was taken for. Nothing here reads files or asks a mirror.

mod compose;
mod interpolate;
mod kubernetes;
mod list;
mod yaml;

use registry_core::UpstreamId;
use registry_server::api::ImageName;
use serde_json::Value;

use super::line::Format;

/// Longest text, in bytes: that of some thousand objects.
pub(super) const SOURCE_BYTES_MAX: usize = 32 << 20;

/// What was found in a text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The images, as they are written, each once.
    pub(super) images: Vec<String>,
    /// What names an image and cannot be used, with the reason.
    pub(super) unusable: Vec<String>,
    /// What a person may want to know.
    pub(super) remarks: Vec<String>,
}

impl Found {
    /// Takes an image that is written at `place`.
    fn image(&mut self, name: &str, place: &str) {
        if let Err(problem) = check(name) {
            self.unusable.push(format!("{place}: {problem}"));
        } else if !self.images.iter().any(|known| known == name) {
            self.images.push(name.to_owned());
        }
    }

    /// Takes what another text had.
    pub(super) fn append(&mut self, other: Self) {
        for image in other.images {
            if !self.images.contains(&image) {
                self.images.push(image);
            }
        }
        self.unusable.extend(other.unusable);
        self.remarks.extend(other.remarks);
    }
}

/// Whether a text is the name of an image. At which upstream it is, if it does not say, is the
/// mirror's to know.
pub(super) fn check(name: &str) -> Result<(), String> {
    let hub = UpstreamId::parse(UpstreamId::DOCKER_IO).expect("the constant is a name");
    let parsed = ImageName::parse(name, &hub, |_| false);
    parsed.map(drop).map_err(|error| error.to_string())
}

/// Finds the images that a text names. `env` looks up the variables of a compose file.
///
/// # Errors
///
/// What is wrong with the text as a whole, in a sentence.
pub(super) fn find(
    text: &str,
    format: Format,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Found, String> {
    match format {
        Format::List => return Ok(list::find(text)),
        Format::Auto if list::is_list(text) => return Ok(list::find(text)),
        _ => {}
    }
    let documents = yaml::documents(text)?;
    let documents: Vec<_> = documents.into_iter().filter(|it| !it.is_null()).collect();
    match format {
        Format::Kubernetes => Ok(kubernetes::find(&documents)),
        Format::Compose => compose::find(&documents, env),
        _ => match what_is(&documents)? {
            Kind::Kubernetes => Ok(kubernetes::find(&documents)),
            Kind::Compose => compose::find(&documents, env),
            Kind::List => Ok(list::find_values(&documents)),
        },
    }
}

/// What YAML can be.
enum Kind {
    Kubernetes,
    Compose,
    List,
}

fn what_is(documents: &[Value]) -> Result<Kind, String> {
    if documents.is_empty() {
        return Err("it is empty".to_owned());
    }
    let all = |is: fn(&Value) -> bool| documents.iter().all(is);
    if let Some(odd) = documents.iter().find(|it| kubernetes::is_kustomization(it)) {
        let name = odd["metadata"]["name"].as_str().unwrap_or("kustomization");
        return Err(format!(
            "{name} is a kustomization, which says how objects are changed, not which images they \
             use: pass what `kubectl kustomize` prints"
        ));
    }
    if all(kubernetes::is_object) {
        return Ok(Kind::Kubernetes);
    }
    if all(compose::is_project) {
        return Ok(Kind::Compose);
    }
    if all(list::is_strings) {
        return Ok(Kind::List);
    }
    if documents.iter().any(kubernetes::is_object) {
        let odd = documents.iter().position(|it| !kubernetes::is_object(it));
        let number = odd.map_or(1, |index| index + 1);
        return Err(format!(
            "document {number} is no Kubernetes object (apiVersion and kind), and others are; \
             --format kubernetes takes the images of all of them"
        ));
    }
    Err(
        "it is YAML, and neither Kubernetes objects (apiVersion and kind), nor a compose file \
         (services), nor a list of images. The values of a chart become objects by `helm template`"
            .to_owned(),
    )
}

#[cfg(test)]
mod tests;
