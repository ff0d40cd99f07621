//! The binary `fairlead-appliance`.
#![forbid(unsafe_code)]

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use fairlead_appliance::Args;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) =
        fairlead_rt::logging::init(args.log_format, fairlead_rt::logging::DEFAULT_FILTER)
    {
        drop(writeln!(std::io::stderr(), "{error}"));
        return ExitCode::FAILURE;
    }
    fairlead_rt::root::run(|stop| async move { fairlead_appliance::run(args, stop).await })
}
