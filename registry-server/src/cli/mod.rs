//! The command line: what is asked of a mirror that runs, and how its answers are shown.
//!
//! It owns the words and tables that a person reads, and knows of the mirror only what the admin
//! API tells. Results go to standard output, everything else to standard error.

mod client;
mod complete;
mod df;
mod failure;
mod follow;
mod image;
mod jobs;
mod line;
mod ls;
mod names;
mod pins;
mod reload;
mod rm;
mod screen;
mod sources;
mod status;
mod table;
mod target;
mod transfer;
mod warm;
mod why;
mod words;

use std::process::ExitCode;

use tokio::runtime;

pub(crate) use complete::{completions, man};
pub(crate) use line::{Command, CommandLine, HostsToml};

use client::Client;
use failure::{Exit, Failure};
use line::{Ask, JobsCommand, Operate};
use screen::Screen;
use target::Target;

/// A mirror to ask, and where to show what it answers.
struct Session {
    client: Client,
    screen: Screen,
}

/// Does what is asked of a mirror.
pub(crate) fn operate(command: Operate) -> ExitCode {
    let ask = command.ask().clone();
    let screen = Screen::new(&ask);
    let done = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run(command, &ask, screen.clone())),
        Err(error) => Err(Failure::Failed(format!("cannot start: {error}"))),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if failure.code() != 0 {
                screen.complain(failure.to_string());
            }
            ExitCode::from(failure.code())
        }
    }
}

async fn run(command: Operate, ask: &Ask, screen: Screen) -> Result<Exit, Failure> {
    if let Operate::Warm(warm) = &command
        && warm.dry_run
    {
        return warm::list(warm, &screen);
    }
    let client = Client::new(Target::find(ask)?)?;
    let session = Session { client, screen };
    match command {
        Operate::Status(status) => status::show(&session, &status).await,
        Operate::Why(why) => why::explain(&session, &why.image).await,
        Operate::Ls(ls) => ls::list(&session, &ls).await,
        Operate::Df(df) => df::show(&session, &df).await,
        Operate::Warm(warm) => warm::warm(&session, &warm).await,
        Operate::Pin(pin) => pins::pin(&session, &pin.images).await,
        Operate::Unpin(unpin) => pins::unpin(&session, &unpin.images).await,
        Operate::Pins(_) => pins::list(&session).await,
        Operate::Rm(rm) => rm::remove(&session, &rm).await,
        Operate::Verify(verify) => jobs::verify(&session, &verify).await,
        Operate::Gc(gc) => jobs::collect(&session, &gc).await,
        Operate::Jobs(jobs) => match jobs.command {
            None | Some(JobsCommand::List) => jobs::list(&session).await,
            Some(JobsCommand::Watch { id }) => jobs::watch(&session, id).await,
            Some(JobsCommand::Cancel { id }) => jobs::cancel(&session, id).await,
        },
        Operate::Export(export) => transfer::export(&session, &export).await,
        Operate::Import(import) => transfer::import(&session, &import).await,
        Operate::Reload(_) => reload::reload(&session).await,
    }
}

impl Operate {
    fn ask(&self) -> &Ask {
        match self {
            Self::Status(it) => &it.ask,
            Self::Why(it) => &it.ask,
            Self::Ls(it) => &it.ask,
            Self::Df(it) => &it.ask,
            Self::Warm(it) => &it.ask,
            Self::Pin(it) | Self::Unpin(it) => &it.ask,
            Self::Pins(it) | Self::Reload(it) => &it.ask,
            Self::Rm(it) => &it.ask,
            Self::Verify(it) => &it.ask,
            Self::Gc(it) => &it.ask,
            Self::Jobs(it) => &it.ask,
            Self::Export(it) => &it.ask,
            Self::Import(it) => &it.ask,
        }
    }
}
