//! Everything at once, by chance: whatever upstreams, the store and clients do, no body is wrong
//! and whole, nobody waits for ever, and in the end the blob can be pulled.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use registry_core::testing::{Act, BodyScript, Call, ContentScript, Fault, Piece, StoreCall};
use registry_core::{
    BlobStore as _, CacheError, CacheStatus, Digest, Limits, Origin, RangeRequest, UpstreamError,
    UpstreamPolicy,
};
use tokio::time::{sleep, timeout};

use crate::support::{
    Mirror, bytes, image, one, read, read_what_comes, repository, tag, two, unavailable,
};

/// Runs of the test. Each is other chances.
const RUNS: u64 = 200;
/// Longer than all limits of time that a request can meet with, one after the other.
const FOR_EVER: Duration = Duration::from_secs(6 * 60 * 60);

/// Numbers that differ from step to step, and are the same in every run.
struct Chance(u64);

impl Chance {
    fn of(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn below(&mut self, bound: u64) -> u64 {
        // Xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound.max(1)
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn of_list<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize].clone()
    }

    fn limits(&mut self) -> Limits {
        Limits {
            range_ahead_bytes_max: self.of_list(&[0, 1, 10_000, 50_000]),
            segment_bytes_min: self.of_list(&[0, 1_000, 10_000]),
            segment_bytes_max: self.of_list(&[0, 7_000, 40_000]),
            jump_bytes_min: self.of_list(&[0, 1, 10_000, 30_000]),
            held_back_bytes: self.of_list(&[0, 1_000, 1 << 20]),
            chunk_bytes: self.of_list(&[999, 4_000]),
            pieces_max: self.of_list(&[1, 2, 1_024]),
            bypasses_max: self.of_list(&[1, 2, 256]),
            fills_max: self.of_list(&[1, 64]),
            resume_progress_bytes: self.of_list(&[1, 5_000]),
            ..Limits::default()
        }
    }

    fn error(&mut self) -> UpstreamError {
        match self.below(6) {
            0 => UpstreamError::Timeout { what: "go on" },
            1 => UpstreamError::RateLimited {
                retry_after: Some(Duration::from_secs(self.below(20))),
            },
            2 => UpstreamError::Protocol {
                what: "nonsense".to_owned(),
            },
            3 => UpstreamError::Unauthorized { status: 401 },
            _ => unavailable(),
        }
    }

    fn range(&mut self, size: u64) -> Option<RangeRequest> {
        let near = [0, 1, size / 2, size.saturating_sub(1), size, size + 1];
        let place = |chance: &mut Self| match chance.below(3) {
            0 => chance.of_list(&near),
            _ => chance.below(size + 2),
        };
        match self.below(5) {
            0 => None,
            1 => Some(RangeRequest::From { first: place(self) }),
            2 => Some(RangeRequest::Suffix {
                length: place(self),
            }),
            _ => {
                let first = place(self);
                Some(RangeRequest::FromTo {
                    first,
                    last: first + place(self),
                })
            }
        }
    }

    /// An answer that is no lie, though perhaps not all that was asked for.
    fn weakness(&mut self, size: u64) -> Act {
        match self.below(9) {
            0 => Act::Fail(self.error()),
            1 => Act::Hang,
            2 => Act::Absent,
            _ => {
                let after = self.below(size + 1);
                let piece = match self.below(12) {
                    0 => Piece::Hang,
                    1 => Piece::Bytes(Bytes::new()),
                    _ => Piece::Fail(self.error()),
                };
                Act::Content(ContentScript {
                    ignores_range: self.one_in(4),
                    hides_size: self.one_in(4),
                    entity_tag: self.one_in(4).then(|| "\"other\"".to_owned()),
                    before: if self.one_in(3) {
                        Vec::new()
                    } else {
                        vec![(after, piece)]
                    },
                    ends_after: self.one_in(4).then_some(after),
                })
            }
        }
    }

    fn lie(&mut self, content: &Bytes) -> Act {
        let size = content.len() as u64;
        let start = self.below(size + 1);
        let end = start + self.below(size - start + 3);
        let wrong = bytes(end as usize + 1).slice(1..).slice(start as usize..);
        let told = self.of_list(&[None, Some(size), Some(size + 1), Some(size / 2), Some(end)]);
        Act::Body(BodyScript {
            start: if self.one_in(2) { 0 } else { start },
            ..BodyScript::new(told, vec![Piece::Bytes(wrong)])
        })
    }
}

async fn leave(mirror: &Mirror, digest: Digest, beginning: Bytes) {
    let sink = mirror.store.inner().stage(digest, None).await.unwrap();
    let len = beginning.len() as u64;
    sink.write_at(0, beginning).await.unwrap();
    sink.checkpoint(len);
}

struct Run {
    mirror: Mirror,
    content: Bytes,
    digest: Digest,
    lies: bool,
    faults: bool,
    closes: bool,
}

impl Run {
    async fn of(chance: &mut Chance) -> Self {
        let mirror = Mirror::with(UpstreamPolicy::default(), chance.limits());
        let size = chance.of_list(&[0, 1, 999, 1_001, 60_000, 150_000]);
        let content = bytes(size as usize);
        let digest = mirror.one.add_blob(&repository(), content.clone());
        if !chance.one_in(4) {
            mirror.two.add_blob(&repository(), content.clone());
        }
        if chance.one_in(3) {
            let manifest = image("a", &[(digest, size as usize)]);
            let tag = tag("latest");
            mirror.one.set_tag(&repository(), &tag, manifest.digest());
            mirror.one.add_manifest(&repository(), manifest);
            mirror.get("latest").await.unwrap();
        }
        let (lies, faults, closes) = (chance.one_in(3), chance.one_in(3), chance.one_in(6));
        if chance.one_in(3) {
            let mut kept = content.slice(..chance.below(size + 1) as usize).to_vec();
            if lies && let Some(byte) = kept.last_mut() {
                *byte ^= 1;
            }
            leave(&mirror, digest, kept.into()).await;
        }
        for upstream in [&mirror.one, &mirror.two] {
            for _ in 0..chance.below(20) {
                let call = chance.of_list(&[Call::Blob, Call::BlobPart, Call::BlobPart]);
                let act = if lies && chance.one_in(3) {
                    chance.lie(&content)
                } else {
                    chance.weakness(size)
                };
                upstream.once(call, act);
            }
        }
        Self {
            mirror,
            content,
            digest,
            lies,
            faults,
            closes,
        }
    }

    async fn read(
        &self,
        name: &str,
        origin: &Origin,
        range: Option<RangeRequest>,
        leaves_after: Option<Duration>,
    ) {
        let reading = async {
            let served = match self.mirror.blob(origin, self.digest, range).await {
                Ok(served) => served.value,
                Err(_) => return,
            };
            let (size, range) = (served.size, served.range);
            let (received, error) = read_what_comes(served).await;
            assert!(received.len() as u64 <= range.len(), "{name}");
            if error.is_none() {
                assert_eq!(received.len() as u64, range.len(), "{name}");
            }
            let is_whole = range.start() == 0 && received.len() as u64 == size;
            if is_whole || !self.lies {
                let expected = &self.content[range.start() as usize..];
                assert!(expected.starts_with(&received), "{name}: wrong bytes");
                assert!(
                    !is_whole || size == 0 || error.is_none(),
                    "{name}: {error:?}"
                );
            }
        };
        match leaves_after {
            Some(after) => drop(timeout(after, reading).await),
            None => timeout(FOR_EVER, reading).await.expect(name),
        }
    }

    async fn disturb(&self, chance: &mut Chance) {
        use StoreCall::{Append, Commit, Linked, Open, ReadAt, Stage, Stat};
        let faults = self.mirror.store.faults();
        if self.faults {
            for _ in 0..chance.below(4) {
                let call = chance.of_list(&[Append, Commit, Linked, Open, ReadAt, Stage, Stat]);
                match chance.below(3) {
                    0 => faults.stall(call),
                    _ => faults.fail_nth(call, 1 + chance.below(20), Fault::Io),
                }
                sleep(Duration::from_millis(chance.below(20_000))).await;
            }
            faults.heal();
        }
        if self.closes {
            sleep(Duration::from_millis(chance.below(30_000))).await;
            let limit = Duration::from_millis(chance.below(30_000));
            let closed = timeout(FOR_EVER, self.mirror.cache.close(limit));
            closed.await.expect("closing ends");
        }
    }

    /// Whatever it was, it passes.
    async fn recovers(&self, name: &str) {
        for _ in 0..100 {
            let pull = async {
                let served = self.mirror.blob(&one(), self.digest, None).await?;
                let status = served.status;
                Ok::<_, CacheError>((read(served.value).await?, status))
            };
            let pulled = timeout(FOR_EVER, pull).await.expect(name);
            let over = timeout(FOR_EVER, self.mirror.over()).await;
            over.expect(name);
            self.mirror.clock.advance(Duration::from_secs(60));
            if let Ok((received, CacheStatus::Hit)) = pulled {
                assert!(received == self.content, "{name}");
                return;
            }
        }
        panic!("{name}: it cannot be pulled any more");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_no_body_is_wrong_and_whole_and_nobody_waits_for_ever() {
    for seed in 0..RUNS {
        let mut chance = Chance::of(seed);
        let run = Run::of(&mut chance).await;
        let mut readers = Vec::new();
        for number in 0..1 + chance.below(16) {
            let name = format!("run {seed}, reader {number}");
            let origin = if chance.one_in(4) { two() } else { one() };
            let range = chance.range(run.content.len() as u64);
            let begins = Duration::from_millis(chance.below(3_000) * chance.below(10));
            let leaves = chance
                .one_in(4)
                .then(|| Duration::from_millis(chance.below(3_000)));
            let run = &run;
            readers.push(async move {
                sleep(begins).await;
                run.read(&name, &origin, range, leaves).await;
            });
        }
        tokio::join!(join_all(readers), run.disturb(&mut chance));
        let name = format!("run {seed}");
        timeout(FOR_EVER, run.mirror.over()).await.expect(&name);
        if !run.faults {
            // The store in memory fails where a byte is written twice or read from a hole.
            assert_eq!(run.mirror.cache.store_failures(), 0, "{name}");
        }
        if !run.closes {
            run.recovers(&name).await;
        }
    }
}
