//! For tests of whoever implements or embeds us (feature `testing`).
