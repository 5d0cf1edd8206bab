//! One answer for all who ask the same at the same time.
//!
//! The work belongs to the cache: it runs on a task of its own, so whoever leaves, or stops
//! waiting, takes nothing from the others. So does its budget, which begins with the flight: one
//! that has used it up is *late*, which everybody learns who has something else to answer with.
//! It flies on for those who have not.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::CacheError;
use super::outage::{Outages, Question};
use super::tasks::Tasks;
use super::trace::{self, Mark};
use crate::UpstreamId;

/// The questions that are being answered right now.
pub(super) struct Flights<K, T> {
    /// What they find out, for whoever traces them.
    what: &'static str,
    table: Arc<Table<K, T>>,
    flights_max: usize,
}

type Answer<T> = Result<T, CacheError>;
type Table<K, T> = Mutex<HashMap<K, Flight<T>>>;

/// How far a flight has come.
enum Stage<T> {
    Underway,
    Late,
    Landed(Answer<T>),
}

/// How long a flight is waited for by those who have something else to answer with.
#[derive(Clone, Copy)]
pub(super) enum Patience<'a> {
    /// Nobody has.
    Endless,
    /// For so long from its beginning.
    Budget(Duration),
    /// For so long; and one that takes longer tells of an upstream that does not answer.
    Telling {
        budget: Duration,
        outages: &'a Arc<Outages>,
        upstream: &'a UpstreamId,
    },
}

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// No flights yet, and never more than `flights_max`.
    pub(super) fn new(what: &'static str, flights_max: usize) -> Self {
        Self {
            what,
            table: Arc::default(),
            flights_max,
        }
    }

    /// The answer for `key`: that of the flight under way, or of the one begun with `work`.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the flight to go on for the others, and for what it stores.
    pub(super) async fn fly<F>(&self, tasks: &Tasks, key: K, work: impl FnOnce() -> F) -> Answer<T>
    where
        F: Future<Output = Answer<T>> + Send + 'static,
    {
        let flight = self.board(tasks, key, Patience::Endless, work)?;
        flight.landed().await
    }

    /// Whether somebody waits for this answer now.
    pub(super) fn is_underway(&self, key: &K) -> bool {
        lock(&self.table).contains_key(key)
    }

    /// The flight for `key`: the one under way, or else one begun with `work`.
    pub(super) fn board<F>(
        &self,
        tasks: &Tasks,
        key: K,
        patience: Patience<'_>,
        work: impl FnOnce() -> F,
    ) -> Answer<Flight<T>>
    where
        F: Future<Output = Answer<T>> + Send + 'static,
    {
        let (flight, begun) = {
            let mut table = lock(&self.table);
            let flying = table.len();
            match table.entry(key.clone()) {
                Entry::Occupied(flight) => (flight.get().clone(), None),
                Entry::Vacant(_) if flying >= self.flights_max => {
                    return Err(CacheError::Overloaded);
                }
                Entry::Vacant(vacant) => {
                    let (sender, receiver) = watch::channel(Stage::Underway);
                    let flight = Flight {
                        stage: receiver,
                        mark: Mark::default(),
                    };
                    vacant.insert(flight.clone());
                    (flight, Some(sender))
                }
            }
        };
        // Not under the lock: a runtime that is shutting down drops the task here and now, and the
        // flight then lands.
        if let Some(stage) = begun {
            let place = Place {
                table: Arc::clone(&self.table),
                key,
            };
            let (deadline, question) = patience.begin();
            let mut landing = Landing {
                place,
                question,
                stage,
            };
            let work = work();
            let span = trace::flight(self.what);
            flight.mark.set(&span);
            tasks.spawn(span, async move |closing| {
                let answer = tokio::select! {
                    // A closed cache asks nothing, not even what would be answered at once.
                    biased;
                    () = closing.cancelled() => Err(CacheError::Closed),
                    answer = landing.wait_for(work, deadline) => answer,
                };
                landing.tell(answer);
            });
        } else {
            flight.mark.follow();
        }
        Ok(flight)
    }
}

impl Patience<'_> {
    /// When it ends, if ever; and the question that is overdue from then on.
    fn begin(self) -> (Option<Instant>, Option<Question>) {
        let (budget, question) = match self {
            Self::Endless => return (None, None),
            Self::Budget(budget) => (budget, None),
            Self::Telling {
                budget,
                outages,
                upstream,
            } => (budget, Some(outages.ask(upstream))),
        };
        // A budget beyond all time has no end.
        (Instant::now().checked_add(budget), question)
    }
}

/// A flight, for whoever waits for it.
pub(super) struct Flight<T> {
    stage: watch::Receiver<Stage<T>>,
    mark: Mark,
}

impl<T> Clone for Flight<T> {
    fn clone(&self) -> Self {
        Self {
            stage: self.stage.clone(),
            mark: self.mark.clone(),
        }
    }
}

impl<T: Clone + Send + Sync> Flight<T> {
    /// Its answer, however late.
    pub(super) async fn landed(mut self) -> Answer<T> {
        let landed = |stage: &Stage<T>| matches!(stage, Stage::Landed(_));
        match self.stage.wait_for(landed).await.as_deref() {
            Ok(Stage::Landed(answer)) => answer.clone(),
            _ => Err(CacheError::Lost),
        }
    }

    /// Its answer; none once it is late.
    pub(super) async fn in_time(mut self) -> Option<Answer<T>> {
        let told = |stage: &Stage<T>| !matches!(stage, Stage::Underway);
        match self.stage.wait_for(told).await.as_deref() {
            Ok(Stage::Landed(answer)) => Some(answer.clone()),
            Ok(_) => None,
            Err(_) => Some(Err(CacheError::Lost)),
        }
    }
}

/// The end of a flight. Fields are dropped in order: however it ends, it is out of the table, and
/// overdue no longer, before anyone learns of it; whoever asks from then on gets an answer of their
/// own.
struct Landing<K: Eq + Hash, T> {
    place: Place<K, T>,
    question: Option<Question>,
    stage: watch::Sender<Stage<T>>,
}

impl<K: Eq + Hash + Send + Sync, T: Send + Sync> Landing<K, T> {
    /// What the work gives; says so when it is late.
    async fn wait_for(
        &mut self,
        work: impl Future<Output = Answer<T>> + Send,
        deadline: Option<Instant>,
    ) -> Answer<T> {
        let mut work = std::pin::pin!(work);
        if let Some(deadline) = deadline {
            if let Ok(answer) = timeout_at(deadline, &mut work).await {
                return answer;
            }
            // Before anyone learns of it: whoever was told to wait no longer, and comes back at
            // once, is not made to wait for another flight.
            if let Some(question) = &mut self.question {
                question.late();
            }
            self.stage.send_replace(Stage::Late);
        }
        work.await
    }

    fn tell(self, answer: Answer<T>) {
        drop(self.place);
        match self.question {
            Some(question) if answer.is_ok() => question.answered(),
            question => drop(question),
        }
        self.stage.send_replace(Stage::Landed(answer));
    }
}

/// A flight's place in the table, which is free again when this is dropped.
struct Place<K: Eq + Hash, T> {
    table: Arc<Table<K, T>>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for Place<K, T> {
    fn drop(&mut self) {
        lock(&self.table).remove(&self.key);
    }
}

fn lock<K, T>(table: &Table<K, T>) -> MutexGuard<'_, HashMap<K, Flight<T>>> {
    // Nothing panics while it holds the lock; if something did, the table is still whole.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
