//! Running by a configuration file: the right one of two, watched while it is on trial.

use std::{path::Path, time::Duration};

use anyhow::{Result, bail};
use fairlead_model::NodeName;
use fairlead_rt::{CancellationToken, clock, root::chain};
use tracing::{error, info, warn};

use super::{
    check, evidence, parse,
    slots::{Pick, Slots, pick},
    trial::{Step, Trial},
};
use crate::args::Args;

/// Between two looks at a trial.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks at what the good configuration reaches.
const NOTE: Duration = Duration::from_secs(10);

/// Runs by the file at `path` until `stop` fires; `slots` remembers.
///
/// # Errors
/// Those of running, where there is nothing to go back to.
///
/// # Cancel safety
/// That of running; a trial under way is begun anew.
pub async fn run(path: &Path, slots: &Slots, stop: CancellationToken) -> Result<()> {
    loop {
        let (candidate, problem) = match std::fs::read_to_string(path) {
            Ok(text) => {
                let problem = problem(&text).await;
                (Some(text), problem)
            }
            Err(error) => (None, Some(format!("read {}: {error}", path.display()))),
        };
        let found = slots.found(candidate, problem);
        let (text, is_trial) = match pick(&found) {
            Pick::Same => (found.good, false),
            Pick::Trial | Pick::First => (found.candidate, true),
            Pick::Good { reason, why } => {
                error!(
                    reason,
                    "{} is not used: {why}; running by the last good configuration",
                    path.display()
                );
                (found.good, false)
            }
            Pick::Nothing(why) => bail!("{}: {why}", path.display()),
        };
        let text = text.unwrap_or_default();
        let has_other = found_other(slots, &text);
        let ended = if is_trial {
            on_trial(&text, slots, has_other, &stop).await?
        } else {
            steady(&text, slots, &stop).await.map(|()| Ended::Stopped)?
        };
        match ended {
            Ended::Stopped => return Ok(()),
            Ended::Reverted => {}
        }
    }
}

/// Whether there is a good configuration other than this.
fn found_other(slots: &Slots, text: &str) -> bool {
    let good = slots.found(None, None).good;
    good.is_some_and(|good| good != text)
}

/// What is wrong with a text; `None` if it may be tried.
pub async fn problem(text: &str) -> Option<String> {
    match parse(text) {
        Err(error) => Some(chain(error.as_ref())),
        Ok(args) => {
            let wrong = check::check(&args).await;
            (!wrong.is_empty()).then(|| wrong.join("; "))
        }
    }
}

enum Ended {
    Stopped,
    Reverted,
}

async fn on_trial(
    text: &str,
    slots: &Slots,
    has_other: bool,
    stop: &CancellationToken,
) -> Result<Ended> {
    let args = parse(text)?;
    let before = slots.evidence();
    if has_other {
        info!(
            "the configuration has changed: it stays if this node reaches within {} s what it reached before",
            args.confirm_within.as_secs()
        );
    }
    slots.begin_trial(text)?;
    let socket = socket(&args)?;
    let turn = stop.child_token();
    let running = crate::run(args.clone(), turn.clone());
    tokio::pin!(running);
    let judge = async {
        let mut trial = Trial::new(before, clock::now(), args.confirm_within);
        loop {
            tokio::time::sleep(LOOK).await;
            let seen = evidence::look(&socket).await;
            match trial.observe(seen.as_ref(), clock::now()) {
                Step::Wait => {}
                // There is nothing to go back to: what is missing is said by everything else.
                Step::Revert(_) if !has_other => {}
                decided => return decided,
            }
        }
    };
    let mut has_ended = false;
    let decided = tokio::select! {
        ended = &mut running => match ended {
            Ok(()) => {
                slots.end_trial()?;
                return Ok(Ended::Stopped);
            }
            Err(error) if has_other => {
                has_ended = true;
                Step::Revert(format!("it does not run: {}", chain(error.as_ref())))
            }
            Err(error) => return Err(error),
        },
        decided = judge => decided,
    };
    match decided {
        Step::Confirm | Step::Wait => {
            slots.confirm(text)?;
            info!("the configuration is good");
            tokio::select! {
                ended = running => ended?,
                never = note(slots, &socket) => match never {},
            }
            Ok(Ended::Stopped)
        }
        Step::Revert(why) => {
            slots.reject(text)?;
            error!(
                reason = "ConfigReverted",
                "going back to the last good configuration: {why}"
            );
            turn.cancel();
            // How it ends matters no more, only that it does: the next one needs its sockets and pins.
            if !has_ended && tokio::time::timeout(STOP, running).await.is_err() {
                warn!("the rejected configuration did not stop in time");
            }
            Ok(Ended::Reverted)
        }
    }
}

/// Longer than all graces of the parts together.
const STOP: Duration = Duration::from_secs(30);

async fn steady(text: &str, slots: &Slots, stop: &CancellationToken) -> Result<()> {
    let args = parse(text)?;
    let socket = socket(&args)?;
    tokio::select! {
        ended = crate::run(args, stop.clone()) => ended,
        never = note(slots, &socket) => match never {},
    }
}

/// Keeps what the good configuration reaches.
async fn note(slots: &Slots, socket: &Path) -> std::convert::Infallible {
    let mut kept = slots.evidence();
    loop {
        if let Some(seen) = evidence::look(socket).await
            && seen != kept
        {
            match slots.keep_evidence(&seen) {
                Ok(()) => kept = seen,
                Err(error) => warn!(
                    error = chain(error.as_ref()),
                    "the next change will be judged by less"
                ),
            }
        }
        tokio::time::sleep(NOTE).await;
    }
}

fn socket(args: &Args) -> Result<std::path::PathBuf> {
    if let Some(socket) = &args.socket {
        return Ok(socket.clone());
    }
    let name = match &args.node_name {
        Some(name) => name.clone(),
        None => fairlead_agent::config::hostname()?,
    };
    Ok(fairlead_agent::config::socket_of(&NodeName::new(
        &name.to_lowercase(),
    )?))
}
