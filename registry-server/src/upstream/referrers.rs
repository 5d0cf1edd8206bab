//! Lists of referrers: all pages of the upstream's, or none.

use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use registry_core::{Digest, MediaType, NotAnIndex, Referrers, Repository, UpstreamError};

use super::HttpUpstream;
use super::config::{
    REFERRERS_BYTES_MAX, REFERRERS_MAX, REFERRERS_PAGE_BYTES_MAX, REFERRERS_PAGES_MAX,
};
use super::failover::Visit;
use super::link::next_query;
use super::observer::RequestKind;
use super::reply::Reply;
use super::transport::Question;

impl HttpUpstream {
    pub(super) async fn fetch_referrers(
        &self,
        repository: &Repository,
        subject: Digest,
    ) -> Result<Option<Referrers>, UpstreamError> {
        let attempt = |visit| list_at(visit, repository, subject);
        let referrers = self.transport.ask(attempt).await?;
        Ok(referrers.map(|referrers| referrers.value))
    }
}

/// Asks for every type: not all registries filter, and one list then serves all who ask. All pages
/// are one endpoint's: those of another may be others.
async fn list_at(
    visit: Visit,
    repository: &Repository,
    subject: Digest,
) -> Result<Option<Referrers>, UpstreamError> {
    let mut listed = Referrers::default();
    let mut query = None;
    for page in 0..REFERRERS_PAGES_MAX {
        let accept = HeaderValue::from_static(MediaType::OCI_INDEX);
        let question = Question {
            kind: RequestKind::Referrers,
            method: Method::GET,
            repository,
            path: format!("referrers/{subject}"),
            query: query.clone(),
            headers: HeaderMap::from_iter([(ACCEPT, accept)]),
            prior: None,
        };
        let reply = visit.ask(&question).await?;
        match reply.status() {
            StatusCode::OK => {}
            status if page == 0 && is_without_api(status) => {
                reply.drain().await;
                return Ok(None);
            }
            _ => return Err(reply.failure()),
        }
        let next = next_query(&reply)?.filter(|next| Some(next) != query.as_ref());
        let malformed = reply.protocol("sends a page of referrers that is none");
        match read_referrers(&visit, reply).await? {
            Ok(referrers) => listed.extend(referrers),
            // A page for people, with a status that says all is well.
            Err(NotAnIndex) if page == 0 => return Ok(None),
            Err(NotAnIndex) => return Err(malformed),
        }
        if listed.len() > REFERRERS_MAX || listed.json_bytes() > REFERRERS_BYTES_MAX {
            break;
        }
        if next.is_none() {
            return Ok(Some(listed));
        }
        query = next;
    }
    // Half a list would be taken for the whole: for an image without its signature.
    Err(UpstreamError::Protocol {
        what: format!(
            "it lists more referrers than {REFERRERS_MAX}, or than {REFERRERS_BYTES_MAX} bytes or \
             {REFERRERS_PAGES_MAX} pages of them"
        ),
    })
}

async fn read_referrers(
    visit: &Visit,
    reply: Reply,
) -> Result<Result<Referrers, NotAnIndex>, UpstreamError> {
    reply.check_coding()?;
    let content_type = reply.media_type();
    let time_max = visit.body_max();
    let body = reply.read(REFERRERS_PAGE_BYTES_MAX, time_max).await?;
    Ok(Referrers::of_index(content_type.as_ref(), &body))
}

/// What registries without the API answer, or in whose repositories nothing is.
fn is_without_api(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 404 | 405 | 406 | 410 | 501)
}
