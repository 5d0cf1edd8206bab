//! The `registry-server` binary.

fn main() {}
