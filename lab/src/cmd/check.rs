//! `check`: what must hold in a lab that is up.

use super::updown::name_of;
use super::{LabArgs, say};
use crate::checks::{self, Failed, evidence};
use crate::clab;
use crate::runner::Lab;

/// Runs the topology's checks; stops at the first that does not hold.
pub(super) fn check(args: &LabArgs) -> miette::Result<()> {
    let lab = Lab::open(&name_of(args)?)?;
    let topology = clab::load(&args.file())?.name;
    let Some(checks) = checks::of(&topology) else {
        miette::bail!(
            help = "write lab/src/checks/{topology}.rs",
            "topology {topology} has no checks"
        );
    };
    for check in &checks {
        if let Some(missing) = checks::poll(&lab, check) {
            let evidence = evidence::keep(&lab, "check").display().to_string();
            return Err(Failed {
                holds: check.holds.clone(),
                missing,
                evidence,
            }
            .into());
        }
        say(format_args!("ok: {}", check.holds));
    }
    say(format_args!("{} checks hold", checks.len()));
    Ok(())
}
