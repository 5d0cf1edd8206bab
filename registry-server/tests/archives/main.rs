//! Archives of images, without HTTP: what is exported, what is imported, and what is refused. The
//! API and real programs have tests of their own.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod api;
mod hostile;
mod import;
mod round_trip;
mod support;
