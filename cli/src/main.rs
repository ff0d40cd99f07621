//! The binary `fairlead`.
#![forbid(unsafe_code)]

use std::{io::Write as _, process::ExitCode};

use fairlead_observe::Timestamp;

/// What a command says while it runs; false when nobody reads any more.
fn say(text: &str) -> bool {
    std::io::stdout().write_all(text.as_bytes()).is_ok()
}

fn main() -> miette::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(fairlead_cli::CliError::Runtime)?;
    let now = Timestamp::from_system(fairlead_rt::clock::wall());
    let arguments = std::env::args_os();
    let output = runtime.block_on(fairlead_cli::execute_live(arguments, now, Some(say)))?;
    let written = if output.is_error {
        std::io::stderr().write_all(output.text.as_bytes())
    } else {
        std::io::stdout().write_all(output.text.as_bytes())
    };
    match written {
        // `fairlead ... | head` is not our failure.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(fairlead_cli::CliError::Write(error).into())
        }
        _ => Ok(ExitCode::from(output.exit_code)),
    }
}
