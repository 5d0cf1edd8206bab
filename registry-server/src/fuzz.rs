//! Hostile input for everything that is parsed: the corpus of a target first, then what a few random
//! edits make of it.
//!
//! A corpus is a folder of `fuzz-corpus`, with a file for each seed. Whatever was once found to go
//! wrong belongs there: [`fuzz`] prints it. `FUZZ_CASES` is how many random inputs are tried of each
//! target.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

/// Random inputs of each target, where the environment does not say.
const CASES: u32 = 200;
/// Longest input: as much as a header may be, and more than most documents are.
const INPUT_BYTES_MAX: usize = 64 << 10;
/// Bytes of a seed that are shown where it fails.
const SHOWN_BYTES: usize = 200;
/// Most edits of a seed.
const EDITS_MAX: usize = 6;
/// How often an edit repeats something.
const REPEATS_MAX: usize = 300;
/// How long an input may take, in a debug build on a busy machine. What grows with the square of
/// its input takes far longer for the longest.
const TIME_MAX: Duration = Duration::from_secs(2);

/// A change of an input.
#[derive(Clone, Debug)]
enum Edit {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, Index),
    /// A part of this, or of another seed, so many times, somewhere.
    Copy {
        seed: Option<Index>,
        from: Index,
        to: Index,
        at: Index,
        times: usize,
    },
}

/// Holds `property` of every seed of `target`, of each repeated until it is as long as can be, and of
/// random inputs. It returns what is wrong, or panics.
///
/// # Panics
///
/// With the input, where the property does not hold of it, or takes too long to tell.
#[track_caller]
pub(crate) fn fuzz(target: &str, property: impl Fn(&[u8]) -> Result<(), String>) {
    fuzz_within(target, INPUT_BYTES_MAX, property);
}

/// The same with inputs of at most `bytes_max`.
#[track_caller]
pub(crate) fn fuzz_within(
    target: &str,
    bytes_max: usize,
    property: impl Fn(&[u8]) -> Result<(), String>,
) {
    let seeds = seeds(target);
    let timed = |input: &[u8]| {
        let begun = Instant::now();
        property(input)?;
        match begun.elapsed() {
            elapsed if elapsed > TIME_MAX => Err(format!("takes {elapsed:?}")),
            _ => Ok(()),
        }
    };
    for seed in &seeds {
        let repeats = bytes_max / seed.len().max(1);
        for input in [seed.clone(), seed.repeat(repeats.max(1))] {
            let shown =
                String::from_utf8_lossy(&input[..input.len().min(SHOWN_BYTES)]).into_owned();
            if let Err(problem) = timed(&input) {
                panic!("{target}: {problem}, for a seed or its repetition: {shown:?}");
            }
        }
    }
    let cases = std::env::var("FUZZ_CASES").ok();
    let config = Config {
        cases: cases.map_or(CASES, |cases| {
            cases.parse().expect("FUZZ_CASES is a number")
        }),
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&input(seeds, bytes_max), |input| {
        timed(&input)
            .map_err(|problem| TestCaseError::fail(format!("{problem}: {}", input.escape_ascii())))
    });
    if let Err(failure) = outcome {
        panic!("{target}: {failure}\nput the input into fuzz-corpus/{target} when it is mended");
    }
}

/// The same for a target whose input is text.
#[track_caller]
pub(crate) fn fuzz_text(target: &str, property: impl Fn(&str) -> Result<(), String>) {
    fuzz(target, |input| property(&String::from_utf8_lossy(input)));
}

/// What is wrong where two things differ that must not.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(one: T, other: T) -> Result<(), String> {
    match one == other {
        true => Ok(()),
        false => Err(format!("{one:?} is not {other:?}")),
    }
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz-corpus")
        .join(target);
    let files = fs::read_dir(&folder).expect("every target has a corpus");
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{target} has a corpus");
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn input(seeds: Vec<Vec<u8>>, bytes_max: usize) -> impl Strategy<Value = Vec<u8>> {
    let edits = vec(edit(), 0..=EDITS_MAX);
    let edited = (any::<Index>(), edits).prop_map(move |(seed, edits)| {
        let mut input = seed.get(&seeds).clone();
        for edit in edits {
            edit.apply(&mut input, &seeds);
            input.truncate(bytes_max);
        }
        input
    });
    prop_oneof![
        8 => edited,
        1 => any::<String>().prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..200),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    let index = any::<Index>;
    prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        // The signs that what is parsed here is made of.
        (
            index(),
            "[ \t\r\n\"'\\\\/:;,=<>(){}\\[\\]@#%?&.+*_\u{e9}\\-0-9a-f]{1,3}"
        )
            .prop_map(|(at, text)| Edit::Insert(at, text.into_bytes())),
        (index(), vec(any::<u8>(), 1..4)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (index(), index()).prop_map(|(from, to)| Edit::Remove(from, to)),
        (
            proptest::option::of(index()),
            index(),
            index(),
            index(),
            prop_oneof![3 => Just(1), 1 => 2..REPEATS_MAX]
        )
            .prop_map(|(seed, from, to, at, times)| Edit::Copy {
                seed,
                from,
                to,
                at,
                times
            }),
    ]
}

impl Edit {
    fn apply(&self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let within = |index: &Index, length: usize| index.index(length + 1);
        match self {
            Self::Set(at, byte) => {
                if !input.is_empty() {
                    let at = at.index(input.len());
                    input[at] = *byte;
                }
            }
            Self::Insert(at, bytes) => {
                let at = within(at, input.len());
                input.splice(at..at, bytes.iter().copied());
            }
            Self::Remove(from, to) => {
                let (from, to) = (within(from, input.len()), within(to, input.len()));
                input.drain(from.min(to)..from.max(to));
            }
            Self::Copy {
                seed,
                from,
                to,
                at,
                times,
            } => {
                let source = match seed {
                    Some(seed) => seed.get(seeds).clone(),
                    None => input.clone(),
                };
                let (from, to) = (within(from, source.len()), within(to, source.len()));
                let part = &source[from.min(to)..from.max(to)];
                let room = INPUT_BYTES_MAX / part.len().max(1);
                let copies = part.repeat((*times).min(room));
                let at = within(at, input.len());
                input.splice(at..at, copies);
            }
        }
    }
}
