//! Moments: what happens between two steps of a request, of a fill, of the end of the cache.

use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::FutureExt as _;
use registry_core::cache::StaleReason;
use registry_core::testing::{Act, BodyScript, Call, Calls, Gate, Piece, StoreCall};
use registry_core::{
    CacheError, CacheStatus, Caller, CallerId, Limits, RegistryCache, UpstreamPolicy,
};

use crate::support::{
    Mirror, bytes, one, push, read, read_what_comes, repository, two, unavailable,
};

const BLOB_BYTES: usize = 1 << 20;

/// A waker that counts the fills under way at the very moment it is woken.
struct Look {
    cache: RegistryCache,
    seen: Mutex<Vec<usize>>,
}

impl Wake for Look {
    fn wake(self: Arc<Self>) {
        self.seen.lock().unwrap().push(self.cache.fills_active());
    }
}

/// I7: who learns that a fill has failed or died begins another. Were the dead one still in the
/// table at that moment, it would be found again.
#[tokio::test]
async fn a_dead_fill_is_out_of_the_table_before_anyone_learns_of_it() {
    for end in [Piece::Fail(unavailable()), Piece::Panic] {
        let mirror = Mirror::new();
        let digest = mirror.one.add_blob(&repository(), bytes(BLOB_BYTES));
        let gate = Gate::new();
        let pieces = vec![Piece::Wait(gate.clone()), end.clone()];
        let script = BodyScript::new(Some(BLOB_BYTES as u64), pieces);
        mirror.one.once(Call::Blob, Act::Body(script));
        let look = Arc::new(Look {
            cache: mirror.cache.clone(),
            seen: Mutex::default(),
        });
        let waker = Waker::from(Arc::clone(&look));
        let origin = one();
        let mut client = Box::pin(mirror.blob(&origin, digest, None));
        while mirror.one.calls().blob == 0 {
            assert!(futures::poll!(&mut client).is_pending());
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        let polled = client.poll_unpin(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        gate.open();
        mirror.idle().await;
        tokio::task::yield_now().await;
        assert_eq!(*look.seen.lock().unwrap(), [0], "{end:?}");
    }
}

/// A client that looked for a link just before a fill of its own origin made it asks nobody for
/// proof: everything is here (I11).
#[tokio::test]
async fn a_link_that_is_made_while_we_look_is_seen() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let faults = mirror.store.faults();
    faults.stall(StoreCall::Stat);
    let (origin, caller) = (one(), Caller::Anonymous);
    let mut get = Box::pin(mirror.blob(&origin, digest, None));
    let mut head = Box::pin(mirror.cache.stat_blob(&origin, digest, &caller));
    assert!(futures::poll!(&mut get).is_pending());
    assert!(futures::poll!(&mut head).is_pending());
    assert_eq!(faults.calls(StoreCall::Linked), 2);
    faults.release(StoreCall::Stat);
    let first = mirror.blob(&origin, digest, None).await.unwrap();
    assert!(read(first.value).await.unwrap() == content);
    mirror.idle().await;

    mirror.one.set_down(Some(unavailable()));
    let served = get.await.unwrap();
    assert_eq!(served.status, CacheStatus::Hit);
    assert!(read(served.value).await.unwrap() == content);
    assert_eq!(head.await.unwrap().status, CacheStatus::Hit);
    assert_eq!(mirror.one.calls().total(), 1);
}

/// I5: a fill of another origin that begins just after we looked for one grants nothing.
#[tokio::test]
async fn a_fill_that_begins_while_we_look_takes_proof_of_access_too() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let gate = Gate::new();
    let (first, rest) = (content.slice(..1000), content.slice(1000..));
    let pieces = vec![
        Piece::Bytes(first),
        Piece::Wait(gate.clone()),
        Piece::Bytes(rest),
    ];
    let script = BodyScript::new(Some(BLOB_BYTES as u64), pieces);
    mirror.one.once(Call::Blob, Act::Body(script));
    let faults = mirror.store.faults();
    faults.stall(StoreCall::Stat);
    let origins = (one(), two());
    let mut late = Box::pin(mirror.blob(&origins.1, digest, None));
    assert!(futures::poll!(&mut late).is_pending());
    faults.release(StoreCall::Stat);
    let leader = mirror.blob(&origins.0, digest, None).await.unwrap();
    let denied = late.await;
    assert!(matches!(denied, Err(CacheError::NotFound)), "{denied:?}");
    let asked = Calls {
        stat_blob: 1,
        ..Calls::default()
    };
    assert_eq!(mirror.two.calls(), asked);
    gate.open();
    assert!(read(leader.value).await.unwrap() == content);
}

/// I5: what one caller's fill proves, it proves for that caller.
#[tokio::test]
async fn a_fill_of_another_caller_takes_proof_of_access() {
    let mirror = Mirror::new();
    let content = bytes(BLOB_BYTES);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let gate = Gate::new();
    let (first, rest) = (content.slice(..1000), content.slice(1000..));
    let pieces = vec![
        Piece::Bytes(first),
        Piece::Wait(gate.clone()),
        Piece::Bytes(rest),
    ];
    let script = BodyScript::new(Some(BLOB_BYTES as u64), pieces);
    mirror.one.once(Call::Blob, Act::Body(script));
    let leader = mirror.blob(&one(), digest, None).await.unwrap();
    mirror.one.once(Call::StatBlob, Act::Absent);
    let somebody = Caller::Identified(CallerId::new([1; 32]));
    let denied = mirror.cache.blob(&one(), digest, None, &somebody).await;
    assert!(matches!(denied, Err(CacheError::NotFound)), "{denied:?}");
    gate.open();
    assert!(read(leader.value).await.unwrap() == content);
}

/// I2: what is known to be wrong is not sent any more, however much of it a slow client has left.
#[tokio::test]
async fn a_slow_client_gets_nothing_of_a_blob_that_was_found_to_be_wrong() {
    let mirror = Mirror::new();
    let digest = mirror.one.add_blob(&repository(), bytes(BLOB_BYTES));
    let gate = Gate::new();
    let wrong = bytes(BLOB_BYTES + 1);
    let (first, rest) = (wrong.slice(1..1001), wrong.slice(1001..));
    let pieces = vec![
        Piece::Bytes(first),
        Piece::Wait(gate.clone()),
        Piece::Bytes(rest),
    ];
    let script = BodyScript::new(Some(BLOB_BYTES as u64), pieces);
    mirror.one.once(Call::Blob, Act::Body(script));
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    gate.open();
    mirror.idle().await;
    let (received, error) = read_what_comes(served.value).await;
    assert!(matches!(error, Some(CacheError::Mismatch(_))), "{error:?}");
    assert_eq!(received.len(), 0);
}

/// I2 holds for limits that make no sense, too.
#[tokio::test]
async fn at_least_one_byte_is_held_back() {
    let limits = Limits {
        held_back_bytes: 0,
        chunk_bytes: 0,
        fills_max: usize::MAX,
        bypasses_max: usize::MAX,
        ..Limits::default()
    };
    let mirror = Mirror::with(UpstreamPolicy::default(), limits);
    let content = bytes(1000);
    let digest = mirror.one.add_blob(&repository(), content.clone());
    let mut wrong = content.to_vec();
    wrong[999] ^= 1;
    // All bytes are there, and the body has not ended, so that nothing is known of them yet.
    let gate = Gate::new();
    let pieces = vec![Piece::Bytes(wrong.into()), Piece::Wait(gate.clone())];
    let script = BodyScript::new(Some(1000), pieces);
    mirror.one.once(Call::Blob, Act::Body(script));
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    let ((received, error), ()) = tokio::join!(read_what_comes(served.value), async {
        // Long enough to read what can be read: a byte at a time, and 128 of them in a turn.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        gate.open();
    });
    assert!(error.is_some());
    assert!(received == content[..999], "{} bytes", received.len());
    mirror.idle().await;
    let served = mirror.blob(&one(), digest, None).await.unwrap();
    assert!(read(served.value).await.unwrap() == content);
}

/// I8: fills at a time, fills that wait, and questions have their limits.
#[tokio::test(start_paused = true)]
async fn what_is_under_way_is_bounded() {
    let limits = Limits {
        fills_max: 1,
        fills_waiting_max: 1,
        flights_max: 1,
        ..Limits::default()
    };
    let mirror = Mirror::with(UpstreamPolicy::default(), limits.clone());
    let held = push(&mirror.one, "a", "held");
    mirror.get("held").await.unwrap();
    let silent = BodyScript::new(Some(1), vec![Piece::Hang]);
    mirror.one.always(Call::Blob, Act::Body(silent));
    let blobs: Vec<_> = (1..4)
        .map(|len| mirror.one.add_blob(&repository(), bytes(len)))
        .collect();
    let origin = one();
    let mut first = Box::pin(mirror.blob(&origin, blobs[0], None));
    let mut second = Box::pin(mirror.blob(&origin, blobs[1], None));
    assert!(futures::poll!(&mut first).is_pending());
    tokio::task::yield_now().await;
    assert!(futures::poll!(&mut second).is_pending());
    let asked = tokio::time::Instant::now();
    let refused = mirror.blob(&origin, blobs[2], None).await;
    assert_eq!(asked.elapsed(), Duration::ZERO, "it waits for no turn");
    assert!(
        matches!(refused, Err(CacheError::Overloaded)),
        "{refused:?}"
    );
    let waited = second.await;
    assert!(matches!(waited, Err(CacheError::Overloaded)), "{waited:?}");
    assert_eq!(mirror.one.calls().blob, 1);
    first.await.unwrap_err();

    mirror.one.always(Call::Resolve, Act::Hang);
    let mut asked = Box::pin(mirror.get("one"));
    assert!(futures::poll!(&mut asked).is_pending());
    let refused = mirror.get("other").await;
    assert!(
        matches!(refused, Err(CacheError::Overloaded)),
        "{refused:?}"
    );
    let stale = mirror.get("held").await.unwrap();
    assert_eq!(
        (stale.value, stale.status),
        (held, CacheStatus::Stale(StaleReason::Unavailable))
    );
}

#[tokio::test(start_paused = true)]
async fn closing_ends_a_question_that_is_not_answered() {
    let mirror = Mirror::new();
    mirror.one.always(Call::Resolve, Act::Hang);
    let started = tokio::time::Instant::now();
    let (asked, ()) = tokio::join!(
        mirror.get("latest"),
        mirror.cache.close(Duration::from_secs(5))
    );
    assert!(matches!(asked, Err(CacheError::Closed)), "{asked:?}");
    assert_eq!(started.elapsed(), Duration::from_secs(5));
}

/// A cache that has closed in time asks no more than one that had to be ended.
#[tokio::test]
async fn a_closed_cache_asks_nothing() {
    let mirror = Mirror::new();
    let pushed = push(&mirror.one, "a", "latest");
    mirror.get("latest").await.unwrap();
    let before = mirror.one.calls();
    mirror.cache.close(Duration::from_secs(1)).await;
    let served = mirror.get("latest").await.unwrap();
    assert_eq!(
        (served.value, served.status),
        (pushed, CacheStatus::Stale(StaleReason::Unavailable))
    );
    let unseen = mirror.get("unseen").await;
    assert!(matches!(unseen, Err(CacheError::Closed)), "{unseen:?}");
    assert_eq!(mirror.one.calls(), before);
}

/// A runtime that is shut down drops new tasks on the spot, under the feet of who began them.
#[test]
fn a_question_to_a_runtime_that_is_gone_is_lost_and_hangs_nobody() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let handle = runtime.handle().clone();
    drop(runtime);
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let _entered = handle.enter();
        let mirror = Mirror::new();
        let mut question = Box::pin(mirror.get("latest"));
        let polled = question.poll_unpin(&mut Context::from_waker(Waker::noop()));
        let is_lost = matches!(polled, Poll::Ready(Err(CacheError::Lost)));
        tell.send(is_lost).unwrap();
    });
    let is_lost = told.recv_timeout(Duration::from_secs(10));
    assert!(is_lost.expect("it hangs"));
}
