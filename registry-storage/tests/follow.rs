//! Readers of a fill that grows in a file: what they are given slices of stays what it is, whatever
//! becomes of the fill, and they get no more of it than any reader does (I2).

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use registry_core::testing::content::{digest_of, read_body, sample};
use registry_core::testing::{Act, BodyScript, Call, ContentScript, Gate, Piece, ScriptedUpstream};
use registry_core::{
    BlobBody, BlobPayload, CacheError, CacheStatus, Caller, Digest, FileSlice, Limits, Origin,
    RangeRequest, RegistryCache, Repository, Stores, SystemClock, UpstreamEntry, UpstreamError,
    UpstreamId, Upstreams,
};
use registry_storage::{DiskOptions, DiskStore, Reserve};
use tempfile::TempDir;
use tokio::time::timeout;

const BLOB_BYTES: usize = 6 << 20;

/// More than any step of a test takes.
const PATIENCE: Duration = Duration::from_secs(60);

type Slices = BoxStream<'static, Result<FileSlice, CacheError>>;

struct Scene {
    cache: RegistryCache,
    upstream: Arc<ScriptedUpstream>,
    origin: Origin,
    content: Bytes,
    digest: Digest,
    limits: Limits,
    _folder: TempDir,
}

impl Scene {
    async fn new(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = DiskOptions::default();
        options.reserve = Reserve::Bytes(0);
        let store = DiskStore::open_with(folder.path(), options).await.unwrap();
        let upstream = ScriptedUpstream::new();
        let id = UpstreamId::parse("registry.example").unwrap();
        let repository = Repository::parse("library/app").unwrap();
        let content = sample(BLOB_BYTES, 1);
        let digest = upstream.add_blob(&repository, content.clone());
        let mut upstreams = Upstreams::new();
        let entry = UpstreamEntry::new(Arc::clone(&upstream) as _);
        upstreams.insert(id.clone(), entry);
        let cache = RegistryCache::with(
            Stores::of(Arc::new(store)),
            upstreams,
            limits.clone(),
            Arc::new(SystemClock),
        );
        Self {
            cache,
            upstream,
            origin: Origin::new(id, repository),
            content,
            digest,
            limits,
            _folder: folder,
        }
    }

    async fn ask(&self, range: Option<RangeRequest>) -> (CacheStatus, BlobBody<CacheError>) {
        let blob = self
            .cache
            .blob(&self.origin, self.digest, range, &Caller::Anonymous);
        let served = timeout(PATIENCE, blob).await.unwrap().unwrap();
        (served.status, served.value)
    }

    async fn slices(&self, range: Option<RangeRequest>) -> Slices {
        let (_, body) = self.ask(range).await;
        match body.payload {
            BlobPayload::Slices(slices) => slices,
            other => panic!("{other:?} in place of slices"),
        }
    }

    /// Begins a fill that stands still after so many bytes.
    fn hold_after(&self, bytes: usize) -> Gate {
        let gate = Gate::new();
        let script = ContentScript::held_after(bytes as u64, &gate);
        self.upstream.once(Call::Blob, Act::Content(script));
        gate
    }

    /// Takes slices until they reach `end`, and holds each against what it should be.
    async fn take_until(&self, slices: &mut Slices, start: usize, end: usize) -> Vec<FileSlice> {
        let mut at = start as u64;
        let mut taken = Vec::new();
        while at < end as u64 {
            let slice = timeout(PATIENCE, slices.next()).await.unwrap();
            let slice = slice.unwrap().unwrap();
            assert_eq!(slice.range.start(), at);
            assert!((1..=self.limits.slice_bytes_max).contains(&slice.range.len()));
            at = slice.range.end();
            taken.push(slice);
        }
        self.assert_right(&taken);
        taken
    }

    /// What stands in the slices is the blob's.
    fn assert_right(&self, slices: &[FileSlice]) {
        for FileSlice { file, range } in slices {
            let (start, end) = (range.start() as usize, range.end() as usize);
            let mut bytes = vec![0; end - start];
            file.read_exact_at(&mut bytes, range.start()).unwrap();
            assert!(bytes == self.content[start..end], "{range:?}");
        }
    }

    async fn idle(&self) {
        let idle = async {
            while self.cache.fills_active() > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, idle).await.unwrap();
    }
}

/// The next of them, where there is one by now.
async fn soon(slices: &mut Slices) -> Option<Result<FileSlice, CacheError>> {
    // Whoever would bring one has had many turns by then.
    for _ in 0..1_000 {
        match futures::poll!(slices.next()) {
            std::task::Poll::Ready(next) => return next,
            std::task::Poll::Pending => tokio::task::yield_now().await,
        }
    }
    None
}

fn from(first: usize) -> Option<RangeRequest> {
    Some(RangeRequest::From {
        first: first as u64,
    })
}

#[tokio::test]
async fn all_who_go_along_with_a_fill_are_given_slices_of_its_file() {
    let scene = Scene::new(Limits::default()).await;
    let gate = scene.hold_after(1 << 20);
    let mut leader = scene.slices(None).await;
    let mut follower = scene.slices(from(1_000)).await;
    for (slices, start) in [(&mut leader, 0), (&mut follower, 1_000)] {
        scene.take_until(slices, start, 1 << 20).await;
        assert!(soon(slices).await.is_none(), "there is no more of it yet");
    }
    gate.open();
    scene.take_until(&mut leader, 1 << 20, BLOB_BYTES).await;
    scene.take_until(&mut follower, 1 << 20, BLOB_BYTES).await;
    assert!(leader.next().await.is_none() && follower.next().await.is_none());
    scene.idle().await;
    assert_eq!(scene.upstream.calls().blob_bytes, BLOB_BYTES as u64);
    let (status, body) = scene.ask(None).await;
    assert_eq!(status, CacheStatus::Hit);
    assert!(read_body(body).await == scene.content);
}

/// The end is held back, and the first bytes are not.
#[tokio::test]
async fn slices_end_where_bytes_are_held_back_until_all_of_them_are_known_to_be_right() {
    let scene = Scene::new(Limits::default()).await;
    let gate = scene.hold_after(BLOB_BYTES - 1);
    let mut slices = scene.slices(None).await;
    let line = BLOB_BYTES - usize::try_from(scene.limits.held_back_bytes).unwrap();
    let taken = scene.take_until(&mut slices, 0, line).await;
    assert_eq!(taken.last().unwrap().range.end(), line as u64);
    assert!(soon(&mut slices).await.is_none());
    gate.open();
    scene.take_until(&mut slices, line, BLOB_BYTES).await;
}

#[tokio::test]
async fn nothing_more_is_given_of_a_blob_that_is_known_to_be_wrong() {
    let scene = Scene::new(Limits {
        slice_bytes_max: 100_000,
        ..Limits::default()
    })
    .await;
    let mut wrong = scene.content.to_vec();
    wrong[BLOB_BYTES - 1] ^= 1;
    let rest = Bytes::from(wrong).split_off(1 << 20);
    let gate = Gate::new();
    let pieces = vec![
        Piece::Bytes(scene.content.slice(..1 << 20)),
        Piece::Wait(gate.clone()),
        Piece::Bytes(rest),
    ];
    let script = BodyScript::new(Some(BLOB_BYTES as u64), pieces);
    scene.upstream.once(Call::Blob, Act::Body(script));
    let mut slices = scene.slices(None).await;
    scene.take_until(&mut slices, 0, 100_000).await;
    // All of it comes, and is hashed, while nobody reads.
    gate.open();
    scene.idle().await;
    let next = timeout(PATIENCE, slices.next()).await.unwrap();
    let error = next.unwrap().unwrap_err();
    assert!(matches!(error, CacheError::Mismatch(_)), "{error:?}");
    let (_, body) = scene.ask(None).await;
    assert!(
        read_body(body).await == scene.content,
        "the next pull is right"
    );
}

/// What was given out is read late: the fill has failed by then, what it left was cut, and the next
/// one has written on in the same file.
#[tokio::test]
async fn slices_of_a_fill_that_failed_stay_right_while_the_next_goes_on_in_its_file() {
    // Parts are fetched ahead soon.
    let scene = Scene::new(Limits {
        range_ahead_bytes_max: 64 << 10,
        segment_bytes_min: 256 << 10,
        resumes_max: 0,
        ..Limits::default()
    })
    .await;
    let gate = Gate::new();
    let cut = 2 << 20;
    let script = ContentScript {
        before: vec![
            (cut, Piece::Wait(gate.clone())),
            (
                cut,
                Piece::Fail(UpstreamError::Unauthorized { status: 403 }),
            ),
        ],
        ..ContentScript::default()
    };
    scene.upstream.once(Call::Blob, Act::Content(script));
    let mut slices = scene.slices(None).await;
    let cut = usize::try_from(cut).unwrap();
    let mut taken = scene.take_until(&mut slices, 0, cut).await;
    // Held far ahead, not hashed, and gone with the fill: not to be given as a slice.
    let (_, ahead) = scene.ask(from(4 << 20)).await;
    let BlobPayload::Stream(mut ahead) = ahead.payload else {
        panic!("it would be read late");
    };
    let first = timeout(PATIENCE, ahead.next()).await.unwrap();
    let first = first.unwrap().unwrap();
    assert!(scene.content[4 << 20..].starts_with(&first));
    gate.open();
    let error = timeout(PATIENCE, slices.next()).await.unwrap();
    assert!(error.unwrap().is_err());
    drop(ahead);
    scene.idle().await;
    scene.assert_right(&taken);

    let gate = Gate::new();
    let script = ContentScript::held_after(100_000, &gate);
    scene.upstream.once(Call::BlobPart, Act::Content(script));
    let mut next = scene.slices(None).await;
    taken.extend(scene.take_until(&mut next, 0, cut).await);
    scene.assert_right(&taken);
    gate.open();
    taken.extend(scene.take_until(&mut next, cut, BLOB_BYTES).await);
    scene.idle().await;
    scene.assert_right(&taken);
    let requests = scene.upstream.blob_requests();
    assert!(
        requests.last().unwrap().range.is_some(),
        "it has gone on with what was left: {requests:?}"
    );
}

/// Whoever resumes in what an earlier fill left does not wait until that is hashed again.
#[tokio::test]
async fn what_was_kept_is_given_before_it_is_hashed_again() {
    let scene = Scene::new(Limits {
        resumes_max: 0,
        ..Limits::default()
    })
    .await;
    let error = UpstreamError::Unauthorized { status: 403 };
    let script = ContentScript::cut_after(5 << 20, error);
    scene.upstream.once(Call::Blob, Act::Content(script));
    let mut slices = scene.slices(None).await;
    scene.take_until(&mut slices, 0, 5 << 20).await;
    assert!(slices.next().await.unwrap().is_err());
    scene.idle().await;
    let start = (5 << 20) - 1_000;
    let mut resumed = scene.slices(from(start)).await;
    scene.take_until(&mut resumed, start, BLOB_BYTES).await;
    assert!(resumed.next().await.is_none());
    scene.idle().await;
    assert_eq!(scene.digest, digest_of(&scene.content));
}
