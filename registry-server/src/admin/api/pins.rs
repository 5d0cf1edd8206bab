//! What is kept whatever happens, and what was removed.

use http::StatusCode;
use registry_core::{CacheError, Pin};

use super::problem::{Refusal, document};
use super::question::Parameters;
use super::status::all;
use super::{Api, documents};
use crate::api::{ImageName, PinRequest, Pinned, Time};
use crate::front::Answer;

impl Api {
    pub(super) async fn list_pins(&self) -> Result<Answer, Refusal> {
        let pins = self.cache.pins().await?;
        let items = pins.iter().map(|(pin, since)| Pinned {
            pin: pin.to_string(),
            since: Time::from(*since),
        });
        Ok(document(StatusCode::OK, &all(items.collect())))
    }

    pub(super) async fn pin(&self, request: PinRequest) -> Result<Answer, Refusal> {
        let pin = self.parse_pin(&request.pin)?;
        let is_new = self.cache.pin(pin.clone()).await?;
        let status = match is_new {
            true => StatusCode::CREATED,
            false => StatusCode::OK,
        };
        let pinned = self.pinned(&pin).await?.ok_or_else(|| unknown(&pin))?;
        Ok(document(status, &pinned))
    }

    pub(super) async fn unpin(&self, asked: &Parameters<'_>) -> Result<Answer, Refusal> {
        let pin = self.parse_pin(asked.require("pin", super::images::EXAMPLE)?)?;
        let pinned = self.pinned(&pin).await?.ok_or_else(|| unknown(&pin))?;
        if !self.cache.unpin(&pin).await? {
            return Err(unknown(&pin));
        }
        Ok(document(StatusCode::OK, &pinned))
    }

    pub(super) async fn removals(&self, asked: &Parameters<'_>) -> Result<Answer, Refusal> {
        let removals = self.cache.removals(asked.limit()?).await?;
        let items = removals.into_iter().map(documents::removal).collect();
        Ok(document(StatusCode::OK, &all(items)))
    }

    /// A pin as it was set, if it was.
    async fn pinned(&self, pin: &Pin) -> Result<Option<Pinned>, CacheError> {
        let pins = self.cache.pins().await?;
        let found = pins.iter().find(|(of, _)| of == pin);
        Ok(found.map(|(pin, since)| Pinned {
            pin: pin.to_string(),
            since: Time::from(*since),
        }))
    }

    fn parse_pin(&self, text: &str) -> Result<Pin, Refusal> {
        let upstreams = self.cache.upstreams();
        let is_known = |upstream: &_| upstreams.get(upstream).is_some();
        ImageName::parse_pin(text, &self.default_upstream, is_known)
            .map_err(|error| Refusal::invalid(error.to_string()))
    }
}

fn unknown(pin: &Pin) -> Refusal {
    Refusal::not_found(format!(
        "there is no pin {pin}: GET /api/v1/pins lists those that there are"
    ))
}
