//! `echo`: the lab's servers.

use miette::{IntoDiagnostic as _, WrapErr as _};

use crate::traffic::echo::serve;

/// Where to listen.
#[derive(Debug, clap::Args)]
pub struct EchoArgs {
    /// The server's name, told to every client.
    #[arg(long)]
    name: String,
    /// TCP port, on all addresses of both families.
    #[arg(long, default_value_t = 8080)]
    tcp: u16,
    /// UDP port, on all addresses of both families.
    #[arg(long, default_value_t = 7007)]
    udp: u16,
}

/// Serves until killed.
pub(super) fn echo(args: &EchoArgs) -> miette::Result<()> {
    serve(&args.name, args.tcp, args.udp)
        .into_diagnostic()
        .wrap_err("serve echo")
}
