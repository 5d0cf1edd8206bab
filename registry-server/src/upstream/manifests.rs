//! Manifests: what a tag names, whether one is there, and fetching it.

use http::header::{ACCEPT, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use registry_core::{
    Answered, Descriptor, Digest, Manifest, MediaType, Reference, Repository, Resolution, Tag,
    UpstreamError,
};

use super::HttpUpstream;
use super::failover::Visit;
use super::observer::RequestKind;
use super::reply::Reply;
use super::transport::Question;

impl HttpUpstream {
    pub(super) async fn ask_tag(
        &self,
        repository: &Repository,
        tag: &Tag,
        prior: Option<Digest>,
    ) -> Result<Answered<Resolution>, UpstreamError> {
        let bytes_max = self.manifest_bytes_max;
        let attempt = |visit| resolve_at(visit, repository, tag, prior, bytes_max);
        let resolution = self.transport.ask(attempt).await?;
        Ok(resolution.unwrap_or(Answered::new(Resolution::Absent)))
    }

    pub(super) async fn fetch_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Option<Answered<Manifest>>, UpstreamError> {
        let question = question(Method::GET, repository, &reference.to_string(), None);
        let expected = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => None,
        };
        let bytes_max = self.manifest_bytes_max;
        let attempt = |visit| fetch_at(visit, &question, expected, bytes_max);
        self.transport.ask(attempt).await
    }

    pub(super) async fn ask_manifest(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Result<bool, UpstreamError> {
        let attempt = |visit| confirm_at(visit, repository, digest);
        let found = self.transport.ask(attempt).await?;
        Ok(found.is_some())
    }
}

/// What a tag names; none where there is no such tag.
async fn resolve_at(
    visit: Visit,
    repository: &Repository,
    tag: &Tag,
    prior: Option<Digest>,
    bytes_max: usize,
) -> Result<Option<Resolution>, UpstreamError> {
    let mut question = question(Method::HEAD, repository, &tag.to_string(), prior);
    let head = &visit.endpoint().manifest_head;
    // Fetching counts where asking does not, so HEAD is given up only where it is no good: one that
    // tells the digest is enough to find out that nothing has changed, whatever else it leaves out.
    let mut distrust = head.is_usable();
    if distrust {
        let reply = visit.ask(&question).await?;
        if let Some(resolution) = resolution_of_head(&reply, prior) {
            head.note_works();
            return Ok(Some(resolution));
        }
        if reply.is_absent() && head.is_proven() {
            return Ok(None);
        }
        if !may_work_by_get(&reply, head.is_proven()) {
            return Err(reply.failure());
        }
        distrust = reply.status() != StatusCode::OK || reply.digest().is_none();
    }
    question.method = Method::GET;
    let reply = visit.ask(&question).await?;
    match reply.status() {
        StatusCode::OK => {}
        StatusCode::NOT_MODIFIED if prior.is_some() => return Ok(Some(Resolution::Unchanged)),
        _ if reply.is_absent() => return Ok(None),
        _ => return Err(reply.failure()),
    }
    let manifest = read_manifest(&visit, reply, None, bytes_max).await?;
    if distrust {
        head.note_fails();
    }
    Ok(Some(if prior == Some(manifest.digest()) {
        Resolution::Unchanged
    } else {
        Resolution::Fetched(manifest)
    }))
}

async fn fetch_at(
    visit: Visit,
    question: &Question<'_>,
    expected: Option<Digest>,
    bytes_max: usize,
) -> Result<Option<Manifest>, UpstreamError> {
    let reply = visit.ask(question).await?;
    match reply.status() {
        StatusCode::OK => {}
        _ if reply.is_absent() => return Ok(None),
        _ => return Err(reply.failure()),
    }
    let manifest = read_manifest(&visit, reply, expected, bytes_max).await?;
    Ok(Some(manifest))
}

/// Something where a manifest is there.
async fn confirm_at(
    visit: Visit,
    repository: &Repository,
    digest: Digest,
) -> Result<Option<()>, UpstreamError> {
    let mut question = question(Method::HEAD, repository, &digest.to_string(), None);
    let head = &visit.endpoint().manifest_head;
    let asked_by_head = head.is_usable();
    if asked_by_head {
        let reply = visit.ask(&question).await?;
        if reply.status() == StatusCode::OK {
            return Ok(Some(()));
        }
        // Believed, proven or not: to confirm what another repository has costs one HEAD (I5).
        if reply.is_absent() {
            return Ok(None);
        }
        if !may_work_by_get(&reply, head.is_proven()) {
            return Err(reply.failure());
        }
    }
    question.method = Method::GET;
    let reply = visit.ask(&question).await?;
    if reply.is_absent() {
        return Ok(None);
    }
    if reply.status() != StatusCode::OK {
        return Err(reply.failure());
    }
    if asked_by_head {
        head.note_fails();
    }
    Ok(Some(()))
}

async fn read_manifest(
    visit: &Visit,
    reply: Reply,
    expected: Option<Digest>,
    bytes_max: usize,
) -> Result<Manifest, UpstreamError> {
    reply.check_coding()?;
    let media_type = reply.media_type();
    let bytes = reply.read(bytes_max, visit.body_max()).await?;
    let manifest = match expected {
        Some(digest) => Manifest::verify(media_type.as_ref(), bytes, digest),
        // What the headers tell of its digest is not looked at: only what it has counts.
        None => Manifest::of_bytes(media_type.as_ref(), bytes),
    };
    Ok(manifest?)
}

fn question<'a>(
    method: Method,
    repository: &'a Repository,
    reference: &str,
    prior: Option<Digest>,
) -> Question<'a> {
    // All types, so that no registry converts for us (I9).
    let accept = HeaderValue::from_str(&MediaType::MANIFESTS.join(", "));
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, accept.expect("media types are text"));
    if let Some(prior) = prior {
        let tag = HeaderValue::from_str(&format!("\"{prior}\""));
        headers.insert(IF_NONE_MATCH, tag.expect("a digest is text"));
    }
    Question {
        kind: RequestKind::Manifest,
        method,
        repository,
        path: format!("manifests/{reference}"),
        query: None,
        headers,
        prior: None,
    }
}

/// What an answer to HEAD says of a tag; none where it does not say, or says that there is none.
fn resolution_of_head(reply: &Reply, prior: Option<Digest>) -> Option<Resolution> {
    match reply.status() {
        StatusCode::NOT_MODIFIED if prior.is_some() => Some(Resolution::Unchanged),
        StatusCode::OK => {
            let digest = reply.digest()?;
            if prior == Some(digest) {
                return Some(Resolution::Unchanged);
            }
            Some(Resolution::Names(Descriptor {
                media_type: reply.media_type()?,
                digest,
                size: reply.content_length().filter(|size| *size > 0)?,
            }))
        }
        _ => None,
    }
}

/// Whether GET may do what this answer to HEAD did not. Where HEAD has worked before, only an
/// answer that leaves something out, or a refusal of the method itself, gives a reason to try.
fn may_work_by_get(reply: &Reply, head_is_proven: bool) -> bool {
    match reply.status().as_u16() {
        200 | 405 | 501 => true,
        400 | 401 | 403 | 404 | 410 => !head_is_proven,
        _ => false,
    }
}
