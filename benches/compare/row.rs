//! A row of the table: who was measured, against whom, and whether that is good enough.

use crate::spread::{Spread, Unit};

/// What a target asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// The mirror takes at most so many times what the other takes.
    TimesAtMost(f64),
    /// The mirror does at least so many times what the other does.
    TimesAtLeast(f64),
    /// The mirror's number itself is at most this.
    AtMost(f64),
    /// The mirror takes at most so much more than the other.
    MoreAtMost(f64),
    /// Nothing: the row is for information.
    None,
}

/// What one of those compared gave, a number a round.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// Such as `nginx`.
    pub(crate) who: String,
    /// Or why there is nothing.
    pub(crate) values: Result<Vec<f64>, String>,
}

impl Series {
    pub(crate) fn new(who: &str) -> Self {
        Self {
            who: who.to_owned(),
            values: Ok(Vec::new()),
        }
    }

    pub(crate) fn absent(who: &str, why: &str) -> Self {
        Self {
            who: who.to_owned(),
            values: Err(why.to_owned()),
        }
    }

    pub(crate) fn push(&mut self, value: f64) {
        if let Ok(values) = &mut self.values {
            values.push(value);
        }
    }

    fn spread(&self) -> Option<Spread> {
        Spread::of(self.values.as_ref().ok()?)
    }

    fn cell(&self, unit: Unit) -> String {
        match (&self.values, self.spread()) {
            (Err(why), _) => why.clone(),
            (Ok(_), None) => "not measured".to_owned(),
            (Ok(_), Some(spread)) => unit.spread(spread),
        }
    }
}

/// A question and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) question: String,
    pub(crate) unit: Unit,
    pub(crate) target: Target,
    pub(crate) mirror: Series,
    /// What the target compares with.
    pub(crate) against: Option<Series>,
    /// Who else was measured.
    pub(crate) beside: Vec<Series>,
}

/// How it came out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    Met,
    /// And by how much.
    Missed(String),
    /// There is no target, or nothing to hold it against.
    Open,
}

impl Row {
    /// How many times the other's the mirror's numbers are, or how much more, round by round: those
    /// of one round met the same machine.
    fn compared(&self) -> Option<Spread> {
        let mine = self.mirror.values.as_ref().ok()?;
        let Some(against) = &self.against else {
            return Spread::of(mine);
        };
        let theirs = against.values.as_ref().ok()?;
        let pairs = mine.iter().zip(theirs);
        let values: Vec<f64> = match self.target {
            Target::MoreAtMost(_) => pairs.map(|(mine, theirs)| mine - theirs).collect(),
            _ => pairs
                .filter(|(_, theirs)| **theirs > 0.0)
                .map(|(mine, theirs)| mine / theirs)
                .collect(),
        };
        Spread::of(&values)
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let Some(compared) = self.compared() else {
            return Verdict::Open;
        };
        let value = compared.median;
        let (is_met, missed_by) = match self.target {
            Target::None => return Verdict::Open,
            Target::TimesAtMost(most) => (value <= most, percent(value / most - 1.0)),
            Target::TimesAtLeast(least) => (value >= least, percent(1.0 - value / least)),
            Target::AtMost(most) | Target::MoreAtMost(most) => {
                (value <= most, self.unit.write(value - most))
            }
        };
        match is_met {
            true => Verdict::Met,
            false => Verdict::Missed(missed_by),
        }
    }

    /// As a line of the table: question, target, mirror, against, compared, verdict, beside.
    pub(crate) fn cells(&self) -> [String; 6] {
        let against = self.against.as_ref();
        let target = self.target_cell();
        let told = |series: &Series| format!("{} {}", series.who, series.cell(self.unit));
        let compared = match (self.compared(), self.target) {
            (Some(spread), Target::MoreAtMost(_)) => self.unit.spread(spread),
            (Some(spread), _) if against.is_some() => spread.to_string(),
            _ => String::new(),
        };
        let others = against.into_iter().chain(&self.beside).map(told);
        let verdict = match self.verdict() {
            Verdict::Met => "met".to_owned(),
            Verdict::Missed(by) => format!("**missed by {by}**"),
            Verdict::Open => String::new(),
        };
        [
            self.question.clone(),
            target,
            self.mirror.cell(self.unit),
            others.collect::<Vec<_>>().join("; "),
            compared,
            verdict,
        ]
    }

    fn target_cell(&self) -> String {
        let who = self.against.as_ref().map_or("", |series| &series.who);
        match self.target {
            Target::TimesAtMost(most) => format!("≤ {most:.2} × {who}"),
            Target::TimesAtLeast(least) => format!("≥ {least:.2} × {who}"),
            Target::AtMost(most) => format!("≤ {}", self.unit.write(most)),
            Target::MoreAtMost(most) => format!("≤ {who} + {}", self.unit.write(most)),
            Target::None => String::new(),
        }
    }
}

fn percent(part: f64) -> String {
    format!("{:.0} %", (part * 100.0).ceil())
}
