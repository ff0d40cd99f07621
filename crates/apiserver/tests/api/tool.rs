//! kubectl 1.36 as `tests/tools/build.sh` builds it, run as a user would.

#![allow(dead_code, reason = "every test binary uses its own part of the tool")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::harness::{self, Running};

/// The built tool. Not there is a failure, not a reason to skip.
pub(crate) fn kubectl_path() -> PathBuf {
    let cache = std::env::var_os("FAIRLEAD_CACHE").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/fairlead"),
        PathBuf::from,
    );
    let path = cache.join("tools/kubectl");
    assert!(
        path.exists(),
        "{} is missing: run tests/tools/build.sh (needs go), then test again",
        path.display()
    );
    path
}

pub(crate) fn command(running: &Running, args: &[&str]) -> Command {
    let mut command = Command::new(kubectl_path());
    command
        .args(args)
        .env("KUBECONFIG", harness::kubeconfig_path(&running.dir))
        .env("HOME", running.dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs kubectl off the async threads, since the server it talks to lives on them.
pub(crate) async fn kubectl_in(running: &Running, args: &[&str], input: &str) -> Output {
    let mut command = command(running, args);
    let input = input.to_owned();
    let run = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    });
    tokio::time::timeout(harness::PATIENCE, run)
        .await
        .expect("kubectl answers in time")
        .unwrap()
}

pub(crate) async fn kubectl(running: &Running, args: &[&str], input: &str) -> String {
    let output = kubectl_in(running, args, input).await;
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "kubectl {args:?} failed:\n{out}{err}"
    );
    assert_eq!(err, "", "kubectl {args:?} complained");
    out
}

/// What kubectl says when it fails, which it must.
pub(crate) async fn refused(running: &Running, args: &[&str], input: &str) -> String {
    let output = kubectl_in(running, args, input).await;
    assert!(
        !output.status.success(),
        "kubectl {args:?} did not fail: {}",
        text(&output.stdout)
    );
    text(&output.stderr)
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Words of a line, so that column widths do not matter.
pub(crate) fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}
