//! The embedded store: a sled index and content-addressed files, under the contracts of
//! `registry-core`. It knows paths, rows and how a disk fails; nothing of networks or of freshness.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use registry_core::Stores;
//! use registry_storage::DiskStore;
//!
//! let store = DiskStore::open("registry-data").await?;
//! let stores = Stores::of(Arc::new(store.clone()));
//! // … serve from `stores` …
//! store.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # A data folder
//!
//! | Path | What it is |
//! |---|---|
//! | `format` | the version of the folder, read before anything is opened; and its epoch, see below |
//! | `lock` | locked by the one process that owns the folder; holds its pid |
//! | `index/` | sled: rows of blobs, intents, tags, links, referrers, access times (the keys are documented in `index/keys.rs`) |
//! | `blobs/sha256/ab/abcd…` | committed blobs |
//! | `manifests/sha256/ab/abcd…` | manifests: a line with the media type, then their bytes |
//! | `manifests/sha256/ab/abcd….origins` | the origins that the manifest is linked in, one a line |
//! | `partial/sha256-abcd….x1Y2z3` | a blob being written, or left unfinished |
//! | `partial/sha256-abcd….x1Y2z3.checkpoint` | how many bytes of it a later sink may go on after |
//! | `partial/fill-…` | a small file on its way to its place; swept at start |
//! | `index.suspect` | there where damage to the index was met while it was in use |
//! | `index.damaged-…` | a damaged index that was set aside; the last two are kept |
//!
//! Nothing at start takes longer where more is stored, except a rebuild of the index; what is in
//! `partial/` is looked at, file by file, and there are few.
//!
//! # A blob's life, and what a crash leaves of it
//!
//! Before a file gets its place or loses it, an *intent* in the index says so. The intent, and not
//! the row, is what a commit flushes: from then on a crash leaves neither an orphan file that
//! nobody knows of, nor a blob that was committed and is gone. So a commit takes three syncs, one
//! of the file, one of the index (which commits at the same time share) and one of the folder, and
//! the row follows without one.
//!
//! | Crash after | On the disk | The next start | The blob is |
//! |---|---|---|---|
//! | staging, writing, syncing the file | partial file | keeps or sweeps it, see below | absent |
//! | flushing the intent | intent, partial file | the same, and drops the intent | absent |
//! | renaming the file | intent, file, perhaps a checkpoint | writes the row, if the file has the intent's size; sweeps the checkpoint | there |
//! | … and the power was cut | intent, file or partial file | as one of the two before | there or absent |
//! | syncing the folder | intent, file | writes the row | there |
//! | writing the row; removing the intent | file, and the row or the intent or both | writes the row, drops the intent | there |
//!
//! | Crash after | On the disk | The next start | The blob is |
//! |---|---|---|---|
//! | recording the removal, not flushed | file, row, perhaps the intent | drops the intent | there |
//! | flushing it: intent in, row out | intent, file | removes the file | absent |
//! | removing the file, syncing the folder | intent | drops the intent | absent |
//! | removing the intent | perhaps the intent | drops it | absent |
//!
//! So the file comes before its row and the row goes before its file (I6), and only a file that was
//! hashed whole ever gets a place (I1). An error rather than a crash undoes the steps before it.
//!
//! A blob is given out only where its file has the size of its row. One that does not, because
//! something else than this crate touched it, is forgotten, counted ([`DiskStore::forgotten`]) and
//! logged: a miss, which the next fill heals.
//!
//! # Unfinished blobs
//!
//! A sink that is dropped leaves its partial file to the next of the same digest, cut to what was
//! checkpointed, unless that is less than a MiB. How much that is is recorded beside the file, once
//! a MiB while it is written and when it is left, and never synced. Nobody takes these bytes for
//! right before all of the blob is hashed, so it is enough that they mostly are:
//!
//! | Crash after | On the disk | The next sink is given |
//! |---|---|---|
//! | writing, before anything was recorded | partial file, swept at start | nothing |
//! | recording a checkpoint | partial file, perhaps longer, and its checkpoint | the checkpoint |
//! | … and the power was cut | one or both of them, of any length, perhaps zeros | what there is of the checkpoint |
//! | cutting what was left | partial file of the checkpoint's length | the checkpoint |
//! | discarding | perhaps all of it | perhaps the checkpoint: it is discarded again |
//!
//! A partial file is handed on by the last one who might write to it: a write whose future was
//! dropped runs on, and holds it. One that could not be synced is removed, since the system takes
//! pages for written then that are not. The files are bounded in number, size and age, at start and
//! while the store is in use, and where space is short those that nobody writes are removed first.
//! Once a store is closed its sinks leave their files alone, which may be another process's by then.
//!
//! # Manifests
//!
//! Manifests have no row. They are small enough to be hashed whenever they are read from the disk,
//! so a file proves itself: whatever a crash or a power cut leaves of it, it is whole or it is
//! absent. That costs no sync while an image is being pulled, and they survive the loss of the
//! index with their media types (I9, I10). Those asked for lately are kept in memory, verified.
//!
//! # Links
//!
//! A link is a row: that is what grants access (I5). A manifest that is linked together with all
//! that it names, as each is that was pulled, has its origin listed beside its file too, so that a
//! rebuild can make those rows anew. A line follows its rows and goes before the row of the
//! manifest, so it never stands for what was not granted, or for what was removed:
//!
//! | Crash after | The link is, next | … and if the index is lost then |
//! |---|---|---|
//! | recording the rows, not flushed | absent: one HEAD | absent: one HEAD |
//! | recording the rows, flushed | there | absent: one HEAD |
//! | listing the origin | there, if the rows were flushed | there |
//! | … and the power was cut | there, if the rows were flushed | there, if the line was written |
//! | removal: taking the origin off the list, synced | there: the removal was not told | absent |
//! | removal: removing the row, flushed | absent | absent |
//!
//! So linking costs no sync, and is all or nothing; removing a link is durable when it returns.
//! Each line carries a proof that it is whole and of this manifest: one that is torn, damaged or
//! another's is skipped. A list is bounded: a manifest in more origins than some hundred has the
//! last of them in the index only. It is removed before its manifest is. A manifest that is found
//! damaged leaves it, since its links stand, and the fetch that heals it heals what they are worth.
//!
//! A link of its own that was removed, to a layer say, comes back in a rebuild where a manifest
//! that names it is linked there still: that alone grants it (I5), before the rebuild and after.
//! Whoever wants it gone removes the link of the manifest.
//!
//! # The index can be thrown away (I10)
//!
//! An index that cannot be opened, that panics, that has lost its first records (the version) or
//! its last ones (the *epoch*, counted up at each opening and closing in the index first and in
//! `format` then) is set aside, and a new one is made of the files: see [`Recovery`]. Files are not
//! hashed then, which could take hours, but each before it is first opened: what damaged the index
//! may have damaged them. Manifests that have origins listed are read, and verified; each is linked
//! in these again, and all that it names: so whatever was pulled through a manifest is served by
//! its digest as before, there and nowhere else, without a word upstream. Lost are tags, access
//! times, and the links that came without a manifest: those cost one HEAD each (I5). So do links
//! that were made before origins were listed: a folder without lists is as good as any, hence of
//! the same version. A list beside no sound manifest is removed.
//!
//! A blob whose row alone was lost is found by its file when it is asked for, and proven in the
//! same way.
//!
//! Whatever is no fault of the index (no space, no permission, too many open files) throws nothing
//! away: opening fails and says why. A write that fails while the store is in use, as on a full
//! disk, has sled refuse all writes; the index is then opened anew after some seconds, without a
//! restart.
//!
//! # Threads
//!
//! Every call that touches the disk or the index hops to a thread that may block, at most
//! [`DiskOptions::blocking_calls_max`] at a time. A row that is in memory takes about 1 µs and the
//! hop ten times that, but a row that is not takes 30 µs, and behind a busy disk it takes as long
//! as the disk does: so only what is surely in memory, a manifest asked for lately, is answered
//! without a hop.

mod accesses;
mod disk;
mod error;
mod folder;
mod format;
mod index;
mod layout;
mod lock;
mod options;
mod sink;
mod space;
mod spool;
mod step;
#[cfg(feature = "testing")]
pub mod testing;
mod upkeep;

pub use disk::DiskStore;
pub use error::OpenError;
pub use folder::{Rebuilt, Recovery, Upgraded};
pub use options::{DiskOptions, Reserve};
