//! The way of a tag through the cache: fresh or frozen, revalidated, or stale where the upstream
//! cannot tell.
//!
//! Whoever has something to answer with waits for the upstream no longer than the budget of the
//! flight that asks it; and not at all where the upstream is known to be silent (`outage`).

use std::sync::Arc;

use super::answers::{TagAnswer, TagSaid};
use super::flight::Patience;
use super::freshness::{Freshness, assess};
use super::manifests::Resolved;
use super::negative::Absent;
use super::standby::{Choice, Said, Standby};
use super::status::{BypassReason, CacheStatus, Served};
use super::via::Via;
use super::{CacheError, Inner};
use crate::{
    Answered, Caller, Digest, Manifest, Origin, Reference, Resolution, StoreOperation, Tag,
    TagRecord, Timestamp, UpstreamError, UpstreamPolicy,
};

/// A tag that can be served without the upstream.
pub(super) struct Held {
    pub(super) record: TagRecord,
    pub(super) manifest: Manifest,
}

/// What a pull of a tag does before it asks anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// It takes what is held: that is fresh, or frozen.
    Serve,
    /// It believes that there is no such tag: the upstream has just said so.
    Believe,
    /// It does not wait for an upstream that leaves others waiting: there is something to answer
    /// with.
    Spare,
    /// It asks the upstream.
    Ask,
}

impl Held {
    /// Whether it is what a pull takes, without asking anybody.
    fn is_served(&self, policy: &UpstreamPolicy, now: Timestamp) -> bool {
        let assessed = assess(self.record.validated_at, policy.tag_ttl, now);
        policy.frozen || assessed == Freshness::Fresh
    }

    fn serve(self, status: CacheStatus, cache: &Inner) -> Served<Manifest> {
        let validated_at = self.record.validated_at;
        Served {
            value: self.manifest,
            status,
            age: (validated_at != Timestamp::NEVER).then(|| cache.now().since(validated_at)),
        }
    }
}

impl Inner {
    pub(super) async fn manifest_by_tag(
        self: &Arc<Self>,
        origin: &Origin,
        tag: &Tag,
        caller: &Caller,
    ) -> Result<Served<Manifest>, CacheError> {
        let via = &self.via(origin)?;
        let policy = via.policy(origin.repository());
        let record = self.recorded(origin, tag).await;
        // Before anything is made that only a question needs.
        let held = match self.held(record.as_ref()).await {
            Some(held) if held.is_served(policy, self.now()) => {
                return Ok(held.serve(CacheStatus::Hit, self));
            }
            held => held,
        };
        // In a box: a hit would carry the room for all of it about.
        Box::pin(self.manifest_to_ask_about(via, origin, tag, (record, held), caller)).await
    }

    /// A manifest by a tag that has to be asked about, unless another question has told already.
    async fn manifest_to_ask_about(
        self: &Arc<Self>,
        via: &Via,
        origin: &Origin,
        tag: &Tag,
        (record, held): (Option<TagRecord>, Option<Held>),
        caller: &Caller,
    ) -> Result<Served<Manifest>, CacheError> {
        let policy = via.policy(origin.repository());
        let absent = Absent::tag(origin, tag, caller);
        let standby = match held {
            Some(held) => Standby::Held(held),
            None if policy.frozen
                && let Some(record) = record =>
            {
                // It names what it named, and only that has to be fetched anew, if it is there still.
                let fetched = self
                    .fetch_manifest(via, origin, record.digest, caller)
                    .await?;
                if let Some(fetched) = fetched {
                    let Resolved { manifest, status } = Resolved::fetched(fetched);
                    return Ok(Served::new(manifest, status));
                }
                Standby::Nothing
            }
            None if self.recalls_absent(&absent) => Standby::Absence,
            None => Standby::Nothing,
        };
        let said = match (self.course(&absent, &standby, policy), standby) {
            (Course::Serve, Standby::Held(held)) => return Ok(held.serve(CacheStatus::Hit, self)),
            (course, standby) => {
                let said = match course {
                    Course::Believe => Some(Ok(None)),
                    Course::Spare => None,
                    Course::Serve | Course::Ask => {
                        self.resolve(via, origin, tag, &absent, &standby).await
                    }
                };
                standby.or(said, policy.forward_not_found)?
            }
        };
        Ok(match said {
            Choice::Said(Resolved { manifest, status }) => Served::new(manifest, status),
            Choice::Held(held, reason) => held.serve(CacheStatus::Stale(reason), self),
        })
    }

    /// What a pull of a tag does that has this to answer with. Whoever is told what the next pull
    /// would do is told it by this, too.
    pub(super) fn course(
        &self,
        absent: &Absent,
        standby: &Standby<Held>,
        policy: &UpstreamPolicy,
    ) -> Course {
        if let Standby::Held(held) = standby
            && held.is_served(policy, self.now())
        {
            return Course::Serve;
        }
        let upstream = absent.place.origin.upstream();
        if self.is_absent(absent) {
            Course::Believe
        } else if !standby.is_nothing() && self.outages.is_silent(upstream) {
            Course::Spare
        } else {
            Course::Ask
        }
    }

    async fn recorded(&self, origin: &Origin, tag: &Tag) -> Option<TagRecord> {
        let tags = &self.stores.tags;
        if let Some(record) = tags.tag_at_hand(origin, tag) {
            return Some(record);
        }
        let record = tags.tag(origin, tag);
        self.store(StoreOperation::Index, record).await.ok()?
    }

    async fn held(&self, record: Option<&TagRecord>) -> Option<Held> {
        let record = record?.clone();
        let manifest = self.stored_manifest(record.digest).await?;
        Some(Held { record, manifest })
    }

    /// Asks the upstream what a tag names, and records it: one flight for all who ask. `None` where
    /// it does not say so in time for who has something to answer with.
    async fn resolve(
        self: &Arc<Self>,
        via: &Via,
        origin: &Origin,
        tag: &Tag,
        absent: &Absent,
        standby: &Standby<Held>,
    ) -> Option<Said<Resolved>> {
        let prior = match standby {
            Standby::Held(held) => Some(held.record.clone()),
            Standby::Absence | Standby::Nothing => None,
        };
        let caller = absent.caller.clone();
        let key = (via.clone(), origin.clone(), tag.clone(), caller);
        let work = || {
            let (cache, key) = (Arc::clone(self), key.clone());
            async move {
                let (via, origin, tag, caller) = key;
                cache.revalidate(&via, &origin, &tag, prior, &caller).await
            }
        };
        let patience = Patience::Telling {
            budget: via.policy(origin.repository()).tag_budget,
            outages: &self.outages,
            upstream: origin.upstream(),
        };
        let flight = self
            .resolving
            .board(&self.tasks, key.clone(), patience, work);
        standby.wait_for(flight).await
    }

    /// Asks, records, and remembers what was said.
    async fn revalidate(
        self: &Arc<Self>,
        via: &Via,
        origin: &Origin,
        tag: &Tag,
        prior: Option<TagRecord>,
        caller: &Caller,
    ) -> Result<Option<Resolved>, CacheError> {
        let known = prior.as_ref().map(|record| record.digest);
        let mut endpoint = None;
        let asking = self.ask_tag(via, origin, tag, prior, caller, &mut endpoint);
        let outcome = asking.await;
        let said = match &outcome {
            Ok(Some(resolved)) => match known {
                Some(known) if known == resolved.manifest.digest() => TagSaid::Unchanged,
                Some(_) => TagSaid::Moved,
                None => TagSaid::New,
            },
            Ok(None) => TagSaid::Absent,
            Err(error) => TagSaid::of(error),
        };
        let answer = TagAnswer {
            at: self.now(),
            endpoint,
            said,
            error: outcome.as_ref().err().map(in_words),
        };
        self.answers.note(origin, tag, answer);
        outcome
    }

    async fn ask_tag(
        self: &Arc<Self>,
        via: &Via,
        origin: &Origin,
        tag: &Tag,
        prior: Option<TagRecord>,
        caller: &Caller,
        endpoint: &mut Option<Arc<str>>,
    ) -> Result<Option<Resolved>, CacheError> {
        let known = prior.as_ref().map(|record| record.digest);
        let resolution = via
            .upstream
            .resolve(origin.repository(), tag, known, caller);
        let resolution = self.in_time(resolution).await?;
        endpoint.clone_from(&resolution.endpoint);
        let (digest, fetched) = match (resolution.value, known) {
            (Resolution::Unchanged, Some(known)) => (known, None),
            (Resolution::Names(descriptor), _) => {
                self.refuse_oversized(descriptor.size)?;
                (descriptor.digest, None)
            }
            (Resolution::Fetched(manifest), _) => {
                self.refuse_oversized(manifest.descriptor().size)?;
                let digest = manifest.digest();
                let fetched = Answered {
                    value: manifest,
                    endpoint: resolution.endpoint,
                };
                (digest, Some(self.keep_manifest(origin, fetched).await))
            }
            (Resolution::Absent, _) => {
                self.remember_absent(via, Absent::tag(origin, tag, caller));
                return Ok(None);
            }
            (Resolution::Unchanged, None) => {
                let what = "it says unchanged of a tag that it was never asked about".to_owned();
                return Err(UpstreamError::Protocol { what }.into());
            }
        };
        self.forget(&Absent::tag(origin, tag, caller));
        let resolved = match fetched {
            Some(fetched) => Resolved::fetched(fetched),
            None => match self.manifest_named(via, origin, digest, caller).await? {
                Some(resolved) => resolved,
                // It told the digest of something else, or the tag has moved since: what it sends
                // for the tag has a digest of its own.
                None => self.manifest_tagged(via, origin, tag, caller).await?,
            },
        };
        let digest = resolved.manifest.digest();
        if resolved.status != CacheStatus::Bypass(BypassReason::StoreFailing) {
            self.record(origin, tag, digest, prior).await;
        }
        Ok(Some(resolved))
    }

    /// The manifest that a tag was just said to name: the upstream has it in this origin (I5). None
    /// where it has not, after all.
    async fn manifest_named(
        self: &Arc<Self>,
        via: &Via,
        origin: &Origin,
        digest: Digest,
        caller: &Caller,
    ) -> Result<Option<Resolved>, CacheError> {
        if let Some(manifest) = self.stored_manifest(digest).await {
            self.grant_manifest(origin, &manifest).await;
            return Ok(Some(Resolved {
                manifest,
                status: CacheStatus::Revalidated,
            }));
        }
        let fetched = self.fetch_manifest(via, origin, digest, caller).await?;
        Ok(fetched.map(Resolved::fetched))
    }

    /// The manifest that the upstream sends for a tag, whatever it said of it.
    async fn manifest_tagged(
        self: &Arc<Self>,
        via: &Via,
        origin: &Origin,
        tag: &Tag,
        caller: &Caller,
    ) -> Result<Resolved, CacheError> {
        let reference = Reference::Tag(tag.clone());
        let manifest = via
            .upstream
            .manifest(origin.repository(), &reference, caller);
        let Some(fetched) = self.in_time(manifest).await? else {
            let what = "it tells what a tag names, and has no such manifest".to_owned();
            return Err(UpstreamError::Protocol { what }.into());
        };
        self.refuse_oversized(fetched.value.descriptor().size)?;
        let fetched = self.keep_manifest(origin, fetched).await;
        Ok(Resolved::fetched(fetched))
    }

    /// Records what a tag names. The manifest is stored already, so the record promises nothing
    /// that is not there.
    async fn record(&self, origin: &Origin, tag: &Tag, digest: Digest, prior: Option<TagRecord>) {
        let now = self.now();
        let fetched_at = match prior {
            Some(prior) if prior.digest == digest => prior.fetched_at,
            _ => now,
        };
        let record = TagRecord {
            digest,
            fetched_at,
            validated_at: now,
        };
        // A tag that was not recorded is revalidated again: nobody has to know.
        let put = self.stores.tags.put_tag(origin, tag, record);
        let _ = self.store(StoreOperation::Index, put).await;
    }
}

/// An error for people: what the upstream's was, where it was one of those.
fn in_words(error: &CacheError) -> String {
    match error {
        CacheError::Upstream(error) => error.to_string(),
        error => error.to_string(),
    }
}
