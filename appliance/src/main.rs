//! The binary `fairlead-appliance`.
#![forbid(unsafe_code)]

use std::{io::Write as _, process::ExitCode};

use anyhow::Result;
use clap::Parser as _;
use fairlead_appliance::{
    args::{Args, Cli, Command},
    command,
    config::{slots::Slots, supervise},
};

fn main() -> ExitCode {
    let Cli { command, run: args } = Cli::parse();
    if let Err(error) =
        fairlead_rt::logging::init(args.log_format, fairlead_rt::logging::DEFAULT_FILTER)
    {
        drop(writeln!(std::io::stderr(), "{error}"));
        return ExitCode::FAILURE;
    }
    match command {
        Some(command) => once(command, &args),
        None if args.config.is_some() => fairlead_rt::root::run(|stop| by_file(args, stop)),
        None => {
            fairlead_rt::root::run(|stop| async move { fairlead_appliance::run(args, stop).await })
        }
    }
}

/// Runs by a configuration file.
async fn by_file(args: Args, stop: fairlead_rt::CancellationToken) -> Result<()> {
    let slots = Slots::new(&args.config_state);
    let file = args.config.unwrap_or_default();
    supervise::run(&file, &slots, stop).await
}

/// A command that ends by itself tells its error to people, not to a log.
fn once(command: Command, args: &Args) -> ExitCode {
    let mut outcome = Ok(String::new());
    let code = fairlead_rt::root::run(|_stop| async {
        outcome = command::run(command, args).await;
        Ok::<_, anyhow::Error>(())
    });
    let said: Result<()> = outcome.and_then(|text| {
        std::io::stdout().write_all(text.as_bytes())?;
        Ok(())
    });
    match said {
        Ok(()) => code,
        Err(error) => {
            let chain = fairlead_rt::root::chain(error.as_ref());
            drop(writeln!(std::io::stderr(), "error: {chain}"));
            ExitCode::FAILURE
        }
    }
}
