//! Examples, one task a file:
//!
//! - `embed_the_mirror`: the whole mirror inside a Rust program.
//! - `a_registry_to_try`: a registry with one image, to mirror and to switch off.
//! - `bring_your_own_store`: a store of your own, held against the conformance suite.
//! - `use_the_cache_without_http`: the cache alone, over an upstream of your own.
//!
//! `config/` has the files that point containerd, kind, k3s, Docker, Podman and CRI-O at a mirror.
