//! What shells and `man` are given.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

use super::failure::Failure;
use super::line::{Ask, CommandLine};
use super::screen::Screen;

/// The program, as it is called.
const NAME: &str = "registry-server";
/// How it is called where commands of it are looked up in the script for bash.
const BASH_CALLED: &str = "registry__subcmd__server";
/// How it is named where they are found.
const BASH_NAMED: &str = "registry__server";

/// Prints what makes a shell complete the commands.
pub(crate) fn completions(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), NAME, &mut script);
    let script = match (shell, String::from_utf8(script)) {
        // A name with a hyphen is written in two ways, of which the one never finds the other
        // (clap_complete 4.6).
        (Shell::Bash, Ok(text)) => text.replace(BASH_CALLED, BASH_NAMED).into_bytes(),
        (_, Ok(text)) => text.into_bytes(),
        (_, Err(error)) => error.into_bytes(),
    };
    end(io::stdout().write_all(&script).map_err(Failure::Output))
}

/// Prints the manual, or writes a page for each command into `folder`.
pub(crate) fn man(folder: Option<&Path>) -> ExitCode {
    end(match folder {
        Some(folder) => write_pages(folder),
        None => print_page(),
    })
}

fn print_page() -> Result<(), Failure> {
    let mut page = Vec::new();
    // As the pages of a folder have it, where nothing has a page for `help`.
    Man::new(CommandLine::command().disable_help_subcommand(true)).render(&mut page)?;
    Ok(io::stdout().write_all(&page)?)
}

fn write_pages(folder: &Path) -> Result<(), Failure> {
    let written = fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(CommandLine::command(), folder));
    written.map_err(|error| {
        let folder = folder.display();
        Failure::Failed(format!("cannot write manual pages into {folder}: {error}"))
    })
}

fn end(done: Result<(), Failure>) -> ExitCode {
    let Err(failure) = done else {
        return ExitCode::SUCCESS;
    };
    if failure.code() != 0 {
        Screen::new(&Ask::default()).complain(failure.to_string());
    }
    ExitCode::from(failure.code())
}
