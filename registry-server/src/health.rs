//! Whether requests should come to this mirror, and what a person should look at.
//!
//! A mirror that can answer should be asked, however ill it is: without a store it is a proxy, and
//! without its upstreams it serves what it has. To take it out of rotation for either would turn a
//! slow pull into none, and would do so to all mirrors at once where what fails is what they share.
//! So it is only not ready while it starts and while it shuts down; everything else is a problem that
//! is told ([ADR 17](../../docs/adr/0017-what-is-told-of-a-mirror.md)).

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use registry_core::{RegistryCache, UpstreamId};
use tokio::time::timeout;

use crate::api::Health;
use crate::metrics::Metrics;

/// How long the store is waited for. Whoever asks whether a mirror is ready waits for a second, as a
/// rule, and takes none at all for a no.
const STORE_WAIT_MAX: Duration = Duration::from_millis(250);

/// How far a mirror has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It does not accept connections yet.
    Starting,
    /// It serves.
    Serving,
    /// It accepts no more connections.
    Draining,
}

/// The stage that a mirror is at. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Readiness(Arc<AtomicU8>);

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(AtomicU8::new(Stage::Starting as u8)))
    }
}

impl Readiness {
    pub(crate) fn stage(&self) -> Stage {
        match self.0.load(Ordering::Relaxed) {
            stage if stage == Stage::Starting as u8 => Stage::Starting,
            stage if stage == Stage::Serving as u8 => Stage::Serving,
            _ => Stage::Draining,
        }
    }

    /// Whether requests should come here.
    pub(crate) fn is_ready(&self) -> bool {
        self.stage() == Stage::Serving
    }

    pub(crate) fn set(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Relaxed);
    }
}

/// How a mirror is: what `/readyz` tells, and the admin API. `refused` is why what the configuration
/// says now is not in effect, where it is not.
pub(crate) async fn health(
    readiness: &Readiness,
    cache: &RegistryCache,
    metrics: &Metrics,
    refused: Option<&str>,
) -> Health {
    let mut problems = Vec::new();
    match readiness.stage() {
        Stage::Serving => {}
        Stage::Starting => problems.push("the mirror is starting".to_owned()),
        Stage::Draining => problems.push(
            "the mirror is shutting down: answers under way end, no new connection is accepted"
                .to_owned(),
        ),
    }
    problems.extend(of_store(cache).await.map(str::to_owned));
    if let Some(refused) = refused {
        problems.push(format!(
            "what the configuration says now is not in effect: {refused}"
        ));
    }
    problems.extend(upstreams_down(cache, metrics));
    Health {
        ready: readiness.is_ready(),
        problems,
    }
}

/// What is the matter with the store.
async fn of_store(cache: &RegistryCache) -> Option<&'static str> {
    let usage = timeout(STORE_WAIT_MAX, cache.usage()).await;
    if cache.store_is_failing() {
        return Some(
            "the store is failing: everything passes through without being kept (the log says why)",
        );
    }
    match usage {
        Err(_) => Some("the store does not answer: the disk is overloaded, or has gone away"),
        Ok(Err(_)) => Some("the store cannot tell what it keeps (the log says why)"),
        Ok(Ok(usage)) => {
            let free_bytes = usage.and_then(|usage| usage.kept.free_bytes);
            (free_bytes == Some(0)).then_some(
                "the disk is full but for its reserve: what is new passes through without being \
                 kept until something is evicted or deleted",
            )
        }
    }
}

/// Upstreams of which no endpoint works.
fn upstreams_down(cache: &RegistryCache, metrics: &Metrics) -> Vec<String> {
    let over_http = metrics.upstreams();
    let upstreams = cache.upstreams();
    let down = |id: &UpstreamId| {
        // Of those of the same name, the one that was set up last.
        let upstream = over_http
            .iter()
            .rev()
            .find(|upstream| upstream.id() == id)?;
        let endpoints = upstream.endpoints();
        if endpoints.is_empty() || endpoints.iter().any(|endpoint| endpoint.up) {
            return None;
        }
        let why = endpoints.into_iter().filter_map(|it| it.last_error);
        let why: Vec<_> = why.map(|error| error.what).collect();
        Some(format!(
            "{id} cannot be asked, and what is held of it is served: {}",
            why.join("; ")
        ))
    };
    upstreams.ids().filter_map(down).collect()
}
