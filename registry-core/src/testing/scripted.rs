//! An upstream without a network: it holds content, does what it is told, and counts.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::watch;

use crate::{
    Algorithm, Answered, Asked, ByteRange, Caller, Condition, Digest, FetchedTags, Hasher,
    Manifest, RangeRequest, Reference, Referrers, Repository, Resolution, Tag, TagPage, Upstream,
    UpstreamBlob, UpstreamError, Validator,
};

/// Bytes in one piece of an unscripted body.
const PIECE_BYTES: usize = 64 << 10;

/// The methods of [`Upstream`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`Upstream::resolve`].
    Resolve,
    /// [`Upstream::manifest`].
    Manifest,
    /// [`Upstream::has_manifest`].
    HasManifest,
    /// [`Upstream::stat_blob`].
    StatBlob,
    /// [`Upstream::blob`].
    Blob,
    /// [`Upstream::blob`] with a range. What is not scripted for it is as for [`Self::Blob`].
    BlobPart,
    /// [`Upstream::tags`].
    Tags,
    /// [`Upstream::referrers`].
    Referrers,
}

impl Call {
    /// Whose [`Condition`] it is subject to.
    fn asks_for(self) -> Option<Asked> {
        match self {
            Self::Resolve | Self::HasManifest => Some(Asked::Tag),
            Self::Manifest => Some(Asked::Manifest),
            Self::StatBlob | Self::Blob | Self::BlobPart => Some(Asked::Blob),
            Self::Tags | Self::Referrers => None,
        }
    }
}

/// What a scripted call does in place of answering from the content.
#[derive(Clone, Debug)]
pub enum Act {
    /// Fails.
    Fail(UpstreamError),
    /// Says that there is nothing of that name.
    Absent,
    /// Never answers.
    Hang,
    /// Answers from the content, once the gate is open.
    Wait(Gate),
    /// Answers a [`Call::Blob`] with this body.
    Body(BodyScript),
    /// Answers a [`Call::Blob`] from the content, though not as it should.
    Content(ContentScript),
    /// Answers a [`Call::Manifest`] with this, whatever was asked for.
    Manifest(Manifest),
    /// Panics: the task dies without an answer.
    Panic,
}

/// An answer that is scripted, for the call to give.
enum Scripted {
    Body(BodyScript),
    Content(ContentScript),
    Manifest(Manifest),
}

/// How a blob is answered with that is there. The default is as it should be.
#[derive(Clone, Debug, Default)]
pub struct ContentScript {
    /// Takes no notice of ranges.
    pub ignores_range: bool,
    /// Tells no size.
    pub hides_size: bool,
    /// An entity tag other than usual.
    pub entity_tag: Option<String>,
    /// What happens before the byte at an offset within the body; in order.
    pub before: Vec<(u64, Piece)>,
    /// The body ends after so many bytes, in good order.
    pub ends_after: Option<u64>,
}

impl ContentScript {
    /// A body that goes on after `bytes` once the gate is open.
    pub fn held_after(bytes: u64, gate: &Gate) -> Self {
        Self {
            before: vec![(bytes, Piece::Wait(gate.clone()))],
            ..Self::default()
        }
    }

    /// A body that breaks off after `bytes`.
    pub fn cut_after(bytes: u64, error: UpstreamError) -> Self {
        Self {
            before: vec![(bytes, Piece::Fail(error))],
            ..Self::default()
        }
    }
}

/// What a blob was asked for with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobRequest {
    /// The range.
    pub range: Option<RangeRequest>,
    /// What the range goes on from.
    pub prior: Option<Validator>,
}

/// The body of a scripted blob.
#[derive(Clone, Debug)]
pub struct BodyScript {
    /// The size it claims.
    pub size: Option<u64>,
    /// The offset it claims to begin at.
    pub start: u64,
    /// What it sends, in order; it then ends.
    pub pieces: Vec<Piece>,
}

impl BodyScript {
    /// A body from offset 0 that claims `size`.
    pub fn new(size: Option<u64>, pieces: Vec<Piece>) -> Self {
        Self {
            size,
            start: 0,
            pieces,
        }
    }
}

/// A piece of a scripted body.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Sends bytes.
    Bytes(Bytes),
    /// Waits until the gate is open.
    Wait(Gate),
    /// Sends nothing more, ever.
    Hang,
    /// Breaks off.
    Fail(UpstreamError),
    /// Panics.
    Panic,
}

/// Holds something up until it is opened. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate {
    open: watch::Sender<bool>,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self {
            open: watch::Sender::new(false),
        }
    }

    /// Opens it, for good.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until it is open.
    pub async fn opened(&self) {
        let mut open = self.open.subscribe();
        // The sender lives as long as `self`.
        let _ = open.wait_for(|open| *open).await;
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

/// How often each method was called, and what was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// [`Upstream::resolve`].
    pub resolve: usize,
    /// [`Upstream::manifest`].
    pub manifest: usize,
    /// [`Upstream::has_manifest`].
    pub has_manifest: usize,
    /// [`Upstream::stat_blob`].
    pub stat_blob: usize,
    /// [`Upstream::blob`].
    pub blob: usize,
    /// [`Upstream::tags`].
    pub tags: usize,
    /// [`Upstream::referrers`].
    pub referrers: usize,
    /// Bytes of blobs that were sent.
    pub blob_bytes: u64,
}

impl Calls {
    /// All calls.
    pub fn total(&self) -> usize {
        self.resolve
            + self.manifest
            + self.has_manifest
            + self.stat_blob
            + self.blob
            + self.tags
            + self.referrers
    }
}

/// An upstream that holds content in memory and follows a script.
#[derive(Default)]
pub struct ScriptedUpstream {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    repositories: HashMap<Repository, Content>,
    once: HashMap<Call, VecDeque<Act>>,
    always: HashMap<Call, Act>,
    down: Option<UpstreamError>,
    conditions: HashMap<Asked, Condition>,
    endpoint: Option<Arc<str>>,
    calls: Calls,
    blob_requests: Vec<BlobRequest>,
}

impl State {
    fn scripted(&mut self, call: Call) -> Option<Act> {
        let once = self.once.get_mut(&call).and_then(VecDeque::pop_front);
        once.or_else(|| self.always.get(&call).cloned())
    }
}

#[derive(Default)]
struct Content {
    blobs: HashMap<Digest, Bytes>,
    manifests: HashMap<Digest, Manifest>,
    tags: BTreeMap<Tag, Digest>,
    referrers: HashMap<Digest, Referrers>,
}

impl ScriptedUpstream {
    /// An upstream without content.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Adds a blob to a repository, and gives its digest.
    pub fn add_blob(&self, repository: &Repository, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Hasher::digest_of(Algorithm::Sha256, &bytes);
        self.content(repository, |content| content.blobs.insert(digest, bytes));
        digest
    }

    /// Adds a manifest to a repository.
    pub fn add_manifest(&self, repository: &Repository, manifest: Manifest) {
        self.content(repository, |content| {
            content.manifests.insert(manifest.digest(), manifest)
        });
    }

    /// Lets a tag name a manifest.
    pub fn set_tag(&self, repository: &Repository, tag: &Tag, digest: Digest) {
        self.content(repository, |content| {
            content.tags.insert(tag.clone(), digest)
        });
    }

    /// Lists the referrers of a manifest. Of any other manifest, a repository that has content
    /// lists none.
    pub fn set_referrers(&self, repository: &Repository, subject: Digest, referrers: Referrers) {
        self.content(repository, |content| {
            content.referrers.insert(subject, referrers)
        });
    }

    /// Removes a tag.
    pub fn remove_tag(&self, repository: &Repository, tag: &Tag) {
        self.content(repository, |content| content.tags.remove(tag));
    }

    /// Scripts the next call that is not scripted yet; scripted acts are used up in order.
    pub fn once(&self, call: Call, act: Act) {
        self.lock().once.entry(call).or_default().push_back(act);
    }

    /// Scripts every call for which [`Self::once`] has nothing.
    pub fn always(&self, call: Call, act: Act) {
        self.lock().always.insert(call, act);
    }

    /// Fails every call from now on, whatever is scripted; `None` ends that.
    pub fn set_down(&self, error: Option<UpstreamError>) {
        self.lock().down = error;
    }

    /// Says from now on that this endpoint answers.
    pub fn set_endpoint(&self, endpoint: &str) {
        self.lock().endpoint = Some(endpoint.into());
    }

    /// Says from now on that what is `asked` is in this condition, and answers accordingly: it is
    /// not called upon, so that the call is not counted.
    pub fn set_condition(&self, asked: Asked, condition: Condition) {
        self.lock().conditions.insert(asked, condition);
    }

    /// What was called so far.
    pub fn calls(&self) -> Calls {
        self.lock().calls
    }

    /// How blobs were asked for so far, in order.
    pub fn blob_requests(&self) -> Vec<BlobRequest> {
        self.lock().blob_requests.clone()
    }

    fn content<T>(&self, repository: &Repository, change: impl FnOnce(&mut Content) -> T) {
        change(
            self.lock()
                .repositories
                .entry(repository.clone())
                .or_default(),
        );
    }

    fn answered<T>(&self, value: T) -> Answered<T> {
        Answered {
            value,
            endpoint: self.lock().endpoint.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Counts a call, and does what is scripted for it. Gives the scripted answer, if there is one;
    /// `Err(None)` stands for a scripted absence.
    async fn act(
        &self,
        call: Call,
        count: fn(&mut Calls) -> &mut usize,
    ) -> Result<Option<Scripted>, Option<UpstreamError>> {
        let act = {
            let mut state = self.lock();
            let condition = call
                .asks_for()
                .and_then(|asked| state.conditions.get(&asked));
            if let Some(refusal) = condition.and_then(Condition::refusal) {
                return Err(Some(refusal));
            }
            *count(&mut state.calls) += 1;
            if let Some(error) = &state.down {
                return Err(Some(error.clone()));
            }
            match state.scripted(call) {
                None if call == Call::BlobPart => state.scripted(Call::Blob),
                act => act,
            }
        };
        match act {
            None => Ok(None),
            Some(Act::Fail(error)) => Err(Some(error)),
            Some(Act::Absent) => Err(None),
            Some(Act::Hang) => std::future::pending().await,
            Some(Act::Wait(gate)) => {
                gate.opened().await;
                Ok(None)
            }
            Some(Act::Body(script)) => Ok(Some(Scripted::Body(script))),
            Some(Act::Content(script)) => Ok(Some(Scripted::Content(script))),
            Some(Act::Manifest(manifest)) => Ok(Some(Scripted::Manifest(manifest))),
            Some(Act::Panic) => panic!("scripted"),
        }
    }

    fn of<T>(
        &self,
        repository: &Repository,
        find: impl FnOnce(&Content) -> Option<T>,
    ) -> Option<T> {
        self.lock().repositories.get(repository).and_then(find)
    }

    /// A blob that is there, as it is asked for and as is scripted.
    fn answer(
        &self,
        digest: Digest,
        bytes: &Bytes,
        request: &BlobRequest,
        script: ContentScript,
    ) -> UpstreamBlob {
        let size = bytes.len() as u64;
        let entity_tag = script.entity_tag.unwrap_or_else(|| format!("\"{digest}\""));
        let validator = Validator::new("scripted", entity_tag);
        let is_same = request
            .prior
            .as_ref()
            .is_none_or(|prior| *prior == validator);
        let range = request.range.filter(|_| is_same && !script.ignores_range);
        let nothing = ByteRange::new(size, size).expect("its end is its start");
        let range = match range {
            None => ByteRange::whole(size),
            Some(range) => range.resolve(size).unwrap_or(nothing),
        };
        let index = |offset| usize::try_from(offset).expect("it is within bytes in memory");
        let mut rest = bytes.slice(index(range.start())..index(range.end()));
        rest.truncate(script.ends_after.map_or(rest.len(), index));
        let mut pieces = Vec::new();
        let mut sent = 0;
        for (offset, piece) in script.before {
            let before = rest.split_to(rest.len().min(index(offset) - sent));
            sent += before.len();
            pieces.extend(in_pieces(before));
            pieces.push(piece);
        }
        pieces.extend(in_pieces(rest));
        UpstreamBlob {
            size: Some(size).filter(|_| !script.hides_size),
            start: range.start(),
            validator: Some(validator),
            endpoint: self.lock().endpoint.clone(),
            stream: self.counted(play(pieces)),
        }
    }

    /// Counts the bytes of a body as it is read.
    fn counted(
        &self,
        pieces: BoxStream<'static, Result<Bytes, UpstreamError>>,
    ) -> BoxStream<'static, Result<Bytes, UpstreamError>> {
        let state = Arc::clone(&self.state);
        pieces
            .inspect(move |piece| {
                if let Ok(bytes) = piece {
                    lock(&state).calls.blob_bytes += bytes.len() as u64;
                }
            })
            .boxed()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An answer that is absent by script or by content.
fn absent_or<T>(error: Option<UpstreamError>, absent: T) -> Result<T, UpstreamError> {
    match error {
        Some(error) => Err(error),
        None => Ok(absent),
    }
}

impl Upstream for ScriptedUpstream {
    fn resolve<'a>(
        &'a self,
        repository: &'a Repository,
        tag: &'a Tag,
        prior: Option<Digest>,
        _caller: &'a Caller,
    ) -> BoxFuture<'a, Result<Answered<Resolution>, UpstreamError>> {
        Box::pin(async move {
            if let Err(error) = self.act(Call::Resolve, |calls| &mut calls.resolve).await {
                return absent_or(error, self.answered(Resolution::Absent));
            }
            let named = self.of(repository, |content| {
                content
                    .manifests
                    .get(content.tags.get(tag)?)
                    .map(|m| m.descriptor().clone())
            });
            Ok(self.answered(match named {
                None => Resolution::Absent,
                Some(descriptor) if Some(descriptor.digest) == prior => Resolution::Unchanged,
                Some(descriptor) => Resolution::Names(descriptor),
            }))
        })
    }

    fn manifest<'a>(
        &'a self,
        repository: &'a Repository,
        reference: &'a Reference,
        _caller: &'a Caller,
    ) -> BoxFuture<'a, Result<Option<Answered<Manifest>>, UpstreamError>> {
        Box::pin(async move {
            match self.act(Call::Manifest, |calls| &mut calls.manifest).await {
                Err(error) => return absent_or(error, None),
                Ok(Some(Scripted::Manifest(manifest))) => {
                    return Ok(Some(self.answered(manifest)));
                }
                Ok(_) => {}
            }
            let manifest = self.of(repository, |content| {
                let digest = match reference {
                    Reference::Tag(tag) => content.tags.get(tag)?,
                    Reference::Digest(digest) => digest,
                };
                content.manifests.get(digest).cloned()
            });
            Ok(manifest.map(|manifest| self.answered(manifest)))
        })
    }

    fn has_manifest<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        _caller: &'a Caller,
    ) -> BoxFuture<'a, Result<bool, UpstreamError>> {
        Box::pin(async move {
            if let Err(error) = self
                .act(Call::HasManifest, |calls| &mut calls.has_manifest)
                .await
            {
                return absent_or(error, false);
            }
            let there = |content: &Content| content.manifests.get(&digest).map(|_| ());
            Ok(self.of(repository, there).is_some())
        })
    }

    fn stat_blob<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        _caller: &'a Caller,
    ) -> BoxFuture<'a, Result<Option<Option<u64>>, UpstreamError>> {
        Box::pin(async move {
            if let Err(error) = self.act(Call::StatBlob, |calls| &mut calls.stat_blob).await {
                return absent_or(error, None);
            }
            let size = |content: &Content| content.blobs.get(&digest).map(|b| b.len() as u64);
            Ok(self.of(repository, size).map(Some))
        })
    }

    fn blob<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        range: Option<RangeRequest>,
        prior: Option<&'a Validator>,
        _caller: &'a Caller,
    ) -> BoxFuture<'a, Result<Option<UpstreamBlob>, UpstreamError>> {
        Box::pin(async move {
            let prior = prior.cloned();
            let request = BlobRequest { range, prior };
            self.lock().blob_requests.push(request.clone());
            let call = if range.is_some() {
                Call::BlobPart
            } else {
                Call::Blob
            };
            let mut script = ContentScript::default();
            match self.act(call, |calls| &mut calls.blob).await {
                Err(error) => return absent_or(error, None),
                Ok(Some(Scripted::Content(scripted))) => script = scripted,
                Ok(Some(Scripted::Body(script))) => {
                    let (size, start) = (script.size, script.start);
                    let stream = self.counted(play(script.pieces));
                    return Ok(Some(UpstreamBlob {
                        size,
                        start,
                        validator: None,
                        endpoint: None,
                        stream,
                    }));
                }
                Ok(_) => {}
            }
            let bytes = self.of(repository, |content| content.blobs.get(&digest).cloned());
            let Some(bytes) = bytes else { return Ok(None) };
            Ok(Some(self.answer(digest, &bytes, &request, script)))
        })
    }

    fn tags<'a>(
        &'a self,
        repository: &'a Repository,
        page: TagPage<'a>,
        _caller: &'a Caller,
    ) -> BoxFuture<'a, Result<Option<FetchedTags>, UpstreamError>> {
        Box::pin(async move {
            if let Err(error) = self.act(Call::Tags, |calls| &mut calls.tags).await {
                return absent_or(error, None);
            }
            Ok(self.of(repository, |content| {
                let past = |tag: &&Tag| page.after.is_none_or(|after| tag.as_str() > after);
                let mut tags = content.tags.keys().filter(past);
                let listed: Vec<Tag> = tags.by_ref().take(page.limit).cloned().collect();
                Some(FetchedTags {
                    tags: listed,
                    more: tags.next().is_some(),
                })
            }))
        })
    }

    fn referrers<'a>(
        &'a self,
        repository: &'a Repository,
        subject: Digest,
        _caller: &'a Caller,
    ) -> BoxFuture<'a, Result<Option<Referrers>, UpstreamError>> {
        Box::pin(async move {
            if let Err(error) = self
                .act(Call::Referrers, |calls| &mut calls.referrers)
                .await
            {
                return absent_or(error, None);
            }
            Ok(self.of(repository, |content| {
                Some(content.referrers.get(&subject).cloned().unwrap_or_default())
            }))
        })
    }

    fn condition(&self, _: &Repository, asked: Asked) -> Condition {
        let state = self.lock();
        state.conditions.get(&asked).cloned().unwrap_or_default()
    }
}

fn in_pieces(mut bytes: Bytes) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
        pieces.push(Piece::Bytes(piece));
    }
    pieces
}

/// Plays the pieces of a scripted body.
fn play(pieces: Vec<Piece>) -> BoxStream<'static, Result<Bytes, UpstreamError>> {
    stream::iter(pieces)
        .filter_map(|piece| async {
            match piece {
                Piece::Bytes(bytes) => Some(Ok(bytes)),
                Piece::Wait(gate) => {
                    gate.opened().await;
                    None
                }
                Piece::Hang => std::future::pending().await,
                Piece::Fail(error) => Some(Err(error)),
                Piece::Panic => panic!("scripted"),
            }
        })
        .boxed()
}
