use std::future::pending;
use std::time::Duration;

use registry_core::testing::ManualClock;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use super::*;

fn jobs() -> Jobs {
    Jobs::new(Arc::new(ManualClock::default()))
}

/// A job that goes on until it is told to go on.
fn held(jobs: &Jobs, kind: JobKind) -> (u64, oneshot::Sender<()>) {
    let (release, released) = oneshot::channel::<()>();
    let job = jobs.start(kind, "wait".to_owned(), |_| async move {
        let _ = released.await;
    });
    (job.unwrap().id, release)
}

/// Lets all that can happen without time going on happen.
async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

fn state(jobs: &Jobs, id: u64) -> JobState {
    jobs.get(id).unwrap().state
}

#[tokio::test(start_paused = true)]
async fn one_of_a_kind_runs_at_a_time_in_the_order_asked_for() {
    let jobs = jobs();
    let (first, release) = held(&jobs, JobKind::Warm);
    let (second, release_second) = held(&jobs, JobKind::Warm);
    let (other, _keep) = held(&jobs, JobKind::Verify);
    settle().await;
    assert_eq!(state(&jobs, first), JobState::Running);
    assert_eq!(state(&jobs, second), JobState::Queued);
    assert_eq!(state(&jobs, other), JobState::Running);
    release.send(()).unwrap();
    settle().await;
    assert_eq!(state(&jobs, first), JobState::Done);
    assert_eq!(state(&jobs, second), JobState::Running);
    release_second.send(()).unwrap();
    settle().await;
    let listed: Vec<_> = jobs.list().iter().map(|job| job.id).collect();
    assert_eq!(listed, [other, second, first], "the latest first");
    let running: Vec<_> = jobs.running().iter().map(|job| job.id).collect();
    assert_eq!(running, [other]);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waits_is_cancelled_at_once_and_one_that_runs_when_it_ends() {
    let jobs = jobs();
    let (first, _keep) = held(&jobs, JobKind::Warm);
    let (second, _keep_too) = held(&jobs, JobKind::Warm);
    settle().await;
    assert_eq!(jobs.cancel(second).unwrap().state, JobState::Cancelled);
    assert_eq!(jobs.cancel(first).unwrap().state, JobState::Running);
    // It does not listen: it is given some time, and then dropped.
    settle().await;
    assert_eq!(state(&jobs, first), JobState::Running);
    sleep(limits::JOB_CANCEL_MAX + Duration::from_millis(1)).await;
    settle().await;
    assert_eq!(state(&jobs, first), JobState::Cancelled);
    assert!(jobs.cancel(first).is_err(), "it has ended");
    assert!(jobs.cancel(99).is_err(), "there is none");
    let (third, _keep) = held(&jobs, JobKind::Warm);
    settle().await;
    assert_eq!(
        state(&jobs, third),
        JobState::Running,
        "its turn was given back"
    );
}

#[tokio::test(start_paused = true)]
async fn failures_and_panics_are_told_and_end_only_that_job() {
    let jobs = jobs();
    let fails = jobs.start(JobKind::Warm, String::new(), |worker| async move {
        worker.notes.done("a".to_owned());
        worker.notes.failed("b".to_owned());
    });
    let panics = jobs.start(JobKind::Warm, String::new(), |_| async {
        panic!("as it must")
    });
    let succeeds = jobs.start(JobKind::Warm, String::new(), |worker| async move {
        worker.progress.update(|made| made.items = 7);
    });
    settle().await;
    let ended = |job: Result<Job, Refusal>| jobs.get(job.unwrap().id).unwrap();
    let fails = ended(fails);
    assert_eq!(fails.state, JobState::Failed);
    assert_eq!(
        (&fails.report[..], &fails.failures[..]),
        (&["a".to_owned()][..], &["b".to_owned()][..])
    );
    assert_eq!(ended(panics).state, JobState::Failed);
    let succeeds = ended(succeeds);
    assert_eq!(
        (succeeds.state, succeeds.progress.items),
        (JobState::Done, 7)
    );
}

#[tokio::test(start_paused = true)]
async fn neither_queue_nor_history_grows_without_bound() {
    let jobs = jobs();
    let (first, release) = held(&jobs, JobKind::Warm);
    settle().await;
    let nothing = || jobs.start(JobKind::Warm, String::new(), |_| async {});
    for _ in 0..limits::JOBS_QUEUED_MAX {
        nothing().unwrap();
    }
    assert!(nothing().is_err(), "the queue is full");
    release.send(()).unwrap();
    settle().await;
    for _ in 0..3 * limits::JOBS_QUEUED_MAX {
        nothing().unwrap();
        settle().await;
    }
    settle().await;
    assert_eq!(jobs.list().len(), limits::JOBS_ENDED_MAX);
    assert_eq!(jobs.get(first), None, "the oldest is forgotten");
}

#[tokio::test(start_paused = true)]
async fn all_end_with_the_mirror() {
    let jobs = jobs();
    let listens = jobs.start(JobKind::Verify, String::new(), |worker| async move {
        worker.progress.cancelled().await;
    });
    let deaf = jobs.start(JobKind::Collect, String::new(), |_| pending());
    let (queued, _keep) = held(&jobs, JobKind::Collect);
    settle().await;
    jobs.close();
    jobs.wait().await;
    for id in [listens.unwrap().id, deaf.unwrap().id, queued] {
        assert_eq!(state(&jobs, id), JobState::Cancelled);
    }
    let late = jobs.start(JobKind::Warm, String::new(), |_| async {});
    assert!(late.is_err());
}
