//! `fairlead l2 history [VIP]`.

use std::net::IpAddr;

use super::{Context, Output};
use crate::error::CliError;

/// Of which VIP.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this address
    #[arg(value_name = "VIP")]
    pub vip: Option<IpAddr>,
}

/// Asks and renders.
///
/// # Errors
/// [`CliError`].
///
/// # Cancel safety
/// Nothing is changed.
pub async fn run(context: &Context, args: &Args) -> Result<Output, CliError> {
    let mut view = context.source.agent()?.l2_history().await?;
    view.retain(|event| args.vip.is_none_or(|vip| vip == event.vip));
    context.output(&view)
}
