//! Long work, watched until it ends.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use registry_server::api::{Job, JobRequest, JobState};
use tokio::signal::ctrl_c;
use tokio::time::{Instant, sleep};

use super::Session;
use super::failure::{Exit, Failure};
use super::jobs::{command, progress};
use super::line::Watching;
use super::screen::{BAD, BOLD, ODD, Screen, paint};

/// Between two looks at a job: often enough for a bar to move.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Between two lines where there is no terminal to draw on.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// Looks in a row that may fail: a mirror that is busy is not gone.
const LOOKS_FAILED_MAX: u32 = 25;

/// Begins work, and watches it unless told otherwise.
pub(super) async fn begin(
    session: &Session,
    request: &JobRequest,
    watching: Watching,
) -> Result<Exit, Failure> {
    let job: Job = session.client.post("jobs", request).await?;
    if watching.detach {
        session.screen.show(&job, |job| format!("{}\n", job.id))?;
        return Ok(Exit::Done);
    }
    follow(session, job).await
}

/// Watches a job until it ends, and shows what came of it.
pub(super) async fn follow(session: &Session, job: Job) -> Result<Exit, Failure> {
    let job = watch(session, job).await?;
    session.screen.show(&job, report)?;
    for failure in &job.failures {
        session.screen.complain(failure);
    }
    Ok(match job.state {
        JobState::Failed if has_done_some(&job) => Exit::Partly,
        JobState::Failed => Exit::Failed,
        JobState::Cancelled => Exit::Partly,
        _ => Exit::Done,
    })
}

/// Whether a job that has failed did a part of what it was asked.
fn has_done_some(job: &Job) -> bool {
    let failed = u64::try_from(job.failures.len()).unwrap_or(u64::MAX);
    job.progress.items_total.is_some_and(|total| failed < total)
}

fn report(job: &Job) -> String {
    let mut text: String = job.report.iter().map(|it| format!("{it}\n")).collect();
    let (name, id) = (command(job.kind), job.id);
    let end = match job.state {
        JobState::Cancelled => paint(ODD, format!("{name} was cancelled (job {id})")),
        JobState::Failed => paint(BAD, format!("{name} could not do all of it (job {id})")),
        _ if text.is_empty() => paint(BOLD, format!("{name} is done (job {id})")),
        _ => return text,
    };
    text.push_str(&end);
    text.push('\n');
    text
}

async fn watch(session: &Session, mut job: Job) -> Result<Job, Failure> {
    let mut display = Display::new(&session.screen, &job);
    let path = format!("jobs/{}", job.id);
    let mut failed = 0;
    let mut interrupted = false;
    while matches!(job.state, JobState::Queued | JobState::Running) {
        tokio::select! {
            () = sleep(LOOK_INTERVAL) => match session.client.get(&path, &[]).await {
                Ok(now) => {
                    job = now;
                    failed = 0;
                    display.draw(&job);
                }
                Err(Failure::Unreachable(_)) if failed < LOOKS_FAILED_MAX => failed += 1,
                Err(failure) => return Err(failure),
            },
            _ = ctrl_c() => {
                if interrupted {
                    display.clear();
                    let problem = format!("left job {} to itself", job.id);
                    return Err(Failure::Failed(problem));
                }
                interrupted = true;
                job = session.client.delete(&path, &[]).await?;
                display.say(&format!(
                    "job {} is told to end; Ctrl-C again leaves it to itself",
                    job.id
                ));
            }
        }
    }
    display.clear();
    Ok(job)
}

/// Shows how far a job has come: as a bar on a terminal, otherwise as lines from time to time.
struct Display<'s> {
    screen: &'s Screen,
    bar: ProgressBar,
    /// When the last line was written; without a terminal.
    said: Option<Instant>,
}

impl<'s> Display<'s> {
    fn new(screen: &'s Screen, job: &Job) -> Self {
        let is_terminal = io::stderr().is_terminal();
        let bar = match is_terminal {
            true => ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()),
            false => ProgressBar::hidden(),
        };
        let mut display = Self {
            screen,
            bar,
            said: (!is_terminal).then(Instant::now),
        };
        if !is_terminal {
            screen.remark(&format!("job {}: {}", job.id, job.what));
        }
        display.draw(job);
        display
    }

    fn draw(&mut self, job: &Job) {
        match &mut self.said {
            Some(said) if said.elapsed() >= LINE_INTERVAL => {
                *said = Instant::now();
                self.screen.remark(&line(job));
            }
            Some(_) => {}
            None => {
                let (position, length) = match (job.progress.bytes_total, job.progress.items_total)
                {
                    (Some(bytes), _) => (job.progress.bytes, Some(bytes)),
                    (None, items) => (job.progress.items, items),
                };
                self.bar.set_style(style(length.is_some()));
                self.bar.set_length(length.unwrap_or_default().max(1));
                self.bar.set_position(position);
                self.bar.set_message(line(job));
                self.bar.tick();
            }
        }
    }

    fn say(&self, text: &str) {
        self.bar.suspend(|| self.screen.remark(text));
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(is_measured: bool) -> ProgressStyle {
    let template = match is_measured {
        true => "{spinner} {bar:24} {wide_msg}",
        false => "{spinner} {wide_msg}",
    };
    ProgressStyle::with_template(template)
        .expect("the templates are right")
        .progress_chars("██░")
}

fn line(job: &Job) -> String {
    let what = job.progress.current.as_deref().unwrap_or(&job.what);
    match job.state {
        JobState::Queued => format!("job {} waits for its turn: {}", job.id, job.what),
        _ => format!("{}  {what}", progress(&job.progress)),
    }
}
