//! Bytes as they came, in order: pieces that nobody copies together.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes};

/// Bytes that follow each other. No piece is empty.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunks {
    pieces: VecDeque<Bytes>,
    bytes: u64,
}

impl Chunks {
    /// How many bytes there are.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// In how many pieces they are.
    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    pub(super) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len() as u64;
            self.pieces.push_back(piece);
        }
    }

    /// Lets go of the first `bytes` of them, or of all where there are fewer; how many those are.
    pub(super) fn pass(&mut self, bytes: u64) -> u64 {
        let passed = bytes.min(self.bytes);
        let mut left = passed;
        while let Some(first) = self.pieces.front_mut() {
            let len = first.len() as u64;
            if left < len {
                first.advance(usize::try_from(left).expect("less than a piece"));
                break;
            }
            left -= len;
            self.pieces.pop_front();
        }
        self.bytes -= passed;
        passed
    }

    /// The first `bytes` of them, or all where there are fewer.
    pub(super) fn first(&self, bytes: u64) -> Self {
        let mut first = Self::default();
        for piece in &self.pieces {
            let left = usize::try_from(bytes - first.bytes).unwrap_or(usize::MAX);
            if left == 0 {
                break;
            }
            first.push(piece.slice(..left.min(piece.len())));
        }
        first
    }

    /// The pieces, one after another.
    pub(super) fn to_vec(&self) -> Vec<Bytes> {
        self.pieces.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(chunks: &Chunks) -> Vec<u8> {
        chunks.to_vec().concat()
    }

    proptest! {
        /// Wherever they are cut, they are the bytes that came, and counted right.
        #[test]
        fn pieces_are_cut_as_the_whole_would_be(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5), 0..6),
            passed in 0..24_u64,
            first in 0..24_u64,
        ) {
            let mut chunks = Chunks::default();
            for piece in &pieces {
                chunks.push(Bytes::copy_from_slice(piece));
            }
            let mut whole = pieces.concat();
            prop_assert_eq!(chunks.bytes(), whole.len() as u64);
            let passed = whole.len().min(passed as usize);
            prop_assert_eq!(chunks.pass(passed as u64), passed as u64);
            whole.drain(..passed);
            prop_assert_eq!(text(&chunks), whole.clone());
            prop_assert_eq!(chunks.is_empty(), whole.is_empty());
            let cut = chunks.first(first);
            whole.truncate(first as usize);
            prop_assert_eq!(cut.bytes(), whole.len() as u64);
            prop_assert_eq!(text(&cut), whole);
            prop_assert!(cut.to_vec().iter().all(|piece| !piece.is_empty()));
            prop_assert!(chunks.pieces() <= pieces.len());
        }
    }
}
