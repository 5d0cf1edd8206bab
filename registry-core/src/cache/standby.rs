//! What there is to answer with where the upstream cannot, and which of the two is the answer.

use super::CacheError;
use super::flight::Flight;
use super::status::StaleReason;
use crate::UpstreamError;

/// What there is to answer with where the upstream cannot tell.
pub(super) enum Standby<H> {
    /// What it said when it was last asked.
    Held(H),
    /// That it had none when it was last asked: an image has no signature.
    Absence,
    /// Nothing.
    Nothing,
}

/// The answer to a question: `None` where the upstream has no such thing.
pub(super) type Said<T> = Result<Option<T>, CacheError>;

/// What is answered.
pub(super) enum Choice<H, T> {
    /// What the upstream says.
    Said(T),
    /// What is held, and why.
    Held(H, StaleReason),
}

impl<H> Standby<H> {
    /// Whether there is nothing, so that the upstream must be waited for however long it takes.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    /// What a flight brings; `None` where it is late and there is something to answer with.
    pub(super) async fn wait_for<T>(
        &self,
        flight: Result<Flight<Option<T>>, CacheError>,
    ) -> Option<Said<T>>
    where
        H: Sync,
        T: Clone + Send + Sync,
    {
        match flight {
            Ok(flight) if self.is_nothing() => Some(flight.landed().await),
            Ok(flight) => flight.in_time().await,
            Err(error) => Some(Err(error)),
        }
    }

    /// Chooses between what there is and what the upstream said; `None` if it said nothing in time.
    /// Where `forward_not_found`, what the upstream has no longer is not there.
    pub(super) fn or<T>(
        self,
        said: Option<Said<T>>,
        forward_not_found: bool,
    ) -> Result<Choice<H, T>, CacheError> {
        let error = match said {
            Some(Ok(Some(said))) => return Ok(Choice::Said(said)),
            Some(Ok(None)) => {
                return match self {
                    Self::Held(held) if !forward_not_found => {
                        Ok(Choice::Held(held, StaleReason::Gone))
                    }
                    _ => Err(CacheError::NotFound),
                };
            }
            Some(Err(error)) => error,
            None => UpstreamError::Timeout { what: "answer" }.into(),
        };
        match self {
            Self::Held(held) => match error.stale_reason() {
                Some(reason) => Ok(Choice::Held(held, reason)),
                None => Err(error),
            },
            Self::Absence => Err(error.or_absent()),
            Self::Nothing => Err(error),
        }
    }
}
