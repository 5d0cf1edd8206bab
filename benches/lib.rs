//! Benchmarks, each named after the question it answers; what they share is in `setup.rs`.
