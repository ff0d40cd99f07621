//! `exec` and `ask`: playing with a lab by hand.

use std::net::SocketAddr;

use miette::{IntoDiagnostic as _, WrapErr as _};

use super::say;
use crate::runner::Lab;
use crate::traffic::ask;

/// What to run where.
#[derive(Debug, clap::Args)]
pub struct ExecArgs {
    /// Name of the lab.
    #[arg(long, default_value = "main")]
    lab: String,
    /// The node.
    node: String,
    /// Program and arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs a command in a node, on this terminal.
pub(super) fn exec(args: &ExecArgs) -> miette::Result<()> {
    let lab = Lab::open(&args.lab)?;
    let words: Vec<&str> = args.command.iter().map(String::as_str).collect();
    let mut command = lab.node(&args.node)?.command(&words);
    let status = command
        .stdin(std::process::Stdio::inherit())
        .status()
        .into_diagnostic()?;
    if status.success() {
        return Ok(());
    }
    miette::bail!("{} in {} ended with {status}", words.join(" "), args.node)
}

/// Whom to ask.
#[derive(Debug, clap::Args)]
pub struct AskArgs {
    /// Address and port.
    target: SocketAddr,
    /// Ask by UDP instead of TCP.
    #[arg(long)]
    udp: bool,
}

/// Asks one of the lab's servers for its name.
pub(super) fn ask(args: &AskArgs) -> miette::Result<()> {
    let answer = if args.udp {
        ask::udp(args.target)
    } else {
        ask::tcp(args.target)
    };
    say(answer
        .into_diagnostic()
        .wrap_err_with(|| format!("ask {}", args.target))?);
    Ok(())
}
