//! Which bytes of a blob are held, and which somebody is fetching. Pure.
//!
//! Every offset has one owner: whoever wants to write claims a span that nobody has, and what was
//! written is held from then on. So no byte is written twice, and what is hashed is what stays.

use std::collections::BTreeMap;

use crate::ByteRange;

/// A set of offsets, as few spans as can be: none is empty, none touches another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Extents {
    /// The end of each, by its start.
    spans: BTreeMap<u64, u64>,
}

impl Extents {
    fn insert(&mut self, span: ByteRange) {
        if span.is_empty() {
            return;
        }
        let (mut start, mut end) = (span.start(), span.end());
        while let Some((&other_start, &other_end)) = self.spans.range(..=end).next_back()
            && other_end >= start
        {
            self.spans.remove(&other_start);
            start = start.min(other_start);
            end = end.max(other_end);
        }
        self.spans.insert(start, end);
    }

    fn remove(&mut self, span: ByteRange) {
        if span.is_empty() {
            return;
        }
        while let Some((&start, &end)) = self.spans.range(..span.end()).next_back()
            && end > span.start()
        {
            self.spans.remove(&start);
            if start < span.start() {
                self.spans.insert(start, span.start());
            }
            if end > span.end() {
                self.spans.insert(span.end(), end);
            }
        }
    }

    /// The end of the span that `offset` is in.
    fn end_at(&self, offset: u64) -> Option<u64> {
        let (_, &end) = self.spans.range(..=offset).next_back()?;
        (end > offset).then_some(end)
    }

    /// The start of the first span past `offset`.
    fn next_start(&self, offset: u64) -> Option<u64> {
        self.spans.range(offset..).next().map(|(&start, _)| start)
    }

    /// The end of the last span.
    fn end(&self) -> u64 {
        self.spans.last_key_value().map_or(0, |(_, &end)| end)
    }
}

/// What is at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// Bytes that can be read, up to this offset.
    Held(u64),
    /// Bytes that somebody is fetching.
    Claimed,
    /// Nothing, up to this offset; to the end of the blob where there is none.
    Free(Option<u64>),
}

/// The bytes of a blob that are taken: held, or claimed by whoever fetches them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Coverage {
    held: Extents,
    /// The held ones and the claimed ones.
    taken: Extents,
}

impl Coverage {
    pub(super) fn at(&self, offset: u64) -> At {
        match (self.held.end_at(offset), self.taken.end_at(offset)) {
            (Some(end), _) => At::Held(end),
            (None, Some(_)) => At::Claimed,
            (None, None) => At::Free(self.taken.next_start(offset)),
        }
    }

    /// Takes the bytes at the start of `wish`, as many of them as nobody has taken yet.
    pub(super) fn claim(&mut self, wish: ByteRange) -> Option<ByteRange> {
        let At::Free(next) = self.at(wish.start()) else {
            return None;
        };
        let end = next.map_or(wish.end(), |next| next.min(wish.end()));
        let claim = ByteRange::new(wish.start(), end).filter(|claim| !claim.is_empty())?;
        self.taken.insert(claim);
        Some(claim)
    }

    /// Bytes were written.
    pub(super) fn hold(&mut self, span: ByteRange) {
        self.taken.insert(span);
        self.held.insert(span);
    }

    /// Claimed bytes are fetched no longer.
    pub(super) fn release(&mut self, span: ByteRange) {
        self.taken.remove(span);
    }

    /// The end of what is taken at `offset` without a gap; `offset` where nothing is.
    pub(super) fn run_end(&self, offset: u64) -> u64 {
        self.taken.end_at(offset).unwrap_or(offset)
    }

    /// Where the first run of at least `len_min` bytes begins past `offset`.
    pub(super) fn long_run_past(&self, offset: u64, len_min: u64) -> Option<u64> {
        let mut runs = self.taken.spans.range(offset..);
        let long = runs.find(|&(start, end)| end - start >= len_min);
        long.map(|(&start, _)| start)
    }

    /// The end of what is held.
    pub(super) fn held_end(&self) -> u64 {
        self.held.end()
    }

    /// In how many pieces it is.
    pub(super) fn pieces(&self) -> usize {
        self.held.spans.len().max(self.taken.spans.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Offsets are small, so that everything meets everything.
    const SPACE: u64 = 48;

    fn span(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end).unwrap()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Claim(ByteRange),
        /// Of the claim of this number: this many of its bytes are written.
        Write(usize, u64),
        /// The claim of this number is given up.
        Release(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let any_span =
            (0..SPACE, 1..=SPACE).prop_map(|(start, len)| span(start, (start + len).min(SPACE)));
        prop_oneof![
            3 => any_span.prop_map(Step::Claim),
            3 => (0..8_usize, 0..SPACE).prop_map(|(claim, len)| Step::Write(claim, len)),
            1 => (0..8_usize).prop_map(Step::Release),
        ]
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Byte {
        Free,
        Claimed,
        Held,
    }

    /// What a byte-by-byte model says of an offset.
    fn at(model: &[Byte], offset: u64) -> At {
        let from = offset as usize;
        let rest = &model[from..];
        let until = |is: fn(Byte) -> bool| rest.iter().position(|byte| !is(*byte));
        let past = |len: Option<usize>| len.map(|len| offset + len as u64);
        match rest.first() {
            Some(Byte::Held) => {
                let end = past(until(|byte| byte == Byte::Held));
                At::Held(end.unwrap_or(SPACE))
            }
            Some(Byte::Claimed) => At::Claimed,
            _ => At::Free(past(until(|byte| byte == Byte::Free))),
        }
    }

    fn runs(model: &[Byte], is: fn(Byte) -> bool) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (offset, _) in model.iter().enumerate().filter(|(_, byte)| is(**byte)) {
            let offset = offset as u64;
            match runs.last_mut() {
                Some((_, end)) if *end == offset => *end += 1,
                _ => runs.push((offset, offset + 1)),
            }
        }
        runs
    }

    proptest! {
        /// Against a byte-by-byte model: every offset has one owner, and every question its answer.
        #[test]
        fn every_offset_has_one_owner(steps in prop::collection::vec(step(), 0..60)) {
            let mut coverage = Coverage::default();
            let mut model = vec![Byte::Free; SPACE as usize];
            let mut claims: Vec<ByteRange> = Vec::new();
            for step in steps {
                match step {
                    Step::Claim(wish) => {
                        let free = model[wish.start() as usize..wish.end() as usize]
                            .iter()
                            .take_while(|byte| **byte == Byte::Free)
                            .count() as u64;
                        let expected = (free > 0).then(|| span(wish.start(), wish.start() + free));
                        prop_assert_eq!(coverage.claim(wish), expected);
                        if let Some(claim) = expected {
                            model[claim.start() as usize..claim.end() as usize].fill(Byte::Claimed);
                            claims.push(claim);
                        }
                    }
                    Step::Write(claim, len) if claim < claims.len() => {
                        let claim = &mut claims[claim];
                        let middle = (claim.start() + len).min(claim.end());
                        coverage.hold(span(claim.start(), middle));
                        model[claim.start() as usize..middle as usize].fill(Byte::Held);
                        *claim = span(middle, claim.end());
                    }
                    Step::Release(claim) if claim < claims.len() => {
                        let claim = claims.swap_remove(claim);
                        coverage.release(claim);
                        model[claim.start() as usize..claim.end() as usize].fill(Byte::Free);
                    }
                    Step::Write(..) | Step::Release(_) => {}
                }
                let (held, taken) = (
                    runs(&model, |byte| byte == Byte::Held),
                    runs(&model, |byte| byte != Byte::Free),
                );
                prop_assert_eq!(coverage.pieces(), held.len().max(taken.len()));
                prop_assert_eq!(coverage.held_end(), held.last().map_or(0, |(_, end)| *end));
                for offset in 0..SPACE {
                    prop_assert_eq!(coverage.at(offset), at(&model, offset), "at {}", offset);
                    let run = taken.iter().find(|(start, end)| (start..end).contains(&&offset));
                    prop_assert_eq!(coverage.run_end(offset), run.map_or(offset, |(_, end)| *end));
                    let long = taken.iter().find(|(start, end)| *start >= offset && end - start >= 5);
                    prop_assert_eq!(coverage.long_run_past(offset, 5), long.map(|(start, _)| *start));
                }
            }
        }
    }
}
