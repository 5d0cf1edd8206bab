//! Lists of tags: pages of the upstream's, made into one of ours.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use registry_core::{FetchedTags, Repository, Tag, TagPage, UpstreamError};
use serde::Deserialize;

use super::HttpUpstream;
use super::config::{TAG_PAGE_BYTES_MAX, TAG_PAGES_MAX};
use super::failover::Visit;
use super::link::next_query;
use super::observer::RequestKind;
use super::reply::Reply;
use super::transport::Question;

impl HttpUpstream {
    pub(super) async fn fetch_tags(
        &self,
        repository: &Repository,
        page: TagPage<'_>,
    ) -> Result<Option<FetchedTags>, UpstreamError> {
        let attempt = |visit| list_at(visit, repository, page);
        let page = self.transport.ask(attempt).await?;
        Ok(page.map(|page| page.value))
    }
}

/// All pages are one endpoint's: those of another may be others.
async fn list_at(
    visit: Visit,
    repository: &Repository,
    page: TagPage<'_>,
) -> Result<Option<FetchedTags>, UpstreamError> {
    let mut listed = Listed::new(page);
    let mut query = Some(first_query(page));
    for _ in 0..TAG_PAGES_MAX {
        let question = Question {
            kind: RequestKind::Tags,
            method: Method::GET,
            repository,
            path: "tags/list".to_owned(),
            query: query.clone(),
            headers: HeaderMap::new(),
            prior: None,
        };
        let reply = visit.ask(&question).await?;
        match reply.status() {
            StatusCode::OK => {}
            _ if reply.is_absent() => return Ok(None),
            _ => return Err(reply.failure()),
        }
        let next = next_query(&reply)?.filter(|next| Some(next) != query.as_ref());
        listed.add(read_tags(reply, visit.body_max()).await?);
        if listed.is_full() || next.is_none() {
            return Ok(Some(listed.finish(next.is_some())));
        }
        query = next;
    }
    if listed.tags.is_empty() {
        // A page without a tag cannot say that there are more: nobody could ask past it.
        let what = format!("it sends {TAG_PAGES_MAX} pages of tags with none on them");
        return Err(UpstreamError::Protocol { what });
    }
    Ok(Some(listed.finish(true)))
}

async fn read_tags(reply: Reply, time_max: Duration) -> Result<Vec<String>, UpstreamError> {
    let malformed = reply.protocol("sends a list of tags that is none");
    let body = reply.read(TAG_PAGE_BYTES_MAX, time_max).await?;
    let document: Document = serde_json::from_slice(&body).map_err(|_| malformed)?;
    Ok(document.tags.unwrap_or_default())
}

/// A page of the upstream's. Some send `null` where there are no tags.
#[derive(Deserialize)]
struct Document {
    tags: Option<Vec<String>>,
}

/// What there is so far of a page of ours.
struct Listed<'a> {
    page: TagPage<'a>,
    tags: Vec<Tag>,
    is_first: bool,
}

impl<'a> Listed<'a> {
    fn new(page: TagPage<'a>) -> Self {
        Self {
            page,
            tags: Vec::new(),
            is_first: true,
        }
    }

    fn add(&mut self, mut names: Vec<String>) {
        // Some registries know nothing of `last` and send all from the beginning.
        let after = self.page.after.filter(|_| self.is_first);
        if let Some(index) = names.iter().position(|name| Some(name.as_str()) == after) {
            names.drain(..=index);
        }
        self.is_first = false;
        // One that is no tag cannot be pulled through us either: the others can.
        let tags = names.iter().filter_map(|name| Tag::parse(name).ok());
        self.tags.extend(tags);
    }

    fn is_full(&self) -> bool {
        self.tags.len() >= self.page.limit
    }

    fn finish(mut self, more: bool) -> FetchedTags {
        let cut = self.tags.len() > self.page.limit;
        self.tags.truncate(self.page.limit);
        FetchedTags {
            tags: self.tags,
            more: more || cut,
        }
    }
}

fn first_query(page: TagPage<'_>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    // Of none, some registries make all.
    query.append_pair("n", &page.limit.max(1).to_string());
    if let Some(after) = page.after {
        query.append_pair("last", after);
    }
    query.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_make_up_a_page() {
        let page = |after, limit| TagPage { after, limit };
        for (page, pages, more, tags, has_more) in [
            (page(None, 3), &["a b", "c d"][..], true, "a b c", true),
            (page(None, 4), &["a b", "c d"], false, "a b c d", false),
            (page(None, 4), &["a b", "c d"], true, "a b c d", true),
            (page(Some("b"), 4), &["a b c", "d"], false, "c d", false),
            (page(Some("b"), 4), &["c", "b d"], false, "c b d", false),
            (page(None, 4), &["a -no b"], false, "a b", false),
            (page(None, 0), &["a"], false, "", true),
        ] {
            let mut listed = Listed::new(page);
            for names in pages {
                listed.add(names.split(' ').map(ToOwned::to_owned).collect());
            }
            let fetched = listed.finish(more);
            let names: Vec<_> = fetched.tags.iter().map(Tag::as_str).collect();
            assert_eq!(
                (names.join(" ").as_str(), fetched.more),
                (tags, has_more),
                "{pages:?}"
            );
        }
    }

    #[test]
    fn a_page_is_asked_for_by_number_and_predecessor() {
        for (after, limit, query) in [
            (None, 100, "n=100"),
            (Some("v1"), 2, "n=2&last=v1"),
            (Some("a&b"), 0, "n=1&last=a%26b"),
        ] {
            assert_eq!(first_query(TagPage { after, limit }), query);
        }
    }
}
