//! `fairlead l2 watch [VIP]`.

use std::{net::IpAddr, time::Duration};

use fairlead_observe::{L2Event, Render as _};
use fairlead_rt::clock;

use super::{Context, Output};
use crate::error::CliError;

/// Between two questions to the agent.
const PERIOD: Duration = Duration::from_millis(200);

/// What, and for how long.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this address
    #[arg(value_name = "VIP")]
    pub vip: Option<IpAddr>,
    /// Stop after so many seconds; without it, when interrupted
    #[arg(long = "for", value_name = "SECONDS")]
    pub seconds: Option<u64>,
    /// Begin with what the node remembers
    #[arg(long)]
    pub all: bool,
}

/// Shows each change once, as it happens.
///
/// # Errors
/// [`CliError`].
///
/// # Cancel safety
/// Nothing is changed.
pub async fn run(context: &Context, args: &Args) -> Result<Output, CliError> {
    let agent = context.source.agent()?;
    let until = args.seconds.map(|s| clock::now() + Duration::from_secs(s));
    let last_of = |history: &[L2Event]| history.last().map_or(0, |event| event.number);
    let mut shown = if args.all {
        0
    } else {
        last_of(&agent.l2_history().await?)
    };
    let mut text = String::new();
    let mut is_read = true;
    loop {
        let mut history = agent.l2_history().await?;
        let last = last_of(&history);
        if last < shown {
            // The agent started again and counts anew.
            shown = 0;
        }
        history.retain(|event| event.number > shown);
        history.retain(|event| args.vip.is_none_or(|vip| vip == event.vip));
        shown = last;
        if !history.is_empty() {
            let rows = history.render(context.format, context.now)?;
            match context.live {
                Some(say) => is_read = say(&rows),
                None => text.push_str(&rows),
            }
        }
        if !is_read || until.is_some_and(|until| clock::now() >= until) {
            return Ok(Output {
                text,
                exit_code: 0,
                is_error: false,
            });
        }
        tokio::time::sleep(PERIOD).await;
    }
}
