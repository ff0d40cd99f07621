//! `lint`: every topology in the tree is in the subset, and has a plan.

use std::fs;
use std::path::PathBuf;

use super::{lab_dir, say};
use crate::{clab, plan};

/// Which files.
#[derive(Debug, clap::Args)]
pub struct LintArgs {
    /// Files to check; default: every `*.clab.yml` in lab/.
    files: Vec<PathBuf>,
}

/// Fails on the first file that is not in the subset.
pub(super) fn lint(args: &LintArgs) -> miette::Result<()> {
    let files = if args.files.is_empty() {
        topologies()
    } else {
        args.files.clone()
    };
    if files.is_empty() {
        miette::bail!("no *.clab.yml in {}", lab_dir().display());
    }
    for file in &files {
        let topology = clab::load(file)?;
        let plan = plan::plan(&topology, &topology.name, file.parent().unwrap_or(file))?;
        say(format_args!(
            "{}: {} steps",
            file.display(),
            plan.steps.len()
        ));
    }
    Ok(())
}

fn topologies() -> Vec<PathBuf> {
    let entries = fs::read_dir(lab_dir()).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(".clab.yml"))
        .collect();
    files.sort();
    files
}
