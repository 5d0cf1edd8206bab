//! The limits of the admin API (I8).

use std::time::Duration;

/// Bytes of a JSON document that a request brings.
pub(super) const DOCUMENT_BYTES_MAX: usize = 1 << 20;
/// How long such a document is waited for.
pub(super) const DOCUMENT_WAIT_MAX: Duration = Duration::from_secs(10);
/// Entries in one page, where a request does not say how many.
pub(super) const PAGE_ENTRIES: usize = 100;
/// Entries in one page at the most.
pub(super) const PAGE_ENTRIES_MAX: usize = 500;
/// Repositories that one page of the images of all of them looks into at the most.
pub(super) const PAGE_REPOSITORIES_MAX: usize = 200;
/// Jobs that wait for their turn.
pub(super) const JOBS_QUEUED_MAX: usize = 32;
/// Jobs that have ended and are still told of.
pub(super) const JOBS_ENDED_MAX: usize = 64;
/// Lines of a job's report, and of its failures.
pub(super) const JOB_LINES_MAX: usize = 1000;
/// Those of them that are told where many jobs are.
pub(super) const JOB_LINES_LISTED_MAX: usize = 10;
/// Bytes of one such line.
pub(super) const JOB_LINE_BYTES_MAX: usize = 500;
/// How long a job may go on that was told to end.
pub(super) const JOB_CANCEL_MAX: Duration = Duration::from_secs(5);
/// Images of one job.
pub(super) const WARM_IMAGES_MAX: usize = 1000;
/// Platforms of one job.
pub(super) const WARM_PLATFORMS_MAX: usize = 32;
/// How long the next bytes of an archive are waited for.
pub(super) const ARCHIVE_IDLE_MAX: Duration = Duration::from_secs(60);
/// When one is asked to come back who asked for more than there is room for.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Bytes of the token's file.
pub(super) const TOKEN_FILE_BYTES_MAX: u64 = 4 << 10;
/// Characters that a token has at least: fewer can be guessed.
pub(super) const TOKEN_CHARS_MIN: usize = 16;
/// How often it is logged at most that somebody was refused.
pub(super) const REFUSALS_REST: Duration = Duration::from_secs(60);
