//! `fairlead appliance ...`: handed over to `fairlead-appliance`, which is another program because it serves and forwards.

use std::{ffi::OsString, io, path::PathBuf, process::Command};

use super::Output;
use crate::error::CliError;

/// The program.
const PROGRAM: &str = "fairlead-appliance";

/// What is handed over.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// token create, promote, check, install, uninstall, with their flags; --help lists them
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true
    )]
    pub words: Vec<OsString>,
}

/// Runs it to its end.
///
/// # Errors
/// [`CliError::NoAppliance`] if the program is neither beside this one nor in `PATH`; [`CliError::Appliance`].
pub fn run(args: &Args) -> Result<Output, CliError> {
    let beside = std::env::current_exe().ok();
    let beside = beside.map(|own| own.with_file_name(PROGRAM));
    let program = beside
        .filter(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from(PROGRAM));
    let ended = Command::new(&program).args(&args.words).output();
    let ended = ended.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => CliError::NoAppliance,
        _ => CliError::Appliance { program, source },
    })?;
    let is_error = !ended.status.success();
    let said = if is_error { ended.stderr } else { ended.stdout };
    Ok(Output {
        text: String::from_utf8_lossy(&said).into_owned(),
        exit_code: ended
            .status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1),
        is_error,
    })
}
