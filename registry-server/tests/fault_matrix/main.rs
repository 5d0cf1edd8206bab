//! The fault matrix: `docs/fault-matrix.md`, held against what happens, each cell by a test of its
//! own.
//!
//! `FAULT_MATRIX_WRITE=1` writes what happens into the table instead. What is written then has to
//! be read: a row is right because it should be so, not because it is.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod ahead;
mod client;
mod faults;
mod scene;
mod table;

use std::collections::BTreeSet;
use std::time::Duration;

use table::{Cell, Document, Object, Row, State};

/// How long a cell may take before its test fails.
const CELL_MAX: Duration = Duration::from_secs(30);

/// How often a cell is played that takes longer than it should: a busy machine makes things slower,
/// and never faster, so that once is enough to show that it can be in time.
const TRIES_MAX: u32 = 3;

/// Plays a cell and holds what happens against the table.
fn check(fault: &'static str, object: Object, state: State) {
    let cell = Cell {
        fault,
        object,
        state,
    };
    if is_writing() {
        return table::put(&cell, ahead::play(&cell), &cells(), about);
    }
    let document = Document::read();
    let expected = document.rows.get(&cell.to_string());
    let expected = expected.unwrap_or_else(|| panic!("{cell} is not in the table"));
    let mut observed = ahead::play(&cell);
    for tried in 1..=TRIES_MAX {
        let in_time = observed.within.times <= expected.within.times;
        let told = Row {
            within: expected.within.clone(),
            ..observed.clone()
        };
        assert_eq!(told, *expected, "{cell}: observed (left), and expected");
        if in_time {
            return;
        }
        if tried < TRIES_MAX {
            observed = play(&cell);
        }
    }
    panic!("{cell} takes longer than {}", expected.within);
}

/// What comes of a cell.
fn play(cell: &Cell) -> Row {
    let spec = faults::spec(cell.fault);
    if let Some(reason) = spec.impossible(cell) {
        return Row::impossible(reason);
    }
    // One thread, so that who waits for what is known.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let playing = async { scene::Scene::set_up(&spec, cell).await.play().await };
        let played = tokio::time::timeout(CELL_MAX, playing).await;
        played.unwrap_or_else(|_| panic!("{cell} takes longer than {CELL_MAX:?}"))
    })
}

/// Whether the table is written rather than held against what happens.
fn is_writing() -> bool {
    std::env::var_os("FAULT_MATRIX_WRITE").is_some()
}

fn about(fault: &str) -> String {
    faults::spec(fault).about.to_owned()
}

/// The tests of every fault, and the list of the faults.
macro_rules! matrix {
    ($($fault:ident)*) => {
        const FAULTS: &[&str] = &[$(stringify!($fault)),*];

        $(mod $fault {
            cells! {
                $fault
                tag: Tag [cached Cached, not_cached NotCached, mid_flight MidFlight]
                manifest: Manifest [cached Cached, not_cached NotCached, mid_flight MidFlight]
                blob: Blob [cached Cached, not_cached NotCached, mid_fill MidFill]
                blob_head: BlobHead [cached Cached, not_cached NotCached]
            }
        })*
    };
}

macro_rules! cells {
    ($fault:ident $($name:ident: $object:ident [$($test:ident $state:ident),*])*) => {
        $(mod $name {
            $(#[test]
            fn $test() {
                use crate::table::{Object, State};
                crate::check(stringify!($fault), Object::$object, State::$state);
            })*
        })*
    };
}

/// Every cell, in the order of the table.
fn cells() -> Vec<Cell> {
    use Object::{Blob, BlobHead, Manifest, Tag};
    use State::{Cached, MidFill, MidFlight, NotCached};
    let rows = [
        (Tag, &[Cached, NotCached, MidFlight][..]),
        (Manifest, &[Cached, NotCached, MidFlight]),
        (Blob, &[Cached, NotCached, MidFill]),
        (BlobHead, &[Cached, NotCached]),
    ];
    let cells = FAULTS.iter().flat_map(|&fault| {
        rows.iter().flat_map(move |&(object, states)| {
            states.iter().map(move |&state| Cell {
                fault,
                object,
                state,
            })
        })
    });
    cells.collect()
}

#[test]
fn the_table_has_a_row_for_each_test_and_no_other() {
    if is_writing() {
        return;
    }
    let document = Document::read();
    let tests: BTreeSet<_> = cells().iter().map(Cell::to_string).collect();
    let rows: BTreeSet<_> = document.rows.keys().cloned().collect();
    let without_row: Vec<_> = tests.difference(&rows).collect();
    let without_test: Vec<_> = rows.difference(&tests).collect();
    let nothing = Vec::<&String>::new();
    assert_eq!((without_row, without_test), (nothing.clone(), nothing));
    for (fault, sentence) in &document.abouts {
        assert_eq!(*sentence, about(fault), "{fault}");
    }
    assert_eq!(document.abouts.len(), FAULTS.len());
}

matrix! {
    refused
    connect_black_hole
    dns_failure
    unknown_authority
    expired_certificate
    black_hole
    black_hole_once
    slow_headers
    closed
    closed_once
    garbage
    slow_body
    stall_mid_body
    stall_mid_body_once
    reset_mid_body
    reset_mid_body_once
    short_body
    short_body_once
    long_body
    wrong_bytes
    wrong_bytes_once
    wrong_length
    gzip_coded
    missing_digest
    wrong_digest
    unauthorized
    unauthorized_once
    token_server_down
    token_server_slow
    foreign_realm
    forbidden
    redirect_loop
    redirect_link_local
    redirect_private
    not_found
    request_timeout
    rate_limited
    rate_limited_once
    rate_limited_unsaid
    server_error
    unavailable
    unavailable_once
    html
    huge_manifest
    first_endpoint_refused
    first_endpoint_connect_black_hole
    first_endpoint_expired_certificate
    first_endpoint_black_hole
    first_endpoint_stall_mid_body
    first_endpoint_short_body
    first_endpoint_wrong_bytes
    first_endpoint_unauthorized
    first_endpoint_not_found
    first_endpoint_rate_limited
    first_endpoint_unavailable
}
