//! Whether an upstream's HEAD can be relied upon: with some it does not work where GET does.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::config::HEAD_DISTRUST;

/// What is known of an upstream's HEAD for one kind of thing.
#[derive(Debug, Default)]
pub(super) struct HeadSupport(Mutex<Known>);

#[derive(Clone, Copy, Debug, Default)]
enum Known {
    /// Nothing yet: what it refuses or denies is asked by GET again.
    #[default]
    Nothing,
    /// It has worked: what it says is believed.
    Works,
    /// It did not work where GET did, and is not used for a while.
    Fails { until: Instant },
}

impl HeadSupport {
    /// Whether to ask by HEAD.
    pub(super) fn is_usable(&self) -> bool {
        match self.known() {
            Known::Nothing | Known::Works => true,
            Known::Fails { until } => Instant::now() >= until,
        }
    }

    /// Whether a refusal of HEAD is to be believed.
    pub(super) fn is_proven(&self) -> bool {
        matches!(self.known(), Known::Works)
    }

    pub(super) fn note_works(&self) {
        self.set(Known::Works);
    }

    pub(super) fn note_fails(&self) {
        self.set(Known::Fails {
            until: Instant::now() + HEAD_DISTRUST,
        });
    }

    fn known(&self) -> Known {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, known: Known) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_head_that_fails_is_tried_again_in_time() {
        let head = HeadSupport::default();
        assert!(head.is_usable() && !head.is_proven());
        head.note_works();
        assert!(head.is_usable() && head.is_proven());
        head.note_fails();
        tokio::time::advance(HEAD_DISTRUST - Duration::from_millis(1)).await;
        assert!(!head.is_usable() && !head.is_proven());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(head.is_usable());
    }
}
