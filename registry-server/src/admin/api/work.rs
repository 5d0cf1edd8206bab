//! What jobs do: warming, verifying, collecting.

use futures::future::BoxFuture;
use http::StatusCode;
use registry_core::cache::{CollectRequest, VerifyRequest, VerifyScope, WarmOptions};
use registry_core::{Platform, RegistryCache};

use super::jobs::Worker;
use super::problem::{Refusal, document_at};
use super::{Api, documents, limits};
use crate::api::{ImageName, JobKind, JobRequest};
use crate::front::{Answer, chain};

/// A piece of work that was asked for, and what it is called.
struct Order {
    kind: JobKind,
    what: String,
    work: Box<dyn FnOnce(Worker) -> BoxFuture<'static, ()> + Send>,
}

impl Api {
    pub(super) fn start_job(&self, request: JobRequest) -> Result<Answer, Refusal> {
        let order = match request {
            JobRequest::Warm {
                images,
                platforms,
                attached,
            } => self.warm(&images, &platforms, attached)?,
            JobRequest::Verify { rate, image } => self.verify(rate, image.as_deref())?,
            JobRequest::Collect { bytes, dry_run } => {
                self.collect(CollectRequest { bytes, dry_run })
            }
        };
        let job = self.jobs.start(order.kind, order.what, order.work)?;
        let location = format!("/api/v1/jobs/{}", job.id);
        Ok(document_at(StatusCode::ACCEPTED, &location, &job))
    }

    fn warm(
        &self,
        images: &[String],
        platforms: &[String],
        attached: bool,
    ) -> Result<Order, Refusal> {
        if images.is_empty() || images.len() > limits::WARM_IMAGES_MAX {
            return Err(Refusal::invalid(format!(
                "\"images\" names 1 to {} images: begin further jobs for more",
                limits::WARM_IMAGES_MAX
            )));
        }
        if platforms.len() > limits::WARM_PLATFORMS_MAX {
            return Err(Refusal::invalid(format!(
                "\"platforms\" names at most {}: leave it out for all of them",
                limits::WARM_PLATFORMS_MAX
            )));
        }
        let mut names = Vec::new();
        for image in images {
            let name = self.parse_name(image)?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let platforms = platforms.iter().map(|text| {
            Platform::parse(text)
                .map_err(|error| Refusal::invalid(format!("\"{text}\" is {error}")))
        });
        let options = WarmOptions {
            platforms: platforms.collect::<Result<_, _>>()?,
            attached,
        };
        let what = match &names[..] {
            [name] => format!("fetch {name}"),
            names => format!("fetch {} images", names.len()),
        };
        let cache = self.cache.clone();
        Ok(Order {
            kind: JobKind::Warm,
            what,
            work: Box::new(|worker| Box::pin(warm(cache, names, options, worker))),
        })
    }

    fn verify(&self, rate: Option<u64>, image: Option<&str>) -> Result<Order, Refusal> {
        if rate == Some(0) {
            return Err(Refusal::invalid(
                "\"rate\" is in bytes a second, and more than none",
            ));
        }
        let name = image.map(|image| self.parse_name(image)).transpose()?;
        let what = match &name {
            Some(name) => format!("verify {name}"),
            None => "verify everything".to_owned(),
        };
        let request = VerifyRequest {
            scope: name.map_or(VerifyScope::Everything, |name| {
                VerifyScope::Image(name.origin, name.reference)
            }),
            bytes_per_second: rate.unwrap_or_else(|| self.cache.verification().bytes_per_second),
        };
        let cache = self.cache.clone();
        Ok(Order {
            kind: JobKind::Verify,
            what,
            work: Box::new(|worker| Box::pin(verify(cache, request, worker))),
        })
    }
}

impl Api {
    fn collect(&self, request: CollectRequest) -> Order {
        let bytes = request.bytes.map(documents::size);
        let what = match (request.dry_run, bytes) {
            (false, None) => "evict what is over the limits".to_owned(),
            (true, None) => "tell what is over the limits".to_owned(),
            (false, Some(bytes)) => format!("evict until {bytes} are kept"),
            (true, Some(bytes)) => format!("tell what is evicted until {bytes} are kept"),
        };
        let cache = self.cache.clone();
        Order {
            kind: JobKind::Collect,
            what,
            work: Box::new(move |worker| Box::pin(collect(cache, request, worker))),
        }
    }
}

/// Fetches images, one after the other: each fetches several of its layers at a time.
async fn warm(cache: RegistryCache, names: Vec<ImageName>, options: WarmOptions, worker: Worker) {
    let total = names.len() as u64;
    worker
        .progress
        .update(|made| made.items_total = Some(total));
    for name in names {
        if worker.progress.is_cancelled() {
            return;
        }
        worker
            .progress
            .update(|made| made.current = Some(name.to_string()));
        let part = worker.begin_part();
        let warmed = cache.warm(&name.origin, &name.reference, &options, &part);
        match warmed.await {
            Ok(warmed) if warmed.cancelled => {}
            Ok(warmed) => worker.notes.done(documents::warmed(&name, &warmed)),
            Err(error) => worker.notes.failed(format!("{name}: {}", chain(&error))),
        }
        worker.end_part();
    }
    worker.progress.update(|made| made.current = None);
}

async fn verify(cache: RegistryCache, request: VerifyRequest, worker: Worker) {
    match cache.verify(&request, &worker.progress).await {
        Ok(report) => {
            for finding in &report.findings {
                match documents::finding(finding) {
                    (line, false) => worker.notes.done(line),
                    (line, true) => worker.notes.failed(line),
                }
            }
            documents::verified(&report)
                .into_iter()
                .for_each(|line| worker.notes.done(line));
        }
        Err(error) => worker.notes.failed(chain(&error)),
    }
}

async fn collect(cache: RegistryCache, request: CollectRequest, worker: Worker) {
    let is_dry = request.dry_run;
    match cache.collect(request, &worker.progress).await {
        Ok(collected) => {
            documents::collected(&collected, is_dry)
                .into_iter()
                .for_each(|line| worker.notes.done(line));
            if collected.is_short {
                worker.notes.failed(
                    "more would have to go than can: the rest is pinned, exempt, or in use"
                        .to_owned(),
                );
            }
        }
        Err(error) => worker.notes.failed(chain(&error)),
    }
}
