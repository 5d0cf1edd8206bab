//! Why an image is here or is not, and what the next pull of it would do: facts in, decision out.
//!
//! What the next pull would do is decided by what decides it when it comes: the course of a tag,
//! what is believed to be absent, and the choice between what is held and what the upstream says.
//! All that is put in the place of the upstream's answer is what it says of itself
//! ([`Upstream::condition`](crate::Upstream::condition)). Nothing is asked, and nothing counts as
//! an access.

use super::super::answers::{TagAnswer, TagSaid};
use super::super::manifests::Resolved;
use super::super::negative::Absent;
use super::super::standby::{Choice, Said, Standby};
use super::super::status::StaleReason;
use super::super::tags::{Course, Held};
use super::super::{CacheError, Inner, RegistryCache};
use super::anatomy::images_of;
use super::bonds::Bonds;
use super::survey::{ImageDetail, ManifestDetail};
use crate::{
    Asked, Caller, Condition, Digest, LinkTarget, Origin, Reference, Removal, StoreOperation, Tag,
    TagRecord, Timestamp, Upkeep, UpstreamEntry, UpstreamPolicy,
};

/// Why an image is here or is not, and what the next pull would do.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The repository that was asked about.
    pub origin: Origin,
    /// The tag or digest that was asked about.
    pub reference: Reference,
    /// When this was so.
    pub at: Timestamp,
    /// What is held, in a word.
    pub verdict: Verdict,
    /// What is held.
    pub image: Option<ImageDetail>,
    /// What is not, of the platform that is closest to being held with everything.
    pub missing: Vec<LinkTarget>,
    /// What of it is being fetched.
    pub filling: Vec<Filling>,
    /// What the upstream last said of the tag.
    pub last_answer: Option<TagAnswer>,
    /// The latest removal of it, or of what it is made of.
    pub removal: Option<Removal>,
    /// How the tags of this repository are kept fresh.
    pub policy: Option<UpstreamPolicy>,
    /// Until when the tag is fresh, where it is.
    pub fresh_until: Option<Timestamp>,
    /// Whether the upstream has just said that there is no such thing, and is believed.
    pub believed_absent: bool,
    /// Whether the upstream leaves another question about a tag unanswered.
    pub silent: bool,
    /// Whether the upstream can be asked what the tag names, or for the manifest.
    pub condition: Condition,
    /// Whether it can be asked for blobs.
    pub blob_condition: Condition,
    /// What the next pull would do.
    pub next_pull: NextPull,
}

/// What is held of an image, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// All of at least one platform.
    Cached,
    /// Some of it, and all of no platform.
    Partial,
    /// Not all, and it is being fetched.
    Filling,
    /// Nothing: it was removed.
    Removed,
    /// Nothing, and it never was, as far as is known.
    Absent,
    /// No upstream of that name is configured.
    UnknownUpstream,
}

impl Verdict {
    /// A token for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Partial => "partial",
            Self::Filling => "filling",
            Self::Removed => "removed",
            Self::Absent => "absent",
            Self::UnknownUpstream => "unknown_upstream",
        }
    }
}

/// A part of an image that is being fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filling {
    /// What.
    pub target: LinkTarget,
    /// Bytes that have come.
    pub bytes: u64,
    /// Its size, where that is known.
    pub size: Option<u64>,
}

/// What the next pull would do.
#[derive(Clone, Debug)]
pub enum NextPull {
    /// It would be served, and nobody would be asked.
    Hit,
    /// The upstream would be asked once whether what is held is right still, and the rest served.
    Revalidate,
    /// What is held would be served as stale.
    Stale(StaleReason),
    /// What is missing would be fetched.
    Fetch,
    /// It would fail, with this.
    Fail(CacheError),
}

impl NextPull {
    /// A token for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Revalidate => "revalidate",
            Self::Stale(_) => "stale",
            Self::Fetch => "fetch",
            Self::Fail(_) => "fail",
        }
    }
}

impl RegistryCache {
    /// Why an image is here or is not, and what the next pull of it would do. Asks nobody, and
    /// changes nothing.
    ///
    /// Who asks is nobody in particular ([`Caller::Anonymous`]), as with every pull today.
    ///
    /// # Errors
    ///
    /// [`CacheError::NoUpkeep`]; [`CacheError::Store`] where the store cannot tell.
    pub async fn explain(
        &self,
        origin: &Origin,
        reference: &Reference,
    ) -> Result<Explanation, CacheError> {
        let cache = &self.inner;
        let upkeep = cache.upkeep()?;
        let bonds = Bonds::new(cache, upkeep).await?;
        let image = cache.image(upkeep, &bonds, origin, reference).await?;
        // A tag may be recorded whose manifest is not held.
        let image = image.filter(|image| image.manifests.iter().any(|of| of.held));
        let missing = image.as_ref().map(missing_of).unwrap_or_default();
        let filling = cache.filling(origin, reference, image.as_ref());
        let removal = cache
            .removal_of(upkeep, origin, reference, &missing)
            .await?;
        let is_complete = image.as_ref().is_some_and(|image| image.summary.complete);
        let mut explanation = Explanation {
            origin: origin.clone(),
            reference: reference.clone(),
            at: cache.now(),
            verdict: match &image {
                _ if cache.via(origin).is_err() => Verdict::UnknownUpstream,
                Some(_) if is_complete => Verdict::Cached,
                _ if !filling.is_empty() => Verdict::Filling,
                Some(_) => Verdict::Partial,
                None if removal.is_some() => Verdict::Removed,
                None => Verdict::Absent,
            },
            image,
            missing,
            filling,
            last_answer: None,
            removal,
            policy: None,
            fresh_until: None,
            believed_absent: false,
            silent: cache.outages.is_silent(origin.upstream()),
            condition: Condition::Ready,
            blob_condition: Condition::Ready,
            next_pull: NextPull::Fail(CacheError::UnknownUpstream),
        };
        if let Ok(entry) = &cache.via(origin) {
            let repository = origin.repository();
            explanation.policy = Some(entry.policy(repository).clone());
            explanation.blob_condition = entry.upstream.condition(repository, Asked::Blob);
            cache.foresee(upkeep, entry, &mut explanation).await?;
        }
        Ok(explanation)
    }
}

impl Inner {
    /// What the next pull would do, and what that is decided by.
    async fn foresee(
        &self,
        upkeep: &Upkeep,
        entry: &UpstreamEntry,
        explanation: &mut Explanation,
    ) -> Result<(), CacheError> {
        let Explanation {
            origin, reference, ..
        } = explanation;
        let (origin, reference) = (origin.clone(), reference.clone());
        let of_manifest = match reference {
            Reference::Tag(tag) => {
                self.foresee_tag(upkeep, entry, &origin, &tag, explanation)
                    .await?
            }
            Reference::Digest(digest) => {
                self.foresee_digest(entry, &origin, digest, explanation)
                    .await
            }
        };
        explanation.next_pull = match of_manifest {
            NextPull::Hit | NextPull::Revalidate | NextPull::Stale(_)
                if !explanation.missing.is_empty() =>
            {
                self.foresee_parts(&origin, explanation)
            }
            of_manifest => of_manifest,
        };
        Ok(())
    }

    async fn foresee_tag(
        &self,
        upkeep: &Upkeep,
        entry: &UpstreamEntry,
        origin: &Origin,
        tag: &Tag,
        explanation: &mut Explanation,
    ) -> Result<NextPull, CacheError> {
        let policy = entry.policy(origin.repository());
        let absent = Absent::tag(origin, tag, &Caller::Anonymous);
        let record = self.tag_record(origin, tag).await?;
        explanation.last_answer = self.answers.last(origin, tag).or(recorded(record.as_ref()));
        explanation.believed_absent = self.is_absent(&absent);
        let is_recorded = record.is_some();
        let standby = match self.looked_at(upkeep, record).await? {
            Some(held) => Standby::Held(held),
            None if self.recalls_absent(&absent) => Standby::Absence,
            None => Standby::Nothing,
        };
        let course = self.course(&absent, &standby, policy);
        if let (Course::Serve, Standby::Held(held), false) = (course, &standby, policy.frozen) {
            explanation.fresh_until = Some(held.record.validated_at.after(policy.tag_ttl));
        }
        let is_named = policy.frozen && is_recorded && !matches!(standby, Standby::Held(_));
        explanation.condition = match is_named {
            // What a frozen tag names is fetched by its digest, and the tag is not asked for.
            true => entry
                .upstream
                .condition(origin.repository(), Asked::Manifest),
            false => self.condition_of(entry, origin, standby.is_nothing()),
        };
        let said: Option<Said<Resolved>> = match course {
            Course::Serve => return Ok(NextPull::Hit),
            Course::Believe => Some(Ok(None)),
            Course::Spare => None,
            Course::Ask => match (explanation.condition.refusal(), &standby) {
                (Some(refusal), _) => Some(Err(refusal.into())),
                (None, Standby::Held(_)) => return Ok(NextPull::Revalidate),
                (None, _) => return Ok(NextPull::Fetch),
            },
        };
        Ok(match standby.or(said, policy.forward_not_found) {
            Ok(Choice::Held(_, reason)) => NextPull::Stale(reason),
            Ok(Choice::Said(_)) => NextPull::Fetch,
            Err(error) => NextPull::Fail(error),
        })
    }

    async fn foresee_digest(
        &self,
        entry: &UpstreamEntry,
        origin: &Origin,
        digest: Digest,
        explanation: &mut Explanation,
    ) -> NextPull {
        let target = LinkTarget::Manifest(digest);
        let manifest_is_held = match &explanation.image {
            // Looked at only where it is linked: then it is served.
            Some(image) => {
                explanation.condition = entry.upstream.condition(origin.repository(), Asked::Tag);
                if image.manifests.first().is_some_and(|root| root.held) {
                    return NextPull::Hit;
                }
                false
            }
            None => self.holds(digest).await,
        };
        explanation.condition = self.condition_of(entry, origin, !manifest_is_held);
        explanation.believed_absent =
            self.is_absent(&Absent::content(origin, target, &Caller::Anonymous));
        if explanation.believed_absent {
            return NextPull::Fail(CacheError::NotFound);
        }
        match explanation.condition.refusal() {
            Some(refusal) => NextPull::Fail(refusal.into()),
            // Held on another's account: whether it may be served here is asked first (I5).
            None if manifest_is_held => NextPull::Revalidate,
            None => NextPull::Fetch,
        }
    }

    /// What becomes of the parts that are missing, once the manifest is served.
    fn foresee_parts(&self, origin: &Origin, explanation: &Explanation) -> NextPull {
        let is_absent = |target: &LinkTarget| {
            self.is_absent(&Absent::content(origin, *target, &Caller::Anonymous))
        };
        if explanation.missing.iter().any(is_absent) {
            return NextPull::Fail(CacheError::NotFound);
        }
        let wants_manifest = explanation
            .missing
            .iter()
            .any(|target| matches!(target, LinkTarget::Manifest(_)));
        let condition = match self.via(origin) {
            Ok(entry) if wants_manifest => {
                let upstream = &entry.upstream;
                upstream.condition(origin.repository(), Asked::Manifest)
            }
            _ => Condition::Ready,
        };
        let refusal = condition
            .refusal()
            .or_else(|| explanation.blob_condition.refusal());
        match refusal {
            Some(refusal) => NextPull::Fail(refusal.into()),
            None => NextPull::Fetch,
        }
    }

    /// Whether the upstream can be asked what a pull begins with; where the manifest has to be
    /// fetched, for that as well.
    fn condition_of(&self, entry: &UpstreamEntry, origin: &Origin, fetches: bool) -> Condition {
        let upstream = &entry.upstream;
        match upstream.condition(origin.repository(), Asked::Tag) {
            Condition::Ready if fetches => upstream.condition(origin.repository(), Asked::Manifest),
            condition => condition,
        }
    }

    /// What is held of a tag, without an access to it.
    async fn looked_at(
        &self,
        upkeep: &Upkeep,
        record: Option<TagRecord>,
    ) -> Result<Option<Held>, CacheError> {
        let Some(record) = record else {
            return Ok(None);
        };
        let manifest = upkeep.inventory.peek_manifest(record.digest);
        let manifest = self.store(StoreOperation::Read, manifest).await?;
        Ok(manifest.map(|manifest| Held { record, manifest }))
    }

    async fn holds(&self, manifest: Digest) -> bool {
        let Ok(upkeep) = self.upkeep() else {
            return false;
        };
        let record = self.content_record(upkeep, LinkTarget::Manifest(manifest));
        record.await.is_ok_and(|record| record.is_some())
    }

    /// What is being fetched now: the manifest, or blobs of those that are held.
    fn filling(
        &self,
        origin: &Origin,
        reference: &Reference,
        image: Option<&ImageDetail>,
    ) -> Vec<Filling> {
        let mut filling = Vec::new();
        for manifest in image.iter().flat_map(|image| &image.manifests) {
            if !manifest.held {
                filling.extend(self.manifest_under_way(origin, manifest.digest));
            }
            for blob in manifest.blobs.iter().filter(|blob| !blob.held) {
                filling.extend(self.blob_under_way(blob.digest));
            }
        }
        match reference {
            Reference::Digest(digest) if image.is_none() => {
                filling.extend(self.manifest_under_way(origin, *digest));
                filling
            }
            _ => filling,
        }
    }

    fn manifest_under_way(&self, origin: &Origin, digest: Digest) -> Option<Filling> {
        let via = self.via(origin).ok()?;
        let key = (via, origin.clone(), digest, Caller::Anonymous);
        self.fetching.is_underway(&key).then_some(Filling {
            target: LinkTarget::Manifest(digest),
            bytes: 0,
            size: None,
        })
    }

    fn blob_under_way(&self, digest: Digest) -> Option<Filling> {
        let mut fill = self.fills.get(digest)?;
        let state = fill.state();
        Some(Filling {
            target: LinkTarget::Blob(digest),
            bytes: state.coverage.held_end(),
            size: state.size,
        })
    }

    /// The latest removal of an image, or of what is missing of it.
    async fn removal_of(
        &self,
        upkeep: &Upkeep,
        origin: &Origin,
        reference: &Reference,
        missing: &[LinkTarget],
    ) -> Result<Option<Removal>, CacheError> {
        let limit = self.limits.removals_looked_through_max;
        let removals = upkeep.journal.removals(limit);
        let removals = self.store(StoreOperation::Index, removals).await?;
        let concerns = |removal: &Removal| match reference {
            _ if missing.contains(&removal.target) => true,
            Reference::Tag(tag) => removal
                .tags
                .iter()
                .any(|(of, name)| of == origin && name == tag),
            Reference::Digest(digest) => {
                removal.target == LinkTarget::Manifest(*digest) && removal.origins.contains(origin)
            }
        };
        Ok(removals.into_iter().find(concerns))
    }
}

/// What is missing of the image that is closest to being held; nothing where one is.
fn missing_of(image: &ImageDetail) -> Vec<LinkTarget> {
    if image.summary.complete {
        return Vec::new();
    }
    let missing = |of: &ManifestDetail| {
        let own = (!of.held).then_some(LinkTarget::Manifest(of.digest));
        let blobs = of.blobs.iter().filter(|blob| !blob.held);
        let blobs = blobs.map(|blob| LinkTarget::Blob(blob.digest));
        own.into_iter().chain(blobs).collect::<Vec<_>>()
    };
    // One whose manifest is held, rather than one of which nothing is known.
    let images = images_of(&image.manifests);
    let closest = images.min_by_key(|of| (!of.held, missing(of).len()));
    closest.map(missing).unwrap_or_default()
}

/// What is known of the last answer once the process that had it is gone.
fn recorded(record: Option<&TagRecord>) -> Option<TagAnswer> {
    let record = record?;
    Some(TagAnswer {
        at: record.validated_at,
        endpoint: None,
        said: if record.validated_at == record.fetched_at {
            TagSaid::New
        } else {
            TagSaid::Unchanged
        },
        error: None,
    })
}
