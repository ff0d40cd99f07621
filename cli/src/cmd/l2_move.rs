//! `fairlead l2 move VIP NODE`.

use std::net::IpAddr;

use fairlead_model::NodeName;

use super::{Context, Output};
use crate::error::CliError;

/// What goes where.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The address; all addresses of its Service and of those that share one with it go together
    #[arg(value_name = "VIP")]
    pub vip: IpAddr,
    /// The node that shall own it
    #[arg(value_name = "NODE", value_parser = node)]
    pub node: NodeName,
}

fn node(text: &str) -> Result<NodeName, String> {
    NodeName::new(text).map_err(|error| error.to_string())
}

/// Asks, waits until the node owns it, and renders the address's rows.
///
/// # Errors
/// [`CliError`].
///
/// # Cancel safety
/// The address may have moved.
pub async fn run(context: &Context, args: &Args) -> Result<Output, CliError> {
    let agent = context.source.agent()?;
    let view = agent.l2_move(args.vip, args.node.as_str()).await?;
    context.output(&view)
}
