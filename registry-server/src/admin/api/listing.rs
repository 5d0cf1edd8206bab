//! Images, page by page: of one repository, those that are held under tags and then those that were
//! pulled by digest alone; of several, one repository after the other.

use http::StatusCode;
use registry_core::{Digest, Origin, Repository, Tag};

use super::problem::{Refusal, document};
use super::question::{Parameters, origin};
use super::{Api, documents, limits};
use crate::api::{Image, Page};
use crate::front::Answer;

/// Where a page of images begins.
struct Place {
    origin: Origin,
    /// Where in the repository; none: past all of it.
    within: Option<Within>,
}

/// Where in a repository a page begins.
enum Within {
    /// Past a tag, or with the first.
    Tags(Option<Tag>),
    /// Past a digest, or with the first, of what is held under no tag.
    Digests(Option<Digest>),
}

impl Api {
    pub(super) async fn images(&self, asked: &Parameters<'_>) -> Result<Answer, Refusal> {
        let after = asked.get("after").map(Place::parse).transpose()?;
        let limit = asked.limit()?;
        let page = match asked.get("repository") {
            Some(repository) => {
                let repository = Repository::parse(repository)
                    .map_err(|error| Refusal::invalid(format!("\"repository\": {error}")))?;
                let upstream = asked.upstream()?;
                let upstream = upstream.unwrap_or_else(|| self.default_upstream.clone());
                let origin = Origin::new(upstream, repository);
                self.images_of(origin, after, limit).await?
            }
            None => self.images_of_all(asked, after, limit).await?,
        };
        Ok(document(StatusCode::OK, &page))
    }

    async fn images_of(
        &self,
        origin: Origin,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Page<Image>, Refusal> {
        let within = match after {
            None => Some(Within::Tags(None)),
            Some(after) if after.origin == origin => after.within,
            Some(_) => {
                return Err(Refusal::invalid(
                    "\"after\" is of another repository: begin without it",
                ));
            }
        };
        let mut items = Vec::new();
        let next = match within {
            Some(within) => self.gather(&origin, within, limit, &mut items).await?,
            None => None,
        };
        let next = next.map(|within| Place::new(origin, Some(within)).to_string());
        Ok(Page { items, next })
    }

    /// The images of all repositories, or of all of one upstream. Only so many repositories are
    /// looked into, so a page may end early.
    async fn images_of_all(
        &self,
        asked: &Parameters<'_>,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Page<Image>, Refusal> {
        let upstream = asked.upstream()?;
        let mut items: Vec<Image> = Vec::new();
        let mut last = None;
        // The rest of the repository in whose middle the page before ended.
        if let Some(Place { origin, within }) = after {
            if let Some(within) = within
                && let Some(next) = self.gather(&origin, within, limit, &mut items).await?
            {
                let next = Some(Place::new(origin, Some(next)).to_string());
                return Ok(Page { items, next });
            }
            last = Some(origin);
        }
        let most = limits::PAGE_REPOSITORIES_MAX;
        let repositories = self
            .cache
            .repositories(upstream.as_ref(), last.as_ref(), most);
        let repositories = repositories.await?;
        let mut has_more = repositories.len() == most;
        for repository in repositories {
            let room = limit - items.len();
            if room == 0 {
                has_more = true;
                break;
            }
            let (origin, first) = (repository.origin, Within::Tags(None));
            if let Some(next) = self.gather(&origin, first, room, &mut items).await? {
                let next = Some(Place::new(origin, Some(next)).to_string());
                return Ok(Page { items, next });
            }
            last = Some(origin);
        }
        let next = last.filter(|_| has_more);
        let next = next.map(|origin| Place::new(origin, None).to_string());
        Ok(Page { items, next })
    }

    /// Up to `room` images of a repository, from a place in it on; where to go on, unless that was
    /// all.
    async fn gather(
        &self,
        origin: &Origin,
        within: Within,
        room: usize,
        items: &mut Vec<Image>,
    ) -> Result<Option<Within>, Refusal> {
        let until = items.len() + room;
        let after = match within {
            Within::Digests(after) => after,
            Within::Tags(after) => {
                let found = self.cache.images(origin, after.as_ref(), room).await?;
                items.extend(found.into_iter().map(documents::image));
                if items.len() == until {
                    let last = items.last().and_then(|last| last.tag.as_deref());
                    let last = last.and_then(|tag| Tag::parse(tag).ok());
                    return Ok(Some(Within::Tags(last)));
                }
                None
            }
        };
        let page = self.cache.untagged(origin, after, until - items.len());
        let page = page.await?;
        items.extend(page.images.into_iter().map(documents::image));
        Ok(page.next.map(|digest| Within::Digests(Some(digest))))
    }
}

impl Place {
    fn new(origin: Origin, within: Option<Within>) -> Self {
        Self { origin, within }
    }

    /// Parses what [`Self::to_string`] writes.
    fn parse(text: &str) -> Result<Self, Refusal> {
        let invalid =
            |error: &dyn std::fmt::Display| Refusal::invalid(format!("\"after\": {error}"));
        if let Some((repository, digest)) = text.split_once('@') {
            let digest = Digest::parse(digest).map_err(|error| invalid(&error))?;
            let within = Some(Within::Digests(Some(digest)));
            return Ok(Self::new(origin(repository, "after")?, within));
        }
        match text.rsplit_once(':') {
            // What stands after the port of an upstream is no tag.
            Some((repository, tag)) if !tag.contains('/') => {
                let tag = Tag::parse(tag).map_err(|error| invalid(&error))?;
                let within = Some(Within::Tags(Some(tag)));
                Ok(Self::new(origin(repository, "after")?, within))
            }
            _ => Ok(Self::new(origin(text, "after")?, None)),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { origin, within } = self;
        match within {
            Some(Within::Tags(Some(tag))) => write!(f, "{origin}:{tag}"),
            Some(Within::Digests(Some(digest))) => write!(f, "{origin}@{digest}"),
            _ => write!(f, "{origin}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_written() {
        let digest = format!("docker.io/library/a@sha256:{}", "a".repeat(64));
        for text in [
            "docker.io/library/a:1",
            "docker.io/library/a",
            "localhost:5000/a",
            "localhost:5000/a/b:v1",
            &digest,
        ] {
            assert_eq!(Place::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "a",
            "a:1",
            "docker.io/a:",
            "docker.io/a:.x",
            "docker.io/a@x",
        ] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }
}
