//! `fairlead-lab`: the command line of the lab.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match fairlead_lab::cmd::run(fairlead_lab::cmd::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => {
            use std::io::Write as _;
            writeln!(std::io::stderr(), "{report:?}").ok();
            ExitCode::FAILURE
        }
    }
}
