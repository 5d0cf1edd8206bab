//! One answer for all who ask the same at the same time.
//!
//! The work belongs to the cache: it runs on a task of its own, so whoever leaves, or stops
//! waiting, takes nothing from the others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::CacheError;
use super::tasks::Tasks;

/// The questions that are being answered right now.
pub(super) struct Flights<K, T> {
    table: Arc<Table<K, T>>,
    flights_max: usize,
}

type Answer<T> = Result<T, CacheError>;
type Table<K, T> = Mutex<HashMap<K, watch::Receiver<Option<Answer<T>>>>>;

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// No flights yet, and never more than `flights_max`.
    pub(super) fn new(flights_max: usize) -> Self {
        Self {
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
        let (mut answer, begun) = {
            let mut table = lock(&self.table);
            let flying = table.len();
            match table.entry(key.clone()) {
                Entry::Occupied(flight) => (flight.get().clone(), None),
                Entry::Vacant(_) if flying >= self.flights_max => {
                    return Err(CacheError::Overloaded);
                }
                Entry::Vacant(vacant) => {
                    let (sender, receiver) = watch::channel(None);
                    vacant.insert(receiver.clone());
                    (receiver, Some(sender))
                }
            }
        };
        // Not under the lock: a runtime that is shutting down drops the task here and now, and the
        // flight then lands.
        if let Some(answer) = begun {
            let place = Place {
                table: Arc::clone(&self.table),
                key,
            };
            let landing = Landing { place, answer };
            let work = work();
            tasks.spawn(async move |closing| {
                let answer = tokio::select! {
                    // A closed cache asks nothing, not even what would be answered at once.
                    biased;
                    () = closing.cancelled() => Err(CacheError::Closed),
                    answer = work => answer,
                };
                landing.tell(answer);
            });
        }
        match answer.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(answer)) => answer.clone(),
            _ => Err(CacheError::Lost),
        }
    }
}

/// The end of a flight. Fields are dropped in order: however it ends, it is out of the table before
/// anyone learns of it, and whoever asks from then on gets an answer of their own.
struct Landing<K: Eq + Hash, T> {
    place: Place<K, T>,
    answer: watch::Sender<Option<Answer<T>>>,
}

impl<K: Eq + Hash, T> Landing<K, T> {
    fn tell(self, answer: Answer<T>) {
        drop(self.place);
        self.answer.send_replace(Some(answer));
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

fn lock<K, T>(
    table: &Table<K, T>,
) -> std::sync::MutexGuard<'_, HashMap<K, watch::Receiver<Option<Answer<T>>>>> {
    // Nothing panics while it holds the lock; if something did, the table is still whole.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
