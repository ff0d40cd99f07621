//! Events to standard error, as text or JSON; where that is the journal, each line begins with its priority.

use std::{fmt, str::FromStr};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{self, Writer},
    },
    registry::LookupSpan,
};

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
        Format::Text if is_journal() => {
            // The journal has a clock of its own.
            let text = format::format().without_time().with_ansi(false);
            builder.event_format(Prioritised(text)).try_init()
        }
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|_already| LoggingError::AlreadyStarted)
}

/// Whether standard error is the journal's stream: `JOURNAL_STREAM` names its device and inode (systemd.exec(5)). A child whose standard
/// error was redirected inherits the variable, not the stream.
fn is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    nix::sys::stat::fstat(std::io::stderr())
        .is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Lines that begin with `<PRIORITY>`, as sd-daemon(3) wants them.
struct Prioritised<F>(F);

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// Of syslog(3): 3 error, 4 warning, 6 informational, 7 debug.
const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::fmt::format;

    use super::{Format, LoggingError, Prioritised, init};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_journal_is_told_how_bad_it_is() {
        let lines = Lines::default();
        let writer = lines.clone();
        let text = format().without_time().with_ansi(false);
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .event_format(Prioritised(text))
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!("worst");
            tracing::warn!("bad");
            tracing::info!(svc = "shop/web", "so it is");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let begins: Vec<&str> = text.lines().map(|line| &line[..3]).collect();
        assert_eq!(begins, ["<3>", "<4>", "<6>"], "{text}");
        assert!(
            text.contains("so it is") && text.contains("svc=\"shop/web\""),
            "{text}"
        );
    }

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
