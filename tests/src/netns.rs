//! Network namespaces that end with the test.

use std::fs::File;
use std::io::Write;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, ensure};
use nix::sched::{CloneFlags, setns};

/// A named network namespace, deleted on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace with its loopback up. `role` tells it from the test's others.
    pub fn new(role: &str) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("flt-{}-{n}-{role}", std::process::id());
        run(&["ip", "netns", "add", &name])?;
        let netns = Self { name };
        netns.run(&["ip", "link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// For `ip -n` and `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Path of the file that holds the namespace.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs a program inside, in this mount namespace (unlike `ip netns exec`), and returns what it printed.
    pub fn run(&self, command: &[&str]) -> anyhow::Result<String> {
        let net = format!("--net={}", self.path());
        let inside = [&["nsenter", &net, "--"], command].concat();
        run(&inside)
    }

    /// A command that will run inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path()))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a closure on a thread of this namespace.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let namespace = File::open(self.path()).with_context(|| format!("open {}", self.path()))?;
        thread::scope(|scope| {
            scope
                .spawn(move || {
                    setns(&namespace, CloneFlags::CLONE_NEWNET).context("enter the namespace")?;
                    Ok(inside())
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = run(&["ip", "netns", "del", &self.name]) {
            drop(writeln!(
                std::io::stderr(),
                "namespace {} stays: {error}",
                self.name
            ));
        }
    }
}

/// Runs a program to its end and returns its standard output.
pub fn run(command: &[&str]) -> anyhow::Result<String> {
    let (program, arguments) = command.split_first().context("an empty command")?;
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("start {program} (is it installed?)"))?;
    ensure!(
        output.status.success(),
        "{}: {}: {}",
        command.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
