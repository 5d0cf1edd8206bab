//! A registry of images that are computed and not stored, and that costs next to nothing to pull
//! from: gigabytes of it fit into a test.

use std::collections::HashMap;
use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{self, StreamExt as _};
use registry_core::testing::content::sample;
use registry_core::{
    Algorithm, Answered, Asked, Caller, Condition, Descriptor, Digest, FetchedTags, Hasher,
    Manifest, MediaType, RangeRequest, Reference, Referrers, Repository, Resolution, Tag, TagPage,
    Upstream, UpstreamBlob, UpstreamError, Validator,
};

/// Bytes of a blob that are sent at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes that blobs begin with, and that tell one from the other.
const HEAD_BYTES: usize = 64;

/// Numbers that look random, and are the same in every run.
#[derive(Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn roll(&mut self) -> u64 {
        // Xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }

    /// At least 0 and below 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// One part of an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// An image of one platform: its manifest, and the blobs that it names.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) tag: Tag,
    pub(crate) manifest: Part,
    pub(crate) blobs: Vec<Part>,
}

/// The images, and the upstream that they are pulled from.
pub(crate) struct Catalog {
    pub(crate) images: Vec<Image>,
    manifests: HashMap<Digest, Manifest>,
    tags: HashMap<Tag, Digest>,
    blobs: HashMap<Digest, Content>,
    /// What every blob is made of after its head.
    filling: Bytes,
    bytes_sent: Mutex<u64>,
}

#[derive(Clone, Copy)]
struct Content {
    seed: u64,
    size: u64,
}

impl Catalog {
    /// `count` images: each has a configuration, a base that it may share with others, and layers
    /// of its own.
    pub(crate) fn new(count: u64, dice: &mut Dice) -> Self {
        let mut catalog = Self {
            images: Vec::new(),
            manifests: HashMap::new(),
            tags: HashMap::new(),
            blobs: HashMap::new(),
            filling: sample(16 << 20, 1),
            bytes_sent: Mutex::default(),
        };
        let bases: Vec<Part> = (0..count / 20 + 1)
            .map(|seed| catalog.add_blob(seed, (2 << 20) + dice.below(14 << 20)))
            .collect();
        for number in 0..count {
            let seed = 1_000 * (number + 1);
            let config = catalog.add_blob(seed, 1_000 + dice.below(9_000));
            let mut blobs = vec![config, bases[dice.below(bases.len() as u64) as usize]];
            for layer in 0..1 + dice.below(5) {
                // From 16 KiB to 16 MiB, as many small ones as large.
                let size = (16 << 10) as f64 * (1_024_f64).powf(dice.fraction());
                blobs.push(catalog.add_blob(seed + 1 + layer, size as u64));
            }
            catalog.add_image(number, blobs);
        }
        catalog
    }

    fn add_blob(&mut self, seed: u64, size: u64) -> Part {
        let content = Content { seed, size };
        let mut hasher = Hasher::new(Algorithm::Sha256);
        for chunk in self.chunks(content, 0) {
            hasher.update(&chunk);
        }
        let digest = hasher.digest();
        self.blobs.insert(digest, content);
        Part { digest, size }
    }

    fn add_image(&mut self, number: u64, blobs: Vec<Part>) {
        let descriptor = |part: &Part| {
            let Part { digest, size } = part;
            format!(
                r#"{{"mediaType":"application/octet-stream","digest":"{digest}","size":{size}}}"#
            )
        };
        let layers: Vec<String> = blobs[1..].iter().map(descriptor).collect();
        let json = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
            MediaType::OCI_MANIFEST,
            descriptor(&blobs[0]),
            layers.join(",")
        );
        let manifest = Manifest::of_bytes(None, json.into()).unwrap();
        let tag = Tag::parse(&format!("v{number}")).unwrap();
        let Descriptor { digest, size, .. } = *manifest.descriptor();
        self.tags.insert(tag.clone(), digest);
        self.manifests.insert(digest, manifest);
        self.images.push(Image {
            tag,
            manifest: Part { digest, size },
            blobs,
        });
    }

    /// Which image the next pull is of: the number n is asked for in proportion to
    /// 1 / (n + 1)^`exponent`.
    pub(crate) fn zipf(&self, exponent: f64) -> Zipf {
        let mut sum = 0.0;
        let weights = (1..=self.images.len()).map(|n| (n as f64).powf(-exponent));
        let cumulative = weights.map(|weight| {
            sum += weight;
            sum
        });
        Zipf(cumulative.collect())
    }

    /// Holds what was read of a blob, from its first byte on, against what it is.
    pub(crate) fn assert_begins_with(&self, digest: Digest, mut bytes: &[u8]) {
        for chunk in self.chunks(self.blobs[&digest], 0) {
            let len = chunk.len().min(bytes.len());
            let (read, rest) = bytes.split_at(len);
            assert!(read == &chunk[..len], "{digest} is served with other bytes");
            bytes = rest;
        }
        assert!(
            bytes.is_empty(),
            "{digest} is served with more bytes than it has"
        );
    }

    pub(crate) fn bytes_sent(&self) -> u64 {
        *self.bytes_sent.lock().unwrap()
    }

    /// The bytes of a blob from an offset on.
    fn chunks(&self, content: Content, from: u64) -> impl Iterator<Item = Bytes> + use<> {
        let (filling, Content { seed, size }) = (self.filling.clone(), content);
        let mut at = from;
        std::iter::from_fn(move || {
            let start = usize::try_from(at).unwrap();
            let len = usize::try_from(size - at).unwrap().min(CHUNK_BYTES);
            at += len as u64;
            let mut chunk = filling.slice(start..start + len);
            if start < HEAD_BYTES {
                let head = sample(HEAD_BYTES, seed ^ 0x5eed);
                let mut bytes = BytesMut::from(&chunk[..]);
                let end = HEAD_BYTES.min(start + len);
                bytes[..end - start].copy_from_slice(&head[start..end]);
                chunk = bytes.freeze();
            }
            (len > 0).then_some(chunk)
        })
    }
}

/// The popularity of images.
pub(crate) struct Zipf(Vec<f64>);

impl Zipf {
    pub(crate) fn next(&self, dice: &mut Dice) -> usize {
        let at = dice.fraction() * self.0.last().unwrap();
        self.0.partition_point(|sum| *sum <= at)
    }
}

impl Upstream for Catalog {
    fn resolve<'a>(
        &'a self,
        _: &'a Repository,
        tag: &'a Tag,
        prior: Option<Digest>,
        _: &'a Caller,
    ) -> BoxFuture<'a, Result<Answered<Resolution>, UpstreamError>> {
        let digest = self.tags[tag];
        let resolution = if prior == Some(digest) {
            Resolution::Unchanged
        } else {
            Resolution::Names(self.manifests[&digest].descriptor().clone())
        };
        async { Ok(Answered::new(resolution)) }.boxed()
    }

    fn manifest<'a>(
        &'a self,
        _: &'a Repository,
        reference: &'a Reference,
        _: &'a Caller,
    ) -> BoxFuture<'a, Result<Option<Answered<Manifest>>, UpstreamError>> {
        let digest = match reference {
            Reference::Tag(tag) => self.tags[tag],
            Reference::Digest(digest) => *digest,
        };
        let manifest = self.manifests.get(&digest).cloned();
        async { Ok(manifest.map(Answered::new)) }.boxed()
    }

    fn has_manifest<'a>(
        &'a self,
        _: &'a Repository,
        digest: Digest,
        _: &'a Caller,
    ) -> BoxFuture<'a, Result<bool, UpstreamError>> {
        async move { Ok(self.manifests.contains_key(&digest)) }.boxed()
    }

    fn stat_blob<'a>(
        &'a self,
        _: &'a Repository,
        digest: Digest,
        _: &'a Caller,
    ) -> BoxFuture<'a, Result<Option<Option<u64>>, UpstreamError>> {
        async move { Ok(self.blobs.get(&digest).map(|blob| Some(blob.size))) }.boxed()
    }

    fn blob<'a>(
        &'a self,
        _: &'a Repository,
        digest: Digest,
        range: Option<RangeRequest>,
        _: Option<&'a Validator>,
        _: &'a Caller,
    ) -> BoxFuture<'a, Result<Option<UpstreamBlob>, UpstreamError>> {
        async move {
            let Some(content) = self.blobs.get(&digest).copied() else {
                return Ok(None);
            };
            assert!(range.is_none(), "nobody here asks for a part");
            *self.bytes_sent.lock().unwrap() += content.size;
            Ok(Some(UpstreamBlob {
                size: Some(content.size),
                start: 0,
                validator: None,
                endpoint: None,
                stream: stream::iter(self.chunks(content, 0).map(Ok)).boxed(),
            }))
        }
        .boxed()
    }

    fn tags<'a>(
        &'a self,
        _: &'a Repository,
        _: TagPage<'a>,
        _: &'a Caller,
    ) -> BoxFuture<'a, Result<Option<FetchedTags>, UpstreamError>> {
        async { Ok(None) }.boxed()
    }

    fn referrers<'a>(
        &'a self,
        _: &'a Repository,
        _: Digest,
        _: &'a Caller,
    ) -> BoxFuture<'a, Result<Option<Referrers>, UpstreamError>> {
        async { Ok(None) }.boxed()
    }

    fn condition(&self, _: &Repository, _: Asked) -> Condition {
        Condition::Ready
    }
}
