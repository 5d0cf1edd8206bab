//! A store in memory: the executable specification of the store contracts.

/// A store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {}
