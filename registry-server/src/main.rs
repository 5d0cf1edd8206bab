//! The `registry-server` binary: wiring. It reads the configuration, starts a [`Mirror`], says so,
//! and stops it on a signal.

use std::env;
use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use registry_server::config::{Config, ConfigErrors, ConfigSource, Flags};
use registry_server::hosts_toml::{advertised, hosts_toml, parse_mirror_url};
use registry_server::logging::{LogFormat, start_logging};
use registry_server::{Mirror, ReloadError, StartError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{debug, error, info, warn};
use url::Url;

/// Exit status for a mistake of usage or configuration: the same that clap gives.
const USAGE: u8 = 2;

/// The end of the help: what flags cannot say.
const FILE_HELP: &str = r#"An example of a configuration file:

  tag_ttl = "1m"

  [upstream."registry.example.org"]
  endpoints = ["https://registry.example.org", "https://standby.example.org"]
  tag_ttl = "0s"
  tag_budget = "3s"       # how long a pull waits for it where something cached can answer
  on_not_found = "stale"  # or "forward": what is gone there is gone here

  [upstream."registry.example.org".repository."org/**"]
  max_size = "20GiB"      # most bytes to keep of these
  frozen = true           # tags that are cached are never asked for again

Both tables also take max_idle and evict (false: stay, whatever the limits). Where several patterns
match, the most specific decides.

An upstream also takes ca_file, client_cert_file with client_key_file, insecure_skip_verify, realms,
proxy, no_proxy, connect_budget, headers_budget, body_idle_budget, total_budget,
next_endpoint_on_not_found and private_redirects; and credentials: username with password,
password_file or password_env, or docker_config, or credential_helper, also for the repositories
below a prefix, in a table such as [upstream."ghcr.io".credentials."org/team"]; and
credential_hosts. Without proxy, those of the environment are used: HTTPS_PROXY, HTTP_PROXY,
ALL_PROXY and NO_PROXY."#;

/// One process that mirrors every container registry a cluster pulls from.
///
/// Point containerd at it with the hosts.toml that it prints at start; docker, podman and others
/// reach any registry through it by path, as in 127.0.0.1:5000/quay.io/org/app:tag. What was pulled
/// once is served from the data folder, also when its registry does not answer.
///
/// Without a command, it serves. Each setting is a flag, an environment variable or a key of the
/// configuration file, in this order; what none of them says has a default.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, max_term_width = 100)]
#[command(after_long_help = FILE_HELP)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT; a second one ends at once what is still being answered. On
    /// SIGHUP, and when the configuration file has changed, it is read again
    Serve(Box<Flags>),
    /// Print the hosts.toml that points containerd at a mirror
    HostsToml(HostsToml),
}

#[derive(Debug, Args)]
struct HostsToml {
    /// URL under which nodes reach the mirror [default: made of the address it is configured to
    /// listen on]
    #[arg(long, value_parser = parse_mirror_url)]
    url: Option<Url>,
}

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let flags = match line.command {
        Some(Command::HostsToml(arguments)) => return print_hosts_toml(arguments),
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
            Ok(config) => advertised(config.listen).0,
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
    let runtime = match runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "cannot start threads");
            return ExitCode::FAILURE;
        }
    };
    let status = runtime.block_on(run(config, source));
    logging.finish();
    // What still blocks a thread had its time in `Mirror::shutdown`.
    runtime.shutdown_background();
    status
}

async fn run(config: Config, source: ConfigSource) -> ExitCode {
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
