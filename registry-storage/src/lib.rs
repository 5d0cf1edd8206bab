//! The embedded store: a sled index and content-addressed files.
