//! A long trace of pulls, as popular images are pulled: how much of it is served from what is kept.

use std::collections::BTreeMap;

use super::*;

/// Images, of which every third shares a base.
const IMAGES: usize = 120;
const PULLS: usize = 2_500;

/// What is asked for: objects in the order of their last use, as an ideal cache of objects keeps
/// them, which evicts the one object that was used longest ago.
struct Ideal {
    limit: u64,
    bytes: u64,
    clock: u64,
    used: BTreeMap<u64, Digest>,
    objects: BTreeMap<Digest, (u64, u64)>,
    hits: u64,
    asked: u64,
}

impl Ideal {
    fn new(limit: u64) -> Self {
        Self {
            limit,
            bytes: 0,
            clock: 0,
            used: BTreeMap::new(),
            objects: BTreeMap::new(),
            hits: 0,
            asked: 0,
        }
    }

    fn get(&mut self, digest: Digest, bytes: u64) {
        self.clock += 1;
        self.asked += 1;
        match self.objects.insert(digest, (self.clock, bytes)) {
            Some((before, _)) => {
                self.hits += 1;
                self.used.remove(&before);
            }
            None => self.bytes += bytes,
        }
        self.used.insert(self.clock, digest);
        while self.bytes > self.limit {
            let (_, coldest) = self.used.pop_first().expect("there is something");
            let (_, bytes) = self.objects.remove(&coldest).expect("it is here");
            self.bytes -= bytes;
        }
    }

    fn ratio(&self) -> f64 {
        self.hits as f64 / self.asked as f64
    }
}

/// Picks images by Zipf's law.
struct Zipf {
    cumulated: Vec<f64>,
    state: u64,
}

impl Zipf {
    fn new(of: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let weights = (1..=of).map(|rank| (rank as f64).powf(-exponent));
        let cumulated = weights
            .map(|weight| {
                sum += weight;
                sum
            })
            .collect();
        Self {
            cumulated,
            state: 0x2545_f491_4f6c_dd1d,
        }
    }

    fn pick(&mut self) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let total = self.cumulated.last().expect("there is one");
        let point = (self.state >> 11) as f64 / (1_u64 << 53) as f64 * total;
        let rank = self.cumulated.partition_point(|sum| *sum < point);
        // Popularity has nothing to do with the order that they were made in.
        rank.min(self.cumulated.len() - 1) * 53 % IMAGES
    }
}

/// The share of all requests that is answered from what is kept is that of an ideal cache, but for
/// 2 in 100.
#[tokio::test(start_paused = true)]
async fn the_hit_ratio_is_that_of_an_ideal_cache() {
    for (limit, exponent) in [(150_000, 0.9), (400_000, 0.9), (400_000, 0.6)] {
        let keeper = Setup {
            retention: Retention {
                bytes_max: Some(limit),
                ..Retention::default()
            },
            ..Setup::default()
        }
        .build();
        let bases: Vec<_> = (0..5).map(|n| sample(6_000, 10_000 + n)).collect();
        let images: Vec<_> = (0..IMAGES)
            .map(|n| {
                let seed = n as u64;
                let own = sample(1_000 + n * 7_919 % 17_000, seed);
                let small = sample(200, 1_000 + seed);
                let mut layers = vec![small, own];
                if n % 3 == 0 {
                    layers.push(bases[n % bases.len()].clone());
                }
                keeper.push(&app(), &format!("i{n}"), &layers)
            })
            .collect();
        let mut ideal = Ideal::new(limit);
        let mut zipf = Zipf::new(IMAGES, exponent);
        let (mut hits, mut asked) = (0_u64, 0_u64);
        for _ in 0..PULLS {
            let image = &images[zipf.pick()];
            let statuses = keeper.pull(image).await;
            asked += statuses.len() as u64;
            let is_hit = |status: &&CacheStatus| {
                matches!(status, CacheStatus::Hit | CacheStatus::Revalidated)
            };
            hits += statuses.iter().filter(is_hit).count() as u64;
            assert!(keeper.kept_bytes().await <= limit);
            ideal.get(image.digest(), image.size());
            for (n, layer) in image.layers.iter().enumerate() {
                ideal.get(image.layer(n), layer.len() as u64);
            }
        }
        let ratio = hits as f64 / asked as f64;
        assert_eq!(asked, ideal.asked);
        assert!(
            ratio >= ideal.ratio() - 0.02,
            "{ratio:.4} where {:.4} is ideal, with {limit} bytes",
            ideal.ratio()
        );
        keeper.kept(&images).await;
        assert_eq!(keeper.cache.refused_for_room(), 0);
    }
}
