//! Content for tests, and the shortest ways to put it into a store and to get it out again.
//!
//! Nothing here decides whether a store is right; it panics where one breaks its contract so
//! badly that a test could not go on.

use std::fmt;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;

use crate::{
    Algorithm, BlobBody, BlobPayload, BlobSink, BlobStore, Digest, FileSlice, Hasher, StoreError,
    Verified,
};

/// `len` bytes that no other `seed` gives, and that do not repeat within themselves: a shifted or
/// swapped part of them is never equal to the right one.
pub fn sample(len: usize, seed: u64) -> Bytes {
    // SplitMix64.
    let mut state = seed.wrapping_mul(0xd6e8_feb8_6659_fd93).wrapping_add(1);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

/// The SHA-256 digest of `bytes`.
pub fn digest_of(bytes: &[u8]) -> Digest {
    Hasher::digest_of(Algorithm::Sha256, bytes)
}

/// The proof that `bytes` were hashed.
///
/// # Panics
///
/// Never: bytes have the digest that they have.
pub fn verified(algorithm: Algorithm, bytes: &[u8]) -> Verified {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    let digest = Hasher::digest_of(algorithm, bytes);
    hasher.verify(digest).expect("it is their digest")
}

/// Stages `bytes`, commits them, and gives their SHA-256 digest.
///
/// # Errors
///
/// What the store gives.
pub async fn put_blob(store: &dyn BlobStore, bytes: &Bytes) -> Result<Digest, StoreError> {
    put_blob_as(store, Algorithm::Sha256, bytes).await
}

/// The same, under the digest of another algorithm.
///
/// # Errors
///
/// What the store gives.
pub async fn put_blob_as(
    store: &dyn BlobStore,
    algorithm: Algorithm,
    bytes: &Bytes,
) -> Result<Digest, StoreError> {
    let verified = verified(algorithm, bytes);
    let digest = verified.digest();
    let sink = stage_anew(store, digest, Some(bytes.len() as u64)).await?;
    sink.write_at(0, bytes.clone()).await?;
    sink.commit(verified).await?;
    Ok(digest)
}

/// Stages a sink without kept bytes: what earlier sinks of the digest left is thrown away.
///
/// # Errors
///
/// What the store gives.
pub async fn stage_anew(
    store: &dyn BlobStore,
    digest: Digest,
    size_hint: Option<u64>,
) -> Result<Arc<dyn BlobSink>, StoreError> {
    loop {
        let sink = store.stage(digest, size_hint).await?;
        if sink.kept() == 0 {
            return Ok(sink);
        }
        sink.discard();
    }
}

/// Every byte of a body's range.
///
/// # Panics
///
/// Where the body does not give exactly the bytes of its range.
pub async fn read_body<E: fmt::Debug>(body: BlobBody<E>) -> Bytes {
    let len = usize::try_from(body.range.len()).expect("a test's blob fits into memory");
    let bytes: Bytes = match body.payload {
        BlobPayload::File(file) => {
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, body.range.start())
                .expect("the file holds the bytes of the range");
            bytes.into()
        }
        BlobPayload::Slices(slices) => {
            let slices: Vec<FileSlice> = slices.try_collect().await.expect("the slices end well");
            let mut bytes = vec![0; len];
            let mut rest = &mut bytes[..];
            for FileSlice { file, range } in slices {
                let slice_len = usize::try_from(range.len()).expect("it is a part of the whole");
                assert_ne!(slice_len, 0, "no slice is empty");
                let (slice, after) = rest.split_at_mut(slice_len);
                file.read_exact_at(slice, range.start())
                    .expect("the file holds the bytes of the slice");
                rest = after;
            }
            assert!(rest.is_empty(), "the slices give the bytes of the range");
            bytes.into()
        }
        BlobPayload::Stream(stream) => {
            let chunks: Vec<Bytes> = stream.try_collect().await.expect("the stream ends well");
            chunks.concat().into()
        }
    };
    assert_eq!(bytes.len(), len, "a body gives the bytes of its range");
    bytes
}
