//! What a cache that always evicts what was used longest ago would do with the same pulls: each
//! object by itself, on the dot, with no overhead.

use std::collections::{BTreeMap, HashMap};

use registry_core::Digest;

use crate::catalog::Part;

/// A cache of objects that knows nothing of images, watermarks or files.
pub(crate) struct IdealLru {
    bytes_max: u64,
    bytes: u64,
    turn: u64,
    by_digest: HashMap<Digest, (u64, u64)>,
    by_turn: BTreeMap<u64, Digest>,
}

impl IdealLru {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            turn: 0,
            by_digest: HashMap::new(),
            by_turn: BTreeMap::new(),
        }
    }

    /// Asks for an object; whether it was there.
    pub(crate) fn ask(&mut self, part: Part) -> bool {
        self.turn += 1;
        let former = self.by_digest.insert(part.digest, (self.turn, part.size));
        if let Some((turn, _)) = former {
            self.by_turn.remove(&turn);
        } else {
            self.bytes += part.size;
        }
        self.by_turn.insert(self.turn, part.digest);
        while self.bytes > self.bytes_max {
            let (_, digest) = self.by_turn.pop_first().unwrap();
            let (_, size) = self.by_digest.remove(&digest).unwrap();
            self.bytes -= size;
        }
        former.is_some()
    }
}
