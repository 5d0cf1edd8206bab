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
//! | `index/` | sled: rows of what is kept, of names for it, and of what follows from these (the keys are documented in `index/keys.rs`) |
//! | `blobs/sha256/ab/abcd…` | committed blobs |
//! | `manifests/sha256/ab/abcd…` | manifests: a line with the media type, then their bytes |
//! | `manifests/sha256/ab/abcd….origins` | the origins that the manifest is linked in, one a line |
//! | `pins` | the pins, one a line, with when each was made |
//! | `unsettled/sha256-abcd…` | empty: the files of this manifest and its row may not agree, should the process die now |
//! | `partial/sha256-abcd….x1Y2z3` | a blob being written, or left unfinished |
//! | `partial/sha256-abcd….x1Y2z3.checkpoint` | how many bytes of it a later sink may go on after |
//! | `partial/fill-…` | a small file on its way to its place; swept at start |
//! | `index.suspect` | there where damage to the index was met while it was in use |
//! | `index.damaged-…` | a damaged index that was set aside; the last two are kept |
//!
//! Nothing at start takes longer where more is stored, except a rebuild of the index, and once the
//! upgrade of a folder of an earlier version; what is in `partial/` and `unsettled/` is looked at,
//! file by file, and there are few.
//!
//! # The books
//!
//! What is kept has a row: what it takes in files, when it was last used, its place in the order of
//! units, where it came from. From these rows follow the order, the sums, and who names what; from
//! links and tags, where something is linked and tagged. What follows is written in one change with
//! what it follows from, so the two agree after any crash, and the sums are exact without a look at
//! everything (ADR 13).
//!
//! What a crash can part is files and rows. For blobs and manifests the tables below tell how that
//! is put right; the sums are then those of the files, to the byte. Where sled has to be opened anew
//! in the middle of its use, after a write to it had failed, it has lost what a crash would have
//! lost, and the same is put right before the next call begins. `remove_unused` looks and removes the
//! row under the lock under which manifests are admitted, so none that names the blob comes in
//! between:
//!
//! | Crash after | On the disk | The next start |
//! |---|---|---|
//! | `remove_unused`: the row, not flushed | file, row | as if it had not begun |
//! | … flushed, and further | as for a removal, below | the blob is absent |
//! | `forget`: removing the list of origins, synced | mark, rows | links as before; a loss of the index would lose them |
//! | … recording what the manifest takes now | mark, rows | the same |
//! | … removing rows, not flushed | mark, rows, or some of them | links of which some may be gone: one HEAD each |
//! | … flushed | no rows | forgotten |
//! | postponing, noting, an access, not flushed | the row as it was | the unit is where it was before |
//! | writing down a removal, not flushed | | it is not told |
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
//! Manifests are small enough to be hashed whenever they are read from the disk, so a file proves
//! itself: whatever a crash or a power cut leaves of it, it is whole or it is absent. That costs no
//! sync while an image is being pulled, and they survive the loss of the index with their media
//! types (I9, I10). Those asked for lately are kept in memory, verified.
//!
//! Their rows follow their files. Before either changes, a mark is made; it is removed when both are
//! on the disk, which is seen to in the background. A start makes the row of every manifest that is
//! marked what its files are:
//!
//! | Crash after | On the disk | The next start | The manifest is |
//! |---|---|---|---|
//! | marking | mark | removes the mark | absent |
//! | writing the file | mark, `partial/fill-…` | the same, and sweeps the file | absent |
//! | renaming the file | mark, file | writes the row | there |
//! | … and the power was cut | mark, perhaps the file, perhaps torn | writes the row, or removes what is torn | there or absent |
//! | recording the row | mark, file, perhaps the row | the same | there |
//! | listing an origin, withdrawing one | mark, file, row of before | corrects the row | there |
//! | removal: removing the row | mark, file, perhaps the row | writes the row again | there |
//! | removal: removing list and file | mark, perhaps the row | removes the row | absent |
//! | settling: syncing all of it | mark, and the two agree | removes the mark | as it was |
//!
//! A manifest that has a file and no row, because something else than this crate put it there, is
//! recorded when it is first asked for; one that has a row and no file is then forgotten.
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
//! last of them in the index only. It is removed before its manifest is, also where that is found
//! damaged; its links stand, and whoever keeps it again has the origins of these listed again.
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
//! its digest as before, there and nowhere else, without a word upstream. It is charged to the first
//! of its origins, and the time when its file was written stands for its last access. Lost are tags,
//! the journal, and the links that came without a manifest: those cost one HEAD each (I5). So
//! do links that were made before origins were listed. A list beside no sound manifest is removed.
//!
//! A folder of format 1 has an index without the books: they are made when it is opened, of its rows
//! and the files ([`Upgraded`]), for up to 15 seconds for each 100,000 blobs and links. Until all of them are there it
//! stays a folder of format 1, and the next start begins again.
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
//! as the disk does: so only what is surely in memory, manifests, links and tags that were asked for
//! lately, is told without a hop (ADR 20). It is taken out of memory where it is changed on the disk,
//! before whoever changes it is told so, and all of it where the index is opened anew.

mod accesses;
mod disk;
mod error;
mod folder;
mod format;
mod hot;
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
