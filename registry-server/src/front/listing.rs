//! Tags, referrers and repositories, page by page.

use http::HeaderValue;
use http::header::{HeaderName, LINK};
use registry_core::cache::CacheStatus;
use registry_core::{Digest, MediaType, Origin, ReferrersPage, Tag, TagPage, UpstreamId};
use serde::Serialize;

use super::address::{Page, Target};
use super::answer::{Answer, Came, Lasts};
use super::body::Payload;
use super::content::CALLER;
use super::error::ApiError;
use super::service::Registry;

/// Says which filters an answer has been through.
const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
const ARTIFACT_TYPE: HeaderValue = HeaderValue::from_static("artifactType");

/// Whose referrers are asked for.
pub(super) struct Referring<'a> {
    pub(super) origin: &'a Origin,
    /// What the client calls the repository.
    pub(super) name: &'a str,
    pub(super) namespace: Option<&'a UpstreamId>,
    pub(super) subject: Digest,
    pub(super) artifact_type: Option<&'a str>,
    pub(super) page: &'a Page<Digest>,
}

impl Registry {
    /// A page of a repository's tags; `name` is what the client calls the repository.
    pub(super) async fn tags(
        &self,
        origin: &Origin,
        name: &str,
        namespace: Option<&UpstreamId>,
        page: &Page<Tag>,
    ) -> Result<Answer, ApiError> {
        #[derive(Serialize)]
        struct Tags<'a> {
            name: &'a str,
            tags: &'a [&'a str],
        }
        let size = self.page_size(page.size);
        let asked = TagPage {
            after: page.after.as_ref().map(Tag::as_str),
            // None of them is still an answer about the repository.
            limit: size.max(1),
        };
        let served = self.cache.tags(origin, asked, &CALLER).await;
        let served = served.map_err(|error| self.error(&error, Target::Tags))?;
        let tags: Vec<_> = served
            .value
            .tags
            .iter()
            .map(Tag::as_str)
            .take(size)
            .collect();
        let body = serde_json::to_vec(&Tags { name, tags: &tags });
        let mut answer = Answer::json(body.expect("strings are always JSON"))
            .lasting(Lasts::Revalidated)
            .served(served.status, served.age, origin.upstream());
        if let Some(last) = tags.last().filter(|_| served.value.more) {
            let path = format!("/v2/{name}/tags/list");
            answer
                .headers
                .insert(LINK, next(&path, size, last, &[], namespace));
        }
        Ok(answer)
    }

    /// A page of what refers to a manifest, as the index that the specification makes of it. One of
    /// a type that was asked for is filtered here, and says so.
    pub(super) async fn referrers(&self, asked: &Referring<'_>) -> Result<Answer, ApiError> {
        let size = self.page_size(asked.page.size).max(1);
        let page = ReferrersPage {
            artifact_type: asked.artifact_type,
            after: asked.page.after,
            limit: size,
        };
        let origin = asked.origin;
        let served = self
            .cache
            .referrers(origin, asked.subject, page, &CALLER)
            .await;
        let served = served.map_err(|error| self.error(&error, Target::Referrers))?;
        let listed = served.value;
        let index = listed.referrers.to_index();
        let length = index.len() as u64;
        let media_type = HeaderValue::from_static(MediaType::OCI_INDEX);
        let mut answer = Answer::content(Payload::Bytes(index), length, media_type)
            .lasting(Lasts::Revalidated)
            .served(served.status, served.age, origin.upstream());
        let mut filter = None;
        if let Some(kind) = asked.artifact_type {
            answer.headers.insert(OCI_FILTERS_APPLIED, ARTIFACT_TYPE);
            filter = Some(("artifactType", kind));
        }
        let last = listed.referrers.iter().last();
        if let Some(last) = last.filter(|_| listed.more) {
            let path = format!("/v2/{}/referrers/{}", asked.name, asked.subject);
            let last = last.digest().to_string();
            let link = next(&path, size, &last, filter.as_slice(), asked.namespace);
            answer.headers.insert(LINK, link);
        }
        Ok(answer)
    }

    /// A page of the repositories that something is cached of. Each name is one to pull by: bare
    /// where the request's `ns` says whose they are, otherwise behind its upstream's.
    pub(super) async fn catalog(
        &self,
        namespace: Option<&UpstreamId>,
        page: &Page<Origin>,
    ) -> Result<Answer, ApiError> {
        #[derive(Serialize)]
        struct Catalog {
            repositories: Vec<String>,
        }
        let size = self.page_size(page.size);
        let limit = match size {
            0 => 0,
            // One more than asked for tells whether there are more.
            size => size.saturating_add(1),
        };
        let origins = self
            .cache
            .catalog(namespace, page.after.as_ref(), limit)
            .await
            .map_err(|error| self.error(&error, Target::Catalog))?;
        let more = origins.len() > size;
        let origins = origins.iter().take(size);
        let repositories: Vec<_> = origins
            .map(|origin| match namespace {
                Some(_) => origin.repository().to_string(),
                None => origin.to_string(),
            })
            .collect();
        let last = repositories.last().filter(|_| more);
        let link = last.map(|last| next("/v2/_catalog", size, last, &[], namespace));
        let body = serde_json::to_vec(&Catalog { repositories });
        let mut answer =
            Answer::json(body.expect("strings are always JSON")).lasting(Lasts::Revalidated);
        answer.came = Came::Cache(CacheStatus::Hit);
        answer.headers.extend(link.map(|link| (LINK, link)));
        Ok(answer)
    }

    fn page_size(&self, asked: Option<u64>) -> usize {
        let most = self.limits.page_entries_max;
        asked.map_or(most, |asked| {
            usize::try_from(asked).map_or(most, |asked| asked.min(most))
        })
    }
}

/// The link to the next page: relative, so that it leads back here through whatever proxy.
fn next(
    path: &str,
    size: usize,
    last: &str,
    others: &[(&str, &str)],
    namespace: Option<&UpstreamId>,
) -> HeaderValue {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("n", &size.to_string());
    query.append_pair("last", last);
    query.extend_pairs(others);
    if let Some(upstream) = namespace {
        query.append_pair("ns", upstream.as_str());
    }
    let query = query.finish();
    HeaderValue::try_from(format!("<{path}?{query}>; rel=\"next\""))
        .expect("names and percent-encoding are a header value")
}
