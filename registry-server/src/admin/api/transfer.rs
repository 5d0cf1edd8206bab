//! Archives of images, out and in.

use std::io;

use futures::StreamExt as _;
use http::header::CONTENT_DISPOSITION;
use http::{HeaderValue, StatusCode};
use registry_core::cache::{self, ExportError, ImportError, PlatformChoice};
use registry_core::{CacheError, Platform, Progress, StoreError};
use tracing::warn;

use super::problem::{Refusal, document};
use super::question::Parameters;
use super::{Api, limits};
use crate::api::{ExportRequest, ImportReport};
use crate::archive::{ArchiveError, ExportedArchive, ImportName, export_archive, import_archive};
use crate::front::{Answer, BodyError, Lasts, Payload, RequestBody, chain};

const TAR: HeaderValue = HeaderValue::from_static("application/x-tar");
const AS_FILE: HeaderValue = HeaderValue::from_static("attachment; filename=\"images.tar\"");

impl Api {
    /// An archive, under its length: one that breaks off is short of it.
    pub(super) async fn export(&self, request: ExportRequest) -> Result<Answer, Refusal> {
        let planned = self.plan(&request)?;
        let archive = export_archive(&self.cache, &planned, &Progress::new()).await?;
        if request.dry_run {
            return Ok(document(StatusCode::OK, &archive.report));
        }
        let ExportedArchive { bytes, length, .. } = archive;
        let bytes = bytes.map(|chunk| {
            chunk.map_err(|error| {
                warn!(error = chain(&error), "an export broke off");
                BodyError::Archive(error)
            })
        });
        let mut answer = Answer::content(Payload::Stream(bytes.boxed()), length, TAR);
        answer.headers.insert(CONTENT_DISPOSITION, AS_FILE);
        Ok(answer.lasting(Lasts::Never))
    }

    fn plan(&self, request: &ExportRequest) -> Result<cache::ExportRequest, Refusal> {
        if request.images.is_empty() {
            return Err(Refusal::invalid("\"images\" names at least one image"));
        }
        let platforms = request.platforms.iter().map(|text| {
            Platform::parse(text)
                .map_err(|error| Refusal::invalid(format!("\"{text}\" is {error}")))
        });
        let platforms = platforms.collect::<Result<Vec<_>, _>>()?;
        let platforms = match (platforms.is_empty(), request.all_platforms) {
            (true, true) => PlatformChoice::All,
            (true, false) => PlatformChoice::Held,
            (false, false) => PlatformChoice::Only(platforms),
            (false, true) => {
                return Err(Refusal::invalid(
                    "\"platforms\" and \"all_platforms\" say different things: send one of them",
                ));
            }
        };
        let images = request.images.iter().map(|text| self.parse_name(text));
        let images = images.collect::<Result<Vec<_>, _>>()?.into_iter();
        Ok(cache::ExportRequest {
            images: images.map(|name| (name.origin, name.reference)).collect(),
            platforms,
            attached: request.attached,
            held_only: request.held_only,
        })
    }

    /// An archive that is the body of the request.
    pub(super) async fn import(
        &self,
        asked: &Parameters<'_>,
        body: RequestBody,
    ) -> Result<Answer, Refusal> {
        let upstreams = self.cache.upstreams();
        let is_known = |upstream: &_| upstreams.get(upstream).is_some();
        let name = asked.get("as").map(|text| {
            ImportName::parse(text, &self.default_upstream, is_known)
                .map_err(|error| Refusal::body(StatusCode::BAD_REQUEST, error.to_string()))
        });
        let name = name.transpose()?;
        let archive = body.stream(limits::ARCHIVE_IDLE_MAX);
        let progress = Progress::new();
        let imported = import_archive(&self.cache, archive, name.as_ref(), &progress).await?;
        refuse_nothing(&imported)?;
        Ok(document(StatusCode::OK, &imported))
    }
}

/// Where no image came of it, that is an error.
fn refuse_nothing(imported: &ImportReport) -> Result<(), Refusal> {
    match imported.failures.first() {
        Some(failure) if imported.images.is_empty() => {
            let (name, reason) = (&failure.name, &failure.reason);
            let message = format!("no image was imported: {name}: {reason}");
            Err(Refusal::unprocessable(message))
        }
        _ => Ok(()),
    }
}

impl From<ExportError> for Refusal {
    fn from(error: ExportError) -> Self {
        let text = chain(&error);
        match error {
            ExportError::Image { source, .. } => match source {
                CacheError::NotFound
                | CacheError::NotFoundStale { .. }
                | CacheError::UnknownUpstream => Self::not_found(text),
                CacheError::Overloaded => Self::busy(text),
                _ => Self::unavailable(text),
            },
            ExportError::NotHeld { .. } => Self::not_found(format!(
                "{text}: without \"held_only\", what is missing is fetched"
            )),
            ExportError::NoSuchPlatform { .. } => Self::not_found(text),
            ExportError::Busy => Self::busy(text),
            _ => Self::invalid(text),
        }
    }
}

impl From<ArchiveError> for Refusal {
    /// The connection ends, since not all of the body may have been read.
    fn from(error: ArchiveError) -> Self {
        let text = chain(&error);
        let status = match &error {
            ArchiveError::Import(ImportError::Busy) => return Self::busy(text).closing(),
            ArchiveError::Import(
                ImportError::NoRoom | ImportError::Store(StoreError::NoSpace { .. }),
            ) => {
                return Self::full(format!(
                    "{text}: make room for it, or raise the limit (max_size, reserve)"
                ))
                .closing();
            }
            ArchiveError::Import(ImportError::Store(_) | ImportError::Closed) => {
                return Self::unavailable(text).closing();
            }
            ArchiveError::Read(error) if error.kind() == io::ErrorKind::TimedOut => {
                StatusCode::REQUEST_TIMEOUT
            }
            ArchiveError::Import(ImportError::TooMuch { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            ArchiveError::Read(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::body(status, text)
    }
}
