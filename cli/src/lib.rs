//! `fairlead`: asking and rendering.
//!
//! Invariant: commands never print; each returns an [`Output`], and only `main` writes. One file per command in [`cmd`];
//! [`source`] decides whom to ask: the agent on this machine, or the API server. [`objects`] reads and writes what the API server
//! keeps, for machines without kubectl.
#![forbid(unsafe_code)]

pub mod cmd;
pub mod error;
pub mod objects;
pub mod source;

use clap::Parser as _;
use fairlead_observe::Timestamp;

pub use cmd::{Cli, Output};
pub use error::CliError;

/// Parses and runs a command line; ages are counted up to `now`. Usage errors come back as text as well (exit code 2, help 0).
///
/// # Errors
/// [`CliError`], to be shown with its help.
///
/// # Cancel safety
/// Nothing is changed by any command but `l2 move`.
pub async fn execute<I, T>(args: I, now: Timestamp) -> Result<Output, CliError>
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    execute_live(args, now, None).await
}

/// The same; what commands say while they run goes to `live`.
///
/// # Errors
/// [`CliError`], to be shown with its help.
///
/// # Cancel safety
/// As [`execute`].
pub async fn execute_live<I, T>(
    args: I,
    now: Timestamp,
    live: Option<cmd::Live>,
) -> Result<Output, CliError>
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    match Cli::try_parse_from(args) {
        Ok(cli) => cmd::run(cli, now, live).await,
        Err(usage) => Ok(Output {
            exit_code: u8::try_from(usage.exit_code()).unwrap_or(2),
            is_error: usage.use_stderr(),
            text: usage.render().to_string(),
        }),
    }
}
