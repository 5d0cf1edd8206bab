//! `jobs`, `verify` and `gc`: long work, begun and looked after.

use bytesize::ByteSize;
use registry_server::api::{Job, JobKind, JobProgress, JobRequest, JobState, Page};

use super::Session;
use super::failure::{Exit, Failure};
use super::follow;
use super::line::{Gc, Verify};
use super::screen::{BAD, BOLD, GOOD, ODD, Screen, paint};
use super::table::{Side, Table};
use super::words::{NOTHING, ago, count, percent, size};

pub(super) async fn verify(session: &Session, verify: &Verify) -> Result<Exit, Failure> {
    let request = JobRequest::Verify {
        rate: verify.rate.map(|ByteSize(bytes)| bytes),
        image: verify.image.clone(),
    };
    follow::begin(session, &request, verify.watching).await
}

pub(super) async fn collect(session: &Session, gc: &Gc) -> Result<Exit, Failure> {
    let request = JobRequest::Collect {
        bytes: gc.to.map(|ByteSize(bytes)| bytes),
        dry_run: gc.dry_run,
    };
    follow::begin(session, &request, gc.watching).await
}

pub(super) async fn list(session: &Session) -> Result<Exit, Failure> {
    let screen = &session.screen;
    let jobs: Page<Job> = session.client.get("jobs", &[]).await?;
    screen.show(&jobs, |jobs| text(&jobs.items, screen))?;
    Ok(Exit::Done)
}

fn text(jobs: &[Job], screen: &Screen) -> String {
    if jobs.is_empty() {
        screen.remark("there are no jobs");
        return String::new();
    }
    table(jobs, screen)
}

/// Jobs as lines.
pub(super) fn table(jobs: &[Job], screen: &Screen) -> String {
    let mut table = Table::new([
        ("JOB", Side::Left),
        ("ID", Side::Right),
        ("STATE", Side::Left),
        ("DONE", Side::Left),
        ("BEGUN", Side::Right),
    ]);
    for job in jobs {
        table.row([
            job.what.clone(),
            job.id.to_string(),
            state(job.state),
            match job.ended_at {
                None => progress(&job.progress),
                Some(_) => made(&job.progress),
            },
            ago(job.started_at, screen.now()),
        ]);
    }
    table.render(screen.width())
}

pub(super) async fn watch(session: &Session, id: u64) -> Result<Exit, Failure> {
    let job = session.client.get(&format!("jobs/{id}"), &[]).await?;
    follow::follow(session, job).await
}

pub(super) async fn cancel(session: &Session, id: u64) -> Result<Exit, Failure> {
    let job: Job = session.client.delete(&format!("jobs/{id}"), &[]).await?;
    session.screen.show(&job, |job| match job.ended_at {
        Some(_) => format!("job {id} has ended: {}\n", state(job.state)),
        None => format!("job {id} is told to end\n"),
    })?;
    Ok(Exit::Done)
}

/// What a kind of work is called by who asks for it.
pub(super) fn command(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Warm => "warm",
        JobKind::Verify => "verify",
        JobKind::Collect => "gc",
    }
}

fn state(state: JobState) -> String {
    match state {
        JobState::Queued => "queued".to_owned(),
        JobState::Running => paint(BOLD, "running"),
        JobState::Done => paint(GOOD, "done"),
        JobState::Failed => paint(BAD, "failed"),
        JobState::Cancelled => paint(ODD, "cancelled"),
    }
}

/// What a job came to, in numbers.
fn made(progress: &JobProgress) -> String {
    match progress.bytes {
        0 => count(progress.items),
        bytes => format!("{}, {}", count(progress.items), size(bytes)),
    }
}

/// How far a job has come, in numbers.
pub(super) fn progress(progress: &JobProgress) -> String {
    let mut parts = Vec::new();
    match (progress.items, progress.items_total) {
        (0, None) => {}
        (items, None) => parts.push(count(items)),
        (items, Some(total)) => parts.push(format!("{} of {}", count(items), count(total))),
    }
    match (progress.bytes, progress.bytes_total) {
        (0, None | Some(0)) => {}
        (bytes, None) => parts.push(size(bytes)),
        (bytes, Some(total)) => {
            let part = percent(bytes, total).unwrap_or_else(|| NOTHING.to_owned());
            parts.push(format!("{} of {} ({part})", size(bytes), size(total)));
        }
    }
    match parts.is_empty() {
        true => NOTHING.to_owned(),
        false => parts.join(", "),
    }
}
