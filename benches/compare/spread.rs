//! What several measurements of the same come to.

use std::fmt;

/// What rounds gave: the middle one, and the least and the most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// None of nothing.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        };
        Some(Self { median, min, max })
    }
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Unit {
    /// Of time, as of a processor's.
    Seconds,
    /// Of time.
    Milliseconds,
    /// Requests a second.
    PerSecond,
    /// Of a million bytes.
    Megabytes,
    /// How many times something.
    Times,
}

impl Unit {
    pub(crate) fn write(self, value: f64) -> String {
        match self {
            Self::Seconds if value < 1.0 => format!("{value:.3} s"),
            Self::Seconds => format!("{value:.2} s"),
            Self::Milliseconds if value.abs() < 10.0 => format!("{value:.2} ms"),
            Self::Milliseconds => format!("{value:.0} ms"),
            Self::PerSecond => format!("{value:.0}/s"),
            Self::Megabytes => format!("{value:.1} MB"),
            Self::Times => format!("{value:.2}"),
        }
    }

    pub(crate) fn spread(self, spread: Spread) -> String {
        let Spread { median, min, max } = spread;
        if min == max {
            return self.write(median);
        }
        let (min, max) = (self.write(min), self.write(max));
        // The unit once is enough within the brackets.
        let unit = max.find([' ', '/']).map(|at| &max[at..]);
        let min = unit.and_then(|unit| min.strip_suffix(unit)).unwrap_or(&min);
        format!("{} ({min}..{max})", self.write(median))
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Unit::Times.spread(*self))
    }
}
