//! What people write for upstreams, repositories and patterns, read as the mirror reads it.

use registry_core::{Origin, Pin, UpstreamId};
use registry_server::api::{ImageName, Status};

use super::Session;
use super::failure::Failure;

/// What a mirror calls its upstreams.
pub(super) struct Names {
    default: UpstreamId,
    known: Vec<UpstreamId>,
}

impl Names {
    /// Those of the mirror that is asked.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub(super) async fn ask(session: &Session) -> Result<Self, Failure> {
        let status: Status = session.client.get("status", &[]).await?;
        let parse = |name: &str| UpstreamId::parse(name).ok();
        let default = parse(&status.default_upstream).ok_or_else(|| {
            Failure::Failed("the mirror does not say what its default upstream is".to_owned())
        })?;
        let known = status.upstreams.iter().filter_map(|it| parse(&it.name));
        Ok(Self {
            default,
            known: known.collect(),
        })
    }

    /// The upstream of this name, if the mirror has it.
    pub(super) fn upstream(&self, text: &str) -> Option<&UpstreamId> {
        let named = UpstreamId::parse(text).ok()?;
        self.known.iter().find(|known| **known == named)
    }

    /// The image of this name.
    pub(super) fn image(&self, text: &str) -> Result<ImageName, Failure> {
        let name = ImageName::parse(text, &self.default, |id| self.known.contains(id));
        name.map_err(|error| Failure::Usage(error.to_string()))
    }

    /// The repository of this name.
    pub(super) fn repository(&self, text: &str) -> Result<Origin, Failure> {
        Ok(self.image(text)?.origin)
    }

    /// The image or pattern of this name.
    pub(super) fn pin(&self, text: &str) -> Result<Pin, Failure> {
        let pin = ImageName::parse_pin(text, &self.default, |id| self.known.contains(id));
        pin.map_err(|error| Failure::Usage(error.to_string()))
    }
}

/// Whether a text says which image of its repository it means, and not only which repository.
pub(super) fn names_one(text: &str) -> bool {
    let last = text.rsplit('/').next().unwrap_or(text);
    last.contains([':', '@'])
}

/// Whether a text is a pattern of names.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}
