//! Running cargo and the project's own binaries, with progress on the terminal.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, bail, ensure};

use crate::root;

/// cargo at the repository's root.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Says what runs, runs it, and fails with its name.
pub(crate) fn step(what: &str, mut command: Command) -> Result<()> {
    eprintln!("==> {what}");
    let status = command
        .status()
        .with_context(|| format!("start {}", command.get_program().display()))?;
    ensure!(
        status.success(),
        "{what} failed: {command:?} ended with {status}"
    );
    Ok(())
}

/// Builds every binary that a machine runs.
pub(crate) fn build(release: bool) -> Result<()> {
    // The whole workspace, not a list of packages: with another selection cargo unifies features differently and builds dependencies again.
    let mut command = cargo(&["build", "--workspace", "--bins"]);
    if release {
        command.arg("--release");
    }
    step("building", command)
}

/// Builds the binaries and packs them. Files have the time of the latest commit, so that everybody who builds it gets the same bytes.
pub(crate) fn image(debug: bool, args: &[String]) -> Result<()> {
    build(!debug)?;
    let folder = target_dir();
    let bins = folder.join(if debug { "debug" } else { "release" });
    let version = env!("CARGO_PKG_VERSION");
    let out = folder.join(format!("image/fairlead-{version}.oci.tar"));
    let mut command = cargo(&["run", "-q", "-p", "fairlead-image", "--"]);
    command.arg("--bin-dir").arg(bins);
    if !args.iter().any(|arg| arg.starts_with("--out")) {
        command.arg("--out").arg(out);
    }
    if std::env::var_os("SOURCE_DATE_EPOCH").is_none() {
        let log = Command::new("git")
            .args(["log", "-1", "--format=%ct"])
            .current_dir(root())
            .output()
            .context("start git")?;
        let time = String::from_utf8_lossy(&log.stdout).trim().to_owned();
        ensure!(
            log.status.success(),
            "git knows no commit here: set SOURCE_DATE_EPOCH to the time that files shall have"
        );
        command.env("SOURCE_DATE_EPOCH", time);
    }
    command.args(args);
    step("packing the image", command)
}

/// The main job, here or under the oldest supported kernel.
pub(crate) fn main_job(args: &[String]) -> Result<()> {
    const FLOOR: &str = "--linux-6.1";
    if !args.iter().any(|arg| arg == FLOOR) {
        return lab("run", args);
    }
    build(false)?;
    let lab = target_dir().join("debug/fairlead-lab");
    let lab = std::path::absolute(lab).context("find the lab's program")?;
    let mut command = Command::new(lab.with_file_name("on-linux-6-1"));
    command.arg(lab).args(["run", "--once"]).current_dir(root());
    command.args(args.iter().filter(|arg| *arg != FLOOR && *arg != "--once"));
    step("the main job on Linux 6.1", command)
}

/// Builds everything the lab starts, then hands over to it.
pub(crate) fn lab(verb: &str, args: &[String]) -> Result<()> {
    if verb == "lint" {
        return step("lab topologies", {
            let mut command = cargo(&["run", "-q", "-p", "fairlead-lab", "--", "lint"]);
            command.args(args);
            command
        });
    }
    build(false)?;
    let mut command = Command::new(target_dir().join("debug/fairlead-lab"));
    command.arg(verb).args(args).current_dir(root());
    let status = command.status().context("start fairlead-lab")?;
    ensure!(
        status.success(),
        "lab {verb} failed ({status}); what it saw stands above"
    );
    Ok(())
}

/// Runs one benchmark; everything after the name goes to it.
pub(crate) fn bench(name: &str, args: &[String]) -> Result<()> {
    match name {
        "xdp" => {
            let mut command = cargo(&[
                "run",
                "-q",
                "--release",
                "-p",
                "fairlead-tests",
                "--bin",
                "xdp-bench",
                "--",
            ]);
            command.args(args);
            step("bench xdp", command)
        }
        "lb-ipam" => {
            // The engine alone, then a real API server beside it.
            let mut tools = Command::new("sh");
            tools.arg("tests/tools/build.sh").current_dir(root());
            step("tools", tools)?;
            for (package, example) in [
                ("fairlead-lb-ipam", "bench"),
                ("fairlead-cluster", "lb_ipam_scale"),
            ] {
                let mut command = cargo(&["run", "-q", "--release", "-p", package]);
                command.args(["--example", example, "--"]).args(args);
                step(&format!("bench lb-ipam: {example}"), command)?;
            }
            Ok(())
        }
        "failover" => lab("bench-failover", args),
        _ => bail!("no benchmark `{name}`: there are xdp, failover and lb-ipam"),
    }
}
