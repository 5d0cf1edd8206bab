//! What is held: repositories, single images, why one is here, and removing one.

use http::StatusCode;

use super::problem::{Refusal, document};
use super::question::{Parameters, origin};
use super::{Api, documents};
use crate::api::{ImageName, Page};
use crate::front::Answer;

/// What a name that has to be given looks like.
pub(super) const EXAMPLE: &str = "docker.io/library/alpine:3.20";

impl Api {
    pub(super) async fn repositories(&self, asked: &Parameters<'_>) -> Result<Answer, Refusal> {
        let (upstream, limit) = (asked.upstream()?, asked.limit()?);
        let after = asked.get("after").map(|text| origin(text, "after"));
        let after = after.transpose()?;
        let found = self
            .cache
            .repositories(upstream.as_ref(), after.as_ref(), limit + 1);
        let mut items: Vec<_> = found
            .await?
            .into_iter()
            .map(documents::repository)
            .collect();
        let has_more = items.len() > limit;
        items.truncate(limit);
        let last = items.last().filter(|_| has_more);
        let next = last.map(|last| format!("{}/{}", last.upstream, last.repository));
        Ok(document(StatusCode::OK, &Page { items, next }))
    }

    pub(super) async fn image(&self, asked: &Parameters<'_>) -> Result<Answer, Refusal> {
        let name = self.image_name(asked)?;
        let image = self.cache.image(&name.origin, &name.reference).await?;
        let image = image.ok_or_else(|| not_held(&name))?;
        Ok(document(StatusCode::OK, &documents::image_detail(image)))
    }

    pub(super) async fn delete_image(&self, asked: &Parameters<'_>) -> Result<Answer, Refusal> {
        let name = self.image_name(asked)?;
        let deleted = self.cache.delete(&name.origin, &name.reference).await?;
        let deleted = deleted.ok_or_else(|| not_held(&name))?;
        tracing::info!(%name, bytes = deleted.bytes, "an image was deleted");
        Ok(document(
            StatusCode::OK,
            &documents::removed(&name, deleted),
        ))
    }

    pub(super) async fn why(&self, asked: &Parameters<'_>) -> Result<Answer, Refusal> {
        let name = self.image_name(asked)?;
        let explanation = self.cache.explain(&name.origin, &name.reference).await?;
        Ok(document(
            StatusCode::OK,
            &documents::why(&name, explanation),
        ))
    }

    /// The image that a request is about: `name`.
    fn image_name(&self, asked: &Parameters<'_>) -> Result<ImageName, Refusal> {
        self.parse_name(asked.require("name", EXAMPLE)?)
    }

    /// An image, by what somebody writes.
    pub(super) fn parse_name(&self, text: &str) -> Result<ImageName, Refusal> {
        let upstreams = self.cache.upstreams();
        let is_known = |upstream: &_| upstreams.get(upstream).is_some();
        ImageName::parse(text, &self.default_upstream, is_known)
            .map_err(|error| Refusal::invalid(error.to_string()))
    }
}

fn not_held(name: &ImageName) -> Refusal {
    Refusal::not_found(format!(
        "nothing is held of {name}: GET /api/v1/why?name={name} says more"
    ))
}
