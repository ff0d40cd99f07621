//! `./x test`: builds what the tests start, runs every test, and closes with one line of sums.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{root, run};

/// Runs the whole suite; `args` go to `cargo test` (a word filters by name).
pub(crate) fn test(args: &[String]) -> Result<()> {
    let mut tools = Command::new("sh");
    tools.arg("tests/tools/build.sh").current_dir(root());
    run::step("test tools (a Kubernetes control plane and kubectl)", tools)?;
    let mut helm = Command::new("sh");
    helm.arg("tests/tools/helm/build.sh").current_dir(root());
    run::step("test tools (Helm)", helm)?;
    run::build(false)?;
    let mut command = run::cargo(&["test", "--workspace", "--no-fail-fast"]);
    command.args(args).stdout(Stdio::piped());
    eprintln!("==> tests");
    let mut child = command.spawn().context("start cargo test")?;
    let stdout = child
        .stdout
        .take()
        .expect("stdout was piped two lines above");
    let mut sums = Sums::default();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read cargo's output")?;
        sums.add(&line);
        // Hundreds of empty doctest sections would hide the rest.
        if !line.is_empty() {
            println!("{line}");
        }
    }
    let status = child.wait().context("wait for cargo test")?;
    println!("{} passed, {} failed", sums.passed, sums.failed);
    ensure!(status.success() && sums.failed == 0, "tests failed");
    ensure!(sums.passed > 0, "no test ran");
    Ok(())
}

/// What the `test result:` lines add up to.
#[derive(Default)]
struct Sums {
    passed: u64,
    failed: u64,
}

impl Sums {
    fn add(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else {
            return;
        };
        let count = |word: &str| {
            rest.split("; ")
                .find_map(|part| part.split_once(word))
                .map_or(0, |(n, _)| {
                    n.rsplit(' ')
                        .find(|w| !w.is_empty())
                        .and_then(|w| w.parse().ok())
                        .unwrap_or(0)
                })
        };
        self.passed += count(" passed");
        self.failed += count(" failed");
    }
}

#[cfg(test)]
mod tests {
    use super::Sums;

    #[test]
    fn result_lines_add_up() {
        let mut sums = Sums::default();
        sums.add("test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        sums.add("test result: FAILED. 11 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        sums.add("test other ... ok");
        assert_eq!((sums.passed, sums.failed), (18, 2));
    }
}
