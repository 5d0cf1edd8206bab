//! Where results and remarks go: results to standard output, everything else to standard error.
//!
//! Text is styled here and nowhere else is it known whether styles are wanted: they are taken out
//! again where they are not.

use std::io::{self, IsTerminal as _, Write as _};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use console::Term;
use registry_core::{Clock as _, SystemClock, Timestamp};
use serde::Serialize;

use super::failure::{Exit, Failure};
use super::line::{Ask, Color};

pub(super) const BOLD: Style = Style::new().bold();
pub(super) const DIM: Style = Style::new().dimmed();
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
pub(super) const ODD: Style = AnsiColor::Yellow.on_default();
pub(super) const BAD: Style = AnsiColor::Red.on_default();

/// A text in a style.
pub(super) fn paint(style: Style, text: impl AsRef<str>) -> String {
    let text = text.as_ref();
    format!("{style}{text}{style:#}")
}

/// Where a command shows what it has to show.
#[derive(Clone, Debug)]
pub(super) struct Screen {
    color: ColorChoice,
    /// Columns of the terminal that results go to; none where they do not go to one.
    width: Option<usize>,
    /// Whether results are documents.
    json: bool,
    /// When the command was begun: what ages are counted from.
    now: Timestamp,
}

impl Screen {
    pub(super) fn new(ask: &Ask) -> Self {
        let stdout = Term::stdout();
        let columns = || Some(usize::from(stdout.size_checked()?.1));
        Self {
            color: match ask.color {
                Color::Auto => ColorChoice::Auto,
                Color::Always => ColorChoice::AlwaysAnsi,
                Color::Never => ColorChoice::Never,
            },
            width: io::stdout().is_terminal().then(columns).flatten(),
            json: ask.json,
            now: SystemClock.now(),
        }
    }

    pub(super) fn width(&self) -> Option<usize> {
        self.width
    }

    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    /// Shows a result: `document` where documents are wanted, otherwise what `text` makes of it.
    ///
    /// # Errors
    ///
    /// [`Failure::Output`].
    pub(super) fn show<T: Serialize>(
        &self,
        document: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        if self.json {
            let mut json = serde_json::to_string_pretty(document)
                .expect("the documents of the API are JSON by their types");
            json.push('\n');
            // Past the stream that takes styles out: a document has none.
            let mut out = io::stdout().lock();
            out.write_all(json.as_bytes())?;
            return Ok(out.flush()?);
        }
        self.print(&text(document))
    }

    /// Shows a result that is text.
    ///
    /// # Errors
    ///
    /// [`Failure::Output`].
    pub(super) fn print(&self, text: &str) -> Result<(), Failure> {
        let mut out = AutoStream::new(io::stdout().lock(), self.color);
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// Says something that is no result.
    pub(super) fn remark(&self, text: &str) {
        // Where standard error is closed, nobody is left to be told.
        let _ = writeln!(AutoStream::new(io::stderr().lock(), self.color), "{text}");
    }

    /// Says that something is wrong.
    pub(super) fn complain(&self, text: impl AsRef<str>) {
        let label = paint(BAD.bold(), "error:");
        self.remark(&format!("{label} {}", text.as_ref()));
    }

    /// How a command ends that did `done` things and failed at these, which it complains about.
    ///
    /// # Errors
    ///
    /// The failure, where there was but one thing to do, or where no mirror answers.
    pub(super) fn settle(
        &self,
        done: usize,
        mut failures: Vec<(&String, Failure)>,
    ) -> Result<Exit, Failure> {
        let is_same = |(_, failure): &(&String, Failure)| match failures.first() {
            Some((_, first)) => first.code() == failure.code(),
            None => true,
        };
        let same = failures.iter().all(is_same);
        if done == 0 && same && failures.len() == 1 {
            return Err(failures.remove(0).1);
        }
        for (name, failure) in &failures {
            self.complain(format!("{name}: {failure}"));
        }
        match failures.first() {
            Some((_, failure)) if done == 0 && same => Ok(Exit::Like(failure.code())),
            _ => Ok(Exit::of(done, failures.len())),
        }
    }

    /// Asks a person whether to go on; no where there is none, or no answer.
    pub(super) fn confirm(&self, question: &str) -> bool {
        let mut err = AutoStream::new(io::stderr().lock(), self.color);
        let asked = write!(err, "{question} [y/N] ").and_then(|()| err.flush());
        let mut answer = String::new();
        asked.is_ok()
            && io::stdin().read_line(&mut answer).is_ok()
            && matches!(answer.trim(), "y" | "Y" | "yes")
    }

    /// Whether there is a person to ask.
    pub(super) fn has_person() -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }
}
