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
}

type Answer<T> = Result<T, CacheError>;
type Table<K, T> = Mutex<HashMap<K, watch::Receiver<Option<Answer<T>>>>>;

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self {
            table: Arc::default(),
        }
    }
}

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// The answer for `key`: that of the flight under way, or of the one begun with `work`.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the flight to go on for the others, and for what it stores.
    pub(super) async fn fly<F>(&self, tasks: &Tasks, key: K, work: impl FnOnce() -> F) -> Answer<T>
    where
        F: Future<Output = Answer<T>> + Send + 'static,
    {
        let mut answer = match lock(&self.table).entry(key.clone()) {
            Entry::Occupied(flight) => flight.get().clone(),
            Entry::Vacant(vacant) => {
                let (sender, receiver) = watch::channel(None);
                vacant.insert(receiver.clone());
                let landing = Landing {
                    table: Arc::clone(&self.table),
                    key,
                };
                let work = work();
                tasks.spawn(async move |closing| {
                    let answer = tokio::select! {
                        answer = work => answer,
                        () = closing.cancelled() => Err(CacheError::Closed),
                    };
                    // Out of the table first: whoever asks from now on gets an answer of their own.
                    drop(landing);
                    sender.send_replace(Some(answer));
                });
                receiver
            }
        };
        match answer.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(answer)) => answer.clone(),
            _ => Err(CacheError::Lost),
        }
    }
}

/// Takes a flight out of the table when it ends, however it ends.
struct Landing<K: Eq + Hash, T> {
    table: Arc<Table<K, T>>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
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
