//! Logs: what is logged, and in which form. Everything goes to standard error.

use std::env;
use std::fmt;
use std::io::{self, IsTerminal as _};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{FilterExt as _, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Layer as _, fmt as format};
use url::Url;

use crate::trace::COLLECTED;
#[cfg(feature = "otlp")]
use crate::trace::Traces;

#[cfg(feature = "otlp")]
pub use crate::trace::TracesError;

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; in colours on a terminal.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// Which events are logged: a level, and exceptions for targets (`info,access=off`).
///
/// Each request is an event of the target `access`.
#[derive(Clone, Debug, PartialEq)]
pub struct LogFilter(Targets);

impl Default for LogFilter {
    fn default() -> Self {
        Self(Targets::new().with_default(LevelFilter::INFO))
    }
}

impl LogFilter {
    /// Parses `LEVEL` and `TARGET=LEVEL`, separated by commas.
    ///
    /// # Errors
    ///
    /// [`LogFilterError`], with the part that is neither. A word alone must be a level: taken for a
    /// target, a level misspelt would silence everything.
    pub fn parse(text: &str) -> Result<Self, LogFilterError> {
        let mut targets = Targets::new();
        for part in text.split(',').map(str::trim) {
            let refused = || LogFilterError(part.to_owned());
            let (target, level) = match part.split_once('=') {
                Some((target, level)) => (Some(target.trim()), level.trim()),
                None => (None, part),
            };
            // tracing takes an empty text for the level ERROR.
            if level.is_empty() || target == Some("") {
                return Err(refused());
            }
            let level: LevelFilter = level.parse().map_err(|_| refused())?;
            targets = match target {
                Some(target) => targets.with_target(target, level),
                None => targets.with_default(level),
            };
        }
        Ok(Self(targets))
    }
}

/// A part of a log filter that is neither a level nor a target with one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a log level nor TARGET=LEVEL")]
pub struct LogFilterError(String);

/// What must not be logged, whatever the filter says: below INFO these tell the paths and queries
/// of what they send, presigned ones among them. And what need not be: a certificate that does not
/// verify is told with the endpoint that shows it.
fn discretion() -> Targets {
    Targets::new()
        .with_default(LevelFilter::TRACE)
        .with_targets(
            ["h2", "hyper", "hyper_util", "reqwest", "rustls"]
                .map(|target| (target, LevelFilter::INFO)),
        )
        .with_target("rustls_platform_verifier", LevelFilter::OFF)
        // That traces are collected is no reason to log those that no client began.
        .with_target(COLLECTED, LevelFilter::OFF)
}

/// Logs, and traces where they are sent somewhere.
#[derive(Debug)]
pub struct Logging {
    #[cfg(feature = "otlp")]
    traces: Option<Traces>,
}

impl Logging {
    /// Sends the last traces. What is logged later is still logged.
    ///
    /// # Limits
    ///
    /// It blocks the thread for three seconds at the most.
    pub fn finish(self) {
        #[cfg(feature = "otlp")]
        if let Some(traces) = self.traces {
            traces.finish();
        }
    }
}

/// Sends this process's logs to standard error, from here on, and traces to the collector at
/// `traces_to`, which only a build with the feature `otlp` can.
///
/// # Errors
///
/// [`LoggingError`], where something else receives them already.
pub fn start_logging(
    filter: &LogFilter,
    form: LogFormat,
    traces_to: Option<&Url>,
) -> Result<Logging, LoggingError> {
    let layer = format::layer().with_writer(io::stderr);
    let layer = match form {
        LogFormat::Text => layer.with_ansi(wants_colours()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    let subscriber = tracing_subscriber::registry();
    #[cfg(feature = "otlp")]
    let (spans, traces) = traces_to.map(crate::trace::layer).transpose()?.unzip();
    #[cfg(feature = "otlp")]
    let subscriber = subscriber.with(spans);
    #[cfg(not(feature = "otlp"))]
    debug_assert!(traces_to.is_none(), "the configuration refuses it");
    subscriber
        .with(layer.with_filter(filter.0.clone().and(discretion())))
        .try_init()?;
    Ok(Logging {
        #[cfg(feature = "otlp")]
        traces,
    })
}

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoggingError {
    /// Something else receives them.
    #[error("the logs of this process go somewhere else already")]
    Taken(#[from] TryInitError),
    /// Traces cannot be sent.
    #[cfg(feature = "otlp")]
    #[error(transparent)]
    Traces(#[from] TracesError),
}

/// See no-color.org.
fn wants_colours() -> bool {
    let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && io::stderr().is_terminal()
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_filter_is_a_level_with_exceptions() {
        let filter = LogFilter::parse("warn, access=off,registry_server=debug").unwrap();
        for (target, level, wanted) in [
            ("sled", Level::WARN, true),
            ("sled", Level::INFO, false),
            ("access", Level::ERROR, false),
            ("registry_server::front", Level::DEBUG, true),
            ("registry_server::front", Level::TRACE, false),
        ] {
            assert_eq!(
                filter.0.would_enable(target, &level),
                wanted,
                "{target} {level}"
            );
        }
    }

    #[test]
    fn without_a_level_nothing_else_is_logged() {
        let filter = LogFilter::parse("access=info").unwrap();
        assert!(filter.0.would_enable("access", &Level::INFO));
        assert!(!filter.0.would_enable("registry_server", &Level::ERROR));
    }

    #[test]
    fn clients_tell_their_queries_to_nobody() {
        for target in ["h2::codec", "hyper_util::client", "reqwest::connect"] {
            assert!(
                !discretion().would_enable(target, &Level::DEBUG),
                "{target}"
            );
            assert!(discretion().would_enable(target, &Level::WARN), "{target}");
        }
        let verifier = "rustls_platform_verifier::verification";
        assert!(!discretion().would_enable(verifier, &Level::ERROR));
        assert!(discretion().would_enable("registry_server::front", &Level::TRACE));
    }

    #[test]
    fn a_misspelt_level_is_no_target() {
        for text in [
            "",
            "inof",
            "info,",
            "access=loud",
            "=info",
            "info;debug",
            "a=b=c",
        ] {
            assert!(LogFilter::parse(text).is_err(), "{text:?}");
        }
    }
}
