//! What is attached to an image: signatures, attestations, SBOMs and other referrers, and what is
//! attached to those.

use std::collections::HashSet;

use super::export::ExportError;
use super::plan::{Asked, Planner};
use crate::cache::CacheError;
use crate::{
    Caller, Descriptor, Digest, Origin, Reference, Referrers, ReferrersPage, StoreOperation, Tag,
};

/// Tags that signatures, attestations and SBOMs of a manifest stand under (cosign), and that lists
/// its referrers where the registry does not (distribution-spec): what follows its digest.
const ATTACHED_TAG_SUFFIXES: [&str; 4] = ["", ".att", ".sbom", ".sig"];

impl Planner<'_> {
    /// Takes what is attached to manifests, and to that in turn.
    pub(super) async fn attached(
        &mut self,
        origin: &Origin,
        mut subjects: Vec<Digest>,
    ) -> Result<(), ExportError> {
        let mut seen = HashSet::new();
        while let Some(subject) = subjects.pop() {
            if !seen.insert(subject) {
                continue;
            }
            for found in self.referring(origin, subject).await? {
                self.attachment(origin, Reference::Digest(found), &mut subjects)
                    .await?;
            }
            for suffix in ATTACHED_TAG_SUFFIXES {
                let (algorithm, hash) = (subject.algorithm().name(), subject.encoded());
                let tag = Tag::parse(&format!("{algorithm}-{hash}{suffix}"));
                // The tag of a SHA-512 is longer than a tag may be.
                let Ok(tag) = tag else { continue };
                let reference = Reference::Tag(tag.clone());
                if let Some(descriptor) = self.attachment(origin, reference, &mut subjects).await? {
                    self.tags.insert((origin.clone(), tag), descriptor);
                }
            }
        }
        Ok(())
    }

    /// Takes an attached manifest with all that it names; nothing where there is none.
    async fn attachment(
        &mut self,
        origin: &Origin,
        reference: Reference,
        manifests: &mut Vec<Digest>,
    ) -> Result<Option<Descriptor>, ExportError> {
        let asked = Asked {
            origin,
            reference: &reference,
        };
        let root = match self.root(&asked).await {
            Ok(root) => root,
            Err(ExportError::Image {
                source: CacheError::NotFound | CacheError::NotFoundStale { .. },
                ..
            }) => None,
            Err(error) => return Err(error),
        };
        let Some(root) = root else {
            return Ok(None);
        };
        let digest = root.digest();
        if self.child(&asked, digest, manifests).await?.is_err() {
            self.leave_out(&asked, None, digest);
            return Ok(None);
        }
        Ok(Some(root.descriptor().clone()))
    }

    /// What refers to a manifest. The list itself goes along, also that there is none.
    async fn referring(
        &mut self,
        origin: &Origin,
        subject: Digest,
    ) -> Result<Vec<Digest>, ExportError> {
        let reference = Reference::Digest(subject);
        let asked = Asked {
            origin,
            reference: &reference,
        };
        let list = if self.request.held_only {
            let recorded = self.cache.inner.stores.referrers.referrers(origin, subject);
            let recorded = self
                .cache
                .inner
                .store(StoreOperation::Index, recorded)
                .await;
            let recorded = recorded.map_err(|error| asked.cannot("its referrers", error))?;
            let Some(recorded) = recorded else {
                return Ok(Vec::new());
            };
            recorded.referrers
        } else {
            let asking = self.all_referrers(origin, subject).await;
            asking.map_err(|error| asked.cannot("its referrers", error))?
        };
        let digests = list
            .iter()
            .flat_map(|list| list.iter().map(|one| one.digest()));
        let digests = digests.collect();
        self.referrers.insert((origin.clone(), subject), list);
        Ok(digests)
    }

    async fn all_referrers(
        &self,
        origin: &Origin,
        subject: Digest,
    ) -> Result<Option<Referrers>, CacheError> {
        let mut all = Referrers::default();
        let mut after = None;
        loop {
            let page = ReferrersPage {
                artifact_type: None,
                after,
                limit: usize::MAX,
            };
            let listed = self
                .cache
                .referrers(origin, subject, page, &Caller::Anonymous);
            let listed = match listed.await {
                Ok(listed) => listed.value,
                Err(CacheError::NotFound | CacheError::NotFoundStale { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            let before = all.len();
            after = listed.referrers.iter().last().map(|last| last.digest());
            all.extend(listed.referrers);
            // A list that changes meanwhile may begin again; it ends once nothing is new.
            if !listed.more || all.len() == before {
                return Ok(Some(all));
            }
        }
    }
}
