//! Events to standard error, as text or JSON.

use std::str::FromStr;

use tracing_subscriber::EnvFilter;

/// What is written unless told otherwise. rtnetlink warns of every attribute that a newer kernel has longer than it knows; kube's client
/// logs every failed request as an error, though whoever asked says it better.
pub const DEFAULT_FILTER: &str =
    "info,kube_client=off,kube_runtime=warn,netlink_packet_route=error";

/// How events are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A text that is neither `text` nor `json`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("log format `{0}` is neither `text` nor `json`")]
pub struct FormatError(String);

impl FormatError {
    /// The closed word for the book.
    pub const fn reason(&self) -> &'static str {
        "InvalidLogFormat"
    }
}

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(FormatError(other.to_owned())),
        }
    }
}

/// Why logging did not start.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter cannot be read.
    #[error("log filter `{filter}` cannot be read")]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something else already receives the events.
    #[error("logging has been started before")]
    AlreadyStarted,
}

impl LoggingError {
    /// The closed word for the book.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Filter { .. } => "InvalidLogFilter",
            Self::AlreadyStarted => "LoggingAlreadyStarted",
        }
    }
}

/// Begins writing events. `FAIRLEAD_LOG`, where set, beats `filter` (both in tracing's directive syntax, e.g. `info,fairlead_announcer=debug`).
///
/// # Errors
/// [`LoggingError`] for an unreadable filter or a second call.
pub fn init(format: Format, filter: &str) -> Result<(), LoggingError> {
    let filter = std::env::var("FAIRLEAD_LOG")
        .ok()
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| filter.to_owned());
    let parsed = EnvFilter::builder()
        .parse(&filter)
        .map_err(|source| LoggingError::Filter { filter, source })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let started = match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|_already| LoggingError::AlreadyStarted)
}

#[cfg(test)]
mod tests {
    use super::{Format, LoggingError, init};

    #[test]
    fn formats_and_filters_are_checked() {
        assert_eq!("json".parse(), Ok(Format::Json));
        assert_eq!(
            "xml".parse::<Format>().unwrap_err().to_string(),
            "log format `xml` is neither `text` nor `json`"
        );
        let error = init(Format::Text, "fairlead=loud").unwrap_err();
        assert!(matches!(error, LoggingError::Filter { .. }), "{error}");
    }
}
