//! The `registry-server` binary: wiring. It reads the configuration, starts a [`Mirror`], says so,
//! and stops it on a signal. What is asked of a mirror that runs is [`cli`]'s.

mod cli;
mod runtimes;

use std::env;
use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use cli::{Command, CommandLine, HostsToml};
use registry_server::config::{Config, ConfigErrors, ConfigSource, Flags};
use registry_server::hosts_toml::{advertised, hosts_toml};
use registry_server::logging::{LogFormat, start_logging};
use registry_server::{Mirror, ReloadError, StartError};
use runtimes::Runtimes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{debug, error, info, warn};

/// Exit status for a mistake of usage or configuration: the same that clap gives.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let flags = match line.command {
        Some(Command::Operate(command)) => return cli::operate(command),
        Some(Command::HostsToml(arguments)) => return print_hosts_toml(arguments),
        Some(Command::Completions { shell }) => return cli::completions(shell),
        Some(Command::Man { folder }) => return cli::man(folder.as_deref()),
        Some(Command::Serve(flags)) => *flags,
        None => line.flags,
    };
    let source = source(flags);
    match source.load() {
        Ok(config) => serve(config, source),
        Err(errors) => refuse(&errors),
    }
}

fn source(flags: Flags) -> ConfigSource {
    ConfigSource::new(flags, |name| env::var_os(name))
}

fn refuse(errors: &ConfigErrors) -> ExitCode {
    say(&format!(
        "registry-server: the configuration is wrong\n{errors}\n"
    ));
    ExitCode::from(USAGE)
}

fn print_hosts_toml(arguments: HostsToml) -> ExitCode {
    let url = match arguments.url {
        Some(url) => url,
        None => match source(Flags::default()).load() {
            Ok(config) => advertised(config.listen, config.tls.is_some()).0,
            Err(errors) => return refuse(&errors),
        },
    };
    match io::stdout().write_all(hosts_toml(&url).as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(config: Config, source: ConfigSource) -> ExitCode {
    let traces_to = config.otlp_endpoint.as_ref();
    let logging = match start_logging(&config.log, config.log_format, traces_to) {
        Ok(logging) => logging,
        Err(error) => {
            say(&format!("registry-server: {error}\n"));
            return ExitCode::FAILURE;
        }
    };
    raise_file_limit();
    let runtimes = match Runtimes::start() {
        Ok(runtimes) => runtimes,
        Err(error) => {
            error!(%error, "cannot start threads");
            return ExitCode::FAILURE;
        }
    };
    let status = runtimes.block_on(run(config, source, runtimes.fetching()));
    logging.finish();
    // What still blocks a thread had its time in `Mirror::shutdown`.
    runtimes.shutdown_background();
    status
}

async fn run(config: Config, source: ConfigSource, fetching: Handle) -> ExitCode {
    let format = config.log_format;
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            error!(%error, "cannot listen to signals");
            return ExitCode::FAILURE;
        }
    };
    for warning in config.warnings() {
        warn!("{warning}");
    }
    let started = tokio::select! {
        started = Mirror::start_watching(config, source) => started,
        signal = signals.next() => {
            info!(signal, "stopped before the start");
            return ExitCode::SUCCESS;
        }
    };
    let mirror = match started {
        Ok(mirror) => mirror,
        Err(error) => return give_up(&error, format),
    };
    mirror.cache().work_on(fetching);
    let announcement = mirror.announcement();
    match format {
        LogFormat::Text if tracing::enabled!(tracing::Level::INFO) => {
            say(&announcement.to_string())
        }
        _ => announcement.log(),
    }

    let signal = loop {
        if let Some(signal) = signals.next_or_reload().await {
            break signal;
        }
        // However long the file takes: it may be on a network that has gone away.
        tokio::select! {
            signal = signals.next() => break signal,
            reloaded = mirror.reload() => if let Err(error @ ReloadError::NoFile) = reloaded {
                warn!(signal = "SIGHUP", "{error}");
            }
        }
    };
    info!(
        signal,
        "stopping: no new connections, a second signal ends at once what is left"
    );
    tokio::select! {
        () = mirror.shutdown() => info!("stopped"),
        signal = signals.next() => warn!(signal, "stopped at once"),
    }
    ExitCode::SUCCESS
}

fn give_up(error: &StartError, format: LogFormat) -> ExitCode {
    let mut what = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        what = format!("{what}: {error}");
        cause = error.source();
    }
    let advice = error.advice();
    match format {
        LogFormat::Json => error!(error = what, advice, "cannot start"),
        LogFormat::Text => {
            let advice = advice.map(|advice| format!("  {advice}\n"));
            say(&format!(
                "registry-server: {what}\n{}",
                advice.unwrap_or_default()
            ));
        }
    }
    ExitCode::FAILURE
}

/// Says something to whoever started this process.
fn say(text: &str) {
    // Where standard error is closed, nobody is left to be told.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Lets this process open as many files as it may: each connection is one, and each blob that is
/// being read. The usual default of 1,024 is meant for programs that use `select`.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => debug!(
            from = limit.current,
            to = limit.maximum,
            "raised the limit of open files"
        ),
        Err(error) => debug!(%error, limit = limit.current, "cannot raise the limit of open files"),
    }
}

/// The signals that ask a process to end, and the one that asks it to read its configuration again.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next that asks it to end.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// The next that asks it to end; none where it is to read its configuration again before.
    async fn next_or_reload(&mut self) -> Option<&'static str> {
        tokio::select! {
            _ = self.terminate.recv() => Some("SIGTERM"),
            _ = self.interrupt.recv() => Some("SIGINT"),
            _ = self.hangup.recv() => None,
        }
    }
}
