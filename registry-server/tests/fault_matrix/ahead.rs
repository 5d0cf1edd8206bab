//! Playing cells ahead of their tests: most of them wait for a budget to be over, and libtest runs
//! only as many at a time as there are cores.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, LazyLock, Mutex, PoisonError};

use crate::table::{Cell, Row};

/// Cells that are played at a time.
const THREADS: usize = 6;

type Played = Result<Row, Box<dyn Any + Send>>;

/// What has been played, and not been asked for yet.
static PLAYED: Mutex<Option<HashMap<String, Played>>> = Mutex::new(None);
static MORE: Condvar = Condvar::new();
/// Whether all cells are played ahead: not where only some of the tests are run.
static AHEAD: LazyLock<bool> = LazyLock::new(|| {
    let all = std::env::args()
        .skip(1)
        .all(|argument| argument.starts_with('-'));
    if all {
        begin();
    }
    all
});

fn begin() {
    // In the order in which libtest runs them.
    let mut cells = crate::cells();
    cells.sort_by_key(Cell::to_string);
    let cells: &'static [Cell] = cells.leak();
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    for _ in 0..THREADS {
        std::thread::spawn(move || {
            while let Some(cell) = cells.get(NEXT.fetch_add(1, Ordering::Relaxed)) {
                let played = catch_unwind(AssertUnwindSafe(|| crate::play(cell)));
                let mut all = PLAYED.lock().unwrap_or_else(PoisonError::into_inner);
                all.get_or_insert_default().insert(cell.to_string(), played);
                MORE.notify_all();
            }
        });
    }
}

/// What comes of a cell: played ahead, or now.
pub(crate) fn play(cell: &Cell) -> Row {
    if !*AHEAD {
        return crate::play(cell);
    }
    let name = cell.to_string();
    let mut all = PLAYED.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        match all.get_or_insert_default().remove(&name) {
            Some(Ok(row)) => return row,
            Some(Err(panic)) => {
                drop(all);
                resume_unwind(panic)
            }
            None => all = MORE.wait(all).unwrap_or_else(PoisonError::into_inner),
        }
    }
}
