//! Columns of text.

use std::iter::repeat_n;

use console::{measure_text_width, truncate_str};

use super::screen::{BOLD, paint};

/// Between two columns.
const GAP: usize = 2;
/// As narrow as the first column is made at the most.
const FIRST_WIDTH_MIN: usize = 24;

/// On which side a column's texts begin or end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// Columns of text, as wide as they need to be. The texts may be styled.
#[derive(Debug)]
pub(super) struct Table {
    sides: Vec<Side>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(super) fn new<const N: usize>(columns: [(&str, Side); N]) -> Self {
        let head = columns.iter().map(|(title, _)| match *title {
            "" => String::new(),
            title => paint(BOLD, title),
        });
        Self {
            sides: columns.iter().map(|(_, side)| *side).collect(),
            rows: vec![head.collect()],
        }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.sides.len(), "a row has a cell for each column");
        self.rows.push(cells.into());
    }

    /// Its lines. Where they would be wider than `width`, the first column gives way: what a
    /// terminal wraps can no longer be read as columns.
    pub(super) fn render(&self, width: Option<usize>) -> String {
        let mut widths = vec![0; self.sides.len()];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = measure_text_width(cell).max(*width);
            }
        }
        let whole = widths.iter().sum::<usize>() + GAP * (widths.len() - 1);
        if let Some(over) = width.and_then(|width| whole.checked_sub(width)) {
            let least = widths[0].min(FIRST_WIDTH_MIN);
            widths[0] = widths[0].saturating_sub(over).max(least);
        }
        let mut lines = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, side), width) in row.iter().zip(&self.sides).zip(&widths) {
                let cell = truncate_str(cell, *width, "…");
                let free = width - measure_text_width(&cell);
                let (before, after) = match side {
                    Side::Left => (0, free),
                    Side::Right => (free, 0),
                };
                line.extend(repeat_n(' ', before));
                line.push_str(&cell);
                line.extend(repeat_n(' ', after + GAP));
            }
            lines.push_str(line.trim_end());
            lines.push('\n');
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::screen::GOOD;

    fn table() -> Table {
        let mut table = Table::new([("NAME", Side::Left), ("SIZE", Side::Right)]);
        table.row([
            "docker.io/library/alpine:3.20".to_owned(),
            "3.5 MiB".to_owned(),
        ]);
        table.row([paint(GOOD, "größe"), "12 B".to_owned()]);
        table
    }

    #[test]
    fn columns_are_aligned_whatever_their_style() {
        let text = table().render(None);
        let plain = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(
            plain,
            "NAME                              SIZE\n\
             docker.io/library/alpine:3.20  3.5 MiB\n\
             größe                             12 B\n"
        );
    }

    #[test]
    fn the_first_column_gives_way_on_a_narrow_terminal() {
        for width in [30, 34, 38, 80] {
            let text = table().render(Some(width));
            let longest = text.lines().map(measure_text_width).max().unwrap();
            assert!(longest <= width.max(33), "{width}: {text}");
        }
        assert!(
            table()
                .render(Some(36))
                .contains("docker.io/library/alpine:3…")
        );
    }
}
