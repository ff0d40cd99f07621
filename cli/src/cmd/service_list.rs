//! `fairlead service list`.

use super::{Context, Output};
use crate::error::CliError;

/// Asks and renders.
///
/// # Errors
/// [`CliError`].
///
/// # Cancel safety
/// Nothing is changed.
pub async fn run(context: &Context) -> Result<Output, CliError> {
    let view = context.source.agent()?.services().await?;
    context.output(&view)
}
