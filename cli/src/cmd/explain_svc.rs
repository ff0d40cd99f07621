//! `fairlead explain svc`.

use fairlead_model::ServiceName;

use super::{Context, Output};
use crate::error::CliError;

/// Which Service.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The Service
    #[arg(value_name = "NAMESPACE/NAME")]
    pub service: ServiceName,
}

/// Asks and renders; exit code 1 if a link is broken.
///
/// # Errors
/// [`CliError`].
///
/// # Cancel safety
/// Nothing is changed.
pub async fn run(context: &Context, args: &Args) -> Result<Output, CliError> {
    let view = context.source.explain(&args.service, context.now).await?;
    let output = context.output(&view)?;
    Ok(Output {
        exit_code: u8::from(view.first_broken().is_some()),
        ..output
    })
}
