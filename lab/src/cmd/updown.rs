//! `up` and `down`.

use miette::IntoDiagnostic as _;

use super::{LabArgs, say};
use crate::clab;
use crate::plan::{self, Plan, Step};
use crate::runner::Lab;

/// Builds the lab, unless it is up already.
pub(super) fn up(args: &LabArgs) -> miette::Result<()> {
    let lab = bring_up(args, |done, total, step| {
        say(format_args!("[{done:>3}/{total}] {step}"));
    })?;
    say(format_args!(
        "lab {} is up: {}",
        lab.name(),
        lab.nodes().join(", ")
    ));
    for node in lab.nodes() {
        say(format_args!(
            "  ip netns exec {} sh",
            lab.node(&node)?.namespace()
        ));
    }
    Ok(())
}

/// Removes the lab.
pub(super) fn down(args: &LabArgs) -> miette::Result<()> {
    let name = name_of(args)?;
    Lab::down(&name)?;
    say(format_args!("lab {name} is down"));
    Ok(())
}

/// Builds the lab of `args`; `progress` gets the number of the step, how many there are, and it.
pub(crate) fn bring_up(
    args: &LabArgs,
    progress: impl Fn(usize, usize, &Step),
) -> miette::Result<Lab> {
    let plan = plan_of(args)?;
    let total = plan.steps.len();
    let mut done = 0;
    let bin_dir = args.bin_dir()?;
    let file = args.file().canonicalize().into_diagnostic()?;
    let lab = Lab::up(&plan, &file, &bin_dir, &mut |step| {
        done += 1;
        progress(done, total, step);
    })?;
    Ok(lab)
}

/// The plan of the topology that `args` name.
pub(crate) fn plan_of(args: &LabArgs) -> miette::Result<Plan> {
    let file = args.file();
    let topology = clab::load(&file)?;
    let name = args.run_as.as_ref().unwrap_or(&topology.name);
    let base = file.parent().unwrap_or(&file);
    Ok(plan::plan(&topology, name, base)?)
}

/// The name that the lab of `args` runs under; readable also when the file is broken or gone.
pub(crate) fn name_of(args: &LabArgs) -> miette::Result<String> {
    if let Some(name) = &args.run_as {
        return Ok(name.clone());
    }
    match clab::load(&args.file()) {
        Ok(topology) => Ok(topology.name),
        Err(e) if crate::state::dir(&args.name).exists() => {
            say(format_args!(
                "{}; going by the name {}",
                crate::report::chain(&e),
                args.name
            ));
            Ok(args.name.clone())
        }
        Err(e) => Err(e.into()),
    }
}
