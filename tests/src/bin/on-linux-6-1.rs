//! Runs a command on this machine's files under Linux 6.1, in an emulated machine: `on-linux-6-1 PROGRAM [ARGUMENT]...`.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what the machine prints is for whoever started it"
)]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use fairlead_tests::vm::{self, Kernel};

/// An emulated processor is some ten times slower.
const PATIENCE: Duration = Duration::from_mins(20);

fn main() -> ExitCode {
    match go() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("on-linux-6-1: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn go() -> anyhow::Result<()> {
    let command: Vec<String> = std::env::args().skip(1).collect();
    ensure!(!command.is_empty(), "say which program");
    let kernel = Kernel::linux_6_1()?;
    eprintln!("==> booting Linux {}", kernel.release());
    let folder = std::env::current_dir().context("find the current folder")?;
    let tell = |line: &str| println!("{line}");
    vm::run_under(&kernel, &folder, &command, PATIENCE, tell).map(drop)
}
