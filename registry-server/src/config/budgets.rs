//! How long an upstream is waited for: the four budgets of a table, and that they fit together.

use std::time::Duration;

use super::document::Table;
use super::place::{Problems, Written};
use super::values;
use crate::upstream::Budgets;

/// What one layer says of an upstream's budgets.
#[derive(Debug, Default)]
pub(super) struct BudgetsLayer {
    connect: Option<Written<Duration>>,
    headers: Option<Written<Duration>>,
    body_idle: Option<Written<Duration>>,
    total: Option<Written<Duration>>,
}

impl BudgetsLayer {
    pub(super) fn read(table: &mut Table<'_>, problems: &mut Problems) -> Self {
        let mut budget = |key| {
            let text = table.text(key, problems)?;
            text.parse(problems, values::budget)
        };
        Self {
            connect: budget("connect_budget"),
            headers: budget("headers_budget"),
            body_idle: budget("body_idle_budget"),
            total: budget("total_budget"),
        }
    }

    pub(super) fn or(self, below: Self) -> Self {
        Self {
            connect: self.connect.or(below.connect),
            headers: self.headers.or(below.headers),
            body_idle: self.body_idle.or(below.body_idle),
            total: self.total.or(below.total),
        }
    }

    /// The budgets in effect. Each is part of the next, so those that are set must fit into each
    /// other; those that are not set make room.
    pub(super) fn resolve(self, problems: &mut Problems) -> Budgets {
        let default = Budgets::default();
        let value = |set: &Option<Written<Duration>>| set.as_ref().map(|set| set.value);
        let (connect, headers) = (value(&self.connect), value(&self.headers));
        let total = value(&self.total)
            .unwrap_or(default.total.max(headers.or(connect).unwrap_or_default()));
        let headers =
            headers.unwrap_or(default.headers.max(connect.unwrap_or_default()).min(total));
        let connect = connect.unwrap_or(default.connect.min(headers));
        for (name, part, set, whole) in [
            ("total_budget", headers, self.headers, total),
            ("headers_budget", connect, self.connect, headers),
        ] {
            if let Some(set) = set.filter(|_| part > whole) {
                let (part, whole) = (
                    humantime::format_duration(part),
                    humantime::format_duration(whole),
                );
                let problem =
                    format!("{part} is more than {name}, which is {whole} and includes it");
                problems.add(set.place, problem);
            }
        }
        Budgets {
            connect,
            headers,
            body_idle: value(&self.body_idle).unwrap_or(default.body_idle),
            total,
        }
    }
}
