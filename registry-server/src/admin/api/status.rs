//! How the mirror is: its state in all, its upstreams, its jobs.

use http::StatusCode;
use registry_core::{CacheError, UpstreamId};

use super::problem::{Refusal, document};
use super::{Api, documents, jobs};
use crate::api::{
    ConfigurationState, Health, Job, Page, Status, Storage, Time, Traffic, UpstreamState,
};
use crate::front::Answer;
use crate::health::{Stage, health};

impl Api {
    pub(super) async fn status(&self) -> Result<Answer, Refusal> {
        let upstreams = self.upstream_states().await?;
        let configuration = self.configuration();
        let path = self.options.data_dir.as_ref();
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: Time::from(self.started_at),
            listen: self.listen.to_string(),
            admin_listen: Some(self.admin_listen.to_string()),
            default_upstream: self.default_upstream.to_string(),
            data_dir: path.map(|path| path.display().to_string()),
            health: self.health().await,
            storage: self.storage().await?,
            traffic: self.traffic(),
            upstreams,
            jobs: self.jobs.running(),
            configuration,
        };
        Ok(document(StatusCode::OK, &status))
    }

    pub(super) async fn upstreams(&self) -> Result<Answer, Refusal> {
        let items = self.upstream_states().await?;
        Ok(document(StatusCode::OK, &all(items)))
    }

    pub(super) fn list_jobs(&self) -> Answer {
        document(StatusCode::OK, &all(self.jobs.list()))
    }

    pub(super) fn job(&self, id: u64) -> Result<Answer, Refusal> {
        let job = self.jobs.get(id).ok_or_else(|| jobs::unknown(id))?;
        Ok(document(StatusCode::OK, &job))
    }

    pub(super) fn cancel_job(&self, id: u64) -> Result<Answer, Refusal> {
        let job: Job = self.jobs.cancel(id)?;
        Ok(document(StatusCode::OK, &job))
    }
}

/// A listing that is short enough to be one page.
pub(super) fn all<T>(items: Vec<T>) -> Page<T> {
    Page { items, next: None }
}

/// What the parts of the state are made of.
impl Api {
    async fn upstream_states(&self) -> Result<Vec<UpstreamState>, Refusal> {
        let over_http = self.metrics.upstreams();
        let ids: Vec<UpstreamId> = self.cache.upstreams().ids().cloned().collect();
        let mut states = Vec::new();
        for id in ids {
            let bytes = match self.cache.charged(&id).await {
                // Then nobody can tell; how the upstream is, can be told all the same.
                Err(CacheError::NoUpkeep) => None,
                bytes => bytes?,
            };
            // Of those of the same name, the one that was set up last: others end with what is
            // still asked of them.
            let upstream = over_http.iter().rev().find(|upstream| *upstream.id() == id);
            states.push(documents::upstream(
                &id,
                upstream.map(|upstream| &**upstream),
                bytes,
            ));
        }
        Ok(states)
    }

    async fn storage(&self) -> Result<Storage, Refusal> {
        let usage = self.cache.usage().await?;
        let pins = match self.cache.pins().await {
            Err(CacheError::NoUpkeep) => 0,
            pins => pins?.len() as u64,
        };
        let evictions = self.cache.evictions();
        Ok(Storage {
            pins,
            healed: self.cache.healed(),
            failures: self.cache.store_failures(),
            ..documents::storage(&usage.unwrap_or_default(), &evictions)
        })
    }

    fn traffic(&self) -> Traffic {
        Traffic {
            fills_active: self.cache.fills_active() as u64,
            ..self.metrics.totals()
        }
    }

    fn configuration(&self) -> ConfigurationState {
        self.told_of_configuration()()
    }

    /// What tells, whenever it is called, how the configuration is.
    pub(super) fn told_of_configuration(
        &self,
    ) -> impl Fn() -> ConfigurationState + Send + Sync + use<> {
        let configuration = self.options.configuration.clone();
        let started_at = Time::from(self.started_at);
        move || match &configuration {
            Some(configuration) => configuration.state(),
            None => ConfigurationState {
                file: None,
                loaded_at: started_at,
                refused: None,
                needs_restart: Vec::new(),
            },
        }
    }

    pub(in crate::admin) fn stage(&self) -> Stage {
        self.readiness.stage()
    }

    /// How the mirror is, for those who administer it.
    async fn health(&self) -> Health {
        self.health_where(self.configuration().refused.as_deref())
            .await
    }

    /// How the mirror is, for everybody: without what stands in a file of this machine, and where.
    pub(in crate::admin) async fn health_for_all(&self) -> Health {
        let refused = self.configuration().refused;
        self.health_where(refused.map(|_| "the log says why")).await
    }

    async fn health_where(&self, refused: Option<&str>) -> Health {
        health(&self.readiness, &self.cache, &self.metrics, refused).await
    }
}
